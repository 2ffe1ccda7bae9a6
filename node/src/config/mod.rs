//! What the node is set up with: one TOML file, with the keys of the network's own node and a few of ours.
//!
//! A configuration is made of layers, each before the one behind it: the command line, the environment
//! (`ZGPU_NODE__SECTION__KEY`, and `ZGS_NODE__…` as the network's node has it), the file, the network that is named,
//! the defaults. Every value knows where it comes from. `keys` has the table of all keys; a key that does not exist is
//! refused, with what was probably meant, unless unknown keys are allowed; a key of the network's node that means
//! nothing here is accepted and named by [`Config::notices`].
//!
//! Secrets are never shown: not by `Debug`, not in errors, not in the printed configuration.

mod error;
mod keys;
mod layers;
mod networks;
mod print;
mod value;

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use alloy::primitives::Address;
use libp2p::{Multiaddr, multiaddr::Protocol};
use zgpu_core::{
    H256,
    device::{BackendChoice, BackendKind},
    shard::Shard,
};

use self::layers::Settings;
pub use self::{
    error::{BadValue, ConfigError, ConfigErrors},
    layers::{Origin, Sources},
};
use crate::{
    chain::keys::{Key, KeyError, KeySource, PasswordSource},
    duties::prune::PruneSettings,
    files::{FilesConfig, LocationConfig, RouterConfig, SyncConfig},
    net::{Timeouts, discovery::Tuning},
};

/// What to do with a key that stands where others see it.
pub(crate) const KEY_REMEDY: &str = "\
where every user of this machine can read it; put it in a file that only you can read and name that with \
miner_key_file, or use a keystore (miner_keystore), or set the environment variable ZGPU_MINER_KEY";

/// Everything that the node is set up with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the network, such as mainnet; "custom" when it is set up by hand.
    pub network: String,
    /// The chain and its contracts.
    pub chain: ChainConfig,
    /// Where data is kept.
    pub store: StoreConfig,
    /// What is pruned; nothing when none.
    pub prune: Option<PruneSettings>,
    /// Peers.
    pub net: PeerConfig,
    /// Files that are fetched from them, and what they are told.
    pub files: FilesConfig,
    /// Clients.
    pub rpc: ClientConfig,
    /// Mining.
    pub miner: MinerConfig,
    /// Where the node's state is shown.
    pub status: StatusConfig,
    /// The log.
    pub log: LogConfig,
    settings: Hidden<Settings>,
}

/// The chain and its contracts.
#[derive(Clone, Debug)]
pub struct ChainConfig {
    /// URLs of its endpoints, the first preferred. They may hold credentials.
    pub endpoints: Hidden<Vec<String>>,
    /// Most calls to an endpoint in a second; no limit when none.
    pub calls_per_second: Option<u32>,
    /// Longest time for an answer.
    pub timeout: Duration,
    /// First pause between two attempts.
    pub backoff: Duration,
    /// Id that the chain must have.
    pub chain_id: Option<u64>,
    /// The flow contract.
    pub flow: Address,
    /// The mine contract; the flow contract leads to it when none.
    pub mine: Option<Address>,
    /// The reward contract that the mine contract must lead to.
    pub reward: Option<Address>,
    /// Block at which the log starts.
    pub start_block: u64,
    /// Blocks behind the last one that are read.
    pub confirmations: u64,
    /// Most blocks in one question for the log.
    pub page_blocks: u64,
    /// Pause between two looks.
    pub poll: Duration,
}

/// Where data is kept.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// Folder of the store.
    pub dir: PathBuf,
    /// Memory for cached blocks, in bytes.
    pub cache_bytes: usize,
    /// Bytes that stay free on the disk.
    pub reserve_bytes: u64,
    /// Share of the flow to keep; that of the store when none.
    pub shard: Option<Shard>,
}

/// Peers.
#[derive(Clone, Debug)]
pub struct PeerConfig {
    /// Folder of the network key and of the node's record.
    pub dir: PathBuf,
    /// Address that is listened at.
    pub listen: Ipv4Addr,
    /// TCP port that is listened at.
    pub tcp_port: u16,
    /// UDP port of discovery.
    pub discovery_port: u16,
    /// Address at which others reach this node.
    pub enr_address: Option<Ipv4Addr>,
    /// TCP port at which others reach this node; the one that is listened at when none.
    pub enr_tcp_port: Option<u16>,
    /// UDP port at which others reach this node; the one that is listened at when none.
    pub enr_udp_port: Option<u16>,
    /// Peers that are wanted.
    pub target: u32,
    /// Nodes to start from: addresses or records.
    pub boot_nodes: Vec<String>,
    /// Nodes to stay connected to.
    pub nodes: Vec<Multiaddr>,
    /// True when others are not told which program this is.
    pub is_private: bool,
    /// True when peers are looked for.
    pub has_discovery: bool,
    /// True when the node's record says which network it belongs to.
    pub has_enr_identity: bool,
    /// True when the node takes part in the search for parts of files.
    pub find_chunks: bool,
    /// True when peers may have private addresses.
    pub private_addresses: bool,
    /// Limits and times of discovery.
    pub discovery: Tuning,
    /// Times of connections.
    pub timeouts: Timeouts,
}

/// Clients.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// Where the public methods are; nowhere when none.
    pub listen: Option<SocketAddr>,
    /// Where the operator's methods are.
    pub listen_admin: Option<SocketAddr>,
    /// Where uploads over gRPC are taken.
    pub listen_grpc: Option<SocketAddr>,
    /// Longest request, in bytes.
    pub max_request_bytes: u32,
    /// Uploads that write at once.
    pub max_writers: usize,
    /// Sectors that are kept of files whose transaction is not known.
    pub max_pending_sectors: u64,
    /// Largest such file, in bytes.
    pub max_pending_file_bytes: u64,
    /// How long they are kept.
    pub pending_for: Duration,
}

/// Mining.
#[derive(Clone, Debug)]
pub struct MinerConfig {
    /// Where the key comes from; the node does not mine without one.
    pub key: Option<MinerKey>,
    /// The miner's id, if it is set.
    pub miner_id: Option<H256>,
    /// Account that answers have to pay; the key's own when none.
    pub beneficiary: Option<Address>,
    /// Whether a miner id may be registered, for gas.
    pub may_register: bool,
    /// Wei that an answer has to earn beyond its gas; none sends all.
    pub min_profit: Option<u64>,
    /// First sector to mine from in a long flow.
    pub start_position: u64,
    /// Kind of device to seal and mine on.
    pub backend: BackendChoice,
    /// The device itself, by backend and index, such as cuda:1.
    pub device: Option<(BackendKind, usize)>,
    /// Longest pause between two looks at the mining context.
    pub poll: Duration,
    /// Most wei that are offered for a unit of gas; the transaction manager's own limit when none.
    pub max_gas_price: Option<u64>,
    /// Most gas that an answer may need; the transaction manager's own limit when none.
    pub max_gas: Option<u64>,
    /// Percent that a replacement of a transaction pays more.
    pub bump_percent: u64,
}

/// Where the miner's key comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MinerKey {
    /// A file, a keystore or a variable.
    From(KeySource),
    /// The configuration itself; where in it, and the key.
    Inline(Origin, Hidden<String>),
}

impl MinerKey {
    /// Loads the key.
    pub fn load(&self) -> Result<Key, KeyError> {
        match self {
            MinerKey::From(source) => Key::load(source),
            MinerKey::Inline(origin, Hidden(text)) => Key::from_hex(&format!("miner_key of {origin}"), text),
        }
    }
}

/// Where the node's state is shown.
#[derive(Clone, Debug)]
pub struct StatusConfig {
    /// Where /metrics, /status and /health are; nowhere when none.
    pub listen: Option<SocketAddr>,
    /// Pause between two status lines on the log; none when none.
    pub line_every: Option<Duration>,
}

/// The log.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// True for one JSON document a line.
    pub json: bool,
    /// File with a filter, read again and again.
    pub filter_file: Option<PathBuf>,
}

/// Something that `Debug` does not show.
#[derive(Clone, PartialEq, Eq)]
pub struct Hidden<T>(pub T);

impl<T> fmt::Debug for Hidden<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Config {
    /// Puts the sources on each other and checks the whole. Reports everything that is wrong at once.
    pub fn load(sources: &Sources) -> Result<Config, ConfigErrors> {
        let settings = Settings::load(sources)?;
        let mut errors = Vec::new();
        let config = Config {
            network: settings.text("", "network").unwrap_or("custom").to_owned(),
            chain: ChainConfig::of(&settings, &mut errors),
            store: StoreConfig {
                dir: path(&settings, "db_dir", &mut errors),
                cache_bytes: settings.int("", "db_cache_bytes") as usize,
                reserve_bytes: settings.int("", "db_reserve_bytes"),
                shard: settings.parsed("", "shard_position"),
            },
            prune: settings.optional_int("", "db_max_num_sectors").map(|max_sectors| PruneSettings {
                max_sectors,
                check_every: Duration::from_secs(settings.int("", "prune_check_time_s")),
                batch_loads: settings.int("", "prune_batch_size"),
                pause: Duration::from_millis(settings.int("", "prune_batch_wait_time_ms")),
            }),
            net: PeerConfig::of(&settings, &mut errors),
            files: files(&settings),
            rpc: ClientConfig::of(&settings, &mut errors),
            miner: MinerConfig::of(&settings, sources, &mut errors),
            status: StatusConfig {
                listen: settings.parsed("metrics", "listen"),
                line_every: Some(settings.span("metrics", "status_line_interval")).filter(|span| !span.is_zero()),
            },
            log: LogConfig {
                json: settings.text("", "log_format") == Some("json"),
                filter_file: settings.text("", "log_config_file").map(PathBuf::from),
            },
            settings: Hidden(settings),
        };
        if errors.is_empty() { Ok(config) } else { Err(ConfigErrors(errors)) }
    }

    /// The whole as a TOML document, each key with what it means, its default and where its value comes from. Secrets are
    /// not in it.
    pub fn print(&self) -> String {
        self.settings.0.print()
    }

    /// What an operator should know: keys that were given and have no effect, and a key that lies open.
    pub fn notices(&self) -> Vec<String> {
        let settings = &self.settings.0;
        let idle = settings.all.iter().filter_map(|setting| {
            let why = setting.key.no_effect?;
            let is_given = !matches!(setting.origin, Origin::Default | Origin::Network(_));
            is_given.then(|| format!("{}: {} has no effect here: {why}", setting.origin, setting.key.path()))
        });
        let ignored = settings.ignored.iter().filter(|(origin, ..)| !matches!(origin, Origin::Network(_)));
        let ignored = ignored.map(|(origin, key, why)| format!("{origin}: {key} has no effect here: {why}"));
        let open = match &self.miner.key {
            Some(MinerKey::Inline(Origin::File(path), _)) => Some(format!(
                "{}: miner_key stands in the file: whoever reads it can take what the key owns; better name a key file with \
                 miner_key_file, a keystore with miner_keystore, or set ZGPU_MINER_KEY",
                path.display()
            )),
            _ => None,
        };
        idle.chain(ignored).chain(open).collect()
    }
}

/// The folder or file of a key that cannot do without.
fn path(settings: &Settings, name: &'static str, errors: &mut Vec<ConfigError>) -> PathBuf {
    let path = settings.text("", name).map(PathBuf::from);
    path.unwrap_or_else(|| {
        errors.push(ConfigError::Missing { key: name, remedy: "name a folder that this user may write to" });
        PathBuf::new()
    })
}

impl ChainConfig {
    fn of(settings: &Settings, errors: &mut Vec<ConfigError>) -> ChainConfig {
        // A list that stands above a single endpoint, the network's for example, replaces it.
        let first = settings.text("", "blockchain_rpc_endpoint");
        let others = settings.list("", "blockchain_rpc_endpoints");
        let is_replaced =
            !others.is_empty() && settings.is_below("blockchain_rpc_endpoint", "blockchain_rpc_endpoints");
        let mut endpoints: Vec<String> = first.filter(|_| !is_replaced).map(str::to_owned).into_iter().collect();
        for url in others {
            if !endpoints.contains(url) {
                endpoints.push(url.clone());
            }
        }
        if endpoints.is_empty() {
            let remedy = "name an endpoint of the chain, such as \"http://127.0.0.1:8545\"";
            errors.push(ConfigError::Missing { key: "blockchain_rpc_endpoint", remedy });
        }
        let flow = settings.parsed("", "log_contract_address");
        if flow.is_none() {
            let remedy =
                "name a network that has it (--network mainnet or testnet), or set the address of its flow contract";
            errors.push(ConfigError::Missing { key: "log_contract_address", remedy });
        }
        ChainConfig {
            endpoints: Hidden(endpoints),
            calls_per_second: Some(settings.int("", "blockchain_rpc_calls_per_second") as u32)
                .filter(|calls| *calls > 0),
            timeout: Duration::from_secs(settings.int("", "blockchain_rpc_timeout_secs")),
            backoff: Duration::from_millis(settings.int("", "initial_backoff")),
            chain_id: settings.optional_int("", "chain_id"),
            flow: flow.unwrap_or_default(),
            mine: settings.parsed("", "mine_contract_address"),
            reward: settings.parsed("", "reward_contract_address"),
            start_block: settings.int("", "log_sync_start_block_number"),
            confirmations: settings.int("", "confirmation_block_count"),
            page_blocks: settings.int("", "log_page_size"),
            poll: Duration::from_millis(settings.int("", "watch_loop_wait_time_ms")),
        }
    }
}

impl PeerConfig {
    fn of(settings: &Settings, errors: &mut Vec<ConfigError>) -> PeerConfig {
        let (int, flag) = (|name| settings.int("", name), |name| settings.flag("", name));
        let manager = |name| Duration::from_secs(settings.int("network_peer_manager", name));
        // A port that is any free one is known to nobody before the start.
        let told = |listen: &'static str, told: &'static str| Some(int(told) as u16).filter(|_| int(listen) != 0);
        PeerConfig {
            dir: path(settings, "network_dir", errors),
            listen: settings.parsed("", "network_listen_address").unwrap_or_else(|| {
                let remedy = "name the IP address to listen at, such as \"0.0.0.0\"";
                errors.push(ConfigError::Missing { key: "network_listen_address", remedy });
                Ipv4Addr::UNSPECIFIED
            }),
            tcp_port: int("network_libp2p_port") as u16,
            discovery_port: int("network_discovery_port") as u16,
            enr_address: settings.parsed("", "network_enr_address"),
            enr_tcp_port: told("network_libp2p_port", "network_enr_tcp_port"),
            enr_udp_port: told("network_discovery_port", "network_enr_udp_port"),
            target: int("network_target_peers") as u32,
            boot_nodes: settings.list("", "network_boot_nodes").to_vec(),
            nodes: settings
                .list("", "network_libp2p_nodes")
                .iter()
                .filter_map(|address| address.parse().ok())
                .collect(),
            is_private: flag("network_private"),
            has_discovery: !flag("network_disable_discovery")
                && settings.flag("network_peer_manager", "discovery_enabled"),
            has_enr_identity: !flag("discv5_disable_enr_network_id"),
            find_chunks: flag("network_find_chunks_enabled"),
            private_addresses: settings.flag("router", "private_ip_enabled"),
            discovery: Tuning {
                request_timeout: Duration::from_secs(int("discv5_request_timeout_secs")),
                query_peer_timeout: Duration::from_secs(int("discv5_query_peer_timeout_secs")),
                request_retries: int("discv5_request_retries") as u8,
                query_parallelism: int("discv5_query_parallelism") as usize,
                reports_discovered_peers: flag("discv5_report_discovered_peers"),
                has_packet_filter: !flag("discv5_disable_packet_filter"),
                has_ip_limit: !flag("discv5_disable_ip_limit"),
            },
            timeouts: Timeouts {
                ping: manager("ping_interval_outbound"),
                status: manager("status_interval"),
                ..Timeouts::default()
            },
        }
    }
}

fn files(settings: &Settings) -> FilesConfig {
    let (int, flag) = (|name| settings.int("sync", name), |name| settings.flag("sync", name));
    let span = |name| settings.span("sync", name);
    let location = |name| settings.int("file_location_cache", name);
    let router = |name| settings.int("router", name) as usize;
    let public_ip: Option<Ipv4Addr> = settings.parsed("router", "public_address");
    let public_ip = public_ip.or_else(|| settings.parsed("", "network_enr_address"));
    let public_port = settings.int("", "network_enr_tcp_port") as u16;
    FilesConfig {
        sync: SyncConfig {
            neighbors_only: flag("neighbors_only"),
            heartbeat_interval: span("heartbeat_interval"),
            auto_sync_enabled: flag("auto_sync_enabled"),
            max_sync_files: int("max_sync_files") as usize,
            sync_file_by_rpc_enabled: flag("sync_file_by_rpc_enabled"),
            sync_file_on_announcement_enabled: flag("sync_file_on_announcement_enabled"),
            max_request_failures: int("max_request_failures") as u32,
            peer_connect_timeout: span("peer_connect_timeout"),
            peer_find_timeout: span("peer_find_timeout"),
            peer_chunks_download_timeout: span("peer_chunks_download_timeout"),
            peer_next_chunks_request_wait_timeout: span("peer_next_chunks_request_wait_timeout"),
            max_bandwidth_bytes: int("max_bandwidth_bytes"),
            bandwidth_wait_timeout: span("bandwidth_wait_timeout"),
            auto_sync_idle_interval: span("auto_sync_idle_interval"),
            auto_sync_error_interval: span("auto_sync_error_interval"),
            max_sequential_workers: int("max_sequential_workers") as usize,
            max_random_workers: int("max_random_workers") as usize,
            sequential_find_peer_timeout: span("sequential_find_peer_timeout"),
            random_find_peer_timeout: span("random_find_peer_timeout"),
            ready_txs_cache_cap: int("ready_txs_cache_cap") as usize,
            find_chunks_enabled: settings.flag("", "network_find_chunks_enabled"),
            ..SyncConfig::default()
        },
        locations: LocationConfig {
            max_entries_total: location("max_entries_total") as usize,
            max_entries_per_file: location("max_entries_per_file") as usize,
            entry_expiration: Duration::from_secs(location("entry_expiration_time_secs")),
        },
        router: RouterConfig {
            heartbeat_interval: settings.span("router", "heartbeat_interval"),
            idle_time: settings.span("router", "idle_time"),
            max_idle_incoming_peers: router("max_idle_incoming_peers"),
            max_idle_outgoing_peers: router("max_idle_outgoing_peers"),
            private_ip_enabled: settings.flag("router", "private_ip_enabled"),
            check_announced_ip: settings.flag("router", "check_announced_ip"),
            public_address: public_ip.map(|ip| Multiaddr::from(ip).with(Protocol::Tcp(public_port))),
            batcher_timeout: settings.span("router", "batcher_timeout"),
            batcher_file_capacity: router("batcher_file_capacity").max(1),
            batcher_announcement_capacity: router("batcher_announcement_capacity").max(1),
        },
    }
}

impl ClientConfig {
    fn of(settings: &Settings, errors: &mut Vec<ConfigError>) -> ClientConfig {
        let is_enabled = settings.flag("rpc", "enabled");
        if is_enabled && settings.text("rpc", "listen_address").is_none() {
            let remedy = "name an address, such as \"0.0.0.0:5678\", or set rpc.enabled = false";
            errors.push(ConfigError::Missing { key: "rpc.listen_address", remedy });
        }
        let address = |name| settings.parsed("rpc", name).filter(|_| is_enabled);
        ClientConfig {
            listen: address("listen_address"),
            listen_admin: address("listen_address_admin"),
            listen_grpc: address("listen_address_grpc"),
            max_request_bytes: settings.int("rpc", "max_request_body_size") as u32,
            max_writers: settings.int("", "chunk_pool_max_writings") as usize,
            max_pending_sectors: settings.int("", "chunk_pool_max_cached_chunks_all"),
            max_pending_file_bytes: settings.int("rpc", "max_cache_file_size"),
            pending_for: Duration::from_secs(settings.int("", "chunk_pool_expiration_time_secs")),
        }
    }
}

impl MinerConfig {
    fn of(settings: &Settings, sources: &Sources, errors: &mut Vec<ConfigError>) -> MinerConfig {
        MinerConfig {
            key: miner_key(settings, sources, errors),
            miner_id: settings.parsed("", "miner_id"),
            beneficiary: settings.parsed("", "miner_beneficiary"),
            may_register: settings.flag("", "miner_may_register"),
            min_profit: (!settings.flag("", "miner_ignore_profit")).then(|| settings.int("", "miner_min_profit")),
            start_position: settings.int("", "miner_start_position"),
            backend: settings.parsed("", "backend").unwrap_or_default(),
            device: settings.text("", "device").and_then(device),
            poll: Duration::from_secs(settings.int("", "mine_context_query_seconds")),
            max_gas_price: settings.optional_int("submission_config", "max_gas_price"),
            max_gas: settings.optional_int("submission_config", "max_gas"),
            bump_percent: (settings.int("submission_config", "gas_increase_factor") - 10) * 10,
        }
    }
}

/// The device of a name such as cuda:1.
fn device(name: &str) -> Option<(BackendKind, usize)> {
    let (backend, index) = name.split_once(':')?;
    let kinds = [BackendKind::Cpu, BackendKind::Cuda, BackendKind::Wgpu];
    Some((kinds.into_iter().find(|kind| kind.to_string() == backend)?, index.parse().ok()?))
}

fn miner_key(settings: &Settings, sources: &Sources, errors: &mut Vec<ConfigError>) -> Option<MinerKey> {
    let password = settings.text("", "miner_keystore_password_file");
    let file = settings.text("", "miner_key_file").map(|path| MinerKey::From(KeySource::HexFile(path.into())));
    let keystore = settings.text("", "miner_keystore").and_then(|path| {
        let Some(password) = password else {
            let remedy = "name the file with the password of miner_keystore";
            errors.push(ConfigError::Missing { key: "miner_keystore_password_file", remedy });
            return None;
        };
        let password = PasswordSource::File(password.into());
        Some(MinerKey::From(KeySource::Keystore { path: path.into(), password }))
    });
    let inline = settings.text("", "miner_key").map(|text| {
        let origin = settings.setting("", "miner_key").origin.clone();
        MinerKey::Inline(origin, Hidden(text.trim().to_owned()))
    });
    let named: Vec<(&'static str, MinerKey)> =
        [("miner_key_file", file), ("miner_keystore", keystore), ("miner_key", inline)]
            .into_iter()
            .filter_map(|(name, key)| Some((name, key?)))
            .collect();
    if let [(first, _), (second, _), ..] = named[..] {
        errors.push(ConfigError::Conflict {
            origin: settings.setting("", second).origin.clone(),
            key: second,
            got: "set".to_owned(),
            reason: format!("and so is {first}; a node has one key, so set one of them"),
        });
    }
    let named = named.into_iter().next().map(|(_, key)| key);
    named.or_else(|| {
        let name = settings.text("", "miner_key_env")?;
        let is_there = sources.environment.iter().any(|(variable, value)| variable == name && !value.is_empty());
        is_there.then(|| MinerKey::From(KeySource::Env(name.to_owned())))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_complete_and_fit_the_table() {
        for preset in networks::PRESETS {
            let network = ("--network".to_owned(), "network".to_owned(), preset.name.to_owned());
            let config = Config::load(&Sources { flags: vec![network], ..Sources::default() })
                .unwrap_or_else(|errors| panic!("{}: {errors}", preset.name));
            assert_eq!(config.network, preset.name);
            assert!(config.chain.chain_id.is_some() && config.chain.mine.is_some() && config.chain.reward.is_some());
            assert!(
                config.files.sync.auto_sync_enabled
                    && !config.net.boot_nodes.is_empty()
                    && config.chain.start_block > 0
            );
            assert_eq!(config.notices(), [""; 0]);
        }
    }
}
