//! Why the store refuses, and what to do about it.

use std::{io, path::PathBuf};

use zgpu_core::{
    H256,
    file::FileError,
    flow::FlowError,
    shard::{Shard, ShardError},
};

/// Why the store refuses, or cannot do, what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has it open.
    #[error("the store {dir} is in use by another process; stop that process or choose another folder", dir = .dir.display())]
    InUse {
        /// Folder of the store.
        dir: PathBuf,
    },
    /// It was written by a build with other layouts.
    #[error("the store {dir} has schema {found}, this build reads schema {expected}; use the build that wrote it, or sync again into an empty folder", dir = .dir.display())]
    Schema {
        /// Folder of the store.
        dir: PathBuf,
        /// Version on disk.
        found: u32,
        /// Version of this build.
        expected: u32,
    },
    /// The folder holds a database of something else.
    #[error("{dir} holds another database (it has a column family {column:?}); choose another folder", dir = .dir.display())]
    NotAStore {
        /// Folder of the store.
        dir: PathBuf,
        /// The column family that is not ours.
        column: String,
    },
    /// The folder of sealed data of an existing store is gone.
    #[error("{path} is missing; mount it, or create it as an empty folder to have all data sealed again", path = .path.display())]
    SealedMissing {
        /// Where it should be.
        path: PathBuf,
    },
    /// A file or folder cannot be used.
    #[error("{path}: {source}; {remedy}", path = .path.display())]
    Io {
        /// Which one.
        path: PathBuf,
        /// What to do about it.
        remedy: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// There is too little space to write safely.
    #[error("{path} has {free} bytes free, writing needs {needed}; free some space, nothing stored is lost", path = .path.display())]
    DiskFull {
        /// Where.
        path: PathBuf,
        /// Free bytes.
        free: u64,
        /// Bytes that must be free.
        needed: u64,
    },
    /// The database failed.
    #[error("the database {path} failed: {source}; if the disk is sound, restart the node", path = .path.display())]
    Database {
        /// Its folder.
        path: PathBuf,
        /// What it says.
        source: rocksdb::Error,
    },
    /// A value in the database cannot be read.
    #[error(
        "a {what} in the database cannot be read; the disk may be failing: check it, then sync again into an empty folder"
    )]
    Corrupt {
        /// Which kind of value.
        what: &'static str,
    },
    /// A note is too long.
    #[error("the note has {got} bytes, the limit is {limit}")]
    NoteLength {
        /// Its length.
        got: usize,
        /// Longest.
        limit: usize,
    },

    /// Transactions must come in order.
    #[error("transaction {got} cannot be appended, the next one is {expected}")]
    OutOfOrder {
        /// Sequence number that comes next.
        expected: u64,
        /// The one given.
        got: u64,
    },
    /// Another transaction is stored under this number.
    #[error("another transaction {seq} is stored already; truncate from {seq} first")]
    Conflict {
        /// Its number.
        seq: u64,
    },
    /// The transaction's start is not where its nodes come to lie.
    #[error("transaction {seq} says it starts at sector {got}, its nodes come to lie at {expected}")]
    Placement {
        /// Its number.
        seq: u64,
        /// Start that follows from the flow.
        expected: u64,
        /// Start given.
        got: u64,
    },
    /// The transaction's nodes do not lead to its data root.
    #[error("transaction {seq} has data root {got}, its nodes lead to {expected}")]
    DataRoot {
        /// Its number.
        seq: u64,
        /// Root of its nodes.
        expected: H256,
        /// Root given.
        got: H256,
    },
    /// The flow refuses the submission or the question.
    #[error(transparent)]
    Flow(FlowError<std::convert::Infallible>),

    /// No transaction has this number.
    #[error("transaction {seq} is not known, the next one is {next}")]
    UnknownTransaction {
        /// Number asked for.
        seq: u64,
        /// Number that the next transaction gets.
        next: u64,
    },
    /// The transaction's length does not fit its nodes, so no data can belong to it.
    #[error("transaction {seq} claims {size} bytes, which does not fit its nodes; no data can be stored for it")]
    NotAFile {
        /// Its number.
        seq: u64,
        /// Length that it claims.
        size: u64,
    },
    /// The segment or its proof is wrong.
    #[error(transparent)]
    Segment(#[from] FileError),
    /// The file does not have these sectors.
    #[error("sectors {start} to {end} of transaction {seq} asked for, it has {sectors}")]
    NoSuchSectors {
        /// Its number.
        seq: u64,
        /// First sector asked for.
        start: u64,
        /// First sector behind those asked for.
        end: u64,
        /// Sectors with data.
        sectors: u64,
    },
    /// A proof has more steps than any file has.
    #[error("the proof of segment {index} is longer than any can be")]
    ProofLength {
        /// Which segment.
        index: u64,
    },
    /// The transaction was reverted while its data was written.
    #[error("transaction {seq} was reverted; upload again")]
    Reverted {
        /// Its number.
        seq: u64,
    },
    /// The transaction starts in a part of the flow that was pruned.
    #[error("transaction {seq} is pruned: its time is over, and no data is kept for it")]
    Pruned {
        /// Its number.
        seq: u64,
    },
    /// A range of sectors has no whole segment of the file in it.
    #[error("sectors {start} to {end} of transaction {seq} hold no whole segment of it")]
    NoWholeSegment {
        /// Its number.
        seq: u64,
        /// First sector.
        start: u64,
        /// First sector behind them.
        end: u64,
    },
    /// Bytes and sectors do not fit together.
    #[error("{got} bytes given for sectors of {expected} bytes")]
    SectorBytes {
        /// Bytes that the sectors have.
        expected: u64,
        /// Bytes given.
        got: usize,
    },
    /// The proof of a range of sectors is wrong: whoever made it is at fault.
    #[error("the proof of sectors from {position} of a flow of {length} sectors is wrong: {reason}")]
    RangeProof {
        /// First sector in the flow.
        position: u64,
        /// Length of the flow.
        length: u64,
        /// What is wrong.
        reason: &'static str,
    },
    /// What was submitted is not zeros behind the end of the file, so it is no file of that length.
    #[error(
        "transaction {seq} claims {size} bytes and has other bytes than zeros behind them; it can never be completed"
    )]
    Padding {
        /// Its number.
        seq: u64,
        /// Length that it claims.
        size: u64,
    },
    /// Not all segments are there.
    #[error("transaction {seq} has {stored} of {segments} segments")]
    Incomplete {
        /// Its number.
        seq: u64,
        /// Segments that are stored.
        stored: u64,
        /// Segments it has.
        segments: u64,
    },

    /// The numbers are no shard.
    #[error(transparent)]
    Shard(#[from] ShardError),
    /// What was not kept cannot be kept from now on.
    #[error(
        "the store keeps shard {stored}, which {given} does not lie within; choose a part of it, or sync into an empty folder"
    )]
    WiderShard {
        /// Shard that is kept.
        stored: Shard,
        /// Shard given.
        given: Shard,
    },

    /// The store's sealed data belongs to another miner.
    #[error(
        "the sealed data belongs to miner {stored}, not to {given}; use that miner id, or discard the seals to have all data sealed again"
    )]
    OtherMiner {
        /// Miner id it was sealed for.
        stored: H256,
        /// Miner id given.
        given: H256,
    },
    /// A buffer has the wrong length.
    #[error("expected {expected} bytes of sealed data, got {got}")]
    SealedLength {
        /// Bytes there must be.
        expected: usize,
        /// Bytes there are.
        got: usize,
    },
    /// The seal does not exist, is named twice, or its data is not stored.
    #[error("seal {seal} of load {load} cannot be stored: {reason}")]
    Seal {
        /// Load.
        load: u64,
        /// Seal in the load.
        seal: u32,
        /// What is wrong.
        reason: &'static str,
    },
    /// The flow was cut while the load was sealed.
    #[error("the flow was reverted while load {load} was sealed; seal it again")]
    Stale {
        /// Which load.
        load: u64,
    },
    /// No proof can be made.
    #[error("sector {position} of a flow of {length} sectors has no proof: {reason}")]
    NoProof {
        /// First sector of the seal.
        position: u64,
        /// Length of the flow.
        length: u64,
        /// Why.
        reason: &'static str,
    },
}

impl StoreError {
    /// True when the caller gave something wrong or came too early; false when the store itself is in trouble.
    pub fn is_callers_fault(&self) -> bool {
        !matches!(
            self,
            StoreError::InUse { .. }
                | StoreError::Schema { .. }
                | StoreError::NotAStore { .. }
                | StoreError::SealedMissing { .. }
                | StoreError::Io { .. }
                | StoreError::DiskFull { .. }
                | StoreError::Database { .. }
                | StoreError::Corrupt { .. }
        )
    }
}

impl From<FlowError<std::convert::Infallible>> for StoreError {
    fn from(error: FlowError<std::convert::Infallible>) -> Self {
        StoreError::Flow(error)
    }
}

impl From<FlowError<StoreError>> for StoreError {
    fn from(error: FlowError<StoreError>) -> Self {
        StoreError::Flow(match error {
            FlowError::Source(error) => return error,
            FlowError::InvalidSubmission(reason) => FlowError::InvalidSubmission(reason),
            FlowError::TooLong { length, sectors } => FlowError::TooLong { length, sectors },
            FlowError::Unknown { height, index } => FlowError::Unknown { height, index },
            FlowError::OutOfFlow { height, index, length } => FlowError::OutOfFlow { height, index, length },
        })
    }
}
