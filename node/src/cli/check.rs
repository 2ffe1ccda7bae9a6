//! `zgpu pora check`.

use std::{fs::File, io::Read, path::PathBuf, process::ExitCode};

use anyhow::{Context, bail};
use clap::Args;
use zgpu_miner::{BackendChoice, check::MAX_FILE_BYTES, check_vectors};

#[derive(Args)]
pub(super) struct CheckArgs {
    /// Vector file to check.
    #[arg(long, value_name = "FILE")]
    vectors: PathBuf,
    /// Device to check: auto, cpu, cuda or wgpu.
    #[arg(long, default_value_t, value_name = "BACKEND")]
    backend: BackendChoice,
}

pub(super) fn run(args: CheckArgs) -> anyhow::Result<ExitCode> {
    let text = read_bounded(&args.vectors)?;
    let mut engine = zgpu_miner::open(args.backend)?;
    let device = engine.info();
    eprintln!("checking {} on {}:{} {}", args.vectors.display(), device.backend, device.index, device.name);
    let mut printed = Ok(());
    let summary = check_vectors(&text, engine.as_mut(), &mut |case| {
        if printed.is_ok() {
            printed = super::print(&case.to_string());
        }
    })
    .with_context(|| format!("{} cannot be checked", args.vectors.display()))?;
    printed?;
    super::print(&summary.to_string())?;
    Ok(if summary.failed == 0 && summary.passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The file's text, if it is no longer than a vector file may be.
fn read_bounded(path: &PathBuf) -> anyhow::Result<String> {
    let file = File::open(path).with_context(|| format!("{} cannot be opened", path.display()))?;
    let mut text = String::new();
    file.take(MAX_FILE_BYTES as u64 + 1)
        .read_to_string(&mut text)
        .with_context(|| format!("{} cannot be read as text", path.display()))?;
    if text.len() > MAX_FILE_BYTES {
        bail!("{} has more than {MAX_FILE_BYTES} bytes, the limit for a vector file", path.display());
    }
    Ok(text)
}
