//! zgpu-node
