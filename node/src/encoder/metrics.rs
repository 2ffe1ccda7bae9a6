//! What the service counts and times, for Prometheus.

use std::{fmt, sync::Arc, time::Duration};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};
use tonic::Code;
use zgpu_encoder::engine::StageTimes;

use super::dispatch::Load;

/// Part of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(super) enum Stage {
    /// The request's bytes come in.
    Receive,
    /// The blob waits for a device and a buffer.
    Wait,
    Extend,
    Commit,
    Hash,
    Slices,
    Check,
    /// The client takes the reply.
    Send,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StageLabel {
    stage: Stage,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabel {
    code: CodeName,
}

/// A gRPC code by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct CodeName(Code);

impl EncodeLabelValue for CodeName {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> fmt::Result {
        fmt::Write::write_fmt(encoder, format_args!("{:?}", self.0))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DeviceLabel {
    device: String,
}

/// All of it; clones share the numbers. Each field's comment is the help text of its metric.
#[derive(Clone)]
pub(super) struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    /// Calls by the gRPC code they ended with.
    calls: Family<CodeLabel, Counter>,
    /// Bytes of data in blobs that were encoded.
    data: Counter,
    /// Bytes of replies that were handed to the socket.
    reply: Counter,
    /// Seconds that each stage of a call took.
    stages: Family<StageLabel, Histogram>,
    /// Blobs that each device encoded.
    device_blobs: Family<DeviceLabel, Counter>,
    /// Times that each device was lost, disagreed, panicked or could not be opened.
    device_failures: Family<DeviceLabel, Counter>,
    /// Calls whose request is coming in.
    receiving: Gauge,
    /// Blobs that wait for a device.
    waiting: Gauge,
    /// Blobs that are being encoded.
    encoding: Gauge,
    /// Devices that can be used now.
    devices: Gauge,
    /// Reply buffers in use, by an engine or a reply that is being sent.
    buffers: Gauge,
}

/// 1 ms to about 4 minutes: a GPU's stage and a CPU's blob.
fn histogram() -> Histogram {
    Histogram::new((0..18).map(|step| 0.001 * f64::from(1 << step)).collect::<Vec<_>>())
}

impl Metrics {
    pub(super) fn new() -> Self {
        let mut registry = Registry::with_prefix("zgpu_encoder");
        let (calls, data, reply) = (Family::default(), Counter::default(), Counter::default());
        let stages = Family::new_with_constructor(histogram as fn() -> Histogram);
        let (device_blobs, device_failures) = (Family::default(), Family::default());
        let [receiving, waiting, encoding, devices, buffers] = std::array::from_fn(|_| Gauge::default());
        registry.register("calls", "Calls by the gRPC code they ended with", calls.clone());
        registry.register_with_unit("data", "Bytes of data in blobs that were encoded", Unit::Bytes, data.clone());
        registry.register_with_unit("reply", "Bytes of replies handed to the socket", Unit::Bytes, reply.clone());
        registry.register_with_unit("stage", "Time that each stage of a call took", Unit::Seconds, stages.clone());
        registry.register("device_blobs", "Blobs that each device encoded", device_blobs.clone());
        registry.register("device_failures", "Times that each device failed", device_failures.clone());
        for (name, help, gauge) in [
            ("receiving", "Calls whose request is coming in", &receiving),
            ("waiting", "Blobs that wait for a device", &waiting),
            ("encoding", "Blobs that are being encoded", &encoding),
            ("devices", "Devices that can be used now", &devices),
            ("buffers", "Reply buffers in use", &buffers),
        ] {
            registry.register(name, help, gauge.clone());
        }
        Metrics(Arc::new(Inner {
            registry,
            calls,
            data,
            reply,
            stages,
            device_blobs,
            device_failures,
            receiving,
            waiting,
            encoding,
            devices,
            buffers,
        }))
    }

    /// A call that ended with `code`.
    pub(super) fn call(&self, code: Code) {
        self.0.calls.get_or_create(&CodeLabel { code: CodeName(code) }).inc();
    }

    pub(super) fn stage(&self, stage: Stage, time: Duration) {
        self.0.stages.get_or_create(&StageLabel { stage }).observe(time.as_secs_f64());
    }

    /// A blob of `bytes` bytes that `device` encoded.
    pub(super) fn encoded(&self, device: &str, bytes: usize, times: &StageTimes) {
        self.0.data.inc_by(bytes as u64);
        self.0.device_blobs.get_or_create(&DeviceLabel { device: device.to_owned() }).inc();
        for (stage, time) in [
            (Stage::Extend, times.extend),
            (Stage::Commit, times.commit),
            (Stage::Hash, times.hash),
            (Stage::Slices, times.slices),
            (Stage::Check, times.check),
        ] {
            self.stage(stage, time);
        }
    }

    pub(super) fn device_failed(&self, device: &str) {
        self.0.device_failures.get_or_create(&DeviceLabel { device: device.to_owned() }).inc();
    }

    /// Bytes of a reply that went to the socket.
    pub(super) fn sent(&self, bytes: usize) {
        self.0.reply.inc_by(bytes as u64);
    }

    /// Prometheus' text, with the load as it is now.
    pub(super) fn text(&self, load: &Load) -> Result<String, fmt::Error> {
        let inner = &self.0;
        inner.receiving.set(load.receiving as i64);
        inner.waiting.set(load.waiting as i64);
        inner.encoding.set(load.encoding as i64);
        inner.devices.set(load.devices.iter().filter(|device| device.is_up()).count() as i64);
        inner.buffers.set(load.buffers as i64);
        let mut text = String::new();
        encode(&mut text, &inner.registry)?;
        Ok(text)
    }
}
