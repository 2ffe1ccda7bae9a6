//! The node as a whole: every part started in its order, watched over, and ended in reverse.
//!
//! | part | needs | when it fails |
//! |---|---|---|
//! | store | its folder, for itself alone | the node does not start |
//! | status | its address | the node ends |
//! | chain | an endpoint that answers | it is asked again; wrong contracts end the node |
//! | log sync | chain, store | it starts again |
//! | network | its port | the node ends |
//! | files | network, store | the node ends |
//! | rpc | its addresses | the node ends |
//! | mining | a key, a device, chain, store | it starts again |
//! | pruner | chain, store | it starts again |
//!
//! Clients and peers are served before the chain answers, when the configuration says which chain it is. Attaching a part is
//! one function in `parts` that runs until it is told to stop, one call of the [`Supervisor`], and one slot of the
//! [`Observer`] for what it tells.

mod error;
mod http;
pub mod logging;
mod metrics;
mod observe;
mod parts;
mod snapshot;
mod supervise;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use libp2p::Multiaddr;
use tokio::sync::{Mutex, mpsc, watch};

pub use self::{error::StartError, snapshot::Snapshot, supervise::Ended};
use self::{
    metrics::Metrics,
    observe::Observer,
    parts::{Chain, LogPart, MinePart},
    supervise::Supervisor,
};
use crate::{
    config::{ClientConfig, Config, StoreConfig},
    duties::blocking,
    files::Files,
    net,
    rpc::{CallMetrics, Connections, NetworkIdentity, NodeStatus, PoolSettings, ProtocolVersion, RpcConfig, serve},
    store::{Settings, Store, StoreError},
};

/// Version of the network's protocol, as clients are told.
const PROTOCOL: ProtocolVersion = ProtocolVersion { major: 0, minor: 4, build: 0 };
/// Longest time for a part to end.
const END_LIMIT: Duration = Duration::from_secs(3);
/// Commands of the operator that wait for the miner.
const COMMANDS_WAITING: usize = 16;

/// Where the node can be reached. Those that are not served are none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// Public methods.
    pub rpc: Option<SocketAddr>,
    /// The operator's methods.
    pub admin: Option<SocketAddr>,
    /// Uploads over gRPC.
    pub grpc: Option<SocketAddr>,
    /// /metrics, /status and /health.
    pub status: Option<SocketAddr>,
    /// Peers.
    pub peers: Option<Multiaddr>,
}

/// The running node. When it is dropped, everything is cut off; [`Node::stop`] ends it in order.
pub struct Node {
    parts: Supervisor,
    observer: Arc<Observer>,
    addresses: Addresses,
}

impl Node {
    /// Starts everything. Returns as soon as clients are served: the log is read, and mining begins, from then on.
    ///
    /// A chain that does not answer is no error: it is asked until it does. When neither the configuration nor the chain
    /// says which chain it is, that is waited for.
    pub async fn start(config: Config) -> Result<Node, StartError> {
        let key = config.miner.key.as_ref().map(|key| key.load()).transpose()?;
        let store = open_store(config.store.clone()).await?;
        let mut parts = Supervisor::new();
        let observer = Arc::new(Observer::new(&config, store.clone(), parts.board()));
        let calls = CallMetrics::default();
        let mut addresses = Addresses::default();

        if let Some(address) = config.status.listen {
            let failed = |source| StartError::Listen { what: "status", key: "metrics.listen", address, source };
            let (listener, address) = http::listen(address).await.map_err(failed)?;
            let (metrics, observer) = (Metrics::new(&calls), observer.clone());
            parts.run("status", END_LIMIT, |stop| http::serve(listener, observer, metrics, stop));
            addresses.status = Some(address);
        }
        if let Some(every) = config.status.line_every {
            let observer = observer.clone();
            parts.keep_running("status line", END_LIMIT, move |stop| parts::tell(observer.clone(), every, stop));
        }

        let (found, chain) = Chain::missing();
        let (asking, telling) = (config.chain.clone(), observer.clone());
        parts.run("chain", END_LIMIT, |stop| parts::reach_chain(asking, telling, found, stop));
        let chain_id = match config.chain.chain_id {
            Some(chain_id) => chain_id,
            None => tokio::select! {
                chain = chain.clone().reached() => chain.chain_id(),
                ended = parts.ended() => return Err(StartError::Ended(ended)),
            },
        };

        let (status, node_status) = watch::channel(NodeStatus::default());
        let (caught_up, is_caught_up) = watch::channel(false);
        let (log_store, log_chain, log_status) = (store.clone(), chain.clone(), status.clone());
        let log =
            LogPart { store: log_store, chain: log_chain, config: config.chain.clone(), status: log_status, caught_up };
        let telling = observer.clone();
        parts.keep_running("log sync", END_LIMIT, move |stop| log.clone().run(telling.clone(), stop));

        let settings = parts::net_settings(&config.net, chain_id, config.chain.flow, &store);
        let network = net::start(settings).await?;
        addresses.peers = Some(network.address);
        parts.run("network", END_LIMIT, |stop| parts::network(network.tasks, stop));
        let files =
            Files::start(network.handle, network.events, store.clone(), config.files.clone(), is_caught_up.clone());
        observer.files_are(files.clone());
        let watching = files.clone();
        parts.run("files", END_LIMIT, |stop| parts::files(watching, status, stop));

        let (commands, waiting) = mpsc::channel(COMMANDS_WAITING);
        if let Some(listen) = config.rpc.listen {
            let network = NetworkIdentity {
                chain_id,
                flow_address: config.chain.flow.to_string().to_lowercase(),
                p2p_protocol_version: PROTOCOL,
            };
            let miner = key.is_some().then_some(commands);
            let to = Connections { store: store.clone(), status: node_status, miner, files: Some(files) };
            let rpc = serve(rpc_config(&config.rpc, listen, network, calls), to).await?;
            (addresses.rpc, addresses.admin) = (Some(rpc.address()), rpc.admin_address());
            addresses.grpc = rpc.grpc_address();
            let ender = parts.ender();
            parts.run("rpc", END_LIMIT, |mut stop| async move {
                tokio::select! {
                    () = stop.wanted() => {}
                    () = rpc.shutdown_requested() => {
                        ender.end(Ended::Wanted("admin_shutdown"));
                        stop.wanted().await;
                    }
                }
                rpc.stop().await;
                Ok(())
            });
        }

        if let Some(key) = key {
            let (store, chain, config) = (store.clone(), chain.clone(), config.miner.clone());
            let commands = Arc::new(Mutex::new(waiting));
            let mine = MinePart { store, chain, config, key, caught_up: is_caught_up, commands };
            let telling = observer.clone();
            parts.keep_running("mining", END_LIMIT, move |stop| mine.clone().run(telling.clone(), stop));
        }
        if let Some(settings) = config.prune {
            let telling = observer.clone();
            parts.keep_running("pruner", END_LIMIT, move |stop| {
                parts::prune(store.clone(), chain.clone(), settings, telling.clone(), stop)
            });
        }
        observer.all_started();
        Ok(Node { parts, observer, addresses })
    }

    /// Where the node can be reached.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Everything that the node says of itself, now.
    pub async fn snapshot(&self) -> Arc<Snapshot> {
        self.observer.snapshot().await
    }

    /// Returns when the operator wants the node to stop, or a part without which there is none has failed.
    pub async fn ended(&self) -> Ended {
        self.parts.ended().await
    }

    /// Ends all parts, the last one first, each within a few seconds.
    pub async fn stop(self) {
        self.parts.stop().await;
    }
}

async fn open_store(config: StoreConfig) -> Result<Store, StartError> {
    let open = move || {
        let settings =
            Settings { reserve_bytes: config.reserve_bytes, cache_bytes: config.cache_bytes, ..Settings::default() };
        let store = Store::open_with(&config.dir, settings)?;
        if let Some(shard) = config.shard {
            match store.set_shard(shard) {
                // What the pruner gave up is gone: the shard that is stored holds.
                Err(StoreError::WiderShard { stored, given }) => {
                    tracing::warn!(%stored, %given, "the store keeps another shard than the configured one, which is ignored");
                }
                result => result?,
            }
        }
        Ok(store)
    };
    blocking(open).await
}

fn rpc_config(config: &ClientConfig, listen: SocketAddr, network: NetworkIdentity, calls: CallMetrics) -> RpcConfig {
    RpcConfig {
        listen_admin: config.listen_admin,
        listen_grpc: config.listen_grpc,
        pool: PoolSettings {
            max_pending_sectors: config.max_pending_sectors,
            max_pending_file_bytes: config.max_pending_file_bytes,
            pending_for: config.pending_for,
        },
        max_request_bytes: config.max_request_bytes,
        max_writers: config.max_writers,
        calls,
        ..RpcConfig::new(listen, network)
    }
}
