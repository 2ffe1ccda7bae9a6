//! Why a node does not start.

use std::{io, net::SocketAddr};

use super::supervise::Ended;
use crate::{chain::keys::KeyError, net::NetError, rpc::RpcStartError, store::StoreError};

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The miner's key cannot be loaded.
    #[error("the miner's key cannot be loaded: {0}")]
    Key(#[from] KeyError),
    /// The RPC cannot be started.
    #[error(transparent)]
    Rpc(#[from] RpcStartError),
    /// The network cannot be started.
    #[error("the network: {0}")]
    Network(#[from] NetError),
    /// An address cannot be listened at.
    #[error("{what} cannot listen at {address}: {source}; choose another address with {key}")]
    Listen {
        /// Which part.
        what: &'static str,
        /// The key of the configuration.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The node ended before it had started.
    #[error("{}", match .0 {
        Ended::Wanted(by) => format!("the node was ended by {by} while it started"),
        Ended::Failed { part, reason } => format!("{part}: {reason}"),
    })]
    Ended(Ended),
}
