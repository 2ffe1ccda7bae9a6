//! Headers of blocks, and the trail of those that were read: enough to find where a reorganised chain left the old one,
//! however deep, in a bounded number of hashes.

use alloy::{
    primitives::{B256, Bloom, BloomInput, U64},
    sol_types::SolEvent,
};
use serde::Deserialize;
use zgpu_core::H256;

use super::{client::ChainClient, contracts::Flow, error::ChainError, rpc::EndpointId};

/// Latest blocks whose hashes are all kept; of older ones only some are.
const MARKS_OF_LATEST: usize = 128;
/// Bytes of a mark in a note.
const BYTES_PER_MARK: usize = 8 + 32 + 8;
/// Version of the note's layout.
const NOTE_VERSION: u8 = 1;
/// Bits of a bloom filter above which it tells too little: it would have us ask about nearly every block.
const MAX_BLOOM_BITS: u32 = 1024;

/// What a block's header tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Number of the block.
    pub number: u64,
    /// Its hash.
    pub hash: H256,
    /// Hash of the block before.
    pub parent: H256,
    bloom: Option<Bloom>,
}

/// A header as endpoints tell it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    number: Option<U64>,
    hash: Option<B256>,
    parent_hash: B256,
    logs_bloom: Option<Bloom>,
}

impl ChainClient {
    /// Header of block `number`, if the chain has it, and the endpoint that told it.
    pub async fn header(&self, number: u64) -> Result<(Option<Header>, EndpointId), ChainError> {
        let params = (U64::from(number), false);
        let (told, from) = self.rpc().call_from("eth_getBlockByNumber", "", params).await?;
        Ok((self.read_header(number, told)?, from))
    }

    /// Header of block `number` as this endpoint has it.
    pub async fn header_at(&self, endpoint: EndpointId, number: u64) -> Result<Option<Header>, ChainError> {
        let params = (U64::from(number), false);
        let told = self.rpc().call_again_at(endpoint, "eth_getBlockByNumber", "", params).await?;
        self.read_header(number, told)
    }

    fn read_header(&self, number: u64, told: Option<Told>) -> Result<Option<Header>, ChainError> {
        let Some(told) = told else { return Ok(None) };
        let got = told.number.map(|number| number.to::<u64>());
        match (got, told.hash) {
            (Some(got), Some(hash)) if got == number => {
                let (hash, parent) = (H256(hash.0), H256(told.parent_hash.0));
                Ok(Some(Header { number, hash, parent, bloom: told.logs_bloom }))
            }
            _ => Err(self.rpc().bad_reply("eth_getBlockByNumber", format!("block {got:?} came for block {number}"))),
        }
    }

    /// Whether the header says that its block may have submissions. False where it tells nothing.
    pub fn may_have_submissions(&self, header: &Header) -> bool {
        header.bloom.as_ref().is_some_and(|bloom| {
            let bits: u32 = bloom.0.iter().map(|byte| byte.count_ones()).sum();
            bits <= MAX_BLOOM_BITS
                && bloom.contains_input(BloomInput::Raw(self.contracts().flow.as_slice()))
                && bloom.contains_input(BloomInput::Raw(Flow::Submit::SIGNATURE_HASH.as_slice()))
        })
    }
}

/// A block up to which the log was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Number of the block.
    pub block: u64,
    /// Its hash.
    pub hash: H256,
    /// Number of the first submission behind the block.
    pub next_seq: u64,
}

/// Marks of blocks that were read, ascending: every one of the latest, and of older ones so many that the distance to
/// any block at most doubles.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trail {
    marks: Vec<Mark>,
}

impl Trail {
    /// The last block that was read.
    pub fn tip(&self) -> Option<Mark> {
        self.marks.last().copied()
    }

    /// Number of the first submission that was not read.
    pub fn next_seq(&self) -> u64 {
        self.tip().map_or(0, |tip| tip.next_seq)
    }

    /// The marks, ascending.
    pub fn marks(&self) -> &[Mark] {
        &self.marks
    }

    /// Adds a mark behind the others, and drops old ones that are not needed any more. One that is not behind the others
    /// is left out.
    pub fn push(&mut self, mark: Mark) {
        if self.tip().is_none_or(|tip| tip.block < mark.block && tip.next_seq <= mark.next_seq) {
            self.marks.push(mark);
            self.thin();
        }
    }

    /// Keeps the first `count` marks.
    pub fn keep(&mut self, count: usize) {
        self.marks.truncate(count);
    }

    /// Drops marks from the end until the last one fulfils `is_good`.
    pub fn back_to(&mut self, is_good: impl Fn(&Mark) -> bool) {
        while self.marks.last().is_some_and(|mark| !is_good(mark)) {
            self.marks.pop();
        }
    }

    /// Drops every old mark without which its neighbours are still within a factor of two in distance from the tip.
    fn thin(&mut self) {
        let Some(old) = self.marks.len().checked_sub(MARKS_OF_LATEST).filter(|old| *old > 0) else { return };
        let tip = self.marks[self.marks.len() - 1].block;
        let mut newer = self.marks[old].block;
        let mut kept: Vec<Mark> = Vec::new();
        for index in (0..old).rev() {
            let is_needed = match index.checked_sub(1) {
                Some(older) => tip - self.marks[older].block > (tip - newer).saturating_mul(2),
                // The oldest is kept: it is what a chain that was cut very deep may still have.
                None => true,
            };
            if is_needed {
                newer = self.marks[index].block;
                kept.push(self.marks[index]);
            }
        }
        kept.reverse();
        kept.extend_from_slice(&self.marks[old..]);
        self.marks = kept;
    }

    /// As bytes of a note.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(1 + self.marks.len() * BYTES_PER_MARK);
        bytes.push(NOTE_VERSION);
        for mark in &self.marks {
            bytes.extend_from_slice(&mark.block.to_be_bytes());
            bytes.extend_from_slice(&mark.hash.0);
            bytes.extend_from_slice(&mark.next_seq.to_be_bytes());
        }
        bytes
    }

    /// Reads the bytes of a note; `None` if they are damaged or of another version.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (version, bytes) = bytes.split_first()?;
        if *version != NOTE_VERSION || !bytes.len().is_multiple_of(BYTES_PER_MARK) {
            return None;
        }
        let number = |bytes: &[u8]| bytes.try_into().map(u64::from_be_bytes).ok();
        let mark = |bytes: &[u8]| {
            let hash = H256(bytes[8..40].try_into().ok()?);
            Some(Mark { block: number(&bytes[..8])?, hash, next_seq: number(&bytes[40..])? })
        };
        let marks: Vec<Mark> = bytes.chunks_exact(BYTES_PER_MARK).map(mark).collect::<Option<_>>()?;
        let ascend = |pair: &[Mark]| pair[0].block < pair[1].block && pair[0].next_seq <= pair[1].next_seq;
        marks.windows(2).all(ascend).then_some(Trail { marks })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(block: u64) -> Mark {
        Mark { block, hash: H256([block as u8; 32]), next_seq: block / 3 }
    }

    #[test]
    fn a_trail_is_short_and_has_a_mark_near_every_depth() {
        let mut trail = Trail::default();
        for block in 0..100_000 {
            trail.push(mark(block));
            assert!(trail.marks().len() <= MARKS_OF_LATEST + 40, "{}", trail.marks().len());
        }
        let tip = trail.tip().unwrap().block;
        assert!(trail.marks()[trail.marks().len() - 100..].windows(2).all(|pair| pair[0].block + 1 == pair[1].block));
        assert_eq!(trail.marks()[0], mark(0));
        for pair in trail.marks().windows(2) {
            assert!(tip - pair[0].block <= 2 * (tip - pair[1].block).max(1) + 1, "{pair:?}");
        }
        assert!(trail.encode().len() < 10_000);
    }

    #[test]
    fn notes_are_read_back_and_damaged_ones_are_not() {
        let mut trail = Trail::default();
        [3, 8, 900].iter().for_each(|block| trail.push(mark(*block)));
        assert_eq!(Trail::decode(&trail.encode()), Some(trail.clone()));
        assert_eq!(Trail::decode(&Trail::default().encode()), Some(Trail::default()));
        let mut bytes = trail.encode();
        bytes.pop();
        assert_eq!(Trail::decode(&bytes), None);
        assert_eq!(Trail::decode(&[]), None);
        let mut twice = trail.encode();
        twice.extend_from_slice(&trail.encode()[1..]);
        assert_eq!(Trail::decode(&twice), None, "blocks ascend");
    }

    #[test]
    fn marks_are_dropped_from_the_end() {
        let mut trail = Trail::default();
        [3, 8, 900].iter().for_each(|block| trail.push(mark(*block)));
        trail.push(mark(900));
        trail.push(Mark { next_seq: 0, ..mark(901) });
        assert_eq!(trail.marks().len(), 3);
        trail.back_to(|mark| mark.next_seq < 100);
        assert_eq!(trail.tip(), Some(mark(8)));
        trail.back_to(|_| false);
        assert_eq!((trail.tip(), trail.next_seq()), (None, 0));
    }
}
