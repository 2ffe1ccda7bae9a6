//! Data of files that the chain took back. It mostly shows the same files again a moment later, and nobody has to upload
//! them anew: their segments wait with their proofs, and are verified and stored like any others when a file with the same
//! root comes.

use std::ops::Range;

use zgpu_core::{H256, units::BYTES_PER_LOAD};

use super::{
    Batch, Column, Inner, PendingSegment, StoreError, Transaction,
    columns::{Fields, KEY_END, decode_pending, digest_key, encode_pending, key_number, reverted_key},
    loads::ExtentKind,
    lock,
};

/// Transactions after which data that did not come back is dropped.
const KEPT_FOR_TRANSACTIONS: u64 = 500;
/// Segments that are written at once, 8 MiB.
const SEGMENTS_PER_WRITE: usize = 32;

/// Files that were cut off and whose data is still there, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Reverted {
    files: Vec<RevertedFile>,
}

#[derive(Clone, Copy, Debug)]
struct RevertedFile {
    root: H256,
    size: u64,
    /// Number of its transaction.
    seq: u64,
    /// Bytes of its segments.
    bytes: u64,
}

impl RevertedFile {
    fn is(&self, transaction: &Transaction) -> bool {
        (self.root, self.size) == (transaction.data_root, transaction.size_bytes)
    }
}

impl Reverted {
    fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }
}

impl Batch<'_> {
    fn drop_reverted(&mut self, file: &RevertedFile) {
        self.delete(Column::RevertedFile, &digest_key(&file.root, file.size));
        let prefix = digest_key(&file.root, file.size);
        self.delete_range(Column::Reverted, &prefix, &[&prefix[..], &KEY_END[..9]].concat());
    }
}

impl Inner {
    /// Lists what is kept, and drops segments that no file is listed for.
    pub(super) fn read_reverted(&self) -> Result<Reverted, StoreError> {
        let mut files = Vec::new();
        let mut iterator = self.iterator(Column::RevertedFile);
        iterator.seek_to_first();
        while let Some((key, value)) = iterator.item() {
            let root = H256(*key.first_chunk().ok_or(StoreError::Corrupt { what: "key" })?);
            let mut fields = Fields::new("reverted file", value);
            files.push(RevertedFile { root, size: key_number(key)?, seq: fields.u64()?, bytes: fields.u64()? });
            iterator.next();
        }
        iterator.status().map_err(|source| self.failed(source))?;
        files.sort_by_key(|file| file.seq);

        let mut iterator = self.iterator(Column::Reverted);
        iterator.seek_to_first();
        while let Some(key) = iterator.key() {
            let prefix: [u8; 40] = *key.first_chunk().ok_or(StoreError::Corrupt { what: "key" })?;
            let end = [&prefix[..], &KEY_END[..9]].concat();
            if !files.iter().any(|file| digest_key(&file.root, file.size) == prefix) {
                let mut batch = self.batch()?;
                batch.delete_range(Column::Reverted, &prefix, &end);
                batch.commit_freeing()?;
            }
            iterator.seek(end);
        }
        iterator.status().map_err(|source| self.failed(source))?;
        Ok(Reverted { files })
    }

    /// Keeps the data of transactions that are about to be cut off, as far as there is room for it. What cannot be kept is
    /// lost with them and has to be uploaded again: that must not keep the flow from following the chain. The caller keeps
    /// everybody else out.
    pub(super) fn keep_reverted(&self, seqs: Range<u64>) {
        let mut reverted = lock(&self.reverted);
        let mut older = reverted.files.len();
        for seq in seqs {
            if let Err(error) = self.keep_file(&mut reverted, &mut older, seq) {
                tracing::warn!(seq, %error, "the data of a reverted file is not kept");
            }
        }
    }

    /// Keeps the data of one file. The first `older` of those kept make room for it.
    fn keep_file(&self, reverted: &mut Reverted, older: &mut usize, seq: u64) -> Result<(), StoreError> {
        let (transaction, _) = self.stored_transaction(seq)?;
        let Ok(shape) = transaction.shape() else { return Ok(()) };
        if self.is_pruned(seq) || reverted.files.iter().any(|file| file.is(&transaction)) {
            return Ok(());
        }
        let mut segments = Vec::new();
        let most = self.settings.reverted_bytes / BYTES_PER_LOAD as u64 + 1;
        self.each_stored(&transaction, &shape, 0, |stored| {
            segments.extend(stored.take((most + 1 - segments.len() as u64) as usize));
            segments.len() as u64 <= most
        })?;
        // Zeros are known from the transaction alone.
        let mut kept = Vec::with_capacity(segments.len());
        for index in segments {
            let extent = self.extent_at(transaction.segment_sectors(&shape, index).start)?;
            if extent.is_some_and(|extent| extent.kind == ExtentKind::Data) {
                kept.push(index);
            }
        }
        let segments = kept;
        let bytes = segments.iter().map(|index| shape.segment_bytes(*index) as u64).sum::<u64>();
        let (root, size) = (transaction.data_root, transaction.size_bytes);
        let file = RevertedFile { root, size, seq, bytes };
        if bytes == 0 || bytes > self.settings.reverted_bytes {
            return Ok(());
        }
        while reverted.bytes() + bytes > self.settings.reverted_bytes {
            if *older == 0 {
                return Ok(());
            }
            let mut batch = self.batch()?;
            batch.drop_reverted(&reverted.files[0]);
            batch.commit()?;
            reverted.files.remove(0);
            *older -= 1;
        }
        let mut writes = segments.chunks(SEGMENTS_PER_WRITE).peekable();
        while let Some(segments) = writes.next() {
            let mut batch = self.batch()?;
            for index in segments {
                let data = self.read_segment(&transaction, *index)?;
                let proof = self.segment_proof(&transaction, *index)?;
                let (Some(data), Some(proof)) = (data, proof) else { continue };
                let segment = PendingSegment { file_size: size, data, proof };
                let value = encode_pending(&segment).ok_or(StoreError::ProofLength { index: *index })?;
                batch.put(Column::Reverted, &reverted_key(&root, size, *index), &value);
            }
            // The record comes last: segments without one are the beginning of an attempt that did not end.
            if writes.peek().is_none() {
                let value = [seq.to_be_bytes(), bytes.to_be_bytes()].concat();
                batch.put(Column::RevertedFile, &digest_key(&root, size), &value);
            }
            batch.commit()?;
        }
        reverted.files.push(file);
        Ok(())
    }

    /// Gives a transaction that was just appended the data that was kept of its file, finalises it if that is all, and drops
    /// what has become too old. The transaction stands whatever goes wrong here. The caller keeps everybody else out.
    pub(super) fn restore_reverted(&self, transaction: &Transaction) {
        if lock(&self.reverted).files.is_empty() {
            return;
        }
        if let Err(error) = self.restore_file(transaction).and_then(|()| self.drop_old_reverted(transaction.seq)) {
            let seq = transaction.seq;
            tracing::warn!(seq, %error, "the data of a file that came back was not restored");
        }
    }

    /// Restores files that came back just before the store was closed.
    pub(super) fn restore_what_came_back(&self) -> Result<(), StoreError> {
        let roots: Vec<H256> = lock(&self.reverted).files.iter().map(|file| file.root).collect();
        for root in roots {
            for seq in self.numbers_behind(Column::RootIndex, &root.0)? {
                let (transaction, _) = self.stored_transaction(seq)?;
                if !self.has(Column::Finalised, &seq.to_be_bytes())? {
                    self.restore_reverted(&transaction);
                }
            }
        }
        Ok(())
    }

    fn restore_file(&self, transaction: &Transaction) -> Result<(), StoreError> {
        let found = lock(&self.reverted).files.iter().find(|file| file.is(transaction)).copied();
        let Some(file) = found else { return Ok(()) };
        let seq = transaction.seq;
        let shape = transaction.shape()?;
        let mut iterator = self.iterator(Column::Reverted);
        let prefix = digest_key(&file.root, file.size);
        iterator.seek(prefix);
        while let Some((key, value)) = iterator.item().filter(|(key, _)| key.starts_with(&prefix)) {
            let index = key_number(key)?;
            let segment = decode_pending(value)?;
            segment.proof.verify(&shape, &transaction.data_root, index, &segment.data)?;
            let nodes = transaction.nodes_of_proof(index, &segment.proof);
            self.put_segments(transaction, &shape, index..index + 1, &nodes, |_| &segment.data)?;
            iterator.next();
        }
        iterator.status().map_err(|source| self.failed(source))?;
        match self.finalise(seq) {
            Ok(()) => tracing::info!(seq, "the data of a file that came back was restored"),
            Err(StoreError::Incomplete { .. }) => {}
            Err(error) => return Err(error),
        }
        self.forget_reverted(|other| other.is(transaction))
    }

    fn drop_old_reverted(&self, seq: u64) -> Result<(), StoreError> {
        self.forget_reverted(|file| file.seq.saturating_add(KEPT_FOR_TRANSACTIONS) < seq)
    }

    fn forget_reverted(&self, which: impl Fn(&RevertedFile) -> bool) -> Result<(), StoreError> {
        let mut reverted = lock(&self.reverted);
        let mut batch = self.batch()?;
        let mut gone = reverted.files.iter().filter(|file| which(file)).peekable();
        if gone.peek().is_none() {
            return Ok(());
        }
        gone.for_each(|file| batch.drop_reverted(file));
        batch.commit()?;
        reverted.files.retain(|file| !which(file));
        Ok(())
    }
}
