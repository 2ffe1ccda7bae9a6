//! What `zgpu upload` and `zgpu download` have in common: which nodes they use, and what a person sees meanwhile.

use std::{
    io::{IsTerminal, stderr},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use zgpu_core::H256;

use crate::client::{
    Progress,
    error::ClientError,
    indexer::Indexer,
    network::Network,
    node::{NodeOptions, StorageNode},
};

/// The arguments that name nodes.
#[derive(Args)]
pub(super) struct NodeArgs {
    /// Storage node to use, such as http://127.0.0.1:5678; may be given several times.
    #[arg(long = "node", value_name = "URL", conflicts_with = "indexer")]
    nodes: Vec<String>,
    /// Indexer that knows storage nodes.
    #[arg(long, value_name = "URL")]
    indexer: Option<String>,
    /// Network whose addresses are taken where none are given: mainnet, testnet, or either with -standard.
    #[arg(long, value_name = "NAME")]
    pub(super) network: Option<Network>,
    /// Longest time for one request to a node, in seconds.
    #[arg(long, default_value_t = 120, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
}

impl NodeArgs {
    /// The nodes to use. An indexer is asked for those that have the file with root `holding`, if one is wanted; where it
    /// knows none, for all.
    pub(super) async fn nodes(&self, holding: Option<&H256>) -> Result<Vec<StorageNode>, ClientError> {
        let options = NodeOptions { timeout: Duration::from_secs(self.timeout), ..NodeOptions::default() };
        let indexer = self.indexer.as_deref().or(self.network.as_ref().and_then(|network| network.indexer));
        let indexer = match indexer.filter(|_| self.nodes.is_empty()) {
            Some(url) => Indexer::new(url, options)?,
            None => {
                let nodes = self.nodes.iter().map(|url| StorageNode::new(url, options.clone()));
                return Ok(nodes.collect::<Result<_, _>>()?);
            }
        };
        if let Some(root) = holding {
            let nodes = indexer.locations(root).await?;
            if !nodes.is_empty() {
                return Ok(nodes);
            }
        }
        Ok(indexer.nodes().await?)
    }
}

/// A bar for each part of the work on a terminal, and lines, both on stderr.
#[derive(Default)]
pub(super) struct Bars(Mutex<Option<ProgressBar>>);

impl Bars {
    fn bar(&self) -> MutexGuard<'_, Option<ProgressBar>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the bar away.
    pub(super) fn clear(&self) {
        if let Some(bar) = self.bar().take() {
            bar.finish_and_clear();
        }
    }
}

impl Progress for Bars {
    fn begin(&self, what: &'static str, bytes: u64) {
        self.clear();
        let target = if stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let style = "  {prefix:<11} [{bar:32}] {bytes} of {total_bytes} ({bytes_per_sec}, {eta} left)";
        let style = ProgressStyle::with_template(style).expect("the template is well-formed").progress_chars("█▌ ");
        let bar = ProgressBar::with_draw_target(Some(bytes), target).with_style(style).with_prefix(what);
        *self.bar() = Some(bar);
    }

    fn advance(&self, bytes: u64) {
        if let Some(bar) = &*self.bar() {
            bar.inc(bytes);
        }
    }

    fn note(&self, text: &str) {
        match &*self.bar() {
            Some(bar) => bar.suspend(|| eprintln!("- {text}")),
            None => eprintln!("- {text}"),
        }
    }
}

/// The nodes that were left out, a line each.
pub(super) fn dropped_lines(dropped: &[crate::client::error::Dropped]) -> String {
    dropped.iter().map(|dropped| format!("\nleft out  {dropped}")).collect()
}
