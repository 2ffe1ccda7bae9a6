//! Sizes and counts of the storage protocol, each once; later ones are computed from earlier ones.
//!
//! Source: the 0G Storage contracts' vocabulary. Unit 32 B, sector 256 B, seal 4 KiB, pad 16 KiB,
//! load 256 KiB (also called a segment when it is part of a file), pricing chunk 8 GiB.

/// Bytes in a unit, the word that sealing works on.
pub const BYTES_PER_UNIT: usize = 32;
/// Bytes in a sector, the leaf of every storage merkle tree.
pub const BYTES_PER_SECTOR: usize = 256;
/// Bytes in a seal, the piece that is sealed, hashed and proven as a whole.
pub const BYTES_PER_SEAL: usize = 4096;
/// Bytes in a scratch pad.
pub const BYTES_PER_PAD: usize = 16 * 1024;
/// Bytes in a load, the piece that one recall reads.
pub const BYTES_PER_LOAD: usize = 256 * 1024;
/// Bytes in one digest cell of a scratch pad (one BLAKE2b-512 output).
pub const BYTES_PER_CELL: usize = 64;

/// Units in a seal.
pub const UNITS_PER_SEAL: usize = BYTES_PER_SEAL / BYTES_PER_UNIT;
/// Sectors in a seal.
pub const SECTORS_PER_SEAL: usize = BYTES_PER_SEAL / BYTES_PER_SECTOR;
/// Sectors in a load.
pub const SECTORS_PER_LOAD: usize = BYTES_PER_LOAD / BYTES_PER_SECTOR;
/// Seals in a load.
pub const SEALS_PER_LOAD: usize = BYTES_PER_LOAD / BYTES_PER_SEAL;
/// Seals that one scratch pad covers: seal `i` is mixed with quarter `i mod 4`.
pub const SEALS_PER_PAD: usize = BYTES_PER_PAD / BYTES_PER_SEAL;
/// Digest cells in a scratch pad.
pub const CELLS_PER_PAD: usize = BYTES_PER_PAD / BYTES_PER_CELL;

/// Height of a seal's node in the flow tree: a seal has 2^4 sectors.
pub const LG_SECTORS_PER_SEAL: u32 = 4;
/// Height of a load's node in the flow tree: a load has 2^10 sectors.
pub const LG_SECTORS_PER_LOAD: u32 = 10;
/// Height of a pricing chunk's node in the flow tree: 2^25 sectors, 8 GiB.
pub const LG_SECTORS_PER_PRICING: u32 = 25;
/// Sectors in a pricing chunk.
pub const SECTORS_PER_PRICING: u64 = 1 << LG_SECTORS_PER_PRICING;
/// Loads in a pricing chunk.
pub const LOADS_PER_PRICING: u64 = SECTORS_PER_PRICING >> LG_SECTORS_PER_LOAD;
/// Sectors in the longest mining range of one shard, 8 TiB.
pub const SECTORS_PER_MAX_MINING_RANGE: u64 = 1 << 35;
/// Height that no node of the flow tree reaches.
pub const MAX_FLOW_HEIGHT: u32 = 64;

const _: () = assert!(SECTORS_PER_SEAL == 1 << LG_SECTORS_PER_SEAL);
const _: () = assert!(SECTORS_PER_LOAD == 1 << LG_SECTORS_PER_LOAD);
const _: () = assert!(SECTORS_PER_PRICING * BYTES_PER_SECTOR as u64 == 8 << 30);
const _: () = assert!(SEALS_PER_LOAD == 64, "a load's available seals fit one u64");
