//! `zgpu doctor`.

use std::process::ExitCode;

use clap::Args;

#[derive(Args)]
pub(super) struct DoctorArgs {}

pub(super) fn run(_args: DoctorArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not in this build")
}
