//! Where the node keeps what it must not lose: the flow's transactions and tree, the data of files, and sealed loads.
//!
//! `<dir>/db` is a RocksDB; [`columns`] lists every key in it. `<dir>/sealed` holds sealed loads in flat files, byte
//! for byte what the mining kernels hash. All calls block; async callers run them on blocking threads.
//!
//! What is acknowledged stays: a call that returns `Ok` after a write has synced it to disk. Writes that belong
//! together are one atomic batch. Sealed bytes are synced before the record that makes them trusted, and every read
//! checks them against a checksum.
//!
//! The flow tree keeps complete nodes only (see [`zgpu_core::flow`]), so roots and proofs at every past length of the
//! flow need no versions. A range of sectors is known when an extent covers it: a range of data within one load,
//! or a range of zeros of any length, which takes no space.
//!
//! A store keeps one shard of the flow, from the first sector that is not pruned (see [`share`]). Wherever it is asked
//! whether all of a file is there, only the segments of its share count.

mod chunks;
mod columns;
mod error;
mod files;
mod flow;
mod loads;
mod pending;
mod reverted;
mod sealed;
mod share;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use rocksdb::{Cache, ColumnFamily, DB, DBRawIterator, Options, WriteBatch, WriteOptions};
use tokio::sync::{broadcast, watch};
use zgpu_core::{H256, file::SubmissionNode, flow as core_flow, shard::Shard};

pub use zgpu_core::flow::SectorProof;

pub use self::{
    chunks::ProvenSectors,
    columns::{Column, SCHEMA},
    error::StoreError,
    files::{Put, Status},
    loads::{LoadData, SealTask},
    pending::PendingSegment,
    sealed::SealedLoad,
};
use self::{
    columns::{Fields, KEY_END, META_FLOW, META_SCHEMA, key_number, note_key},
    loads::Scan,
    reverted::Reverted,
    sealed::SealedFiles,
    share::Share,
};

/// Longest note, 1 MiB.
pub const MAX_NOTE_BYTES: usize = 1 << 20;

/// Finalised files that a receiver of [`Store::watch_finalised`] may lag behind before it misses some.
pub const FINALISED_BACKLOG: usize = 4096;

const DATABASE_REMEDY: &str = "choose a folder that this user may write to, on a disk that is mounted read-write";

/// How the store uses the machine.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Bytes that stay free on the disk: below that, writes are refused before they can fail half-way.
    /// Default 512 MiB: enough for the database to write out everything that it holds in memory.
    pub reserve_bytes: u64,
    /// Bytes of memory for cached blocks of the database. Default 64 MiB.
    pub cache_bytes: usize,
    /// Bytes of memory for writes that are in the log but not yet in sorted files. Default 128 MiB.
    pub write_buffer_bytes: usize,
    /// Bytes of data of files that the chain took back which are kept in case it shows them again. Default 256 MiB.
    pub reverted_bytes: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            reserve_bytes: 512 << 20,
            cache_bytes: 64 << 20,
            write_buffer_bytes: 128 << 20,
            reverted_bytes: 256 << 20,
        }
    }
}

/// A submission as the chain reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// Sequence number, counted from 0.
    pub seq: u64,
    /// File root: the roots of `nodes` folded from the right.
    pub data_root: H256,
    /// First sector of its first node in the flow.
    pub start: u64,
    /// Length of the file in bytes.
    pub size_bytes: u64,
    /// Its nodes, largest first.
    pub nodes: Vec<SubmissionNode>,
}

/// The node's store. Clones share one database; see the module documentation.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    db: DB,
    db_path: PathBuf,
    settings: Settings,
    sealed: SealedFiles,
    /// Held shared while data of transactions is written or read, alone while transactions are appended or cut off.
    /// Taken before `seal_writes`.
    chain: RwLock<()>,
    flow: Mutex<FlowState>,
    /// Tells whoever waits for transactions.
    log: watch::Sender<LogPosition>,
    /// See [`Store::revision`]. A seal made from data read before a change is refused.
    revision: AtomicU64,
    /// What is kept. Changed only while `chain` is held alone.
    share: Mutex<Share>,
    /// First load that may hold something which is not kept; none when there is no such load.
    sweep: Mutex<Option<u64>>,
    /// One sweep at a time. Taken before all others.
    sweeping: Mutex<()>,
    /// Tells whoever waits for another shard.
    shard: watch::Sender<Shard>,
    /// Tells which files were finalised.
    finalised: broadcast::Sender<u64>,
    /// Files that were cut off and whose data is still there.
    reverted: Mutex<Reverted>,
    /// Held while records of sealed loads are changed.
    seal_writes: Mutex<()>,
    scan: Scan,
}

/// How far the log of transactions goes, and whether it is still the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogPosition {
    /// Sequence number that the next transaction gets.
    pub next_seq: u64,
    /// [`Store::revision`].
    pub revision: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FlowState {
    length: u64,
    next_seq: u64,
}

/// A panic in another thread leaves no half-written state behind: state changes are single assignments.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store {
    /// Opens the store in `dir` with default settings, creating it if there is none.
    pub fn open(dir: &Path) -> Result<Store, StoreError> {
        Store::open_with(dir, Settings::default())
    }

    /// Opens the store in `dir`, creating it if there is none.
    ///
    /// Fails when another process has it open, when a build with another schema wrote it, or when it holds something else.
    pub fn open_with(dir: &Path, settings: Settings) -> Result<Store, StoreError> {
        let db_path = dir.join("db");
        fs::create_dir_all(&db_path).map_err(io_error(&db_path, DATABASE_REMEDY))?;
        let (db, found) = open_database(dir, &db_path, &settings)?;
        let sealed_path = dir.join("sealed");
        if found.is_some() && !sealed_path.is_dir() {
            return Err(StoreError::SealedMissing { path: sealed_path });
        }
        let mut inner = Inner {
            db,
            db_path,
            settings,
            sealed: SealedFiles::open(&sealed_path)?,
            chain: RwLock::new(()),
            flow: Mutex::new(FlowState { length: core_flow::EMPTY_FLOW_LENGTH, next_seq: 0 }),
            log: watch::Sender::new(LogPosition { next_seq: 0, revision: 0 }),
            revision: AtomicU64::new(0),
            share: Mutex::new(Share::WHOLE),
            sweep: Mutex::new(None),
            sweeping: Mutex::new(()),
            shard: watch::Sender::new(Shard::WHOLE),
            finalised: broadcast::Sender::new(FINALISED_BACKLOG),
            reverted: Mutex::default(),
            seal_writes: Mutex::new(()),
            scan: Scan::default(),
        };
        if found.is_none() {
            inner.create()?;
        }
        let state = inner.read_flow()?;
        inner.flow = Mutex::new(state);
        inner.log = watch::Sender::new(LogPosition { next_seq: state.next_seq, revision: 0 });
        if found == Some(SCHEMA_WITHOUT_SHARES) {
            inner.list_unfinished(state.next_seq)?;
        }
        let (share, sweep) = inner.read_share(state.next_seq)?;
        (inner.share, inner.sweep) = (Mutex::new(share), Mutex::new(sweep));
        inner.shard = watch::Sender::new(share.shard);
        inner.reverted = Mutex::new(inner.read_reverted()?);
        let store = Store { inner: Arc::new(inner) };
        store.inner.restore_what_came_back()?;
        Ok(store)
    }

    /// Sectors in the flow.
    pub fn flow_length(&self) -> u64 {
        lock(&self.inner.flow).length
    }

    /// Sequence number that the next transaction gets.
    pub fn next_seq(&self) -> u64 {
        lock(&self.inner.flow).next_seq
    }

    /// Counts how often something was taken away since the store was opened: the flow was cut, or less of it is kept.
    pub fn revision(&self) -> u64 {
        self.inner.revision.load(Ordering::SeqCst)
    }

    /// How far the log goes, now and whenever it changes. Only the latest position is kept.
    pub fn watch_log(&self) -> watch::Receiver<LogPosition> {
        self.inner.log.subscribe()
    }

    /// Keeps a small value of the caller under a name, such as how far the chain was read. Durable on return.
    pub fn put_note(&self, name: &str, value: &[u8]) -> Result<(), StoreError> {
        if value.len() > MAX_NOTE_BYTES {
            return Err(StoreError::NoteLength { got: value.len(), limit: MAX_NOTE_BYTES });
        }
        let mut batch = self.inner.batch()?;
        batch.put(Column::Meta, &note_key(name), value);
        batch.commit()
    }

    /// The value kept under this name.
    pub fn note(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.get(Column::Meta, &note_key(name))
    }
}

/// Schema before a store could keep less than the whole flow.
const SCHEMA_WITHOUT_SHARES: u32 = 2;

/// Opens the database with exactly our columns. Also returns the schema it has; none when it was just created.
fn open_database(dir: &Path, path: &Path, settings: &Settings) -> Result<(DB, Option<u32>), StoreError> {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_max_open_files(512);
    options.set_db_write_buffer_size(settings.write_buffer_bytes);
    options.set_max_total_wal_size(2 * settings.write_buffer_bytes as u64);
    options.set_keep_log_file_num(2);
    let cache = Cache::new_lru_cache(settings.cache_bytes);
    let failed = |source: rocksdb::Error| open_error(dir, path, source);

    let mut schema = None;
    if path.join("CURRENT").exists() {
        // What is there is looked at before anything is added to it.
        let found = DB::list_cf(&options, path).map_err(failed)?;
        if let Some(column) = found.iter().find(|name| Column::ALL.iter().all(|column| column.name() != *name)) {
            return Err(StoreError::NotAStore { dir: dir.to_path_buf(), column: column.clone() });
        }
        let columns = Column::ALL.iter().filter(|column| found.iter().any(|name| name == column.name()));
        let db =
            DB::open_cf_descriptors(&options, path, columns.map(|column| column.descriptor(&cache))).map_err(failed)?;
        // The schema is written last at creation: without it, creation was interrupted.
        if let Some(value) = db.get(META_SCHEMA).map_err(failed)? {
            let found = Fields::new("schema version", &value).u32()?;
            if found == SCHEMA {
                return Ok((db, Some(found)));
            }
            if found != SCHEMA_WITHOUT_SHARES {
                return Err(StoreError::Schema { dir: dir.to_path_buf(), found, expected: SCHEMA });
            }
            schema = Some(found);
        }
    }
    let columns = Column::ALL.map(|column| column.descriptor(&cache));
    Ok((DB::open_cf_descriptors(&options, path, columns).map_err(failed)?, schema))
}

fn open_error(dir: &Path, path: &Path, source: rocksdb::Error) -> StoreError {
    if source.as_ref().contains("lock") && source.kind() == rocksdb::ErrorKind::IOError {
        return StoreError::InUse { dir: dir.to_path_buf() };
    }
    StoreError::Database { path: path.to_path_buf(), source }
}

/// Makes an I/O error that names the file and the way out.
fn io_error(path: &Path, remedy: &'static str) -> impl Fn(io::Error) -> StoreError {
    move |source| StoreError::Io { path: path.to_path_buf(), remedy, source }
}

impl Inner {
    /// Writes what an empty store has.
    fn create(&self) -> Result<(), StoreError> {
        let mut batch = self.batch()?;
        batch.nodes(&core_flow::genesis_nodes());
        batch.flow(FlowState { length: core_flow::EMPTY_FLOW_LENGTH, next_seq: 0 });
        batch.put(Column::Meta, META_SCHEMA, &SCHEMA.to_be_bytes());
        batch.commit()
    }

    /// Brings a store of the schema before to this one: it lists the files that are not finalised. The schema is written
    /// last, so that an interrupted attempt is made again.
    fn list_unfinished(&self, next_seq: u64) -> Result<(), StoreError> {
        for first in (0..next_seq).step_by(1 << 14) {
            let mut batch = self.batch()?;
            for seq in first..next_seq.min(first + (1 << 14)) {
                let (transaction, _) = self.stored_transaction(seq)?;
                if transaction.shape().is_ok() && !self.has(Column::Finalised, &seq.to_be_bytes())? {
                    batch.put(Column::Unfinished, &seq.to_be_bytes(), &[]);
                }
            }
            batch.commit()?;
        }
        let mut batch = self.batch()?;
        batch.put(Column::Meta, META_SCHEMA, &SCHEMA.to_be_bytes());
        batch.commit()
    }

    fn read_flow(&self) -> Result<FlowState, StoreError> {
        let value = self.get(Column::Meta, META_FLOW)?.ok_or(StoreError::Corrupt { what: "flow state" })?;
        let mut fields = Fields::new("flow state", &value);
        let state = FlowState { length: fields.u64()?, next_seq: fields.u64()? };
        fields.end()?;
        Ok(state)
    }

    /// Makes a state that is on disk the one that everybody sees.
    fn publish(&self, state: FlowState) {
        *lock(&self.flow) = state;
        let revision = self.revision.load(Ordering::SeqCst);
        self.log.send_replace(LogPosition { next_seq: state.next_seq, revision });
    }

    fn column(&self, column: Column) -> &ColumnFamily {
        self.db.cf_handle(column.name()).expect("every column is opened with the database")
    }

    fn failed(&self, source: rocksdb::Error) -> StoreError {
        StoreError::Database { path: self.db_path.clone(), source }
    }

    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.db.get_cf(self.column(column), key).map_err(|source| self.failed(source))
    }

    fn has(&self, column: Column, key: &[u8]) -> Result<bool, StoreError> {
        Ok(self.db.get_pinned_cf(self.column(column), key).map_err(|source| self.failed(source))?.is_some())
    }

    fn iterator(&self, column: Column) -> DBRawIterator<'_> {
        self.db.raw_iterator_cf(self.column(column))
    }

    /// Numbers that follow `prefix` in the keys of `column`, ascending.
    fn numbers_behind(&self, column: Column, prefix: &[u8]) -> Result<Vec<u64>, StoreError> {
        let mut iterator = self.iterator(column);
        iterator.seek(prefix);
        let mut numbers = Vec::new();
        while let Some(key) = iterator.key().filter(|key| key.starts_with(prefix)) {
            numbers.push(key_number(key)?);
            iterator.next();
        }
        iterator.status().map_err(|source| self.failed(source))?;
        Ok(numbers)
    }

    /// Refuses a write of `bytes` when it could leave less than the reserve: a database that runs into a full disk
    /// while it writes has to be opened anew, one that is not asked to write goes on reading.
    fn ensure_space(&self, path: &Path, bytes: u64) -> Result<(), StoreError> {
        self.ensure_free(path, self.settings.reserve_bytes.saturating_add(bytes))
    }

    fn ensure_free(&self, path: &Path, needed: u64) -> Result<(), StoreError> {
        let disk = rustix::fs::statvfs(path).map_err(|error| io_error(path, DATABASE_REMEDY)(error.into()))?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        if free < needed {
            return Err(StoreError::DiskFull { path: path.to_path_buf(), free, needed });
        }
        Ok(())
    }

    fn batch(&self) -> Result<Batch<'_>, StoreError> {
        Ok(Batch { inner: self, batch: WriteBatch::default() })
    }
}

/// Changes that happen together or not at all.
struct Batch<'a> {
    inner: &'a Inner,
    batch: WriteBatch,
}

impl Batch<'_> {
    fn put(&mut self, column: Column, key: &[u8], value: &[u8]) {
        self.batch.put_cf(self.inner.column(column), key, value);
    }

    fn delete(&mut self, column: Column, key: &[u8]) {
        self.batch.delete_cf(self.inner.column(column), key);
    }

    /// Deletes every key from `from` on.
    fn delete_from(&mut self, column: Column, from: &[u8]) {
        self.delete_range(column, from, &KEY_END);
    }

    fn delete_range(&mut self, column: Column, from: &[u8], to: &[u8]) {
        self.batch.delete_range_cf(self.inner.column(column), from, to);
    }

    fn nodes(&mut self, nodes: &[core_flow::FlowNode]) {
        for node in nodes {
            self.put(Column::Node, &columns::node_key(node.height, node.index), &node.hash.0);
        }
    }

    fn flow(&mut self, state: FlowState) {
        let value = [state.length.to_be_bytes(), state.next_seq.to_be_bytes()].concat();
        self.put(Column::Meta, META_FLOW, &value);
    }

    /// Writes everything atomically and syncs it to disk.
    fn commit(self) -> Result<(), StoreError> {
        self.inner.ensure_space(&self.inner.db_path, self.batch.size_in_bytes() as u64)?;
        self.write()
    }

    /// As [`Batch::commit`], for changes that are on the way to free space: a quarter of the reserve is enough for them.
    fn commit_freeing(self) -> Result<(), StoreError> {
        let inner = self.inner;
        inner.ensure_free(&inner.db_path, inner.settings.reserve_bytes / 4 + self.batch.size_in_bytes() as u64)?;
        self.write()
    }

    fn write(self) -> Result<(), StoreError> {
        let mut options = WriteOptions::default();
        options.set_sync(true);
        self.inner.db.write_opt(self.batch, &options).map_err(|source| self.inner.failed(source))
    }
}
