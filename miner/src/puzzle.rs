//! What is asked of a miner: the range of the flow that it recalls from, and the target that a ticket has to meet.
//!
//! Source: the rules of the network's mine contract (ranges, recall, target).

use ruint::aliases::U256;
use serde::{Deserialize, Serialize};
use zgpu_core::{
    digest::{H256, keccak256},
    units::{SECTORS_PER_LOAD, SECTORS_PER_MAX_MINING_RANGE, SECTORS_PER_PRICING},
};

const LOAD: u64 = SECTORS_PER_LOAD as u64;

/// Why the mine contract refuses a range. The text starts with the contract's own.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// The start is no multiple of a pricing chunk.
    #[error("Start position is not aligned: {start} is no multiple of {SECTORS_PER_PRICING}")]
    StartNotAligned {
        /// First sector.
        start: u64,
    },
    /// The range ends behind the last whole load of the flow.
    #[error("Mining range overflow: {start} + {length} is above {limit}")]
    Overflow {
        /// First sector.
        start: u64,
        /// Sectors in the range.
        length: u64,
        /// Sectors in the whole loads of the flow.
        limit: u64,
    },
    /// The range is longer than 8 TiB per shard.
    #[error("Mining range too long: {length} sectors, at most {limit}")]
    TooLong {
        /// Sectors in the range.
        length: u64,
        /// Most that may be.
        limit: u128,
    },
    /// The range is shorter than what has to be covered.
    #[error("Mining range too short: {length} sectors, at least {limit}")]
    TooShort {
        /// Sectors in the range.
        length: u64,
        /// Least that has to be.
        limit: u128,
    },
    /// The shard's id has bits where the mask has some.
    #[error("Masked bits should be zero: shard {shard_id:#x}, mask {shard_mask:#x}")]
    MaskedBits {
        /// Id of the shard.
        shard_id: u64,
        /// Mask of the shard.
        shard_mask: u64,
    },
    /// More shards than the chain allows.
    #[error("Exceeding the allowed number of shards: {shards}, at most {limit}")]
    TooManyShards {
        /// Shards that the mask makes.
        shards: u128,
        /// Most that may be.
        limit: u64,
    },
}

impl RangeError {
    /// The text that the contract reverts with, without our numbers.
    pub fn revert_string(&self) -> &'static str {
        match self {
            RangeError::StartNotAligned { .. } => "Start position is not aligned",
            RangeError::Overflow { .. } => "Mining range overflow",
            RangeError::TooLong { .. } => "Mining range too long",
            RangeError::TooShort { .. } => "Mining range too short",
            RangeError::MaskedBits { .. } => "Masked bits should be zero",
            RangeError::TooManyShards { .. } => "Exceeding the allowed number of shards",
        }
    }
}

/// Why a puzzle has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PuzzleError {
    /// The flow has no whole load yet.
    #[error("the flow has {flow_length} sectors, mining needs at least {LOAD}")]
    FlowTooShort {
        /// Sectors in the flow.
        flow_length: u64,
    },
    /// The range has no whole load.
    #[error("the mining range has {length} sectors, a load has {LOAD}")]
    RangeTooShort {
        /// Sectors in the range.
        length: u64,
    },
    /// There are more shards than sectors, so a share of the flow is nothing.
    #[error("a flow of {flow_length} sectors cannot be shared among {shards} shards")]
    TooManyShards {
        /// Sectors in the flow.
        flow_length: u64,
        /// Shards of the range.
        shards: u128,
    },
    /// A shard's count is no power of two, or its id is too large.
    #[error("shard {id} of {count}: the count must be a power of two above the id")]
    Shard {
        /// Id asked for.
        id: u64,
        /// Count asked for.
        count: u64,
    },
}

pub use zgpu_core::shard::Shard;

/// The part of the flow that a miner recalls from. Positions and lengths are in sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MineRange {
    /// First sector, a multiple of a pricing chunk.
    pub start_position: u64,
    /// Sectors in the range.
    pub mining_length: u64,
    /// Bits that every load's offset has where the mask has none.
    pub shard_id: u64,
    /// Bits of a load's offset that the recall seed decides.
    pub shard_mask: u64,
}

impl MineRange {
    /// The reference node's choice: as long as may be, starting at `configured_start` (sectors) or before, where it fits.
    pub fn choose(flow_length: u64, shard: Shard, configured_start: u64) -> Result<Self, PuzzleError> {
        if !shard.count.is_power_of_two() || shard.id >= shard.count {
            return Err(PuzzleError::Shard { id: shard.id, count: shard.count });
        }
        let minable = flow_length / LOAD * LOAD;
        if minable == 0 {
            return Err(PuzzleError::FlowTooShort { flow_length });
        }
        let mining_length = minable.min(SECTORS_PER_MAX_MINING_RANGE.saturating_mul(shard.count));
        let last_start = minable - mining_length;
        Ok(MineRange {
            start_position: configured_start.min(last_start) / SECTORS_PER_PRICING * SECTORS_PER_PRICING,
            mining_length,
            shard_id: shard.id,
            shard_mask: !(shard.count - 1),
        })
    }

    /// keccak256 of the four numbers, each as a 32-byte big-endian integer.
    pub fn digest(&self) -> H256 {
        let mut bytes = [0u8; 128];
        let numbers = [self.start_position, self.mining_length, self.shard_id, self.shard_mask];
        for (word, number) in bytes.chunks_exact_mut(32).zip(numbers) {
            word[24..].copy_from_slice(&number.to_be_bytes());
        }
        keccak256(&[&bytes])
    }

    /// Whole loads in the range.
    pub fn loads(&self) -> u64 {
        self.mining_length / LOAD
    }

    /// Shards that the mask makes: 2 to the number of its zero bits.
    pub fn shards(&self) -> u128 {
        1 << self.shard_mask.count_zeros()
    }

    /// Index in the flow of the load that a recall seed (32 bytes, a big-endian integer) names.
    /// `None` when the contract would answer "Recall position out of bound", or the range has no load.
    pub fn recall(&self, seed: &[u8; 32]) -> Option<u64> {
        let loads = u128::from(self.loads());
        if loads == 0 {
            return None;
        }
        let remainder = seed.chunks_exact(8).fold(0u128, |remainder, limb| {
            let limb = u64::from_be_bytes(limb.try_into().expect("chunks of 8 bytes"));
            (remainder << 64 | u128::from(limb)) % loads
        });
        let offset = remainder as u64 & self.shard_mask | self.shard_id;
        if offset.checked_mul(LOAD)? > self.mining_length {
            return None;
        }
        (self.start_position / LOAD).checked_add(offset)
    }

    /// True when some recall seed names the load with this index in the flow.
    pub fn reaches(&self, load: u64) -> bool {
        let Some(offset) = load.checked_sub(self.start_position / LOAD) else { return false };
        offset & !self.shard_mask == self.shard_id
            && offset.checked_mul(LOAD).is_some_and(|at| at <= self.mining_length)
    }

    /// Applies the contract's rules for a flow of `flow_length` sectors and at most `max_shards` shards, in its order.
    pub fn check(&self, flow_length: u64, max_shards: u64) -> Result<(), RangeError> {
        self.check_shape(flow_length)?;
        self.check_shards(max_shards)
    }

    /// The rules that need the flow's length alone.
    pub(crate) fn check_shape(&self, flow_length: u64) -> Result<(), RangeError> {
        let (start, length) = (self.start_position, self.mining_length);
        if !start.is_multiple_of(SECTORS_PER_PRICING) {
            return Err(RangeError::StartNotAligned { start });
        }
        let limit = flow_length / LOAD * LOAD;
        if start.checked_add(length).is_none_or(|end| end > limit) {
            return Err(RangeError::Overflow { start, length, limit });
        }
        let longest = u128::from(SECTORS_PER_MAX_MINING_RANGE) * self.shards();
        if u128::from(length) > longest {
            return Err(RangeError::TooLong { length, limit: longest });
        }
        let shortest = longest.min(u128::from(limit));
        if u128::from(length) < shortest {
            return Err(RangeError::TooShort { length, limit: shortest });
        }
        if self.shard_id & self.shard_mask != 0 {
            return Err(RangeError::MaskedBits { shard_id: self.shard_id, shard_mask: self.shard_mask });
        }
        Ok(())
    }

    /// The rule about the number of shards.
    pub(crate) fn check_shards(&self, max_shards: u64) -> Result<(), RangeError> {
        if self.shards() > u128::from(max_shards) {
            return Err(RangeError::TooManyShards { shards: self.shards(), limit: max_shards });
        }
        Ok(())
    }

    /// Largest quality that wins, a 32-byte big-endian integer, for a flow of `flow_length` sectors:
    /// floor(`pora_target` / scale) · 2^64, where scale is how much larger the flow (at most 8 TiB) is than a shard's part
    /// of it, times 2^64.
    pub fn target(&self, flow_length: u64, pora_target: U256) -> Result<[u8; 32], PuzzleError> {
        let shards = self.shards();
        let share = (u128::from(flow_length) / shards).min(u128::from(SECTORS_PER_MAX_MINING_RANGE));
        if share == 0 {
            return Err(PuzzleError::TooManyShards { flow_length, shards });
        }
        // At least 2^64, since a share is not larger than the flow: the shift below cannot overflow.
        let scale_x64 = (u128::from(flow_length.min(SECTORS_PER_MAX_MINING_RANGE)) << 64) / share;
        Ok(((pora_target / U256::from(scale_x64)) << 64usize).to_be_bytes())
    }
}

/// One context's task for one miner. Immutable; a newer one has a larger generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Puzzle {
    /// Counts contexts as the miner saw them; stale work is told by it.
    pub generation: u64,
    /// Identity of the miner.
    pub miner_id: H256,
    /// Digest of the mining context.
    pub context_digest: H256,
    /// Flow root of the context.
    pub flow_root: H256,
    /// Sectors in the flow at the context.
    pub flow_length: u64,
    /// Digest of the miner's subtask.
    pub subtask_digest: H256,
    /// The chain's target, before it is scaled to the shard.
    pub pora_target: U256,
    /// Where to recall from.
    pub range: MineRange,
}

impl Puzzle {
    /// Largest quality that wins, a 32-byte big-endian integer.
    pub fn target(&self) -> Result<[u8; 32], PuzzleError> {
        if self.range.loads() == 0 {
            return Err(PuzzleError::RangeTooShort { length: self.range.mining_length });
        }
        self.range.target(self.flow_length, self.pora_target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: u64 = SECTORS_PER_MAX_MINING_RANGE;

    fn range(start_position: u64, mining_length: u64, shards: u64) -> MineRange {
        MineRange { start_position, mining_length, shard_id: 0, shard_mask: !(shards - 1) }
    }

    fn big(number: u64) -> [u8; 32] {
        U256::from(number).to_be_bytes()
    }

    #[test]
    fn chooses_what_the_contract_accepts() {
        let whole = Shard::WHOLE;
        assert_eq!(MineRange::choose(5000, whole, 0), Ok(range(0, 4096, 1)));
        assert_eq!(MineRange::choose(5000, whole, u64::MAX), Ok(range(0, 4096, 1)));
        assert_eq!(MineRange::choose(1023, whole, 0), Err(PuzzleError::FlowTooShort { flow_length: 1023 }));
        // Longer than one range: it may start later, at a pricing chunk.
        let flow = MAX + 5 * SECTORS_PER_PRICING + 3000;
        let wanted = 3 * SECTORS_PER_PRICING + 77;
        assert_eq!(MineRange::choose(flow, whole, wanted), Ok(range(3 * SECTORS_PER_PRICING, MAX, 1)));
        assert_eq!(MineRange::choose(flow, whole, u64::MAX), Ok(range(5 * SECTORS_PER_PRICING, MAX, 1)));
        for count in [1, 2, 32] {
            for flow in [1024, 5000, MAX - 1, MAX, MAX + 1, flow, 40 * MAX + 1] {
                let shard = Shard { id: count - 1, count };
                let range = MineRange::choose(flow, shard, wanted).unwrap();
                assert_eq!(range.check(flow, 32), Ok(()), "{flow} {count}");
                assert_eq!(range.shards(), u128::from(count));
            }
        }
        for (id, count) in [(0, 0), (0, 3), (2, 2)] {
            assert_eq!(MineRange::choose(5000, Shard { id, count }, 0), Err(PuzzleError::Shard { id, count }));
        }
    }

    #[test]
    fn refuses_what_the_contract_refuses_in_its_order() {
        let flow = 2 * MAX + 5000;
        let refused = |range: MineRange| range.check(flow, 4).unwrap_err().revert_string();
        assert_eq!(range(0, MAX, 1).check(flow, 4), Ok(()));
        assert_eq!(range(SECTORS_PER_PRICING, MAX, 1).check(flow, 4), Ok(()));
        assert_eq!(refused(range(1024, MAX, 1)), "Start position is not aligned");
        assert_eq!(refused(range(1024, u64::MAX, 1)), "Start position is not aligned");
        assert_eq!(refused(range(2 * MAX, MAX, 1)), "Mining range overflow");
        assert_eq!(refused(range(SECTORS_PER_PRICING, u64::MAX, 1)), "Mining range overflow");
        assert_eq!(refused(range(0, 2 * MAX + 5000, 2)), "Mining range overflow");
        assert_eq!(refused(range(0, MAX + 1, 1)), "Mining range too long");
        assert_eq!(refused(range(0, MAX - 1, 1)), "Mining range too short");
        assert_eq!(refused(range(0, 2 * MAX - 1, 2)), "Mining range too short");
        assert_eq!(refused(range(0, 2 * MAX, 4)), "Mining range too short");
        assert_eq!(range(0, 2 * MAX + 4096, 4).check(flow, 4), Ok(()));
        assert_eq!(refused(MineRange { shard_id: 2, ..range(0, 2 * MAX, 2) }), "Masked bits should be zero");
        assert_eq!(refused(range(0, 2 * MAX + 4096, 8)), "Exceeding the allowed number of shards");
        assert_eq!(
            refused(MineRange { shard_mask: 0, ..range(0, 2 * MAX + 4096, 1) }),
            "Exceeding the allowed number of shards"
        );
        let error = range(0, MAX - 1, 1).check(flow, 4).unwrap_err();
        assert!(error.to_string().contains("34359738367") && error.to_string().contains("34359738368"), "{error}");
    }

    #[test]
    fn recalls_within_the_range_or_not_at_all() {
        let three = MineRange { start_position: SECTORS_PER_PRICING, ..range(0, 3 * LOAD, 1) };
        let first = SECTORS_PER_PRICING / LOAD;
        assert_eq!(
            (0..7).map(|seed| three.recall(&big(seed)).unwrap() - first).collect::<Vec<_>>(),
            [0, 1, 2, 0, 1, 2, 0]
        );
        // 2^256 - 1 is a multiple of 3.
        assert_eq!(three.recall(&[0xff; 32]), Some(first));
        let sharded = MineRange { shard_id: 2, shard_mask: !3, ..range(0, 6 * LOAD, 1) };
        let recalled: Vec<_> = (0..6).map(|seed| sharded.recall(&big(seed))).collect();
        // 4 | 2 is load 6, which begins where the range ends: the contract lets it pass.
        assert_eq!(recalled, [Some(2), Some(2), Some(2), Some(2), Some(6), Some(6)]);
        let beyond = MineRange { shard_id: 3, shard_mask: !3, ..range(0, 6 * LOAD, 1) };
        assert_eq!(beyond.recall(&big(5)), None);
        assert_eq!(range(0, LOAD - 1, 1).recall(&big(5)), None);
        assert_eq!(MineRange { shard_id: u64::MAX, ..range(0, LOAD, 1) }.recall(&big(5)), None);
        for (range, loads) in [(sharded, 12), (three, first + 9)] {
            let reached: Vec<u64> = (0..loads).filter(|load| range.reaches(*load)).collect();
            assert!((0..100).filter_map(|seed| range.recall(&big(seed))).all(|load| reached.contains(&load)));
        }
        assert_eq!((0..12).filter(|load| sharded.reaches(*load)).collect::<Vec<_>>(), [2, 6]);
        assert!(!three.reaches(0));
    }

    #[test]
    fn remainders_equal_those_of_whole_integers() {
        let mut seed = [0u8; 32];
        for loads in [1, 2, 3, 77, (1 << 25) + 77, (1 << 33) - 5, u64::MAX >> 10] {
            for step in 0..50u8 {
                seed.iter_mut()
                    .enumerate()
                    .for_each(|(i, byte)| *byte = step.wrapping_mul(37).wrapping_add((i as u8).wrapping_mul(91)));
                let expected = U256::from_be_bytes(seed) % U256::from(loads);
                assert_eq!(range(0, loads * LOAD, 1).recall(&seed), Some(expected.to::<u64>()));
            }
        }
    }

    #[test]
    fn targets_scale_with_the_share_of_the_flow() {
        let target = |range: MineRange, flow, target| range.target(flow, target).map(U256::from_be_bytes::<32>);
        let cut = |target: U256| target >> 64usize << 64usize;
        // One shard of the whole flow: the scale is 1.
        assert_eq!(target(range(0, 4096, 1), 5000, U256::MAX), Ok(cut(U256::MAX)));
        assert_eq!(target(range(0, 4096, 1), 5000, U256::ZERO), Ok(U256::ZERO));
        // Four shards of a flow that is shorter than 8 TiB: a quarter.
        assert_eq!(target(range(0, 4096, 4), 4096, U256::MAX), Ok(cut(U256::MAX >> 2usize)));
        // Four shards of four times 8 TiB: each has a whole range, so nothing is scaled.
        assert_eq!(target(range(0, 4 * MAX, 4), 4 * MAX, U256::MAX), Ok(cut(U256::MAX)));
        assert_eq!(target(range(0, 2 * MAX, 4), 2 * MAX, U256::MAX), Ok(cut(U256::MAX >> 1usize)));
        // The share is rounded down: 5 / 2 is 2, so the scale is 2.5.
        assert_eq!(target(range(0, 0, 2), 5, U256::from(5) << 100usize), Ok(U256::from(2) << 100usize));
        let none = PuzzleError::TooManyShards { flow_length: 3, shards: 4 };
        assert_eq!(target(range(0, 0, 4), 3, U256::MAX), Err(none));
        assert!(target(MineRange { shard_mask: 0, ..range(0, 4096, 1) }, u64::MAX, U256::MAX).is_err());
        assert!(target(range(0, 4096, 1), 0, U256::MAX).is_err());
    }
}
