//! Merkle trees over sectors: the zero ladder, and roots of balanced and unbalanced trees.

use std::sync::LazyLock;

use crate::{
    digest::{H256, keccak256, parent},
    units::{BYTES_PER_SECTOR, MAX_FLOW_HEIGHT},
};

static ZEROS: LazyLock<[H256; MAX_FLOW_HEIGHT as usize]> = LazyLock::new(|| {
    let mut ladder = [H256::ZERO; MAX_FLOW_HEIGHT as usize];
    ladder[0] = keccak256(&[&[0u8; BYTES_PER_SECTOR]]);
    for height in 1..ladder.len() {
        ladder[height] = parent(&ladder[height - 1], &ladder[height - 1]);
    }
    ladder
});

/// Root of a tree of 2^`height` zero sectors.
///
/// # Panics
/// When `height` is [`MAX_FLOW_HEIGHT`] or more; no tree of the protocol is that high.
pub fn zero_root(height: u32) -> H256 {
    ZEROS[height as usize]
}

/// Hash of one sector: keccak256 of its 256 bytes; a shorter one is filled up with zeros.
///
/// # Panics
/// When `sector` is longer than 256 bytes.
pub fn sector_hash(sector: &[u8]) -> H256 {
    keccak256(&[sector, &[0u8; BYTES_PER_SECTOR][sector.len()..]])
}

/// Hashes of the sectors of `data`, the last one filled up with zeros.
pub fn sector_hashes(data: &[u8]) -> Vec<H256> {
    data.chunks(BYTES_PER_SECTOR).map(sector_hash).collect()
}

/// Every level of a tree whose left child is the largest power of two below the number of its leaves, at every node:
/// the leaves first, the root last. An odd node moves up as it is; it is never paired with itself. For 2^k leaves this
/// is the balanced tree. No leaves give one empty level.
///
/// Source: the file trees of the network's clients.
pub fn unbalanced_levels(leaves: Vec<H256>) -> Vec<Vec<H256>> {
    let mut levels = vec![leaves];
    while levels[levels.len() - 1].len() > 1 {
        let below = &levels[levels.len() - 1];
        let pairs = below.chunks(2);
        levels.push(pairs.map(|pair| if pair.len() == 2 { parent(&pair[0], &pair[1]) } else { pair[0] }).collect());
    }
    levels
}

/// Root of [`unbalanced_levels`]; `None` for no leaves.
pub fn unbalanced_root(leaves: &[H256]) -> Option<H256> {
    unbalanced_levels(leaves.to_vec()).pop().and_then(|root| root.first().copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ladder_ends_where_the_network_says() {
        let known = |text: &str| text.parse::<H256>().unwrap();
        assert_eq!(zero_root(0), known("d397b3b043d87fcd6fad1291ff0bfd16401c274896d8c63a923727f077b8e0b5"));
        assert_eq!(zero_root(10), known("e68d02859bb6211cec64f52368b77d422de3b8eac34bf615942b814b643301b5"));
        assert_eq!(zero_root(63), known("b48a92d40b61dc995ceecee4cded6415050dcece448b1e0b5e5b6a0e6981f3ef"));
    }

    #[test]
    fn unbalanced_roots_of_six_and_seven_zero_sectors() {
        let root = |leaves| unbalanced_root(&vec![zero_root(0); leaves]).unwrap().to_string();
        assert_eq!(root(6), "0x567c47a879794dd489a210dec17d31cc5919bc427d138d716a8107e025e2dbcb");
        assert_eq!(root(7), "0x294253ab31cbf90dbbbef755a75ff1601da790e35c365f530e7c1a1ca904dcf8");
        assert_eq!(unbalanced_root(&[]), None);
    }
}
