//! Recomputes a blob of a vector file: what `zgpu da check` does.
//!
//! The file is one JSON object, one case: dimensions, τ, the length of the data and the results of the network's own
//! encoder. Bytes are hex, with or without 0x; numbers are JSON numbers. Bounded: at most [`MAX_FILE_BYTES`] of text
//! and a matrix of 2^20 scalars.

use std::{fmt, sync::Arc};

use ark_bn254::Fr;
use rayon::prelude::*;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
pub use zgpu_core::check::{CaseReport, Mismatch, Summary};
use zgpu_core::{blob::BlobRoots, device::DeviceError, digest::H256};

use crate::{
    blob::{BlobError, COSETS, Dimensions},
    engine::{EncodeError, Engine},
    extend::scalar_from_bytes,
    params::{ParamsError, ProverParams},
    points::BYTES_PER_POINT,
};

/// Longest vector file that is read.
pub const MAX_FILE_BYTES: usize = 16 << 20;
/// Most scalars of a case, as log2: the full size.
const MAX_LG_SCALARS: u32 = 20;
/// The one rule for the data.
const DATA_RULE: &str = "byte i = (i*131 + (i>>8)*17 + 7) mod 256";

/// Why a vector file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum VectorError {
    /// The text is too long.
    #[error("the vector file has {got} bytes, at most {limit} are read")]
    TooLarge {
        /// Its length.
        got: usize,
        /// Most that is read.
        limit: usize,
    },
    /// The text is no JSON.
    #[error("the vector file is no JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// The JSON is no object.
    #[error("the vector file is no JSON object")]
    NoObject,
    /// A key is missing.
    #[error("key {key:?} is missing")]
    Missing {
        /// Which key.
        key: &'static str,
    },
    /// A value has the wrong JSON type.
    #[error("{key:?} is not {expected}")]
    Type {
        /// Which key.
        key: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// A text has the wrong length, or is no hex.
    #[error("{key:?} has {got} characters, expected {expected} hex digits")]
    Hex {
        /// Which key.
        key: &'static str,
        /// Digits it should have.
        expected: usize,
        /// Characters it has.
        got: usize,
    },
    /// A list has the wrong length.
    #[error("{key:?} has {got} entries, expected {expected}")]
    Count {
        /// Which key.
        key: &'static str,
        /// Entries it should have.
        expected: usize,
        /// Entries it has.
        got: usize,
    },
    /// A number is too large.
    #[error("{key:?} is {got}, at most {limit} is allowed")]
    Number {
        /// Which key.
        key: &'static str,
        /// What it is.
        got: u64,
        /// Most that it may be.
        limit: u64,
    },
    /// A rule is not one that is known.
    #[error("{key:?} is {got:?}, expected {expected:?}")]
    Rule {
        /// Which key.
        key: &'static str,
        /// The rule, cut short.
        got: String,
        /// What is known.
        expected: &'static str,
    },
    /// τ is not below the group order.
    #[error("\"tau_be\" is not below the group order")]
    Tau,
    /// The matrix or the data has a size that does not work.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The blob cannot be encoded.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// There are no parameters for this τ.
    #[error(transparent)]
    Params(#[from] ParamsError),
}

/// The case of a vector file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// Size of the matrix.
    pub dimensions: Dimensions,
    /// The secret of the parameters.
    pub tau: Fr,
    /// Where the high powers begin.
    pub high_start: u64,
    /// Bytes of data.
    pub data_length: usize,
    /// The erasure commitment: x ‖ y, little-endian, no flags.
    pub commitment: [u8; BYTES_PER_POINT],
    /// Roots of the cosets.
    pub coset_roots: [H256; COSETS],
    /// The storage root.
    pub storage_root: H256,
    /// Bytes of a slice.
    pub slice_bytes: usize,
    /// Slice 0, if the file has it.
    pub first_slice: Option<Vec<u8>>,
    /// Between a listed slice and the next.
    pub slice_step: usize,
    /// SHA-256 of slices 0, `slice_step`, 2·`slice_step`, …
    pub slice_hashes: Vec<H256>,
    /// SHA-256 over all slices.
    pub all_slices_hash: H256,
}

impl Case {
    /// The data: byte i is (131·i + 17·⌊i/256⌋ + 7) mod 256.
    pub fn data(&self) -> Vec<u8> {
        (0..self.data_length).map(|i| (i * 131 + (i >> 8) * 17 + 7) as u8).collect()
    }

    /// The parameters that it was made with.
    pub fn params(&self) -> Result<ProverParams, ParamsError> {
        ProverParams::insecure_from_tau(self.dimensions, self.tau, self.high_start)
    }
}

/// Reads a vector file.
pub fn parse_vectors(text: &str) -> Result<Case, VectorError> {
    if text.len() > MAX_FILE_BYTES {
        return Err(VectorError::TooLarge { got: text.len(), limit: MAX_FILE_BYTES });
    }
    let Value::Object(fields) = serde_json::from_str(text)? else {
        return Err(VectorError::NoObject);
    };
    let fields = Fields(fields);
    let lg_size = |key| fields.number(key, u64::from(MAX_LG_SCALARS)).map(|lg_size| lg_size as u32);
    let (lg_rows, lg_columns) = (lg_size("rows_log")?, lg_size("cols_log")?);
    let dimensions = Dimensions::new(lg_rows, lg_columns).map_err(BlobError::from)?;
    if dimensions.lg_scalars() > MAX_LG_SCALARS {
        let (got, limit) = (u64::from(lg_columns), u64::from(MAX_LG_SCALARS - lg_rows));
        return Err(VectorError::Number { key: "cols_log", got, limit });
    }
    let rule = fields.text("data_rule")?;
    if rule != DATA_RULE {
        return Err(VectorError::Rule { key: "data_rule", got: shortened(rule), expected: DATA_RULE });
    }
    let mut tau = fields.bytes::<32>("tau_be")?;
    tau.reverse();
    let slice_step = fields.slice_step(dimensions)?;
    let first_slice = match fields.text("slice0")? {
        "" => None,
        text => Some(hex_bytes("slice0", text, dimensions.slice_bytes())?),
    };
    Ok(Case {
        dimensions,
        tau: scalar_from_bytes(&tau).ok_or(VectorError::Tau)?,
        high_start: fields.number("high_start", u64::MAX)?,
        data_length: fields.number("data_len", dimensions.max_data_bytes() as u64)? as usize,
        commitment: fields.bytes("erasure_commitment")?,
        coset_roots: fields.digests("coset_roots", COSETS)?.try_into().expect("as many as asked for"),
        storage_root: H256(fields.bytes("storage_root")?),
        slice_bytes: fields.number("slice_len", MAX_FILE_BYTES as u64)? as usize,
        first_slice,
        slice_step,
        slice_hashes: fields.digests("slice_sha256", dimensions.slices().div_ceil(slice_step))?,
        all_slices_hash: H256(fields.bytes("all_slices_sha256")?),
    })
}

/// The keys of the case.
struct Fields(Map<String, Value>);

impl Fields {
    fn value(&self, key: &'static str) -> Result<&Value, VectorError> {
        self.0.get(key).ok_or(VectorError::Missing { key })
    }

    fn text(&self, key: &'static str) -> Result<&str, VectorError> {
        as_text(key, self.value(key)?)
    }

    fn number(&self, key: &'static str, limit: u64) -> Result<u64, VectorError> {
        let got = self.value(key)?.as_u64().ok_or(VectorError::Type { key, expected: "a number below 2^64" })?;
        if got <= limit { Ok(got) } else { Err(VectorError::Number { key, got, limit }) }
    }

    fn bytes<const N: usize>(&self, key: &'static str) -> Result<[u8; N], VectorError> {
        Ok(hex_bytes(key, self.text(key)?, N)?.try_into().expect("as many as asked for"))
    }

    fn digests(&self, key: &'static str, expected: usize) -> Result<Vec<H256>, VectorError> {
        let list = self.value(key)?.as_array().ok_or(VectorError::Type { key, expected: "a list" })?;
        if list.len() != expected {
            return Err(VectorError::Count { key, expected, got: list.len() });
        }
        let digest = |value| Ok(H256(hex_bytes(key, as_text(key, value)?, 32)?.try_into().expect("32 bytes")));
        list.iter().map(digest).collect()
    }

    /// Which slices have hashes: all, or by a rule "slices 0, S, 2S, … in order" every S-th.
    fn slice_step(&self, dimensions: Dimensions) -> Result<usize, VectorError> {
        let key = "slice_sha256_rule";
        if !self.0.contains_key(key) {
            return Ok(1);
        }
        let rule = self.text(key)?;
        let step = rule.strip_prefix("slices 0, ").and_then(|rest| rest.split(',').next()?.parse::<usize>().ok());
        let step = step.filter(|step| (1..=dimensions.slices()).contains(step));
        let step = step.filter(|step| rule == format!("slices 0, {step}, {}, … in order", 2 * step));
        step.ok_or_else(|| VectorError::Rule { key, got: shortened(rule), expected: "slices 0, S, 2S, … in order" })
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

fn as_text<'a>(key: &'static str, value: &'a Value) -> Result<&'a str, VectorError> {
    value.as_str().ok_or(VectorError::Type { key, expected: "a text" })
}

fn hex_bytes(key: &'static str, text: &str, bytes: usize) -> Result<Vec<u8>, VectorError> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let values: Vec<u8> = digits.chars().filter_map(|digit| digit.to_digit(16)).map(|digit| digit as u8).collect();
    let got = digits.chars().count();
    if got != 2 * bytes || values.len() != got {
        return Err(VectorError::Hex { key, expected: 2 * bytes, got });
    }
    Ok(values.as_chunks::<2>().0.iter().map(|[high, low]| high << 4 | low).collect())
}

/// Recomputes the case of a vector file on the engine that `open` gives for its parameters, tells `out` about it, and
/// counts.
pub fn check_vectors(
    text: &str,
    open: impl FnOnce(&Arc<ProverParams>) -> Result<Box<dyn Engine>, DeviceError>,
    out: &mut dyn FnMut(CaseReport),
) -> Result<Summary, VectorError> {
    let case = parse_vectors(text)?;
    let params = Arc::new(case.params()?);
    let mut slices = Vec::new();
    let encoded = open(&params).map_err(EncodeError::from)?.encode(&case.data(), &mut slices)?;
    let size = case.dimensions;
    let title = format!("{} rows x {} columns, {} bytes", size.rows(), size.columns(), case.data_length);
    let report = CaseReport { title, mismatches: compare(&case, &encoded.roots, &slices) };
    let mut summary = Summary::default();
    summary.count(&report);
    out(report);
    Ok(summary)
}

/// The values of an encoded blob that differ from the case's; `slices` is all of them, one behind the other.
pub fn compare(case: &Case, roots: &BlobRoots, slices: &[u8]) -> Vec<Mismatch> {
    let mut compared = Compared(Vec::new());
    compared.bytes("erasure commitment", &case.commitment, &roots.commitment);
    for (coset, (expected, got)) in case.coset_roots.iter().zip(&roots.coset_roots).enumerate() {
        compared.bytes(format_args!("root of coset {coset}"), &expected.0, got);
    }
    compared.bytes("storage root", &case.storage_root.0, &roots.storage_root);

    let slice_bytes = case.dimensions.slice_bytes();
    if slice_bytes != case.slice_bytes {
        compared.differs("length of a slice", case.slice_bytes, slice_bytes);
    }
    if slices.len() != case.dimensions.all_slices_bytes() {
        compared.differs("length of all slices", case.dimensions.all_slices_bytes(), slices.len());
    }
    let first = slices.get(..slice_bytes).unwrap_or(slices);
    if let Some(expected) = &case.first_slice {
        compared.bytes("slice 0", expected, first);
    }
    let listed: Vec<&[u8]> = slices.chunks(slice_bytes).step_by(case.slice_step).collect();
    let hashes: Vec<_> = listed.par_iter().map(Sha256::digest).collect();
    for (place, (expected, got)) in case.slice_hashes.iter().zip(&hashes).enumerate() {
        compared.bytes(format_args!("SHA-256 of slice {}", place * case.slice_step), &expected.0, got);
    }
    compared.bytes("SHA-256 of all slices", &case.all_slices_hash.0, &Sha256::digest(slices));
    compared.0
}

struct Compared(Vec<Mismatch>);

impl Compared {
    fn differs(&mut self, what: impl fmt::Display, expected: impl fmt::Display, got: impl fmt::Display) {
        let (what, expected, got) = (what.to_string(), expected.to_string(), got.to_string());
        self.0.push(Mismatch { what, expected, got });
    }

    fn bytes(&mut self, what: impl fmt::Display, expected: &[u8], got: &[u8]) {
        if expected != got {
            let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            self.differs(what, hex(expected), hex(got));
        }
    }
}
