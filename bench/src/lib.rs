//! zgpu-bench
