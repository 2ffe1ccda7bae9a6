//! Calls of clients as they happen, for Prometheus.

use std::time::Duration;

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::{Registry, Unit},
};

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
enum Outcome {
    Answered,
    Refused,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabel {
    method: &'static str,
    outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MethodLabel {
    method: &'static str,
}

/// What is counted of calls; clones share the numbers.
#[derive(Clone, Debug)]
pub struct CallMetrics {
    /// Calls by method, and whether they were answered or refused.
    calls: Family<CallLabel, Counter>,
    /// Time from a call to its answer, waiting for its turn included.
    time: Family<MethodLabel, Histogram>,
}

/// 1 ms to about 30 s.
fn histogram() -> Histogram {
    Histogram::new((0..16).map(|step| 0.001 * f64::from(1 << step)).collect::<Vec<_>>())
}

impl Default for CallMetrics {
    fn default() -> Self {
        let time = Family::new_with_constructor(histogram as fn() -> Histogram);
        CallMetrics { calls: Family::default(), time }
    }
}

impl CallMetrics {
    /// Shows them in a registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("rpc_calls", "Calls of clients, by method and outcome", self.calls.clone());
        registry.register_with_unit("rpc_time", "Time from a call to its answer", Unit::Seconds, self.time.clone());
    }

    /// A call that ended.
    pub(super) fn ended(&self, method: &'static str, is_answered: bool, time: Duration) {
        let outcome = if is_answered { Outcome::Answered } else { Outcome::Refused };
        self.calls.get_or_create(&CallLabel { method, outcome }).inc();
        self.time.get_or_create(&MethodLabel { method }).observe(time.as_secs_f64());
    }
}
