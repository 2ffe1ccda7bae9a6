//! `zgpu verify`: slices against what names their blob.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::Args;
use serde::Serialize;
use zgpu_encoder::{
    encode::BlobId,
    params::{self, VerifierParams},
    slice::EncodedSlice,
    verify::{BadSlice, verify_slices},
};

use super::slices::{BlobFile, SliceFile, bar, blob_id, slice_files, spinner};

/// Slices that are verified together: enough to share the pairings, few enough for about 100 MB of memory.
const AT_A_TIME: usize = 1024;
/// Wrong slices that are named before the rest is not looked at any more.
const MAX_NAMED: usize = 32;

#[derive(Args)]
pub(super) struct VerifyArgs {
    /// Files of one or more slices, or folders of them.
    #[arg(value_name = "SLICE", required = true)]
    slices: Vec<PathBuf>,
    /// The parameters: a file that `zgpu params` made, or a folder with it or with the network's prover files.
    #[arg(long, value_name = "PATH")]
    params: PathBuf,
    /// What names the blob: the blob.json that `encode` wrote.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["commitment", "root"])]
    blob: Option<PathBuf>,
    /// The erasure commitment, 128 hex digits: x and y, little-endian.
    #[arg(long, value_name = "HEX", requires = "root")]
    commitment: Option<String>,
    /// The storage root, 64 hex digits.
    #[arg(long, value_name = "HEX", requires = "commitment")]
    root: Option<String>,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

/// What was found.
#[derive(Default, Serialize)]
struct Report {
    /// Slices that hold.
    right: usize,
    /// Those that do not.
    wrong: Vec<Wrong>,
    /// Whether slices were not looked at, after many wrong ones.
    stopped: bool,
}

#[derive(Serialize)]
struct Wrong {
    /// File, and position inside it.
    place: String,
    /// The slice's index, if it has one.
    index: Option<usize>,
    reason: String,
}

pub(super) fn run(args: VerifyArgs) -> anyhow::Result<ExitCode> {
    let blob = match (&args.blob, &args.commitment, &args.root) {
        (Some(path), _, _) => BlobFile::read(path)?.id().with_context(|| path.display().to_string())?,
        (None, Some(commitment), Some(root)) => blob_id(commitment, root)?,
        _ => anyhow::bail!("--blob, or --commitment and --root, must name the blob"),
    };
    let files = slice_files(&args.slices)?;
    let loading = spinner("reading the parameters");
    let params = params::load_dir(&args.params)?;
    loading.finish_and_clear();
    let report = verify(params.verifier(), &blob, &files)?;
    if args.json {
        super::print_json(&report)?;
    } else {
        for wrong in &report.wrong {
            let index = wrong.index.map_or(String::new(), |index| format!(", slice {index}"));
            super::print(&format!("wrong: {}{index}: {}", wrong.place, wrong.reason))?;
        }
        let stopped = if report.stopped { "; the rest was not looked at" } else { "" };
        super::print(&format!("{} right, {} wrong{stopped}", report.right, report.wrong.len()))?;
    }
    Ok(if report.wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn verify(params: &VerifierParams, blob: &BlobId, paths: &[PathBuf]) -> anyhow::Result<Report> {
    let open = |path: &PathBuf| SliceFile::open(path, params.dimensions());
    // Lengths first: a file that holds no slices is named before anything long begins.
    let mut count = 0;
    for path in paths {
        count += open(path)?.slices;
    }
    let bar = bar("slices", count);
    let mut report = Report::default();
    let mut batch = Batch::default();
    for path in paths {
        let mut file = open(path)?;
        for position in 0..file.slices {
            let bytes = file.next()?;
            match EncodedSlice::from_bytes(params.dimensions(), &bytes) {
                Ok(slice) => {
                    batch.places.push(file.place(position));
                    batch.slices.push(slice);
                }
                Err(error) => {
                    bar.inc(1);
                    report.wrong.push(Wrong { place: file.place(position), index: None, reason: error.to_string() });
                }
            }
            if batch.slices.len() == AT_A_TIME {
                bar.inc(batch.verify(params, blob, &mut report));
            }
            if report.wrong.len() >= MAX_NAMED {
                report.stopped = report.right + report.wrong.len() < count;
                return Ok(report);
            }
        }
    }
    batch.verify(params, blob, &mut report);
    bar.finish_and_clear();
    Ok(report)
}

/// Slices that are verified together.
#[derive(Default)]
struct Batch {
    places: Vec<String>,
    slices: Vec<EncodedSlice>,
}

impl Batch {
    /// Verifies and empties it; returns how many slices it had.
    fn verify(&mut self, params: &VerifierParams, blob: &BlobId, report: &mut Report) -> u64 {
        let mut first = 0;
        while let Err(BadSlice { position, fault }) =
            verify_slices(params, blob, &self.slices[first..], &mut rand::rng())
        {
            let at = first + position;
            report.right += position;
            let (place, index) = (self.places[at].clone(), Some(self.slices[at].proof.index));
            report.wrong.push(Wrong { place, index, reason: fault.to_string() });
            first = at + 1;
            if report.wrong.len() >= MAX_NAMED {
                report.stopped = first < self.slices.len();
                break;
            }
        }
        if !report.stopped {
            report.right += self.slices.len() - first;
        }
        let count = self.slices.len() as u64;
        self.places.clear();
        self.slices.clear();
        count
    }
}
