//! Finding peers: discv5, with records that say which network a node belongs to.
//!
//! A record (ENR) carries `ip`, `udp`, `tcp`, the secp256k1 key of the node's identity, and `network_identity`, an RLP byte
//! string of the 31 bytes of [`NetworkIdentity`]. Nodes whose records lack it, or carry another one, are not dialled.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use discv5::{ConfigBuilder, Discv5, Enr, ListenConfig};
use enr::{CombinedKey, EnrPublicKey, NodeId};
use libp2p::{
    Multiaddr, PeerId,
    identity::{Keypair, PublicKey, secp256k1},
    multiaddr::Protocol,
};
use tracing::{debug, warn};

use super::{
    error::NetError,
    service::NetHandle,
    wire::{NetworkIdentity, gossip::is_public},
};

/// Key of the network's identity in a record.
const IDENTITY_KEY: &str = "network_identity";
/// RLP marks a byte string of up to 55 bytes by its length added to this.
const RLP_SHORT_STRING: u8 = 0x80;
/// Records that one search looks for.
const RECORDS_PER_SEARCH: usize = 16;

/// What discovery needs to know.
#[derive(Clone, Debug)]
pub struct DiscoveryConfig {
    /// The node's identity, the same as on the network.
    pub key: Keypair,
    /// Which network.
    pub identity: NetworkIdentity,
    /// UDP address to listen on.
    pub listen: SocketAddrV4,
    /// Address at which others reach this node; without it they tell us what they see.
    pub ip: Option<Ipv4Addr>,
    /// TCP port at which others reach this node.
    pub tcp_port: u16,
    /// Where the node's record is kept between runs, as text.
    pub record_file: Option<PathBuf>,
    /// Records of nodes to start from, as text.
    pub boot_records: Vec<String>,
    /// Nodes to start from whose record is not known, `/ip4/…/udp/…/p2p/…`: they are asked for it.
    pub boot_addresses: Vec<Multiaddr>,
    /// Peers that are wanted: with fewer, discovery goes on searching.
    pub target: usize,
    /// Time between two searches.
    pub period: Duration,
    /// UDP port at which others reach this node; `None` when it is the one that it listens on.
    pub udp_port: Option<u16>,
    /// False leaves the network out of the record and takes records without it: nodes of today refuse such a record.
    pub has_identity: bool,
    /// See [`Tuning`].
    pub tuning: Tuning,
    /// True when private addresses are dialled, and many nodes may share one: test networks alone.
    pub private_addresses: bool,
}

/// How discv5 goes about it.
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    /// Limit of one request. Default 5 s.
    pub request_timeout: Duration,
    /// Time after which a search goes on without the answer of a node. Default 2 s.
    pub query_peer_timeout: Duration,
    /// Times that a request is sent again. Default 1.
    pub request_retries: u8,
    /// Nodes that a search asks at once. Default 5.
    pub query_parallelism: usize,
    /// True when found records are reported as they come. Default false.
    pub reports_discovered_peers: bool,
    /// True when packets are limited by node and address. Default true.
    pub has_packet_filter: bool,
    /// True when few nodes of one /24 network are kept. Default true.
    pub has_ip_limit: bool,
}

impl Default for Tuning {
    fn default() -> Self {
        Tuning {
            request_timeout: Duration::from_secs(5),
            query_peer_timeout: Duration::from_secs(2),
            request_retries: 1,
            query_parallelism: 5,
            reports_discovered_peers: false,
            has_packet_filter: true,
            has_ip_limit: true,
        }
    }
}

/// Why there is no discovery.
#[derive(Debug, thiserror::Error)]
pub enum DiscoveryError {
    /// The key is not of the kind that records are signed with.
    #[error("the network key is no secp256k1 key")]
    Key,
    /// The record cannot be made.
    #[error("the node's record cannot be made: {0}")]
    Record(#[from] enr::Error),
    /// A boot record cannot be used.
    #[error("boot record {text}: {reason}")]
    BootRecord {
        /// As given.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The record's file cannot be read or written.
    #[error("the node's record {path} cannot be kept: {source}", path = .path.display())]
    RecordFile {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The socket cannot be opened.
    #[error("discovery cannot listen on {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddrV4,
        /// What the system says.
        source: io::Error,
    },
    /// The service does not start.
    #[error("discovery does not start: {0}")]
    Start(discv5::Error),
}

/// RLP byte string of an identity.
fn identity_rlp(identity: &NetworkIdentity) -> Vec<u8> {
    let bytes = identity.to_bytes();
    [&[RLP_SHORT_STRING + bytes.len() as u8], &bytes[..]].concat()
}

/// True when the record belongs to that network.
pub fn is_of_network(record: &Enr, identity: &NetworkIdentity) -> bool {
    record.get_raw_rlp(IDENTITY_KEY) == Some(&identity_rlp(identity)[..])
}

/// Where the node of a record is dialled, with its peer id.
pub fn dial_address(record: &Enr) -> Option<(PeerId, Multiaddr)> {
    let socket = record.tcp4_socket()?;
    let key = secp256k1::PublicKey::try_from_bytes(&record.public_key().encode()).ok()?;
    let peer = PublicKey::from(key).to_peer_id();
    Some((peer, Multiaddr::from(*socket.ip()).with(Protocol::Tcp(socket.port())).with(Protocol::P2p(peer))))
}

fn is_table_worthy(record: &Enr) -> bool {
    record.get_raw_rlp(IDENTITY_KEY).is_some()
}

/// The record to start with: the one in the file while it says the same, else a new one with the next sequence number.
fn make_record(config: &DiscoveryConfig, udp_port: u16, key: &CombinedKey) -> Result<Enr, DiscoveryError> {
    let stored = config.record_file.as_deref().map(read_record).transpose()?.flatten();
    let build = |sequence: u64| {
        let mut builder = Enr::builder();
        builder.seq(sequence).udp4(config.udp_port.unwrap_or(udp_port)).tcp4(config.tcp_port);
        if let Some(ip) = config.ip {
            builder.ip4(ip);
        }
        if config.has_identity {
            builder.add_value_rlp(IDENTITY_KEY, identity_rlp(&config.identity).into());
        }
        builder.build(key)
    };
    let sequence = stored.as_ref().map_or(1, Enr::seq);
    let record = build(sequence)?;
    if stored.is_some_and(|stored| stored.compare_content(&record)) {
        return Ok(record);
    }
    let record = build(sequence.saturating_add(1))?;
    if let Some(path) = &config.record_file {
        write_record(path, &record)?;
    }
    Ok(record)
}

/// The record in a file; `None` when there is no file, or none that can be read.
fn read_record(path: &Path) -> Result<Option<Enr>, DiscoveryError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text.trim().parse().ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(DiscoveryError::RecordFile { path: path.to_path_buf(), source }),
    }
}

/// Written aside and renamed, so that a crash cannot lose the sequence number.
fn write_record(path: &Path, record: &Enr) -> Result<(), DiscoveryError> {
    let aside = path.with_extension("new");
    let written = fs::write(&aside, record.to_base64()).and_then(|()| fs::rename(&aside, path));
    written.map_err(|source| DiscoveryError::RecordFile { path: path.to_path_buf(), source })
}

fn parse_boot_record(text: &str, identity: Option<&NetworkIdentity>) -> Result<Enr, DiscoveryError> {
    let refused = |reason: String| DiscoveryError::BootRecord { text: text.into(), reason };
    let record: Enr = text.parse().map_err(refused)?;
    match identity.is_none_or(|identity| is_of_network(&record, identity)) {
        true => Ok(record),
        false => Err(refused("it belongs to another network, or to none".into())),
    }
}

/// Looks for peers while there are too few, and has them dialled.
pub struct Discovery {
    discv5: Discv5,
    config: DiscoveryConfig,
}

impl Discovery {
    /// Opens the socket and joins the network through the boot records.
    pub async fn start(config: DiscoveryConfig) -> Result<Self, DiscoveryError> {
        let secret = config.key.clone().try_into_secp256k1().map_err(|_| DiscoveryError::Key)?.secret().to_bytes();
        let key = CombinedKey::secp256k1_from_bytes(&mut { secret }).map_err(|_| DiscoveryError::Key)?;
        let boot_records: Vec<Enr> = config
            .boot_records
            .iter()
            .map(|text| parse_boot_record(text, config.has_identity.then_some(&config.identity)))
            .collect::<Result<_, _>>()?;
        let failed = |source| DiscoveryError::Listen { address: config.listen, source };
        let socket = UdpSocket::bind(config.listen).map_err(failed)?;
        socket.set_nonblocking(true).map_err(failed)?;
        let udp_port = socket.local_addr().map_err(failed)?.port();
        let socket = tokio::net::UdpSocket::from_std(socket).map_err(failed)?;
        let record = make_record(&config, udp_port, &key)?;

        let listen = ListenConfig::FromSockets { ipv4: Some(Arc::new(socket)), ipv6: None };
        let mut settings = ConfigBuilder::new(listen);
        let tuning = config.tuning;
        settings
            .request_timeout(tuning.request_timeout)
            .query_peer_timeout(tuning.query_peer_timeout)
            .query_timeout(Duration::from_secs(30))
            .request_retries(tuning.request_retries)
            .query_parallelism(tuning.query_parallelism)
            .session_cache_capacity(5000)
            .enr_peer_update_min(10)
            .incoming_bucket_limit(8)
            .ping_interval(Duration::from_secs(300));
        if !tuning.reports_discovered_peers {
            settings.disable_report_discovered_peers();
        }
        if config.has_identity {
            settings.table_filter(is_table_worthy);
        }
        if tuning.has_packet_filter && !config.private_addresses {
            settings.enable_packet_filter();
        }
        if tuning.has_ip_limit && !config.private_addresses {
            settings.ip_limit();
        }
        let mut discv5 = Discv5::new(record, key, settings.build()).map_err(|reason| {
            debug!(reason, "record refused");
            DiscoveryError::Key
        })?;
        discv5.start().await.map_err(DiscoveryError::Start)?;
        for record in boot_records {
            if let Err(reason) = discv5.add_enr(record) {
                debug!(reason, "boot record not added");
            }
        }
        Ok(Discovery { discv5, config })
    }

    /// The node's record now, as text: its address may have been learned from others.
    pub fn record(&self) -> String {
        self.discv5.local_enr().to_base64()
    }

    /// Where enough others agree that they see this node, with the port at which it is to be reached; `None` where that is
    /// configured.
    fn seen_at(&self) -> Option<Multiaddr> {
        let ip = self.discv5.local_enr().ip4().filter(|_| self.config.ip.is_none())?;
        Some(Multiaddr::from(ip).with(Protocol::Tcp(self.config.tcp_port)))
    }

    /// Searches until the network has been shut down.
    pub async fn run(self, net: NetHandle) {
        let mut unknown = self.config.boot_addresses.clone();
        while let Ok(peers) = net.peers().await {
            net.set_seen_at(self.seen_at());
            if peers.len() < self.config.target {
                self.ask_for_records(&mut unknown).await;
                if self.search(&net).await.is_err() {
                    return;
                }
            }
            tokio::time::sleep(self.config.period).await;
        }
    }

    /// Asks nodes for their records, all at once, and keeps in `unknown` those that did not answer.
    async fn ask_for_records(&self, unknown: &mut Vec<Multiaddr>) {
        let asked = unknown.drain(..).map(|address| async {
            let record = self.discv5.request_enr(address.clone()).await;
            (address, record)
        });
        for (address, record) in futures::future::join_all(asked).await {
            match record {
                Ok(record) if self.config.has_identity && !is_of_network(&record, &self.config.identity) => {
                    warn!(%address, "this boot node belongs to another network, or to none; it is left out");
                }
                Ok(record) => {
                    if let Err(reason) = self.discv5.add_enr(record) {
                        debug!(%address, reason, "boot record not added");
                    }
                }
                Err(error) => {
                    debug!(%address, %error, "no record of this boot node yet");
                    unknown.push(address);
                }
            }
        }
    }

    async fn search(&self, net: &NetHandle) -> Result<(), NetError> {
        let identity = self.config.identity;
        let has_identity = self.config.has_identity;
        let is_wanted = move |record: &Enr| !has_identity || is_of_network(record, &identity);
        let found =
            match self.discv5.find_node_predicate(NodeId::random(), Box::new(is_wanted), RECORDS_PER_SEARCH).await {
                Ok(found) => found,
                Err(error) => {
                    debug!(%error, "search failed");
                    return Ok(());
                }
            };
        let connected = net.peers().await?;
        let addresses = found.iter().filter(|record| is_wanted(record)).filter_map(dial_address);
        for (peer, address) in addresses {
            let is_known = peer == net.local_peer() || connected.iter().any(|info| info.peer == peer);
            if !is_known && (self.config.private_addresses || is_public(&address)) {
                net.dial(address).await?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::wire::PROTOCOL_VERSION;

    fn identity(chain_id: u64) -> NetworkIdentity {
        NetworkIdentity { chain_id, flow_address: [5; 20], version: PROTOCOL_VERSION }
    }

    fn config(record_file: PathBuf) -> DiscoveryConfig {
        DiscoveryConfig {
            key: Keypair::generate_secp256k1(),
            identity: identity(16661),
            listen: SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0),
            ip: Some(Ipv4Addr::new(1, 2, 3, 4)),
            tcp_port: 1234,
            record_file: Some(record_file),
            boot_records: vec![],
            boot_addresses: vec![],
            target: 5,
            period: Duration::from_secs(5),
            private_addresses: false,
            udp_port: None,
            has_identity: true,
            tuning: Tuning::default(),
        }
    }

    #[test]
    fn a_record_says_which_network_and_where() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path().join("enr.dat"));
        let secret = config.key.clone().try_into_secp256k1().unwrap().secret().to_bytes();
        let key = CombinedKey::secp256k1_from_bytes(&mut { secret }).unwrap();
        let record = make_record(&config, 999, &key).unwrap();
        assert!(is_of_network(&record, &identity(16661)) && !is_of_network(&record, &identity(1)));
        let raw = record.get_raw_rlp("network_identity").unwrap();
        assert_eq!((raw.len(), raw[0], &raw[1..]), (32, 0x9f, &identity(16661).to_bytes()[..]));
        let peer = config.key.public().to_peer_id();
        let address: Multiaddr = format!("/ip4/1.2.3.4/tcp/1234/p2p/{peer}").parse().unwrap();
        assert_eq!(dial_address(&record), Some((peer, address)));

        // The same content keeps its number; other content, or another network, gets the next one.
        assert_eq!(make_record(&config, 999, &key).unwrap().seq(), record.seq());
        let moved = make_record(&config, 1000, &key).unwrap();
        assert_eq!(moved.seq(), record.seq() + 1);
        let other = DiscoveryConfig { identity: identity(1), ..config.clone() };
        assert_eq!(make_record(&other, 1000, &key).unwrap().seq(), record.seq() + 2);
        fs::write(dir.path().join("enr.dat"), "no record").unwrap();
        make_record(&config, 999, &key).unwrap();

        let text = record.to_base64();
        assert!(parse_boot_record(&text, Some(&identity(16661))).is_ok());
        for (text, identity) in [(text.as_str(), identity(1)), ("enr:-nothing", identity(16661))] {
            assert!(matches!(parse_boot_record(text, Some(&identity)), Err(DiscoveryError::BootRecord { .. })));
        }
        let nowhere = Enr::empty(&key).unwrap();
        assert!(dial_address(&nowhere).is_none() && !is_table_worthy(&nowhere));
    }
}
