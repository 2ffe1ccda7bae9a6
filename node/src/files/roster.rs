//! Peers that are connected: what they keep, how fast they are, how much they are asked for now. Pure.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use libp2p::PeerId;

use crate::net::wire::ShardConfig;

/// Weight of the newest request in the time that a peer is expected to take.
const NEWEST: f64 = 0.25;

/// A connected peer.
#[derive(Clone, Debug)]
pub(super) struct Neighbour {
    pub(super) shard: ShardConfig,
    pub(super) is_outgoing: bool,
    /// Requests to it that run now.
    pub(super) in_flight: usize,
    /// Seconds that a segment took lately; 0 before the first.
    seconds_per_segment: f64,
    pub(super) active_at: Instant,
    /// It knows the log up to this transaction at least.
    pub(super) known_seq: Option<u64>,
}

impl Neighbour {
    /// Time until one more segment has come.
    pub(super) fn expected_seconds(&self) -> f64 {
        self.seconds_per_segment * (self.in_flight + 1) as f64
    }
}

/// All of them.
#[derive(Default)]
pub(super) struct Roster {
    peers: HashMap<PeerId, Neighbour>,
    /// Counts peers that came.
    arrivals: u64,
}

impl Roster {
    pub(super) fn connect(&mut self, peer: PeerId, shard: ShardConfig, is_outgoing: bool, now: Instant) {
        let neighbour =
            Neighbour { shard, is_outgoing, in_flight: 0, seconds_per_segment: 0.0, active_at: now, known_seq: None };
        self.peers.insert(peer, neighbour);
        self.arrivals += 1;
    }

    pub(super) fn disconnect(&mut self, peer: &PeerId) {
        self.peers.remove(peer);
    }

    pub(super) fn len(&self) -> usize {
        self.peers.len()
    }

    pub(super) fn arrivals(&self) -> u64 {
        self.arrivals
    }

    pub(super) fn get(&self, peer: &PeerId) -> Option<&Neighbour> {
        self.peers.get(peer)
    }

    pub(super) fn set_shard(&mut self, peer: &PeerId, shard: ShardConfig) {
        if let Some(neighbour) = self.peers.get_mut(peer) {
            neighbour.shard = shard;
        }
    }

    /// The peer asked, or answered, something that is not just a sign of life.
    pub(super) fn is_active(&mut self, peer: &PeerId, now: Instant) {
        if let Some(neighbour) = self.peers.get_mut(peer) {
            neighbour.active_at = now;
        }
    }

    /// The peer has shown that it knows transaction `seq`.
    pub(super) fn knows(&mut self, peer: &PeerId, seq: u64) {
        if let Some(neighbour) = self.peers.get_mut(peer) {
            neighbour.known_seq = neighbour.known_seq.max(Some(seq));
        }
    }

    /// Peers that know transaction `seq`, so that they can be asked for its file outright.
    pub(super) fn knowing(&self, seq: u64) -> Vec<(PeerId, ShardConfig)> {
        let knows = |neighbour: &Neighbour| neighbour.known_seq.is_some_and(|known| known >= seq);
        self.peers.iter().filter(|(_, it)| knows(it)).map(|(peer, it)| (*peer, it.shard)).collect()
    }

    /// A request to the peer begins.
    pub(super) fn begin(&mut self, peer: &PeerId) {
        if let Some(neighbour) = self.peers.get_mut(peer) {
            neighbour.in_flight += 1;
        }
    }

    /// A request to the peer is over; `took` when it gave a segment.
    pub(super) fn end(&mut self, peer: &PeerId, took: Option<Duration>, now: Instant) {
        let Some(neighbour) = self.peers.get_mut(peer) else { return };
        neighbour.in_flight = neighbour.in_flight.saturating_sub(1);
        if let Some(took) = took {
            neighbour.active_at = now;
            let took = took.as_secs_f64();
            let before = neighbour.seconds_per_segment;
            neighbour.seconds_per_segment = if before == 0.0 { took } else { before + NEWEST * (took - before) };
        }
    }

    /// Peers that have been idle for `idle_time`, beyond so many of each direction: those that are idle the longest.
    pub(super) fn idle(&self, idle_time: Duration, incoming: usize, outgoing: usize, now: Instant) -> Vec<PeerId> {
        let of_direction = |is_outgoing: bool, stay: usize| {
            let is_idle = |it: &Neighbour| {
                it.is_outgoing == is_outgoing && now.saturating_duration_since(it.active_at) >= idle_time
            };
            let mut idle: Vec<_> = self.peers.iter().filter(|(_, it)| is_idle(it)).collect();
            idle.sort_by_key(|(_, it)| it.active_at);
            idle.truncate(idle.len().saturating_sub(stay));
            idle.into_iter().map(|(peer, _)| *peer).collect::<Vec<_>>()
        };
        [of_direction(false, incoming), of_direction(true, outgoing)].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peers_that_are_idle_the_longest_go() {
        let (mut roster, start) = (Roster::default(), Instant::now());
        let peers: Vec<PeerId> = (0..6).map(|_| PeerId::random()).collect();
        for (second, peer) in (0..).zip(&peers) {
            roster.connect(*peer, ShardConfig::WHOLE, second % 2 == 1, start + Duration::from_secs(second));
        }
        let later = start + Duration::from_secs(100);
        let idle = Duration::from_secs(50);
        assert_eq!(roster.idle(idle, 1, 2, later), [peers[0], peers[2], peers[1]]);
        roster.is_active(&peers[0], later);
        assert_eq!(roster.idle(idle, 1, 2, later), [peers[2], peers[1]]);
        assert!(roster.idle(Duration::from_secs(200), 0, 0, later).is_empty());
    }

    #[test]
    fn load_and_speed_tell_how_long_a_segment_takes() {
        let (mut roster, now) = (Roster::default(), Instant::now());
        let (fast, slow) = (PeerId::random(), PeerId::random());
        for (peer, seconds) in [(fast, 1), (slow, 3)] {
            roster.connect(peer, ShardConfig::WHOLE, true, now);
            roster.begin(&peer);
            roster.end(&peer, Some(Duration::from_secs(seconds)), now);
        }
        let expected = |roster: &Roster, peer| roster.get(peer).unwrap().expected_seconds();
        assert_eq!((expected(&roster, &fast), expected(&roster, &slow)), (1.0, 3.0));
        (0..3).for_each(|_| roster.begin(&fast));
        assert_eq!(expected(&roster, &fast), 4.0);
        roster.knows(&slow, 7);
        assert_eq!(roster.knowing(7), [(slow, ShardConfig::WHOLE)]);
        assert!(roster.knowing(8).is_empty());
        // What ends after the connection is gone counts for nothing.
        roster.disconnect(&fast);
        roster.end(&fast, None, now);
        assert_eq!(roster.len(), 1);
    }
}
