//! Sealed loads, in flat files: one per pricing chunk, sparse, load i of the chunk at byte i x 262144.

use std::{
    collections::{HashMap, hash_map::Entry},
    fs::{self, File},
    io,
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
};

use rustix::{
    fs::{FallocateFlags, fallocate},
    io::Errno,
};
use xxhash_rust::xxh3::xxh3_64_with_seed;
use zgpu_core::{
    H256,
    units::{BYTES_PER_LOAD, BYTES_PER_SEAL, LOADS_PER_PRICING, SEALS_PER_LOAD},
};

use super::{
    Batch, Column, Inner, Store, StoreError,
    columns::{Fields, KEY_END, META_MINER, SealRecord, digest_key, key_number},
    io_error, lock,
};

/// Files that are kept open.
const MAX_OPEN_FILES: usize = 128;
const SEALED_REMEDY: &str = "check that the disk is mounted, sound, and writable by this user";

/// Seals of a load to be stored.
#[derive(Clone, Copy, Debug)]
pub struct SealedLoad<'a> {
    /// Which load.
    pub load: u64,
    /// [`super::LoadData::revision`] of the data that was sealed.
    pub revision: u64,
    /// Which seals, 0 to 63, each with the digest of its context.
    pub seals: &'a [(u32, H256)],
    /// The sealed bytes, 4096 for each of `seals`, in the same order.
    pub bytes: &'a [u8],
}

/// The folder of sealed files.
pub(super) struct SealedFiles {
    dir: PathBuf,
    open: Mutex<HashMap<u64, Arc<File>>>,
}

impl SealedFiles {
    pub(super) fn open(dir: &Path) -> Result<Self, StoreError> {
        fs::create_dir_all(dir).map_err(io_error(dir, SEALED_REMEDY))?;
        Ok(SealedFiles { dir: dir.to_path_buf(), open: Mutex::default() })
    }

    fn path(&self, pricing: u64) -> PathBuf {
        self.dir.join(format!("{pricing:08x}.sealed"))
    }

    /// The file of a pricing chunk, created at its full length if `create` says so; `None` when there is none.
    fn file(&self, pricing: u64, create: bool) -> Result<Option<Arc<File>>, StoreError> {
        let mut open = lock(&self.open);
        if let Some(file) = open.get(&pricing) {
            return Ok(Some(file.clone()));
        }
        let path = self.path(pricing);
        let failed = io_error(&path, SEALED_REMEDY);
        let file = match File::options().read(true).write(true).create(create).truncate(false).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !create => return Ok(None),
            file => file.map_err(&failed)?,
        };
        let length = LOADS_PER_PRICING * BYTES_PER_LOAD as u64;
        if create && file.metadata().map_err(&failed)?.len() < length {
            file.set_len(length).map_err(&failed)?;
            file.sync_all().map_err(&failed)?;
            File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(io_error(&self.dir, SEALED_REMEDY))?;
        }
        if open.len() >= MAX_OPEN_FILES {
            open.clear();
        }
        let file = Arc::new(file);
        open.insert(pricing, file.clone());
        Ok(Some(file))
    }

    fn failed(&self, load: u64) -> impl Fn(io::Error) -> StoreError {
        let path = self.path(load / LOADS_PER_PRICING);
        move |source| io_error(&path, SEALED_REMEDY)(source)
    }

    fn write(&self, load: u64, seal: u32, bytes: &[u8]) -> Result<(), StoreError> {
        let file = self.file(load / LOADS_PER_PRICING, true)?.expect("it is created if there is none");
        file.write_all_at(bytes, offset(load) + u64::from(seal) * BYTES_PER_SEAL as u64).map_err(self.failed(load))
    }

    fn sync(&self, pricing: u64) -> Result<(), StoreError> {
        match self.file(pricing, false)? {
            Some(file) => file.sync_data().map_err(io_error(&self.path(pricing), SEALED_REMEDY)),
            None => Ok(()),
        }
    }

    /// Reads a load; what lies behind the end of the file reads as zeros, and the checksums tell.
    fn read(&self, load: u64, into: &mut [u8]) -> Result<(), StoreError> {
        let file = self.file(load / LOADS_PER_PRICING, false)?;
        let read = file.map_or(Err(io::ErrorKind::UnexpectedEof.into()), |file| file.read_exact_at(into, offset(load)));
        match read {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                into.fill(0);
                Ok(())
            }
            read => read.map_err(self.failed(load)),
        }
    }

    /// Gives the space of these loads back to the disk; they read as zeros. Ascending.
    pub(super) fn punch(&self, loads: &[u64]) -> Result<(), StoreError> {
        for loads in loads.chunk_by(|left, right| left / LOADS_PER_PRICING == right / LOADS_PER_PRICING) {
            let Some(file) = self.file(loads[0] / LOADS_PER_PRICING, false)? else { continue };
            for load in loads {
                let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                match fallocate(&file, hole, offset(*load), BYTES_PER_LOAD as u64) {
                    Ok(()) => {}
                    Err(Errno::OPNOTSUPP) => {
                        tracing::warn!(dir = %self.dir.display(), "this file system takes no holes: space of sealed data is not given back");
                        return Ok(());
                    }
                    Err(error) => return Err(self.failed(*load)(error.into())),
                }
            }
        }
        Ok(())
    }

    /// Removes the files of the pricing chunks in front of this one.
    pub(super) fn remove_below(&self, pricing: u64) -> Result<(), StoreError> {
        let mut open = lock(&self.open);
        for (path, _) in self.list()?.into_iter().filter(|(_, number)| *number < pricing) {
            fs::remove_file(&path).map_err(io_error(&path, SEALED_REMEDY))?;
        }
        open.retain(|number, _| *number >= pricing);
        Ok(())
    }

    /// The sealed files, each with the number of its pricing chunk.
    fn list(&self) -> Result<Vec<(PathBuf, u64)>, StoreError> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(io_error(&self.dir, SEALED_REMEDY))? {
            let path = entry.map_err(io_error(&self.dir, SEALED_REMEDY))?.path();
            let is_sealed = path.extension().is_some_and(|extension| extension == "sealed");
            let name = path.file_stem().and_then(|name| name.to_str()).filter(|_| is_sealed);
            if let Some(pricing) = name.and_then(|name| u64::from_str_radix(name, 16).ok()) {
                found.push((path, pricing));
            }
        }
        Ok(found)
    }

    fn remove_all(&self) -> Result<(), StoreError> {
        lock(&self.open).clear();
        for (path, _) in self.list()? {
            fs::remove_file(&path).map_err(io_error(&path, SEALED_REMEDY))?;
        }
        Ok(())
    }
}

fn offset(load: u64) -> u64 {
    load % LOADS_PER_PRICING * BYTES_PER_LOAD as u64
}

/// Checksum of a sealed seal; its place in the flow is part of it, so that a seal in a wrong place does not pass.
fn checksum(load: u64, seal: usize, bytes: &[u8]) -> u64 {
    xxh3_64_with_seed(bytes, load.wrapping_mul(SEALS_PER_LOAD as u64).wrapping_add(seal as u64))
}

impl Batch<'_> {
    /// Writes the record of a load in all columns that tell about it; `before` are the contexts it had.
    pub(super) fn seal_record(&mut self, load: u64, before: &[H256], record: &SealRecord) {
        let key = load.to_be_bytes();
        let contexts = record.contexts();
        for context in before.iter().filter(|context| !contexts.contains(context)) {
            self.delete(Column::ContextIndex, &digest_key(context, load));
        }
        for context in contexts.iter().filter(|context| !before.contains(context)) {
            self.put(Column::ContextIndex, &digest_key(context, load), &[]);
        }
        if record.available() == 0 {
            self.delete(Column::Sealed, &key);
            self.delete(Column::SealRecord, &key);
        } else {
            self.put(Column::Sealed, &key, &record.available().to_be_bytes());
            self.put(Column::SealRecord, &key, &record.encode());
        }
    }
}

impl Store {
    /// Miner id that the sealed data belongs to; `None` before the first seal.
    pub fn miner_id(&self) -> Result<Option<H256>, StoreError> {
        self.inner.miner_id()
    }

    /// Stores seals of some loads. Durable on return; the loads of one call share their syncs.
    ///
    /// The first call ties the store to `miner_id`. Bytes are synced before the records that make them trusted;
    /// seals that are sealed already are replaced, and are not available meanwhile.
    pub fn put_sealed(&self, miner_id: &H256, loads: &[SealedLoad<'_>]) -> Result<(), StoreError> {
        let inner = &*self.inner;
        let _chain = inner.chain.read().unwrap_or_else(PoisonError::into_inner);
        let _seals = lock(&inner.seal_writes);
        inner.check_miner(miner_id)?;
        for load in loads {
            inner.check_sealed(load)?;
        }
        let total: usize = loads.iter().map(|load| load.bytes.len()).sum();
        inner.ensure_space(&inner.sealed.dir, total as u64)?;
        inner.forget(loads)?;

        let mut pricings: Vec<u64> = Vec::new();
        for load in loads {
            for ((seal, _), bytes) in load.seals.iter().zip(load.bytes.chunks(BYTES_PER_SEAL)) {
                inner.sealed.write(load.load, *seal, bytes)?;
            }
            pricings.push(load.load / LOADS_PER_PRICING);
        }
        pricings.sort_unstable();
        pricings.dedup();
        pricings.iter().try_for_each(|pricing| inner.sealed.sync(*pricing))?;

        let mut records: HashMap<u64, (Vec<H256>, SealRecord)> = HashMap::new();
        for load in loads {
            let (_, record) = match records.entry(load.load) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => {
                    let record = inner.seal_record(load.load)?;
                    entry.insert((record.contexts(), record))
                }
            };
            for ((seal, context), bytes) in load.seals.iter().zip(load.bytes.chunks(BYTES_PER_SEAL)) {
                record.seals[*seal as usize] = Some((*context, checksum(load.load, *seal as usize, bytes)));
            }
        }
        let mut batch = inner.batch()?;
        for (load, (before, record)) in &records {
            batch.seal_record(*load, before, record);
        }
        batch.put(Column::Meta, META_MINER, &miner_id.0);
        batch.commit()
    }

    /// Loads of the shard in this range that have sealed seals, with the masks of those seals, ascending.
    pub fn sealed_loads(&self, miner_id: &H256, loads: Range<u64>) -> Result<Vec<(u64, u64)>, StoreError> {
        let inner = &*self.inner;
        inner.check_miner(miner_id)?;
        let share = inner.share();
        let mut found = Vec::new();
        let mut iterator = inner.iterator(Column::Sealed);
        iterator.seek(loads.start.to_be_bytes());
        while let Some((key, value)) = iterator.item() {
            let load = key_number(key)?;
            if load >= loads.end {
                break;
            }
            if share.contains(load) {
                found.push((load, Fields::new("mask of sealed seals", value).u64()?));
            }
            iterator.next();
        }
        iterator.status().map_err(|source| inner.failed(source))?;
        Ok(found)
    }

    /// Reads a sealed load into a buffer of 262144 bytes and returns the mask of the seals in it; the others are
    /// zeros. A seal that does not match its checksum is dropped: it is no longer available, and is to be sealed anew.
    pub fn read_sealed(&self, miner_id: &H256, load: u64, into: &mut [u8]) -> Result<u64, StoreError> {
        let inner = &*self.inner;
        inner.check_miner(miner_id)?;
        if into.len() != BYTES_PER_LOAD {
            return Err(StoreError::SealedLength { expected: BYTES_PER_LOAD, got: into.len() });
        }
        let record = inner.seal_record(load)?;
        let sound = inner.read_seals(load, &record, into)?;
        if sound == record.available() {
            return Ok(sound);
        }
        // It may have been replaced while it was read; with writers kept out, what is wrong now is damaged.
        let _seals = lock(&inner.seal_writes);
        let mut record = inner.seal_record(load)?;
        let sound = inner.read_seals(load, &record, into)?;
        if sound != record.available() {
            tracing::warn!(
                load,
                damaged = record.available() & !sound,
                "sealed data is damaged, it will be sealed anew"
            );
            // What is sound is of use even on a disk that is too full to write the finding down.
            if let Err(error) = inner.keep_seals(load, &mut record, |seal, _| sound >> seal & 1 == 1) {
                tracing::error!(load, %error, "the damaged seals could not be dropped");
            }
        }
        Ok(sound)
    }

    /// Reads every sealed load, drops what is damaged, and returns how many seals were dropped.
    /// `progress` is told each load that was read.
    pub fn verify_sealed(&self, miner_id: &H256, mut progress: impl FnMut(u64)) -> Result<u64, StoreError> {
        const LOADS_AT_ONCE: u64 = 1 << 16;
        let mut buffer = vec![0; BYTES_PER_LOAD];
        let mut dropped = 0;
        let mut from = 0;
        loop {
            let Some(first) = self.first_sealed(from)? else { return Ok(dropped) };
            from = first + LOADS_AT_ONCE;
            for (load, available) in self.sealed_loads(miner_id, first..from)? {
                let sound = self.read_sealed(miner_id, load, &mut buffer)?;
                dropped += u64::from((available & !sound).count_ones());
                progress(load);
            }
        }
    }

    fn first_sealed(&self, from: u64) -> Result<Option<u64>, StoreError> {
        let mut iterator = self.inner.iterator(Column::Sealed);
        iterator.seek(from.to_be_bytes());
        let first = iterator.key().map(key_number).transpose()?;
        iterator.status().map_err(|source| self.inner.failed(source))?;
        Ok(first)
    }

    /// Digest of the context that a seal was sealed with; `None` when it is not sealed.
    pub fn seal_context(&self, load: u64, seal: u32) -> Result<Option<H256>, StoreError> {
        let record = self.inner.seal_record(load)?;
        Ok(record.seals.get(seal as usize).copied().flatten().map(|(context, _)| context))
    }

    /// Digests of the contexts that stored seals were sealed with, each once, ascending.
    pub fn seal_contexts(&self) -> Result<Vec<H256>, StoreError> {
        let mut iterator = self.inner.iterator(Column::ContextIndex);
        iterator.seek_to_first();
        let mut contexts = Vec::new();
        while let Some(key) = iterator.key() {
            let digest = H256(*key.first_chunk().ok_or(StoreError::Corrupt { what: "key" })?);
            contexts.push(digest);
            iterator.seek([&digest.0[..], &KEY_END[..9]].concat());
        }
        iterator.status().map_err(|source| self.inner.failed(source))?;
        Ok(contexts)
    }

    /// Drops the seals of a context that vanished from the chain, and returns how many there were. Durable on return.
    pub fn drop_seals_with_context(&self, digest: &H256) -> Result<u64, StoreError> {
        let inner = &*self.inner;
        let _seals = lock(&inner.seal_writes);
        let mut dropped = 0;
        for load in inner.numbers_behind(Column::ContextIndex, &digest.0)? {
            let mut record = inner.seal_record(load)?;
            let before = record.available();
            inner.keep_seals(load, &mut record, |_, context| context != digest)?;
            dropped += u64::from((before & !record.available()).count_ones());
        }
        Ok(dropped)
    }

    /// Drops all sealed data and the miner id, so that the data can be sealed for another miner. Durable on return.
    pub fn discard_seals(&self) -> Result<(), StoreError> {
        let inner = &*self.inner;
        let _seals = lock(&inner.seal_writes);
        let mut batch = inner.batch()?;
        for column in [Column::Sealed, Column::SealRecord, Column::ContextIndex] {
            batch.delete_from(column, &[]);
        }
        batch.delete(Column::Meta, META_MINER);
        batch.commit()?;
        inner.scan.lower(0);
        inner.sealed.remove_all()
    }
}

impl Inner {
    fn miner_id(&self) -> Result<Option<H256>, StoreError> {
        let value = self.get(Column::Meta, META_MINER)?;
        value.map(|value| Fields::new("miner id", &value).h256()).transpose()
    }

    /// Refuses another miner id than the one that the store is tied to.
    pub(super) fn check_miner(&self, given: &H256) -> Result<(), StoreError> {
        match self.miner_id()? {
            Some(stored) if stored != *given => Err(StoreError::OtherMiner { stored, given: *given }),
            _ => Ok(()),
        }
    }

    pub(super) fn seal_record(&self, load: u64) -> Result<SealRecord, StoreError> {
        let value = self.get(Column::SealRecord, &load.to_be_bytes())?;
        value.map_or_else(|| Ok(SealRecord::empty()), |value| SealRecord::decode(&value))
    }

    /// Refuses seals that do not exist, come twice, have no data, or were made from data that is gone.
    fn check_sealed(&self, sealed: &SealedLoad<'_>) -> Result<(), StoreError> {
        let load = sealed.load;
        let expected = sealed.seals.len().saturating_mul(BYTES_PER_SEAL);
        if sealed.bytes.len() != expected {
            return Err(StoreError::SealedLength { expected, got: sealed.bytes.len() });
        }
        if sealed.revision != self.revision.load(Ordering::SeqCst) {
            return Err(StoreError::Stale { load });
        }
        let is_kept = self.share().contains(load);
        let known = self.known_seals(load)?;
        let mut seen = 0u64;
        for (seal, _) in sealed.seals {
            let refuse = |reason| Err(StoreError::Seal { load, seal: *seal, reason });
            if *seal >= SEALS_PER_LOAD as u32 {
                return refuse("a load has 64 seals");
            }
            if seen >> seal & 1 == 1 {
                return refuse("it is given twice");
            }
            if !is_kept {
                return refuse("the load lies outside the shard, or is pruned");
            }
            if known >> seal & 1 == 0 {
                return refuse("its data is not stored");
            }
            seen |= 1 << seal;
        }
        Ok(())
    }

    /// Makes the seals that are about to be overwritten unavailable.
    fn forget(&self, loads: &[SealedLoad<'_>]) -> Result<(), StoreError> {
        for sealed in loads {
            let mut record = self.seal_record(sealed.load)?;
            let overwritten = sealed.seals.iter().fold(0u64, |mask, (seal, _)| mask | 1 << seal);
            if record.available() & overwritten != 0 {
                self.keep_seals(sealed.load, &mut record, |seal, _| overwritten >> seal & 1 == 0)?;
            }
        }
        Ok(())
    }

    /// Keeps the seals of a load that `keep` says, by number and context, and drops the others. Durable on return.
    fn keep_seals(
        &self,
        load: u64,
        record: &mut SealRecord,
        keep: impl Fn(usize, &H256) -> bool,
    ) -> Result<(), StoreError> {
        let before = record.contexts();
        for (index, seal) in record.seals.iter_mut().enumerate() {
            if seal.as_ref().is_some_and(|(context, _)| !keep(index, context)) {
                *seal = None;
            }
        }
        let mut batch = self.batch()?;
        batch.seal_record(load, &before, record);
        batch.commit()?;
        self.scan.lower(load);
        Ok(())
    }

    /// Reads a load, zeroes what is not sealed or damaged, and returns the mask of the rest.
    fn read_seals(&self, load: u64, record: &SealRecord, into: &mut [u8]) -> Result<u64, StoreError> {
        if record.available() == 0 {
            into.fill(0);
            return Ok(0);
        }
        self.sealed.read(load, into)?;
        let mut sound = 0;
        for (index, (seal, bytes)) in record.seals.iter().zip(into.chunks_mut(BYTES_PER_SEAL)).enumerate() {
            if seal.is_some_and(|(_, expected)| checksum(load, index, bytes) == expected) {
                sound |= 1 << index;
            } else {
                bytes.fill(0);
            }
        }
        Ok(sound)
    }
}
