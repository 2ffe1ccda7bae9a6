//! The network of a node, started as a whole: identity, connections, discovery.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4},
    path::PathBuf,
    time::Duration,
};

use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};
use tokio::{sync::mpsc, task::JoinHandle, time::timeout};
use tracing::warn;

use super::{
    discovery::{Discovery, DiscoveryConfig, Tuning},
    error::NetError,
    key,
    service::{Limits, NetConfig, NetEvent, NetHandle, NetService, Timeouts},
    wire::Status,
};

/// Time that the name of a node may take to be resolved.
const RESOLVE_TIME: Duration = Duration::from_secs(5);
/// Time that the tasks may take to end.
const STOP_TIME: Duration = Duration::from_secs(5);

/// What a node's network needs to know. Defaults are the network's.
#[derive(Clone, Debug)]
pub struct NetSettings {
    /// Folder of the node's key (`key`) and record (`enr.dat`); it is made when there is none.
    pub dir: PathBuf,
    /// Which network, and what this node keeps.
    pub status: Status,
    /// Address to listen at, for connections and for discovery. Default 0.0.0.0.
    pub listen: Ipv4Addr,
    /// TCP port to listen at; 0 takes any. Default 1234.
    pub tcp_port: u16,
    /// False leaves discovery out. Default true.
    pub has_discovery: bool,
    /// UDP port of discovery; 0 takes any. Default 1234.
    pub discovery_port: u16,
    /// Address at which others reach this node; without it discovery learns it from others. Default `None`.
    pub enr_address: Option<Ipv4Addr>,
    /// TCP port at which others reach this node; `None` is the one that it listens at.
    pub enr_tcp_port: Option<u16>,
    /// UDP port at which others reach this node; `None` is the one that it listens at.
    pub enr_udp_port: Option<u16>,
    /// Nodes to start from: records (`enr:…`) or addresses (`/ip4/…/tcp/…`). One at `/ip4/…/udp/…/p2p/…` is asked for its
    /// record. Of any with `/udp/…` the same port is dialled over TCP, where nodes of the network listen too.
    pub boot_nodes: Vec<String>,
    /// Nodes to stay connected to, `/ip4/…/tcp/…` or `/dns4/…/tcp/…`.
    pub libp2p_nodes: Vec<Multiaddr>,
    /// Peers that are wanted. Default 50.
    pub target_peers: u32,
    /// True for a node that does not tell what it is. Default false.
    pub is_private: bool,
    /// True when the topics about single sectors are subscribed to as well. Default false.
    pub find_chunks: bool,
    /// True when private addresses are dialled and announced: test networks alone. Default false.
    pub private_addresses: bool,
    /// False leaves the network out of the node's record. Default true.
    pub has_enr_identity: bool,
    /// Time between two searches for peers. Default 5 s.
    pub search_period: Duration,
    /// See [`Tuning`].
    pub discovery: Tuning,
    /// See [`Timeouts`].
    pub timeouts: Timeouts,
}

impl NetSettings {
    /// A node with its key in `dir`, with the network's defaults for the rest.
    pub fn new(dir: PathBuf, status: Status) -> Self {
        NetSettings {
            dir,
            status,
            listen: Ipv4Addr::UNSPECIFIED,
            tcp_port: 1234,
            has_discovery: true,
            discovery_port: 1234,
            enr_address: None,
            enr_tcp_port: None,
            enr_udp_port: None,
            boot_nodes: Vec::new(),
            libp2p_nodes: Vec::new(),
            target_peers: 50,
            is_private: false,
            find_chunks: false,
            private_addresses: false,
            has_enr_identity: true,
            search_period: Duration::from_secs(5),
            discovery: Tuning::default(),
            timeouts: Timeouts::default(),
        }
    }

    /// Numbers of connections in the proportions that the network has for 50 peers.
    fn limits(&self) -> Limits {
        let part = |percent: u32| (u64::from(self.target_peers) * u64::from(percent)).div_ceil(100) as u32;
        Limits {
            target: self.target_peers,
            incoming: part(90),
            outgoing: part(110),
            total: part(130),
            ..Limits::default()
        }
    }
}

/// A running network.
pub struct Network {
    /// Speaks to it.
    pub handle: NetHandle,
    /// What it tells; whoever starts it must take them.
    pub events: mpsc::Receiver<NetEvent>,
    /// Where it listens for connections.
    pub address: Multiaddr,
    /// The tasks behind it.
    pub tasks: NetTasks,
}

/// The tasks of a running network.
pub struct NetTasks {
    handle: NetHandle,
    service: JoinHandle<Result<(), NetError>>,
    discovery: Option<JoinHandle<()>>,
    record: Option<String>,
}

impl NetTasks {
    /// The node's record as text, if it takes part in discovery.
    pub fn record(&self) -> Option<&str> {
        self.record.as_deref()
    }

    /// Waits until the network ends, which it does on its own only when it fails.
    pub async fn ended(&mut self) -> Result<(), NetError> {
        (&mut self.service).await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    }

    /// Says goodbye to all peers and ends the tasks.
    pub async fn stop(mut self) {
        // An error says that it has ended already.
        let _ = self.handle.shutdown().await;
        if timeout(STOP_TIME, &mut self.service).await.is_err() {
            warn!("the network did not end in {STOP_TIME:?} and is cut off");
            self.service.abort();
        }
        if let Some(discovery) = self.discovery.take() {
            discovery.abort();
        }
    }
}

impl Drop for NetTasks {
    fn drop(&mut self) {
        self.service.abort();
        if let Some(discovery) = &self.discovery {
            discovery.abort();
        }
    }
}

/// Loads or makes the node's key, listens, dials the nodes to start from, and joins discovery.
///
/// Fails when the key cannot be used, an address cannot be listened at, or a boot node makes no sense.
pub async fn start(settings: NetSettings) -> Result<Network, NetError> {
    let failed = |source| NetError::KeyFile { path: settings.dir.clone(), source };
    fs::create_dir_all(&settings.dir).map_err(failed)?;
    let key = key::load_or_create(&settings.dir.join("key"))?;
    let mut config = NetConfig::new(key.clone(), settings.status);
    let listen = Multiaddr::from(settings.listen).with(Protocol::Tcp(settings.tcp_port));
    config.listen = vec![listen];
    config.private_addresses = settings.private_addresses;
    config.find_chunks = settings.find_chunks;
    config.limits = settings.limits();
    config.timeouts = settings.timeouts;
    if settings.is_private {
        config.protocol = String::new();
        config.agent = String::new();
    }
    let boot = sort_boot_nodes(&settings.boot_nodes)?;
    for address in boot.to_dial.into_iter().chain(settings.libp2p_nodes.clone()) {
        match resolve(&address).await {
            Some(address) => config.boot_nodes.push(address),
            None => warn!(%address, "this node's name has no address now; it is left out"),
        }
    }

    let (service, handle, mut events) = NetService::new(config)?;
    let service = tokio::spawn(service.run());
    // The first event of a service that listens.
    let Some(NetEvent::Listening(address)) = events.recv().await else { return Err(NetError::NoListener) };
    let tasks = NetTasks { handle: handle.clone(), service, discovery: None, record: None };
    let mut network = Network { handle, events, address, tasks };
    if settings.has_discovery {
        let discovery = DiscoveryConfig {
            key,
            identity: settings.status.identity,
            listen: SocketAddrV4::new(settings.listen, settings.discovery_port),
            ip: settings.enr_address,
            tcp_port: settings.enr_tcp_port.or(tcp_port(&network.address)).unwrap_or(settings.tcp_port),
            record_file: Some(settings.dir.join("enr.dat")),
            boot_records: boot.records,
            boot_addresses: boot.to_ask,
            target: settings.target_peers as usize,
            period: settings.search_period,
            private_addresses: settings.private_addresses,
            udp_port: settings.enr_udp_port,
            has_identity: settings.has_enr_identity,
            tuning: settings.discovery,
        };
        let discovery = Discovery::start(discovery).await?;
        network.tasks.record = Some(discovery.record());
        network.tasks.discovery = Some(tokio::spawn(discovery.run(network.handle.clone())));
    }
    Ok(network)
}

fn tcp_port(address: &Multiaddr) -> Option<u16> {
    address.iter().find_map(|part| match part {
        Protocol::Tcp(port) => Some(port),
        _ => None,
    })
}

/// Nodes to start from, by what is done with them.
#[derive(Debug, Default, PartialEq, Eq)]
struct BootNodes {
    /// Records of discovery, as text.
    records: Vec<String>,
    /// Addresses in discovery that are asked for their record.
    to_ask: Vec<Multiaddr>,
    /// TCP addresses that are dialled.
    to_dial: Vec<Multiaddr>,
}

fn sort_boot_nodes(nodes: &[String]) -> Result<BootNodes, NetError> {
    let mut sorted = BootNodes::default();
    for text in nodes {
        if text.starts_with("enr:") {
            sorted.records.push(text.clone());
            continue;
        }
        let refused = |reason: String| NetError::BootNode { text: text.clone(), reason };
        let address: Multiaddr = text.parse().map_err(|error| refused(format!("{error}")))?;
        let has = |is_so: fn(&Protocol<'_>) -> bool| address.iter().any(|part| is_so(&part));
        let is_udp = has(|part| matches!(part, Protocol::Udp(_)));
        if !is_udp && !has(|part| matches!(part, Protocol::Tcp(_))) {
            return Err(refused("it has no port".into()));
        }
        if is_udp && peer_of(&address).is_some() && has(|part| matches!(part, Protocol::Ip4(_) | Protocol::Ip6(_))) {
            sorted.to_ask.push(address.clone());
        }
        let to_tcp = |part| match part {
            Protocol::Udp(port) => Protocol::Tcp(port),
            other => other,
        };
        sorted.to_dial.push(address.iter().map(to_tcp).collect());
    }
    Ok(sorted)
}

/// The address with a name at its front replaced by what the name means now; `None` when it means nothing.
async fn resolve(address: &Multiaddr) -> Option<Multiaddr> {
    let mut parts = address.iter();
    let name = match parts.next()? {
        Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name) => name.into_owned(),
        _ => return Some(address.clone()),
    };
    let wants = address.iter().next();
    let fits = |found: &SocketAddr| match wants {
        Some(Protocol::Dns4(_)) => found.is_ipv4(),
        Some(Protocol::Dns6(_)) => found.is_ipv6(),
        _ => true,
    };
    let found = timeout(RESOLVE_TIME, tokio::net::lookup_host((name, 0))).await.ok()?.ok()?;
    let ip: IpAddr = found.into_iter().find(fits)?.ip();
    Some(parts.fold(Multiaddr::from(ip), |address, part| address.with(part)))
}

/// The peer id that an address ends with.
pub(super) fn peer_of(address: &Multiaddr) -> Option<PeerId> {
    match address.iter().last() {
        Some(Protocol::P2p(peer)) => Some(peer),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_nodes_are_records_or_addresses() {
        let known = "/ip4/5.6.7.8/udp/1234/p2p/16Uiu2HAmLkGFUbNFYdhuSbTQ5hmnPjFXx2zUDtwQ2uihHpN9YNNe";
        let texts = ["enr:-abc", "/ip4/1.2.3.4/udp/1234", known, "/dns4/node.example/tcp/9"].map(String::from);
        let sorted = sort_boot_nodes(&texts).unwrap();
        let addresses = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<Multiaddr>>();
        assert_eq!(sorted.records, ["enr:-abc"]);
        assert_eq!(sorted.to_ask, addresses(&[known]));
        let dialled = ["/ip4/1.2.3.4/tcp/1234", &known.replace("udp", "tcp"), "/dns4/node.example/tcp/9"];
        assert_eq!(sorted.to_dial, addresses(&dialled));
        for wrong in ["1.2.3.4:1234", "/ip4/1.2.3.4", ""] {
            assert!(matches!(sort_boot_nodes(&[wrong.into()]), Err(NetError::BootNode { .. })), "{wrong}");
        }
    }

    #[tokio::test]
    async fn names_are_resolved() {
        let address = |text: &str| text.parse::<Multiaddr>().unwrap();
        let plain = address("/ip4/1.2.3.4/tcp/1");
        assert_eq!(resolve(&plain).await, Some(plain));
        assert_eq!(resolve(&address("/dns4/localhost/tcp/7")).await, Some(address("/ip4/127.0.0.1/tcp/7")));
        assert_eq!(resolve(&address("/dns4/nobody.invalid/tcp/7")).await, None);
    }
}
