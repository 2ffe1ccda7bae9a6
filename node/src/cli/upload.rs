//! `zgpu upload`.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use alloy::primitives::Address;
use anyhow::{Context, ensure};
use clap::Args;

use super::{
    client::{Bars, NodeArgs, dropped_lines},
    key::KeyArgs,
};
use crate::{
    chain::{
        keys::Key,
        rpc::RpcOptions,
        tx::{TxManager, TxPolicy},
    },
    client::{
        network::{connect, identify},
        node::StorageNode,
        upload::{Payer, SourceFile, UploadOptions, Uploaded, upload},
    },
};

const KEY_VARIABLE: &str = "ZGPU_KEY";

const AFTER_HELP: &str = "\
The key of the account that pays comes from --key-file, --keystore, or the environment variable ZGPU_KEY (64 hex digits). \
The fee is what the market contract asks for, never more. A file that was submitted before is not paid for again: only \
what nodes miss of it is handed in. An upload that was interrupted goes on when the same command is run again.

The flow contract and the chain follow from --network, or from what the nodes say.";

#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct UploadArgs {
    /// File to store.
    file: PathBuf,
    #[command(flatten)]
    nodes: NodeArgs,
    /// The chain's JSON-RPC endpoint, over HTTP or WebSocket; may be given several times.
    #[arg(long, value_name = "URL")]
    rpc: Vec<String>,
    /// Address of the flow contract.
    #[arg(long, value_name = "ADDRESS")]
    flow: Option<Address>,
    #[command(flatten)]
    key: KeyArgs,
    /// Send no transaction: the file must have been submitted before.
    #[arg(long)]
    skip_tx: bool,
    /// Nodes that each part of the file goes to.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    replicas: u32,
    /// Requests to nodes at once, 2.5 MiB of data each.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=64))]
    tasks: u32,
    /// Whether to wait until the nodes have completed the file.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    finality: bool,
    /// Longest wait for each thing that is waited for, in seconds: that nodes see the transaction, that they complete the
    /// file, that earlier transactions of the account are mined.
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    wait: u64,
    /// Most wei per gas to pay.
    #[arg(long, value_name = "WEI", default_value_t = TxPolicy::default().max_fee_per_gas)]
    max_gas_price: u128,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: UploadArgs) -> anyhow::Result<ExitCode> {
    // What a person may have got wrong is looked at before anything long is begun.
    let key = match args.key.source(KEY_VARIABLE).filter(|_| !args.skip_tx) {
        Some(source) => Some(Key::load(&source)?),
        None => None,
    };
    let known = args.nodes.network.as_ref();
    let endpoints = if args.rpc.is_empty() { known.map_or(&[][..], |network| &network.endpoints) } else { &args.rpc };
    ensure!(
        key.is_none() || !endpoints.is_empty(),
        "give the chain's endpoint with --rpc URL, or --network, or --skip-tx"
    );
    let progress = Bars::default();
    let file = SourceFile::open(&args.file, &progress)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let uploaded = runtime.block_on(async {
        let nodes = args.nodes.nodes(None).await?;
        let payer = match key {
            Some(key) => Some(payer(&args, key, endpoints, &nodes).await?),
            None => None,
        };
        let wait = Duration::from_secs(args.wait);
        let options = UploadOptions {
            replicas: args.replicas as usize,
            tasks: args.tasks as usize,
            seen_within: wait,
            finalised_within: args.finality.then_some(wait),
            pending_within: wait,
            ..UploadOptions::default()
        };
        anyhow::Ok(upload(&nodes, payer.as_ref(), &file, &options, &progress).await?)
    });
    progress.clear();
    runtime.shutdown_timeout(Duration::from_secs(2));
    let uploaded = uploaded?;
    if args.json {
        super::print_json(&uploaded)?
    } else {
        super::print(&text(&uploaded))?
    }
    Ok(ExitCode::SUCCESS)
}

/// The account that pays, on the chain of the flow contract that is given, or that the nodes name.
async fn payer(args: &UploadArgs, key: Key, endpoints: &[String], nodes: &[StorageNode]) -> anyhow::Result<Payer> {
    let known = args.nodes.network.as_ref();
    let (flow, chain_id) = match args.flow.or(known.map(|network| network.flow)) {
        Some(flow) => (flow, known.map(|network| network.chain_id)),
        None => {
            let identity = identify(nodes).await.context("the flow contract is not known; name it with --flow")?;
            (identity.flow, Some(identity.chain_id))
        }
    };
    let chain = connect(endpoints, RpcOptions::default(), chain_id, flow).await?;
    let policy = TxPolicy { max_fee_per_gas: args.max_gas_price, ..TxPolicy::default() };
    let account = TxManager::new(chain.rpc().clone(), chain.chain_id(), key, policy);
    Ok(Payer { chain, account })
}

fn text(uploaded: &Uploaded) -> String {
    let paid = match &uploaded.paid {
        Some(paid) => format!("{} wei, and {} wei for gas; transaction {}", paid.fee_wei, paid.gas_wei, paid.tx_hash),
        None => "nothing: it was submitted before".to_owned(),
    };
    let state = match uploaded.finalised {
        Some(true) => "complete",
        _ => "handed in",
    };
    let mut text = format!(
        "root      {}\nsize      {} bytes\nseq       {}\npaid      {paid}\nstate     {state}",
        uploaded.root, uploaded.size, uploaded.tx_seq
    );
    for share in &uploaded.nodes {
        let line = format!(
            "\nnode      {}  shard {}, {} segments sent, {} there",
            share.node, share.shard, share.sent, share.had
        );
        text.push_str(&line);
    }
    text + &dropped_lines(&uploaded.dropped)
}
