//! `zgpu encode`: the slices of a file.

use std::{
    fs::{self, File},
    io::{Read, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context, bail};
use clap::Args;
use serde::Serialize;
use zgpu_core::{blob::Dimensions, device::BackendChoice};
use zgpu_encoder::{
    engine::{Encoded, EngineOptions, open},
    params,
};

use super::slices::{ALL_SLICES, BLOB_FILE, BlobFile, bar, slice_file, spinner};

const AFTER_HELP: &str = "\
The folder gets blob.json (commitment, roots, sizes) and slices.bin (all slices, one behind the other), or with --split \
one file for each slice, slice-00000.bin and on. Files that are there already are not touched.";

#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct EncodeArgs {
    /// File with the data: at most 32,505,852 bytes with the network's parameters.
    file: PathBuf,
    /// The parameters: a file that `zgpu params` made, or a folder with it or with the network's prover files.
    #[arg(long, value_name = "PATH")]
    params: PathBuf,
    /// Folder for the blob; made if it is not there.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Write a file for each slice.
    #[arg(long)]
    split: bool,
    /// Device to encode on: auto, cpu, cuda or wgpu.
    #[arg(long, default_value_t, value_name = "BACKEND")]
    backend: BackendChoice,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    blob: &'a BlobFile,
    device: &'a str,
    milliseconds: f64,
}

pub(super) fn run(args: EncodeArgs) -> anyhow::Result<ExitCode> {
    let loading = spinner("reading the parameters");
    let params = Arc::new(params::load_dir(&args.params)?);
    loading.finish_and_clear();
    let dimensions = params.dimensions();
    let data = read_data(&args.file, dimensions.max_data_bytes())?;
    fs::create_dir_all(&args.out).with_context(|| format!("{} cannot be made", args.out.display()))?;
    refuse_existing(&args.out.join(BLOB_FILE))?;

    let encoding = spinner("encoding");
    let mut engines = open(args.backend, &params, EngineOptions::default())?;
    let engine = engines.first_mut().context("the device has no engine")?;
    let mut slices = Vec::new();
    let Encoded { roots, times } = engine.encode(&data, &mut slices)?;
    encoding.finish_and_clear();

    write_slices(&args.out, dimensions, &slices, args.split)?;
    // Last: a folder with blob.json is complete.
    let blob = BlobFile::new(dimensions, data.len(), &roots);
    write_new(&args.out.join(BLOB_FILE), format!("{}\n", serde_json::to_string_pretty(&blob)?).as_bytes())?;

    let milliseconds = times.total().as_secs_f64() * 1e3;
    if args.json {
        super::print_json(&Report { blob: &blob, device: &engine.info().name, milliseconds })?;
    } else {
        let (count, folder) = (blob.slices, args.out.display());
        let device = &engine.info().name;
        super::print(&format!(
            "commitment    {}\nstorage root  {}\n{count} slices of {} bytes of data in {folder}, {milliseconds:.1} ms on {device}",
            hex::encode(roots.commitment),
            hex::encode(roots.storage_root),
            blob.data_bytes,
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The file's bytes, at most `maximum`.
fn read_data(path: &Path, maximum: usize) -> anyhow::Result<Vec<u8>> {
    let file = File::open(path).with_context(|| format!("{} cannot be opened", path.display()))?;
    let length = file.metadata().with_context(|| format!("{} cannot be read", path.display()))?.len();
    if length > maximum as u64 {
        bail!("{} has {length} bytes, at most {maximum} fit into a blob", path.display());
    }
    let mut data = Vec::with_capacity(length as usize);
    file.take(maximum as u64 + 1)
        .read_to_end(&mut data)
        .with_context(|| format!("{} cannot be read", path.display()))?;
    if data.len() > maximum {
        bail!("{} has more than {maximum} bytes, which is all that fits into a blob", path.display());
    }
    Ok(data)
}

fn write_slices(folder: &Path, dimensions: Dimensions, slices: &[u8], split: bool) -> anyhow::Result<()> {
    if !split {
        return write_new(&folder.join(ALL_SLICES), slices);
    }
    let bar = bar("slices", dimensions.slices());
    for (index, slice) in slices.chunks_exact(dimensions.slice_bytes()).enumerate() {
        write_new(&folder.join(slice_file(index)), slice)?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(())
}

fn refuse_existing(path: &Path) -> anyhow::Result<()> {
    match path.try_exists() {
        Ok(true) => bail!("{} is there already; choose another folder", path.display()),
        Ok(false) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("{} cannot be read", path.display())),
    }
}

fn write_new(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let written = File::create_new(path).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written.with_context(|| format!("{} cannot be written", path.display()))
}
