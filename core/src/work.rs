//! The shapes of PoRA work that pass between the miner and a device. Plain data, no protocol.

/// Nonces to draw: for each, its scratch pad and recall seed.
///
/// Nonce `i` of a job is `nonce_base` with its last 8 bytes, read as a big-endian integer, raised by `i` (wrapping).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrawJob {
    /// Identity of the miner, 32 bytes as on chain.
    pub miner_id: [u8; 32],
    /// First nonce.
    pub nonce_base: [u8; 32],
    /// Number of nonces.
    pub count: u32,
    /// Digest of the subtask, 32 bytes as on chain.
    pub subtask_digest: [u8; 32],
    /// Digest of the mining range.
    pub range_digest: [u8; 32],
}

impl DrawJob {
    /// Nonce `i` of the job.
    pub fn nonce(&self, i: u32) -> [u8; 32] {
        let mut nonce = self.nonce_base;
        let mut counter = [0u8; 8];
        counter.copy_from_slice(&nonce[24..]);
        let counter = u64::from_be_bytes(counter).wrapping_add(u64::from(i));
        nonce[24..].copy_from_slice(&counter.to_be_bytes());
        nonce
    }
}

/// One load to hash against one scratch pad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanItem {
    /// Which nonce of the last draw: its pad and pad seed are used.
    pub pad_slot: u32,
    /// Which slot of the loads holds the sealed bytes.
    pub load_slot: u32,
    /// Bit `i` is set when seal `i` of the load is there in sealed form; the others are passed over.
    pub available: u64,
}

/// A seal whose quality meets the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ScanHit {
    /// Which item of the scan.
    pub item: u32,
    /// Which seal of the load, 0 to 63.
    pub seal: u32,
    /// First 32 bytes of the PoRA hash, as they come out of BLAKE2b: a big-endian integer.
    pub quality: [u8; 32],
}
