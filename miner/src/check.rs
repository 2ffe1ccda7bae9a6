//! Recomputes every case of a vector file on an engine: what `zgpu pora check` does.
//!
//! The file is one JSON object with a list `cases`; numbers are strings, decimal or with 0x; bytes are hex with 0x.
//! Bounded: at most [`MAX_FILE_BYTES`] of text and [`MAX_CASES`] cases.

use std::fmt;

use serde_json::{Map, Value};
pub use zgpu_core::check::{CaseReport, Mismatch, Summary};
use zgpu_core::{
    device::DeviceError,
    digest::{H256, keccak256},
    units::{BYTES_PER_LOAD, BYTES_PER_UNIT, SEALS_PER_LOAD, SECTORS_PER_LOAD, SECTORS_PER_SEAL},
    work::DrawJob,
};

use crate::{engine::Engine, plain, puzzle::MineRange};

/// Longest vector file that is read.
pub const MAX_FILE_BYTES: usize = 16 << 20;
/// Most cases of one file.
pub const MAX_CASES: usize = 4096;
/// Longest prefix in a rule for raw data.
const MAX_RULE_PREFIX: usize = 256;

/// Why a vector file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum VectorError {
    /// The text is too long.
    #[error("the vector file has {got} bytes, at most {limit} are read")]
    TooLarge {
        /// Its length.
        got: u64,
        /// Most that is read.
        limit: u64,
    },
    /// The text is no JSON.
    #[error("the vector file is no JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// There is no list of cases, or it is empty.
    #[error("the vector file has no cases: expected an object with a list \"cases\" of at least 1")]
    NoCases,
    /// There are too many cases.
    #[error("the vector file has {got} cases, at most {limit} are run")]
    TooManyCases {
        /// Number of cases.
        got: usize,
        /// Most that are run.
        limit: usize,
    },
    /// A key is missing.
    #[error("case {case}: key {key:?} is missing")]
    Missing {
        /// Which case, from 0.
        case: usize,
        /// Which key.
        key: &'static str,
    },
    /// A value has the wrong JSON type.
    #[error("case {case}: {key:?} is not {expected}")]
    Type {
        /// Which case, from 0.
        case: usize,
        /// Which key.
        key: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// A hex text has the wrong length.
    #[error("case {case}: {key:?} has {got} hex digits, expected {expected}")]
    HexLength {
        /// Which case, from 0.
        case: usize,
        /// Which key.
        key: &'static str,
        /// Digits it should have.
        expected: usize,
        /// Digits it has.
        got: usize,
    },
    /// A character is no hex digit.
    #[error("case {case}: {key:?} has {found:?} at digit {index}, expected a hex digit")]
    HexDigit {
        /// Which case, from 0.
        case: usize,
        /// Which key.
        key: &'static str,
        /// Position behind the 0x.
        index: usize,
        /// What stands there.
        found: char,
    },
    /// A text is no number of at most 64 bits.
    #[error("case {case}: {key:?} is {got:?}, expected a number below 2^64, decimal or with 0x")]
    Number {
        /// Which case, from 0.
        case: usize,
        /// Which key.
        key: &'static str,
        /// What stands there, cut short.
        got: String,
    },
    /// A list has the wrong length.
    #[error("case {case}: {key:?} has {got} entries, expected {expected}")]
    Count {
        /// Which case, from 0.
        case: usize,
        /// Which key.
        key: &'static str,
        /// Entries it should have.
        expected: usize,
        /// Entries it has.
        got: usize,
    },
    /// The rule for the raw data is not one that is known.
    #[error(
        "case {case}: the raw data's rule {rule:?} is not known; expected … keccak256(ascii \"PREFIX\" + decimal w) \
         with a prefix of at most {MAX_RULE_PREFIX} bytes"
    )]
    Rule {
        /// Which case, from 0.
        case: usize,
        /// The rule, cut short.
        rule: String,
    },
    /// The device failed.
    #[error("case {case}: {error}")]
    Device {
        /// Which case, from 0.
        case: usize,
        /// What went wrong.
        error: DeviceError,
    },
}

/// One case of a vector file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// Identity of the miner.
    pub miner_id: H256,
    /// Digest of the subtask.
    pub subtask_digest: H256,
    /// Digest of the context that the load is sealed with.
    pub seal_context_digest: H256,
    /// The nonce.
    pub nonce: H256,
    /// Range that is mined.
    pub range: MineRange,
    /// Digest of the range.
    pub range_digest: H256,
    /// Pad seed.
    pub pad_seed: [u8; 64],
    /// keccak256 of the scratch pad.
    pub scratch_pad_keccak: H256,
    /// Recall seed.
    pub recall_seed: H256,
    /// First sector of the recalled load.
    pub recall_position: u64,
    /// What the raw data's rule puts in front of a word's number.
    pub raw_prefix: String,
    /// keccak256 of the sealed load.
    pub sealed_chunk_keccak: H256,
    /// Qualities of the 64 seals.
    pub qualities: Vec<H256>,
}

impl Case {
    /// The raw 256 KiB: word `w` is keccak256 of the prefix and `w` in decimal.
    pub fn raw_load(&self) -> Vec<u8> {
        let words = BYTES_PER_LOAD / BYTES_PER_UNIT;
        (0..words).flat_map(|w| keccak256(&[self.raw_prefix.as_bytes(), w.to_string().as_bytes()]).0).collect()
    }

    /// Masks of the first units of the load's seals.
    pub fn first_masks(&self) -> Vec<[u8; 32]> {
        let starts = (0..SEALS_PER_LOAD as u64).map(|seal| seal * SECTORS_PER_SEAL as u64);
        starts
            .map(|at| {
                plain::first_mask(&self.miner_id, &self.seal_context_digest, self.recall_position.wrapping_add(at))
            })
            .collect()
    }

    /// The draw of its nonce.
    pub fn job(&self) -> DrawJob {
        DrawJob {
            miner_id: self.miner_id.0,
            nonce_base: self.nonce.0,
            count: 1,
            subtask_digest: self.subtask_digest.0,
            range_digest: self.range.digest().0,
        }
    }
}

/// Reads a vector file.
pub fn parse_vectors(text: &str) -> Result<Vec<Case>, VectorError> {
    if text.len() > MAX_FILE_BYTES {
        return Err(VectorError::TooLarge { got: text.len() as u64, limit: MAX_FILE_BYTES as u64 });
    }
    let file: Value = serde_json::from_str(text)?;
    let cases = file.get("cases").and_then(Value::as_array).filter(|cases| !cases.is_empty());
    let cases = cases.ok_or(VectorError::NoCases)?;
    if cases.len() > MAX_CASES {
        return Err(VectorError::TooManyCases { got: cases.len(), limit: MAX_CASES });
    }
    cases.iter().enumerate().map(|(case, value)| parse_case(case, value)).collect()
}

fn parse_case(case: usize, value: &Value) -> Result<Case, VectorError> {
    let object = |key, value: &Value| match value.as_object() {
        Some(object) => Ok(object.clone()),
        None => Err(VectorError::Type { case, key, expected: "an object" }),
    };
    let fields = Fields { case, fields: object("cases", value)? };
    let range = Fields { case, fields: object("range", fields.value("range")?)? };
    let digest = |key| fields.bytes::<32>(key).map(H256);
    let qualities = fields.value("qualities")?.as_array();
    let qualities = qualities.ok_or(VectorError::Type { case, key: "qualities", expected: "a list" })?;
    if qualities.len() != SEALS_PER_LOAD {
        let (expected, got) = (SEALS_PER_LOAD, qualities.len());
        return Err(VectorError::Count { case, key: "qualities", expected, got });
    }
    Ok(Case {
        miner_id: digest("miner_id")?,
        subtask_digest: digest("subtask_digest")?,
        seal_context_digest: digest("seal_context_digest")?,
        nonce: digest("nonce")?,
        range: MineRange {
            start_position: range.number("start_position")?,
            mining_length: range.number("mining_length")?,
            shard_id: range.number("shard_id")?,
            shard_mask: range.number("shard_mask")?,
        },
        range_digest: digest("range_digest")?,
        pad_seed: fields.bytes("pad_seed")?,
        scratch_pad_keccak: digest("scratch_pad_keccak")?,
        recall_seed: digest("recall_seed")?,
        recall_position: fields.number("recall_position")?,
        raw_prefix: raw_prefix(case, fields.text("raw_chunk_rule")?)?,
        sealed_chunk_keccak: digest("sealed_chunk_keccak")?,
        qualities: qualities
            .iter()
            .map(|value| hex_bytes::<32>(case, "qualities", as_text(case, "qualities", value)?).map(H256))
            .collect::<Result<_, _>>()?,
    })
}

/// The keys of one object of a case.
struct Fields {
    case: usize,
    fields: Map<String, Value>,
}

impl Fields {
    fn value(&self, key: &'static str) -> Result<&Value, VectorError> {
        self.fields.get(key).ok_or(VectorError::Missing { case: self.case, key })
    }

    fn text(&self, key: &'static str) -> Result<&str, VectorError> {
        as_text(self.case, key, self.value(key)?)
    }

    fn bytes<const N: usize>(&self, key: &'static str) -> Result<[u8; N], VectorError> {
        hex_bytes(self.case, key, self.text(key)?)
    }

    /// A number below 2^64, as a JSON number or as a text, decimal or with 0x.
    fn number(&self, key: &'static str) -> Result<u64, VectorError> {
        let value = self.value(key)?;
        if let Some(number) = value.as_u64() {
            return Ok(number);
        }
        let text = as_text(self.case, key, value)?;
        let (digits, radix) = text.strip_prefix("0x").map_or((text, 10), |digits| (digits, 16));
        let plain = digits.chars().all(|digit| digit.is_digit(radix));
        let number = u64::from_str_radix(digits, radix).ok().filter(|_| plain);
        number.ok_or_else(|| VectorError::Number { case: self.case, key, got: shortened(text) })
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

fn as_text<'a>(case: usize, key: &'static str, value: &'a Value) -> Result<&'a str, VectorError> {
    value.as_str().ok_or(VectorError::Type { case, key, expected: "a text" })
}

fn hex_bytes<const N: usize>(case: usize, key: &'static str, text: &str) -> Result<[u8; N], VectorError> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let got = digits.chars().count();
    if got != 2 * N {
        return Err(VectorError::HexLength { case, key, expected: 2 * N, got });
    }
    let mut bytes = [0u8; N];
    for (index, found) in digits.chars().enumerate() {
        let digit = found.to_digit(16).ok_or(VectorError::HexDigit { case, key, index, found })?;
        bytes[index / 2] = bytes[index / 2] << 4 | digit as u8;
    }
    Ok(bytes)
}

/// The prefix in `… keccak256(ascii "PREFIX" + decimal w)`.
fn raw_prefix(case: usize, rule: &str) -> Result<String, VectorError> {
    let prefix = rule.split_once("keccak256(ascii \"").and_then(|(_, rest)| rest.strip_suffix("\" + decimal w)"));
    let prefix = prefix.filter(|prefix| prefix.is_ascii() && prefix.len() <= MAX_RULE_PREFIX);
    prefix.map(str::to_string).ok_or_else(|| VectorError::Rule { case, rule: shortened(rule) })
}

/// Recomputes every case of a vector file on `engine`, tells `out` about each, and counts.
pub fn check_vectors(
    text: &str,
    engine: &mut dyn Engine,
    out: &mut dyn FnMut(CaseReport),
) -> Result<Summary, VectorError> {
    let mut summary = Summary::default();
    for (index, case) in parse_vectors(text)?.iter().enumerate() {
        let mismatches = check_case(case, engine).map_err(|error| VectorError::Device { case: index, error })?;
        let title = format!(
            "case {index}: {} loads from sector {}, shard {} of {}",
            case.range.loads(),
            case.range.start_position,
            case.range.shard_id,
            case.range.shards()
        );
        let report = CaseReport { title, mismatches };
        summary.count(&report);
        out(report);
    }
    Ok(summary)
}

/// Recomputes one case on `engine` and returns the values that differ.
pub fn check_case(case: &Case, engine: &mut dyn Engine) -> Result<Vec<Mismatch>, DeviceError> {
    let mut compared = Compared(Vec::new());
    let job = case.job();
    let twin = plain::draw(&job.miner_id, &job.nonce_base, &job.subtask_digest, &job.range_digest);
    compared.digest("range digest", case.range_digest, H256(job.range_digest));
    let halves = |seed: &[u8; 64]| seed.as_chunks::<32>().0.iter().map(|half| H256(*half)).collect::<Vec<_>>();
    for (half, (expected, got)) in halves(&case.pad_seed).into_iter().zip(halves(&twin.seed)).enumerate() {
        compared.digest(format_args!("half {half} of the pad seed"), expected, got);
    }

    let mut load = case.raw_load();
    engine.seal(&case.first_masks(), &mut load)?;
    compared.digest("keccak of the sealed load", case.sealed_chunk_keccak, keccak256(&[&load]));

    let probe = engine.probe(&job, &load, u64::MAX, &[0xff; 32])?;
    let pad = probe.pad.as_ref().unwrap_or(&twin.bytes);
    compared.digest("keccak of the scratch pad", case.scratch_pad_keccak, keccak256(&[pad]));
    compared.digest("recall seed", case.recall_seed, H256(probe.recall_seed));
    let position = case.range.recall(&probe.recall_seed).and_then(|load| load.checked_mul(SECTORS_PER_LOAD as u64));
    if position != Some(case.recall_position) {
        let got = position.map_or("out of bound".into(), |position| position.to_string());
        compared.differs("recall position", case.recall_position, got);
    }
    if probe.hits.len() != SEALS_PER_LOAD {
        compared.differs("number of qualities", SEALS_PER_LOAD, probe.hits.len());
    }
    for (seal, expected) in case.qualities.iter().enumerate() {
        match probe.hits.iter().find(|(hit, _)| *hit as usize == seal) {
            Some((_, got)) => compared.digest(format_args!("quality of seal {seal}"), *expected, H256(*got)),
            None => compared.differs(format_args!("quality of seal {seal}"), expected, "missing"),
        }
    }
    Ok(compared.0)
}

struct Compared(Vec<Mismatch>);

impl Compared {
    fn differs(&mut self, what: impl fmt::Display, expected: impl fmt::Display, got: impl fmt::Display) {
        let (what, expected, got) = (what.to_string(), expected.to_string(), got.to_string());
        self.0.push(Mismatch { what, expected, got });
    }

    fn digest(&mut self, what: impl fmt::Display, expected: H256, got: H256) {
        if expected != got {
            self.differs(what, expected, got);
        }
    }
}
