//! `zgpu upload`.

use std::process::ExitCode;

use clap::Args;

#[derive(Args)]
pub(super) struct UploadArgs {}

pub(super) fn run(_args: UploadArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not in this build")
}
