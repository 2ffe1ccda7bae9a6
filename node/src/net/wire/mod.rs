//! What nodes say to each other, byte for byte: SSZ containers in snappy frames. Pure; no sockets here.
//!
//! Source: the storage network's protocol, version 0.4.0. All integers are little-endian.

pub mod gossip;
pub mod rpc;
pub mod snappy;
pub mod ssz;
pub mod types;

#[cfg(test)]
mod tests;

pub use self::{
    gossip::{Message, MessageError, Topic},
    rpc::{Method, Request, Response, RpcError},
    types::{NetworkIdentity, PROTOCOL_VERSION, ShardConfig, Status, TxId},
};
