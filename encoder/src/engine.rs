//! The engine that a service uses: one object per queue of a device, whatever the device is.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rand::Rng;
use zgpu_core::{
    blob::{BlobRoots, Dimensions},
    device::{BackendChoice, BackendKind, DeviceError, DeviceInfo, UnusableDevice},
    digest::H256,
};

use crate::{
    backends::{self, DeviceVisitor},
    blob::BlobError,
    encode::BlobId,
    params::ProverParams,
    points::{PointError, plain_point_from_bytes},
    seam::Encoder,
    slice::{EncodedSlice, SliceError},
    verify::{SliceFault, verify_slice},
};

/// Encodes blobs of one set of parameters.
pub trait Engine: Send {
    /// What the device is.
    fn info(&self) -> &DeviceInfo;

    /// Size of the matrix.
    fn dimensions(&self) -> Dimensions;

    /// Encodes `data`, and replaces the content of `slices` by all slices, one behind the other, 3R of
    /// [`Dimensions::slice_bytes`]. One of them, chosen by chance, is verified before this returns.
    fn encode(&mut self, data: &[u8], slices: &mut Vec<u8>) -> Result<Encoded, EncodeError>;
}

/// What comes of a blob beside its slices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// Commitment and roots.
    pub roots: BlobRoots,
    /// How long each stage took.
    pub times: StageTimes,
}

/// How long each stage of a blob took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StageTimes {
    /// Packing and erasure coding.
    pub extend: Duration,
    /// Commitments and proofs.
    pub commit: Duration,
    /// Trees of hashes.
    pub hash: Duration,
    /// Slices, and their way to the host.
    pub slices: Duration,
    /// Verification of one slice on the host.
    pub check: Duration,
}

impl StageTimes {
    /// All stages together.
    pub fn total(&self) -> Duration {
        self.extend + self.commit + self.hash + self.slices + self.check
    }
}

/// Why a blob was not encoded.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// The data is no blob.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The device could not do its work.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The device returned something wrong: it is not used any more.
    #[error("{device} returned a wrong slice {index} and is not used any more: {fault}")]
    Disagreement {
        /// Name of the device.
        device: String,
        /// Which slice.
        index: usize,
        /// What is wrong with it.
        fault: WrongSlice,
    },
    /// The device returned something wrong before.
    #[error("{device} returned a wrong slice before and is not used any more")]
    Quarantined {
        /// Name of the device.
        device: String,
    },
}

impl EncodeError {
    /// True when the device must not be used again without being opened anew.
    pub fn is_fatal(&self) -> bool {
        match self {
            EncodeError::Blob(_) => false,
            EncodeError::Device(error) => error.is_fatal(),
            EncodeError::Disagreement { .. } | EncodeError::Quarantined { .. } => true,
        }
    }
}

/// What is wrong with a slice that a device returned.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum WrongSlice {
    /// The commitment is none.
    #[error("the erasure commitment: {0}")]
    Commitment(#[from] PointError),
    /// The bytes are no slice.
    #[error(transparent)]
    Bytes(#[from] SliceError),
    /// It is another slice.
    #[error("it has index {0}")]
    Index(usize),
    /// It does not hold.
    #[error(transparent)]
    Fault(#[from] SliceFault),
}

/// How an engine is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineOptions {
    /// Memory for tables and blobs, in bytes: of the device, or of the host for the CPU. The backend's default if `None`.
    pub memory_bytes: Option<u64>,
}

/// Every usable device, and why others cannot be used.
pub fn devices() -> (Vec<DeviceInfo>, Vec<UnusableDevice>) {
    let (mut usable, mut unusable) = (Vec::new(), Vec::new());
    for backend in [BackendKind::Cuda, BackendKind::Wgpu, BackendKind::Cpu] {
        let (found, others) = backends::list(backend);
        usable.extend(found);
        unusable.extend(others);
    }
    (usable, unusable)
}

/// Opens the device that `choice` names, with one engine for each of its queues: at least one.
pub fn open(
    choice: BackendChoice,
    params: &Arc<ProverParams>,
    options: EngineOptions,
) -> Result<Vec<Box<dyn Engine>>, DeviceError> {
    let (backend, index) = choice.pick(backends::list)?;
    open_at(backend, index, params, options)
}

/// Opens one device by its backend and its index there, with one engine for each of its queues: at least one.
pub fn open_at(
    backend: BackendKind,
    index: usize,
    params: &Arc<ProverParams>,
    options: EngineOptions,
) -> Result<Vec<Box<dyn Engine>>, DeviceError> {
    backends::with_device_at(backend, index, params, options, Lanes(params))
}

/// Makes the engines of a device.
struct Lanes<'a>(&'a Arc<ProverParams>);

impl DeviceVisitor for Lanes<'_> {
    type Output = Result<Vec<Box<dyn Engine>>, DeviceError>;

    fn visit<E: Encoder + 'static>(self, device: E) -> Self::Output {
        let more = (1..device.preferred_lanes()).map(|_| device.lane()).collect::<Result<Vec<E>, _>>()?;
        let devices = std::iter::once(device).chain(more);
        devices.map(|device| Ok(Box::new(DeviceEngine::new(device, Arc::clone(self.0))?) as Box<dyn Engine>)).collect()
    }
}

/// An engine on an open device. Its parameters are those that the device was opened with.
pub fn engine_on<E: Encoder + 'static>(device: E, params: Arc<ProverParams>) -> Result<Box<dyn Engine>, DeviceError> {
    Ok(Box::new(DeviceEngine::new(device, params)?))
}

struct DeviceEngine<E: Encoder> {
    device: E,
    blob: E::Blob,
    params: Arc<ProverParams>,
    quarantined: bool,
}

impl<E: Encoder> DeviceEngine<E> {
    fn new(mut device: E, params: Arc<ProverParams>) -> Result<Self, DeviceError> {
        assert_eq!(device.dimensions(), params.dimensions(), "parameters and device are of one size");
        let blob = device.alloc_blob()?;
        Ok(DeviceEngine { device, blob, params, quarantined: false })
    }

    /// Verifies slice `index` on the host.
    fn check(&self, roots: &BlobRoots, index: usize, bytes: &[u8]) -> Result<(), WrongSlice> {
        let commitment = plain_point_from_bytes(&roots.commitment)?;
        let blob = BlobId { commitment, storage_root: H256(roots.storage_root) };
        let slice = EncodedSlice::from_bytes(self.params.dimensions(), bytes)?;
        if slice.proof.index != index {
            return Err(WrongSlice::Index(slice.proof.index));
        }
        Ok(verify_slice(self.params.verifier(), &blob, &slice)?)
    }
}

impl<E: Encoder> Engine for DeviceEngine<E> {
    fn info(&self) -> &DeviceInfo {
        self.device.info()
    }

    fn dimensions(&self) -> Dimensions {
        self.params.dimensions()
    }

    fn encode(&mut self, data: &[u8], slices: &mut Vec<u8>) -> Result<Encoded, EncodeError> {
        if self.quarantined {
            return Err(EncodeError::Quarantined { device: self.info().name.clone() });
        }
        let dimensions = self.dimensions();
        let maximum = dimensions.max_data_bytes();
        if data.len() > maximum {
            return Err(BlobError::TooLarge { actual: data.len(), maximum }.into());
        }
        slices.resize(dimensions.all_slices_bytes(), 0);
        let mut clock = Clock(Instant::now());
        let mut times = StageTimes::default();
        self.device.extend(data, (data.len() as u32).to_le_bytes(), &mut self.blob)?;
        self.device.wait()?;
        times.extend = clock.lap();
        self.device.commit(&mut self.blob)?;
        self.device.wait()?;
        times.commit = clock.lap();
        self.device.hash(&mut self.blob)?;
        self.device.wait()?;
        times.hash = clock.lap();
        let roots = self.device.slices(&mut self.blob, slices)?;
        times.slices = clock.lap();

        let index = rand::rng().random_range(0..dimensions.slices());
        let bytes = &slices[index * dimensions.slice_bytes()..][..dimensions.slice_bytes()];
        if let Err(fault) = self.check(&roots, index, bytes) {
            self.quarantined = true;
            return Err(EncodeError::Disagreement { device: self.info().name.clone(), index, fault });
        }
        times.check = clock.lap();
        Ok(Encoded { roots, times })
    }
}

struct Clock(Instant);

impl Clock {
    /// Time since the last call.
    fn lap(&mut self) -> Duration {
        let now = Instant::now();
        now - std::mem::replace(&mut self.0, now)
    }
}
