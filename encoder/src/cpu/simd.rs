//! Which instruction set the code runs with, found at run time.

use std::fmt;

use ark_bn254::{Fq, Fr};

use super::{
    kernels::{self, Kernels, Place, Projective},
    lanes::{Point, Words},
    ntt::{Extension, Strip},
};

/// An instruction set that the code is written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Level {
    /// AVX-512 with 52-bit products: 8 field elements at a time.
    Ifma,
    /// Any processor: one element at a time.
    Portable,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Level::Ifma => "avx512-ifma",
            Level::Portable => "portable",
        })
    }
}

impl Level {
    /// Every level, the fastest first.
    pub const ALL: [Level; 2] = [Level::Ifma, Level::Portable];

    /// Why this processor cannot run the level; `None` if it can.
    pub(super) fn missing(self) -> Option<&'static str> {
        #[cfg(target_arch = "x86_64")]
        return match self {
            Level::Ifma if !is_x86_feature_detected!("avx512f") => Some("the processor has no AVX-512F"),
            Level::Ifma if !is_x86_feature_detected!("avx512vl") => Some("the processor has no AVX-512VL"),
            Level::Ifma if !is_x86_feature_detected!("avx512dq") => Some("the processor has no AVX-512DQ"),
            Level::Ifma if !is_x86_feature_detected!("avx512ifma") => Some("the processor has no AVX-512 IFMA"),
            Level::Ifma if !is_x86_feature_detected!("avx512vbmi2") => Some("the processor has no AVX-512 VBMI2"),
            _ => None,
        };
        #[cfg(not(target_arch = "x86_64"))]
        return match self {
            Level::Ifma => Some("the processor is no x86-64"),
            Level::Portable => None,
        };
    }
}

/// The entry points of a level that this processor has.
#[derive(Clone, Copy)]
pub(super) struct Simd(&'static Kernels);

impl Simd {
    /// The level's entry points, or why this processor cannot run them.
    pub(super) fn new(level: Level) -> Result<Self, &'static str> {
        match (level.missing(), level) {
            (Some(reason), _) => Err(reason),
            #[cfg(target_arch = "x86_64")]
            (None, Level::Ifma) => Ok(Simd(&kernels::ifma::KERNELS)),
            (None, _) => Ok(Simd(&kernels::portable::KERNELS)),
        }
    }

    /// Adds pairs of points of `table` and of `arena` below `start`; sum i goes to `arena[start + i]`.
    pub(super) fn add_pairs(self, table: &[Point], arena: &mut [Point], start: usize, pairs: &[[Place; 2]]) {
        // SAFETY: a `Simd` is made only where the processor has the level's instructions; so for all below.
        unsafe { (self.0.add_pairs)(table, arena, start, pairs) }
    }

    /// Elements from the field library's form to the level's; both slices are of one length.
    pub(super) fn import(self, elements: &[Fq], words: &mut [Words]) {
        // SAFETY: see `add_pairs`.
        unsafe { (self.0.import)(elements, words) }
    }

    /// The inverse of `import`.
    pub(super) fn export(self, words: &[Words], elements: &mut [Fq]) {
        // SAFETY: see `add_pairs`.
        unsafe { (self.0.export)(words, elements) }
    }

    /// Multiplies points by integers, as many as points.
    pub(super) fn scale(self, points: &mut [Projective], factors: &[Words]) {
        // SAFETY: see `add_pairs`.
        unsafe { (self.0.scale)(points, factors) }
    }

    /// Turns each pair (a, b) into (a + b, a - b).
    pub(super) fn cross(self, pairs: &mut [[Projective; 2]]) {
        // SAFETY: see `add_pairs`.
        unsafe { (self.0.cross)(pairs) }
    }

    /// Fills tables of `tables` entries for each base: entry i is 2^(`doublings`·i) times the first, none at infinity.
    pub(super) fn fill_tables(self, table: &mut [Point], tables: usize, doublings: u32) {
        // SAFETY: see `add_pairs`.
        unsafe { (self.0.fill_tables)(table, tables, doublings) }
    }

    /// As `import`, for scalars.
    pub(super) fn import_scalars(self, elements: &[Fr], words: &mut [Words]) {
        // SAFETY: see `add_pairs`.
        unsafe { (self.0.import_scalars)(elements, words) }
    }

    /// Inverse NTTs of rows, the first of number `first_row`, with the factors that come before those of columns.
    pub(super) fn rows_to_terms(self, extension: &Extension, first_row: usize, rows: &[Words], terms: &mut [Words]) {
        // SAFETY: see `add_pairs`.
        unsafe { (self.0.rows_to_terms)(extension, first_row, rows, terms) }
    }

    /// NTTs of some columns: to coefficients, and on to both cosets.
    pub(super) fn columns(
        self,
        extension: &Extension,
        first_column: usize,
        coefficients: &mut Strip<'_>,
        cosets: [&mut Strip<'_>; 2],
    ) {
        // SAFETY: see `add_pairs`.
        unsafe { (self.0.columns)(extension, first_column, coefficients, cosets) }
    }

    /// NTTs of rows.
    pub(super) fn terms_to_rows(self, extension: &Extension, rows: &mut [Words]) {
        // SAFETY: see `add_pairs`.
        unsafe { (self.0.terms_to_rows)(extension, rows) }
    }
}
