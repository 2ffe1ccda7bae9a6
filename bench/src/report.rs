//! What a benchmark says, as data and as a table.

use std::fmt;

use serde::Serialize;
use zgpu_core::device::DeviceInfo;

/// One measured stage.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// Mining: "draw", "scan", "nonce" (both, on resident loads) or "seal". Encoding: "open", "extend", "commit", "hash",
    /// "slices", "check" or "blob" (all of these but the first).
    pub stage: &'static str,
    /// Mining: an instruction set, a compute capability, a graphics API. Encoding: the size of the matrix.
    pub level: String,
    /// How much of the device was used, such as "1 thread" or "2 lanes".
    pub workers: String,
    /// What was measured, in `unit`.
    pub rate: f64,
    /// Unit of `rate` and `limit`.
    pub unit: &'static str,
    /// How long one blob takes.
    pub seconds: Option<f64>,
    /// The most that the model of the device allows, if there is one.
    pub limit: Option<f64>,
    /// `rate` / `limit`.
    pub ratio: Option<f64>,
    /// Rate over the plain twin's. Mining on a CPU: that of one core, over the twin's on one core.
    pub speedup: Option<f64>,
}

/// What a benchmark found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Name of the benchmark.
    pub name: &'static str,
    /// The device.
    pub device: DeviceInfo,
    /// Cores of the host.
    pub host_cores: usize,
    /// How the limits are computed.
    pub limit_rule: String,
    /// The plain twin: mining on one core, as the reference node hashes; encoding on all cores of the host.
    pub twin: Vec<Line>,
    /// The stages.
    pub lines: Vec<Line>,
}

fn scaled(rate: f64) -> String {
    match rate {
        rate if rate >= 1e6 => format!("{:.3} M", rate / 1e6),
        rate if rate >= 1e4 => format!("{:.2} k", rate / 1e3),
        rate => format!("{rate:.2} "),
    }
}

fn time(seconds: f64) -> String {
    if seconds >= 1.0 { format!("{seconds:.2} s") } else { format!("{:.2} ms", 1e3 * seconds) }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} on {} ({}), {}", self.name, self.device.name, self.device.backend, self.device.driver)?;
        writeln!(f, "limit: {}", self.limit_rule)?;
        let timed = self.lines.iter().any(|line| line.seconds.is_some());
        let row = |stage: &str, level: &str, workers: &str, rest: [String; 5]| {
            let [seconds, rate, limit, ratio, speedup] = rest;
            let seconds = if timed { format!(" {seconds:>11}") } else { String::new() };
            format!("{stage:<6} {level:<9} {workers:<11}{seconds} {rate:>19} {limit:>19} {ratio:>9} {speedup:>7}")
        };
        let header = ["time", "rate", "limit", "of limit", "x twin"].map(str::to_string);
        write!(f, "{}", row("stage", if timed { "matrix" } else { "level" }, "workers", header))?;
        let missing = || "-".to_string();
        for line in self.lines.iter().chain(&self.twin) {
            let rest = [
                line.seconds.map_or_else(missing, time),
                format!("{}{}", scaled(line.rate), line.unit),
                line.limit.map_or_else(missing, |limit| format!("{}{}", scaled(limit), line.unit)),
                line.ratio.map_or_else(missing, |ratio| format!("{:.1} %", 100.0 * ratio)),
                line.speedup.map_or_else(missing, |speedup| format!("{speedup:.2}")),
            ];
            write!(f, "\n{}", row(line.stage, &line.level, &line.workers, rest))?;
        }
        Ok(())
    }
}
