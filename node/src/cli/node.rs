//! `zgpu node`.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, bail};
use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    config::{Config, KEY_REMEDY, Sources},
    node::{Addresses, Ended, Node, logging},
};

const AFTER_HELP: &str = "\
A configuration is TOML with the keys of the network's own node, so its files work, and a few more; `zgpu node \
--print-config` prints all of them, with what they mean, their defaults and where each value comes from. Values come \
from, each before the one behind it: the command line, the environment (ZGPU_NODE__KEY, ZGPU_NODE__SECTION__KEY), the \
file, the network, the defaults.

A first node:   zgpu node --network testnet
With a file:    zgpu node --config zgpu.toml
One that mines: ZGPU_MINER_KEY=… zgpu node --network mainnet, or name a key file with miner_key_file, or a keystore with \
miner_keystore. The key is never taken from the command line.

http://127.0.0.1:5680 has /status (JSON: what every part is doing, and the first thing that keeps the node from earning), \
/metrics (Prometheus) and /health. Ctrl-C and SIGTERM end the node in order, within seconds, with exit code 0; a second \
signal ends it at once.";

/// Exit code after a second signal: as a shell shows a process that ctrl-c has ended.
const CUT_OFF: i32 = 130;

#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct NodeArgs {
    /// The configuration. Without one, the network's settings and the defaults count.
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Network: mainnet, testnet, mainnet-standard, testnet-standard, or custom for one that is set up by hand.
    #[arg(long, value_name = "NAME")]
    network: Option<String>,
    /// Endpoint of the chain.
    #[arg(long, value_name = "URL")]
    blockchain_rpc_endpoint: Option<String>,
    /// Most sectors of 256 bytes to keep.
    #[arg(long, alias = "db-max-num-chunks", value_name = "N")]
    db_max_num_sectors: Option<u64>,
    /// IP address at which others reach this node.
    #[arg(long, value_name = "IP")]
    network_enr_address: Option<IpAddr>,
    /// File with a filter for the log, such as info,zgpu_node=debug.
    #[arg(long, value_name = "FILE")]
    log_config_file: Option<PathBuf>,
    /// Form of log lines: text or json.
    #[arg(long, value_name = "FORM")]
    log_format: Option<String>,
    /// Sets any other key, such as --set rpc.listen_address=127.0.0.1:5678.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Ignores keys that do not exist instead of refusing them.
    #[arg(long)]
    allow_unknown: bool,
    /// Print the whole configuration as it counts, and do nothing else.
    #[arg(long)]
    print_config: bool,
    /// Taken only to say what to do instead.
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "", value_name = "KEY")]
    miner_key: Option<String>,
}

impl NodeArgs {
    fn sources(&self) -> anyhow::Result<Sources> {
        let mut flags = Vec::new();
        let mut flag = |name: &str, key: &str, value: Option<String>| {
            flags.extend(value.map(|value| (name.to_owned(), key.to_owned(), value)));
        };
        let path = |path: &PathBuf| path.to_str().map(str::to_owned).context("a path on the command line is no text");
        flag("--network", "network", self.network.clone());
        flag("--blockchain-rpc-endpoint", "blockchain_rpc_endpoint", self.blockchain_rpc_endpoint.clone());
        flag("--db-max-num-sectors", "db_max_num_sectors", self.db_max_num_sectors.map(|number| number.to_string()));
        flag("--network-enr-address", "network_enr_address", self.network_enr_address.map(|ip| ip.to_string()));
        flag("--log-config-file", "log_config_file", self.log_config_file.as_ref().map(path).transpose()?);
        flag("--log-format", "log_format", self.log_format.clone());
        for (index, set) in self.set.iter().enumerate() {
            // The text is not repeated: it may hold a secret.
            let Some((key, value)) = set.split_once('=') else {
                bail!("--set number {} is not of the form KEY=VALUE, such as rpc.enabled=false", index + 1);
            };
            flag(&format!("--set {key}"), key.trim(), Some(value.to_owned()));
        }
        let environment = std::env::vars_os();
        let environment =
            environment.filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Ok(Sources {
            file: self.config.clone(),
            environment: environment.collect(),
            flags,
            allow_unknown: self.allow_unknown,
        })
    }
}

pub(super) fn run(args: NodeArgs) -> anyhow::Result<ExitCode> {
    if args.miner_key.is_some() {
        bail!("--miner-key is not taken: a key on the command line stands {KEY_REMEDY}");
    }
    let config = Config::load(&args.sources()?)?;
    if args.print_config {
        super::print(config.print().trim_end())?;
        return Ok(ExitCode::SUCCESS);
    }
    let filter = logging::start(&config.log);
    for notice in config.notices() {
        tracing::warn!("{notice}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ran = runtime.block_on(async {
        if let Some(filter) = filter {
            tokio::spawn(filter.follow());
        }
        serve(config).await
    });
    // Work on a blocking thread is told to stop; what does not within seconds is not waited for.
    runtime.shutdown_timeout(Duration::from_secs(2));
    ran.map(|()| ExitCode::SUCCESS)
}

/// Runs a node until somebody stops it.
async fn serve(config: Config) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    let network = config.network.clone();
    let node = tokio::select! {
        node = Node::start(config) => node?,
        name = signals.next() => {
            tracing::info!("{name}: the node had not started yet");
            return Ok(());
        }
    };
    tracing::info!("node of network {network}: {}", places(node.addresses()));
    let ended = tokio::select! {
        ended = node.ended() => ended,
        name = signals.next() => Ended::Wanted(name),
    };
    if let Ended::Wanted(by) = ended {
        tracing::info!("{by}: the node ends; again to end it at once");
    }
    tokio::select! {
        () = node.stop() => {}
        name = signals.next() => {
            tracing::warn!("{name}: cut off");
            std::process::exit(CUT_OFF);
        }
    }
    match ended {
        Ended::Wanted(_) => {
            tracing::info!("the node has ended");
            Ok(())
        }
        Ended::Failed { part, reason } => bail!("{part}: {reason}"),
    }
}

/// Where the node can be reached, in words.
fn places(addresses: &Addresses) -> String {
    let Addresses { rpc, admin, grpc, status, peers } = addresses;
    let place = |what, address: &Option<_>| address.map(|address: SocketAddr| format!("{what} at http://{address}"));
    let places = [place("clients", rpc), place("operator", admin), place("uploads", grpc), place("status", status)];
    let peers = peers.as_ref().map(|address| format!("peers at {address}"));
    places.into_iter().chain([peers]).flatten().collect::<Vec<String>>().join(", ")
}

/// What ends the node from outside.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("signals cannot be listened to");
        Ok(Signals { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "ctrl-c",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}
