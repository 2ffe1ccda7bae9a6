//! What a benchmark says, as data and as a table.

use std::fmt;

use serde::Serialize;
use zgpu_core::device::DeviceInfo;

/// The plain twin on one core: what the reference node's hashing does.
#[derive(Clone, Debug, Serialize)]
pub struct Twin {
    /// Draws a second.
    pub draws_per_second: f64,
    /// Loads scanned a second.
    pub loads_per_second: f64,
    /// Draw and scan a second.
    pub nonces_per_second: f64,
}

/// One measured stage.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// "draw", "scan", "nonce" (both, on resident loads) or "seal".
    pub stage: &'static str,
    /// Level of the device: an instruction set, a compute capability, a graphics API.
    pub level: String,
    /// How much of the device was used, such as "1 thread" or "2 lanes".
    pub workers: String,
    /// What was measured, in `unit`.
    pub rate: f64,
    /// Unit of `rate` and `limit`.
    pub unit: &'static str,
    /// The most that the model of the device allows, if there is one.
    pub limit: Option<f64>,
    /// `rate` / `limit`.
    pub ratio: Option<f64>,
    /// Rate, on a CPU that of one core, over the plain twin's on one core.
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
    /// The plain twin on one core.
    pub twin: Twin,
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

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} on {} ({}), {}", self.name, self.device.name, self.device.backend, self.device.driver)?;
        writeln!(f, "limit: {}", self.limit_rule)?;
        let header = ["stage", "level", "workers", "rate", "limit", "of limit", "x twin core"];
        let [stage, level, workers, rate, limit, ratio, speedup] = header;
        writeln!(f, "{stage:<6} {level:<9} {workers:<11} {rate:>19} {limit:>19} {ratio:>9} {speedup:>12}")?;
        for line in &self.lines {
            let rate = format!("{}{}", scaled(line.rate), line.unit);
            let limit = line.limit.map_or("-".into(), |limit| format!("{}{}", scaled(limit), line.unit));
            let ratio = line.ratio.map_or("-".into(), |ratio| format!("{:.1} %", 100.0 * ratio));
            let speedup = line.speedup.map_or("-".into(), |speedup| format!("{speedup:.2}"));
            let Line { stage, level, workers, .. } = line;
            writeln!(f, "{stage:<6} {level:<9} {workers:<11} {rate:>19} {limit:>19} {ratio:>9} {speedup:>12}")?;
        }
        let nonces = format!("{}nonces/s", scaled(self.twin.nonces_per_second));
        write!(f, "{:<6} {:<9} {:<11} {nonces:>19} {:>19} {:>9} {:>12}", "nonce", "twin", "1 thread", "-", "-", "1.00")
    }
}
