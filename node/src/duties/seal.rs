//! Sealing: known data becomes sealed loads, each seal with the context of the epoch that first saw it.

use std::ops::Range;

use anyhow::Context;
use zgpu_core::{
    digest::H256,
    units::{BYTES_PER_SEAL, SEALS_PER_LOAD, SECTORS_PER_LOAD, SECTORS_PER_SEAL},
};
use zgpu_miner::{Engine, plain::first_mask};

use crate::{
    chain::client::{ChainClient, EpochRange},
    duties::blocking,
    store::{SealTask, SealedLoad, Store},
};

/// Loads that are sealed and written at once: 16 MiB.
const LOADS_PER_BATCH: usize = 64;

/// First sector of a seal in the flow.
fn seal_start(load: u64, seal: u32) -> u64 {
    load * SECTORS_PER_LOAD as u64 + u64::from(seal) * SECTORS_PER_SEAL as u64
}

/// Numbers of the seals in a mask, ascending.
fn seals_in(mask: u64) -> impl Iterator<Item = u32> {
    (0..SEALS_PER_LOAD as u32).filter(move |seal| mask >> seal & 1 == 1)
}

/// Epoch ranges as far as they were asked for: they tile the flow, and a range that is in a block does not change.
#[derive(Default)]
pub struct Contexts {
    ranges: Vec<EpochRange>,
}

impl Contexts {
    /// The range that decides the context of the seal at this position (its first sector): the one with its last sector.
    pub async fn of_seal(&mut self, chain: &ChainClient, position: u64) -> anyhow::Result<EpochRange> {
        if let Some(range) = self.ranges.iter().find(|range| range.covers_seal_at(position)) {
            return Ok(*range);
        }
        let last_sector = position + SECTORS_PER_SEAL as u64 - 1;
        let range = chain
            .query_context_at_position(last_sector)
            .await?
            .with_context(|| format!("no epoch has seen sector {last_sector} yet"))?;
        self.ranges.push(range);
        Ok(range)
    }
}

/// What has to be sealed of one load.
struct Job {
    load: u64,
    seals: Vec<(u32, H256)>,
}

/// Seals what is known of the loads `loads`, up to sector `flow_length` of the latest context, and stores it.
/// `progress` is told bytes as they are stored. Returns the engine and the bytes sealed.
pub async fn seal_loads(
    chain: &ChainClient,
    store: &Store,
    mut engine: Box<dyn Engine>,
    miner_id: H256,
    loads: Range<u64>,
    flow_length: u64,
    progress: &(dyn Fn(u64) + Sync),
) -> anyhow::Result<(Box<dyn Engine>, u64)> {
    let mut contexts = Contexts::default();
    let mut sealed = 0;
    let mut from = loads.start;
    loop {
        let searching = store.clone();
        let tasks: Vec<SealTask> =
            blocking(move || searching.unsealed(&miner_id, from, flow_length, LOADS_PER_BATCH)).await?;
        let tasks: Vec<SealTask> = tasks.into_iter().filter(|task| task.load < loads.end).collect();
        let Some(last) = tasks.last() else { return Ok((engine, sealed)) };
        from = last.load + 1;

        let mut jobs = Vec::with_capacity(tasks.len());
        for task in &tasks {
            let mut seals = Vec::with_capacity(SEALS_PER_LOAD);
            for seal in seals_in(task.seals) {
                seals.push((seal, contexts.of_seal(chain, seal_start(task.load, seal)).await?.digest));
            }
            jobs.push(Job { load: task.load, seals });
        }
        let writing = store.clone();
        let bytes;
        (engine, bytes) = blocking(move || {
            let bytes = seal_batch(&writing, engine.as_mut(), miner_id, jobs);
            (engine, bytes)
        })
        .await;
        let bytes = bytes?;
        sealed += bytes;
        progress(bytes);
    }
}

/// Seals one batch and stores it; returns its bytes.
fn seal_batch(store: &Store, engine: &mut dyn Engine, miner_id: H256, jobs: Vec<Job>) -> anyhow::Result<u64> {
    struct Read {
        job: Job,
        revision: u64,
        bytes: Range<usize>,
    }
    let mut reads = Vec::with_capacity(jobs.len());
    let mut first_masks = Vec::new();
    let mut data = Vec::new();
    for mut job in jobs {
        let Some(load) = store.load(job.load)? else { continue };
        // Data may have gone since the task was made.
        job.seals.retain(|(seal, _)| load.known >> seal & 1 == 1);
        let start = data.len();
        for (seal, context) in &job.seals {
            let at = *seal as usize * BYTES_PER_SEAL;
            data.extend_from_slice(&load.bytes[at..at + BYTES_PER_SEAL]);
            first_masks.push(first_mask(&miner_id, context, seal_start(job.load, *seal)));
        }
        reads.push(Read { job, revision: load.revision, bytes: start..data.len() });
    }
    engine.seal(&first_masks, &mut data)?;
    let loads: Vec<SealedLoad<'_>> = reads
        .iter()
        .map(|read| SealedLoad {
            load: read.job.load,
            revision: read.revision,
            seals: &read.job.seals,
            bytes: &data[read.bytes.clone()],
        })
        .collect();
    store.put_sealed(&miner_id, &loads)?;
    Ok(data.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seals_of_a_mask_and_where_they_start() {
        assert_eq!(seals_in(1 << 63 | 0b101).collect::<Vec<_>>(), [0, 2, 63]);
        assert_eq!(seal_start(3, 11), 3248);
    }
}
