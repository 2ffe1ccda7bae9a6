//! The node around the engine: what it keeps ([`store`]), whom it talks to ([`chain`], [`net`]), what it does ([`duties`],
//! [`files`]), how it is set up ([`config`]) and run as a whole ([`node`]), how its clients use it ([`client`]), the encoder
//! that dispersers call ([`encoder`]), all of it on one machine ([`devnet`]), and the command line ([`cli`]).
//!
//! Computation lives in the crates below; this one owns files, sockets, retries and state.

pub mod chain;
pub mod cli;
pub mod client;
pub mod config;
pub mod devnet;
pub mod duties;
pub mod encoder;
pub mod files;
pub mod net;
pub mod node;
pub mod rpc;
pub mod store;
