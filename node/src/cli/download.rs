//! `zgpu download`.

use std::process::ExitCode;

use clap::Args;

#[derive(Args)]
pub(super) struct DownloadArgs {}

pub(super) fn run(_args: DownloadArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not in this build")
}
