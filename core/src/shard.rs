//! Which share of the flow a node keeps or a miner mines.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A share of the flow: the loads whose index modulo `count` is `id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Shard {
    /// Which of the shares, below `count`.
    pub id: u64,
    /// Number of shares, a power of two.
    pub count: u64,
}

/// Why something is no shard.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShardError {
    /// The numbers do not fit.
    #[error("shard {id} of {count}: the count must be a power of two above the id")]
    Numbers {
        /// Id asked for.
        id: u64,
        /// Count asked for.
        count: u64,
    },
    /// The text is not of the form id/count.
    #[error("{text:?} is no shard; write id/count, such as 0/1 for everything or 3/4 for the last quarter")]
    Text {
        /// The text, at most its first 40 characters.
        text: String,
    },
}

impl Shard {
    /// The whole flow.
    pub const WHOLE: Shard = Shard { id: 0, count: 1 };

    /// Share `id` of `count`.
    pub fn new(id: u64, count: u64) -> Result<Shard, ShardError> {
        match count.is_power_of_two() && id < count {
            true => Ok(Shard { id, count }),
            false => Err(ShardError::Numbers { id, count }),
        }
    }

    /// True when load `load` of the flow is in the share.
    pub fn contains(&self, load: u64) -> bool {
        load % self.count == self.id
    }

    /// First load of the share that is not below `load`; `None` when it lies beyond 2^64.
    pub fn next(&self, load: u64) -> Option<u64> {
        load.checked_add((self.id + self.count - load % self.count) % self.count)
    }

    /// Loads of the share in `0..loads`.
    pub fn loads_below(&self, loads: u64) -> u64 {
        loads / self.count + u64::from(loads % self.count > self.id)
    }

    /// Its two halves; `None` when there is no count twice as large.
    pub fn halves(&self) -> Option<[Shard; 2]> {
        let count = self.count.checked_mul(2)?;
        Some([Shard { id: self.id, count }, Shard { id: self.id + self.count, count }])
    }

    /// True when every load of this share is in `other`.
    pub fn is_within(&self, other: &Shard) -> bool {
        self.count >= other.count && self.id % other.count == other.id
    }
}

impl Default for Shard {
    fn default() -> Self {
        Shard::WHOLE
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.id, self.count)
    }
}

impl FromStr for Shard {
    type Err = ShardError;

    /// Reads `id/count`, with or without spaces around the parts.
    fn from_str(text: &str) -> Result<Shard, ShardError> {
        let parts = text.split_once('/').map(|(id, count)| (id.trim().parse(), count.trim().parse()));
        match parts {
            Some((Ok(id), Ok(count))) => Shard::new(id, count),
            _ => Err(ShardError::Text { text: text.chars().take(40).collect() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_has_the_loads_of_its_residue() {
        for count in [1, 2, 4, 8] {
            for id in 0..count {
                let shard = Shard::new(id, count).unwrap();
                for loads in 0..40 {
                    let held: Vec<u64> = (0..loads).filter(|load| shard.contains(*load)).collect();
                    assert_eq!(shard.loads_below(loads), held.len() as u64);
                    let next = shard.next(loads).unwrap();
                    assert!(shard.contains(next) && next >= loads && next < loads + count, "{shard} {loads}");
                }
                let halves = shard.halves().unwrap();
                for load in 0..40 {
                    assert_eq!(
                        halves.iter().filter(|half| half.contains(load)).count(),
                        usize::from(shard.contains(load))
                    );
                }
                assert!(halves.iter().all(|half| half.is_within(&shard) && !shard.is_within(half)));
            }
        }
        assert_eq!(Shard { id: 5, count: 1 << 63 }.halves(), None);
        assert_eq!(Shard { id: 0, count: 1 << 63 }.next(u64::MAX), None);
    }

    #[test]
    fn shards_are_written_as_fractions() {
        for (text, shard) in [("0/1", Shard::WHOLE), ("3 / 4", Shard { id: 3, count: 4 })] {
            assert_eq!(text.parse(), Ok(shard));
            assert_eq!(shard.to_string().parse(), Ok(shard));
        }
        for text in ["", "1", "1/", "/2", "-1/2", "1/2/4", "99999999999999999999/1"] {
            assert!(matches!(text.parse::<Shard>(), Err(ShardError::Text { .. })), "{text}");
        }
        for (id, count) in [(0, 0), (1, 1), (2, 2), (0, 3), (4, 4)] {
            assert_eq!(format!("{id}/{count}").parse::<Shard>(), Err(ShardError::Numbers { id, count }));
        }
    }
}
