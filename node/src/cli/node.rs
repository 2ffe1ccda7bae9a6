//! `zgpu node`.

use std::process::ExitCode;

use clap::Args;

#[derive(Args)]
pub(super) struct NodeArgs {}

pub(super) fn run(_args: NodeArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not in this build")
}
