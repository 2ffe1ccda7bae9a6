//! The node as a whole: every part started in its order, watched over, and ended in reverse.
//!
//! | part | needs | when it fails |
//! |---|---|---|
//! | store | its folder, for itself alone | the node does not start |
//! | status | its address | the node ends |
//! | chain | an endpoint that answers | it is asked again; wrong contracts end the node |
//! | log sync | chain, store | it starts again |
//! | rpc | its addresses | the node ends |
//!
//! Attaching a part is one async function that runs until it is told to stop, one call of the [`Supervisor`], and one
//! slot of the [`Observer`] for what it tells.

mod error;
mod http;
pub mod logging;
mod metrics;
mod observe;
mod snapshot;
mod supervise;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use alloy::{primitives::Address, rpc::types::TransactionRequest, sol_types::SolCall};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval, sleep},
};

pub use self::{error::StartError, snapshot::Snapshot, supervise::Ended};
use self::{
    metrics::Metrics,
    observe::Observer,
    supervise::{Stop, Supervisor},
};
use crate::{
    chain::{
        client::{ChainClient, ChainOptions},
        contracts::{Flow, Market, Reward},
        error::{ChainError, WrongContracts},
        rpc::{Rpc, RpcOptions},
    },
    config::{ChainConfig, Config, StoreConfig},
    duties::{
        blocking,
        sync::{LogSync, SyncOptions},
    },
    rpc::{CallMetrics, Connections, NetworkIdentity, NodeStatus, PoolSettings, ProtocolVersion, RpcConfig, serve},
    store::{Settings, Store},
};

/// Version of the network's protocol that this node speaks.
const PROTOCOL: ProtocolVersion = ProtocolVersion { major: 0, minor: 4, build: 0 };
/// Longest time for a part to end.
const END_LIMIT: Duration = Duration::from_secs(3);
/// Pause before the chain is asked again: the first, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const MAX_PAUSE: Duration = Duration::from_secs(15);

/// Where the node can be reached. Those that are not served are none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// Public methods.
    pub rpc: Option<SocketAddr>,
    /// The operator's methods.
    pub admin: Option<SocketAddr>,
    /// /metrics, /status and /health.
    pub status: Option<SocketAddr>,
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
        let _key = config.miner.key.as_ref().map(|key| key.load()).transpose()?;
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
            parts.keep_running("status line", END_LIMIT, move |stop| tell(observer.clone(), every, stop));
        }

        let (found, chain) = watch::channel(None);
        let (asking, telling) = (config.chain.clone(), observer.clone());
        parts.run("chain", END_LIMIT, |stop| reach_chain(asking, telling, found, stop));
        let chain_id = match config.chain.chain_id {
            Some(chain_id) => chain_id,
            None => tokio::select! {
                chain = known(chain.clone()) => chain.chain_id(),
                ended = parts.ended() => return Err(StartError::Ended(ended)),
            },
        };

        let (status, node_status) = watch::channel(NodeStatus::default());
        let (caught_up, _) = watch::channel(false);
        let log = LogPart { store: store.clone(), chain, config: config.chain.clone(), status, caught_up };
        let telling = observer.clone();
        parts.keep_running("log sync", END_LIMIT, move |stop| log.clone().run(telling.clone(), stop));

        if let Some(listen) = config.rpc.listen {
            let network = NetworkIdentity {
                chain_id,
                flow_address: config.chain.flow.to_string().to_lowercase(),
                p2p_protocol_version: PROTOCOL,
            };
            let settings = RpcConfig {
                listen_admin: config.rpc.listen_admin,
                pool: PoolSettings {
                    max_pending_sectors: config.rpc.max_pending_sectors,
                    max_pending_file_bytes: config.rpc.max_pending_file_bytes,
                    pending_for: config.rpc.pending_for,
                },
                max_request_bytes: config.rpc.max_request_bytes,
                max_writers: config.rpc.max_writers,
                calls,
                ..RpcConfig::new(listen, network)
            };
            let to = Connections { store: store.clone(), status: node_status, miner: None, files: None };
            let rpc = serve(settings, to).await?;
            (addresses.rpc, addresses.admin) = (Some(rpc.address()), rpc.admin_address());
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
        observer.all_started();
        Ok(Node { parts, observer, addresses })
    }

    /// Where the node can be reached.
    pub fn addresses(&self) -> Addresses {
        self.addresses
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
            store.set_shard(shard)?;
        }
        Ok(store)
    };
    blocking(open).await
}

/// Logs the node in one line, and why it does not earn when that changes or lasts.
async fn tell(observer: Arc<Observer>, every: Duration, mut stop: Stop) -> anyhow::Result<()> {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.wanted() => return Ok(()),
        }
        let now = observer.snapshot().await;
        match &now.not_earning_because {
            Some(reason) => tracing::info!("{}; not earning: {reason}", now.summary),
            None => tracing::info!("{}", now.summary),
        }
    }
}

/// The chain, once it was reached.
async fn known(mut chain: watch::Receiver<Option<ChainClient>>) -> ChainClient {
    let found = chain.wait_for(Option::is_some).await.map(|chain| chain.clone());
    match found {
        Ok(Some(chain)) => chain,
        // The part that reaches the chain has ended: so does the node.
        _ => std::future::pending().await,
    }
}

/// Connects to the chain, again and again until it answers, and then waits to be stopped: whoever waits for the chain
/// gets it from `found`.
async fn reach_chain(
    config: ChainConfig,
    observer: Arc<Observer>,
    found: watch::Sender<Option<ChainClient>>,
    mut stop: Stop,
) -> anyhow::Result<()> {
    let mut pause = FIRST_PAUSE;
    loop {
        let connected = tokio::select! {
            connected = connect(&config) => connected,
            () = stop.wanted() => return Ok(()),
        };
        match connected {
            Ok(chain) => {
                observer.chain_is(chain.clone());
                found.send_replace(Some(chain));
                stop.wanted().await;
                return Ok(());
            }
            Err(error) if error.is_transient() => {
                tracing::warn!(%error, "the chain cannot be reached yet");
                observer.chain_is_missing(error.to_string());
            }
            Err(error) => return Err(error.into()),
        }
        tokio::select! {
            () = sleep(pause) => {}
            () = stop.wanted() => return Ok(()),
        }
        pause = (pause * 2).min(MAX_PAUSE);
    }
}

async fn connect(config: &ChainConfig) -> Result<ChainClient, ChainError> {
    let rpc = RpcOptions {
        timeout: config.timeout,
        backoff: config.backoff,
        max_backoff: RpcOptions::default().max_backoff.max(config.backoff),
        requests_per_second: config.calls_per_second,
        ..RpcOptions::default()
    };
    let urls = config.endpoints.0.clone();
    let mine = match config.mine {
        Some(mine) => mine,
        None => find_mine(&Rpc::over(&urls, rpc.clone())?, config.flow).await?,
    };
    let options = ChainOptions { urls, chain_id: config.chain_id, flow: config.flow, mine, rpc };
    let chain = ChainClient::connect(&options).await?;
    let found = chain.contracts().reward;
    match config.reward {
        Some(expected) if expected != found => {
            let reason = WrongContracts::Link { from: "mine", role: "reward", got: found, expected };
            Err(ChainError::WrongContracts { url: chain.rpc().url().to_owned(), reason })
        }
        _ => Ok(chain),
    }
}

/// The mine contract that belongs to a flow contract: the one that its market's reward contract pays for.
async fn find_mine(rpc: &Rpc, flow: Address) -> Result<Address, ChainError> {
    async fn ask<C: SolCall<Return = Address>>(rpc: &Rpc, to: Address, call: C) -> Result<Address, ChainError> {
        let request = TransactionRequest::default().to(to).input(call.abi_encode().into());
        let reply: alloy::primitives::Bytes = rpc.call("eth_call", C::SIGNATURE, (request, "latest")).await?;
        C::abi_decode_returns(&reply)
            .map_err(|error| rpc.bad_reply(C::SIGNATURE, format!("{} bytes: {error}", reply.len())))
    }
    let market = ask(rpc, flow, Flow::marketCall {}).await?;
    let reward = ask(rpc, market, Market::rewardCall {}).await?;
    ask(rpc, reward, Reward::mineCall {}).await
}

/// What the log sync needs.
#[derive(Clone)]
struct LogPart {
    store: Store,
    chain: watch::Receiver<Option<ChainClient>>,
    config: ChainConfig,
    /// What clients are told.
    status: watch::Sender<NodeStatus>,
    /// True from the time when the log was read to its end.
    caught_up: watch::Sender<bool>,
}

impl LogPart {
    async fn run(self, observer: Arc<Observer>, mut stop: Stop) -> anyhow::Result<()> {
        let chain = tokio::select! {
            chain = known(self.chain) => chain,
            () = stop.wanted() => return Ok(()),
        };
        let options = SyncOptions {
            start_block: self.config.start_block,
            confirmations: self.config.confirmations,
            poll: self.config.poll,
            first_page: SyncOptions::default().first_page.min(self.config.page_blocks),
            max_page: self.config.page_blocks,
            ..SyncOptions::default()
        };
        let sync = LogSync::start(chain, self.store, options);
        observer.sync.set(sync.status());
        sync.publish(self.status);
        let mut status = sync.status();
        loop {
            if status.borrow_and_update().caught_up {
                self.caught_up.send_if_modified(|caught_up| !std::mem::replace(caught_up, true));
            }
            tokio::select! {
                changed = status.changed() => changed.map_err(|_| anyhow::anyhow!("its task has ended"))?,
                () = stop.wanted() => {
                    sync.stop().await;
                    return Ok(());
                }
            }
        }
    }
}
