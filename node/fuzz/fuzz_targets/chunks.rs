//! Sectors with their proofs: only the true sectors of a flow are taken for its own, whatever is changed about them.
//! The first bytes choose the length of the flow and the range, the rest changes what an honest peer would send.
#![no_main]

use std::convert::Infallible;

use libfuzzer_sys::fuzz_target;
use zgpu_core::{
    H256,
    digest::parent,
    flow::{self, FlowNodes},
    tree::sector_hash,
    units::BYTES_PER_SECTOR,
};
use zgpu_node::net::{
    chunks::{prove, verify},
    wire::{TxId, rpc::ChunkRequest, rpc::ChunksWithProof},
};

const FILE_START: u64 = 3;

/// A flow of which every sector is known: sector i is filled with the byte i.
struct Whole(u64);

fn sector(position: u64) -> Vec<u8> {
    vec![position as u8; BYTES_PER_SECTOR]
}

impl FlowNodes for Whole {
    type Error = Infallible;

    fn node(&self, height: u32, index: u64) -> Result<Option<H256>, Infallible> {
        if height > 0 {
            let [left, right] = [2 * index, 2 * index + 1].map(|index| self.node(height - 1, index));
            return Ok(left?.zip(right?).map(|(left, right)| parent(&left, &right)));
        }
        Ok((index < self.0).then(|| if index == 0 { flow::RESERVED_LEAF } else { sector_hash(&sector(index)) }))
    }
}

fuzz_target!(|input: &[u8]| {
    let [length, start, end, changes @ ..] = input else { return };
    let length = 4 + u64::from(length % 29);
    let (start, end) = (u64::from(start % 29), u64::from(end % 30));
    if start >= end || FILE_START + end > length {
        return;
    }
    let tree = Whole(length);
    let root = flow::root_at(&tree, length).expect("it cannot fail");
    let prove = |position| prove(&tree, length, FILE_START + position).expect("all of it is known");
    let data = (start..end).flat_map(|position| sector(FILE_START + position)).collect();
    let honest = ChunksWithProof { start, data, left: prove(start), right: prove(end - 1) };
    let request = ChunkRequest { tx_id: TxId { seq: 0, hash: H256::ZERO }, start, end, root_seq: 0 };
    assert_eq!(verify(&request, FILE_START, &honest), Ok(root));

    let mut sent = honest.clone();
    for change in changes.chunks_exact(4) {
        let [what, at, by, more] = *change else { continue };
        let place = usize::from(at) | usize::from(more) << 8;
        match what % 8 {
            0 => sent.start = sent.start.wrapping_add(u64::from(by)),
            1 => {
                let place = place % sent.data.len().max(1);
                sent.data.get_mut(place).into_iter().for_each(|byte| *byte ^= by);
            }
            2 => sent.data.truncate(place),
            3 => sent.data.resize(sent.data.len() + usize::from(by), at),
            4 | 5 => {
                let proof = if what % 8 == 4 { &mut sent.left } else { &mut sent.right };
                let place = usize::from(at) % proof.lemma.len().max(1);
                proof.lemma.get_mut(place).into_iter().for_each(|hash| hash.0[usize::from(more % 32)] ^= by);
            }
            6 => {
                let place = usize::from(at) % sent.left.path.len().max(1);
                sent.left.path.get_mut(place).into_iter().for_each(|step| *step ^= by & 1 == 1);
                sent.right.path.resize(usize::from(more % 70), by & 1 == 1);
            }
            _ => {
                std::mem::swap(&mut sent.left, &mut sent.right);
                sent.right.lemma.resize(usize::from(by), H256([at; 32]));
            }
        }
    }
    if verify(&request, FILE_START, &sent) == Ok(root) {
        assert_eq!(sent.data, honest.data, "false sectors lead to the root");
    }
});
