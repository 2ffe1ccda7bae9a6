//! `zgpu recover`: a blob's data from any third of its slices.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail};
use clap::Args;
use serde::Serialize;
use zgpu_core::{blob::Dimensions, digest::H256};
use zgpu_encoder::{
    encode::BlobId, extend::extend, merkle::BlobTree, recover::recover, slice::EncodedSlice, verify::verify_hashes,
};

use super::slices::{BlobFile, SliceFile, bar, dimensions_of, root, slice_files, spinner};

/// Slices left out that are named one by one.
const MAX_NAMED: usize = 32;

const AFTER_HELP: &str = "\
Slices whose row does not lead to the storage root are left out, and named. The data is encoded again and must give the \
storage root. No parameters are needed.";

#[derive(Args)]
#[command(after_help = AFTER_HELP)]
#[command(group = clap::ArgGroup::new("name").required(true))]
pub(super) struct RecoverArgs {
    /// Files of one or more slices, or folders of them: any 1,024 slices of a blob with the network's parameters.
    #[arg(long, value_name = "SLICE", required = true, num_args = 1..)]
    rows: Vec<PathBuf>,
    /// What names the blob: the blob.json that `encode` wrote.
    #[arg(long, value_name = "FILE", group = "name")]
    blob: Option<PathBuf>,
    /// The storage root, 64 hex digits.
    #[arg(long, value_name = "HEX", group = "name")]
    root: Option<String>,
    /// File for the data.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    /// Bytes of the data.
    data_bytes: usize,
    /// Rows that it was made from.
    rows: usize,
    storage_root: String,
    /// Slices that were left out: place and reason.
    left_out: Vec<String>,
}

pub(super) fn run(args: RecoverArgs) -> anyhow::Result<ExitCode> {
    let files = slice_files(&args.rows)?;
    let (dimensions, root) = match (&args.blob, &args.root) {
        (Some(path), _) => {
            let blob = BlobFile::read(path)?;
            let named = || Ok::<_, anyhow::Error>((blob.dimensions()?, blob.id()?.storage_root));
            named().with_context(|| path.display().to_string())?
        }
        (None, Some(digits)) => (dimensions_of(files.first().context("there are no slice files")?)?, root(digits)?),
        (None, None) => bail!("--blob or --root must name the blob"),
    };
    if fs::exists(&args.out).with_context(|| format!("{} cannot be read", args.out.display()))? {
        bail!("{} is there already; choose another file", args.out.display());
    }
    let (rows, left_out) = read_rows(dimensions, root, &files)?;
    left_out.iter().take(MAX_NAMED).for_each(|line| eprintln!("left out: {line}"));
    if left_out.len() > MAX_NAMED {
        eprintln!("left out: {} more", left_out.len() - MAX_NAMED);
    }
    let (found, needed) = (rows.len(), dimensions.rows());
    if found < needed {
        bail!("{found} rows can be used, {needed} are needed; {} slices were left out", left_out.len());
    }
    let recovering = spinner("recovering");
    let data = recover(dimensions, &rows.iter().map(|(index, row)| (*index, row.as_slice())).collect())?;
    let found = BlobTree::new(&extend(dimensions, &data)?).storage_root();
    recovering.finish_and_clear();
    if found != root {
        bail!("the rows are not those of an encoded blob: their data has storage root {found}, expected {root}");
    }
    write_whole(&args.out, &data)?;
    let report = Report { data_bytes: data.len(), rows: rows.len(), storage_root: hex::encode(root.0), left_out };
    if args.json {
        super::print_json(&report)?;
    } else {
        let (bytes, rows, out) = (report.data_bytes, report.rows, args.out.display());
        super::print(&format!("{bytes} bytes from {rows} rows in {out}; the storage root is {}", report.storage_root))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Rows by their index, as bytes.
type Rows = BTreeMap<usize, Vec<u8>>;

/// As many rows as are needed, or fewer if there are not so many, each proven to be below the storage root; and why
/// others were left out.
fn read_rows(dimensions: Dimensions, root: H256, paths: &[PathBuf]) -> anyhow::Result<(Rows, Vec<String>)> {
    let needed = dimensions.rows();
    let (mut rows, mut left_out) = (Rows::new(), Vec::new());
    let bar = bar("rows", needed);
    for path in paths {
        let mut file = SliceFile::open(path, dimensions)?;
        for position in 0..file.slices {
            if rows.len() == needed {
                break;
            }
            let bytes = file.next()?;
            match proven_row(dimensions, root, &bytes) {
                Ok((index, row)) => drop(rows.insert(index, row)),
                Err(reason) => left_out.push(format!("{}: {reason}", file.place(position))),
            }
            bar.set_position(rows.len() as u64);
        }
    }
    bar.finish_and_clear();
    Ok((rows, left_out))
}

/// Index and bytes of the row of a slice below `root`.
fn proven_row(dimensions: Dimensions, root: H256, bytes: &[u8]) -> anyhow::Result<(usize, Vec<u8>)> {
    let slice = EncodedSlice::from_bytes(dimensions, bytes)?;
    let blob = BlobId { commitment: slice.proof.commitment, storage_root: root };
    verify_hashes(dimensions, &blob, &slice)?;
    let row = &bytes[dimensions.row_offset()..][..dimensions.row_bytes()];
    Ok((slice.proof.index, row.to_vec()))
}

/// Writes a new file, which appears under its name only when it is complete.
fn write_whole(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let written = File::create(&part).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&part, path)
    });
    written.with_context(|| format!("{} cannot be written", path.display()))
}
