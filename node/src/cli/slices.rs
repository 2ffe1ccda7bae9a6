//! Slices as files: what `encode` writes, and `verify` and `recover` read.
//!
//! A folder holds one blob: `blob.json` names it ([`BlobFile`]), and its slices are all in `slices.bin`, one behind the
//! other, or each in a file of its own, `slice-00042.bin`. A file of slices is their bytes and nothing else, in any order:
//! a slice carries its index.

use std::{
    fs::{self, File},
    io::{BufReader, Read},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::{Deserialize, Serialize};
use zgpu_core::{
    blob::{BYTES_PER_POINT, BYTES_PER_SCALAR, BlobRoots, Dimensions},
    digest::H256,
};
use zgpu_encoder::{encode::BlobId, points::plain_point_from_bytes};

pub(super) const BLOB_FILE: &str = "blob.json";
pub(super) const ALL_SLICES: &str = "slices.bin";
const SLICE_PREFIX: &str = "slice-";
/// The version of `blob.json`.
const FORMAT: u32 = 1;
/// Longest `blob.json` that is read.
const MAX_BLOB_FILE_BYTES: u64 = 64 << 10;
/// Most slice files of a folder: three times those of a blob of 2^10 rows.
const MAX_FILES: usize = 9216;

/// `blob.json`: what names a blob. Bytes are hex digits, in the order in which they are sent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct BlobFile {
    format: u32,
    lg_rows: u32,
    lg_columns: u32,
    /// Bytes of the data.
    pub(super) data_bytes: usize,
    /// x ‖ y, 32 bytes each, little-endian.
    commitment: String,
    storage_root: String,
    coset_roots: Vec<String>,
    /// Number of slices.
    pub(super) slices: usize,
    slice_bytes: usize,
}

impl BlobFile {
    pub(super) fn new(dimensions: Dimensions, data_bytes: usize, roots: &BlobRoots) -> Self {
        BlobFile {
            format: FORMAT,
            lg_rows: dimensions.lg_rows(),
            lg_columns: dimensions.lg_columns(),
            data_bytes,
            commitment: hex::encode(roots.commitment),
            storage_root: hex::encode(roots.storage_root),
            coset_roots: roots.coset_roots.iter().map(hex::encode).collect(),
            slices: dimensions.slices(),
            slice_bytes: dimensions.slice_bytes(),
        }
    }

    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let file = File::open(path).with_context(|| format!("{} cannot be opened", path.display()))?;
        let mut text = String::new();
        file.take(MAX_BLOB_FILE_BYTES + 1)
            .read_to_string(&mut text)
            .with_context(|| format!("{} cannot be read as text", path.display()))?;
        if text.len() as u64 > MAX_BLOB_FILE_BYTES {
            bail!("{} has more than {MAX_BLOB_FILE_BYTES} bytes, the limit for {BLOB_FILE}", path.display());
        }
        let blob: BlobFile =
            serde_json::from_str(&text).with_context(|| format!("{} does not describe a blob", path.display()))?;
        if blob.format != FORMAT {
            bail!("{} has format {}, expected {FORMAT}", path.display(), blob.format);
        }
        Ok(blob)
    }

    pub(super) fn dimensions(&self) -> anyhow::Result<Dimensions> {
        Ok(Dimensions::new(self.lg_rows, self.lg_columns)?)
    }

    pub(super) fn id(&self) -> anyhow::Result<BlobId> {
        blob_id(&self.commitment, &self.storage_root)
    }
}

/// What names a blob, from 128 and 64 hex digits.
pub(super) fn blob_id(commitment: &str, storage_root: &str) -> anyhow::Result<BlobId> {
    let bytes: [u8; BYTES_PER_POINT] = from_hex("the erasure commitment", commitment)?;
    let commitment = plain_point_from_bytes(&bytes).context("the erasure commitment")?;
    Ok(BlobId { commitment, storage_root: root(storage_root)? })
}

/// A storage root from 64 hex digits.
pub(super) fn root(text: &str) -> anyhow::Result<H256> {
    Ok(H256(from_hex("the storage root", text)?))
}

/// Bytes from hex digits, with or without 0x.
fn from_hex<const N: usize>(what: &str, text: &str) -> anyhow::Result<[u8; N]> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let mut bytes = [0; N];
    if digits.len() != 2 * N || hex::decode_to_slice(digits, &mut bytes).is_err() {
        bail!("{what} has {} characters, expected {} hex digits", digits.chars().count(), 2 * N);
    }
    Ok(bytes)
}

/// The file of slice `index` alone.
pub(super) fn slice_file(index: usize) -> String {
    format!("{SLICE_PREFIX}{index:05}.bin")
}

/// The slice files that `paths` name: files as they are, of folders the slice files inside, in the order of their names.
pub(super) fn slice_files(paths: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let mut inside = Vec::new();
        for entry in fs::read_dir(path).with_context(|| format!("{} cannot be listed", path.display()))? {
            let name = entry.with_context(|| format!("{} cannot be listed", path.display()))?.file_name();
            let text = name.to_string_lossy();
            if text == ALL_SLICES || text.starts_with(SLICE_PREFIX) && text.ends_with(".bin") {
                inside.push(path.join(name));
            }
            if inside.len() > MAX_FILES {
                bail!("{} has more than {MAX_FILES} slice files", path.display());
            }
        }
        if inside.is_empty() {
            bail!("{} has no slice files: {ALL_SLICES} or {}", path.display(), slice_file(42));
        }
        inside.sort();
        files.extend(inside);
    }
    Ok(files)
}

/// A file of slices, read one by one.
pub(super) struct SliceFile {
    path: PathBuf,
    file: BufReader<File>,
    /// Slices in it.
    pub(super) slices: usize,
    slice_bytes: usize,
}

impl SliceFile {
    /// A file whose length is that of one or more slices of `dimensions`.
    pub(super) fn open(path: &Path, dimensions: Dimensions) -> anyhow::Result<Self> {
        let file = File::open(path).with_context(|| format!("{} cannot be opened", path.display()))?;
        let length = file.metadata().with_context(|| format!("{} cannot be read", path.display()))?.len();
        let slice_bytes = dimensions.slice_bytes();
        if length == 0 || length % slice_bytes as u64 != 0 {
            bail!("{} has {length} bytes, expected a multiple of {slice_bytes}, the length of a slice", path.display());
        }
        let slices = usize::try_from(length)? / slice_bytes;
        Ok(SliceFile { path: path.to_owned(), file: BufReader::new(file), slices, slice_bytes })
    }

    /// The next slice's bytes.
    pub(super) fn next(&mut self) -> anyhow::Result<Vec<u8>> {
        let mut bytes = vec![0; self.slice_bytes];
        self.file.read_exact(&mut bytes).with_context(|| format!("{} cannot be read", self.path.display()))?;
        Ok(bytes)
    }

    /// How a message names slice `position` of this file.
    pub(super) fn place(&self, position: usize) -> String {
        match self.slices {
            1 => self.path.display().to_string(),
            _ => format!("{} at position {position}", self.path.display()),
        }
    }
}

/// The size of the matrix that the first slice of a file is of, by the lengths inside it.
pub(super) fn dimensions_of(path: &Path) -> anyhow::Result<Dimensions> {
    let numbers = || -> anyhow::Result<(u64, u64)> {
        let mut file = BufReader::new(File::open(path)?);
        // Behind both indices, the commitment and the row's number stands the row's length, then the row, then the
        // length of the commitment's proof: as many nodes as the tree over the rows is deep.
        let mut number = [0; 8];
        std::io::copy(&mut (&mut file).take(16 + BYTES_PER_POINT as u64 + 8), &mut std::io::sink())?;
        file.read_exact(&mut number)?;
        let columns = u64::from_le_bytes(number);
        if !columns.is_power_of_two() || columns > 1 << 26 {
            bail!("its row has {columns} scalars, expected a power of two up to 2^26");
        }
        std::io::copy(&mut (&mut file).take(columns * BYTES_PER_SCALAR as u64), &mut std::io::sink())?;
        file.read_exact(&mut number)?;
        Ok((u64::from_le_bytes(number), columns))
    };
    let (depth, columns) = numbers().with_context(|| format!("{} holds no slice", path.display()))?;
    let lg_rows = u32::try_from(depth).unwrap_or(u32::MAX);
    Dimensions::new(lg_rows, columns.ilog2()).with_context(|| format!("{} holds no slice", path.display()))
}

/// A bar on stderr, if that is a terminal.
pub(super) fn bar(what: &str, length: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix:<8} [{bar:32}] {pos} of {len}, {elapsed}");
    let bar = ProgressBar::with_draw_target(Some(length as u64), ProgressDrawTarget::stderr());
    bar.with_prefix(what.to_owned()).with_style(style.expect("the template is well-formed").progress_chars("█▌ "))
}

/// A turning mark on stderr for work of unknown length, if that is a terminal.
pub(super) fn spinner(what: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {prefix} {elapsed}").expect("the template is well-formed");
    let spinner = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let spinner = spinner.with_prefix(what.to_owned()).with_style(style);
    spinner.enable_steady_tick(std::time::Duration::from_millis(120));
    spinner
}
