//! `zgpu pora check` and `zgpu da check`: vector files, recomputed.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context, bail};
use clap::Args;
use zgpu_core::{
    check::{CaseReport, Summary},
    device::BackendChoice,
};
use zgpu_encoder::{engine::EngineOptions, params::ProverParams};

#[derive(Args)]
pub(super) struct PoraArgs {
    /// Vector file to check.
    #[arg(long, value_name = "FILE")]
    vectors: PathBuf,
    /// Device to check: auto, cpu, cuda or wgpu.
    #[arg(long, default_value_t, value_name = "BACKEND")]
    backend: BackendChoice,
}

#[derive(Args)]
pub(super) struct DaArgs {
    /// Vector files to check, one blob each.
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    vectors: Vec<PathBuf>,
    /// Device to check: auto, cpu, cuda or wgpu.
    #[arg(long, default_value_t, value_name = "BACKEND")]
    backend: BackendChoice,
}

pub(super) fn pora(args: PoraArgs) -> anyhow::Result<ExitCode> {
    let text = read_bounded(&args.vectors, zgpu_miner::check::MAX_FILE_BYTES)?;
    let mut engine = zgpu_miner::open(args.backend)?;
    let device = engine.info();
    eprintln!("checking {} on {}:{} {}", args.vectors.display(), device.backend, device.index, device.name);
    let mut lines = Lines::default();
    let summary = zgpu_miner::check_vectors(&text, engine.as_mut(), &mut |case| lines.print(&case))
        .with_context(|| format!("{} cannot be checked", args.vectors.display()))?;
    lines.end(summary)
}

pub(super) fn da(args: DaArgs) -> anyhow::Result<ExitCode> {
    let mut lines = Lines::default();
    let mut summary = Summary::default();
    for path in &args.vectors {
        let text = read_bounded(path, zgpu_encoder::check::MAX_FILE_BYTES)?;
        let open = |params: &Arc<ProverParams>| {
            let mut engines = zgpu_encoder::engine::open(args.backend, params, EngineOptions::default())?;
            let engine = engines.remove(0);
            let device = engine.info();
            eprintln!("checking {} on {}:{} {}", path.display(), device.backend, device.index, device.name);
            Ok(engine)
        };
        summary += zgpu_encoder::check::check_vectors(&text, open, &mut |case| lines.print(&case))
            .with_context(|| format!("{} cannot be checked", path.display()))?;
    }
    lines.end(summary)
}

/// Prints a line a case; a failure of stdout is reported at the end.
#[derive(Default)]
struct Lines {
    failure: Option<io::Error>,
}

impl Lines {
    fn print(&mut self, case: &CaseReport) {
        if self.failure.is_none() {
            self.failure = super::print(&case.to_string()).err();
        }
    }

    /// The last line, and the exit code: success only when something passed and nothing failed.
    fn end(self, summary: Summary) -> anyhow::Result<ExitCode> {
        if let Some(error) = self.failure {
            return Err(error.into());
        }
        super::print(&summary.to_string())?;
        Ok(if summary.failed == 0 && summary.passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// The file's text, if it has at most `limit` bytes.
fn read_bounded(path: &Path, limit: usize) -> anyhow::Result<String> {
    let file = File::open(path).with_context(|| format!("{} cannot be opened", path.display()))?;
    let mut text = String::new();
    file.take(limit as u64 + 1)
        .read_to_string(&mut text)
        .with_context(|| format!("{} cannot be read as text", path.display()))?;
    if text.len() > limit {
        bail!("{} has more than {limit} bytes, the limit for a vector file", path.display());
    }
    Ok(text)
}
