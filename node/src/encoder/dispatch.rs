//! One queue for all devices: who may come in, what waits, what is being encoded, and the buffers that replies are made of.
//!
//! Everything is behind one lock, held for a few instructions. A blob comes in by a [`Ticket`], which a call holds while
//! its request arrives and its blob waits: a cancelled call drops it, and its place is free at once. A blob that is being
//! encoded is finished, and its result dropped if nobody waits for it any more.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::{oneshot, watch};
use zgpu_core::blob::{BlobRoots, Dimensions};
use zgpu_encoder::engine::StageTimes;

use super::error::Failure;

/// Buffers for replies that are still being sent, beside one for each engine.
const REPLY_BUFFERS: usize = 4;

/// A blob's way through the service.
pub(super) struct Dispatcher {
    state: Mutex<State>,
    /// Something that an engine or a supervisor waits for may have come: a blob, a buffer, the end.
    change: Condvar,
    /// Most blobs that wait.
    queue: usize,
    /// True while a device can be used and calls are taken.
    serving: watch::Sender<bool>,
}

struct State {
    phase: Phase,
    receiving: usize,
    waiting: VecDeque<Job>,
    encoding: usize,
    next_id: u64,
    devices: Vec<Device>,
    /// Size of the matrix, known once a device was opened.
    dimensions: Option<Dimensions>,
    free_buffers: Vec<Vec<u8>>,
    lent_buffers: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Running,
    /// What is in is finished, nothing comes in.
    Draining,
    /// Engines stop behind their blob.
    Stopped,
}

/// One device of the service.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Device {
    /// Backend and index.
    pub(super) name: String,
    #[serde(flatten)]
    pub(super) state: DeviceState,
    /// Blobs that it encoded.
    pub(super) blobs: u64,
    /// Times that it failed.
    pub(super) failures: u64,
}

/// What a device does.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub(super) enum DeviceState {
    /// It is being opened for the first time.
    Opening,
    /// It encodes.
    Up {
        /// What the driver calls it.
        model: String,
        /// Blobs at a time.
        engines: usize,
    },
    /// It failed, and is opened again after a while.
    Down {
        /// Why.
        reason: String,
        /// Whether it is for want of parameters.
        parameters: bool,
    },
}

impl Device {
    pub(super) fn is_up(&self) -> bool {
        matches!(self.state, DeviceState::Up { .. })
    }

    fn engines(&self) -> usize {
        match self.state {
            DeviceState::Up { engines, .. } => engines,
            _ => 0,
        }
    }
}

/// What the service does at a moment.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Load {
    /// Whether blobs are taken.
    pub(super) serving: bool,
    /// Calls whose request is coming in.
    pub(super) receiving: usize,
    /// Blobs that wait for a device.
    pub(super) waiting: usize,
    /// Most that may wait.
    pub(super) queue: usize,
    /// Blobs that are being encoded.
    pub(super) encoding: usize,
    /// Reply buffers in use.
    pub(super) buffers: usize,
    /// log2 of the matrix' rows and columns, once a device was opened.
    pub(super) lg_rows_columns: Option<[u32; 2]>,
    /// All devices.
    pub(super) devices: Vec<Device>,
}

/// A blob on its way to an engine.
pub(super) struct Job {
    id: u64,
    pub(super) data: Bytes,
    reply: oneshot::Sender<Result<Done, Failure>>,
    queued: Instant,
    /// The device that failed with it.
    failed_on: Option<usize>,
}

/// An encoded blob.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) dimensions: Dimensions,
    pub(super) roots: BlobRoots,
    pub(super) times: StageTimes,
    /// All slices; the buffer is used again when the last part of it is dropped.
    pub(super) slices: Bytes,
    /// How long it waited.
    pub(super) waited: Duration,
    /// Name of the device.
    pub(super) device: Arc<str>,
}

/// A place in the service, from a call's first byte to its blob's turn.
pub(super) struct Ticket {
    dispatcher: Arc<Dispatcher>,
    /// Number of the blob once it waits; before, its request is coming in.
    queued: Option<u64>,
}

/// A buffer for all slices of a blob.
pub(super) struct Buffer {
    dispatcher: Arc<Dispatcher>,
    pub(super) bytes: Vec<u8>,
}

impl Dispatcher {
    /// For devices of these names, with at most `queue` blobs that wait.
    pub(super) fn new(devices: Vec<String>, queue: usize) -> Arc<Self> {
        let device = |name| Device { name, state: DeviceState::Opening, blobs: 0, failures: 0 };
        let state = State {
            phase: Phase::Running,
            receiving: 0,
            waiting: VecDeque::new(),
            encoding: 0,
            next_id: 0,
            devices: devices.into_iter().map(device).collect(),
            dimensions: None,
            free_buffers: Vec::new(),
            lent_buffers: 0,
        };
        let (state, change, serving) = (Mutex::new(state), Condvar::new(), watch::Sender::new(false));
        Arc::new(Dispatcher { state, change, queue, serving })
    }

    /// Nothing panics while it holds the lock.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True while a device can be used and calls are taken.
    pub(super) fn serving(&self) -> watch::Receiver<bool> {
        self.serving.subscribe()
    }

    pub(super) fn load(&self) -> Load {
        let state = self.lock();
        Load {
            serving: state.serving(),
            receiving: state.receiving,
            waiting: state.waiting.len(),
            queue: self.queue,
            encoding: state.encoding,
            buffers: state.lent_buffers,
            lg_rows_columns: state.dimensions.map(|dimensions| [dimensions.lg_rows(), dimensions.lg_columns()]),
            devices: state.devices.clone(),
        }
    }

    /// Lets a call in, or says why not; with the size of the matrix.
    pub(super) fn admit(self: &Arc<Self>) -> Result<(Ticket, Dimensions), Failure> {
        let mut state = self.lock();
        if state.phase != Phase::Running {
            return Err(Failure::Stopping);
        }
        let dimensions = match state.dimensions {
            Some(dimensions) if state.serving() => dimensions,
            _ => return Err(state.no_device()),
        };
        // A call whose request still comes in counts as waiting: its memory is held already.
        let inside = state.receiving + state.waiting.len() + state.encoding;
        if inside >= state.engines() + self.queue {
            let waiting = inside - state.encoding;
            return Err(Failure::QueueFull { waiting, encoding: state.encoding, queue: self.queue });
        }
        state.receiving += 1;
        Ok((Ticket { dispatcher: Arc::clone(self), queued: None }, dimensions))
    }

    /// The next blob for an engine of `device`, with a buffer; `None` when the engine is to end.
    pub(super) fn next(self: &Arc<Self>, device: usize) -> Option<(Job, Buffer)> {
        let mut state = self.lock();
        loop {
            if state.phase == Phase::Stopped || !state.devices[device].is_up() {
                return None;
            }
            let buffers = state.engines() + REPLY_BUFFERS;
            if state.lent_buffers < buffers
                && let Some(position) = state.waiting.iter().position(|job| job.failed_on != Some(device))
            {
                let job = state.waiting.remove(position).expect("the position was found");
                state.encoding += 1;
                state.lent_buffers += 1;
                let bytes = state.free_buffers.pop().unwrap_or_default();
                return Some((job, Buffer { dispatcher: Arc::clone(self), bytes }));
            }
            state = self.change.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A blob that `device` encoded.
    pub(super) fn finished(&self, device: usize, job: Job, done: Done) {
        {
            let mut state = self.lock();
            state.encoding -= 1;
            state.devices[device].blobs += 1;
        }
        // Nobody waits for it: the call was cancelled.
        drop(job.reply.send(Ok(done)));
    }

    /// A blob that `device` did not encode. Another device tries it once if `retry`, and if there is one.
    pub(super) fn failed(&self, device: usize, mut job: Job, failure: Failure, retry: bool) {
        let mut state = self.lock();
        state.encoding -= 1;
        let others = || state.devices.iter().enumerate().any(|(index, other)| index != device && other.is_up());
        if retry && job.failed_on.is_none() && !job.reply.is_closed() && others() {
            job.failed_on = Some(device);
            state.waiting.push_front(job);
            drop(state);
            self.change.notify_all();
            return;
        }
        drop(state);
        drop(job.reply.send(Err(failure)));
    }

    /// `device` was opened, and encodes with so many engines.
    pub(super) fn up(&self, device: usize, model: String, engines: usize, dimensions: Dimensions) {
        let mut state = self.lock();
        state.devices[device].state = DeviceState::Up { model, engines };
        state.dimensions = Some(dimensions);
        self.settle(state);
    }

    /// `device` failed; its other engines end, and blobs that no other device can take are refused.
    pub(super) fn down(&self, device: usize, reason: String, parameters: bool) {
        let mut state = self.lock();
        state.devices[device].failures += 1;
        state.devices[device].state = DeviceState::Down { reason, parameters };
        self.settle(state);
    }

    /// Lets nothing more in.
    pub(super) fn drain(&self) {
        let mut state = self.lock();
        state.phase = state.phase.max(Phase::Draining);
        self.settle(state);
    }

    /// Refuses what waits and ends all engines behind their blob.
    pub(super) fn stop(&self) {
        let mut state = self.lock();
        state.phase = Phase::Stopped;
        self.settle(state);
    }

    /// Waits for `time`; false when the service stopped before.
    pub(super) fn pause(&self, time: Duration) -> bool {
        let state = self.lock();
        let stopped = |state: &mut State| state.phase != Phase::Stopped;
        let waited = self.change.wait_timeout_while(state, time, stopped).unwrap_or_else(PoisonError::into_inner);
        waited.0.phase != Phase::Stopped
    }

    /// Refuses blobs that nobody can take any more, and tells everybody.
    fn settle(&self, mut state: MutexGuard<'_, State>) {
        let mut refused = Vec::new();
        for job in std::mem::take(&mut state.waiting) {
            let mut devices = state.devices.iter().enumerate();
            let stopped = state.phase == Phase::Stopped;
            match !stopped && devices.any(|(index, device)| device.is_up() && job.failed_on != Some(index)) {
                true => state.waiting.push_back(job),
                false if stopped => refused.push((job, Failure::Stopping)),
                false => refused.push((job, state.no_device())),
            }
        }
        let serving = state.serving();
        drop(state);
        self.serving.send_if_modified(|before| std::mem::replace(before, serving) != serving);
        self.change.notify_all();
        for (job, failure) in refused {
            drop(job.reply.send(Err(failure)));
        }
    }
}

impl State {
    fn serving(&self) -> bool {
        self.phase == Phase::Running && self.devices.iter().any(Device::is_up)
    }

    fn engines(&self) -> usize {
        self.devices.iter().map(Device::engines).sum()
    }

    /// Why no device can take a blob.
    fn no_device(&self) -> Failure {
        let mut reasons = Vec::new();
        for device in &self.devices {
            match &device.state {
                DeviceState::Down { reason, parameters: true } => return Failure::Parameters(reason.clone()),
                DeviceState::Down { reason, .. } => reasons.push(format!("{}: {reason}", device.name)),
                DeviceState::Opening => reasons.push(format!("{}: it is being opened", device.name)),
                DeviceState::Up { .. } => {}
            }
        }
        Failure::NoDevice(reasons.join("; "))
    }
}

impl Ticket {
    /// Puts the blob into the queue. What comes of it arrives at the receiver; the ticket is kept as long as it may.
    pub(super) fn queue(&mut self, data: Bytes) -> Result<oneshot::Receiver<Result<Done, Failure>>, Failure> {
        let mut state = self.dispatcher.lock();
        if state.phase == Phase::Stopped {
            return Err(Failure::Stopping);
        }
        if !state.devices.iter().any(Device::is_up) {
            return Err(state.no_device());
        }
        let (reply, receiver) = oneshot::channel();
        let id = state.next_id;
        state.next_id += 1;
        state.receiving -= 1;
        self.queued = Some(id);
        state.waiting.push_back(Job { id, data, reply, queued: Instant::now(), failed_on: None });
        drop(state);
        self.dispatcher.change.notify_all();
        Ok(receiver)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut state = self.dispatcher.lock();
        match self.queued {
            None => state.receiving -= 1,
            Some(id) => {
                let waiting = state.waiting.iter().position(|job| job.id == id);
                let job = waiting.and_then(|position| state.waiting.remove(position));
                drop(state);
                drop(job);
            }
        }
    }
}

impl Job {
    /// How long it has waited.
    pub(super) fn waited(&self) -> Duration {
        self.queued.elapsed()
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let mut state = self.dispatcher.lock();
        state.lent_buffers -= 1;
        // After a device was lost there may be more than are needed.
        let surplus = match state.free_buffers.len() + state.lent_buffers < state.engines() + REPLY_BUFFERS {
            true => {
                state.free_buffers.push(bytes);
                None
            }
            false => Some(bytes),
        };
        drop(state);
        drop(surplus);
        self.dispatcher.change.notify_all();
    }
}
