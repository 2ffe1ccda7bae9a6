//! Benchmarks that print their limit and the ratio to it.

mod limit;
mod pora;
mod report;

pub use report::{Line, Report, Twin};
use zgpu_core::device::DeviceError;
use zgpu_miner::BackendChoice;

/// The benchmarks there are.
pub const NAMES: [&str; 1] = ["pora"];

/// Why a benchmark did not run.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// There is no benchmark of that name.
    #[error("there is no benchmark {0:?}; there are: {list}", list = NAMES.join(", "))]
    UnknownName(String),
    /// The device cannot be used, or failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// Runs the benchmark `name` (`None`: "pora") on the device that `choice` names, in less than half a minute.
pub fn run(name: Option<&str>, choice: BackendChoice) -> Result<Report, BenchError> {
    match name.unwrap_or(NAMES[0]) {
        "pora" => Ok(pora::run(choice)?),
        other => Err(BenchError::UnknownName(other.chars().take(40).collect())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_names_list_what_exists() {
        let error = run(Some("prime numbers"), BackendChoice::Cpu).unwrap_err();
        assert_eq!(error.to_string(), "there is no benchmark \"prime numbers\"; there are: pora");
    }

    #[test]
    fn a_report_has_every_stage_its_limit_and_the_twin() {
        let report = run(None, BackendChoice::Cpu).unwrap();
        for stage in ["draw", "scan", "nonce", "seal"] {
            assert!(report.lines.iter().any(|line| line.stage == stage && line.workers == "1 thread"), "{stage}");
        }
        // No rate can be far above its limit: clocks differ a little between the two measurements.
        for line in &report.lines {
            assert!(line.rate > 0.0 && line.ratio.unwrap() < 1.3, "{line:?}");
        }
        assert!(report.twin.nonces_per_second > 0.0);
        let json: serde_json::Value = serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
        assert_eq!(json["name"], "pora");
        assert_eq!(json["lines"].as_array().unwrap().len(), report.lines.len());
        assert!(report.to_string().lines().count() > report.lines.len());
    }
}
