//! Taking a file: every segment with its proof, as a client hands it in.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use anyhow::Context;
use zgpu_core::{file::FileTree, units::BYTES_PER_LOAD};

use crate::store::Store;

/// Segments that are written at once: their syncs to disk are shared.
const WRITERS: usize = 8;

/// Hands all segments of the file to the store, which checks each against the transaction's data root, and finalises it.
/// `progress` is told the bytes of each segment. Blocks.
///
/// The file is read a second time after its tree was built; a segment that has changed since is refused by its proof.
pub fn store_file(
    store: &Store,
    seq: u64,
    tree: &FileTree,
    file: &File,
    progress: &(dyn Fn(usize) + Sync),
) -> anyhow::Result<()> {
    let shape = *tree.shape();
    let next = AtomicU64::new(0);
    let failure = Mutex::new(None);
    let write = || -> anyhow::Result<()> {
        let mut buffer = vec![0u8; BYTES_PER_LOAD];
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= shape.segments() {
                return Ok(());
            }
            let segment = &mut buffer[..shape.segment_bytes(index)];
            file.read_exact_at(segment, index * BYTES_PER_LOAD as u64)
                .with_context(|| format!("segment {index} of the file cannot be read"))?;
            store.put_segment(seq, index, segment, &tree.proof(index)?)?;
            progress(segment.len());
        }
    };
    thread::scope(|scope| {
        for _ in 0..WRITERS {
            scope.spawn(|| {
                if let Err(error) = write() {
                    // The others stop at their next segment; the first failure is the one to report.
                    next.store(u64::MAX / 2, Ordering::Relaxed);
                    failure.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).get_or_insert(error);
                }
            });
        }
    });
    if let Some(error) = failure.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()) {
        return Err(error);
    }
    Ok(store.finalise(seq)?)
}
