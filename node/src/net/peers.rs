//! Peers and their standing: a score that falls with each offence and heals with time, and bans.
//!
//! Pure: the time is given with each call. Source: the network's peer management; a node that judges its peers as they
//! judge it keeps them.

use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use libp2p::{Multiaddr, PeerId};

use super::wire::ShardConfig;

/// Lowest score; new peers have 0.
const MIN_SCORE: f64 = -100.0;
/// Below that a peer is disconnected.
const MIN_SCORE_CONNECTED: f64 = -20.0;
/// Below that a peer is banned.
const MIN_SCORE_NOT_BANNED: f64 = -50.0;
/// Time in which a score goes half the way back to 0.
const HALF_LIFE: Duration = Duration::from_secs(600);
/// A ban's score does not heal before that.
const BAN_TIME: Duration = Duration::from_secs(12 * 3600);
/// Disconnected peers that are remembered.
const MAX_DISCONNECTED: usize = 500;
/// Banned peers that are remembered.
const MAX_BANNED: usize = 1000;
/// More banned peers than these at one IP address ban the address.
const MAX_BANNED_AT_IP: usize = 5;
/// IP addresses that are remembered of one peer.
const MAX_IPS: usize = 8;
/// How long it is remembered which shard a peer that went away keeps.
const SHARD_MEMORY: Duration = Duration::from_secs(3600);

/// How bad an offence is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offence {
    /// Banned at once.
    Fatal,
    /// Banned after 6 of them.
    Low,
    /// Banned after 11 of them.
    Mid,
    /// Banned after 51 of them.
    High,
}

impl Offence {
    fn penalty(self) -> f64 {
        match self {
            Offence::Fatal => 2.0 * -MIN_SCORE,
            Offence::Low => 10.0,
            Offence::Mid => 5.0,
            Offence::High => 1.0,
        }
    }
}

/// What a score means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Welcome.
    Good,
    /// To be disconnected.
    Poor,
    /// To be disconnected and refused.
    Banned,
}

/// A connected peer.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerInfo {
    /// Who.
    pub peer: PeerId,
    /// Its IP address.
    pub ip: Option<IpAddr>,
    /// True when we dialled it.
    pub is_outgoing: bool,
    /// What it keeps; `None` before the handshake.
    pub shard: Option<ShardConfig>,
    /// Its score now.
    pub score: f64,
}

/// How a peer describes itself. Nothing of it is proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientInfo {
    /// Version of the protocol family, such as `eth2/1.0.0`.
    pub protocol: String,
    /// What runs there, such as `zgs/v1.0.0/x86_64-linux`.
    pub agent: String,
    /// Where it says that it listens.
    pub addresses: Vec<Multiaddr>,
}

/// What is known of a peer, connected or not.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerRecord {
    /// Who.
    pub peer: PeerId,
    /// True while there is a connection.
    pub is_connected: bool,
    /// True while it is refused.
    pub is_banned: bool,
    /// Whether we dialled it, the last time; `None` when it was never connected.
    pub is_outgoing: Option<bool>,
    /// IP addresses from which it came.
    pub ips: Vec<IpAddr>,
    /// What it keeps, as far as it told.
    pub shard: Option<ShardConfig>,
    /// How it describes itself.
    pub client: Option<ClientInfo>,
    /// Time since it was last seen; zero while it is connected.
    pub unseen: Duration,
    /// Its score now.
    pub score: f64,
}

struct Peer {
    score: f64,
    scored_at: Instant,
    banned_at: Option<Instant>,
    ips: Vec<IpAddr>,
    /// Set by the handshake of this connection.
    shard: Option<ShardConfig>,
    /// Set by any handshake, and when.
    last_shard: Option<(ShardConfig, Instant)>,
    client: Option<ClientInfo>,
    connection: Option<Connection>,
    was_outgoing: Option<bool>,
    met_at: Option<Instant>,
    seen_at: Instant,
}

struct Connection {
    is_outgoing: bool,
    since: Instant,
}

impl Peer {
    fn new(now: Instant) -> Self {
        Peer {
            score: 0.0,
            scored_at: now,
            banned_at: None,
            ips: Vec::new(),
            shard: None,
            last_shard: None,
            client: None,
            connection: None,
            was_outgoing: None,
            met_at: None,
            seen_at: now,
        }
    }

    fn score(&self, now: Instant) -> f64 {
        let heals_from = self.banned_at.map_or(self.scored_at, |at| at + BAN_TIME);
        let healed = now.saturating_duration_since(heals_from).as_secs_f64() / HALF_LIFE.as_secs_f64();
        self.score * (-healed).exp2()
    }

    fn standing(&self, now: Instant) -> Standing {
        match self.score(now) {
            score if score < MIN_SCORE_NOT_BANNED => Standing::Banned,
            score if score < MIN_SCORE_CONNECTED => Standing::Poor,
            _ => Standing::Good,
        }
    }
}

/// All peers that are connected or remembered.
#[derive(Default)]
pub struct PeerTable {
    peers: HashMap<PeerId, Peer>,
}

impl PeerTable {
    fn entry(&mut self, peer: PeerId, now: Instant) -> &mut Peer {
        self.peers.entry(peer).or_insert_with(|| Peer::new(now))
    }

    /// A connection came up.
    pub fn connect(&mut self, peer: PeerId, ip: Option<IpAddr>, is_outgoing: bool, now: Instant) {
        let entry = self.entry(peer, now);
        if let Some(ip) = ip {
            // The newest is the last one.
            entry.ips.retain(|known| *known != ip);
            if entry.ips.len() == MAX_IPS {
                entry.ips.remove(0);
            }
            entry.ips.push(ip);
        }
        entry.connection = Some(Connection { is_outgoing, since: now });
        entry.was_outgoing = Some(is_outgoing);
        entry.met_at = Some(now);
        entry.shard = None;
    }

    /// When the last connection to a peer came up.
    pub fn met_at(&self, peer: &PeerId) -> Option<Instant> {
        self.peers.get(peer)?.met_at
    }

    /// The connection went down. True when the handshake had been done.
    pub fn disconnect(&mut self, peer: &PeerId, now: Instant) -> bool {
        let Some(entry) = self.peers.get_mut(peer) else { return false };
        let was_known = entry.connection.take().is_some() && entry.shard.is_some();
        entry.seen_at = now;
        self.forget(now);
        was_known
    }

    /// The handshake told what the peer keeps, or it has changed. True when it is the first time in this connection.
    pub fn set_shard(&mut self, peer: &PeerId, shard: ShardConfig, now: Instant) -> bool {
        self.remember_shard(peer, shard, now);
        match self.peers.get_mut(peer) {
            Some(entry) if entry.connection.is_some() => entry.shard.replace(shard).is_none(),
            _ => false,
        }
    }

    /// Notes what a peer keeps, whether or not it is one of ours.
    pub fn remember_shard(&mut self, peer: &PeerId, shard: ShardConfig, now: Instant) {
        if let Some(entry) = self.peers.get_mut(peer) {
            entry.last_shard = Some((shard, now));
        }
    }

    /// What a peer kept when it was last heard of, if that is not long ago.
    pub fn remembered_shard(&self, peer: &PeerId, now: Instant) -> Option<ShardConfig> {
        let (shard, at) = self.peers.get(peer)?.last_shard?;
        (now.saturating_duration_since(at) < SHARD_MEMORY).then_some(shard)
    }

    /// Notes how a peer describes itself.
    pub fn set_client(&mut self, peer: &PeerId, client: ClientInfo) {
        if let Some(entry) = self.peers.get_mut(peer) {
            entry.client = Some(client);
        }
    }

    /// What a connected peer keeps; `None` before the handshake.
    pub fn shard(&self, peer: &PeerId) -> Option<ShardConfig> {
        self.peers.get(peer).filter(|entry| entry.connection.is_some())?.shard
    }

    /// Notes an offence and tells where it leaves the peer.
    pub fn punish(&mut self, peer: PeerId, offence: Offence, now: Instant) -> Standing {
        let entry = self.entry(peer, now);
        let was_banned = entry.standing(now) == Standing::Banned;
        entry.score = (entry.score(now) - offence.penalty()).max(MIN_SCORE);
        entry.scored_at = now;
        let standing = entry.standing(now);
        if standing == Standing::Banned && !was_banned {
            entry.banned_at = Some(now);
        }
        if standing != Standing::Banned {
            entry.banned_at = None;
        }
        self.forget(now);
        standing
    }

    /// The peer's standing; `Good` for one not known.
    pub fn standing(&self, peer: &PeerId, now: Instant) -> Standing {
        self.peers.get(peer).map_or(Standing::Good, |entry| entry.standing(now))
    }

    /// True when too many banned peers came from this address.
    pub fn is_ip_banned(&self, ip: IpAddr, now: Instant) -> bool {
        let banned =
            self.peers.values().filter(|entry| entry.ips.contains(&ip) && entry.standing(now) == Standing::Banned);
        banned.count() > MAX_BANNED_AT_IP
    }

    /// Connected peers.
    pub fn connected(&self, now: Instant) -> Vec<PeerInfo> {
        let info = |(peer, entry): (&PeerId, &Peer)| {
            let connection = entry.connection.as_ref()?;
            Some(PeerInfo {
                peer: *peer,
                ip: entry.ips.last().copied(),
                is_outgoing: connection.is_outgoing,
                shard: entry.shard,
                score: entry.score(now),
            })
        };
        self.peers.iter().filter_map(info).collect()
    }

    /// All peers that are connected or remembered.
    pub fn records(&self, now: Instant) -> Vec<PeerRecord> {
        let record = |(peer, entry): (&PeerId, &Peer)| PeerRecord {
            peer: *peer,
            is_connected: entry.connection.is_some(),
            is_banned: entry.standing(now) == Standing::Banned,
            is_outgoing: entry.was_outgoing,
            ips: entry.ips.clone(),
            shard: entry.shard.or(entry.last_shard.map(|(shard, _)| shard)),
            client: entry.client.clone(),
            unseen: match entry.connection {
                Some(_) => Duration::ZERO,
                None => now.saturating_duration_since(entry.seen_at),
            },
            score: entry.score(now),
        };
        self.peers.iter().map(record).collect()
    }

    /// Number of connected peers.
    pub fn connected_count(&self) -> usize {
        self.peers.values().filter(|entry| entry.connection.is_some()).count()
    }

    /// Peers that are connected for longer than `patience` and have not done the handshake.
    pub fn silent(&self, patience: Duration, now: Instant) -> Vec<PeerId> {
        let is_silent = |entry: &Peer| {
            let connection = entry.connection.as_ref();
            entry.shard.is_none() && connection.is_some_and(|it| now.saturating_duration_since(it.since) > patience)
        };
        self.peers.iter().filter(|(_, entry)| is_silent(entry)).map(|(peer, _)| *peer).collect()
    }

    /// Connected peers beyond `target`, the lowest scores first.
    pub fn excess(&self, target: usize, now: Instant) -> Vec<PeerId> {
        let mut connected = self.connected(now);
        connected.sort_by(|a, b| a.score.total_cmp(&b.score));
        connected.truncate(connected.len().saturating_sub(target));
        connected.into_iter().map(|info| info.peer).collect()
    }

    /// Forgets the peers that were seen longest ago, beyond what is remembered.
    fn forget(&mut self, now: Instant) {
        for (is_banned, limit) in [(false, MAX_DISCONNECTED), (true, MAX_BANNED)] {
            let is_one =
                |entry: &Peer| entry.connection.is_none() && (entry.standing(now) == Standing::Banned) == is_banned;
            // Peers come one by one, so at most one is above the limit.
            if self.peers.values().filter(|entry| is_one(entry)).count() > limit {
                let oldest =
                    self.peers.iter().filter(|(_, entry)| is_one(entry)).min_by_key(|(_, entry)| entry.seen_at);
                if let Some(peer) = oldest.map(|(peer, _)| *peer) {
                    self.peers.remove(&peer);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(1, 2, 3, 4));

    #[test]
    fn scores_fall_with_offences_and_heal_with_time() {
        let (mut table, peer, start) = (PeerTable::default(), PeerId::random(), Instant::now());
        assert_eq!(table.standing(&peer, start), Standing::Good);
        let standings: Vec<_> = (0..6).map(|_| table.punish(peer, Offence::Low, start)).collect();
        use Standing::{Banned, Good, Poor};
        assert_eq!(standings, [Good, Good, Poor, Poor, Poor, Banned]);
        // A ban does not heal before its time is over.
        assert_eq!(table.standing(&peer, start + BAN_TIME), Banned);
        assert_eq!(table.standing(&peer, start + BAN_TIME + HALF_LIFE), Poor);
        assert_eq!(table.standing(&peer, start + BAN_TIME + 2 * HALF_LIFE), Good);

        let other = PeerId::random();
        assert_eq!((0..30).map(|_| table.punish(other, Offence::High, start)).last(), Some(Poor));
        assert_eq!(table.standing(&other, start + HALF_LIFE), Good);
        assert_eq!(table.punish(PeerId::random(), Offence::Fatal, start), Banned);
    }

    #[test]
    fn a_second_offence_does_not_start_the_ban_again() {
        let (mut table, peer, start) = (PeerTable::default(), PeerId::random(), Instant::now());
        table.punish(peer, Offence::Fatal, start);
        table.punish(peer, Offence::High, start + BAN_TIME / 2);
        assert_eq!(table.standing(&peer, start + BAN_TIME + 3 * HALF_LIFE), Standing::Good);
    }

    #[test]
    fn many_banned_peers_ban_their_address() {
        let (mut table, now) = (PeerTable::default(), Instant::now());
        for count in 0..7 {
            assert_eq!(table.is_ip_banned(IP, now), count > MAX_BANNED_AT_IP, "{count}");
            let peer = PeerId::random();
            table.connect(peer, Some(IP), false, now);
            table.punish(peer, Offence::Fatal, now);
            assert!(!table.disconnect(&peer, now));
        }
        assert!(!table.is_ip_banned(IP, now + BAN_TIME + 3 * HALF_LIFE));
    }

    #[test]
    fn memory_is_bounded_and_connected_peers_stay() {
        let (mut table, start) = (PeerTable::default(), Instant::now());
        let connected = PeerId::random();
        table.connect(connected, None, true, start);
        for second in 0..2000 {
            let (peer, now) = (PeerId::random(), start + Duration::from_millis(second));
            table.connect(peer, Some(IP), false, now);
            if second % 2 == 0 {
                table.punish(peer, Offence::Fatal, now);
            }
            table.disconnect(&peer, now);
            table.punish(PeerId::random(), Offence::Fatal, now);
        }
        assert_eq!(table.peers.len(), 1 + MAX_DISCONNECTED + MAX_BANNED);
        assert_eq!(table.connected_count(), 1);
    }

    #[test]
    fn silent_and_excess_peers_are_found() {
        let (mut table, start) = (PeerTable::default(), Instant::now());
        let peers: Vec<PeerId> = (0..3).map(|_| PeerId::random()).collect();
        for peer in &peers {
            table.connect(*peer, None, false, start);
        }
        assert!(table.set_shard(&peers[0], ShardConfig::WHOLE, start));
        assert!(!table.set_shard(&peers[0], ShardConfig::WHOLE, start));
        assert!(!table.set_shard(&PeerId::random(), ShardConfig::WHOLE, start));
        let later = start + Duration::from_secs(11);
        let mut silent = table.silent(Duration::from_secs(10), later);
        silent.sort();
        let mut expected = peers[1..].to_vec();
        expected.sort();
        assert_eq!(silent, expected);
        table.punish(peers[2], Offence::High, later);
        assert_eq!(table.excess(2, later), [peers[2]]);
        assert!(table.excess(3, later).is_empty());
        assert!(table.disconnect(&peers[0], later));
        assert_eq!(table.shard(&peers[0]), None);
        // What it keeps is remembered for a while, so that nobody is dialled in vain.
        assert_eq!(table.remembered_shard(&peers[0], later), Some(ShardConfig::WHOLE));
        assert_eq!(table.remembered_shard(&peers[0], start + SHARD_MEMORY), None);
        let record = table.records(later).into_iter().find(|record| record.peer == peers[0]).unwrap();
        assert_eq!((record.is_connected, record.is_banned, record.is_outgoing), (false, false, Some(false)));
    }
}
