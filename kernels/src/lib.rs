//! zgpu-kernels
