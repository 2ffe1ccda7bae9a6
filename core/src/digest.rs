//! 32-byte digests, and the hash that the network's trees and identities are made of.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tiny_keccak::{Hasher, Keccak};

/// A 32-byte digest, identity or nonce, in the byte order in which it goes on chain.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct H256(pub [u8; 32]);

impl H256 {
    /// 32 zero bytes.
    pub const ZERO: H256 = H256([0; 32]);
}

/// Why a text is no 32-byte digest.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ParseH256Error {
    /// The number of hex digits is wrong.
    #[error("expected 64 hex digits, got {0} characters")]
    Length(usize),
    /// A character is no hex digit.
    #[error("character {index} is {found:?}, not a hex digit")]
    Digit {
        /// Position in the text, behind an 0x if there is one.
        index: usize,
        /// What stands there.
        found: char,
    },
}

impl FromStr for H256 {
    type Err = ParseH256Error;

    /// Reads 64 hex digits, with or without 0x in front.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.strip_prefix("0x").unwrap_or(text);
        if digits.chars().count() != 64 {
            return Err(ParseH256Error::Length(digits.chars().count()));
        }
        let mut bytes = [0u8; 32];
        for (index, found) in digits.chars().enumerate() {
            let value = found.to_digit(16).ok_or(ParseH256Error::Digit { index, found })?;
            bytes[index / 2] = bytes[index / 2] << 4 | value as u8;
        }
        Ok(H256(bytes))
    }
}

impl fmt::Display for H256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("0x")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for H256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for H256 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for H256 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Keccak-256 (Ethereum's, not NIST SHA3-256) of the parts laid end to end.
pub fn keccak256(parts: &[&[u8]]) -> H256 {
    let mut hasher = Keccak::v256();
    parts.iter().for_each(|part| hasher.update(part));
    let mut digest = H256::ZERO;
    hasher.finalize(&mut digest.0);
    digest
}

/// Parent of two merkle nodes: keccak256(left ‖ right), without domain separation.
pub fn parent(left: &H256, right: &H256) -> H256 {
    keccak256(&[&left.0, &right.0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes_and_refuses_the_rest() {
        let digest = keccak256(&[b""]);
        assert_eq!(digest.to_string(), "0xc5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470");
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert_eq!("0x12".parse::<H256>(), Err(ParseH256Error::Length(2)));
        assert_eq!(
            format!("{}g", "0".repeat(63)).parse::<H256>(),
            Err(ParseH256Error::Digit { index: 63, found: 'g' })
        );
        assert_eq!("é".repeat(64).parse::<H256>(), Err(ParseH256Error::Digit { index: 0, found: 'é' }));
    }
}
