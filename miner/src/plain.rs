//! The plain twin: sealing and tickets written straight from the protocol, one hash after the other, with the hash
//! libraries that the network's own node uses. It judges every backend, and re-checks every hit.
//!
//! Source: the storage protocol's pad, recall, ticket and sealing rules.

use blake2::{Blake2b512, Digest};
use zgpu_core::{
    digest::{H256, keccak256},
    units::{BYTES_PER_CELL, BYTES_PER_PAD, BYTES_PER_SEAL, BYTES_PER_UNIT, SEALS_PER_PAD},
};

fn blake2b512(parts: &[&[u8]]) -> [u8; 64] {
    let mut hasher = Blake2b512::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize().into()
}

/// A number as a 32-byte big-endian integer.
fn word(number: u64) -> [u8; 32] {
    let mut bytes = [0u8; 32];
    bytes[24..].copy_from_slice(&number.to_be_bytes());
    bytes
}

/// Mask of a seal's first unit: keccak256(miner id ‖ context digest ‖ start sector as 32-byte big-endian integer).
///
/// `context_digest` is that of the epoch range which contains the seal's last sector.
pub fn first_mask(miner_id: &H256, context_digest: &H256, start_sector: u64) -> [u8; 32] {
    keccak256(&[&miner_id.0, &context_digest.0, &word(start_sector)]).0
}

fn xor_into(data: &mut [u8], mask: &[u8]) {
    data.iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
}

/// Seals a seal's bytes in place: each unit XOR its mask, the next mask being keccak256 of the sealed unit.
pub fn seal(first_mask: &[u8; 32], data: &mut [u8; BYTES_PER_SEAL]) {
    let mut mask = *first_mask;
    for unit in data.chunks_exact_mut(BYTES_PER_UNIT) {
        xor_into(unit, &mask);
        mask = keccak256(&[unit]).0;
    }
}

/// Takes the seal off again, in place.
pub fn unseal(first_mask: &[u8; 32], data: &mut [u8; BYTES_PER_SEAL]) {
    let mut mask = *first_mask;
    for unit in data.chunks_exact_mut(BYTES_PER_UNIT) {
        let next = keccak256(&[unit]).0;
        xor_into(unit, &mask);
        mask = next;
    }
}

/// What a nonce gives: its pad seed, its scratch pad and its recall seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pad {
    /// blake2b-512 of what the pad depends on, 64 bytes.
    pub seed: [u8; 64],
    /// The scratch pad, 16 KiB.
    pub bytes: Vec<u8>,
    /// Decides which load is recalled: a big-endian integer.
    pub recall_seed: [u8; 32],
}

/// Draws a nonce: pad seed = blake2b-512(miner id ‖ nonce ‖ subtask digest ‖ range digest); a cell is two chained keccaks
/// of the 64 bytes before it, one for each half; 256 cells make the pad, and keccak256 of the last is the recall seed.
pub fn draw(miner_id: &[u8; 32], nonce: &[u8; 32], subtask_digest: &[u8; 32], range_digest: &[u8; 32]) -> Pad {
    let seed = blake2b512(&[miner_id, nonce, subtask_digest, range_digest]);
    let mut cell = seed;
    let mut bytes = Vec::with_capacity(BYTES_PER_PAD);
    while bytes.len() < BYTES_PER_PAD {
        let low = keccak256(&[&cell]);
        cell[..BYTES_PER_CELL / 2].copy_from_slice(&low.0);
        let high = keccak256(&[&cell]);
        cell[BYTES_PER_CELL / 2..].copy_from_slice(&high.0);
        bytes.extend(cell);
    }
    Pad { seed, bytes, recall_seed: keccak256(&[&cell]).0 }
}

/// PoRA hash of a seal: the first 32 bytes of blake2b-512(index as 32-byte big-endian integer ‖ pad seed ‖ 32 zeros ‖
/// sealed bytes XOR the pad's quarter `index` mod 4); a big-endian integer.
pub fn quality(pad: &Pad, index: usize, sealed: &[u8; BYTES_PER_SEAL]) -> [u8; 32] {
    let mut mixed = *sealed;
    xor_into(&mut mixed, &pad.bytes[index % SEALS_PER_PAD * BYTES_PER_SEAL..][..BYTES_PER_SEAL]);
    let hash = blake2b512(&[&word(index as u64), &pad.seed, &[0u8; 32], &mixed]);
    hash.first_chunk().copied().expect("a hash has 64 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::puzzle::MineRange;

    fn known(text: &str) -> H256 {
        text.parse().unwrap()
    }

    fn sheet_seal() -> [u8; BYTES_PER_SEAL] {
        let mut data = std::array::from_fn(|i| i as u8);
        let mask = first_mask(&keccak256(&[b"minerId"]), &keccak256(&[b"44"]), 3248);
        seal(&mask, &mut data);
        data
    }

    #[test]
    fn seals_as_the_protocol_sheet_says() {
        let mut data = sheet_seal();
        assert_eq!(data[..32], known("c8a1a6f7e3720279ad1f9ddc73e68e7beec65ce04ee27fc0011c6529ce85365c").0);
        assert_eq!(data[4064..], known("78d9d0f719821b82fde91fe764b610501bbdb78a4650ca4ca88ad12f7b60b3f1").0);
        assert_eq!(keccak256(&[&data]), known("b269d1c2bd1d5276ef34ce34f1a1de20e4c101ed69655df653f7071a5040bb18"));
        let mask = first_mask(&keccak256(&[b"minerId"]), &keccak256(&[b"44"]), 3248);
        unseal(&mask, &mut data);
        assert_eq!(data, std::array::from_fn(|i| i as u8));
    }

    #[test]
    fn draws_and_hashes_as_the_protocol_sheet_says() {
        let range = MineRange { start_position: 0, mining_length: 16384, shard_id: 0, shard_mask: u64::MAX };
        let digest = range.digest();
        assert_eq!(digest, known("0428b8d537318479957e9cfcb45d2c3913808f11bfc15ef366eda4cf589fa3c0"));
        let sharded = MineRange { shard_id: 3, shard_mask: !7, ..range };
        assert_eq!(sharded.digest(), known("db177891bc81af9ac0a017f559506ad93d6bdab07d1f860876ff7279c52312e3"));
        let miner = keccak256(&[b"minerId"]);
        let pad = draw(&miner.0, &keccak256(&[b"nonce"]).0, &keccak256(&[b"subtask"]).0, &digest.0);
        assert_eq!(pad.seed[..32], known("706598a2a5bc2763950fe6a1a34222ffffd8ad88b51ebff14324305d8d354bd4").0);
        assert_eq!(pad.bytes[..32], known("c6006507e5b8c8cb428180063a6ccc572cd298b91634deb660db0bb0c6b7c6c6").0);
        assert_eq!(pad.recall_seed, known("b4c8db2cfa042669157f1f8ffd57c2f4e05ee0c5e0e2108e68a60106245a442c").0);
        assert_eq!(range.recall(&pad.recall_seed), Some(12));
        let quality = quality(&pad, 11, &sheet_seal());
        assert_eq!(quality, known("528aa39154f5e6568da275462c07cff795e92edf96f7a9f62429f79edb304e36").0);
    }
}
