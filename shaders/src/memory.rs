//! Pads and loads in device memory, cut into buffers small enough to bind.

use std::sync::Arc;

use wgpu::{Buffer, BufferUsages};
use zgpu_core::device::DeviceError;
use zgpu_core::units::{BYTES_PER_CELL, BYTES_PER_LOAD, BYTES_PER_PAD};

use crate::device::Device;

/// Scratch pads and pad seeds of the last draw, by slot, in the memory of one device.
pub struct Pads {
    pub(crate) device: u64,
    pub(crate) capacity: u32,
    pub(crate) drawn: u32,
    /// Pads in every tile but the last.
    pub(crate) per_tile: u32,
    pub(crate) tiles: Vec<PadTile>,
}

pub(crate) struct PadTile {
    /// 16 KiB a pad.
    pub(crate) pads: Buffer,
    /// 64 B a pad.
    pub(crate) seeds: Buffer,
}

impl Pads {
    /// Most nonces that a draw into these pads can have.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Nonces of the last draw: slots below this can be scanned.
    pub fn drawn(&self) -> u32 {
        self.drawn
    }

    pub(crate) fn alloc(device: &Device, capacity: u32, binding_bytes: u64) -> Result<Self, DeviceError> {
        let usage = BufferUsages::STORAGE | BufferUsages::COPY_SRC;
        check_size(device, "scratch pads", capacity, BYTES_PER_PAD + BYTES_PER_CELL)?;
        let per_tile = pieces_per_tile(binding_bytes, BYTES_PER_PAD);
        let tiles = tile_sizes(capacity, per_tile).map(|pads| {
            Ok(PadTile {
                pads: device.buffer("scratch pads", bytes_of(pads, BYTES_PER_PAD), usage)?,
                seeds: device.buffer("pad seeds", bytes_of(pads, BYTES_PER_CELL), usage)?,
            })
        });
        Ok(Self { device: device.number, capacity, drawn: 0, per_tile, tiles: tiles.collect::<Result<_, _>>()? })
    }
}

/// Sealed loads by slot, in the memory of one device. A clone is one more owner of the same memory.
///
/// A slot that was never uploaded reads as zeros.
#[derive(Clone)]
pub struct Loads {
    pub(crate) inner: Arc<LoadTiles>,
}

pub(crate) struct LoadTiles {
    pub(crate) device: u64,
    pub(crate) slots: u32,
    /// Loads in every tile but the last.
    pub(crate) per_tile: u32,
    /// 256 KiB a load.
    pub(crate) tiles: Vec<Buffer>,
}

impl Loads {
    /// Number of slots.
    pub fn slots(&self) -> u32 {
        self.inner.slots
    }

    pub(crate) fn alloc(device: &Device, slots: u32, binding_bytes: u64) -> Result<Self, DeviceError> {
        check_size(device, "loads", slots, BYTES_PER_LOAD)?;
        let per_tile = pieces_per_tile(binding_bytes, BYTES_PER_LOAD);
        let usage = BufferUsages::STORAGE | BufferUsages::COPY_DST;
        let tiles =
            tile_sizes(slots, per_tile).map(|loads| device.buffer("loads", bytes_of(loads, BYTES_PER_LOAD), usage));
        let tiles = tiles.collect::<Result<_, _>>()?;
        Ok(Self { inner: Arc::new(LoadTiles { device: device.number, slots, per_tile, tiles }) })
    }
}

fn bytes_of(pieces: u32, bytes_per_piece: usize) -> u64 {
    u64::from(pieces) * bytes_per_piece as u64
}

/// Refuses at once what can never fit, rather than after filling the device.
fn check_size(device: &Device, what: &'static str, pieces: u32, bytes_per_piece: usize) -> Result<(), DeviceError> {
    let wanted = bytes_of(pieces, bytes_per_piece);
    match device.info.memory_bytes {
        known if known != 0 && wanted > known => Err(device.out_of_memory(what, wanted)),
        _ => Ok(()),
    }
}

fn pieces_per_tile(binding_bytes: u64, bytes_per_piece: usize) -> u32 {
    u32::try_from(binding_bytes / bytes_per_piece as u64).unwrap_or(u32::MAX).max(1)
}

/// How many pieces each tile holds.
fn tile_sizes(pieces: u32, per_tile: u32) -> impl Iterator<Item = u32> {
    (0..pieces.div_ceil(per_tile)).map(move |tile| per_tile.min(pieces - tile * per_tile))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_hold_every_piece_once() {
        assert_eq!(tile_sizes(0, 4).count(), 0);
        assert_eq!(tile_sizes(8, 4).collect::<Vec<_>>(), [4, 4]);
        assert_eq!(tile_sizes(9, 4).collect::<Vec<_>>(), [4, 4, 1]);
        assert_eq!(pieces_per_tile(128 << 20, BYTES_PER_LOAD), 512);
        assert_eq!(pieces_per_tile(1, BYTES_PER_LOAD), 1);
    }
}
