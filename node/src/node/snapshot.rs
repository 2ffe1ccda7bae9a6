//! What the node says of itself at one moment: for /status, for the metrics, for the line on the log.

use std::{collections::BTreeMap, fs, time::Duration};

use serde::Serialize;
use zgpu_core::{H256, units::BYTES_PER_SECTOR};

use super::supervise::{PartReport, PartState};
use crate::duties::sync::{SyncPhase, SyncStatus};

/// Blocks that the log may be behind in a healthy node.
const HEALTHY_LAG: u64 = 100;

/// Everything at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct Snapshot {
    /// The node in one line.
    pub summary: String,
    /// True when clients and peers are served from a log that is up to date.
    pub healthy: bool,
    /// Why it is not healthy.
    pub unhealthy_because: Vec<String>,
    /// The first thing that keeps the node from earning; none when it mines and nothing is in the way.
    pub not_earning_because: Option<String>,
    /// The process.
    pub process: ProcessFacts,
    /// Each part: what it is doing.
    pub parts: BTreeMap<&'static str, PartFacts>,
    /// The store.
    pub store: StoreFacts,
    /// The chain; none before it was reached for the first time.
    pub chain: Option<ChainFacts>,
    /// The log sync; none before the chain was reached.
    pub sync: Option<SyncFacts>,
}

/// The process.
#[derive(Clone, Debug, Serialize)]
pub struct ProcessFacts {
    /// Version of the program.
    pub version: &'static str,
    /// Name of the network.
    pub network: String,
    /// Id of the process.
    pub pid: u32,
    /// Seconds since the start.
    pub uptime_seconds: u64,
    /// Bytes of memory in use, where the system tells.
    pub resident_bytes: Option<u64>,
}

/// A part of the node.
#[derive(Clone, Debug, Serialize)]
pub struct PartFacts {
    /// running, restarting, failed or stopped.
    pub state: &'static str,
    /// What it is doing, for a person.
    pub words: String,
    /// Seconds since the state changed.
    pub since_seconds: u64,
    /// Times that it was started again.
    pub restarts: u64,
}

/// The store.
#[derive(Clone, Debug, Default, Serialize)]
pub struct StoreFacts {
    /// Folder.
    pub dir: String,
    /// Share of the flow that is kept, id/count.
    pub shard: String,
    /// Transactions.
    pub transactions: u64,
    /// Sectors in the flow.
    pub flow_sectors: u64,
    /// Loads (256 KiB) that take space on the disk.
    pub loads: u64,
    /// Loads of the share that the flow has so far.
    pub loads_of_shard: u64,
    /// Bytes free on the disk.
    pub free_bytes: u64,
}

impl StoreFacts {
    /// Bytes of the flow.
    pub fn flow_bytes(&self) -> u64 {
        self.flow_sectors.saturating_mul(BYTES_PER_SECTOR as u64)
    }
}

/// The chain.
#[derive(Clone, Debug, Serialize)]
pub struct ChainFacts {
    /// Its id.
    pub chain_id: u64,
    /// The flow contract.
    pub flow: String,
    /// The mine contract.
    pub mine: String,
    /// The reward contract.
    pub reward: String,
    /// Its endpoints.
    pub endpoints: Vec<EndpointFacts>,
}

/// An endpoint of the chain.
#[derive(Clone, Debug, Serialize)]
pub struct EndpointFacts {
    /// Scheme, host and port.
    pub url: String,
    /// False while it is not asked because it failed.
    pub usable: bool,
    /// Its last block, if it was compared with others.
    pub head: Option<u64>,
    /// Requests to it since the start.
    pub requests: u64,
    /// Of them, those that failed.
    pub failures: u64,
    /// What it failed with last.
    pub last_error: Option<String>,
}

/// The log sync.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SyncFacts {
    /// starting, catching up, following or waiting.
    pub phase: &'static str,
    /// What is in the way, while it waits.
    pub waits_for: Option<String>,
    /// True when it has once reached the chain's last block.
    pub caught_up: bool,
    /// Block up to which the log is read.
    pub synced_block: u64,
    /// Hash of that block.
    pub synced_hash: H256,
    /// Last block of the chain.
    pub head_block: u64,
    /// Blocks between them.
    pub lag_blocks: u64,
    /// Blocks per second that were read lately.
    pub blocks_per_second: f64,
    /// Seconds until everything is read, at that rate.
    pub seconds_left: Option<u64>,
    /// Times that the chain left the blocks that were read.
    pub reorgs: u64,
    /// Transactions that were taken back then.
    pub reverted: u64,
    /// Times that the log was read again since the flow's root was not the chain's.
    pub repairs: u64,
    /// Seconds since a block was last read.
    pub seconds_since_progress: u64,
    /// What failed last.
    pub last_error: Option<String>,
}

impl SyncFacts {
    pub(super) fn of(status: &SyncStatus) -> SyncFacts {
        let (phase, waits_for) = match &status.phase {
            SyncPhase::Starting => ("starting", None),
            SyncPhase::CatchingUp => ("catching up", None),
            SyncPhase::Following => ("following", None),
            SyncPhase::Waiting { reason } => ("waiting", Some(reason.clone())),
        };
        SyncFacts {
            phase,
            waits_for,
            caught_up: status.caught_up,
            synced_block: status.synced_block,
            synced_hash: status.synced_hash,
            head_block: status.head_block,
            lag_blocks: status.lag_blocks(),
            blocks_per_second: status.blocks_per_second,
            seconds_left: status.time_left.map(|time| time.as_secs()),
            reorgs: status.reorgs,
            reverted: status.reverted,
            repairs: status.repairs,
            seconds_since_progress: status.last_progress.elapsed().as_secs(),
            last_error: status.last_error.clone(),
        }
    }

    fn words(&self) -> String {
        let place = format!("block {} of {}", self.synced_block, self.head_block);
        match (&self.waits_for, self.seconds_left) {
            (Some(reason), _) => format!("waiting at {place}: {reason}"),
            (None, Some(seconds)) if self.phase == "catching up" => {
                let time = humantime::format_duration(Duration::from_secs(seconds));
                format!("catching up at {place}, {:.0} blocks/s, {time} left", self.blocks_per_second)
            }
            (None, _) => format!("{} at {place}", self.phase),
        }
    }

    /// Why the log is not up to date.
    fn trouble(&self) -> Option<String> {
        if let Some(reason) = &self.waits_for {
            return Some(format!("the log sync waits: {reason}"));
        }
        if !self.caught_up || self.lag_blocks > HEALTHY_LAG {
            return Some(format!("the log is not read to its end: {}", self.words()));
        }
        None
    }
}

/// What the facts of a snapshot are made from.
pub(super) struct Facts {
    pub(super) process: ProcessFacts,
    pub(super) parts: Vec<PartReport>,
    pub(super) store: StoreFacts,
    pub(super) chain: Option<ChainFacts>,
    pub(super) sync: Option<SyncFacts>,
    pub(super) no_chain_because: Option<String>,
    pub(super) is_starting: bool,
    pub(super) has_key: bool,
}

impl Snapshot {
    pub(super) fn of(facts: Facts) -> Snapshot {
        let Facts { process, parts, store, chain, no_chain_because, sync, is_starting, has_key } = facts;
        let mut parts: BTreeMap<&'static str, PartFacts> =
            parts.iter().map(|part| (part.name, part_facts(part))).collect();
        if let (Some(part), Some(sync)) = (parts.get_mut("log sync"), &sync)
            && part.state == "running"
        {
            part.words = sync.words();
        }
        if let (Some(part), Some(reason)) = (parts.get_mut("chain"), &no_chain_because) {
            part.words = format!("it is not reached yet: {reason}");
        }
        let words = format!("{} transactions, {} loads of shard {}", store.transactions, store.loads, store.shard);
        let since_seconds = process.uptime_seconds;
        parts.insert("store", PartFacts { state: "running", words, since_seconds, restarts: 0 });
        let mut snapshot = Snapshot {
            summary: String::new(),
            healthy: true,
            unhealthy_because: Vec::new(),
            not_earning_because: None,
            process,
            parts,
            store,
            chain,
            sync,
        };
        snapshot.unhealthy_because = snapshot.faults(no_chain_because, is_starting);
        snapshot.healthy = snapshot.unhealthy_because.is_empty();
        snapshot.not_earning_because = snapshot.why_not_earning(has_key);
        snapshot.summary = snapshot.line();
        snapshot
    }

    /// Why clients and peers are not served as they should be.
    fn faults(&self, no_chain_because: Option<String>, is_starting: bool) -> Vec<String> {
        let starting = is_starting.then(|| "the node is starting".to_owned());
        let chain = no_chain_because.map(|reason| format!("the chain is not reached yet: {reason}"));
        let failed = self.parts.iter().filter(|(_, part)| matches!(part.state, "restarting" | "failed"));
        let failed = failed.map(|(name, part)| format!("{name}: {}", part.words));
        let sync = self.sync.as_ref().and_then(SyncFacts::trouble);
        starting.into_iter().chain(chain).chain(failed).chain(sync).collect()
    }

    /// The first thing that keeps the node from earning, in the order in which a person would put them right.
    fn why_not_earning(&self, has_key: bool) -> Option<String> {
        let no_key = "it has no miner's key: name a file with it (miner_key_file), a keystore (miner_keystore), or set \
                      ZGPU_MINER_KEY";
        let fault = self.unhealthy_because.first().cloned();
        fault.or_else(|| (!has_key).then(|| no_key.to_owned()))
    }

    /// The node in one line.
    fn line(&self) -> String {
        let mut words = Vec::new();
        match &self.sync {
            Some(sync) if sync.waits_for.is_some() => words.push(sync.words()),
            Some(sync) if sync.caught_up => {
                words.push(format!("synced to block {} (lag {})", sync.synced_block, sync.lag_blocks));
            }
            Some(sync) => words.push(sync.words()),
            None => words.push("starting".to_owned()),
        }
        words.push(count(self.store.transactions, "file"));
        words.join(", ")
    }
}

fn part_facts(report: &PartReport) -> PartFacts {
    let (state, words) = match &report.state {
        PartState::Running => ("running", "running".to_owned()),
        PartState::Restarting { reason, pause } => ("restarting", format!("starts again within {pause:?}: {reason}")),
        PartState::Failed { reason } => ("failed", reason.clone()),
        PartState::Stopped => ("stopped", "stopped".to_owned()),
    };
    PartFacts { state, words, since_seconds: report.since.elapsed().as_secs(), restarts: report.restarts }
}

/// "1 file", "2 files".
fn count(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// Bytes of memory that this process has in use, where the system tells.
pub(super) fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}
