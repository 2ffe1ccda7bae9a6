//! How a client uses storage nodes: it submits files, hands in their segments, and gets them back.
