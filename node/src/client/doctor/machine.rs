//! What the doctor looks at on this machine: the device, the node, its ports, its data, its disk.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::fs::MetadataExt,
    path::Path,
    time::Duration,
};

use alloy::{sol_types::SolCall, transports::http::reqwest};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use zgpu_core::{
    H256,
    device::BackendKind,
    shard::Shard,
    units::{BYTES_PER_SECTOR, SECTORS_PER_LOAD},
};

use super::{DoctorOptions, Report, chain::Chain};
use crate::{
    chain::contracts::PoraMine,
    client::node::{NodeError, NodeOptions, NodeState, StorageNode},
    config::Config,
    devnet::report::bytes,
    duties::{
        blocking,
        mining::identity::{IdentityError, stored_miner_id},
    },
    store::{Settings, Store},
};

/// Blocks that the log of a healthy node may be behind.
const MAX_LAG: u64 = 100;
/// Open files that a node should be allowed.
const OPEN_FILES: u64 = 8192;
/// Longest answer of the node's status.
const MAX_STATUS_BYTES: usize = 1 << 20;

/// The node, as far as it runs.
pub(super) struct Running {
    state: NodeState,
    shard: Shard,
    /// What its status page says, if it has one.
    status: Option<Value>,
}

/// Whether the node runs.
pub(super) enum NodeFound {
    Running(Box<Running>),
    /// It does not answer; the reason.
    Silent(String),
    /// It has no address to ask at.
    Unknown,
}

/// What the node keeps, as far as it is known.
pub(super) struct Held {
    pub(super) shard: Shard,
    pub(super) miner_id: Option<H256>,
}

/// Where a program on this machine reaches a listener.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// Asks the node for its state.
pub(super) async fn look_at_node(config: &Config, options: &DoctorOptions) -> NodeFound {
    let Some(address) = config.rpc.listen else { return NodeFound::Unknown };
    let patience = NodeOptions { timeout: options.timeout, attempts: 1, ..NodeOptions::default() };
    let answer = async {
        let node = StorageNode::new(&format!("http://{}", reachable(address)), patience)?;
        Ok::<_, NodeError>((node.state().await?, node.shard().await?))
    };
    match answer.await {
        Ok((state, shard)) => {
            let status = match config.status.listen {
                Some(address) => status_page(reachable(address), options.timeout).await,
                None => None,
            };
            NodeFound::Running(Box::new(Running { state, shard, status }))
        }
        Err(error) => NodeFound::Silent(error.to_string()),
    }
}

/// The node's /status, if it answers with JSON.
async fn status_page(address: SocketAddr, limit: Duration) -> Option<Value> {
    let client = reqwest::Client::builder().no_proxy().timeout(limit).build().ok()?;
    let mut response = client.get(format!("http://{address}/status")).send().await.ok()?;
    let mut page = Vec::new();
    while let Some(part) = response.chunk().await.ok()? {
        if page.len() + part.len() > MAX_STATUS_BYTES {
            return None;
        }
        page.extend_from_slice(&part);
    }
    serde_json::from_slice(&page).ok()
}

/// Looks for the device that seals and mines.
pub(super) async fn check_device(report: &mut Report, config: &Config) {
    let (usable, others) = blocking(zgpu_miner::devices).await;
    let wanted = match config.miner.device {
        Some((backend, index)) => usable
            .iter()
            .find(|found| found.backend == backend && found.index == index)
            .ok_or(format!("there is no device {backend}:{index} (miner.device)")),
        None => {
            let list = |kind: BackendKind| {
                let usable = usable.iter().filter(|found| found.backend == kind).cloned().collect();
                (usable, others.iter().filter(|other| other.backend == kind).cloned().collect())
            };
            let choice = config.miner.backend;
            match choice.pick(list) {
                Ok((backend, index)) => usable
                    .iter()
                    .find(|found| found.backend == backend && found.index == index)
                    .ok_or(format!("there is no device {backend}:{index}")),
                Err(error) => Err(error.to_string()),
            }
        }
    };
    let device = match wanted {
        Ok(device) => device,
        Err(reason) => return report.fail("device", reason, "`zgpu devices` lists them; set backend or device"),
    };
    let name = format!("{}:{} {}", device.backend, device.index, device.name);
    if device.software || device.backend == BackendKind::Cpu {
        let why = others.iter().find(|other| other.backend == BackendKind::Cuda);
        let why = why.map(|other| format!("; cuda: {}", other.reason)).unwrap_or_default();
        let remedy = "a GPU does far more nonces a second; `zgpu devices` says why others cannot be used";
        return report.warn("device", format!("{name}: a processor mines slowly{why}"), remedy);
    }
    report.ok("device", name);
}

/// Looks at how far the node is and whether it has peers.
pub(super) fn check_node(report: &mut Report, config: &Config, node: &NodeFound, chain: Option<&Chain>) {
    let running = match node {
        NodeFound::Running(running) => running,
        NodeFound::Silent(reason) => {
            report.warn("node", format!("it does not run: {reason}"), "start it: zgpu node --config FILE");
            return;
        }
        NodeFound::Unknown => {
            report.skip("node", "it has no address for clients (rpc.enabled), so it cannot be asked");
            return;
        }
    };
    let state = &running.state;
    let flow = config.chain.flow.to_string().to_lowercase();
    let is_same = state.flow_address.to_lowercase() == flow
        && config.chain.chain_id.is_none_or(|chain_id| chain_id == state.chain_id);
    if !is_same {
        let found =
            format!("at its address answers a node of chain {} and flow {}", state.chain_id, state.flow_address);
        report.fail("node", found, "another node runs there, or with another configuration: stop it, or change ports");
        return;
    }
    let says = |key: &str| running.status.as_ref()?.get(key)?.as_str().map(str::to_owned);
    match says("not_earning_because") {
        Some(reason) => report.warn("node", format!("it runs, and says: {reason}"), "see the checks, and its log"),
        None => report.ok("node", says("summary").unwrap_or_else(|| "it runs".to_owned())),
    }
    match chain {
        Some(chain) => {
            let lag = chain.head.saturating_sub(state.log_sync_height);
            let found =
                format!("block {} of {}, {} transactions", state.log_sync_height, chain.head, state.next_tx_seq);
            match lag <= MAX_LAG {
                true => report.ok("log", found),
                false => report.fail(
                    "log",
                    format!("{found}: {lag} blocks behind"),
                    "let it catch up; if it does not, look at its log and at the endpoints",
                ),
            }
        }
        None => report.skip("log", "the chain cannot be asked"),
    }
    match state.connected_peers {
        0 if config.net.boot_nodes.is_empty() && config.net.nodes.is_empty() => report.warn(
            "peers",
            "none, and nobody to find them through",
            "name the network, or set network_boot_nodes or network_libp2p_nodes",
        ),
        0 => report.warn(
            "peers",
            "none: files of others cannot be fetched, and what is not stored cannot be mined",
            "let UDP and TCP through the firewall and set network_enr_address to the address that others see",
        ),
        peers => report.ok("peers", format!("{peers} connected")),
    }
}

/// Looks whether the node's ports answer, or are free when it does not run.
pub(super) async fn check_ports(report: &mut Report, config: &Config, node: &NodeFound, options: &DoctorOptions) {
    let ports = [
        ("rpc.listen_address", config.rpc.listen),
        ("rpc.listen_address_admin", config.rpc.listen_admin),
        ("rpc.listen_address_grpc", config.rpc.listen_grpc),
        ("metrics.listen", config.status.listen),
        ("network_libp2p_port", Some(SocketAddr::new(config.net.listen.into(), config.net.tcp_port))),
    ];
    let is_running = matches!(node, NodeFound::Running(_));
    let mut open = Vec::new();
    let mut is_good = true;
    for (key, address) in ports {
        // Port 0 is another one each time.
        let Some(address) = address.filter(|address| address.port() != 0) else { continue };
        let result = match is_running {
            true => connect(reachable(address), options.timeout).await,
            false => TcpListener::bind(address).await.map(drop),
        };
        match result {
            Ok(()) => open.push(address.to_string()),
            Err(error) if is_running => {
                is_good = false;
                let found = format!("nothing answers at {address} ({key}): {error}");
                report.warn("ports", found, "the node runs without this part; its log says why");
            }
            Err(error) => {
                is_good = false;
                let found = format!("{address} ({key}) cannot be listened at: {error}");
                report.fail("ports", found, &format!("stop what uses it, or set another {key}"));
            }
        }
    }
    if is_good {
        let words = if is_running { "answer" } else { "are free" };
        report.ok("ports", format!("{} {words}", open.join(", ")));
    }
}

async fn connect(address: SocketAddr, limit: Duration) -> io::Result<()> {
    match tokio::time::timeout(limit, TcpStream::connect(address)).await {
        Ok(stream) => stream.map(drop),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// What a stopped node's store says.
struct StoreFacts {
    shard: Shard,
    miner_id: Option<H256>,
    flow_length: u64,
    loads: u64,
    sealed: u64,
}

/// Looks at the share of the flow that is kept, and how much of it is there and sealed.
pub(super) async fn check_data(report: &mut Report, config: &Config, node: &NodeFound, chain: Option<&Chain>) -> Held {
    let mut held = Held { shard: config.store.shard.unwrap_or_default(), miner_id: None };
    match node {
        NodeFound::Running(running) => {
            held.shard = running.shard;
            let mining = running.status.as_ref().and_then(|status| status.get("mining"));
            held.miner_id = mining.and_then(|mining| mining.get("miner_id")?.as_str()?.parse().ok());
            check_running_data(report, running, mining);
        }
        NodeFound::Silent(_) | NodeFound::Unknown => {
            let dir = config.store.dir.clone();
            match blocking(move || read_store(&dir)).await {
                Ok(Some(facts)) => {
                    (held.shard, held.miner_id) = (facts.shard, facts.miner_id);
                    check_store(report, &facts);
                }
                Ok(None) => report.ok("data", format!("there is no store in {} yet", config.store.dir.display())),
                Err(reason) => report.skip("data", reason),
            }
        }
    }
    if let Some(chain) = chain {
        let max_shards = chain.client.read(chain.client.contracts().mine, PoraMine::maxShardsCall {}).await;
        match max_shards {
            Ok(limit) if held.shard.count > limit => report.fail(
                "shard",
                format!("shard {} is kept, the chain takes answers of at most {limit} shards", held.shard),
                "keep a larger share: shard_position, in a new folder",
            ),
            Ok(limit) => report.ok("shard", format!("{}, the chain allows {limit}", held.shard)),
            Err(error) => report.fail("shard", error.to_string(), PoraMine::maxShardsCall::SIGNATURE),
        }
    }
    held
}

fn check_running_data(report: &mut Report, running: &Running, mining: Option<&Value>) {
    let number = |key: &str| mining.and_then(|mining| mining.get(key)?.as_u64());
    let Some(sealed) = number("loads_held") else {
        return report.skip("data", "the running node does not say what is sealed (metrics.listen)");
    };
    let left = number("loads_left").unwrap_or_default();
    let found = format!("{sealed} loads are sealed, {left} are known to be left");
    match (sealed, left) {
        (0, 0) if running.state.next_tx_seq == 0 => report.warn("data", "the flow is empty", "wait for uploads"),
        (0, 0) => report.warn("data", found, "get data: from peers (sync.auto_sync_enabled), or by uploads"),
        (0, _) => report.warn("data", found, "let it seal; `zgpu bench` says how fast that goes here"),
        _ => report.ok("data", found),
    }
}

fn check_store(report: &mut Report, facts: &StoreFacts) {
    let StoreFacts { shard, flow_length, loads, sealed, .. } = facts;
    let of_shard = shard.loads_below(flow_length.div_ceil(SECTORS_PER_LOAD as u64));
    let found = format!("{loads} of {of_shard} loads of shard {shard} are stored, {sealed} are sealed");
    if *loads == 0 {
        let remedy = "get data: from peers (sync.auto_sync_enabled), or by uploads; nothing else can be mined";
        report.warn("data", found, remedy);
    } else if *sealed == 0 {
        report.warn("data", found, "start the node with a miner's key and let it seal");
    } else {
        report.ok("data", found);
    }
}

/// Reads the store of a node that does not run; `None` where there is none.
fn read_store(dir: &Path) -> Result<Option<StoreFacts>, String> {
    let database = dir.join("db");
    let Ok(metadata) = fs::metadata(&database) else { return Ok(None) };
    // What another user's process writes there, the node could not.
    let own = fs::metadata("/proc/self").map(|own| own.uid()).ok();
    if own.is_some_and(|own| own != metadata.uid()) {
        let owner = metadata.uid();
        return Err(format!("{} belongs to user {owner}; run this command as that user", dir.display()));
    }
    let settings = Settings { cache_bytes: 16 << 20, write_buffer_bytes: 16 << 20, ..Settings::default() };
    let read = || -> Result<StoreFacts, IdentityError> {
        let store = Store::open_with(dir, settings)?;
        let sealed = match store.miner_id()? {
            Some(miner_id) => store.sealed_loads(&miner_id, 0..u64::MAX)?.len() as u64,
            None => 0,
        };
        Ok(StoreFacts {
            shard: store.shard(),
            miner_id: stored_miner_id(&store)?,
            flow_length: store.flow_length(),
            loads: store.used_loads()?,
            sealed,
        })
    };
    read().map(Some).map_err(|error| error.to_string())
}

/// Compares the disk with what the node may store on it.
pub(super) fn check_disk(report: &mut Report, config: &Config) {
    let dir = &config.store.dir;
    let there = dir.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("."));
    let there = if there.as_os_str().is_empty() { Path::new(".") } else { there };
    let disk = match rustix::fs::statvfs(there) {
        Ok(disk) => disk,
        Err(error) => {
            let found = format!("{} cannot be looked at: {error}", there.display());
            return report.fail("disk", found, "name a folder that this user may write to (db_dir)");
        }
    };
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    let reserve = config.store.reserve_bytes;
    let found = format!("{} free at {}", bytes(free), there.display());
    if free <= reserve {
        let found = format!("{found}, {} stay free (db_reserve_bytes): nothing is written", bytes(reserve));
        return report.fail("disk", found, "free some space, or use another disk (db_dir)");
    }
    let Some(prune) = &config.prune else {
        let remedy = "set db_max_num_sectors to what the disk holds, or the node stops storing when it is full";
        return report.warn("disk", format!("{found}, and no limit on what is stored"), remedy);
    };
    let budget = prune.max_sectors.saturating_mul(BYTES_PER_SECTOR as u64);
    let used = folder_bytes(dir);
    let found = format!("{found}, {} used of {} (db_max_num_sectors)", bytes(used), bytes(budget));
    // What is kept is stored as it came and sealed.
    match free.saturating_sub(reserve) >= budget.saturating_mul(2).saturating_sub(used) {
        true => report.ok("disk", found),
        false => report.warn("disk", found, "data and its seals take twice that: lower db_max_num_sectors"),
    }
}

/// Bytes that the files of a folder take on the disk.
fn folder_bytes(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.fold(0u64, |sum, entry| {
        let size = match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => folder_bytes(&entry.path()),
            // A file may have holes: blocks of 512 bytes are what it takes.
            Ok(metadata) => metadata.blocks().saturating_mul(512),
            Err(_) => 0,
        };
        sum.saturating_add(size)
    })
}

/// Looks at how many files the node may open.
pub(super) fn check_open_files(report: &mut Report) {
    let limit = fs::read_to_string("/proc/self/limits").ok().and_then(|limits| {
        let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
        let soft = line.split_whitespace().next()?;
        if soft == "unlimited" { Some(u64::MAX) } else { soft.parse().ok() }
    });
    match limit {
        None => report.skip("open files", "this system does not say how many may be open"),
        Some(limit) if limit < OPEN_FILES => {
            let found = format!("{limit} may be open at once");
            report.warn(
                "open files",
                found,
                &format!("run ulimit -n {OPEN_FILES} first, or set LimitNOFILE in the unit"),
            )
        }
        Some(u64::MAX) => report.ok("open files", "as many as it wants may be open"),
        Some(limit) => report.ok("open files", format!("{limit} may be open at once")),
    }
}
