//! zgpu-miner
