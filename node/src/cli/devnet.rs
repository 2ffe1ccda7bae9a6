//! `zgpu devnet`.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use clap::Args;
use zgpu_core::device::BackendChoice;

use super::key::KeyArgs;
use crate::devnet::{self, DevnetOptions};

const MINER_KEY_VARIABLE: &str = "ZGPU_MINER_KEY";

const AFTER_HELP: &str = "\
The command starts anvil (a real EVM), deploys the contracts, uploads the file, completes its 8 GiB pricing chunk \
with zeros, seals what was uploaded, mines it, submits the proofs and withdraws the reward. It exits with 0 only when \
the wanted number of proofs was accepted.

The miner's key comes from --key-file, --keystore, or the environment variable ZGPU_MINER_KEY (64 hex digits); without \
any of them a key is made for the run. The devnet funds its account.";

#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct DevnetArgs {
    /// File to store and mine; a few MiB are generated when left out.
    #[arg(long, value_name = "PATH")]
    file: Option<PathBuf>,
    /// Proofs that have to be accepted.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    proofs: u32,
    /// Device to mine on: auto, cpu, cuda or wgpu.
    #[arg(long, default_value_t, value_name = "BACKEND")]
    backend: BackendChoice,
    /// Print one JSON document instead of a table.
    #[arg(long)]
    json: bool,
    /// Folder for the store, kept afterwards; a temporary one is used and removed when left out.
    #[arg(long, value_name = "PATH")]
    dir: Option<PathBuf>,
    /// Port of the chain's RPC; a free one is taken when left out.
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Address for the network's clients, such as 127.0.0.1:5678: opened when the proofs are paid, until ctrl-c.
    #[arg(long, value_name = "ADDRESS")]
    rpc: Option<SocketAddr>,
    /// Time between blocks, in milliseconds.
    #[arg(long, default_value_t = 250, value_name = "MS", value_parser = clap::value_parser!(u64).range(50..=60_000))]
    block_time: u64,
    /// Give up after this many seconds.
    #[arg(long, default_value_t = 900, value_name = "SECONDS")]
    timeout: u64,
    #[command(flatten)]
    key: KeyArgs,
}

pub(super) fn run(args: DevnetArgs) -> anyhow::Result<ExitCode> {
    let options = DevnetOptions {
        miner_key: args.key.source(MINER_KEY_VARIABLE),
        file: args.file,
        proofs: args.proofs,
        backend: args.backend,
        dir: args.dir,
        port: args.port,
        block_time: Duration::from_millis(args.block_time),
        timeout: Duration::from_secs(args.timeout),
        rpc: args.rpc,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = runtime.block_on(devnet::run(options));
    // Work on a blocking thread is told to stop; what does not within seconds is not waited for.
    runtime.shutdown_timeout(Duration::from_secs(2));
    let report = report?;
    if args.json {
        super::print_json(&report)?
    } else {
        super::print(&report.to_string())?
    }
    Ok(ExitCode::SUCCESS)
}
