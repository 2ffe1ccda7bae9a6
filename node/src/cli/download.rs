//! `zgpu download`.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{ArgGroup, Args};
use zgpu_core::H256;

use super::client::{Bars, NodeArgs, dropped_lines};
use crate::client::download::{DownloadOptions, Downloaded, Wanted, download};

const AFTER_HELP: &str = "\
What has come so far is kept beside the target, as NAME.download; the same command goes on from there. A node that gives \
something wrong is named and left out. The whole file is checked against its root before it gets its name.";

#[derive(Args)]
#[command(after_help = AFTER_HELP, group(ArgGroup::new("which").required(true).args(["root", "tx_seq"])))]
pub(super) struct DownloadArgs {
    /// Root of the file: 64 hex digits.
    root: Option<H256>,
    /// Number of its transaction, in place of its root.
    #[arg(long, value_name = "N")]
    tx_seq: Option<u64>,
    /// Where to write it.
    #[arg(long, short, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    nodes: NodeArgs,
    /// Ask for segments without their proofs: less to transfer, and a lie is found out at the end only.
    #[arg(long)]
    no_proof: bool,
    /// Replace a file that exists.
    #[arg(long)]
    force: bool,
    /// Segments that are on their way at once, 256 KiB each.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=256))]
    parallel: u32,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: DownloadArgs) -> anyhow::Result<ExitCode> {
    let wanted = match (args.root, args.tx_seq) {
        (Some(root), _) => Wanted::Root(root),
        (None, Some(seq)) => Wanted::Seq(seq),
        (None, None) => anyhow::bail!("name the file by its root, or by --tx-seq"),
    };
    let options = DownloadOptions { proof: !args.no_proof, force: args.force, parallel: args.parallel as usize };
    let progress = Bars::default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let downloaded = runtime.block_on(async {
        let nodes = args.nodes.nodes(args.root.as_ref()).await?;
        download(&nodes, wanted, &args.out, &options, &progress).await
    });
    progress.clear();
    runtime.shutdown_timeout(Duration::from_secs(2));
    let downloaded = downloaded?;
    if args.json {
        super::print_json(&downloaded)?
    } else {
        super::print(&text(&downloaded))?
    }
    Ok(ExitCode::SUCCESS)
}

fn text(downloaded: &Downloaded) -> String {
    let Downloaded { path, root, size, tx_seq, resumed_bytes, nodes, dropped } = downloaded;
    let mut text =
        format!("file      {}\nroot      {root}\nsize      {size} bytes\nseq       {tx_seq}", path.display());
    if *resumed_bytes > 0 {
        text.push_str(&format!("\nresumed   from byte {resumed_bytes}"));
    }
    for (node, segments) in nodes {
        text.push_str(&format!("\nnode      {node}  {segments} segments"));
    }
    text + &dropped_lines(dropped)
}
