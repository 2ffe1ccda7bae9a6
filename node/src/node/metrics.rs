//! What the node counts, for Prometheus.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

use super::snapshot::Snapshot;
use crate::rpc::CallMetrics;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PartLabel {
    part: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndpointLabel {
    endpoint: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

/// All of it. Each field's comment is the help text of its metric. Values are those of a snapshot, set when they are asked
/// for; calls of clients are counted as they happen.
pub(super) struct Metrics {
    registry: Registry,
    /// 1 when the node is healthy.
    healthy: Gauge,
    /// Seconds since the start.
    uptime: Gauge,
    /// Bytes of memory that the process has in use.
    resident: Gauge,
    /// 1 for each part that runs.
    part_up: Family<PartLabel, Gauge>,
    /// Times that each part was started again.
    part_restarts: Family<PartLabel, Counter>,
    /// Block up to which the log is read.
    synced_block: Gauge,
    /// Last block of the chain.
    head_block: Gauge,
    /// Blocks between them.
    lag_blocks: Gauge,
    /// 1 when the log was read to its end once.
    caught_up: Gauge,
    /// Times that the chain left the blocks that were read.
    reorgs: Counter,
    /// Transactions that were taken back.
    reverted: Counter,
    /// Requests to each endpoint of the chain.
    chain_requests: Family<EndpointLabel, Counter>,
    /// Of them, those that failed.
    chain_failures: Family<EndpointLabel, Counter>,
    /// Transactions of the flow.
    transactions: Gauge,
    /// Bytes of the flow.
    flow: Gauge,
    /// Loads that take space on the disk.
    loads: Gauge,
    /// Bytes free on the store's disk.
    disk_free: Gauge,
    /// Loads that the budget of the pruner allows; 0 without one.
    max_loads: Gauge,
    /// Peers that are connected.
    peers: Gauge,
    /// Files that are being fetched from peers.
    fetching: Gauge,
    /// Loads of which seals are held.
    sealed_loads: Gauge,
    /// Loads that are known to be left to seal.
    loads_to_seal: Gauge,
    /// Bytes sealed since the start.
    sealed: Counter,
    /// Nonces drawn.
    nonces: Counter,
    /// Nonces per second, over the last minute.
    nonce_rate: Gauge<f64, AtomicU64>,
    /// Hits that the device found.
    hits: Counter,
    /// Hits that were not sent since they would have cost more than they earn.
    unprofitable: Counter,
    /// Answers by what became of them.
    answers: Family<OutcomeLabel, Counter>,
    /// Gas that accepted answers took.
    answer_gas: Counter,
}

/// A gauge takes signed numbers; nothing here comes near the limit.
fn set(gauge: &Gauge, value: u64) {
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
}

/// Sets a counter to a count that is kept elsewhere.
fn set_count(counter: &Counter, value: u64) {
    let count: &AtomicU64 = counter.inner();
    count.store(value, Ordering::Relaxed);
}

impl Metrics {
    /// All metrics, those of the calls among them.
    pub(super) fn new(calls: &CallMetrics) -> Self {
        let mut registry = Registry::with_prefix("zgpu_node");
        macro_rules! gauges {
            ($($name:ident $([$unit:ident])? $help:literal;)*) => {$(
                let $name = Gauge::default();
                gauges!(@register registry, stringify!($name), $help, $name $(, $unit)?);
            )*};
            (@register $registry:ident, $name:expr, $help:literal, $gauge:ident) => {
                $registry.register($name, $help, $gauge.clone());
            };
            (@register $registry:ident, $name:expr, $help:literal, $gauge:ident, $unit:ident) => {
                $registry.register_with_unit($name, $help, Unit::$unit, $gauge.clone());
            };
        }
        gauges! {
            healthy "1 when the node is healthy";
            uptime [Seconds] "Time since the start";
            resident [Bytes] "Memory that the process has in use";
            synced_block "Block up to which the log is read";
            head_block "Last block of the chain";
            lag_blocks "Blocks that are not read yet";
            caught_up "1 when the log was read to its end once";
            transactions "Transactions of the flow";
            flow [Bytes] "Length of the flow";
            loads "Loads (256 KiB) that take space on the disk";
            disk_free [Bytes] "Free space on the disk of the store";
            max_loads "Loads that the budget of the pruner allows; 0 without one";
            peers "Peers that are connected";
            fetching "Files that are being fetched from peers";
            sealed_loads "Loads of which seals are held";
            loads_to_seal "Loads that are known to be left to seal";
        }
        let nonce_rate = Gauge::default();
        registry.register("nonce_rate", "Nonces per second, over the last minute", Gauge::clone(&nonce_rate));
        let [sealed, nonces, hits, unprofitable, answer_gas] = std::array::from_fn(|_| Counter::default());
        registry.register_with_unit("sealed", "Bytes sealed since the start", Unit::Bytes, sealed.clone());
        for (name, help, counter) in [
            ("nonces", "Nonces drawn", &nonces),
            ("hits", "Hits that the device found", &hits),
            ("unprofitable", "Hits that would have cost more than they earn", &unprofitable),
            ("answer_gas", "Gas that accepted answers took", &answer_gas),
        ] {
            registry.register(name, help, counter.clone());
        }
        let answers = Family::default();
        registry.register("answers", "Answers by what became of them", Family::clone(&answers));
        let (part_up, part_restarts) = (Family::default(), Family::default());
        registry.register("part_up", "1 for each part that runs", Family::clone(&part_up));
        registry.register("part_restarts", "Times that each part was started again", Family::clone(&part_restarts));
        let (chain_requests, chain_failures) = (Family::default(), Family::default());
        registry.register("chain_requests", "Requests to each endpoint of the chain", Family::clone(&chain_requests));
        registry.register("chain_failures", "Requests that failed", Family::clone(&chain_failures));
        let (reorgs, reverted) = (Counter::default(), Counter::default());
        registry.register("reorgs", "Times that the chain left the blocks that were read", Counter::clone(&reorgs));
        registry.register("reverted", "Transactions that were taken back", Counter::clone(&reverted));
        calls.register(&mut registry);
        Metrics {
            registry,
            healthy,
            uptime,
            resident,
            part_up,
            part_restarts,
            synced_block,
            head_block,
            lag_blocks,
            caught_up,
            reorgs,
            reverted,
            chain_requests,
            chain_failures,
            transactions,
            flow,
            loads,
            disk_free,
            max_loads,
            peers,
            fetching,
            sealed_loads,
            loads_to_seal,
            sealed,
            nonces,
            nonce_rate,
            hits,
            unprofitable,
            answers,
            answer_gas,
        }
    }

    /// Prometheus' text for the node as it is now.
    pub(super) fn text(&self, now: &Snapshot) -> Result<String, fmt::Error> {
        set(&self.healthy, now.healthy.into());
        set(&self.uptime, now.process.uptime_seconds);
        set(&self.resident, now.process.resident_bytes.unwrap_or(0));
        for (part, facts) in &now.parts {
            let label = PartLabel { part };
            set(&self.part_up.get_or_create(&label), u64::from(facts.state == "running"));
            set_count(&self.part_restarts.get_or_create(&label), facts.restarts);
        }
        if let Some(sync) = &now.sync {
            set(&self.synced_block, sync.synced_block);
            set(&self.head_block, sync.head_block);
            set(&self.lag_blocks, sync.lag_blocks);
            set(&self.caught_up, sync.caught_up.into());
            set_count(&self.reorgs, sync.reorgs);
            set_count(&self.reverted, sync.reverted);
        }
        for endpoint in now.chain.iter().flat_map(|chain| &chain.endpoints) {
            let label = EndpointLabel { endpoint: endpoint.url.clone() };
            set_count(&self.chain_requests.get_or_create(&label), endpoint.requests);
            set_count(&self.chain_failures.get_or_create(&label), endpoint.failures);
        }
        set(&self.transactions, now.store.transactions);
        set(&self.flow, now.store.flow_bytes());
        set(&self.loads, now.store.loads);
        set(&self.disk_free, now.store.free_bytes);
        set(&self.max_loads, now.prune.as_ref().map_or(0, |prune| prune.max_loads));
        if let Some(peers) = &now.peers {
            set(&self.peers, peers.connected);
            set(&self.fetching, peers.fetching);
        }
        if let Some(mining) = &now.mining {
            set(&self.sealed_loads, mining.loads_held);
            set(&self.loads_to_seal, mining.loads_left);
            set_count(&self.sealed, mining.sealed_bytes);
            set_count(&self.nonces, mining.counts.nonces);
            self.nonce_rate.set(mining.rates.minute);
            set_count(&self.hits, mining.counts.hits);
            set_count(&self.unprofitable, mining.unprofitable);
            let answers = &mining.answers;
            for (outcome, count) in [
                ("submitted", answers.submitted),
                ("accepted", answers.accepted),
                ("rejected", answers.rejected),
                ("reverted", answers.reverted),
                ("stale", answers.stale),
                ("duplicate", answers.duplicate),
                ("failed", answers.failed),
            ] {
                set_count(&self.answers.get_or_create(&OutcomeLabel { outcome }), count);
            }
            set_count(&self.answer_gas, answers.gas_accepted);
        }
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}
