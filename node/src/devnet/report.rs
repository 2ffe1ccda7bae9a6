//! What a devnet run came to: one document for machines, one table for people.

use std::fmt;

use serde::Serialize;
use zgpu_core::digest::H256;

/// The result of `zgpu devnet`. Amounts of wei are decimal strings: they do not fit a JSON number.
#[derive(Clone, Debug, Serialize)]
pub struct DevnetReport {
    /// File that was stored, or the text "generated".
    pub file: String,
    /// Its length in bytes.
    pub file_bytes: u64,
    /// Its root.
    pub data_root: H256,
    /// Sectors in the flow that was mined.
    pub flow_length: u64,
    /// Identity that was mined for.
    pub miner_id: H256,
    /// Address that was paid.
    pub beneficiary: String,
    /// Backend of the device.
    pub backend: String,
    /// Name of the device.
    pub device: String,
    /// True when a CPU emulates the device.
    pub software_device: bool,
    /// Loads that were sealed and held.
    pub loads_held: u64,
    /// Loads in the mining range.
    pub loads_in_range: u64,
    /// Bytes that were sealed.
    pub sealed_bytes: u64,
    /// Nonces that were drawn.
    pub nonces: u64,
    /// Loads that were hashed: the nonces whose recall fell on a load that is held.
    pub loads_scanned: u64,
    /// Seconds of mining.
    pub mining_seconds: f64,
    /// Nonces a second of mining.
    pub nonces_per_second: f64,
    /// Winning seals found.
    pub hits: u64,
    /// Answers handed to the chain, simulated ones that it refused included.
    pub submitted: u64,
    /// Answers that the contracts accepted.
    pub accepted: u64,
    /// Answers that the contracts refused.
    pub rejected: u64,
    /// Answers dropped before sending because their context had passed.
    pub stale: u64,
    /// Reasons of refusals, each with its count.
    pub rejections: Vec<Rejection>,
    /// What the reward contract credited to the beneficiary, in wei; withdrawn at the end.
    pub reward_wei: String,
    /// Gas that the accepted answers used.
    pub gas_used: u64,
    /// Gas that one accepted answer used on average.
    pub gas_per_answer: u64,
    /// Seconds from start to end.
    pub total_seconds: f64,
    /// Hashes of the transactions that were accepted.
    pub transactions: Vec<String>,
}

/// A reason for which answers were refused.
#[derive(Clone, Debug, Serialize)]
pub struct Rejection {
    /// What the contract said.
    pub reason: String,
    /// How often.
    pub count: u64,
}

impl fmt::Display for DevnetReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rows = vec![
            ("file", format!("{} ({})", self.file, bytes(self.file_bytes))),
            ("file root", self.data_root.to_string()),
            ("flow", format!("{} sectors ({})", self.flow_length, bytes(self.flow_length.saturating_mul(256)))),
            ("miner id", self.miner_id.to_string()),
            (
                "device",
                format!("{}: {}{}", self.backend, self.device, if self.software_device { " (software)" } else { "" }),
            ),
            (
                "loads",
                format!(
                    "{} held of {} in range, {} sealed",
                    self.loads_held,
                    self.loads_in_range,
                    bytes(self.sealed_bytes)
                ),
            ),
            (
                "nonces",
                format!(
                    "{} in {:.1} s, {} of them on a held load",
                    self.nonces, self.mining_seconds, self.loads_scanned
                ),
            ),
            ("speed", format!("{} nonces/s", rate(self.nonces_per_second))),
            (
                "proofs",
                format!(
                    "{} accepted of {} submitted, {} rejected, {} stale",
                    self.accepted, self.submitted, self.rejected, self.stale
                ),
            ),
        ];
        rows.extend(
            self.rejections.iter().map(|rejection| ("", format!("{} x {}", rejection.count, rejection.reason))),
        );
        rows.extend([
            ("reward", format!("{} (withdrawn to {})", token(&self.reward_wei), self.beneficiary)),
            ("gas", format!("{} for each accepted proof", self.gas_per_answer)),
            ("time", format!("{:.1} s", self.total_seconds)),
        ]);
        let rule = "─".repeat(82);
        writeln!(f, "{rule}")?;
        for (name, value) in rows {
            writeln!(f, "  {name:<10}{value}")?;
        }
        write!(f, "{rule}")
    }
}

/// A number of bytes in the largest binary unit that leaves at least 1.
pub fn bytes(count: u64) -> String {
    let mut value = count as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return if unit == "B" { format!("{count} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

/// A rate with thousands, millions or billions named.
pub fn rate(per_second: f64) -> String {
    match per_second {
        value if value >= 1e9 => format!("{:.2} G", value / 1e9),
        value if value >= 1e6 => format!("{:.2} M", value / 1e6),
        value if value >= 1e3 => format!("{:.1} k", value / 1e3),
        value => format!("{value:.1}"),
    }
}

/// Wei as tokens of 18 decimals, cut after the sixth.
pub fn token(wei: &str) -> String {
    let padded = format!("{wei:0>19}");
    let (whole, fraction) = padded.split_at(padded.len() - 18);
    format!("{whole}.{} token", &fraction[..6])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        assert_eq!(bytes(5), "5 B");
        assert_eq!(bytes(3 << 20), "3.0 MiB");
        assert_eq!(bytes(8 << 30), "8.0 GiB");
        assert_eq!(bytes(u64::MAX), "16777216.0 TiB");
        assert_eq!(rate(2.5e6), "2.50 M");
        assert_eq!(token("1500000000000000000"), "1.500000 token");
        assert_eq!(token("7"), "0.000000 token");
        assert_eq!(token("12345000000000000000000"), "12345.000000 token");
    }
}
