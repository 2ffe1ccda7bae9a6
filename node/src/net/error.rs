//! Why the network does not do what it was asked for.

use std::{io, path::PathBuf};

use libp2p::{
    PeerId, TransportError,
    gossipsub::{ConfigBuilderError, PublishError, SubscriptionError},
    noise,
};

use super::{
    discovery::DiscoveryError,
    wire::{rpc::Refusal, snappy::SnappyError},
};

/// Why the network cannot be started or used.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The key file cannot be read or written.
    #[error("the network key {path} cannot be used: {source}", path = .path.display())]
    KeyFile {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The key file holds no key.
    #[error("the network key {path} has {got} bytes, expected 32 that are a secp256k1 secret key; remove it to get a new one", path = .path.display())]
    Key {
        /// Which file.
        path: PathBuf,
        /// Its length.
        got: usize,
    },
    /// The encryption of connections cannot be set up.
    #[error("noise: {0}")]
    Noise(#[from] noise::Error),
    /// Gossip cannot be set up.
    #[error("gossip: {0}")]
    Gossip(&'static str),
    /// The scores of gossip are out of range.
    #[error("scores of gossip: {0}")]
    GossipScore(String),
    /// Gossip's settings contradict each other.
    #[error("settings of gossip: {0}")]
    GossipConfig(#[from] ConfigBuilderError),
    /// A topic cannot be subscribed to.
    #[error("subscription: {0}")]
    Subscription(#[from] SubscriptionError),
    /// There is nothing to listen on.
    #[error("the network cannot listen: {0}")]
    Listen(#[from] TransportError<io::Error>),
    /// A node to start from makes no sense.
    #[error("boot node {text:?}: {reason}; write a record (enr:…) or an address such as /ip4/1.2.3.4/tcp/1234")]
    BootNode {
        /// As given.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Discovery does not start.
    #[error(transparent)]
    Discovery(#[from] DiscoveryError),
    /// No listener is left.
    #[error("all addresses that the network listened on are gone")]
    NoListener,
    /// A message cannot be compressed.
    #[error(transparent)]
    Snappy(#[from] SnappyError),
    /// A message cannot be published.
    #[error("publishing failed: {0}")]
    Publish(#[from] PublishError),
    /// The service has ended.
    #[error("the network has been shut down")]
    Closed,
}

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The peer refused.
    #[error("{peer} refused: {refusal:?} {text:?}")]
    Refused {
        /// Who.
        peer: PeerId,
        /// In which way.
        refusal: Refusal,
        /// Why, as the peer words it.
        text: String,
    },
    /// The peer is not connected, or went away.
    #[error("{0} is not connected")]
    NotConnected(PeerId),
    /// The peer took too long.
    #[error("{0} did not answer in time")]
    Timeout(PeerId),
    /// The peer does not know the method.
    #[error("{0} does not know the method")]
    Unsupported(PeerId),
    /// The peer's answer cannot be read, or its stream broke.
    #[error("{peer}: {source}")]
    Io {
        /// Who.
        peer: PeerId,
        /// What is wrong.
        source: io::Error,
    },
    /// The service has ended.
    #[error("the network has been shut down")]
    Closed,
}
