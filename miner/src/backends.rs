//! Every backend behind the seam's traits, and the choice among them at run time.

use zgpu_core::device::{BackendChoice, BackendKind, DeviceError, DeviceInfo, UnusableDevice};

use crate::{
    cpu::{self, CpuDevice},
    seam::{Prospector, Sealer},
};

/// Puts a sibling crate's device, which has the seam's calls as its own methods, behind the seam's traits.
#[cfg(any(feature = "cuda", feature = "wgpu"))]
macro_rules! device_of {
    ($device:ty, $pads:ty, $loads:ty $(, $more:item)*) => {
        impl Sealer for $device {
            fn seal(&mut self, first_masks: &[[u8; 32]], data: &mut [u8]) -> Result<(), DeviceError> {
                <$device>::seal(self, first_masks, data)
            }
        }

        impl Prospector for $device {
            type Pads = $pads;
            type Loads = $loads;

            fn info(&self) -> &DeviceInfo {
                <$device>::info(self)
            }
            fn lane(&self) -> Result<Self, DeviceError> {
                <$device>::lane(self)
            }
            fn preferred_batch(&self) -> u32 {
                <$device>::preferred_batch(self)
            }
            fn alloc_pads(&mut self, capacity: u32) -> Result<$pads, DeviceError> {
                <$device>::alloc_pads(self, capacity)
            }
            fn draw(
                &mut self,
                job: &DrawJob,
                pads: &mut $pads,
                recall_seeds: &mut Vec<[u8; 32]>,
            ) -> Result<(), DeviceError> {
                <$device>::draw(self, job, pads, recall_seeds)
            }
            fn alloc_loads(&mut self, capacity: u32) -> Result<$loads, DeviceError> {
                <$device>::alloc_loads(self, capacity)
            }
            fn upload_loads(&mut self, loads: &mut $loads, first_slot: u32, bytes: &[u8]) -> Result<(), DeviceError> {
                <$device>::upload_loads(self, loads, first_slot, bytes)
            }
            fn scan(
                &mut self,
                pads: &$pads,
                loads: &$loads,
                items: &[ScanItem],
                target: &[u8; 32],
                hits: &mut Vec<ScanHit>,
            ) -> Result<(), DeviceError> {
                <$device>::scan(self, pads, loads, items, target, hits)?;
                // Devices report hits in the order in which they finish.
                hits.sort_unstable();
                Ok(())
            }
            $($more)*
        }
    };
}

#[cfg(feature = "wgpu")]
use zgpu_core::units::BYTES_PER_PAD;
#[cfg(any(feature = "cuda", feature = "wgpu"))]
use zgpu_core::work::{DrawJob, ScanHit, ScanItem};

#[cfg(feature = "cuda")]
device_of!(zgpu_kernels::PoraDevice, zgpu_kernels::Pads, zgpu_kernels::Loads);
#[cfg(feature = "emulate")]
device_of!(zgpu_kernels::emulated::PoraDevice, zgpu_kernels::emulated::Pads, zgpu_kernels::emulated::Loads);
#[cfg(feature = "wgpu")]
device_of!(
    zgpu_shaders::PoraDevice,
    zgpu_shaders::Pads,
    zgpu_shaders::Loads,
    fn read_pad(
        &mut self,
        pads: &zgpu_shaders::Pads,
        slot: u32,
    ) -> Result<Option<Box<[u8; BYTES_PER_PAD]>>, DeviceError> {
        Ok(Some(Box::new(zgpu_shaders::PoraDevice::read_pad(self, pads, slot)?.0)))
    }
);

/// What to do with a device once its type is known.
pub trait DeviceVisitor {
    /// What comes of it.
    type Output;

    /// Takes the device.
    fn visit<P: Prospector + Sealer + 'static>(self, device: P) -> Self::Output;
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

/// Opens one device by its backend and its index there, and hands it to `visitor`.
pub fn with_device_at<V: DeviceVisitor>(
    backend: BackendKind,
    index: usize,
    visitor: V,
) -> Result<V::Output, DeviceError> {
    match backend {
        BackendKind::Cpu => Ok(visitor.visit(CpuDevice::open(index)?)),
        #[cfg(feature = "cuda")]
        BackendKind::Cuda => Ok(visitor.visit(zgpu_kernels::PoraDevice::open(index)?)),
        #[cfg(feature = "wgpu")]
        BackendKind::Wgpu => Ok(visitor.visit(zgpu_shaders::PoraDevice::open(index)?)),
        #[cfg(not(all(feature = "cuda", feature = "wgpu")))]
        absent => Err(DeviceError::none_usable(absent, list(absent).1)),
    }
}

/// Opens the device that `choice` names and hands it to `visitor`.
pub fn with_device<V: DeviceVisitor>(choice: BackendChoice, visitor: V) -> Result<V::Output, DeviceError> {
    let (backend, index) = choice.pick(list)?;
    with_device_at(backend, index, visitor)
}
