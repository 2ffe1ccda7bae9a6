//! A hit becomes an answer: with the sealed bytes and their proof, checked as the contract will check it.

use zgpu_core::{
    digest::H256,
    units::{BYTES_PER_LOAD, BYTES_PER_SEAL},
};
use zgpu_miner::{Answer, ChainRules, Hit, Puzzle, check_answer};

use crate::store::Store;

/// What became of a hit that was to be proven.
pub(super) enum Proof {
    /// The answer, checked as the contract will check it.
    Answer(Box<Answer>),
    /// The seal was made with this context, not with the one that the chain is said to have.
    OtherContext {
        /// The seal's context.
        sealed_with: H256,
    },
    /// The seal is not there any more, or the chain would refuse the answer; a warning says why.
    Gone,
}

/// The answer that a hit makes. `context` is the chain's context of the seal. Blocks.
pub(super) fn prove(
    store: &Store,
    puzzle: &Puzzle,
    hit: &Hit,
    context: H256,
    rules: &ChainRules,
) -> anyhow::Result<Proof> {
    match store.seal_context(hit.load, hit.seal)? {
        Some(sealed_with) if sealed_with == context => {}
        Some(sealed_with) => return Ok(Proof::OtherContext { sealed_with }),
        None => {
            tracing::warn!(load = hit.load, seal = hit.seal, "the seal is not there any more");
            return Ok(Proof::Gone);
        }
    }
    let mut load = vec![0u8; BYTES_PER_LOAD];
    let available = store.read_sealed(&puzzle.miner_id, hit.load, &mut load)?;
    if available >> hit.seal & 1 == 0 {
        tracing::warn!(load = hit.load, seal = hit.seal, "the seal is not there any more");
        return Ok(Proof::Gone);
    }
    let at = hit.seal as usize * BYTES_PER_SEAL;
    let sealed: [u8; BYTES_PER_SEAL] = load[at..at + BYTES_PER_SEAL].try_into().expect("a seal has 4096 bytes");
    let proof = store.seal_proof(puzzle.flow_length, hit.recall_position())?;
    let answer = Answer::new(puzzle, hit, context, sealed, proof);
    match check_answer(&answer, puzzle, rules) {
        Ok(_) => Ok(Proof::Answer(Box::new(answer))),
        Err(refusal) => {
            tracing::warn!(load = hit.load, seal = hit.seal, %refusal, "the chain would refuse this answer");
            Ok(Proof::Gone)
        }
    }
}
