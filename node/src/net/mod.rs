//! The peer-to-peer network: what is said ([`wire`]), and to whom.
//!
//! [`NetService`] is one task that owns all connections; the node speaks to it through a [`NetHandle`] and hears
//! [`NetEvent`]s. What can be judged without a socket is in modules of its own: rules for gossip ([`judge`]), the
//! standing of peers ([`peers`]), limits of frequency ([`limits`]),
//! sectors and their proofs ([`chunks`]). [`discovery`] finds peers to dial. [`start`] sets all of it up for a node.

mod behaviour;
pub mod chunks;
pub mod discovery;
pub mod error;
pub mod judge;
pub mod key;
pub mod limits;
pub mod peers;
mod service;
mod start;
mod stream;
pub mod wire;

pub(crate) use self::service::ip_of;
pub use self::{
    error::{NetError, RequestError},
    peers::{ClientInfo, Offence, PeerInfo, PeerRecord},
    service::{ChunksId, GossipEvent, Limits, NetConfig, NetEvent, NetHandle, NetService, Overview, Timeouts},
    start::{NetSettings, NetTasks, Network, start},
};
