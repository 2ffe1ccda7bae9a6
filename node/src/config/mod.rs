//! How a node is set up: a TOML file, the environment, flags, presets of networks.
