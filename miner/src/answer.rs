//! Hits, the answers made of them, and the whole check that the mine contract applies to an answer.

use std::fmt;

use zgpu_core::{
    digest::H256,
    flow::fold_siblings,
    tree::{sector_hashes, unbalanced_root},
    units::{BYTES_PER_SEAL, SEALS_PER_LOAD, SECTORS_PER_LOAD, SECTORS_PER_SEAL},
};

use crate::{
    plain,
    puzzle::{MineRange, Puzzle, PuzzleError, RangeError},
};

/// keccak256 of nothing: the digest of a context that cannot be mined.
const EMPTY_DIGEST: H256 = H256([
    0xc5, 0xd2, 0x46, 0x01, 0x86, 0xf7, 0x23, 0x3c, 0x92, 0x7e, 0x7d, 0xb2, 0xdc, 0xc7, 0x03, 0xc0, 0xe5, 0x00, 0xb6,
    0x53, 0xca, 0x82, 0x27, 0x3b, 0x7b, 0xfa, 0xd8, 0x04, 0x5d, 0x85, 0xa4, 0x70,
]);

/// A winning ticket, re-checked by the plain twin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hit {
    /// Generation of the puzzle it was found for.
    pub generation: u64,
    /// The nonce.
    pub nonce: H256,
    /// Index in the flow of the load that the nonce recalls.
    pub load: u64,
    /// Which seal of the load, 0 to 63.
    pub seal: u32,
    /// Its PoRA hash, a big-endian integer: smaller is better.
    pub quality: H256,
}

impl Hit {
    /// First sector of the seal in the flow.
    pub fn recall_position(&self) -> u64 {
        self.load * SECTORS_PER_LOAD as u64 + u64::from(self.seal) * SECTORS_PER_SEAL as u64
    }
}

/// What is sent to the mine contract: the content of its `PoraAnswer`.
#[derive(Clone, PartialEq, Eq)]
pub struct Answer {
    /// Digest of the mining context.
    pub context_digest: H256,
    /// The nonce.
    pub nonce: H256,
    /// Identity of the miner.
    pub miner_id: H256,
    /// Range that was mined.
    pub range: MineRange,
    /// First sector of the seal in the flow.
    pub recall_position: u64,
    /// Which seal of the load, 0 to 63.
    pub seal_offset: u64,
    /// Digest of the context that the seal was sealed with.
    pub sealed_context_digest: H256,
    /// The sealed bytes.
    pub sealed_data: [u8; BYTES_PER_SEAL],
    /// Siblings from the seal's root up to the flow root, which is left out.
    pub merkle_proof: Vec<H256>,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer")
            .field("context_digest", &self.context_digest)
            .field("nonce", &self.nonce)
            .field("miner_id", &self.miner_id)
            .field("range", &self.range)
            .field("recall_position", &self.recall_position)
            .field("seal_offset", &self.seal_offset)
            .field("sealed_context_digest", &self.sealed_context_digest)
            .field("merkle_proof", &self.merkle_proof)
            .finish_non_exhaustive()
    }
}

impl Answer {
    /// The answer that a hit makes, with the sealed bytes, the context they were sealed with, and the seal's proof.
    pub fn new(
        puzzle: &Puzzle,
        hit: &Hit,
        sealed_context_digest: H256,
        sealed_data: [u8; BYTES_PER_SEAL],
        merkle_proof: Vec<H256>,
    ) -> Self {
        Answer {
            context_digest: puzzle.context_digest,
            nonce: hit.nonce,
            miner_id: puzzle.miner_id,
            range: puzzle.range,
            recall_position: hit.recall_position(),
            seal_offset: u64::from(hit.seal),
            sealed_context_digest,
            sealed_data,
            merkle_proof,
        }
    }
}

/// What the check of an answer needs from the chain beyond the puzzle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainRules {
    /// Most shards that may be declared.
    pub max_shards: u64,
    /// First sector of the epoch range of the answer's sealed context.
    pub seal_epoch_start: u64,
    /// First sector behind it.
    pub seal_epoch_end: u64,
}

/// Why the mine contract would refuse an answer. The text starts with the contract's own where it has one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The miner id is zero.
    #[error("MinerId cannot be zero")]
    NoMiner,
    /// The answer belongs to another context.
    #[error("Inconsistent mining digest: {got}, the context is {expected}")]
    Context {
        /// Digest in the answer.
        got: H256,
        /// Digest of the puzzle.
        expected: H256,
    },
    /// The context cannot be mined.
    #[error("Empty digest can not mine")]
    EmptyContext,
    /// The range breaks a rule.
    #[error(transparent)]
    Range(#[from] RangeError),
    /// The sealed context does not cover the seal's last sector.
    #[error("Invalid sealed context digest: it covers sectors {start} to {end}, the seal ends at {seal_end}")]
    SealEpoch {
        /// First sector of the epoch range.
        start: u64,
        /// First sector behind it.
        end: u64,
        /// First sector behind the seal.
        seal_end: u64,
    },
    /// The sealed context digest is zero.
    #[error("Seal digest cannot be empty")]
    NoSealContext,
    /// The unsealed bytes do not belong to the flow.
    #[error("Inconsistent merkle root: {got}, the flow root is {expected}")]
    Proof {
        /// Root that the proof leads to.
        got: H256,
        /// Root of the context.
        expected: H256,
    },
    /// The nonce recalls a load outside the range.
    #[error("Recall position out of bound")]
    OutOfBound,
    /// The nonce recalls another seal.
    #[error("Incorrect recall position: {got}, the nonce recalls {expected}")]
    Recall {
        /// Position in the answer.
        got: u64,
        /// Position by the rules.
        expected: u64,
    },
    /// A load has no such seal.
    #[error("seal {got} of a load, the last is {last}", last = SEALS_PER_LOAD - 1)]
    NoSuchSeal {
        /// Seal in the answer.
        got: u64,
    },
    /// The ticket does not win.
    #[error("Do not reach target quality: {got}, at most {target}")]
    Quality {
        /// Its quality.
        got: H256,
        /// Largest that wins.
        target: H256,
    },
    /// The puzzle itself cannot be answered.
    #[error(transparent)]
    Puzzle(#[from] PuzzleError),
}

/// Checks an answer as the mine contract does, in its order, and returns the answer's quality.
///
/// What is not checked: what only the chain knows (registration, block window, number of submissions, earlier answers).
pub fn check_answer(answer: &Answer, puzzle: &Puzzle, rules: &ChainRules) -> Result<H256, Refusal> {
    if answer.miner_id == H256::ZERO {
        return Err(Refusal::NoMiner);
    }
    if answer.context_digest != puzzle.context_digest {
        return Err(Refusal::Context { got: answer.context_digest, expected: puzzle.context_digest });
    }
    if puzzle.context_digest == EMPTY_DIGEST {
        return Err(Refusal::EmptyContext);
    }
    answer.range.check_shape(puzzle.flow_length)?;
    let seal_end = answer.recall_position.saturating_add(SECTORS_PER_SEAL as u64);
    if rules.seal_epoch_start >= seal_end || rules.seal_epoch_end < seal_end {
        return Err(Refusal::SealEpoch { start: rules.seal_epoch_start, end: rules.seal_epoch_end, seal_end });
    }
    answer.range.check_shards(rules.max_shards)?;
    if answer.sealed_context_digest == H256::ZERO {
        return Err(Refusal::NoSealContext);
    }
    let root = flow_root(answer);
    if root != puzzle.flow_root {
        return Err(Refusal::Proof { got: root, expected: puzzle.flow_root });
    }
    let quality = recalled_quality(answer, puzzle)?;
    let target = H256(answer.range.target(puzzle.flow_length, puzzle.pora_target)?);
    if quality > target {
        return Err(Refusal::Quality { got: quality, target });
    }
    Ok(quality)
}

/// Root that the unsealed bytes and the proof lead to.
fn flow_root(answer: &Answer) -> H256 {
    let mut data = answer.sealed_data;
    let mask = plain::first_mask(&answer.miner_id, &answer.sealed_context_digest, answer.recall_position);
    plain::unseal(&mask, &mut data);
    let seal_root = unbalanced_root(&sector_hashes(&data)).expect("a seal has 16 sectors");
    fold_siblings(seal_root, answer.recall_position / SECTORS_PER_SEAL as u64, &answer.merkle_proof)
}

/// Quality of the answer's seal, if its nonce recalls that seal.
fn recalled_quality(answer: &Answer, puzzle: &Puzzle) -> Result<H256, Refusal> {
    if answer.seal_offset >= SEALS_PER_LOAD as u64 {
        return Err(Refusal::NoSuchSeal { got: answer.seal_offset });
    }
    let pad = plain::draw(&answer.miner_id.0, &answer.nonce.0, &puzzle.subtask_digest.0, &answer.range.digest().0);
    let load = answer.range.recall(&pad.recall_seed).ok_or(Refusal::OutOfBound)?;
    let expected = load
        .checked_mul(SECTORS_PER_LOAD as u64)
        .map(|start| start + answer.seal_offset * SECTORS_PER_SEAL as u64)
        .ok_or(Refusal::OutOfBound)?;
    if answer.recall_position != expected {
        return Err(Refusal::Recall { got: answer.recall_position, expected });
    }
    Ok(H256(plain::quality(&pad, answer.seal_offset as usize, &answer.sealed_data)))
}
