//! Every backend behind the seam's trait, and the choice among them at run time.

use std::sync::Arc;

use zgpu_core::device::{BackendKind, DeviceError, DeviceInfo, UnusableDevice};

use crate::{
    cpu::{self, CpuEncoder},
    engine::EngineOptions,
    params::ProverParams,
    seam::Encoder,
};

/// Puts a sibling crate's device, which has the seam's calls as its own methods, behind the seam's trait.
#[cfg(any(feature = "cuda", feature = "wgpu"))]
macro_rules! device_of {
    ($device:ty, $blob:ty) => {
        impl Encoder for $device {
            type Blob = $blob;

            fn info(&self) -> &DeviceInfo {
                <$device>::info(self)
            }
            fn dimensions(&self) -> Dimensions {
                <$device>::dimensions(self)
            }
            fn lane(&self) -> Result<Self, DeviceError> {
                <$device>::lane(self)
            }
            fn preferred_lanes(&self) -> usize {
                2
            }
            fn alloc_blob(&mut self) -> Result<$blob, DeviceError> {
                <$device>::alloc_blob(self)
            }
            fn extend(
                &mut self,
                data: &[u8],
                length: [u8; BYTES_PER_LENGTH],
                blob: &mut $blob,
            ) -> Result<(), DeviceError> {
                <$device>::extend(self, data, length, blob)
            }
            fn commit(&mut self, blob: &mut $blob) -> Result<(), DeviceError> {
                <$device>::commit(self, blob)
            }
            fn hash(&mut self, blob: &mut $blob) -> Result<(), DeviceError> {
                <$device>::hash(self, blob)
            }
            fn slices(&mut self, blob: &mut $blob, slices: &mut [u8]) -> Result<BlobRoots, DeviceError> {
                <$device>::slices(self, blob, slices)
            }
            fn wait(&mut self) -> Result<(), DeviceError> {
                <$device>::wait(self)
            }
            fn read_coefficients(&mut self, blob: &$blob) -> Result<Vec<u8>, DeviceError> {
                <$device>::read_coefficients(self, blob)
            }
            fn read_coset(&mut self, blob: &$blob, coset: usize) -> Result<Vec<u8>, DeviceError> {
                <$device>::read_coset(self, blob, coset)
            }
        }
    };
}

#[cfg(any(feature = "cuda", feature = "wgpu"))]
use zgpu_core::blob::{BYTES_PER_LENGTH, BlobRoots, Dimensions};

#[cfg(feature = "cuda")]
device_of!(zgpu_kernels::BlobDevice, zgpu_kernels::Blob);
#[cfg(feature = "emulate")]
device_of!(zgpu_kernels::emulated::BlobDevice, zgpu_kernels::emulated::Blob);
#[cfg(feature = "wgpu")]
device_of!(zgpu_shaders::BlobDevice, zgpu_shaders::Blob);

/// What to do with a device once its type is known.
pub trait DeviceVisitor {
    /// What comes of it.
    type Output;

    /// Takes the device.
    fn visit<E: Encoder + 'static>(self, device: E) -> Self::Output;
}

/// Devices of one backend, and why others cannot be used.
pub(crate) fn list(backend: BackendKind) -> (Vec<DeviceInfo>, Vec<UnusableDevice>) {
    match backend {
        BackendKind::Cpu => cpu::list(),
        #[cfg(feature = "cuda")]
        BackendKind::Cuda => zgpu_kernels::list(),
        #[cfg(feature = "wgpu")]
        BackendKind::Wgpu => zgpu_shaders::list(),
        #[cfg(not(all(feature = "cuda", feature = "wgpu")))]
        absent => (Vec::new(), vec![UnusableDevice::left_out(absent)]),
    }
}

/// Opens one device by its backend and its index there, with the points of `params`, and hands it to `visitor`.
pub fn with_device_at<V: DeviceVisitor<Output = Result<T, DeviceError>>, T>(
    backend: BackendKind,
    index: usize,
    params: &Arc<ProverParams>,
    options: EngineOptions,
    visitor: V,
) -> Result<T, DeviceError> {
    let memory = options.memory_bytes;
    match backend {
        BackendKind::Cpu => visitor.visit(CpuEncoder::open(index, params, memory)?),
        #[cfg(feature = "cuda")]
        BackendKind::Cuda => visitor.visit(zgpu_kernels::BlobDevice::open(index, &params.bases(), memory)?),
        #[cfg(feature = "wgpu")]
        BackendKind::Wgpu => visitor.visit(zgpu_shaders::BlobDevice::open(index, &params.bases(), memory)?),
        #[cfg(not(all(feature = "cuda", feature = "wgpu")))]
        absent => Err(DeviceError::none_usable(absent, list(absent).1)),
    }
}
