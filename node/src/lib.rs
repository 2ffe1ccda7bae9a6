//! The node around the engine: what it keeps ([`store`]), whom it talks to ([`chain`]), what it does ([`duties`]), the whole
//! of it on one machine ([`devnet`]), and the command line ([`cli`]).
//!
//! Computation lives in the crates below; this one owns files, sockets, retries and state.

pub mod chain;
pub mod cli;
pub mod devnet;
pub mod duties;
pub mod store;
