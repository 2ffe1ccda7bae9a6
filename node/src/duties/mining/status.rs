//! What mining tells about itself.

use std::{
    collections::VecDeque,
    fmt,
    time::{Duration, Instant},
};

use alloy::primitives::{Address, U256};
use serde::Serialize;
use zgpu_core::{H256, shard::Shard};
use zgpu_miner::engine::MineCounts;

use crate::chain::submit::{SubmitCounters, decimal};

/// What mining is doing, in words for a person by `Display`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum MiningPhase {
    /// Nothing, and the first thing that is in the way.
    Waiting {
        /// What it waits for.
        reason: String,
    },
    /// The device seals, or waits for data to seal.
    Sealing {
        /// Loads that are known to be left; see [`MiningStatus::seals_left_is_least`].
        loads_left: u64,
    },
    /// The device mines; it seals now and then if there is something to seal.
    Mining {
        /// The epoch.
        epoch: u64,
    },
    /// The operator stopped mining. Sealing goes on.
    Stopped,
    /// A person has to change something. It is looked at again now and then.
    Failed {
        /// What is wrong, and what to do.
        reason: String,
    },
}

impl fmt::Display for MiningPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MiningPhase::Waiting { reason } => write!(f, "waiting: {reason}"),
            MiningPhase::Sealing { loads_left: 1 } => f.write_str("sealing, 1 load left"),
            MiningPhase::Sealing { loads_left } => write!(f, "sealing, {loads_left} loads left"),
            MiningPhase::Mining { epoch } => write!(f, "mining epoch {epoch}"),
            MiningPhase::Stopped => f.write_str("stopped by the operator"),
            MiningPhase::Failed { reason } => write!(f, "cannot mine: {reason}"),
        }
    }
}

/// Nonces per second over windows that end now. A window that is longer than the node runs counts the time it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct NonceRates {
    /// Over 10 seconds.
    pub ten_seconds: f64,
    /// Over a minute.
    pub minute: f64,
    /// Over a quarter of an hour.
    pub quarter_hour: f64,
}

/// Everything that can be known about mining at one moment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MiningStatus {
    /// What it is doing.
    pub phase: MiningPhase,
    /// Why answers are not sent although they are found, or data is not sealed; the newest reason.
    pub trouble: Option<String>,
    /// Name of the device.
    pub device: String,
    /// Times that the device was opened anew after it failed.
    pub device_restarts: u64,
    /// Identity of the miner, once it is known.
    pub miner_id: Option<H256>,
    /// Account that pays for gas.
    pub account: Address,
    /// The epoch that the chain is in.
    pub epoch: Option<u64>,
    /// Digest of its context.
    pub context: Option<H256>,
    /// Sectors of the flow in it.
    pub flow_length: u64,
    /// Loads of which seals are held.
    pub loads_held: u64,
    /// Seals that are held.
    pub seals_held: u64,
    /// Loads in the range of the present puzzle; 0 while there is none.
    pub loads_in_range: u64,
    /// First sector of that range.
    pub range_start: u64,
    /// Shard that answers declare.
    pub declared_shard: Shard,
    /// Loads that are known to be left to seal.
    pub loads_left: u64,
    /// Whether there may be more than `loads_left`.
    pub seals_left_is_least: bool,
    /// Bytes sealed since the start.
    pub sealed_bytes: u64,
    /// What the device did since the start.
    pub counts: MineCounts,
    /// Speed of mining, pauses included.
    pub rates: NonceRates,
    /// Seconds that a hit takes on average at the speed of the last minute and the present difficulty.
    pub seconds_per_hit: Option<f64>,
    /// Seconds that the device mined since the start.
    pub mining_seconds: f64,
    /// Seconds that the device sealed since the start.
    pub sealing_seconds: f64,
    /// What became of the answers.
    pub answers: SubmitCounters,
    /// Hits that wait to be sent.
    pub hits_waiting: u64,
    /// Hits that were not sent since they would have earned less than they cost.
    pub unprofitable: u64,
    /// Hits that came too late for their context.
    pub late: u64,
    /// Hits beyond what the epoch takes.
    pub surplus: u64,
    /// Hits whose seal was gone or wrong when it was to be proven.
    pub unprovable: u64,
    /// Wei that the beneficiary can withdraw, as of the last look.
    #[serde(serialize_with = "decimal")]
    pub claimable: U256,
}

impl MiningStatus {
    pub(crate) fn new(device: String, account: Address) -> Self {
        MiningStatus {
            phase: MiningPhase::Waiting { reason: "starting".into() },
            trouble: None,
            device,
            device_restarts: 0,
            miner_id: None,
            account,
            epoch: None,
            context: None,
            flow_length: 0,
            loads_held: 0,
            seals_held: 0,
            loads_in_range: 0,
            range_start: 0,
            declared_shard: Shard::WHOLE,
            loads_left: 0,
            seals_left_is_least: false,
            sealed_bytes: 0,
            counts: MineCounts::default(),
            rates: NonceRates::default(),
            seconds_per_hit: None,
            mining_seconds: 0.0,
            sealing_seconds: 0.0,
            answers: SubmitCounters::default(),
            hits_waiting: 0,
            unprofitable: 0,
            late: 0,
            surplus: 0,
            unprovable: 0,
            claimable: U256::ZERO,
        }
    }
}

/// Counts of the past quarter of an hour, one a second.
#[derive(Debug, Default)]
pub(super) struct History {
    samples: VecDeque<(Instant, MineCounts)>,
}

const WINDOW: Duration = Duration::from_secs(15 * 60);

impl History {
    /// Takes the counts of `now`, at most once a second.
    pub(super) fn take(&mut self, now: Instant, counts: MineCounts) {
        if self.samples.back().is_some_and(|(at, _)| now.duration_since(*at) < Duration::from_secs(1)) {
            return;
        }
        self.samples.push_back((now, counts));
        while self.samples.front().is_some_and(|(at, _)| now.duration_since(*at) > WINDOW) {
            self.samples.pop_front();
        }
    }

    /// Rate of what `count` picks, per second, over `window` up to the last sample.
    pub(super) fn rate(&self, window: Duration, count: impl Fn(&MineCounts) -> u64) -> f64 {
        let Some((last_at, last)) = self.samples.back() else { return 0.0 };
        let from = self.samples.partition_point(|(at, _)| last_at.duration_since(*at) > window);
        match self.samples.get(from) {
            Some((at, first)) if at < last_at => {
                count(last).saturating_sub(count(first)) as f64 / last_at.duration_since(*at).as_secs_f64()
            }
            _ => 0.0,
        }
    }

    pub(super) fn nonce_rates(&self) -> NonceRates {
        let rate = |seconds| self.rate(Duration::from_secs(seconds), |counts| counts.nonces);
        NonceRates { ten_seconds: rate(10), minute: rate(60), quarter_hour: rate(15 * 60) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_those_of_their_windows() {
        let mut history = History::default();
        assert_eq!(history.nonce_rates(), NonceRates::default());
        let start = Instant::now();
        // 100 nonces a second for 20 minutes, then nothing for 30 s.
        for second in 0..=1230u64 {
            let nonces = 100 * second.min(1200);
            history.take(start + Duration::from_secs(second), MineCounts { nonces, ..MineCounts::default() });
        }
        assert_eq!(history.samples.len(), 901);
        let rates = history.nonce_rates();
        assert_eq!(rates.ten_seconds, 0.0);
        assert_eq!(rates.minute, 50.0);
        assert_eq!(rates.quarter_hour, 100.0 * 870.0 / 900.0);
    }

    #[test]
    fn phases_read_as_sentences() {
        let reason = || "the log is not read to its end".to_owned();
        for (phase, text) in [
            (MiningPhase::Waiting { reason: reason() }, "waiting: the log is not read to its end"),
            (MiningPhase::Sealing { loads_left: 1 }, "sealing, 1 load left"),
            (MiningPhase::Mining { epoch: 7 }, "mining epoch 7"),
            (MiningPhase::Failed { reason: reason() }, "cannot mine: the log is not read to its end"),
        ] {
            assert_eq!(phase.to_string(), text);
        }
    }
}
