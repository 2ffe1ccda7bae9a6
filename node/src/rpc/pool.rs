//! Upload admission: which segments are taken, where they go, and when their file is complete.
//!
//! A segment whose transaction is known goes to the store, which verifies it. One whose transaction the chain has not
//! shown yet is verified against its own root and kept pending, on disk, for a while; a background task writes it when
//! the transaction comes. The same task gives the data of a finalised file to other transactions of that file, and
//! completes at the start what a crash has left undone.

use std::{
    collections::{BTreeSet, HashMap, HashSet, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Notify;
use zgpu_core::{
    H256,
    digest::parent,
    file::{FileProof, FileShape, segment_root},
    tree::zero_root,
    units::{BYTES_PER_SECTOR, LG_SECTORS_PER_LOAD},
};

use super::{error::RpcError, metrics::Metrics, types::SegmentWithProof};
use crate::{
    duties::blocking,
    store::{PendingSegment, Put, Store, StoreError, Transaction},
};

/// What the pool keeps of files whose transaction is not known.
#[derive(Clone, Debug)]
pub struct PoolSettings {
    /// Sectors of pending segments, all files together. Default 4194304, 1 GiB.
    pub max_pending_sectors: u64,
    /// Bytes of a file whose segments may be pending. Default 10 MiB.
    pub max_pending_file_bytes: u64,
    /// How long segments stay pending after the last one of their file came. Default 300 s.
    pub pending_for: Duration,
}

impl Default for PoolSettings {
    fn default() -> Self {
        PoolSettings {
            max_pending_sectors: 4_194_304,
            max_pending_file_bytes: 10 << 20,
            pending_for: Duration::from_secs(300),
        }
    }
}

/// Files that are being written and remembered; beyond that, idle ones are forgotten and counted anew when they go on.
const MAX_OPEN_FILES: usize = 10_000;
/// Transactions that the background task looks at in one go.
const TRANSACTIONS_AT_ONCE: u64 = 1000;
/// How often pending segments are looked through for old ones.
const SWEEP_EVERY: Duration = Duration::from_secs(5);

pub(crate) struct Pool {
    store: Store,
    settings: PoolSettings,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
    /// There is something in `State::finished` or `State::arrived`.
    wake: Notify,
}

#[derive(Default)]
struct State {
    /// By sequence number.
    open: HashMap<u64, OpenFile>,
    /// Revision of the store that `open` belongs to.
    revision: u64,
    /// By file root.
    pending: HashMap<H256, PendingFile>,
    pending_sectors: u64,
    /// Roots of files that were finalised: their twins want the data.
    finished: HashSet<H256>,
    /// Roots with pending segments whose transaction came while they were put down.
    arrived: HashSet<H256>,
}

/// A file of a known transaction that segments come in for.
struct OpenFile {
    /// Segments that are not stored.
    missing: u64,
    /// Segments that are being written.
    in_flight: HashSet<u64>,
}

struct PendingFile {
    size: u64,
    segments: BTreeSet<u64>,
    last: Instant,
}

impl Pool {
    /// Takes up the segments that are pending in the store. Blocks.
    pub(crate) fn open(store: Store, settings: PoolSettings, metrics: Arc<Metrics>) -> Result<Pool, StoreError> {
        let mut state = State::default();
        store.each_pending(|root, size, index| {
            let file = state.pending.entry(root).or_insert_with(|| PendingFile::new(size));
            file.segments.insert(index);
            state.pending_sectors += segment_sectors(file.size, index);
        })?;
        Ok(Pool { store, settings, metrics, state: Mutex::new(state), wake: Notify::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Changes of the state are complete before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Number of pending segments of the file with this root, if there are any.
    pub(crate) fn pending_segments(&self, root: &H256) -> Option<u64> {
        self.state().pending.get(root).map(|file| file.segments.len() as u64)
    }

    /// Takes a segment of the file that `transaction` names, or of one that is not known yet. Durable on return. Blocks.
    pub(crate) fn take(&self, transaction: Option<Transaction>, segment: SegmentWithProof) -> Result<(), RpcError> {
        let result = self.admit(transaction, segment);
        match &result {
            Ok(()) => self.metrics.segments_taken.add(1),
            Err(_) => self.metrics.segments_refused.add(1),
        }
        result
    }

    fn admit(&self, transaction: Option<Transaction>, segment: SegmentWithProof) -> Result<(), RpcError> {
        let SegmentWithProof { root, data, index, proof, file_size } = segment;
        let (data, proof) = (data.0, proof.file_proof());
        if data.is_empty() {
            return Err(RpcError::failed("data is empty"));
        }
        if !data.len().is_multiple_of(BYTES_PER_SECTOR) {
            return Err(RpcError::failed("invalid data length"));
        }
        if let Some(transaction) = &transaction {
            if transaction.data_root != root {
                return Err(RpcError::Internal("data root and tx seq not match".into()));
            }
            if transaction.size_bytes != file_size {
                return Err(RpcError::param("file_size", "segment file size not matched with tx file size"));
            }
            if self.store.is_finalised(transaction.seq)? {
                return Err(RpcError::param("root", "already uploaded and finalized"));
            }
            if self.store.is_pruned(transaction.seq)? {
                return Err(RpcError::param("root", "already pruned"));
            }
        } else if file_size > self.settings.max_pending_file_bytes {
            let text = "caching of large file when tx is unavailable is not supported";
            return Err(RpcError::param("file_size", text));
        }
        let shape = FileShape::new(file_size).map_err(|_| RpcError::param("file_size", "file is empty"))?;
        if index >= shape.segments() {
            return Err(RpcError::param("index", "index out of bound"));
        }
        if data.len() != shape.segment_bytes(index).next_multiple_of(BYTES_PER_SECTOR) {
            return Err(RpcError::param("data", "invalid data length"));
        }
        match transaction {
            Some(transaction) => self.write(&transaction, index, &data, &proof),
            None => self.keep(&shape, root, index, data, proof),
        }
    }

    /// Writes a segment of a known transaction; finalises the file with its last one.
    fn write(&self, transaction: &Transaction, index: u64, data: &[u8], proof: &FileProof) -> Result<(), RpcError> {
        let seq = transaction.seq;
        let _writing = Writing::start(self, seq, index)?;
        let put = self.store.put_segment(seq, index, data, proof).map_err(|error| match error {
            StoreError::Segment(_) => refusal(transaction.size_bytes, &transaction.data_root, index, data, proof),
            StoreError::Reverted { .. } | StoreError::UnknownTransaction { .. } => {
                RpcError::failed("Transaction reverted when uploading segments, please try again")
            }
            StoreError::Pruned { .. } => RpcError::param("root", "already pruned"),
            error => error.into(),
        })?;
        if put == Put::Outside {
            // It was verified, and other nodes keep it.
            self.metrics.segments_outside.add(1);
            return Ok(());
        }
        let is_complete = {
            let mut state = self.state();
            let file = state.open.get_mut(&seq);
            match (put, file) {
                (Put::Stored, Some(file)) => {
                    file.missing = file.missing.saturating_sub(1);
                    file.missing == 0
                }
                // Somebody else wrote it, or the log was cut: only the store knows what is missing.
                _ => true,
            }
        };
        if is_complete {
            self.finalise(transaction)?;
        }
        if put == Put::Known {
            return Err(RpcError::duplicate());
        }
        self.metrics.bytes_taken.add(data.len() as u64);
        Ok(())
    }

    /// Finalises a file if all of it is there.
    fn finalise(&self, transaction: &Transaction) -> Result<(), RpcError> {
        let seq = transaction.seq;
        if self.store.is_finalised(seq)? || self.store.is_pruned(seq)? {
            return Ok(());
        }
        if !self.store.missing_segments(seq, 0, 1)?.is_empty() {
            // The count was of other times.
            self.state().open.remove(&seq);
            return Ok(());
        }
        self.store.finalise(seq)?;
        self.metrics.files_finalised.add(1);
        let mut state = self.state();
        state.open.remove(&seq);
        state.finished.insert(transaction.data_root);
        drop(state);
        self.wake.notify_one();
        Ok(())
    }

    /// Keeps a segment whose transaction is not known.
    fn keep(&self, shape: &FileShape, root: H256, index: u64, data: Vec<u8>, proof: FileProof) -> Result<(), RpcError> {
        let unfilled = &data[..shape.segment_bytes(index)];
        if proof.verify(shape, &root, index, unfilled).is_err() || data[unfilled.len()..].iter().any(|byte| *byte != 0)
        {
            return Err(refusal(shape.size(), &root, index, &data, &proof));
        }
        let sectors = (data.len() / BYTES_PER_SECTOR) as u64;
        {
            // Room is taken before the write, so that many writes at once stay within the limit too.
            let mut guard = self.state();
            let state = &mut *guard;
            let taken = state.pending_sectors + sectors;
            let file = state.pending.entry(root).or_insert_with(|| PendingFile::new(shape.size()));
            file.last = Instant::now();
            if file.size != shape.size() {
                let before = FileShape::new(file.size).map_or(0, |shape| shape.segments());
                return Err(RpcError::failed(format!(
                    "file size in segment doesn't match with file size declared in previous segment. \
                     Previous total segments:{before}, current total segments:{}",
                    shape.segments()
                )));
            }
            if file.segments.contains(&index) {
                return Ok(());
            }
            if taken > self.settings.max_pending_sectors {
                if file.segments.is_empty() {
                    state.pending.remove(&root);
                }
                let limit = self.settings.max_pending_sectors;
                return Err(RpcError::failed(format!("exceeds the maximum cached chunks of whole pool: {limit}")));
            }
            file.segments.insert(index);
            state.pending_sectors = taken;
        }
        let segment = PendingSegment { file_size: shape.size(), data, proof };
        if let Err(error) = self.store.put_pending(&root, index, &segment) {
            self.state().remove_pending(&root, Some(index));
            return Err(error.into());
        }
        self.metrics.segments_pending.add(1);
        // The transaction may have come, and been looked at, between the look-up and now.
        if !self.store.transactions_by_root(&root)?.is_empty() {
            self.state().arrived.insert(root);
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Follows the log and does what comes up, until it is dropped.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut log = self.store.watch_log();
        let mut looked = Looked::default();
        let mut sweep = tokio::time::interval(SWEEP_EVERY);
        sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let pool = self.clone();
            let is_done;
            (is_done, looked) = blocking(move || {
                let is_done = pool.work(&mut looked);
                (is_done, looked)
            })
            .await;
            if is_done {
                tokio::select! {
                    changed = log.changed() => if changed.is_err() { return },
                    () = self.wake.notified() => {}
                    _ = sweep.tick() => {}
                }
            }
        }
    }

    /// Does a part of what there is to do; true when nothing is left. What fails is tried again when it comes up again.
    fn work(&self, looked: &mut Looked) -> bool {
        let log = *self.store.watch_log().borrow();
        if log.revision != looked.revision {
            *looked = Looked { next_seq: 0, revision: log.revision };
        }
        let end = log.next_seq.min(looked.next_seq.saturating_add(TRANSACTIONS_AT_ONCE));
        for seq in looked.next_seq..end {
            if let Err(error) = self.look_at(seq) {
                tracing::warn!(seq, %error, "what was uploaded for a transaction could not be completed");
            }
        }
        looked.next_seq = looked.next_seq.max(end);
        let (finished, arrived) = {
            let mut state = self.state();
            (std::mem::take(&mut state.finished), std::mem::take(&mut state.arrived))
        };
        for root in finished {
            if let Err(error) = self.feed_twins(&root) {
                tracing::warn!(%root, %error, "the data of a file could not be copied to its other transactions");
            }
        }
        for root in arrived {
            if let Err(error) = self.write_pending(&root) {
                tracing::warn!(%root, %error, "pending segments could not be written");
            }
        }
        self.drop_expired();
        looked.next_seq >= log.next_seq
    }

    /// Sees to a transaction that is new, or may have been left undone by a crash.
    fn look_at(&self, seq: u64) -> Result<(), RpcError> {
        let Some(transaction) = self.store.transaction(seq)? else { return Ok(()) };
        if self.pending_segments(&transaction.data_root).is_some() {
            self.write_pending(&transaction.data_root)?;
        }
        if transaction.shape().is_err() || self.store.is_finalised(seq)? || self.store.is_pruned(seq)? {
            return Ok(());
        }
        if self.store.missing_segments(seq, 0, 1)?.is_empty() {
            return self.finalise(&transaction);
        }
        self.feed_twins(&transaction.data_root)
    }

    /// Gives the data of a finalised file to the other transactions with its root. Two of them have the same segments in the
    /// shard when the loads that they start in leave the same rest, so one source for each rest is enough.
    fn feed_twins(&self, root: &H256) -> Result<(), RpcError> {
        let seqs = self.store.transactions_by_root(root)?;
        if seqs.len() < 2 {
            return Ok(());
        }
        let count = self.store.shard().count;
        let mut finalised = HashMap::new();
        let mut waiting = Vec::new();
        for seq in seqs {
            let Some(transaction) = self.store.transaction(seq)? else { continue };
            let rest = (transaction.start >> LG_SECTORS_PER_LOAD) % count;
            if self.store.is_finalised(seq)? {
                finalised.entry(rest).or_insert(seq);
            } else if !self.store.is_pruned(seq)? {
                waiting.push((seq, rest));
            }
        }
        for (seq, rest) in waiting {
            let Some(source) = finalised.get(&rest) else { continue };
            if self.store.copy_file(*source, seq)? {
                self.metrics.files_copied.add(1);
                self.state().open.remove(&seq);
            }
        }
        Ok(())
    }

    /// The transaction of a file that a segment is best given to: the first that wants it, else the first that wants
    /// anything.
    pub(crate) fn target(&self, root: &H256, size: u64, index: u64) -> Result<Option<Transaction>, RpcError> {
        let mut first = None;
        for seq in self.store.transactions_by_root(root)? {
            if self.store.is_finalised(seq)? || self.store.is_pruned(seq)? {
                continue;
            }
            let Some(transaction) = self.store.transaction(seq)? else { continue };
            if transaction.size_bytes != size || transaction.shape().is_err() {
                continue;
            }
            if self.store.wants_segment(seq, index)? {
                return Ok(Some(transaction));
            }
            first = first.or(Some(transaction));
        }
        Ok(first)
    }

    /// Writes the pending segments of a file to its transactions that want them. When the chain has shown it and nothing
    /// of it is wanted any more, they are dropped.
    fn write_pending(&self, root: &H256) -> Result<(), RpcError> {
        let Some((size, segments)) =
            self.state().pending.get(root).map(|file| (file.size, file.segments.iter().copied().collect::<Vec<_>>()))
        else {
            return Ok(());
        };
        for index in segments {
            let Some(transaction) = self.target(root, size, index)? else { break };
            // One that was just acknowledged may not be on disk yet; its own call wakes the task again.
            let Some(segment) = self.store.pending(root, index)? else { continue };
            match self.write(&transaction, index, &segment.data, &segment.proof) {
                Err(error) if !error.is_duplicate() => return Err(error),
                _ => self.forget_pending(root, Some(index))?,
            }
        }
        let mut is_done = false;
        for seq in self.store.transactions_by_root(root)? {
            let Some(transaction) = self.store.transaction(seq)? else { continue };
            is_done |= transaction.size_bytes == size && self.store.is_finalised(seq)?;
        }
        match is_done && self.target(root, size, 0)?.is_none() {
            true => self.forget_pending(root, None),
            false => Ok(()),
        }
    }

    /// Drops one pending segment of a file, or all.
    fn forget_pending(&self, root: &H256, index: Option<u64>) -> Result<(), RpcError> {
        self.store.drop_pending(root, index)?;
        self.state().remove_pending(root, index);
        Ok(())
    }

    /// Drops pending files whose last segment came long ago.
    fn drop_expired(&self) {
        let is_old = |file: &PendingFile| file.last.elapsed() > self.settings.pending_for;
        let old: Vec<H256> =
            self.state().pending.iter().filter(|(_, file)| is_old(file)).map(|(root, _)| *root).collect();
        for root in old {
            if let Err(error) = self.forget_pending(&root, None) {
                tracing::warn!(%root, %error, "old pending segments could not be dropped");
            }
        }
    }
}

/// Up to where the background task has looked at the log.
#[derive(Clone, Copy, Default)]
struct Looked {
    next_seq: u64,
    revision: u64,
}

impl State {
    /// Forgets one pending segment of a file, or all, and the file with its last one.
    fn remove_pending(&mut self, root: &H256, index: Option<u64>) {
        let Some(file) = self.pending.get_mut(root) else { return };
        let removed: Vec<u64> = match index {
            None => std::mem::take(&mut file.segments).into_iter().collect(),
            Some(index) => file.segments.take(&index).into_iter().collect(),
        };
        let sectors: u64 = removed.into_iter().map(|index| segment_sectors(file.size, index)).sum();
        if file.segments.is_empty() {
            self.pending.remove(root);
        }
        self.pending_sectors = self.pending_sectors.saturating_sub(sectors);
    }
}

/// Sectors with data in a segment of a file.
fn segment_sectors(file_size: u64, index: u64) -> u64 {
    FileShape::new(file_size).map_or(0, |shape| shape.segment_bytes(index).div_ceil(BYTES_PER_SECTOR) as u64)
}

impl PendingFile {
    fn new(size: u64) -> Self {
        PendingFile { size, segments: BTreeSet::new(), last: Instant::now() }
    }
}

/// A segment that is being written; nobody else may write it meanwhile.
struct Writing<'a> {
    pool: &'a Pool,
    seq: u64,
    index: u64,
}

impl<'a> Writing<'a> {
    fn start(pool: &'a Pool, seq: u64, index: u64) -> Result<Self, RpcError> {
        let mut guard = pool.state();
        let state = &mut *guard;
        let revision = pool.store.revision();
        if state.revision != revision || state.open.len() >= MAX_OPEN_FILES {
            let is_other = state.revision != revision;
            state.open.retain(|_, file| !is_other && !file.in_flight.is_empty());
            state.revision = revision;
        }
        let file = match state.open.entry(seq) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let status = pool.store.status(seq)?;
                let missing = status.map_or(0, |status| status.segments.saturating_sub(status.stored));
                entry.insert(OpenFile { missing, in_flight: HashSet::new() })
            }
        };
        if !file.in_flight.insert(index) {
            return Err(RpcError::duplicate());
        }
        Ok(Writing { pool, seq, index })
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        if let Some(file) = self.pool.state().open.get_mut(&self.seq) {
            file.in_flight.remove(&self.index);
        }
    }
}

/// Says why a segment that was refused is wrong, in the network's words and order. `data` is whole sectors.
fn refusal(file_size: u64, root: &H256, index: u64, data: &[u8], proof: &FileProof) -> RpcError {
    let wrong = |text: &str| RpcError::param("proof", text);
    let Ok(shape) = FileShape::new(file_size) else { return RpcError::param("file_size", "file is empty") };
    let (lemma, path) = (&proof.lemma, &proof.path);
    let is_single = lemma.len() == 1 && path.is_empty();
    if !is_single && lemma.len() != path.len() + 2 {
        return wrong("invalid proof");
    }
    let (mut start, mut count) = (0u64, shape.proof_segments());
    let mut is_padding_wrong = false;
    for (is_left, sibling) in path.iter().zip(&lemma[1..]).rev() {
        if count <= 1 {
            return RpcError::failed(format!("Proof path too long for {} segments", shape.proof_segments()));
        }
        let half = count.next_power_of_two() / 2;
        if *is_left {
            let right = count - half;
            is_padding_wrong |= start + half >= shape.segments()
                && right.is_power_of_two()
                && *sibling != zero_root(right.ilog2() + LG_SECTORS_PER_LOAD);
            count = half;
        } else {
            (start, count) = (start + half, count - half);
        }
    }
    if count != 1 {
        return RpcError::failed(format!("Proof path too short for {} segments", shape.proof_segments()));
    }
    if start != index {
        return RpcError::failed(format!("wrong position: proof_pos={start} provided={index}"));
    }
    let top = lemma[lemma.len() - 1];
    if top != *root {
        return RpcError::failed(format!("root mismatch: proof_root={top} provided={root}"));
    }
    let (unfilled, fill) = data.split_at(shape.segment_bytes(index).min(data.len()));
    match segment_root(&shape, index, unfilled) {
        Ok(leaf) if leaf == lemma[0] && fill.iter().all(|byte| *byte == 0) => {}
        Ok(leaf) => return RpcError::failed(format!("data hash mismatch: proof_leaf={} provided={leaf}", lemma[0])),
        Err(_) => return wrong("invalid data len"),
    }
    let folded = path.iter().zip(&lemma[1..]).fold(lemma[0], |node, (is_left, sibling)| {
        if *is_left { parent(&node, sibling) } else { parent(sibling, &node) }
    });
    if folded == *root && is_padding_wrong {
        return wrong("invalid proof node value in the padding range");
    }
    wrong("validation failed")
}
