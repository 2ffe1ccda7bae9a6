//! Sealing: raw data in, sealed data out, in place.

use bytemuck::{Pod, Zeroable};
use wgpu::{BindGroup, Buffer, BufferUsages, ComputePassDescriptor, DeviceType};
use zgpu_core::device::DeviceError;
use zgpu_core::units::{BYTES_PER_SEAL, BYTES_PER_UNIT};

use crate::adapter::WORKGROUP;
use crate::device::{Device, Reading};
use crate::pora::{PoraDevice, expect_same};
use crate::program::Program;

/// `SealParams` of `seal.wgsl`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct SealParams {
    count: u32,
}

/// What sealing needs on the device. Two slots: the device works on one while the host fills and empties the other.
pub(crate) struct Sealing {
    program: Program,
    seals_per_slot: u32,
    slots: [Slot; 2],
}

struct Slot {
    params: Buffer,
    masks: Buffer,
    data: Buffer,
    read_back: Buffer,
    group: BindGroup,
}

impl PoraDevice {
    /// Seals 4 KiB pieces in place. For the 128 units of 32 B of a seal: `sealed = data XOR mask`, next mask =
    /// `keccak256(sealed)`; `first_masks` has the first mask of each seal.
    ///
    /// Fails with [`DeviceError::Shape`] unless `data` is 4096 bytes for each mask. After any other failure `data` may be sealed
    /// in part.
    pub fn seal(&mut self, first_masks: &[[u8; 32]], data: &mut [u8]) -> Result<(), DeviceError> {
        expect_same("bytes to seal", (first_masks.len() * BYTES_PER_SEAL) as u64, data.len() as u64)?;
        if first_masks.is_empty() {
            return Ok(());
        }
        let sealing = match self.sealing.take() {
            Some(sealing) => sealing,
            None => Sealing::new(&self.device, self.seals_per_slot())?,
        };
        let outcome = sealing.run(&self.device, first_masks, data);
        // A slot that failed may still be mapped: only a sound one is kept.
        self.sealing = outcome.is_ok().then_some(sealing);
        outcome
    }

    fn seals_per_slot(&self) -> u32 {
        let preferred = match self.device.kind {
            DeviceType::Cpu => 512,
            DeviceType::DiscreteGpu | DeviceType::VirtualGpu => 16384,
            DeviceType::IntegratedGpu | DeviceType::Other => 4096,
        };
        let bindable = self.binding_bytes() / BYTES_PER_SEAL as u64;
        let most = bindable.min(self.tuning().submission.unwrap_or(u32::MAX).max(1).into());
        u32::try_from(most.min(preferred)).expect("at most 16384")
    }
}

impl Sealing {
    fn new(device: &Device, seals_per_slot: u32) -> Result<Self, DeviceError> {
        let program = device.seal_program()?;
        let data_bytes = u64::from(seals_per_slot) * BYTES_PER_SEAL as u64;
        let mask_bytes = u64::from(seals_per_slot) * BYTES_PER_UNIT as u64;
        let slot = || {
            let copied = BufferUsages::STORAGE | BufferUsages::COPY_DST;
            let params = BufferUsages::UNIFORM | BufferUsages::COPY_DST;
            let params = device.buffer("seal parameters", size_of::<SealParams>() as u64, params)?;
            let masks = device.buffer("masks", mask_bytes, copied)?;
            let data = device.buffer("data to seal", data_bytes, copied | BufferUsages::COPY_SRC)?;
            let read_back = BufferUsages::MAP_READ | BufferUsages::COPY_DST;
            let read_back = device.buffer("sealed data", data_bytes, read_back)?;
            let group = device.bind(&program, params.as_entire_binding(), &[&masks, &data])?;
            Ok(Slot { params, masks, data, read_back, group })
        };
        let slots = [slot()?, slot()?];
        Ok(Self { program, seals_per_slot, slots })
    }

    fn run(&self, device: &Device, first_masks: &[[u8; 32]], data: &mut [u8]) -> Result<(), DeviceError> {
        let seals_per_slot = self.seals_per_slot as usize;
        let mut before: Option<(Reading, &mut [u8])> = None;
        let pieces = data.chunks_mut(seals_per_slot * BYTES_PER_SEAL).zip(first_masks.chunks(seals_per_slot));
        for (slot, (piece, masks)) in self.slots.iter().cycle().zip(pieces) {
            let reading = self.start(device, slot, masks, piece)?;
            if let Some((reading, piece)) = before.replace((reading, piece)) {
                device.finish_reading(reading, |sealed| piece.copy_from_slice(sealed))?;
            }
        }
        match before {
            Some((reading, piece)) => device.finish_reading(reading, |sealed| piece.copy_from_slice(sealed)),
            None => Ok(()),
        }
    }

    fn start(&self, device: &Device, slot: &Slot, masks: &[[u8; 32]], piece: &[u8]) -> Result<Reading, DeviceError> {
        let count = masks.len() as u32;
        let bytes = piece.len() as u64;
        device.write(&slot.params, 0, bytemuck::bytes_of(&SealParams { count }))?;
        device.write(&slot.masks, 0, masks.as_flattened())?;
        device.write(&slot.data, 0, piece)?;
        let submission = device.submit(|encoder| {
            let mut pass = encoder.begin_compute_pass(&ComputePassDescriptor::default());
            pass.set_pipeline(&self.program.pipeline);
            pass.set_bind_group(0, &slot.group, &[]);
            pass.dispatch_workgroups(count.div_ceil(WORKGROUP), 1, 1);
            drop(pass);
            encoder.copy_buffer_to_buffer(&slot.data, 0, &slot.read_back, 0, bytes);
        })?;
        device.start_reading(&slot.read_back, bytes, submission)
    }
}
