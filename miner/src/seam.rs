//! The seam between the miner and its devices: stage-sized calls, with pads and loads that stay in device memory.

use zgpu_core::{
    device::{DeviceError, DeviceInfo},
    units::BYTES_PER_PAD,
    work::{DrawJob, ScanHit, ScanItem},
};

/// Seals data.
pub trait Sealer {
    /// Seals consecutive seals in place. `data`: 4096 bytes for each of `first_masks`; see [`crate::plain::first_mask`].
    ///
    /// Twin: [`crate::plain::seal`].
    fn seal(&mut self, first_masks: &[[u8; 32]], data: &mut [u8]) -> Result<(), DeviceError>;
}

/// Draws nonces and scans loads.
pub trait Prospector: Send + Sized {
    /// Scratch pads and pad seeds of one draw, in device memory.
    type Pads: Send;
    /// Sealed loads in device memory; a clone is another handle to the same memory.
    type Loads: Clone + Send + Sync;

    /// What the device is.
    fn info(&self) -> &DeviceInfo;

    /// Another queue of work on the same device, for another thread; it can use the same loads.
    fn lane(&self) -> Result<Self, DeviceError>;

    /// Lanes that keep the device busy: 2 where work on the host overlaps with the device's.
    fn preferred_lanes(&self) -> usize {
        2
    }

    /// Nonces per draw that keep the device busy without making it deaf to a stop.
    fn preferred_batch(&self) -> u32;

    /// Memory for the pads of up to `capacity` nonces.
    fn alloc_pads(&mut self, capacity: u32) -> Result<Self::Pads, DeviceError>;

    /// Draws the nonces of `job` into `pads`, and replaces `recall_seeds` by theirs, in order.
    ///
    /// Twin: [`crate::plain::draw`].
    fn draw(
        &mut self,
        job: &DrawJob,
        pads: &mut Self::Pads,
        recall_seeds: &mut Vec<[u8; 32]>,
    ) -> Result<(), DeviceError>;

    /// Memory for `capacity` loads.
    fn alloc_loads(&mut self, capacity: u32) -> Result<Self::Loads, DeviceError>;

    /// Copies whole loads (256 KiB each) into the slots from `first_slot` on.
    fn upload_loads(&mut self, loads: &mut Self::Loads, first_slot: u32, bytes: &[u8]) -> Result<(), DeviceError>;

    /// Hashes every available seal of every item, and replaces `hits` by those with a quality of at most `target`
    /// (a big-endian integer), ordered by item and seal.
    ///
    /// Twin: [`crate::plain::quality`].
    fn scan(
        &mut self,
        pads: &Self::Pads,
        loads: &Self::Loads,
        items: &[ScanItem],
        target: &[u8; 32],
        hits: &mut Vec<ScanHit>,
    ) -> Result<(), DeviceError>;

    /// Scratch pad in slot `slot` of the last draw, where the device lets the host see it.
    fn read_pad(&mut self, _pads: &Self::Pads, _slot: u32) -> Result<Option<Box<[u8; BYTES_PER_PAD]>>, DeviceError> {
        Ok(None)
    }
}
