//! Which part of the flow the store keeps: one shard of it, from the first sector that is not pruned.
//!
//! A change is on disk before anything is deleted. What is no longer kept is then swept away in steps, from the first load
//! to the last: sealed bytes, data, records. The step that is next is on disk too, so that a sweep goes on after a kill.
//! Ranges of zeros take no space and stay, and so do nodes of the tree: proofs need them.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{PoisonError, atomic::Ordering},
};

use rocksdb::{BottommostLevelCompaction, CompactOptions};
use tokio::sync::watch;
use zgpu_core::{
    flow::MAX_FLOW_LENGTH,
    shard::Shard,
    units::{BYTES_PER_LOAD, LOADS_PER_PRICING, SECTORS_PER_LOAD},
};

use super::{
    Column, Inner, Store, StoreError,
    columns::{Fields, META_SHARE, META_SWEEP, SealRecord, key_number},
    loads::ExtentKind,
    lock,
};

const PER_LOAD: u64 = SECTORS_PER_LOAD as u64;
/// Loads that are dropped in one write.
const LOADS_PER_WRITE: usize = 1024;
/// Ranges that are looked at in one go, so that whoever waits for the log does not wait long.
const EXTENTS_PER_LOOK: usize = 1 << 16;
/// Transactions without all their data that are looked at in one go.
const FILES_AT_ONCE: usize = 1000;
/// RocksDB's own setting: only the oldest quarter of the files with data is looked through for what is deleted.
const USUAL_CUTOFF: &str = "0.25";

/// What is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) shard: Shard,
    /// Sectors in front of this one are pruned. A multiple of a load.
    pub(super) from: u64,
    /// Transactions in front of this one start in front of `from`: they are the pruned ones.
    pub(super) from_seq: u64,
}

impl Share {
    pub(super) const WHOLE: Share = Share { shard: Shard::WHOLE, from: 0, from_seq: 0 };

    pub(super) fn contains(&self, load: u64) -> bool {
        load >= self.from / PER_LOAD && self.shard.contains(load)
    }

    /// First load of the share that is not below `load`.
    pub(super) fn next(&self, load: u64) -> Option<u64> {
        self.shard.next(load.max(self.from / PER_LOAD))
    }

    /// Number of loads of the share in a range.
    pub(super) fn count(&self, loads: Range<u64>) -> u64 {
        let start = loads.start.max(self.from / PER_LOAD);
        self.shard.loads_below(loads.end.max(start)) - self.shard.loads_below(start)
    }
}

/// Loads that hold something and are not kept.
struct Leftovers {
    /// Each with the first sectors of its ranges of data.
    loads: BTreeMap<u64, Vec<u64>>,
    /// Where to look next; none at the end of the flow.
    next: Option<u64>,
}

impl Store {
    /// The shard that is kept: data and seals of other loads are not taken.
    pub fn shard(&self) -> Shard {
        self.inner.share().shard
    }

    /// True when the load lies in the shard that is kept, and is not pruned.
    pub fn keeps(&self, load: u64) -> bool {
        self.inner.share().contains(load)
    }

    /// The shard that is kept, now and whenever it changes.
    pub fn watch_shard(&self) -> watch::Receiver<Shard> {
        self.inner.shard.subscribe()
    }

    /// Keeps another shard from now on. Durable on return. Once there are transactions, it must lie within the one before.
    ///
    /// Files that have all their segments of the new shard are finalised. What lies outside it stays on disk until
    /// [`Store::drop_outside_shard`], and is neither sealed nor mined any more.
    pub fn set_shard(&self, shard: Shard) -> Result<(), StoreError> {
        let inner = &*self.inner;
        let shard = Shard::new(shard.id, shard.count)?;
        {
            let _alone = inner.chain.write().unwrap_or_else(PoisonError::into_inner);
            let share = inner.share();
            if shard == share.shard {
                return Ok(());
            }
            if self.next_seq() > 0 && !shard.is_within(&share.shard) {
                return Err(StoreError::WiderShard { stored: share.shard, given: shard });
            }
            inner.change_share(Share { shard, ..share })?;
        }
        self.finalise_complete()
    }

    /// True when the transaction starts in a pricing chunk that was pruned. Data for it is not taken.
    pub fn is_pruned(&self, seq: u64) -> Result<bool, StoreError> {
        Ok(self.inner.is_pruned(seq))
    }

    /// Sectors in front of this one are pruned.
    pub fn pruned_below(&self) -> u64 {
        self.inner.share().from
    }

    /// Loads that take space on the disk: those with data, and sealed ones. Reads a small record of each.
    pub fn used_loads(&self) -> Result<u64, StoreError> {
        let mut used = 0;
        self.each_used(|_| used += 1)?;
        Ok(used)
    }

    /// Tells the loads that take space on the disk, ascending.
    pub fn each_used(&self, mut each: impl FnMut(u64)) -> Result<(), StoreError> {
        let inner = &*self.inner;
        let mut sealed = inner.iterator(Column::Sealed);
        sealed.seek_to_first();
        let mut next_sealed = sealed.key().map(key_number).transpose()?;
        let mut extents = inner.extents(0)?;
        let mut last = None;
        let mut tell = |load: u64| {
            if last.replace(load) != Some(load) {
                each(load);
            }
        };
        loop {
            let extent = extents.current()?;
            let data = extent.map(|extent| extent.start / PER_LOAD);
            match (next_sealed, data) {
                (Some(load), data) if data.is_none_or(|data| load <= data) => {
                    tell(load);
                    sealed.next();
                    next_sealed = sealed.key().map(key_number).transpose()?;
                }
                (_, Some(load)) => {
                    if extent.is_some_and(|extent| extent.kind == ExtentKind::Data) {
                        tell(load);
                    }
                    extents.next();
                }
                (_, None) => break,
            }
        }
        sealed.status().map_err(|source| inner.failed(source))
    }

    /// Deletes what is stored of at most `limit` loads outside the shard, and gives their space back to the disk. Returns
    /// the number of loads; 0 says that nothing is left. Durable on return.
    pub fn drop_outside_shard(&self, limit: u64) -> Result<u64, StoreError> {
        self.sweep(limit)
    }

    /// Prunes what lies in front of `sector`, rounded down to a load: transactions that start there become pruned at once,
    /// those that come later too, and at most `limit` loads are deleted. Returns their number; 0 says that nothing is left.
    /// Durable on return. What is pruned stays so.
    pub fn prune_below(&self, sector: u64, limit: u64) -> Result<u64, StoreError> {
        let inner = &*self.inner;
        let from = sector.min(MAX_FLOW_LENGTH) / PER_LOAD * PER_LOAD;
        if from > inner.share().from {
            let _alone = inner.chain.write().unwrap_or_else(PoisonError::into_inner);
            let share = inner.share();
            inner.change_share(Share { from, from_seq: inner.first_seq_from(from, self.next_seq())?, ..share })?;
        }
        self.sweep(limit)
    }

    /// True while something that is not kept may be left on the disk.
    pub fn has_leftovers(&self) -> bool {
        lock(&self.inner.sweep).is_some()
    }

    /// Finalises the files that have all their segments of the shard.
    fn finalise_complete(&self) -> Result<(), StoreError> {
        let inner = &*self.inner;
        let mut from = 0;
        loop {
            let seqs = self.unfinished(from, FILES_AT_ONCE)?;
            let Some(last) = seqs.last() else { return Ok(()) };
            from = last + 1;
            for seq in seqs {
                let _chain = inner.chain.read().unwrap_or_else(PoisonError::into_inner);
                if inner.find_transaction(seq)?.is_some_and(|(found, _)| found.shape().is_ok()) {
                    match inner.finalise(seq) {
                        Err(StoreError::Incomplete { .. } | StoreError::Pruned { .. }) => {}
                        result => result?,
                    }
                }
            }
        }
    }

    /// Deletes what is not kept of at most `limit` loads, from where the last call ended.
    fn sweep(&self, limit: u64) -> Result<u64, StoreError> {
        let inner = &*self.inner;
        let _one = lock(&inner.sweeping);
        let Some(first) = *lock(&inner.sweep) else { return Ok(0) };
        if first == 0 {
            self.finalise_complete()?;
        }
        let mut swept = first..first;
        let mut dropped = 0;
        while dropped < limit {
            let next = *lock(&inner.sweep);
            let Some(from) = next else { break };
            let (revision, leftovers) = {
                let _chain = inner.chain.read().unwrap_or_else(PoisonError::into_inner);
                let most = (limit - dropped).min(LOADS_PER_WRITE as u64) as usize;
                (self.revision(), inner.leftovers(from, most)?)
            };
            let _alone = inner.chain.write().unwrap_or_else(PoisonError::into_inner);
            if revision != self.revision() {
                // The flow was cut, or less is kept now: look again.
                continue;
            }
            inner.drop_leftovers(&leftovers)?;
            dropped += leftovers.loads.len() as u64;
            let last = leftovers.loads.keys().next_back().map_or(from, |last| last + 1);
            swept = swept.start.min(from)..swept.end.max(leftovers.next.unwrap_or(last));
            *lock(&inner.sweep) = leftovers.next;
        }
        inner.compact(swept);
        inner.end_sweep_step()?;
        Ok(dropped)
    }
}

impl Inner {
    pub(super) fn share(&self) -> Share {
        *lock(&self.share)
    }

    pub(super) fn is_pruned(&self, seq: u64) -> bool {
        seq < self.share().from_seq
    }

    /// Reads what is kept, and whether something else is left.
    pub(super) fn read_share(&self, next_seq: u64) -> Result<(Share, Option<u64>), StoreError> {
        let sweep = self.get(Column::Meta, META_SWEEP)?;
        let sweep = sweep.map(|value| Fields::new("place of the sweep", &value).u64()).transpose()?;
        let Some(value) = self.get(Column::Meta, META_SHARE)? else { return Ok((Share::WHOLE, sweep)) };
        let mut fields = Fields::new("share", &value);
        let shard = Shard::new(fields.u64()?, fields.u64()?).map_err(|_| StoreError::Corrupt { what: "share" })?;
        let from = fields.u64()?;
        fields.end()?;
        Ok((Share { shard, from, from_seq: self.first_seq_from(from, next_seq)? }, sweep))
    }

    /// Writes what is kept from now on and makes it known. The caller keeps everybody else out.
    fn change_share(&self, share: Share) -> Result<(), StoreError> {
        let mut batch = self.batch()?;
        let value = [share.shard.id, share.shard.count, share.from].map(u64::to_be_bytes).concat();
        batch.put(Column::Meta, META_SHARE, &value);
        batch.put(Column::Meta, META_SWEEP, &0u64.to_be_bytes());
        batch.commit_freeing()?;
        *lock(&self.share) = share;
        *lock(&self.sweep) = Some(0);
        self.revision.fetch_add(1, Ordering::SeqCst);
        let state = *lock(&self.flow);
        self.publish(state);
        self.shard.send_if_modified(|shard| std::mem::replace(shard, share.shard) != share.shard);
        Ok(())
    }

    /// Number of transactions that start in front of a sector; they are in the order of their starts.
    fn first_seq_from(&self, sector: u64, next_seq: u64) -> Result<u64, StoreError> {
        let (mut low, mut high) = (0, next_seq);
        while sector > 0 && low < high {
            let middle = low + (high - low) / 2;
            match self.stored_transaction(middle)?.0.start < sector {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        Ok(low)
    }

    /// Loads from `from` on that hold something and are not kept, at most `limit`.
    fn leftovers(&self, from: u64, limit: usize) -> Result<Leftovers, StoreError> {
        let share = self.share();
        let mut loads: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        // First load that was not looked at.
        let mut end = u64::MAX;
        let mut extents = self.extents(from.saturating_mul(PER_LOAD))?;
        let mut looked = 0;
        while let Some(extent) = extents.current()? {
            let load = extent.start / PER_LOAD;
            if extent.kind == ExtentKind::Data && !share.contains(load) {
                if loads.len() == limit && !loads.contains_key(&load) {
                    end = load;
                    break;
                }
                loads.entry(load).or_default().push(extent.start);
            }
            looked += 1;
            if looked >= EXTENTS_PER_LOOK && load > from {
                end = load;
                break;
            }
            extents.next();
        }
        let mut sealed = self.iterator(Column::Sealed);
        sealed.seek(from.to_be_bytes());
        let (mut looked, mut found) = (0, 0);
        while let Some(load) = sealed.key().map(key_number).transpose()?.filter(|load| *load < end) {
            looked += 1;
            if found == limit || looked > EXTENTS_PER_LOOK {
                end = load;
                break;
            }
            if !share.contains(load) {
                loads.entry(load).or_default();
                found += 1;
            }
            sealed.next();
        }
        sealed.status().map_err(|source| self.failed(source))?;
        loads.retain(|load, _| *load < end);
        // A load may be cut off in the middle of its ranges: it comes again.
        Ok(Leftovers { loads, next: (end != u64::MAX).then_some(end) })
    }

    /// Deletes what is stored of these loads. The caller keeps everybody else out.
    fn drop_leftovers(&self, leftovers: &Leftovers) -> Result<(), StoreError> {
        let _seals = lock(&self.seal_writes);
        let mut batch = self.batch()?;
        let mut sealed = Vec::new();
        for (load, starts) in &leftovers.loads {
            for start in starts {
                batch.delete(Column::Extent, &start.to_be_bytes());
                batch.delete(Column::Data, &start.to_be_bytes());
            }
            let contexts = self.seal_record(*load)?.contexts();
            if !contexts.is_empty() {
                sealed.push(*load);
                batch.seal_record(*load, &contexts, &SealRecord::empty());
            }
        }
        // Holes first: after a kill in between, the records still say where to look for what is left.
        self.sealed.punch(&sealed)?;
        let share = self.share();
        if leftovers.next.is_none() {
            batch.delete_range(Column::Unfinished, &[], &share.from_seq.to_be_bytes());
        }
        batch.commit_freeing()?;
        if leftovers.next.is_none() {
            self.sealed.remove_below(share.from / PER_LOAD / LOADS_PER_PRICING)?;
        }
        Ok(())
    }

    /// Gives the space of deleted data among these loads back to the disk. What is kept there is written anew on the way.
    fn compact(&self, loads: Range<u64>) {
        if loads.is_empty() {
            return;
        }
        let kept = self.share().count(loads.clone()).saturating_mul(BYTES_PER_LOAD as u64);
        if let Err(error) = self.ensure_space(&self.db_path, kept.min(COMPACTION_BYTES)) {
            tracing::warn!(%error, "deleted data is not compacted now: its space is used again, but not given back");
            return;
        }
        let data = self.column(Column::Data);
        let cutoff = |value| {
            if let Err(error) = self.db.set_options_cf(data, &[("blob_garbage_collection_age_cutoff", value)]) {
                tracing::warn!(%error, "the database does not take its setting for deleted data");
            }
        };
        let mut options = CompactOptions::default();
        options.set_exclusive_manual_compaction(false);
        options.set_bottommost_level_compaction(BottommostLevelCompaction::ForceOptimized);
        cutoff("1.0");
        let mut from = loads.start;
        while from < loads.end {
            let to = loads.end.min(from.saturating_add(LOADS_PER_COMPACTION));
            let key = |load: u64| load.saturating_mul(PER_LOAD).to_be_bytes();
            self.db.compact_range_cf_opt(data, Some(key(from)), Some(key(to)), &options);
            from = to;
        }
        cutoff(USUAL_CUTOFF);
    }

    /// Writes down where the sweep goes on.
    fn end_sweep_step(&self) -> Result<(), StoreError> {
        // The share may have changed meanwhile, and the sweep begun anew.
        let _chain = self.chain.read().unwrap_or_else(PoisonError::into_inner);
        let mut batch = self.batch()?;
        match *lock(&self.sweep) {
            Some(next) => batch.put(Column::Meta, META_SWEEP, &next.to_be_bytes()),
            None => batch.delete(Column::Meta, META_SWEEP),
        }
        batch.commit_freeing()
    }
}

/// Loads of the flow that are compacted in one go.
const LOADS_PER_COMPACTION: u64 = 1 << 14;
/// Most bytes that one compaction needs before it frees any.
const COMPACTION_BYTES: u64 = LOADS_PER_COMPACTION * BYTES_PER_LOAD as u64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_counts_what_it_contains() {
        for (id, count, from) in [(0, 1, 0), (1, 2, 0), (2, 4, 7), (3, 4, 3), (0, 8, 100)] {
            let share = Share { shard: Shard::new(id, count).unwrap(), from: from * PER_LOAD, from_seq: 0 };
            for start in 0..20 {
                for end in start..30 {
                    let inside = (start..end).filter(|load| share.contains(*load)).count() as u64;
                    assert_eq!(share.count(start..end), inside, "{share:?} {start}..{end}");
                }
                let next = share.next(start).unwrap();
                assert!(share.contains(next) && !(start..next).any(|load| share.contains(load)));
            }
        }
    }
}
