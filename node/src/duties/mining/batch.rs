//! What sealing is made of: which context each seal gets, the data that an engine seals, and where the seals belong.

use std::{collections::BTreeMap, ops::Range};

use zgpu_core::{
    digest::H256,
    units::{BYTES_PER_SEAL, SEALS_PER_LOAD, SECTORS_PER_LOAD, SECTORS_PER_SEAL},
};
use zgpu_miner::plain::first_mask;

use crate::{
    chain::{
        client::{ChainClient, EpochRange},
        error::ChainError,
    },
    store::{SealTask, SealedLoad, Store, StoreError},
};

/// Loads that are sealed and written at once: 16 MiB.
pub(super) const LOADS_PER_BATCH: usize = 64;

/// First sector of a seal in the flow.
fn seal_start(load: u64, seal: u32) -> u64 {
    load * SECTORS_PER_LOAD as u64 + u64::from(seal) * SECTORS_PER_SEAL as u64
}

/// Numbers of the seals in a mask, ascending.
pub(super) fn seals_in(mask: u64) -> impl Iterator<Item = u32> {
    (0..SEALS_PER_LOAD as u32).filter(move |seal| mask >> seal & 1 == 1)
}

/// Epoch ranges as far as they were asked for: they tile the flow, and a range that is in a block changes only when the
/// chain is reorganised.
#[derive(Default)]
pub(super) struct Contexts {
    /// By the first sector behind each.
    ranges: BTreeMap<u64, EpochRange>,
}

impl Contexts {
    /// Most ranges that are remembered: years of epochs.
    const MAX: usize = 1 << 16;

    /// The range that decides the context of the seal at this position (its first sector): the one with its last sector.
    /// `None` where no epoch has seen that sector yet.
    pub(super) async fn of_seal(
        &mut self,
        chain: &ChainClient,
        position: u64,
    ) -> Result<Option<EpochRange>, ChainError> {
        let end = position.saturating_add(SECTORS_PER_SEAL as u64);
        if let Some((_, range)) = self.ranges.range(end..).next()
            && range.covers_seal_at(position)
        {
            return Ok(Some(*range));
        }
        let range = chain.query_context_at_position(end - 1).await?;
        if let Some(range) = range {
            if self.ranges.len() >= Self::MAX {
                self.ranges.clear();
            }
            self.ranges.insert(range.end, range);
        }
        Ok(range)
    }

    /// Forgets all ranges.
    pub(super) fn forget(&mut self) {
        self.ranges.clear();
    }
}

/// What has to be sealed of one load.
pub(super) struct SealJob {
    load: u64,
    seals: Vec<(u32, H256)>,
}

/// The tasks with the contexts of their seals. Seals that no epoch has seen are left out.
pub(super) async fn seal_jobs(
    chain: &ChainClient,
    contexts: &mut Contexts,
    tasks: &[SealTask],
) -> Result<Vec<SealJob>, ChainError> {
    let mut jobs = Vec::with_capacity(tasks.len());
    for task in tasks {
        let mut seals = Vec::with_capacity(SEALS_PER_LOAD);
        for seal in seals_in(task.seals) {
            let range = contexts.of_seal(chain, seal_start(task.load, seal)).await?;
            seals.extend(range.map(|range| (seal, range.digest)));
        }
        jobs.push(SealJob { load: task.load, seals });
    }
    Ok(jobs)
}

/// Data to seal, and where it belongs.
pub(super) struct Batch {
    /// First mask of each seal.
    pub(super) first_masks: Vec<[u8; 32]>,
    /// 4096 bytes for each.
    pub(super) data: Vec<u8>,
    loads: Vec<BatchLoad>,
}

struct BatchLoad {
    job: SealJob,
    revision: u64,
    bytes: Range<usize>,
}

/// Reads the data of some jobs. Blocks.
pub(super) fn read_batch(store: &Store, miner_id: &H256, jobs: Vec<SealJob>) -> Result<Batch, StoreError> {
    let mut batch = Batch { first_masks: Vec::new(), data: Vec::new(), loads: Vec::with_capacity(jobs.len()) };
    for mut job in jobs {
        let Some(load) = store.load(job.load)? else { continue };
        // Asked after the revision was read: a load that is given up later makes it stale.
        if !store.keeps(job.load) {
            continue;
        }
        // Data may have gone since the task was made.
        job.seals.retain(|(seal, _)| load.known >> seal & 1 == 1);
        let start = batch.data.len();
        for (seal, context) in &job.seals {
            let at = *seal as usize * BYTES_PER_SEAL;
            batch.data.extend_from_slice(&load.bytes[at..at + BYTES_PER_SEAL]);
            batch.first_masks.push(first_mask(miner_id, context, seal_start(job.load, *seal)));
        }
        let bytes = start..batch.data.len();
        if !bytes.is_empty() {
            batch.loads.push(BatchLoad { job, revision: load.revision, bytes });
        }
    }
    Ok(batch)
}

impl Batch {
    /// The loads as the store takes them; `sealed` is what became of the data.
    pub(super) fn loads<'a>(&'a self, sealed: &'a [u8]) -> Vec<SealedLoad<'a>> {
        let load = |load: &'a BatchLoad| SealedLoad {
            load: load.job.load,
            revision: load.revision,
            seals: &load.job.seals,
            bytes: &sealed[load.bytes.clone()],
        };
        self.loads.iter().map(load).collect()
    }

    /// Its loads with the masks of their seals.
    pub(super) fn masks(&self) -> Vec<(u64, u64)> {
        let mask = |load: &BatchLoad| load.job.seals.iter().fold(0, |mask, (seal, _)| mask | 1u64 << seal);
        self.loads.iter().map(|load| (load.job.load, mask(load))).collect()
    }
}

#[cfg(test)]
mod tests {
    use zgpu_core::{file::SubmissionNode, flow::place, shard::Shard, tree::zero_root};

    use super::*;
    use crate::store::{Settings, Transaction};

    /// What was given up is there until the pruner comes by; it is not sealed any more, and keeps nothing else from it.
    #[test]
    fn loads_that_are_given_up_after_the_search_are_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings { reserve_bytes: 1 << 20, write_buffer_bytes: 16 << 20, ..Settings::default() };
        let store = Store::open_with(dir.path(), settings).unwrap();
        let nodes = vec![SubmissionNode { root: zero_root(13), height: 13 }];
        let start = place::<StoreError>(store.flow_length(), &[13]).unwrap().start;
        store.append(&Transaction { seq: 0, data_root: zero_root(13), start, size_bytes: 8 << 18, nodes }).unwrap();
        let (miner, context) = (H256([1; 32]), H256([2; 32]));
        let tasks = store.unsealed(&miner, start / 1024, store.flow_length(), 100).unwrap();
        assert_eq!(tasks.iter().map(|task| task.load).collect::<Vec<_>>(), (8..16).collect::<Vec<_>>());
        let seals = |task: &SealTask| seals_in(task.seals).map(|seal| (seal, context)).collect();
        let jobs = tasks.iter().map(|task| SealJob { load: task.load, seals: seals(task) }).collect();

        store.set_shard(Shard::new(1, 2).unwrap()).unwrap();
        let batch = read_batch(&store, &miner, jobs).unwrap();
        store.put_sealed(&miner, &batch.loads(&batch.data)).unwrap();
        assert_eq!(batch.masks(), [9, 11, 13, 15].map(|load| (load, u64::MAX)));
        assert_eq!(store.sealed_loads(&miner, 0..u64::MAX).unwrap(), batch.masks());
    }

    #[test]
    fn seals_of_a_mask_and_where_they_start() {
        assert_eq!(seals_in(1 << 63 | 0b101).collect::<Vec<_>>(), [0, 2, 63]);
        assert_eq!(seal_start(3, 11), 3248);
    }
}
