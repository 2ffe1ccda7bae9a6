//! Benchmarks that print their limit and the ratio to it.

mod encode;
mod limit;
mod pora;
mod report;

pub use encode::EncodeBenchError;
pub use report::{Line, Report};
use zgpu_core::device::{BackendChoice, DeviceError};

/// The benchmarks there are.
pub const NAMES: [&str; 2] = ["pora", "encode"];

/// Why a benchmark did not run.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// There is no benchmark of that name.
    #[error("there is no benchmark {0:?}; there are: {list}", list = NAMES.join(", "))]
    UnknownName(String),
    /// The device cannot be used, or failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The encoder cannot be measured.
    #[error(transparent)]
    Encode(#[from] EncodeBenchError),
}

/// Runs the benchmark `name` (`None`: "pora") on the device that `choice` names: "pora" in less than half a minute, "encode"
/// with its parameters in a minute or two on two cores.
pub fn run(name: Option<&str>, choice: BackendChoice) -> Result<Report, BenchError> {
    match name.unwrap_or(NAMES[0]) {
        "pora" => Ok(pora::run(choice)?),
        "encode" => Ok(encode::run(choice, encode::SIZES)?),
        other => Err(BenchError::UnknownName(other.chars().take(40).collect())),
    }
}

/// Bytes that look like data that no compression helps.
fn noise(bytes: usize) -> Vec<u8> {
    let mut word = 1u64;
    let mut data = Vec::with_capacity(bytes);
    while data.len() < bytes {
        word = (word ^ word >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9).wrapping_add(0x9e37_79b9_7f4a_7c15);
        data.extend(word.to_le_bytes());
    }
    data.truncate(bytes);
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_names_list_what_exists() {
        let error = run(Some("prime numbers"), BackendChoice::Cpu).unwrap_err();
        assert_eq!(error.to_string(), "there is no benchmark \"prime numbers\"; there are: pora, encode");
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
        assert!(report.twin.len() == 3 && report.twin.iter().all(|line| line.rate > 0.0));
        let json: serde_json::Value = serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
        assert_eq!(json["name"], "pora");
        assert_eq!(json["lines"].as_array().unwrap().len(), report.lines.len());
        assert!(report.to_string().lines().count() > report.lines.len());
    }

    #[test]
    fn encoding_is_measured_stage_by_stage() {
        let report = encode::run(BackendChoice::Cpu, encode::Sizes { whole: (6, 5), twin: (4, 4) }).unwrap();
        for stage in ["open", "extend", "commit", "hash", "slices", "check", "blob"] {
            let line = report.lines.iter().find(|line| line.stage == stage).unwrap();
            assert!(line.rate > 0.0 && line.seconds.unwrap() > 0.0 && line.level == "2^6x2^5", "{line:?}");
        }
        let limited = |stage: &str| report.lines.iter().find(|line| line.stage == stage).unwrap().ratio.unwrap();
        assert!(["extend", "commit", "hash", "blob"].into_iter().all(|stage| limited(stage) < 1.3), "{report}");
        assert!(report.twin[0].speedup == Some(1.0) && report.lines.last().unwrap().speedup.unwrap() > 0.0);
        assert!(report.to_string().contains("2^4x2^4"));
    }
}
