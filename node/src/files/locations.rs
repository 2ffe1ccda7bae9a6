//! Who has which file, as announced to the whole network. Pure; the time is given with each call.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use crate::net::wire::{ShardConfig, TxId, gossip::SignedAnnouncement};

use super::config::LocationConfig;

/// Announcements by file. The oldest go first when there are too many, in constant time.
pub(super) struct Locations {
    config: LocationConfig,
    files: HashMap<TxId, Vec<Entry>>,
    /// Entries in the order in which they came; those that were replaced since are skipped.
    order: VecDeque<(TxId, u64)>,
    entries: usize,
    next_number: u64,
}

struct Entry {
    number: u64,
    announcement: Arc<SignedAnnouncement>,
}

impl Locations {
    pub(super) fn new(config: LocationConfig) -> Self {
        Locations { config, files: HashMap::new(), order: VecDeque::new(), entries: 0, next_number: 0 }
    }

    /// Notes an announcement for all its files. A newer one of the same node takes the place of the older.
    pub(super) fn insert(&mut self, announcement: SignedAnnouncement, now: i64) {
        if self.is_expired(&announcement, now) || self.config.max_entries_per_file == 0 {
            return;
        }
        let announcement = Arc::new(announcement);
        for tx_id in &announcement.announcement.inner.tx_ids {
            self.insert_one(*tx_id, announcement.clone());
        }
        while self.entries > self.config.max_entries_total {
            self.evict();
        }
        // What was replaced stays in the order until it is as much as what is there.
        if self.order.len() > 2 * self.entries.max(16) {
            let files = &self.files;
            self.order.retain(|(tx_id, number)| is_present(files, tx_id, *number));
        }
    }

    fn insert_one(&mut self, tx_id: TxId, announcement: Arc<SignedAnnouncement>) {
        let number = self.next_number;
        self.next_number += 1;
        let entries = self.files.entry(tx_id).or_default();
        let before = entries.len();
        let author = &announcement.announcement.inner.peer_id;
        entries.retain(|entry| entry.announcement.announcement.inner.peer_id != *author);
        if entries.len() >= self.config.max_entries_per_file {
            entries.remove(0);
        }
        entries.push(Entry { number, announcement });
        self.entries = self.entries - before + entries.len();
        self.order.push_back((tx_id, number));
    }

    fn evict(&mut self) {
        let Some((tx_id, number)) = self.order.pop_front() else { return };
        let Some(entries) = self.files.get_mut(&tx_id) else { return };
        let before = entries.len();
        entries.retain(|entry| entry.number != number);
        self.entries -= before - entries.len();
        if entries.is_empty() {
            self.files.remove(&tx_id);
        }
    }

    fn is_expired(&self, announcement: &SignedAnnouncement, now: i64) -> bool {
        let age = now - i64::from(announcement.announcement.timestamp);
        u64::try_from(age).is_ok_and(|age| age > self.config.entry_expiration.as_secs())
    }

    /// Announcements of a file that are not too old, the newest last.
    pub(super) fn of(&self, tx_id: &TxId, now: i64) -> Vec<Arc<SignedAnnouncement>> {
        let entries = self.files.get(tx_id).into_iter().flatten();
        let fresh = entries.filter(|entry| !self.is_expired(&entry.announcement, now));
        fresh.map(|entry| entry.announcement.clone()).collect()
    }

    /// Forgets what is too old, from the oldest on; to be called now and then.
    pub(super) fn tidy(&mut self, now: i64) {
        while let Some((tx_id, number)) = self.order.front() {
            let entry = self.files.get(tx_id).and_then(|entries| entries.iter().find(|entry| entry.number == *number));
            if entry.is_some_and(|entry| !self.is_expired(&entry.announcement, now)) {
                return;
            }
            self.evict();
        }
    }
}

fn is_present(files: &HashMap<TxId, Vec<Entry>>, tx_id: &TxId, number: u64) -> bool {
    files.get(tx_id).is_some_and(|entries| entries.iter().any(|entry| entry.number == number))
}

/// True when these shards have all segments between them. Those that make no sense count for nothing.
pub(super) fn cover_everything(shards: &[ShardConfig]) -> bool {
    covers(shards, ShardConfig::WHOLE)
}

/// A shard is covered by itself, by one that it lies in, or by both its halves.
fn covers(shards: &[ShardConfig], wanted: ShardConfig) -> bool {
    let within = |fine: &ShardConfig, coarse: &ShardConfig| {
        fine.num_shard >= coarse.num_shard && fine.shard_id % coarse.num_shard == coarse.shard_id
    };
    let valid = || shards.iter().filter(|shard| shard.is_valid());
    if valid().any(|shard| within(&wanted, shard)) {
        return true;
    }
    // Halves are looked at only where something finer lies, so that the work is bounded by the number of shards.
    let Some(num_shard) = wanted.num_shard.checked_mul(2) else { return false };
    let halves = [wanted.shard_id, wanted.shard_id + wanted.num_shard];
    halves.into_iter().all(|shard_id| {
        let half = ShardConfig { num_shard, shard_id };
        valid().any(|shard| within(shard, &half)) && covers(shards, half)
    })
}

#[cfg(test)]
mod tests {
    use zgpu_core::H256;

    use super::*;
    use crate::net::wire::gossip::{FileAnnouncement, Timed};

    fn tx(seq: u64) -> TxId {
        TxId { seq, hash: H256([1; 32]) }
    }

    fn announcement(peer: u8, timestamp: u32, seqs: std::ops::Range<u64>) -> SignedAnnouncement {
        let inner = FileAnnouncement {
            tx_ids: seqs.map(tx).collect(),
            shard: ShardConfig::WHOLE,
            peer_id: vec![peer],
            address: vec![],
        };
        SignedAnnouncement { announcement: Timed { inner, timestamp }, signature: vec![], resend_timestamp: timestamp }
    }

    fn cache(total: usize) -> Locations {
        Locations::new(LocationConfig { max_entries_total: total, ..LocationConfig::default() })
    }

    #[test]
    fn a_file_has_few_locations_and_a_node_one() {
        let mut cache = cache(100);
        for (peer, time) in [(1, 10), (2, 11), (1, 12), (3, 13), (4, 14), (5, 15)] {
            cache.insert(announcement(peer, time, 0..1), 20);
        }
        let peers: Vec<_> = cache.of(&tx(0), 20).iter().map(|it| it.announcement.inner.peer_id[0]).collect();
        assert_eq!(peers, [1, 3, 4, 5]);
        assert!(cache.of(&tx(1), 20).is_empty());
        assert!(cache.of(&TxId { hash: H256([2; 32]), ..tx(0) }, 20).is_empty());
    }

    #[test]
    fn memory_is_bounded_whatever_is_announced() {
        let mut cache = cache(50);
        for round in 0..1000 {
            cache.insert(announcement((round % 7) as u8, round as u32, round..round + 20), 1000);
            assert!(cache.entries <= 50 && cache.order.len() <= 2 * 50 + 20, "{}", cache.order.len());
            assert_eq!(cache.entries, cache.files.values().map(Vec::len).sum::<usize>());
        }
        // The same again and again.
        for round in 0..1000 {
            cache.insert(announcement(1, round, 0..1), 1000);
            assert!(cache.order.len() <= 2 * 50 + 20);
        }
        assert_eq!(cache.of(&tx(0), 1000).len(), 1);
    }

    #[test]
    fn what_is_old_is_forgotten() {
        let mut cache = cache(50);
        cache.insert(announcement(1, 100, 0..3), 100);
        cache.insert(announcement(2, 200, 0..1), 200);
        assert_eq!(cache.of(&tx(0), 86_500).len(), 2);
        assert_eq!(cache.of(&tx(0), 86_501).len(), 1);
        cache.tidy(86_501);
        assert_eq!((cache.entries, cache.files.len()), (1, 1));
        cache.insert(announcement(3, 100, 0..3), 86_501);
        assert_eq!(cache.entries, 1);
    }

    #[test]
    fn shards_cover_everything_or_not() {
        let shard = |shard_id, num_shard| ShardConfig { num_shard, shard_id };
        for (shards, expected) in [
            (vec![], false),
            (vec![shard(0, 1)], true),
            (vec![shard(0, 2)], false),
            (vec![shard(0, 2), shard(1, 2)], true),
            (vec![shard(0, 2), shard(1, 4), shard(3, 4)], true),
            (vec![shard(0, 2), shard(1, 4), shard(2, 4)], false),
            (vec![shard(0, 3), shard(1, 3), shard(2, 3)], false),
            ((0..64).map(|id| shard(id, 64)).collect(), true),
            ((1..64).map(|id| shard(id, 64)).collect(), false),
            (vec![shard(0, 1 << 63), shard(1, 2)], false),
        ] {
            assert_eq!(cover_everything(&shards), expected, "{shards:?}");
        }
    }
}
