//! The parts of the node, each as a function that runs until it is told to stop.

use std::{sync::Arc, time::Duration};

use alloy::primitives::{Address, U256};
use tokio::{
    sync::{Mutex, mpsc, watch},
    time::{MissedTickBehavior, interval, sleep},
};
use zgpu_miner::{
    Engine,
    engine::{EngineOptions, open_at},
    open,
};

use super::{observe::Observer, supervise::Stop};
use crate::{
    chain::{
        client::{ChainClient, ChainOptions, find_mine},
        error::{ChainError, WrongContracts},
        keys::Key,
        rpc::{Rpc, RpcOptions},
        tx::TxPolicy,
        watch::WatchOptions,
    },
    config::{ChainConfig, MinerConfig, PeerConfig},
    duties::{
        blocking,
        mining::{Mining, MiningConfig},
        prune::{PruneSettings, Pruner},
        sync::{LogSync, SyncOptions},
    },
    files::FilesHandle,
    net::{
        NetSettings, NetTasks,
        wire::{NetworkIdentity, ShardConfig, Status, types::PROTOCOL_VERSION},
    },
    rpc::{MinerCommand, NodeStatus},
    store::Store,
};

/// Pause before the chain is asked again: the first, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const MAX_PAUSE: Duration = Duration::from_secs(15);

/// Logs the node in one line, again and again.
pub(super) async fn tell(observer: Arc<Observer>, every: Duration, mut stop: Stop) -> anyhow::Result<()> {
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
#[derive(Clone)]
pub(super) struct Chain(watch::Receiver<Option<ChainClient>>);

impl Chain {
    /// None yet; whoever has the sender says when.
    pub(super) fn missing() -> (watch::Sender<Option<ChainClient>>, Chain) {
        let (found, chain) = watch::channel(None);
        (found, Chain(chain))
    }

    /// Waits for it. For ever, when the part that reaches it has ended: then so does the node.
    pub(super) async fn reached(mut self) -> ChainClient {
        let found = self.0.wait_for(Option::is_some).await.map(|chain| chain.clone());
        match found {
            Ok(Some(chain)) => chain,
            _ => std::future::pending().await,
        }
    }

    /// Waits for it, or to be stopped.
    async fn reached_before(self, stop: &mut Stop) -> Option<ChainClient> {
        tokio::select! {
            chain = self.reached() => Some(chain),
            () = stop.wanted() => None,
        }
    }
}

/// Connects to the chain, again and again until it answers, and then waits to be stopped.
pub(super) async fn reach_chain(
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

/// Follows the log of the chain.
#[derive(Clone)]
pub(super) struct LogPart {
    pub(super) store: Store,
    pub(super) chain: Chain,
    pub(super) config: ChainConfig,
    /// What clients are told.
    pub(super) status: watch::Sender<NodeStatus>,
    /// True from the time when the log was read to its end.
    pub(super) caught_up: watch::Sender<bool>,
}

impl LogPart {
    pub(super) async fn run(self, observer: Arc<Observer>, mut stop: Stop) -> anyhow::Result<()> {
        let Some(chain) = self.chain.reached_before(&mut stop).await else { return Ok(()) };
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

/// What the network needs to know.
pub(super) fn net_settings(config: &PeerConfig, chain_id: u64, flow: Address, store: &Store) -> NetSettings {
    let identity = NetworkIdentity { chain_id, flow_address: flow.into_array(), version: PROTOCOL_VERSION };
    let shard = store.shard();
    let shard = ShardConfig { num_shard: shard.count, shard_id: shard.id };
    NetSettings {
        listen: config.listen,
        tcp_port: config.tcp_port,
        has_discovery: config.has_discovery,
        discovery_port: config.discovery_port,
        enr_address: config.enr_address,
        enr_tcp_port: config.enr_tcp_port,
        enr_udp_port: config.enr_udp_port,
        boot_nodes: config.boot_nodes.clone(),
        libp2p_nodes: config.nodes.clone(),
        target_peers: config.target,
        is_private: config.is_private,
        find_chunks: config.find_chunks,
        private_addresses: config.private_addresses,
        has_enr_identity: config.has_enr_identity,
        discovery: config.discovery,
        timeouts: config.timeouts,
        ..NetSettings::new(config.dir.clone(), Status { identity, shard })
    }
}

/// Watches over the network.
pub(super) async fn network(mut tasks: NetTasks, mut stop: Stop) -> anyhow::Result<()> {
    tokio::select! {
        ended = tasks.ended() => Ok(ended?),
        () = stop.wanted() => {
            tasks.stop().await;
            Ok(())
        }
    }
}

/// Watches over the files that come from peers, and tells clients how many peers there are.
pub(super) async fn files(files: FilesHandle, status: watch::Sender<NodeStatus>, mut stop: Stop) -> anyhow::Result<()> {
    let mut peers = files.connected_peers();
    loop {
        let connected = *peers.borrow_and_update();
        status.send_modify(|status| status.connected_peers = connected);
        tokio::select! {
            changed = peers.changed() => changed.map_err(|_| anyhow::anyhow!("its tasks have ended"))?,
            () = stop.wanted() => {
                files.stop().await;
                return Ok(());
            }
        }
    }
}

/// Seals and mines.
#[derive(Clone)]
pub(super) struct MinePart {
    pub(super) store: Store,
    pub(super) chain: Chain,
    pub(super) config: MinerConfig,
    pub(super) key: Key,
    pub(super) caught_up: watch::Receiver<bool>,
    /// Commands of the operator, whoever runs at the time.
    pub(super) commands: Arc<Mutex<mpsc::Receiver<MinerCommand>>>,
}

impl MinePart {
    pub(super) async fn run(self, observer: Arc<Observer>, mut stop: Stop) -> anyhow::Result<()> {
        let Some(chain) = self.chain.reached_before(&mut stop).await else { return Ok(()) };
        let config = self.config.clone();
        let engine = tokio::select! {
            engine = blocking(move || open_engine(&config)) => engine?,
            () = stop.wanted() => return Ok(()),
        };
        let MinePart { store, config, key, caught_up, commands, .. } = self;
        let mining = Mining::start(chain, store, engine, key, mining_config(&config), caught_up);
        observer.mining.set(mining.status());
        let mut status = mining.status();
        let mut commands = commands.lock().await;
        loop {
            tokio::select! {
                changed = status.changed() => changed.map_err(|_| anyhow::anyhow!("its task has ended"))?,
                Some(command) = commands.recv() => {
                    // An error says that mining has ended, which the next turn sees.
                    let _ = mining.commands().send(command).await;
                }
                () = stop.wanted() => {
                    mining.stop().await;
                    return Ok(());
                }
            }
        }
    }
}

fn open_engine(config: &MinerConfig) -> anyhow::Result<Box<dyn Engine>> {
    Ok(match config.device {
        Some((backend, index)) => open_at(backend, index, EngineOptions::default())?,
        None => open(config.backend)?,
    })
}

fn mining_config(config: &MinerConfig) -> MiningConfig {
    let usual = TxPolicy::default();
    MiningConfig {
        miner_id: config.miner_id,
        may_register: config.may_register,
        beneficiary: config.beneficiary,
        start_position: config.start_position,
        min_profit: config.min_profit.map(U256::from),
        tx: TxPolicy {
            max_fee_per_gas: config.max_gas_price.map_or(usual.max_fee_per_gas, u128::from),
            max_gas: config.max_gas.unwrap_or(usual.max_gas),
            bump_percent: config.bump_percent,
            ..usual
        },
        watch: WatchOptions { poll: config.poll, ..WatchOptions::default() },
        ..MiningConfig::default()
    }
}

/// Deletes what is not to be kept.
pub(super) async fn prune(
    store: Store,
    chain: Chain,
    settings: PruneSettings,
    observer: Arc<Observer>,
    mut stop: Stop,
) -> anyhow::Result<()> {
    let Some(chain) = chain.reached_before(&mut stop).await else { return Ok(()) };
    let pruner = Pruner::start(store, Some(chain), settings);
    observer.prune.set(pruner.status());
    let mut status = pruner.status();
    loop {
        tokio::select! {
            changed = status.changed() => changed.map_err(|_| anyhow::anyhow!("its task has ended"))?,
            () = stop.wanted() => {
                pruner.stop().await;
                return Ok(());
            }
        }
    }
}
