//! Files between peers: which are wanted, who has them, and how they come.
