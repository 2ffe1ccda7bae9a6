//! What the node says of itself at one moment: for /status, for the metrics, for the line on the log.

use std::{collections::BTreeMap, fs, time::Duration};

use serde::Serialize;
use zgpu_core::{H256, units::BYTES_PER_SECTOR};

use super::supervise::{PartReport, PartState};
use crate::{
    duties::{
        mining::{MiningPhase, MiningStatus},
        prune::{PruneState, PruneStatus},
        sync::{SyncPhase, SyncStatus},
    },
    files::FilesHandle,
};

/// What a node without a key is told.
const NO_KEY: &str = "it has no miner's key: name a file with it (miner_key_file), a keystore (miner_keystore), or set \
                      ZGPU_MINER_KEY";
/// Blocks that the log may be behind in a healthy node.
const HEALTHY_LAG: u64 = 100;

/// Everything at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct Snapshot {
    /// The node in one line.
    pub summary: String,
    /// True when every part runs and the log is up to date.
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
    /// Peers, and files that come from them; none before the network was started.
    pub peers: Option<PeerFacts>,
    /// Sealing and mining; none in a node that does not mine, or whose device is not open yet.
    pub mining: Option<MiningStatus>,
    /// What is pruned; none in a node that does not prune.
    pub prune: Option<PruneFacts>,
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

/// Peers, and files that come from them.
#[derive(Clone, Debug, Serialize)]
pub struct PeerFacts {
    /// Who this node is.
    pub peer_id: String,
    /// Where others are told to reach it; none while it does not know.
    pub announced_at: Option<String>,
    /// Peers that it is connected to.
    pub connected: u64,
    /// Files that are being fetched.
    pub fetching: u64,
    /// Announced files that automatic sync fetches next.
    pub ready: u64,
    /// Other files that automatic sync has to fetch.
    pub pending: u64,
}

impl PeerFacts {
    pub(super) fn of(files: &FilesHandle) -> PeerFacts {
        let state = files.service_state();
        PeerFacts {
            peer_id: files.local_peer().to_base58(),
            announced_at: files.announced_at().map(|address| address.to_string()),
            connected: *files.connected_peers().borrow(),
            fetching: state.syncing.len() as u64,
            ready: state.auto.as_ref().map_or(0, |auto| auto.ready as u64),
            pending: state.auto.as_ref().map_or(0, |auto| auto.pending as u64),
        }
    }
}

/// What is pruned.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PruneFacts {
    /// starting, within the budget or deleting.
    pub state: &'static str,
    /// Loads that take space, as last counted.
    pub used_loads: u64,
    /// Loads that the budget allows.
    pub max_loads: u64,
    /// Sectors in front of this one are expired.
    pub pruned_below: u64,
    /// Loads deleted since the start.
    pub deleted_loads: u64,
    /// Times that the share was halved since the start.
    pub splits: u64,
    /// What failed last, until something succeeds.
    pub last_error: Option<String>,
}

impl PruneFacts {
    pub(super) fn of(status: &PruneStatus) -> PruneFacts {
        PruneFacts {
            state: match status.state {
                PruneState::Starting => "starting",
                PruneState::Idle => "within the budget",
                PruneState::Deleting => "deleting",
            },
            used_loads: status.used_loads,
            max_loads: status.max_loads,
            pruned_below: status.pruned_below,
            deleted_loads: status.deleted_loads,
            splits: status.splits,
            last_error: status.last_error.clone(),
        }
    }

    fn words(&self) -> String {
        let words = format!("{}: {} loads of at most {}", self.state, self.used_loads, self.max_loads);
        match &self.last_error {
            Some(error) => format!("{words}; {error}"),
            None => words,
        }
    }
}

/// What the facts of a snapshot are made from.
pub(super) struct Facts {
    pub(super) process: ProcessFacts,
    pub(super) parts: Vec<PartReport>,
    pub(super) store: StoreFacts,
    pub(super) chain: Option<ChainFacts>,
    pub(super) sync: Option<SyncFacts>,
    pub(super) peers: Option<PeerFacts>,
    pub(super) mining: Option<MiningStatus>,
    pub(super) prune: Option<PruneFacts>,
    pub(super) no_chain_because: Option<String>,
    pub(super) is_starting: bool,
    pub(super) has_key: bool,
}

impl Snapshot {
    pub(super) fn of(facts: Facts) -> Snapshot {
        let Facts { process, parts, store, chain, no_chain_because, sync, peers, mining, prune, is_starting, has_key } =
            facts;
        let mut parts: BTreeMap<&'static str, PartFacts> =
            parts.iter().map(|part| (part.name, part_facts(part))).collect();
        let mut say = |name: &str, words: Option<String>| {
            if let (Some(part), Some(words)) = (parts.get_mut(name), words)
                && part.state == "running"
            {
                part.words = words;
            }
        };
        say("chain", no_chain_because.as_ref().map(|reason| format!("it is not reached yet: {reason}")));
        say("log sync", sync.as_ref().map(SyncFacts::words));
        say(
            "network",
            peers.as_ref().map(|peers| format!("{}, this is {}", count(peers.connected, "peer"), peers.peer_id)),
        );
        say("files", peers.as_ref().map(|peers| format!("fetching {}", count(peers.fetching, "file"))));
        say("mining", mining.as_ref().map(|mining| mining.phase.to_string()));
        say("pruner", prune.as_ref().map(PruneFacts::words));
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
            peers,
            mining,
            prune,
        };
        snapshot.unhealthy_because = snapshot.faults(no_chain_because, is_starting);
        snapshot.healthy = snapshot.unhealthy_because.is_empty();
        snapshot.not_earning_because = snapshot.why_not_earning(has_key);
        snapshot.summary = snapshot.line();
        snapshot
    }

    /// What is not as it should be.
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
        if let Some(fault) = self.unhealthy_because.first() {
            return Some(fault.clone());
        }
        if !has_key {
            return Some(NO_KEY.to_owned());
        }
        let Some(mining) = &self.mining else { return Some("the device is not open yet".to_owned()) };
        if let MiningPhase::Failed { reason } = &mining.phase {
            return Some(reason.clone());
        }
        if mining.phase == MiningPhase::Stopped {
            return Some("the operator stopped mining; miner_start goes on".to_owned());
        }
        if self.store.transactions == 0 {
            return Some("the flow is empty: there is nothing to store yet".to_owned());
        }
        if self.store.loads == 0 && mining.loads_held == 0 {
            return Some(self.no_data());
        }
        if mining.loads_held == 0 {
            return Some(format!("nothing is sealed yet: {}", mining.phase));
        }
        if let Some(trouble) = &mining.trouble {
            return Some(trouble.clone());
        }
        match &mining.phase {
            MiningPhase::Mining { .. } if mining.answers.accepted > 0 => None,
            MiningPhase::Mining { .. } => Some(no_answer(mining)),
            phase => Some(phase.to_string()),
        }
    }

    /// Why no data is there.
    fn no_data(&self) -> String {
        let peers = self.peers.as_ref().map_or(0, |peers| peers.connected);
        let way = match &self.peers {
            Some(peers) if peers.fetching > 0 => format!("{} on the way", count(peers.fetching, "file")),
            _ if peers == 0 => "there is no peer to get files from; open the network's ports, and check \
                                network_boot_nodes and network_enr_address"
                .to_owned(),
            _ => "set sync.auto_sync_enabled to fetch files from peers, or upload some".to_owned(),
        };
        format!("no data is stored: {way}")
    }

    /// The node in one line.
    fn line(&self) -> String {
        let mut words = Vec::new();
        match &self.sync {
            Some(sync) if sync.waits_for.is_none() && sync.caught_up => {
                words.push(format!("synced to block {} (lag {})", sync.synced_block, sync.lag_blocks));
            }
            Some(sync) => words.push(sync.words()),
            None => words.push("starting".to_owned()),
        }
        words.push(count(self.store.transactions, "file"));
        words.extend(self.peers.as_ref().map(|peers| count(peers.connected, "peer")));
        if let Some(mining) = &self.mining {
            if mining.loads_left > 0 {
                let least = if mining.seals_left_is_least { "at least " } else { "" };
                words.push(format!("sealing {least}{} left", count(mining.loads_left, "load")));
            }
            if let MiningPhase::Mining { .. } = mining.phase {
                words.push(format!("mining {} nonces/s", short(mining.rates.minute)));
            }
            words.push(format!("{} accepted", mining.answers.accepted));
        }
        words.join(", ")
    }
}

/// Why a node that mines has not earned anything yet.
fn no_answer(mining: &MiningStatus) -> String {
    let answers = &mining.answers;
    if let Some((reason, times)) = answers.reasons.iter().max_by_key(|(_, times)| **times) {
        return format!("no answer was accepted yet; refused {times} times: {reason}");
    }
    if answers.open() > 0 || mining.hits_waiting > 0 {
        return "the first answer is on its way".to_owned();
    }
    if mining.unprofitable > 0 {
        return format!("{} would have cost more gas than they earn", count(mining.unprofitable, "hit"));
    }
    match mining.seconds_per_hit {
        Some(seconds) if seconds.is_finite() && seconds < 1e9 => {
            let time = humantime::format_duration(Duration::from_secs(seconds.ceil() as u64));
            format!("no hit yet; one takes {time} on average")
        }
        _ => "no hit yet".to_owned(),
    }
}

/// A number in a few characters: 950, 20.5 k, 3.1 M.
fn short(number: f64) -> String {
    match number {
        number if number >= 1e6 => format!("{:.1} M", number / 1e6),
        number if number >= 1e3 => format!("{:.1} k", number / 1e3),
        number => format!("{number:.0}"),
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

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use alloy::primitives::Address;

    use super::*;

    fn sync() -> SyncFacts {
        SyncFacts {
            phase: "following",
            waits_for: None,
            caught_up: true,
            synced_block: 998,
            synced_hash: H256::ZERO,
            head_block: 1000,
            lag_blocks: 2,
            blocks_per_second: 0.0,
            seconds_left: None,
            reorgs: 0,
            reverted: 0,
            repairs: 0,
            seconds_since_progress: 0,
            last_error: None,
        }
    }

    /// A node that earns.
    fn facts() -> Facts {
        let mut mining = MiningStatus::new("a device".to_owned(), Address::ZERO);
        mining.phase = MiningPhase::Mining { epoch: 7 };
        (mining.loads_held, mining.loads_left, mining.rates.minute) = (100, 12, 20_400.0);
        mining.answers.accepted = 3;
        let part = |name| PartReport { name, state: PartState::Running, since: Instant::now(), restarts: 0 };
        Facts {
            process: ProcessFacts {
                version: "1",
                network: "custom".into(),
                pid: 1,
                uptime_seconds: 1,
                resident_bytes: None,
            },
            parts: ["chain", "log sync", "network", "files", "mining", "pruner"].map(part).to_vec(),
            store: StoreFacts { transactions: 14, loads: 100, ..StoreFacts::default() },
            chain: None,
            no_chain_because: None,
            sync: Some(sync()),
            peers: Some(PeerFacts {
                peer_id: "16Uiu2".into(),
                announced_at: None,
                connected: 5,
                fetching: 0,
                ready: 0,
                pending: 0,
            }),
            mining: Some(mining),
            prune: None,
            is_starting: false,
            has_key: true,
        }
    }

    /// Why the node does not earn after a change.
    fn reason(change: impl FnOnce(&mut Facts)) -> Option<String> {
        let mut facts = facts();
        change(&mut facts);
        Snapshot::of(facts).not_earning_because
    }

    #[test]
    fn a_node_that_earns_says_so_in_one_line() {
        let now = Snapshot::of(facts());
        assert_eq!(
            now.summary,
            "synced to block 998 (lag 2), 14 files, 5 peers, sealing 12 loads left, mining 20.4 k nonces/s, 3 accepted"
        );
        assert_eq!((now.healthy, now.not_earning_because), (true, None));
        assert_eq!(now.parts["mining"].words, "mining epoch 7");
        assert_eq!(now.parts["log sync"].words, "following at block 998 of 1000");
        assert_eq!(now.parts["network"].words, "5 peers, this is 16Uiu2");
    }

    #[test]
    fn the_first_thing_in_the_way_is_named() {
        fn mining(facts: &mut Facts) -> &mut MiningStatus {
            facts.mining.as_mut().unwrap()
        }
        type Change = fn(&mut Facts);
        // Each lies before all that follow.
        let changes: [(Change, &str); 14] = [
            (|facts| facts.is_starting = true, "the node is starting"),
            (|facts| facts.no_chain_because = Some("nobody".into()), "the chain is not reached yet: nobody"),
            (|facts| facts.parts[3].state = PartState::Failed { reason: "no files".into() }, "files: no files"),
            (
                |facts| facts.sync.as_mut().unwrap().waits_for = Some("no answer".into()),
                "the log sync waits: no answer",
            ),
            (
                |facts| facts.sync.as_mut().unwrap().caught_up = false,
                "the log is not read to its end: following at block",
            ),
            (|facts| facts.sync.as_mut().unwrap().lag_blocks = 101, "the log is not read to its end"),
            (|facts| facts.has_key = false, "it has no miner's key"),
            (|facts| facts.mining = None, "the device is not open yet"),
            (|facts| mining(facts).phase = MiningPhase::Failed { reason: "no gas".into() }, "no gas"),
            (|facts| mining(facts).phase = MiningPhase::Stopped, "the operator stopped mining"),
            (|facts| facts.store.transactions = 0, "the flow is empty"),
            (
                |facts| (facts.store.loads, mining(facts).loads_held) = (0, 0),
                "no data is stored: set sync.auto_sync_enabled",
            ),
            (|facts| mining(facts).loads_held = 0, "nothing is sealed yet: mining epoch 7"),
            (|facts| mining(facts).trouble = Some("too little gas".into()), "too little gas"),
        ];
        for (index, (change, words)) in changes.iter().enumerate() {
            let found = reason(|facts| {
                // What is in the way as well, behind it; from there on there may be no mining to change.
                if index > 7 {
                    changes[index + 1..].iter().for_each(|(later, _)| later(facts));
                }
                change(facts);
            });
            assert!(found.as_deref().is_some_and(|found| found.starts_with(words)), "{words}: {found:?}");
        }
        let no_peer = reason(|facts| {
            (facts.store.loads, mining(facts).loads_held) = (0, 0);
            facts.peers.as_mut().unwrap().connected = 0;
        });
        assert!(no_peer.unwrap().contains("there is no peer to get files from"));
        let waits = MiningPhase::Waiting { reason: "the window opens after block 5".into() };
        assert_eq!(
            reason(|facts| mining(facts).phase = waits).as_deref(),
            Some("waiting: the window opens after block 5")
        );
    }

    #[test]
    fn a_node_that_has_earned_nothing_yet_says_what_is_missing() {
        let after = |change: fn(&mut MiningStatus)| {
            reason(|facts| {
                let mining = facts.mining.as_mut().unwrap();
                mining.answers.accepted = 0;
                change(mining);
            })
            .unwrap()
        };
        assert_eq!(after(|_| ()), "no hit yet");
        assert_eq!(after(|mining| mining.seconds_per_hit = Some(89.5)), "no hit yet; one takes 1m 30s on average");
        assert_eq!(after(|mining| mining.seconds_per_hit = Some(f64::INFINITY)), "no hit yet");
        assert_eq!(after(|mining| mining.hits_waiting = 1), "the first answer is on its way");
        assert_eq!(after(|mining| mining.unprofitable = 2), "2 hits would have cost more gas than they earn");
        let refused = after(|mining| {
            mining.answers.reasons = [("too late".to_owned(), 3), ("no gas".to_owned(), 1)].into();
        });
        assert_eq!(refused, "no answer was accepted yet; refused 3 times: too late");
    }

    #[test]
    fn parts_that_failed_are_named_with_their_reason() {
        let mut facts = facts();
        let pause = Duration::from_secs(2);
        facts.parts[4].state = PartState::Restarting { reason: "the device is lost".into(), pause };
        let now = Snapshot::of(facts);
        assert_eq!(now.unhealthy_because, ["mining: starts again within 2s: the device is lost"]);
        assert_eq!((now.healthy, now.parts["mining"].state), (false, "restarting"));
    }

    #[test]
    fn numbers_are_short() {
        let shown = [0.4, 950.0, 20_450.0, 3_100_000.0].map(short);
        assert_eq!(shown, ["0", "950", "20.4 k", "3.1 M"].map(String::from));
        assert_eq!((count(0, "load"), count(1, "load")), ("0 loads".to_owned(), "1 load".to_owned()));
        #[cfg(target_os = "linux")]
        assert!(resident_bytes() > Some(1 << 20));
    }
}
