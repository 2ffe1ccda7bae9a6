//! zgpu-encoder
