//! `zgpu params`: parameters of the commitment scheme, made, converted, checked and shown.

use std::{
    fs::File,
    io::BufReader,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Mutex,
};

use anyhow::{Context, bail, ensure};
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use zgpu_core::blob::Dimensions;
use zgpu_encoder::params::{
    Contents, DEPLOYED_HIGH_START, Progress, ProverParams, VerifierParams, audit, ceremony, deployed,
    file::Header,
    network::{self, Format},
};

const AFTER_HELP: &str = "\
An encoder needs one file of parameters, made once. Ways to it, the usual one first:

  zgpu params import DIR -o params.zgpu        the network's files amt-prove-coset{0,1,2}-mont-*.bin, 2.4 GB
  zgpu params import power-tau-*.bin -o ...    the network's powers of tau, 134 MB
  zgpu params ceremony challenge_0084 -o ...   the ceremony itself: trust nobody else's conversion
  zgpu params insecure --tau HEX -o ...        for tests

Then `zgpu params check params.zgpu` says whether all points belong together, and `zgpu encoder --params params.zgpu` \
starts at once. Conversion takes minutes at full size, and 336 MB of disk.";

#[derive(Subcommand)]
#[command(after_help = AFTER_HELP)]
pub(super) enum ParamsCommand {
    /// Convert files of the network: three prover files, three verifier files, or one file of powers.
    Import(ImportArgs),
    /// Convert a challenge file of the Perpetual Powers of Tau ceremony.
    Ceremony(CeremonyArgs),
    /// Make parameters from a tau that is known: FOR TESTS ONLY.
    Insecure(InsecureArgs),
    /// Check a converted file: digest, every point, and by pairings that they belong together; exits 1 on a failure.
    Check {
        /// File to check.
        file: PathBuf,
        /// Print one JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Say what is in a file, of any of the known formats.
    Show {
        /// File to look at.
        file: PathBuf,
        /// Print one JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Say whether files are the ones that the network uses, by their SHA-256; exits 1 when one is not.
    VerifyFile {
        /// Files to digest.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
}

#[derive(Args)]
pub(super) struct ImportArgs {
    /// The files, or a folder with them. Cosets are known from the names amt-prove-coset{0,1,2}-*; three files with other
    /// names are taken in the order of the cosets.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// File to write.
    #[arg(short, long, value_name = "FILE")]
    out: PathBuf,
    /// log2 of the matrix's rows, for a file of powers: 10 in the network.
    #[arg(long, default_value_t = 10, value_name = "LG")]
    lg_rows: u32,
    /// Where the high powers begin, for the record: the files do not say it. 267386880 is filled in for files that the
    /// network uses.
    #[arg(long, value_name = "EXPONENT")]
    high_start: Option<u64>,
    /// Take the points as they are, without the checks by pairings.
    #[arg(long)]
    no_check: bool,
}

const CEREMONY_HELP: &str = "\
The ceremony's file challenge_0084 has 103 GB (n = 28), of which 270 MB are used: a sparse file with those ranges will do, \
and --ranges prints them. Interrupted with Ctrl-C, or by a crash, the work goes on where it stopped when the same command \
is given again: what is done lies in FILE.work.";

#[derive(Args)]
#[command(after_help = CEREMONY_HELP)]
pub(super) struct CeremonyArgs {
    /// The challenge file.
    #[arg(required_unless_present = "ranges")]
    challenge: Option<PathBuf>,
    /// File to write.
    #[arg(short, long, value_name = "FILE", required_unless_present = "ranges")]
    out: Option<PathBuf>,
    /// log2 of the matrix's rows.
    #[arg(long, default_value_t = 10, value_name = "LG")]
    lg_rows: u32,
    /// log2 of the matrix's columns.
    #[arg(long, default_value_t = 10, value_name = "LG")]
    lg_columns: u32,
    /// Print the ranges of bytes that are used of the challenge file with points up to 2^N, and nothing else.
    #[arg(long, value_name = "N")]
    ranges: Option<u32>,
}

#[derive(Args)]
pub(super) struct InsecureArgs {
    /// The secret: 64 hex digits, big-endian, below the group order. Whoever knows it can open a commitment to anything.
    #[arg(long, value_name = "HEX")]
    tau: String,
    /// File to write.
    #[arg(short, long, value_name = "FILE")]
    out: PathBuf,
    /// log2 of the matrix's rows.
    #[arg(long, default_value_t = 10, value_name = "LG")]
    lg_rows: u32,
    /// log2 of the matrix's columns.
    #[arg(long, default_value_t = 10, value_name = "LG")]
    lg_columns: u32,
    /// Where the high powers begin: 267386880 in the network, three times the scalars in its test set-up.
    #[arg(long, default_value_t = DEPLOYED_HIGH_START, value_name = "EXPONENT")]
    high_start: u64,
}

pub(super) fn run(command: ParamsCommand) -> anyhow::Result<ExitCode> {
    match command {
        ParamsCommand::Import(args) => import(args),
        ParamsCommand::Ceremony(args) => from_ceremony(args),
        ParamsCommand::Insecure(args) => insecure(args),
        ParamsCommand::Check { file, json } => check(&file, json),
        ParamsCommand::Show { file, json } => show(&file, json),
        ParamsCommand::VerifyFile { files } => verify_files(&files),
    }
}

/// A bar a stage on stderr, when that is a terminal.
#[derive(Default)]
struct Bars(Mutex<Option<(&'static str, ProgressBar)>>);

impl Bars {
    fn show(&self, progress: Progress) {
        let mut shown = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        match &*shown {
            // Reports come from many threads, in any order.
            Some((stage, bar)) if *stage == progress.stage => bar.set_position(bar.position().max(progress.done)),
            _ => {
                if let Some((_, bar)) = shown.take() {
                    bar.finish();
                }
                let template = "  {prefix:<28} [{bar:32}] {percent:>3} %, {elapsed} elapsed, {eta} left";
                let style = ProgressStyle::with_template(template).expect("the template is well-formed");
                let bar = ProgressBar::with_draw_target(Some(progress.total), ProgressDrawTarget::stderr());
                bar.set_style(style.progress_chars("█▌ "));
                bar.set_prefix(progress.stage);
                bar.set_position(progress.done);
                *shown = Some((progress.stage, bar));
            }
        }
    }

    /// Leaves the last bar as it is and begins anew, so that a stage may come again.
    fn end(&self) {
        let mut shown = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some((_, bar)) = shown.take() {
            bar.finish();
        }
    }
}

/// What is imported.
enum Source {
    Prover([PathBuf; 3]),
    Verifier([PathBuf; 3]),
    Powers(PathBuf, u32),
}

impl Source {
    fn files(&self) -> &[PathBuf] {
        match self {
            Source::Prover(set) | Source::Verifier(set) => set,
            Source::Powers(path, _) => std::slice::from_ref(path),
        }
    }

    /// From the arguments: a folder, one file of powers, or three files of cosets.
    fn find(paths: &[PathBuf]) -> anyhow::Result<Self> {
        let files = match paths {
            [folder] if folder.is_dir() => {
                let entries = folder.read_dir().with_context(|| format!("{} cannot be read", folder.display()))?;
                let mut files = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>()?;
                files.sort();
                let sets = network::prover_set(&files).map(Source::Prover);
                let sets =
                    sets.or_else(|reason| network::verifier_set(&files).map(Source::Verifier).map_err(|_| reason));
                return match (sets, files.iter().find(|file| is_powers(file))) {
                    (Ok(set), _) => Ok(set),
                    (Err(_), Some(powers)) => Self::find(std::slice::from_ref(powers)),
                    (Err(reason), None) => bail!("{}: {reason}, and no power-tau-*", folder.display()),
                };
            }
            files => files,
        };
        match files {
            [file] => match Format::detect(file)? {
                Format::Powers { lg_scalars, .. } => Ok(Source::Powers(file.clone(), lg_scalars)),
                format => {
                    bail!("{} is {}: expected three files of cosets, or one of powers", file.display(), format.name())
                }
            },
            [first, second, third] => {
                let in_order = || [first.clone(), second.clone(), third.clone()];
                match Format::detect(first)? {
                    Format::Prover { .. } => {
                        Ok(Source::Prover(network::prover_set(files).unwrap_or_else(|_| in_order())))
                    }
                    Format::Verifier { .. } => {
                        Ok(Source::Verifier(network::verifier_set(files).unwrap_or_else(|_| in_order())))
                    }
                    format => bail!("{} is {}: expected a coset's", first.display(), format.name()),
                }
            }
            files => bail!("{} files: expected three files of cosets, or one of powers", files.len()),
        }
    }
}

fn is_powers(file: &Path) -> bool {
    file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("power-tau-"))
}

fn import(args: ImportArgs) -> anyhow::Result<ExitCode> {
    refuse_existing(&args.out)?;
    let source = Source::find(&args.files)?;
    let bars = Bars::default();
    let report = |progress| bars.show(progress);
    let mut are_deployed = true;
    for file in source.files() {
        let digest = deployed::digest(file, &report)?;
        bars.end();
        let name = deployed::deployed_name(&digest);
        are_deployed &= name.is_some();
        let what =
            name.map_or_else(|| "not a file that the network uses".into(), |name| format!("the network's {name}"));
        eprintln!("- {}: {what}", file.display());
    }
    let high_start = args.high_start.or(are_deployed.then_some(DEPLOYED_HIGH_START));
    let params = match &source {
        Source::Prover(set) => network::import_prover(set, high_start, &report)?.verifier().clone(),
        Source::Verifier(set) => network::import_verifier(set, high_start, &report)?,
        Source::Powers(file, lg_scalars) => {
            let lg_columns = lg_scalars.checked_sub(args.lg_rows);
            let lg_columns = lg_columns.with_context(|| {
                format!(
                    "{} has 2^{lg_scalars} powers, fewer than 2^{} rows: see --lg-rows",
                    file.display(),
                    args.lg_rows
                )
            })?;
            let dimensions = Dimensions::new(args.lg_rows, lg_columns)?;
            network::import_powers(file, dimensions, high_start, &report)?.verifier().clone()
        }
    };
    bars.end();
    if !args.no_check {
        let findings = audit::audit(&params, &mut rand::rng(), &report);
        bars.end();
        if let Some(failure) = findings.iter().find(|finding| !finding.holds) {
            bail!("the points do not belong together: it does not hold that {}", failure.relation);
        }
    }
    params.save(&args.out)?;
    eprintln!("- {} is written", args.out.display());
    Ok(ExitCode::SUCCESS)
}

fn from_ceremony(args: CeremonyArgs) -> anyhow::Result<ExitCode> {
    let dimensions = Dimensions::new(args.lg_rows, args.lg_columns)?;
    if let Some(power) = args.ranges {
        let length = ceremony::challenge_bytes(power).with_context(|| format!("2^{power} powers are too many"))?;
        let ranges = ceremony::ranges(length, dimensions)?;
        let lines = ranges.map(|range| format!("{}-{}", range.start, range.end - 1));
        super::print(&format!("{}\nof {length} bytes; the last byte of each range is part of it", lines.join("\n")))?;
        return Ok(ExitCode::SUCCESS);
    }
    let (Some(challenge), Some(output)) = (args.challenge, args.out) else {
        bail!("a challenge file and --out are needed");
    };
    refuse_existing(&output)?;
    let file = File::open(&challenge).with_context(|| format!("{} cannot be opened", challenge.display()))?;
    let bars = Bars::default();
    ceremony::convert(BufReader::new(file), &challenge, dimensions, &output, &|progress| bars.show(progress))?;
    bars.end();
    eprintln!("- {} is written, and checked by pairings", output.display());
    Ok(ExitCode::SUCCESS)
}

fn insecure(args: InsecureArgs) -> anyhow::Result<ExitCode> {
    eprintln!(
        "WARNING: these parameters are for tests only. Whoever knows tau can prove anything about any blob: \
         never use them with data that matters."
    );
    refuse_existing(&args.out)?;
    let dimensions = Dimensions::new(args.lg_rows, args.lg_columns)?;
    let tau = zgpu_encoder::params::tau::from_hex(&args.tau)?;
    ProverParams::insecure_from_tau(dimensions, tau, args.high_start)?.save(&args.out)?;
    eprintln!("- {} is written", args.out.display());
    Ok(ExitCode::SUCCESS)
}

/// A file that is there took minutes to make, or is something else.
fn refuse_existing(output: &Path) -> anyhow::Result<()> {
    ensure!(!output.exists(), "{} is there already: remove it, or name another file", output.display());
    Ok(())
}

/// What `check` says.
#[derive(Serialize)]
struct CheckReport {
    file: String,
    passed: bool,
    checks: Vec<CheckLine>,
}

#[derive(Serialize)]
struct CheckLine {
    check: String,
    passed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

fn check(file: &Path, json: bool) -> anyhow::Result<ExitCode> {
    ensure!(
        Format::detect(file)? == Format::Own,
        "{} is not a converted file: `zgpu params import` converts and checks it",
        file.display()
    );
    let header = Header::read(file)?;
    let params = VerifierParams::open(file)?;
    let content = params.check_content(&header);
    let mut checks = vec![CheckLine {
        check: "the digest fits, and every point is canonical and on the curve".into(),
        passed: content.is_ok(),
        reason: content.as_ref().err().map(ToString::to_string),
    }];
    // Pairings of points that are none say nothing.
    if content.is_ok() {
        let bars = Bars::default();
        let findings = audit::audit(&params, &mut rand::rng(), &|progress| bars.show(progress));
        bars.end();
        checks.extend(findings.iter().map(|finding| CheckLine {
            check: finding.relation.to_string(),
            passed: finding.holds,
            reason: None,
        }));
    }
    let passed = checks.iter().all(|line| line.passed);
    let report = CheckReport { file: file.display().to_string(), passed, checks };
    if json {
        super::print_json(&report)?;
    } else {
        for line in &report.checks {
            let reason = line.reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
            super::print(&format!("{:<6} {}{reason}", if line.passed { "ok" } else { "FAILED" }, line.check))?;
        }
    }
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What `show` says.
#[derive(Serialize)]
struct ShowReport {
    file: String,
    format: &'static str,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    scalars: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rows: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    columns: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    contents: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    high_start: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_sha256: Option<String>,
}

fn show(file: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let format = Format::detect(file)?;
    let bytes = file.metadata().with_context(|| format!("{} cannot be read", file.display()))?.len();
    let header = if format == Format::Own { Some(Header::read(file)?) } else { None };
    let dimensions = match format {
        Format::Prover { dimensions, .. } | Format::Verifier { dimensions } => Some(dimensions),
        Format::Powers { .. } => None,
        Format::Own => header.as_ref().map(|header| header.dimensions),
    };
    let scalars = match format {
        Format::Powers { lg_scalars, .. } => Some(1 << lg_scalars),
        _ => dimensions.map(|dimensions| dimensions.scalars()),
    };
    let report = ShowReport {
        file: file.display().to_string(),
        format: format.name(),
        bytes,
        scalars,
        rows: dimensions.map(|dimensions| dimensions.rows()),
        columns: dimensions.map(|dimensions| dimensions.columns()),
        contents: header.as_ref().map(|header| match header.contents {
            Contents::Prover => "prover",
            Contents::Verifier => "verifier",
        }),
        high_start: header.as_ref().and_then(|header| header.high_start),
        content_sha256: header.as_ref().map(|header| hex(&header.content_digest)),
        source: header.map(|header| header.source),
    };
    if json {
        super::print_json(&report)?;
        return Ok(ExitCode::SUCCESS);
    }
    let document = serde_json::to_value(&report)?;
    for (key, value) in document.as_object().into_iter().flatten() {
        let text = value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
        super::print(&format!("{:<16} {text}", key.replace('_', " ")))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn verify_files(files: &[PathBuf]) -> anyhow::Result<ExitCode> {
    let bars = Bars::default();
    let mut all = true;
    for file in files {
        let digest = deployed::digest(file, &|progress| bars.show(progress))?;
        bars.end();
        let name = deployed::deployed_name(&digest);
        all &= name.is_some();
        let verdict =
            name.map_or_else(|| "NOT a file that the network uses".into(), |name| format!("the network's {name}"));
        super::print(&format!("{digest}  {}: {verdict}", file.display()))?;
    }
    Ok(if all { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
