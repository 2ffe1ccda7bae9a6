//! The node around the engine: what it keeps ([`store`]), whom it talks to ([`chain`], [`net`]), what it does ([`duties`]),
//! the encoder that dispersers call ([`encoder`]), the whole of it on one machine ([`devnet`]), and the command line ([`cli`]).
//!
//! Computation lives in the crates below; this one owns files, sockets, retries and state.

pub mod chain;
pub mod cli;
pub mod devnet;
pub mod duties;
pub mod encoder;
pub mod net;
pub mod rpc;
pub mod store;
