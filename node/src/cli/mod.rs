//! The command line. Results go to stdout, everything else to stderr; `--json` prints one document.

mod check;
mod client;
mod devices;
mod devnet;
mod doctor;
mod download;
mod encode;
mod encoder;
mod key;
mod node;
mod params;
mod recover;
mod slices;
mod upload;
mod verify;

use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use clap::{Parser, Subcommand};
use serde::Serialize;
use tracing_subscriber::EnvFilter;
use zgpu_bench::BenchError;
use zgpu_core::device::BackendChoice;

const LONG_ABOUT: &str = "\
Stores files, seals them and mines them with Proof of Random Access, and encodes blobs for 0G DA, on the best device there is.

Try it: `zgpu devnet` stores, mines and is paid on this machine, with a chain of its own. `zgpu encoder` serves dispersers.
What a machine can do: `zgpu devices`, then `zgpu bench`.

Results go to stdout, progress and logs to stderr. ZGPU_LOG=debug (or a tracing filter) shows more.";

#[derive(Parser)]
#[command(name = "zgpu", version, about = "GPU engine for mining and encoding on the 0G network", long_about = LONG_ABOUT)]
#[command(propagate_version = true, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Store a file, seal it, mine it and have its proofs paid, on a chain that lives as long as the command.
    Devnet(devnet::DevnetArgs),
    /// Run a storage node: follow the chain, keep files, serve clients and peers, seal and mine.
    Node(node::NodeArgs),
    /// Say in order what keeps a node from earning, and what to do about it.
    Doctor(doctor::DoctorArgs),
    /// Store a file on the network: submit it to the chain and hand its segments to storage nodes.
    Upload(upload::UploadArgs),
    /// Get a file from storage nodes, every segment checked against its root.
    Download(download::DownloadArgs),
    /// List every usable device, and for every other one the reason and the remedy.
    Devices {
        /// Print one JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Proof of Random Access.
    #[command(subcommand)]
    Pora(PoraCommand),
    /// Data availability: encoded blobs.
    #[command(subcommand)]
    Da(DaCommand),
    /// Serve dispersers: encode blobs that come in over gRPC, on every device.
    Encoder(encoder::EncoderArgs),
    /// Encode a file as a blob: its commitment, its roots and all its slices.
    Encode(encode::EncodeArgs),
    /// Verify slices, and name the wrong ones; exits 1 if there are any.
    Verify(verify::VerifyArgs),
    /// Get a file back from a third of its slices, any third.
    Recover(recover::RecoverArgs),
    /// Parameters of data availability: convert, make, check and show them.
    #[command(subcommand)]
    Params(params::ParamsCommand),
    /// Measure this machine; every line shows its limit and the ratio to it.
    Bench {
        /// Benchmark to run; all of them when left out.
        name: Option<String>,
        /// Device to measure: auto, cpu, cuda or wgpu.
        #[arg(long, default_value_t, value_name = "BACKEND")]
        backend: BackendChoice,
        /// Print one JSON document.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Subcommand)]
enum PoraCommand {
    /// Recompute every case of a vector file; exits 1 when one differs.
    Check(check::PoraArgs),
}

#[derive(Subcommand)]
enum DaCommand {
    /// Encode the blob of every vector file anew; exits 1 when one differs.
    Check(check::DaArgs),
}

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    // A node's log is set up by its configuration.
    let command = match cli.command {
        Command::Node(args) => return ended(node::run(args)),
        other => other,
    };
    // A service says a line for each blob.
    let default = if matches!(command, Command::Encoder(_)) { "warn,zgpu_node=info" } else { "warn" };
    let filter = EnvFilter::try_from_env("ZGPU_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_target(false)
        .with_ansi(io::stderr().is_terminal())
        .init();
    ended(match command {
        Command::Devnet(args) => devnet::run(args),
        Command::Node(args) => node::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Upload(args) => upload::run(args),
        Command::Download(args) => download::run(args),
        Command::Devices { json } => devices::run(json),
        Command::Pora(PoraCommand::Check(args)) => check::pora(args),
        Command::Da(DaCommand::Check(args)) => check::da(args),
        Command::Encoder(args) => encoder::run(args),
        Command::Encode(args) => encode::run(args),
        Command::Verify(args) => verify::run(args),
        Command::Recover(args) => recover::run(args),
        Command::Params(command) => params::run(command),
        Command::Bench { name, backend, json } => bench(name.as_deref(), backend, json),
    })
}

/// The exit code of a command; what went wrong is said.
fn ended(result: anyhow::Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn bench(name: Option<&str>, backend: BackendChoice, json: bool) -> anyhow::Result<ExitCode> {
    let report = zgpu_bench::run(name, backend).map_err(|error: BenchError| anyhow::anyhow!(error))?;
    if json {
        print_json(&report)?
    } else {
        print(&report.to_string())?
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes `text` and a line break to stdout. A reader that has gone away (`| head`) is no error.
fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Writes one JSON document to stdout.
fn print_json(document: &impl Serialize) -> anyhow::Result<()> {
    Ok(print(&serde_json::to_string_pretty(document)?)?)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn arguments_are_consistent() {
        super::Cli::command().debug_assert();
    }
}
