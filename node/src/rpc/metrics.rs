//! What the interface counts, for `admin_getMetrics`.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

/// A number that only grows while the node runs.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }
}

/// All counters; the name of a field is its name on the wire, behind `rpc.`.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    /// Segments taken, pending ones too.
    pub(crate) segments_taken: Counter,
    /// Segments refused.
    pub(crate) segments_refused: Counter,
    /// Segments kept until their transaction comes.
    pub(crate) segments_pending: Counter,
    /// Segments taken and not stored, because they lie outside the shard.
    pub(crate) segments_outside: Counter,
    /// Bytes written to files of known transactions.
    pub(crate) bytes_taken: Counter,
    /// Files whose last segment came.
    pub(crate) files_finalised: Counter,
    /// Files that got their data from another transaction of the same file.
    pub(crate) files_copied: Counter,
    /// Bytes of segments given out.
    pub(crate) bytes_given: Counter,
}

impl Metrics {
    /// Names that start with `prefix`, each with its kind and value.
    pub(crate) fn list(&self, prefix: &str) -> BTreeMap<String, String> {
        [
            ("segments_taken", &self.segments_taken),
            ("segments_refused", &self.segments_refused),
            ("segments_pending", &self.segments_pending),
            ("segments_outside", &self.segments_outside),
            ("bytes_taken", &self.bytes_taken),
            ("files_finalised", &self.files_finalised),
            ("files_copied", &self.files_copied),
            ("bytes_given", &self.bytes_given),
        ]
        .into_iter()
        .map(|(name, counter)| (format!("rpc.{name}"), format!("counter {}", counter.0.load(Ordering::Relaxed))))
        .filter(|(name, _)| name.starts_with(prefix))
        .collect()
    }
}
