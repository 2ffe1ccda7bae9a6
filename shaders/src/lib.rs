//! zgpu-shaders
