//! Devices at work: a thread for each engine, and one for each device that opens it, and opens it again when it failed.

use std::{
    any::Any,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use bytes::Bytes;
use zgpu_core::device::DeviceError;
use zgpu_encoder::engine::{EncodeError, Engine};

use super::{
    dispatch::{Dispatcher, Done},
    error::{Failure, OpenError},
    metrics::{Metrics, Stage},
};

/// Longest wait before a device that failed is opened again.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Opens a device, with an engine for each of its queues.
pub type OpenDevice = dyn Fn() -> Result<Vec<Box<dyn Engine>>, OpenError> + Send;

/// A device of the service: its name, and how it is opened.
pub struct Device {
    /// Backend and index, as `zgpu devices` shows them: `cuda:0`.
    pub name: String,
    /// Opens it, with an engine for each of its queues. Called again after the device failed, behind the end of its last
    /// engines.
    pub open: Box<OpenDevice>,
}

/// Starts the thread of device number `index`.
pub(super) fn start(
    dispatcher: Arc<Dispatcher>,
    metrics: Metrics,
    index: usize,
    device: Device,
    first_pause: Duration,
) -> io::Result<()> {
    let thread = thread::Builder::new().name(device.name.clone());
    let name = Arc::from(device.name.as_str());
    let supervisor = Supervisor { dispatcher, metrics, index, name };
    thread.spawn(move || supervisor.run(&*device.open, first_pause)).map(drop)
}

struct Supervisor {
    dispatcher: Arc<Dispatcher>,
    metrics: Metrics,
    index: usize,
    name: Arc<str>,
}

impl Supervisor {
    /// Opens the device and lets it work, again and again, with longer and longer pauses until it encodes a blob.
    fn run(&self, open: &OpenDevice, first_pause: Duration) {
        let mut pause = first_pause;
        loop {
            let opened = catch_unwind(AssertUnwindSafe(open)).unwrap_or_else(|panic| {
                let (device, reason) = (self.name.to_string(), format!("opening it panicked: {}", message(&*panic)));
                Err(DeviceError::Lost { device, reason }.into())
            });
            match opened {
                Ok(engines) => {
                    if self.serve(engines) {
                        pause = first_pause;
                    }
                }
                Err(error) => self.down(error.to_string(), matches!(error, OpenError::Parameters(_))),
            }
            if !self.dispatcher.pause(pause) {
                return;
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
            tracing::info!("{}: opening it again", self.name);
        }
    }

    /// Serves until the device fails or the service ends; true if it encoded a blob.
    fn serve(&self, engines: Vec<Box<dyn Engine>>) -> bool {
        let Some(first) = engines.first() else {
            self.down("it has no engine".into(), false);
            return false;
        };
        let (model, dimensions) = (first.info().name.clone(), first.dimensions());
        tracing::info!("{}: {model}, {} at a time", self.name, engines.len());
        self.dispatcher.up(self.index, model, engines.len(), dimensions);
        let worked = AtomicBool::new(false);
        thread::scope(|scope| {
            for engine in engines {
                let lane = thread::Builder::new().name(self.name.to_string());
                if let Err(error) = lane.spawn_scoped(scope, || self.lane(engine, &worked)) {
                    self.down(format!("a thread cannot be started: {error}"), false);
                }
            }
        });
        worked.into_inner()
    }

    /// Encodes blob after blob on one engine.
    fn lane(&self, mut engine: Box<dyn Engine>, worked: &AtomicBool) {
        while let Some((job, mut buffer)) = self.dispatcher.next(self.index) {
            let waited = job.waited();
            self.metrics.stage(Stage::Wait, waited);
            match catch_unwind(AssertUnwindSafe(|| engine.encode(&job.data, &mut buffer.bytes))) {
                Ok(Ok(encoded)) => {
                    worked.store(true, Ordering::Relaxed);
                    self.metrics.encoded(&self.name, job.data.len(), &encoded.times);
                    let done = Done {
                        dimensions: engine.dimensions(),
                        roots: encoded.roots,
                        times: encoded.times,
                        slices: Bytes::from_owner(buffer),
                        waited,
                        device: Arc::clone(&self.name),
                    };
                    self.dispatcher.finished(self.index, job, done);
                }
                Ok(Err(error)) => {
                    drop(buffer);
                    if error.is_fatal() {
                        self.down(error.to_string(), false);
                    }
                    let retry = matches!(error, EncodeError::Device(_)) || error.is_fatal();
                    let failure = Failure::Engine { device: self.name.to_string(), error };
                    self.dispatcher.failed(self.index, job, failure, retry);
                }
                Err(panic) => {
                    drop(buffer);
                    // What the engine holds is unknown, so it is opened anew. Another device would run the same code.
                    let message = message(&*panic);
                    self.down(format!("the encoder panicked: {message}"), false);
                    let failure = Failure::Panic { device: self.name.to_string(), message };
                    self.dispatcher.failed(self.index, job, failure, false);
                }
            }
        }
    }

    fn down(&self, reason: String, parameters: bool) {
        tracing::error!("{}: {reason}", self.name);
        self.metrics.device_failed(&self.name);
        self.dispatcher.down(self.index, reason, parameters);
    }
}

/// What a panic said.
fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message").to_owned()
}
