//! `zgpu doctor`.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;

use crate::{
    client::doctor::{DoctorOptions, examine},
    config::Sources,
};

const AFTER_HELP: &str = "\
Works while the node runs and while it does not, and changes nothing. The configuration is the one of `zgpu node`: the \
file, the network, the environment (ZGPU_NODE__KEY, ZGPU_MINER_KEY). Exits with 1 when something fails.";

#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct DoctorArgs {
    /// The node's configuration. Without one, the network's settings and the defaults count.
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Network: mainnet, testnet, mainnet-standard, testnet-standard, or custom for one that is set up by hand.
    #[arg(long, value_name = "NAME")]
    network: Option<String>,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: DoctorArgs) -> anyhow::Result<ExitCode> {
    let environment =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let flag = |network: String| ("--network".to_owned(), "network".to_owned(), network);
    let sources = Sources {
        file: args.config,
        environment: environment.collect(),
        flags: args.network.into_iter().map(flag).collect(),
        allow_unknown: false,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = runtime.block_on(examine(&sources, &DoctorOptions::default()));
    if args.json {
        super::print_json(&report)?
    } else {
        super::print(&report.to_string())?
    }
    Ok(if report.is_fine() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
