//! A device with its queue, and the place where every failure of wgpu becomes a [`DeviceError`].

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use wgpu::{
    Buffer, BufferDescriptor, BufferUsages, CommandEncoder, DeviceDescriptor, DeviceLostReason, ErrorFilter, MapMode,
    PollType, SubmissionIndex,
};
use zgpu_core::device::{BackendKind, DeviceError, DeviceInfo};

use crate::adapter;
use crate::program::Programs;

/// Numbers the devices opened by this process, so that memory of one is not taken for that of another.
static NEXT_NUMBER: AtomicU64 = AtomicU64::new(0);

/// An opened device. Lanes, pads and loads share one.
pub(crate) struct Device {
    /// Unlike that of any other device opened by this process.
    pub(crate) number: u64,
    pub(crate) info: DeviceInfo,
    pub(crate) limits: wgpu::Limits,
    pub(crate) kind: wgpu::DeviceType,
    pub(crate) programs: Programs,
    pub(crate) raw: wgpu::Device,
    queue: wgpu::Queue,
    /// What went wrong where no call could report it.
    failure: Arc<Mutex<Option<String>>>,
}

impl Device {
    pub(crate) fn open(index: usize) -> Result<Arc<Self>, DeviceError> {
        let unusable = |reason: String, remedy: &str| DeviceError::Unusable {
            backend: BackendKind::Wgpu,
            index,
            reason,
            remedy: remedy.into(),
        };
        let (usable, missing) = adapter::survey();
        let found = usable.len();
        let (adapter, info) = usable.into_iter().nth(index).ok_or_else(|| match missing.first() {
            Some(first) if found == 0 => unusable(format!("{}: {}", first.name, first.reason), &first.remedy),
            _ => unusable(format!("there are {found} such devices"), "choose an index below that"),
        })?;
        let limits = adapter.limits();
        let (raw, queue) = pollster::block_on(adapter.request_device(&DeviceDescriptor {
            label: Some("zgpu"),
            required_limits: limits.clone(),
            ..DeviceDescriptor::default()
        }))
        .map_err(|error| unusable(error.to_string(), "close other programs that use it, or update its driver"))?;

        let failure = Arc::new(Mutex::new(None));
        let record = |failure: &Mutex<Option<String>>, reason: String| {
            failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(reason);
        };
        let noted = Arc::clone(&failure);
        raw.on_uncaptured_error(Arc::new(move |error| record(&noted, error.to_string())));
        let noted = Arc::clone(&failure);
        raw.set_device_lost_callback(move |reason, message| {
            if reason != DeviceLostReason::Destroyed {
                record(&noted, message);
            }
        });
        Ok(Arc::new(Self {
            number: NEXT_NUMBER.fetch_add(1, Ordering::Relaxed),
            kind: adapter.get_info().device_type,
            info,
            limits,
            programs: Programs::default(),
            raw,
            queue,
            failure,
        }))
    }

    /// Does `work`, and gives its result only when neither it nor anything before it failed.
    ///
    /// `what` and `wanted` name the memory that `work` allocates, if any. `work` must not wait for the device.
    pub(crate) fn guard<T>(&self, what: &'static str, wanted: u64, work: impl FnOnce() -> T) -> Result<T, DeviceError> {
        self.check()?;
        let scopes = [ErrorFilter::OutOfMemory, ErrorFilter::Validation, ErrorFilter::Internal];
        let [memory, validation, internal] = scopes.map(|filter| self.raw.push_error_scope(filter));
        // wgpu reports errors through the scopes, but some of its paths panic: that too must stay an error of this device.
        let outcome = catch_unwind(AssertUnwindSafe(work));
        let internal = pollster::block_on(internal.pop());
        let validation = pollster::block_on(validation.pop());
        let memory = pollster::block_on(memory.pop());
        // An allocation that failed makes later uses of it invalid, so it is the one to report.
        if memory.is_some() {
            return Err(self.out_of_memory(what, wanted));
        }
        if let Some(error) = internal.or(validation) {
            return Err(self.lost(error.to_string()));
        }
        let outcome = outcome.map_err(|_| self.lost(format!("the graphics library failed at {what}")))?;
        self.check().map(|()| outcome)
    }

    /// An error once anything failed.
    fn check(&self) -> Result<(), DeviceError> {
        match &*self.failure.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(reason) => Err(self.lost(reason.clone())),
            None => Ok(()),
        }
    }

    pub(crate) fn out_of_memory(&self, what: &'static str, wanted: u64) -> DeviceError {
        DeviceError::OutOfMemory { device: self.info.name.clone(), what, wanted, available: self.info.memory_bytes }
    }

    pub(crate) fn lost(&self, reason: String) -> DeviceError {
        DeviceError::Lost { device: self.info.name.clone(), reason }
    }

    /// Allocates a buffer.
    pub(crate) fn buffer(&self, what: &'static str, bytes: u64, usage: BufferUsages) -> Result<Buffer, DeviceError> {
        if self.info.memory_bytes != 0 && bytes > self.info.memory_bytes {
            return Err(self.out_of_memory(what, bytes));
        }
        let descriptor = BufferDescriptor { label: Some(what), size: bytes, usage, mapped_at_creation: false };
        self.guard(what, bytes, || self.raw.create_buffer(&descriptor))
    }

    /// Queues bytes for `buffer`; they are there before the next submission starts. `offset` and length are multiples of 4.
    pub(crate) fn write(&self, buffer: &Buffer, offset: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        self.guard("staging memory", bytes.len() as u64, || self.queue.write_buffer(buffer, offset, bytes))
    }

    /// Records commands and submits them, together with all bytes queued before.
    pub(crate) fn submit(&self, record: impl FnOnce(&mut CommandEncoder)) -> Result<SubmissionIndex, DeviceError> {
        self.guard("a command buffer", 0, || {
            let mut encoder = self.raw.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            record(&mut encoder);
            self.queue.submit([encoder.finish()])
        })
    }

    /// Waits until a submission is done.
    pub(crate) fn wait(&self, submission: &SubmissionIndex) -> Result<(), DeviceError> {
        let wait = PollType::Wait { submission_index: Some(submission.clone()), timeout: None };
        // wgpu panics when the device is lost during a wait; that must stay an error of this device.
        match catch_unwind(AssertUnwindSafe(|| self.raw.poll(wait))) {
            Ok(Ok(_)) => self.check(),
            Ok(Err(error)) => Err(self.lost(error.to_string())),
            Err(_) => Err(self.lost("the driver failed during a wait".into())),
        }
    }

    /// Starts to map the first `bytes` of a read-back buffer that `submission` fills.
    pub(crate) fn start_reading(
        &self,
        buffer: &Buffer,
        bytes: u64,
        submission: SubmissionIndex,
    ) -> Result<Reading, DeviceError> {
        let (sender, done) = mpsc::channel();
        self.guard("a mapping", bytes, || {
            buffer.slice(..bytes).map_async(MapMode::Read, move |outcome| {
                // The receiver is gone only when its owner gave up on the device.
                drop(sender.send(outcome));
            });
        })?;
        Ok(Reading { buffer: buffer.clone(), bytes, submission, done })
    }

    /// Waits for the submission, then hands the mapped bytes to `take`.
    pub(crate) fn finish_reading<T>(&self, reading: Reading, take: impl FnOnce(&[u8]) -> T) -> Result<T, DeviceError> {
        let mapped = loop {
            self.wait(&reading.submission)?;
            // Another lane's wait may be the one that delivers this answer, a moment later.
            match reading.done.recv_timeout(Duration::from_millis(10)) {
                Ok(outcome) => break outcome,
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return Err(self.lost("a mapping was dropped".into())),
            }
        };
        mapped.map_err(|error| self.lost(error.to_string()))?;
        let taken = match reading.buffer.slice(..reading.bytes).get_mapped_range() {
            Ok(view) => Ok(take(&view)),
            Err(error) => Err(self.lost(error.to_string())),
        };
        reading.buffer.unmap();
        taken
    }

    /// Submits commands that fill a read-back buffer, and hands its first `bytes` to `take`.
    pub(crate) fn submit_and_read<T>(
        &self,
        read_back: &Buffer,
        bytes: u64,
        record: impl FnOnce(&mut CommandEncoder),
        take: impl FnOnce(&[u8]) -> T,
    ) -> Result<T, DeviceError> {
        let submission = self.submit(record)?;
        let reading = self.start_reading(read_back, bytes, submission)?;
        self.finish_reading(reading, take)
    }
}

/// A read-back that is under way.
pub(crate) struct Reading {
    buffer: Buffer,
    bytes: u64,
    submission: SubmissionIndex,
    done: mpsc::Receiver<Result<(), wgpu::BufferAsyncError>>,
}

#[cfg(test)]
mod tests {
    use zgpu_core::work::{DrawJob, ScanItem};

    use super::*;
    use crate::PoraDevice;

    /// A lane with a draw behind it; `None`, with the reason printed, on a machine without an adapter. `ZGPU_REQUIRE_WGPU=1`
    /// makes that a failure.
    fn lane_with_pad() -> Option<(PoraDevice, crate::Pads, DrawJob)> {
        let mut lane = match crate::list() {
            (devices, unusable) if devices.is_empty() => {
                assert!(std::env::var("ZGPU_REQUIRE_WGPU").as_deref() != Ok("1"), "no wgpu device: {unusable:?}");
                eprintln!("skipped, no wgpu device: {unusable:?}");
                return None;
            }
            _ => PoraDevice::open(0).expect("a listed device opens"),
        };
        let job = DrawJob {
            miner_id: [1; 32],
            nonce_base: [2; 32],
            count: 1,
            subtask_digest: [3; 32],
            range_digest: [4; 32],
        };
        let mut pads = lane.alloc_pads(1).expect("a pad");
        lane.draw(&job, &mut pads, &mut Vec::new()).expect("a draw");
        Some((lane, pads, job))
    }

    /// Every call, once the device is gone, is an error of the fatal kind: no panic, and no result.
    fn expect_lost(mut lane: PoraDevice, mut pads: crate::Pads, loads: &crate::Loads, job: &DrawJob) {
        let item = ScanItem { pad_slot: 0, load_slot: 0, available: u64::MAX };
        let mut hits = Vec::new();
        let outcomes = [
            lane.scan(&pads, loads, &[item], &[0xff; 32], &mut hits),
            lane.draw(job, &mut pads, &mut Vec::new()),
            lane.seal(&[[0; 32]], &mut [0; 4096]),
            lane.upload_loads(&mut loads.clone(), 0, &[]).and(lane.lane().map(drop)),
        ];
        for outcome in &outcomes[..3] {
            assert!(matches!(outcome, Err(error @ DeviceError::Lost { .. }) if error.is_fatal()), "{outcome:?}");
        }
        assert!(outcomes[3].is_err() && hits.is_empty() && pads.drawn() == 0);
    }

    #[test]
    fn a_destroyed_device_is_lost_and_nothing_panics() {
        let Some((mut lane, pads, job)) = lane_with_pad() else { return };
        let loads = lane.alloc_loads(1).expect("a load");
        lane.device.raw.destroy();
        expect_lost(lane, pads, &loads, &job);
    }

    #[test]
    fn an_error_outside_every_scope_is_not_forgotten() {
        let Some((mut lane, pads, job)) = lane_with_pad() else { return };
        let loads = lane.alloc_loads(1).expect("a load");
        // Too large for any device: reported to the handler, as no scope is open.
        let size = u64::MAX - 3;
        let usage = BufferUsages::STORAGE;
        drop(lane.device.raw.create_buffer(&BufferDescriptor { label: None, size, usage, mapped_at_creation: false }));
        expect_lost(lane, pads, &loads, &job);
    }
}
