//! Getting a file from storage nodes: its segments from several nodes at once, each checked against the file's root.
//!
//! What has come lies in a partial file beside the target, `<name>.download`: the file's bytes, and behind them 48 bytes
//! that say what it is and how far it got (root, size and offset, both i64 big-endian), as the network's own client
//! keeps it. A download that was interrupted goes on from there.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, BufReader, ErrorKind, Seek},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures::{StreamExt, future::join_all, stream};
use serde::Serialize;
use zgpu_core::{
    H256,
    file::{FileError, FileShape, FileTree},
    shard::Shard,
    units::{BYTES_PER_LOAD, BYTES_PER_SECTOR, SECTORS_PER_LOAD},
};

use super::{
    Progress,
    error::{ClientError, Dropped},
    node::{FileInfo, NodeError, StorageNode},
};
use crate::{chain::revert::clip, duties::blocking};

/// Bytes behind the data in a partial file: root, size, offset.
const TRAILER_BYTES: usize = 48;
/// Bytes between two times that the offset is written down.
const BYTES_PER_CHECKPOINT: u64 = 16 << 20;
/// Times that a node may fail for passing reasons before it is left out.
const MAX_FAILURES: u32 = 3;

/// Which file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The one with this root.
    Root(H256),
    /// The one of this transaction.
    Seq(u64),
}

impl std::fmt::Display for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Wanted::Root(root) => write!(f, "root {root}"),
            Wanted::Seq(seq) => write!(f, "transaction {seq}"),
        }
    }
}

/// How a file is downloaded.
#[derive(Clone, Debug)]
pub struct DownloadOptions {
    /// Whether every segment is asked for with its proof and checked at once; the whole is checked at the end anyhow.
    pub proof: bool,
    /// Whether a file of the same name is replaced.
    pub force: bool,
    /// Segments that are on their way at once; at least 1.
    pub parallel: usize,
}

impl Default for DownloadOptions {
    /// Proofs, nothing replaced, 16 segments at once.
    fn default() -> Self {
        DownloadOptions { proof: true, force: false, parallel: 16 }
    }
}

/// A file that was downloaded.
#[derive(Clone, Debug, Serialize)]
pub struct Downloaded {
    /// Where it is.
    pub path: PathBuf,
    /// Its root.
    pub root: H256,
    /// Its bytes.
    pub size: u64,
    /// Number of its transaction.
    pub tx_seq: u64,
    /// Bytes that an earlier download had left.
    pub resumed_bytes: u64,
    /// Segments that each node gave.
    pub nodes: BTreeMap<String, u64>,
    /// Nodes that were left out.
    pub dropped: Vec<Dropped>,
}

/// Downloads a file to `out`.
///
/// # Errors
/// When nodes do not know the file or disagree, a segment cannot be had from any, or the whole is not what was asked for.
/// What has come so far stays in the partial file, unless it is known to be wrong.
pub async fn download(
    nodes: &[StorageNode],
    wanted: Wanted,
    out: &Path,
    options: &DownloadOptions,
    progress: &dyn Progress,
) -> Result<Downloaded, ClientError> {
    check_target(out, options.force)?;
    let sources = Sources::ask(nodes, wanted, progress).await?;
    let target = sources.target;
    let path = out.to_owned();
    let mut partial = blocking(move || Partial::open(&path, &target)).await?;
    let resumed_bytes = partial.offset;
    if resumed_bytes > 0 {
        progress.note(&format!("going on from byte {resumed_bytes} of {}", target.shape.size()));
    }

    progress.begin("downloading", target.shape.size());
    progress.advance(resumed_bytes);
    let first = resumed_bytes / BYTES_PER_LOAD as u64;
    let fetched = (first..target.shape.segments()).map(|index| sources.segment(index, options.proof, progress));
    let mut fetched = stream::iter(fetched).buffered(options.parallel.max(1));
    let mut result = Ok(());
    while let Some(segment) = fetched.next().await {
        // What is in order behind a failure is fetched anew the next time.
        let segment = match segment {
            Ok(segment) => segment,
            Err(error) => {
                result = Err(error);
                break;
            }
        };
        let bytes = segment.len() as u64;
        partial = blocking(move || partial.put(&segment)).await?;
        progress.advance(bytes);
    }
    drop(fetched);
    partial = blocking(move || partial.checkpoint()).await?;
    result?;

    progress.begin("checking", target.shape.size());
    partial.finish(out, options, resumed_bytes > 0, progress).await?;
    let (nodes, dropped) = sources.report();
    Ok(Downloaded {
        path: out.to_owned(),
        root: target.root,
        size: target.shape.size(),
        tx_seq: target.seq,
        resumed_bytes,
        nodes,
        dropped,
    })
}

/// Refuses a target that exists, unless it may be replaced and is a file.
fn check_target(out: &Path, force: bool) -> Result<(), ClientError> {
    let failed = |error| ClientError::Io { path: out.to_owned(), done: "written", error };
    match fs::symlink_metadata(out) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(error)),
        Ok(found) if found.is_dir() => Err(failed(io::Error::from(ErrorKind::IsADirectory))),
        Ok(_) if force => Ok(()),
        Ok(_) => Err(ClientError::Exists { path: out.to_owned() }),
    }
}

/// The file that is downloaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Target {
    root: H256,
    shape: FileShape,
    seq: u64,
    /// First load in the flow.
    first_load: u64,
}

impl Target {
    fn of(info: &FileInfo) -> Result<Self, FileError> {
        let shape = FileShape::new(info.size)?;
        Ok(Target { root: info.root, shape, seq: info.seq, first_load: info.start / SECTORS_PER_LOAD as u64 })
    }
}

/// A node that may have the file.
struct Source {
    node: StorageNode,
    shard: Shard,
    /// Number of the transaction as this node knows the file: the same root may have several.
    seq: u64,
    first_load: u64,
    state: Mutex<SourceState>,
}

#[derive(Default)]
struct SourceState {
    given: u64,
    failures: u32,
    dropped: Option<String>,
}

impl Source {
    fn state(&self) -> MutexGuard<'_, SourceState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_alive(&self) -> bool {
        self.state().dropped.is_none()
    }

    fn keeps(&self, index: u64) -> bool {
        self.shard.contains(self.first_load.saturating_add(index))
    }
}

/// The nodes that the file comes from.
struct Sources {
    target: Target,
    all: Vec<Source>,
    /// Nodes that were left out before anything came.
    dropped: Vec<Dropped>,
    /// Where the next round begins.
    turn: AtomicUsize,
}

impl Sources {
    /// Asks all nodes for the file, and settles what it is.
    async fn ask(nodes: &[StorageNode], wanted: Wanted, progress: &dyn Progress) -> Result<Self, ClientError> {
        if nodes.is_empty() {
            return Err(ClientError::NoNodes);
        }
        let ask = |node: &StorageNode| {
            let node = node.clone();
            async move {
                let answer = async {
                    let info = match wanted {
                        Wanted::Root(root) => node.file_info(&root).await?,
                        Wanted::Seq(seq) => node.file_info_by_seq(seq).await?,
                    };
                    Ok::<_, NodeError>((info, node.shard().await?))
                };
                let answer = answer.await;
                (node, answer)
            }
        };
        let mut sources = Vec::new();
        let mut dropped = Vec::new();
        let mut leave_out = |node: &StorageNode, reason: String| {
            let left = Dropped { node: node.url().to_owned(), reason };
            progress.note(&format!("left out: {left}"));
            dropped.push(left);
        };
        for (node, answer) in join_all(nodes.iter().map(ask)).await {
            let (info, shard) = match answer {
                Ok((Some(info), shard)) => (info, shard),
                Ok((None, _)) => {
                    leave_out(&node, "it does not know the file".into());
                    continue;
                }
                Err(error) => {
                    leave_out(&node, error.to_string());
                    continue;
                }
            };
            let is_asked = match wanted {
                Wanted::Root(root) => info.root == root,
                Wanted::Seq(seq) => info.seq == seq,
            };
            let target = match Target::of(&info) {
                Ok(target) if is_asked => target,
                Ok(_) => {
                    leave_out(&node, format!("it tells of root {}, which was not asked for", info.root));
                    continue;
                }
                Err(error) => {
                    leave_out(&node, error.to_string());
                    continue;
                }
            };
            let source = Source { node, shard, seq: info.seq, first_load: target.first_load, state: Mutex::default() };
            sources.push((target, source));
        }
        let target = settle(wanted, &mut sources, &mut leave_out).await?;
        let all: Vec<Source> = sources.into_iter().map(|(_, source)| source).collect();
        let Some(target) = target else { return Err(ClientError::Unknown { what: wanted.to_string(), dropped }) };
        Ok(Sources { target, all, dropped, turn: AtomicUsize::new(0) })
    }

    /// The bytes of segment `index`, from any node that has it. With `proof` each answer is checked before it counts.
    async fn segment(&self, index: u64, proof: bool, progress: &dyn Progress) -> Result<Vec<u8>, ClientError> {
        // Each node is asked at most as often as it may fail; those that say they keep the segment come first.
        let mut said: BTreeMap<usize, String> = BTreeMap::new();
        while let Some(at) = self.next(index, &said) {
            let source = &self.all[at];
            match self.fetch(source, index, proof).await {
                Ok(Some(bytes)) => {
                    source.state().given += 1;
                    return Ok(bytes);
                }
                Ok(None) => {
                    said.insert(at, format!("it does not have segment {index}"));
                }
                Err(fault) => {
                    let mut state = source.state();
                    state.failures += 1;
                    if state.dropped.is_none() && (!fault.is_passing || state.failures >= MAX_FAILURES) {
                        let left = Dropped { node: source.node.url().to_owned(), reason: fault.reason.clone() };
                        progress.note(&format!("left out: {left}"));
                        state.dropped = Some(fault.reason);
                    }
                }
            }
        }
        let mut dropped = self.all_dropped();
        let said = said.into_iter().filter(|(at, _)| self.all[*at].is_alive());
        dropped.extend(said.map(|(at, reason)| Dropped { node: self.all[at].node.url().to_owned(), reason }));
        Err(ClientError::Segment { index, segments: self.target.shape.segments(), dropped })
    }

    /// A node to ask for a segment: in turn those that keep it, then any other.
    fn next(&self, index: u64, said: &BTreeMap<usize, String>) -> Option<usize> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let in_turn = |step: usize| turn.wrapping_add(step) % self.all.len();
        let can = |at: &usize| self.all[*at].is_alive() && !said.contains_key(at);
        let mut order = (0..self.all.len()).map(in_turn).filter(can);
        let keeping = order.clone().find(|at| self.all[*at].keeps(index));
        keeping.or_else(|| order.next())
    }

    async fn fetch(&self, source: &Source, index: u64, proof: bool) -> Result<Option<Vec<u8>>, Fault> {
        let Target { root, shape, .. } = self.target;
        if !proof {
            let first = index * SECTORS_PER_LOAD as u64;
            let end = shape.sectors().min(first + SECTORS_PER_LOAD as u64);
            let Some(data) = source.node.sectors(source.seq, first, end).await? else { return Ok(None) };
            return Ok(Some(unfilled(&shape, index, data)?));
        }
        let Some(given) = source.node.segment_with_proof(source.seq, index).await? else { return Ok(None) };
        blocking(move || {
            let data = unfilled(&shape, index, given.data)?;
            given.proof.verify(&shape, &root, index, &data)?;
            Ok(Some(data))
        })
        .await
    }

    fn all_dropped(&self) -> Vec<Dropped> {
        let late = self.all.iter().filter_map(|source| {
            Some(Dropped { node: source.node.url().to_owned(), reason: source.state().dropped.clone()? })
        });
        self.dropped.iter().cloned().chain(late).collect()
    }

    fn report(self) -> (BTreeMap<String, u64>, Vec<Dropped>) {
        let dropped = self.all_dropped();
        let mut nodes = BTreeMap::new();
        for source in &self.all {
            let given = source.state().given;
            if given > 0 {
                *nodes.entry(source.node.url().to_owned()).or_default() += given;
            }
        }
        (nodes, dropped)
    }
}

/// What a node did wrong.
struct Fault {
    reason: String,
    is_passing: bool,
}

impl From<NodeError> for Fault {
    fn from(error: NodeError) -> Self {
        Fault { is_passing: error.is_transient(), reason: error.to_string() }
    }
}

impl From<FileError> for Fault {
    fn from(error: FileError) -> Self {
        Fault { is_passing: false, reason: clip(&error.to_string(), 200) }
    }
}

/// The file's bytes of segment `index`, of the whole sectors that a node gave.
fn unfilled(shape: &FileShape, index: u64, mut sectors: Vec<u8>) -> Result<Vec<u8>, FileError> {
    let expected = shape.segment_bytes(index);
    let whole = expected.next_multiple_of(BYTES_PER_SECTOR);
    if sectors.len() != whole {
        return Err(FileError::SegmentLength { index, expected: whole as u64, got: sectors.len() as u64 });
    }
    // What fills the last sector is not the file's; a proof would not hold with anything but zeros there.
    sectors.truncate(expected);
    Ok(sectors)
}

/// What the file is, when nodes say different things: those whose last segment does not prove what they say are left out.
async fn settle(
    wanted: Wanted,
    sources: &mut Vec<(Target, Source)>,
    leave_out: &mut impl FnMut(&StorageNode, String),
) -> Result<Option<Target>, ClientError> {
    let same = |a: &Target, b: &Target| (a.root, a.shape) == (b.root, b.shape);
    if sources.iter().all(|(target, _)| same(target, &sources[0].0)) {
        return Ok(sources.first().map(|(target, _)| *target));
    }
    let proven = join_all(sources.iter().map(|(target, source)| async move {
        let index = target.shape.segments() - 1;
        let given = match source.node.segment_with_proof(source.seq, index).await {
            Ok(Some(given)) => given,
            // It may keep another shard; that is no lie.
            Ok(None) => return None,
            Err(error) => return Some(Err(error.to_string())),
        };
        let data = unfilled(&target.shape, index, given.data);
        let check = data.and_then(|data| given.proof.verify(&target.shape, &target.root, index, &data));
        Some(check.map_err(|error| format!("it says {} bytes: {error}", target.shape.size())))
    }))
    .await;
    let mut targets: Vec<Target> = Vec::new();
    for ((target, _), proof) in sources.iter().zip(&proven) {
        if matches!(proof, Some(Ok(()))) && !targets.iter().any(|known| same(known, target)) {
            targets.push(*target);
        }
    }
    let [target] = targets[..] else {
        let claim = |(target, source): &(Target, Source)| {
            format!("{} says root {}, {} bytes", source.node, target.root, target.shape.size())
        };
        let claims = sources.iter().map(claim).collect::<Vec<_>>().join("; ");
        return Err(ClientError::Disagree { what: wanted.to_string(), claims });
    };
    let mut proven = proven.into_iter();
    sources.retain(|(claimed, source)| {
        let proof = proven.next().flatten();
        let is_right = same(claimed, &target);
        match proof {
            Some(Err(reason)) => leave_out(&source.node, reason),
            _ if !is_right => leave_out(&source.node, format!("it says {} bytes without proof", claimed.shape.size())),
            _ => {}
        }
        is_right
    });
    Ok(Some(target))
}

/// A file that is not complete.
struct Partial {
    path: PathBuf,
    file: File,
    target: Target,
    /// Bytes that have come, from the start on.
    offset: u64,
    /// Offset that is written down.
    written_down: u64,
}

impl Partial {
    /// Opens the partial file of `out`, or begins one. One of another file, or one that makes no sense, is begun anew.
    /// Blocks.
    fn open(out: &Path, target: &Target) -> Result<Self, ClientError> {
        let mut name = out.file_name().map_or_else(OsString::new, OsString::from);
        name.push(".download");
        let path = out.with_file_name(name);
        let failed = |error| ClientError::Io { path: path.clone(), done: "written", error };
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).to_owned();
        let file = options.open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(ClientError::Locked { path }),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let size = target.shape.size();
        let offset = read_offset(&file, target).map_err(failed)?;
        let partial = Partial { path: path.clone(), file, target: *target, offset, written_down: offset };
        let needed = size - offset;
        let free = rustix::fs::fstatvfs(&partial.file).map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize));
        if let Ok(free) = free
            && free < needed
        {
            return Err(ClientError::DiskFull { path, needed, free });
        }
        partial.file.set_len(size + TRAILER_BYTES as u64).map_err(failed)?;
        partial.checkpoint()
    }

    fn failed(&self, error: io::Error) -> ClientError {
        ClientError::Io { path: self.path.clone(), done: "written", error }
    }

    /// Adds the next bytes. Blocks.
    fn put(mut self, bytes: &[u8]) -> Result<Self, ClientError> {
        self.file.write_all_at(bytes, self.offset).map_err(|error| self.failed(error))?;
        self.offset += bytes.len() as u64;
        match self.offset - self.written_down < BYTES_PER_CHECKPOINT {
            true => Ok(self),
            false => self.checkpoint(),
        }
    }

    /// Writes down how far it got. The bytes are on disk before that says so. Blocks.
    fn checkpoint(mut self) -> Result<Self, ClientError> {
        let mut trailer = [0; TRAILER_BYTES];
        trailer[..32].copy_from_slice(&self.target.root.0);
        trailer[32..40].copy_from_slice(&self.target.shape.size().to_be_bytes());
        trailer[40..].copy_from_slice(&self.offset.to_be_bytes());
        let write = || {
            self.file.sync_data()?;
            self.file.write_all_at(&trailer, self.target.shape.size())
        };
        write().map_err(|error| self.failed(error))?;
        self.written_down = self.offset;
        Ok(self)
    }

    /// Checks the whole and gives it its name.
    async fn finish(
        self,
        out: &Path,
        options: &DownloadOptions,
        is_resumed: bool,
        progress: &dyn Progress,
    ) -> Result<(), ClientError> {
        let Target { root: expected, shape, .. } = self.target;
        let partial = Arc::new(self);
        let reading = partial.clone();
        let failed = |error| ClientError::Io { path: partial.path.clone(), done: "completed", error };
        let tree = blocking(move || {
            let mut file = &reading.file;
            file.set_len(shape.size())?;
            file.rewind()?;
            FileTree::read(shape, BufReader::with_capacity(BYTES_PER_LOAD, file), |_| ())
        });
        let got = tree.await.map_err(|error| ClientError::File { path: partial.path.clone(), error })?.root();
        progress.advance(shape.size());
        if got != expected {
            fs::remove_file(&partial.path).map_err(failed)?;
            let hint = match (options.proof, is_resumed) {
                (false, _) => "some node lied; without --no-proof it is found out. The partial file was removed",
                (true, true) => "the partial file was damaged and was removed; run the command again",
                (true, false) => "the disk gave back other bytes than were written; the partial file was removed",
            };
            return Err(ClientError::WrongRoot { got, expected, hint });
        }
        partial.file.sync_all().map_err(failed)?;
        if options.force {
            return fs::rename(&partial.path, out).map_err(failed);
        }
        // A link does not replace what came there meanwhile, as a new name would; not every disk has links.
        match fs::hard_link(&partial.path, out) {
            Ok(()) => fs::remove_file(&partial.path).map_err(failed),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(ClientError::Exists { path: out.to_owned() }),
            Err(_) => {
                check_target(out, false)?;
                fs::rename(&partial.path, out).map_err(failed)
            }
        }
    }
}

/// How far a partial file of `target` got: 0 for one of another file, or one that makes no sense.
fn read_offset(file: &File, target: &Target) -> io::Result<u64> {
    let size = target.shape.size();
    if file.metadata()?.len() != size + TRAILER_BYTES as u64 {
        return Ok(0);
    }
    let mut trailer = [0; TRAILER_BYTES];
    file.read_exact_at(&mut trailer, size)?;
    let number = |at: usize| u64::from_be_bytes(trailer[at..at + 8].try_into().expect("8 bytes"));
    let offset = number(40);
    let is_ours = trailer[..32] == target.root.0 && number(32) == size && offset <= size;
    // Downloads go on at the start of a segment.
    let whole = if offset == size { size } else { offset - offset % BYTES_PER_LOAD as u64 };
    Ok(if is_ours { whole } else { 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(size: u64) -> Target {
        Target { root: H256([7; 32]), shape: FileShape::new(size).unwrap(), seq: 1, first_load: 0 }
    }

    /// The layout is the one of the network's own client.
    #[test]
    fn a_partial_file_says_what_it_is_at_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("file");
        let size = 3 * BYTES_PER_LOAD as u64 + 5;
        let partial = Partial::open(&out, &target(size)).unwrap();
        assert!(matches!(Partial::open(&out, &target(size)), Err(ClientError::Locked { .. })));
        drop(partial.put(&[1; BYTES_PER_LOAD]).unwrap().checkpoint().unwrap());

        let bytes = fs::read(dir.path().join("file.download")).unwrap();
        assert_eq!(bytes.len() as u64, size + 48);
        let trailer = &bytes[size as usize..];
        assert_eq!(trailer[..32], [7; 32]);
        assert_eq!(trailer[32..40], (size as i64).to_be_bytes());
        assert_eq!(trailer[40..], (BYTES_PER_LOAD as i64).to_be_bytes());

        assert_eq!(Partial::open(&out, &target(size)).unwrap().offset, BYTES_PER_LOAD as u64);
        let mut other = target(size);
        other.root = H256([8; 32]);
        assert_eq!(Partial::open(&out, &other).unwrap().offset, 0, "it is of another file");
        assert_eq!(Partial::open(&out, &target(size)).unwrap().offset, 0, "and now it is begun anew");
        assert_eq!(Partial::open(&out, &target(size + 1)).unwrap().offset, 0);
    }

    #[test]
    fn what_makes_no_sense_is_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("partial");
        let size = 2 * BYTES_PER_LOAD as u64;
        let offset = |trailer: &[u8]| {
            fs::write(&path, [&vec![0; size as usize], trailer].concat()).unwrap();
            read_offset(&File::open(&path).unwrap(), &target(size)).unwrap()
        };
        let trailer = |size: u64, offset: u64| [&[7; 32][..], &size.to_be_bytes(), &offset.to_be_bytes()].concat();
        assert_eq!(offset(&trailer(size, size)), size);
        assert_eq!(offset(&trailer(size, size - 1)), BYTES_PER_LOAD as u64);
        assert_eq!(offset(&trailer(size, size + 1)), 0);
        assert_eq!(offset(&trailer(size, u64::MAX)), 0);
        assert_eq!(offset(&trailer(size + 1, size)), 0);
        assert_eq!(offset(&trailer(size, size)[1..]), 0);
        assert_eq!(offset(&[]), 0);
    }

    #[test]
    fn a_disk_that_is_too_small_is_said_so_before_anything_comes() {
        let dir = tempfile::tempdir().unwrap();
        let error = Partial::open(&dir.path().join("file"), &target(1 << 61)).err().unwrap();
        assert!(matches!(error, ClientError::DiskFull { needed, .. } if needed == 1 << 61), "{error}");
    }
}
