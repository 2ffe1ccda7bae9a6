//! A storage node as a whole: every part of it started, joined and stopped.
