//! Rules for gossip: what is passed on, what is dropped, what is held against the one who passed it to us.
//!
//! Pure; limits of frequency are in [`super::limits`].

use std::ops::RangeInclusive;

use libp2p::{Multiaddr, PeerId};

use super::{
    peers::Offence,
    wire::{
        Message, ShardConfig,
        gossip::{MAX_FILES_PER_ANNOUNCEMENT, SignedAnnouncement, is_public},
    },
};

/// Ages in seconds that messages between neighbours may have; clocks may differ a little.
const NEIGHBOUR_AGES: RangeInclusive<i64> = -10..=30;
/// Ages in seconds that messages for the whole network may have.
const NETWORK_AGES: RangeInclusive<i64> = -10..=300;

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is passed on.
    Accept,
    /// It is dropped without a word.
    Ignore,
    /// It is dropped, and its sender loses standing.
    Reject,
}

/// What the rules say about a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// What becomes of it; `None` leaves that to who looks whether we have what is sought.
    pub verdict: Option<Verdict>,
    /// True when the node shall see it.
    pub is_delivered: bool,
    /// What is held against the peer that passed it to us.
    pub offence: Option<Offence>,
}

impl Judgement {
    const fn dropped(verdict: Verdict) -> Self {
        Judgement { verdict: Some(verdict), is_delivered: false, offence: None }
    }

    const fn delivered(verdict: Option<Verdict>) -> Self {
        Judgement { verdict, is_delivered: true, offence: None }
    }

    const fn with(self, offence: Offence) -> Self {
        Judgement { offence: Some(offence), ..self }
    }
}

/// What the rules depend on, besides the message.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances {
    /// What this node keeps.
    pub shard: ShardConfig,
    /// Unix time in seconds.
    pub now: i64,
    /// True when announced addresses may be private: test networks alone.
    pub private_addresses: bool,
}

impl Circumstances {
    /// Judges a message.
    pub fn judge(&self, message: &Message) -> Judgement {
        const IGNORED: Judgement = Judgement::dropped(Verdict::Ignore);
        const REJECTED: Judgement = Judgement::dropped(Verdict::Reject);
        const FORWARDED: Judgement = Judgement::dropped(Verdict::Accept);
        match message {
            Message::NewFile(file) | Message::AskFile(file) => {
                let shard = file.inner.shard;
                if !shard.is_valid() {
                    REJECTED
                } else if !self.is_timely(file.timestamp, NEIGHBOUR_AGES) {
                    IGNORED.with(Offence::Low)
                } else if !shard.is_neighbour(&self.shard) {
                    IGNORED
                } else {
                    // Never passed on: it is for the neighbours of its author.
                    Judgement::delivered(Some(Verdict::Ignore))
                }
            }
            Message::FindFile(find) => match find.inner.shard {
                _ if !self.is_timely(find.timestamp, NETWORK_AGES) => IGNORED,
                Some(shard) if !shard.is_neighbour(&self.shard) => FORWARDED,
                _ => Judgement::delivered(None),
            },
            Message::AnnounceFile(announcements) => {
                let first_bad = announcements.iter().map(|signed| self.judge_announcement(signed));
                let first_bad = first_bad.into_iter().find(|judgement| *judgement != FORWARDED);
                first_bad.unwrap_or(Judgement::delivered(Some(Verdict::Accept)))
            }
            Message::AnnounceShardConfig(shard) => {
                if !shard.inner.is_valid() {
                    REJECTED
                } else if !self.is_timely(shard.timestamp, NETWORK_AGES) {
                    IGNORED
                } else {
                    Judgement::delivered(Some(Verdict::Accept))
                }
            }
            Message::FindChunks(find) => {
                if find.inner.start >= find.inner.end {
                    REJECTED
                } else if !self.is_timely(find.timestamp, NETWORK_AGES) {
                    IGNORED
                } else {
                    Judgement::delivered(None)
                }
            }
            Message::AnnounceChunks(chunks) => {
                if PeerId::from_bytes(&chunks.inner.peer_id).is_err() || !self.is_address(&chunks.inner.address) {
                    REJECTED
                } else if !self.is_timely(chunks.timestamp, NETWORK_AGES) {
                    IGNORED
                } else {
                    Judgement::delivered(Some(Verdict::Accept))
                }
            }
        }
    }

    /// Cheap checks come before the signature.
    fn judge_announcement(&self, signed: &SignedAnnouncement) -> Judgement {
        let inner = &signed.announcement.inner;
        if inner.tx_ids.len() > MAX_FILES_PER_ANNOUNCEMENT {
            return Judgement::dropped(Verdict::Reject).with(Offence::Low);
        }
        if !inner.shard.is_valid() || !self.is_address(&inner.address) || !signed.is_signed() {
            return Judgement::dropped(Verdict::Reject);
        }
        if !self.is_timely(signed.resend_timestamp, NETWORK_AGES) {
            return Judgement::dropped(Verdict::Ignore);
        }
        Judgement::dropped(Verdict::Accept)
    }

    fn is_timely(&self, timestamp: u32, ages: RangeInclusive<i64>) -> bool {
        ages.contains(&(self.now - i64::from(timestamp)))
    }

    fn is_address(&self, bytes: &[u8]) -> bool {
        Multiaddr::try_from(bytes.to_vec()).is_ok_and(|address| self.private_addresses || is_public(&address))
    }
}

#[cfg(test)]
mod tests {
    use libp2p::identity::Keypair;
    use zgpu_core::H256;

    use super::*;
    use crate::net::wire::{
        TxId,
        gossip::{ChunkAnnouncement, ChunkRange, FileAnnouncement, FindFile, Timed},
        types::ShardedFile,
    };

    const NOW: u32 = 1_700_000_000;
    const TX: TxId = TxId { seq: 7, hash: H256([1; 32]) };
    const OURS: ShardConfig = ShardConfig { num_shard: 2, shard_id: 1 };

    fn judge(message: Message) -> (Option<Verdict>, bool, Option<Offence>) {
        let circumstances = Circumstances { shard: OURS, now: i64::from(NOW), private_addresses: false };
        let judgement = circumstances.judge(&message);
        (judgement.verdict, judgement.is_delivered, judgement.offence)
    }

    fn shard(num_shard: u64, shard_id: u64) -> ShardConfig {
        ShardConfig { num_shard, shard_id }
    }

    const ACCEPTED: (Option<Verdict>, bool, Option<Offence>) = (Some(Verdict::Accept), true, None);
    const IGNORED: (Option<Verdict>, bool, Option<Offence>) = (Some(Verdict::Ignore), false, None);
    const REJECTED: (Option<Verdict>, bool, Option<Offence>) = (Some(Verdict::Reject), false, None);

    #[test]
    fn messages_of_neighbours_are_kept_to_ourselves() {
        let file = |shard, age: i64| {
            let timed = Timed { inner: ShardedFile { tx_id: TX, shard }, timestamp: (i64::from(NOW) - age) as u32 };
            let judged = judge(Message::NewFile(timed));
            assert_eq!(judged, judge(Message::AskFile(timed)));
            judged
        };
        let kept = (Some(Verdict::Ignore), true, None);
        let late = (Some(Verdict::Ignore), false, Some(Offence::Low));
        assert_eq!([-11, -10, 0, 30, 31].map(|age| file(OURS, age)), [late, kept, kept, kept, late]);
        assert_eq!(file(shard(4, 2), 0), kept);
        assert_eq!(file(shard(4, 1), 0), IGNORED);
        assert_eq!(file(shard(3, 1), 0), REJECTED);
    }

    #[test]
    fn questions_are_passed_on_unless_we_can_answer() {
        let find =
            |shard, timestamp| judge(Message::FindFile(Timed { inner: FindFile { tx_id: TX, shard }, timestamp }));
        assert_eq!(find(None, NOW), (None, true, None));
        assert_eq!(find(Some(OURS), NOW - 300), (None, true, None));
        assert_eq!(find(Some(shard(2, 0)), NOW), (Some(Verdict::Accept), false, None));
        assert_eq!(find(None, NOW - 301), IGNORED);
        assert_eq!(find(None, u32::MAX), IGNORED);
        let chunks = |start, end| {
            judge(Message::FindChunks(Timed { inner: ChunkRange { tx_id: TX, start, end }, timestamp: NOW }))
        };
        assert_eq!(chunks(1, 2), (None, true, None));
        assert_eq!(chunks(2, 2), REJECTED);
    }

    fn announcement(change: impl Fn(&mut FileAnnouncement)) -> SignedAnnouncement {
        let key = Keypair::generate_secp256k1();
        let mut inner = FileAnnouncement {
            tx_ids: vec![TX],
            shard: OURS,
            peer_id: key.public().to_peer_id().to_bytes(),
            address: "/ip4/1.2.3.4/tcp/1234".parse::<Multiaddr>().unwrap().to_vec(),
        };
        change(&mut inner);
        SignedAnnouncement::sign(Timed { inner, timestamp: NOW }, &key).unwrap()
    }

    #[test]
    fn announcements_are_all_good_or_the_message_is_not() {
        let judge_one = |signed: SignedAnnouncement| judge(Message::AnnounceFile(vec![announcement(|_| ()), signed]));
        assert_eq!(judge_one(announcement(|_| ())), ACCEPTED);
        assert_eq!(judge_one(announcement(|it| it.tx_ids = vec![TX; 256])), ACCEPTED);
        let many = (Some(Verdict::Reject), false, Some(Offence::Low));
        assert_eq!(judge_one(announcement(|it| it.tx_ids = vec![TX; 257])), many);
        assert_eq!(judge_one(announcement(|it| it.shard = shard(3, 0))), REJECTED);
        assert_eq!(judge_one(announcement(|it| it.address = vec![1])), REJECTED);
        let private: Multiaddr = "/ip4/192.168.0.1/tcp/1234".parse().unwrap();
        let private = announcement(|it| it.address = private.to_vec());
        assert_eq!(judge_one(private.clone()), REJECTED);
        let at_home = Circumstances { shard: OURS, now: i64::from(NOW), private_addresses: true };
        assert_eq!(at_home.judge(&Message::AnnounceFile(vec![private])).verdict, Some(Verdict::Accept));
        let mut forged = announcement(|_| ());
        forged.announcement.timestamp += 1;
        assert_eq!(judge_one(forged), REJECTED);
        let mut old = announcement(|_| ());
        old.resend_timestamp = NOW - 301;
        assert_eq!(judge_one(old), IGNORED);
        // Made long ago, sent again now.
        let mut again = announcement(|_| ());
        again.resend_timestamp = NOW - 299;
        assert_eq!(judge_one(again), ACCEPTED);
    }

    #[test]
    fn shards_and_chunks_are_announced_to_everybody() {
        let config = |inner, timestamp| judge(Message::AnnounceShardConfig(Timed { inner, timestamp }));
        assert_eq!(config(shard(8, 3), NOW), ACCEPTED);
        assert_eq!(config(shard(8, 8), NOW), REJECTED);
        assert_eq!(config(shard(8, 3), NOW - 1000), IGNORED);
        let chunks = |peer_id: Vec<u8>, address: &str| {
            let range = ChunkRange { tx_id: TX, start: 0, end: 1 };
            let address = address.parse::<Multiaddr>().unwrap().to_vec();
            judge(Message::AnnounceChunks(Timed {
                inner: ChunkAnnouncement { range, peer_id, address },
                timestamp: NOW,
            }))
        };
        let peer = PeerId::random().to_bytes();
        assert_eq!(chunks(peer.clone(), "/ip4/1.2.3.4/tcp/1"), ACCEPTED);
        assert_eq!(chunks(peer, "/ip4/10.0.0.1/tcp/1"), REJECTED);
        assert_eq!(chunks(vec![], "/ip4/1.2.3.4/tcp/1"), REJECTED);
    }
}
