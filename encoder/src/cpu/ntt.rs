//! Erasure coding by NTTs of rows and columns.
//!
//! The matrix has P(ω^(κR+ρ)) at (ρ, κ); coefficient j = j1·C + j0 is at row j1, column j0 of a matrix of the same
//! shape. With ω^(ij) = ω^(κR·j0)·ω^(ρ·j0)·ω^(ρ·j1·C) an NTT of N is one of each row, a factor ω^(±ρ·j0), and one of each
//! column, with no transposition between: 8 rows or 8 neighbouring columns are the lanes. The coset factor c^j is
//! c^(C·j1), before a column's NTT, times c^j0, with the other factor.
//!
//! Source and twin: [`crate::extend`].

use ark_bn254::{Fr, FrConfig};
use ark_ff::Field;
use rayon::prelude::*;

use super::{
    lanes::{Lanes, MAX_LANES, Words},
    simd::Simd,
};
use crate::{
    blob::{COSETS, Dimensions},
    extend::{coset_shift, domain, reversed},
};

/// Columns that one task works at: a whole number of cache lines of each row.
const COLUMNS_PER_TASK: usize = 32;

/// All factors of the NTTs of one size of matrix, in the level's form.
pub(super) struct Extension {
    dimensions: Dimensions,
    /// ω_n^-k for k < n/2, of rows (n = C) and of columns (n = R).
    row_inverse_roots: Vec<Words>,
    column_inverse_roots: Vec<Words>,
    /// ω_n^k for k < n/2, likewise.
    row_roots: Vec<Words>,
    column_roots: Vec<Words>,
    /// 1/N.
    inverse_size: Words,
    /// ω^-ρ for ρ < R.
    row_ratios: Vec<Words>,
    /// ω^j0 for j0 < C.
    column_ratios: Vec<Words>,
    /// For cosets 1 and 2: c^(C·j1) for j1 < R, and c^j0 for j0 < C.
    shifts: [(Vec<Words>, Vec<Words>); COSETS - 1],
}

impl Extension {
    pub(super) fn new(simd: Simd, dimensions: Dimensions) -> Self {
        let (rows, columns) = (dimensions.rows(), dimensions.columns());
        let powers = |ratio: Fr, count: usize| {
            let powers: Vec<Fr> =
                std::iter::successors(Some(Fr::ONE), |power| Some(*power * ratio)).take(count).collect();
            let mut words = vec![[0; 4]; count];
            simd.import_scalars(&powers, &mut words);
            words
        };
        let [all, row, column] = [dimensions.lg_scalars(), dimensions.lg_columns(), dimensions.lg_rows()].map(domain);
        let mut inverse_size = [[0; 4]];
        simd.import_scalars(&[all.size_inv], &mut inverse_size);
        Extension {
            dimensions,
            row_inverse_roots: powers(row.group_gen_inv, columns / 2),
            column_inverse_roots: powers(column.group_gen_inv, rows / 2),
            row_roots: powers(row.group_gen, columns / 2),
            column_roots: powers(column.group_gen, rows / 2),
            inverse_size: inverse_size[0],
            row_ratios: powers(all.group_gen_inv, rows),
            column_ratios: powers(all.group_gen, columns),
            shifts: [1, 2].map(|coset| {
                let shift = coset_shift(dimensions, coset);
                (powers(shift.pow([columns as u64]), rows), powers(shift, columns))
            }),
        }
    }

    /// From the rows of coset 0, behind room for the N coefficients, to the coefficients and the rows of all cosets.
    /// `scalars`: 4N integers below the group order.
    pub(super) fn run(&self, simd: Simd, scalars: &mut [Words]) {
        let (size, columns) = (self.dimensions.scalars(), self.dimensions.columns());
        let (coefficients, rows) = scalars.split_at_mut(size);
        let (matrix, others) = rows.split_at_mut(size);
        let chunk = MAX_LANES * columns;
        coefficients.par_chunks_mut(chunk).zip(matrix.par_chunks(chunk)).enumerate().for_each(|(at, (terms, rows))| {
            simd.rows_to_terms(self, at * MAX_LANES, rows, terms);
        });
        let (one, two) = others.split_at_mut(size);
        let strips = strips(coefficients, columns).into_iter().zip(strips(one, columns)).zip(strips(two, columns));
        let mut strips: Vec<[Strip<'_>; COSETS]> = strips.map(|((a, b), c)| [a, b, c]).collect();
        strips.par_iter_mut().enumerate().for_each(|(at, [coefficients, one, two])| {
            simd.columns(self, at * COLUMNS_PER_TASK.min(columns), coefficients, [one, two]);
        });
        others.par_chunks_mut(chunk).for_each(|rows| simd.terms_to_rows(self, rows));
    }
}

/// Some neighbouring columns of a matrix: a piece of each row.
pub(super) type Strip<'a> = Vec<&'a mut [Words]>;

fn strips(matrix: &mut [Words], columns: usize) -> Vec<Strip<'_>> {
    let width = COLUMNS_PER_TASK.min(columns);
    let mut strips: Vec<Strip<'_>> = (0..columns / width).map(|_| Vec::with_capacity(matrix.len() / columns)).collect();
    for row in matrix.chunks_mut(columns) {
        strips.iter_mut().zip(row.chunks_mut(width)).for_each(|(strip, piece)| strip.push(piece));
    }
    strips
}

/// The NTT of a power of two of vectors with these roots (ω_n^k for k < n/2), by decimation in frequency: result k ends
/// where the bits of its index are reversed.
#[inline(always)]
fn transform<L: Lanes>(values: &mut [L], roots: &[Words]) {
    let mut half = values.len() / 2;
    while half > 0 {
        let step = values.len() / 2 / half;
        for block in values.chunks_exact_mut(2 * half) {
            let (left, right) = block.split_at_mut(half);
            for ((left, right), root) in left.iter_mut().zip(right).zip(roots.iter().step_by(step)) {
                let difference = left.minus_wide(*right);
                *left = left.plus(*right);
                *right = L::load_same(root).times(difference);
            }
        }
        half /= 2;
    }
}

/// The inverse NTTs of up to LANES rows, the first of number `first_row`, with the factor ω^(-ρ·j0)/N: integers in, the
/// level's form out.
#[inline(always)]
pub(super) fn rows_to_terms<L: Lanes<Config = FrConfig>>(
    extension: &Extension,
    first_row: usize,
    rows: &[Words],
    terms: &mut [Words],
) {
    let (columns, lg_columns) = (extension.dimensions.columns(), extension.dimensions.lg_columns());
    let mut values = Vec::with_capacity(columns);
    let groups = rows.chunks(L::LANES * columns).zip(terms.chunks_mut(L::LANES * columns)).enumerate();
    for (group, (rows, terms)) in groups {
        let count = rows.len() / columns;
        let lane = |l: usize| l.min(count - 1);
        values.clear();
        for k in 0..columns {
            values.push(L::load_integers(|l| &rows[lane(l) * columns + k]));
        }
        transform(&mut values, &extension.row_inverse_roots);
        let first_row = first_row + group * L::LANES;
        let ratio = L::load(|l| &extension.row_ratios[first_row + lane(l)]);
        let mut factor = L::load_same(&extension.inverse_size);
        for k in 0..columns {
            let mut words = [[0; 4]; MAX_LANES];
            values[reversed(k, lg_columns)].times(factor).store(&mut words);
            (0..count).for_each(|row| terms[row * columns + k] = words[row]);
            factor = factor.times(ratio);
        }
    }
}

/// Some columns, the first of number `first_column`: the inverse NTTs of `coefficients`, which end as integers, and for
/// both cosets the factor c^(C·j1), the NTTs, and the factor c^j0·ω^(ρ·j0), in the level's form.
#[inline(always)]
pub(super) fn columns<L: Lanes<Config = FrConfig>>(
    extension: &Extension,
    first_column: usize,
    coefficients: &mut [&mut [Words]],
    cosets: [&mut Strip<'_>; COSETS - 1],
) {
    let (rows, lg_rows) = (extension.dimensions.rows(), extension.dimensions.lg_rows());
    let width = coefficients[0].len();
    let mut values: Vec<L> = Vec::with_capacity(rows);
    let mut shifted: Vec<L> = Vec::with_capacity(rows);
    for column in (0..width).step_by(L::LANES) {
        values.clear();
        for row in coefficients.iter() {
            values.push(L::load(|l| &row[column + l]));
        }
        transform(&mut values, &extension.column_inverse_roots);
        for (j1, row) in coefficients.iter_mut().enumerate() {
            let mut words = [[0; 4]; MAX_LANES];
            values[reversed(j1, lg_rows)].store_integers(&mut words);
            row[column..][..L::LANES].copy_from_slice(&words[..L::LANES]);
        }
        let at = first_column + column;
        let ratio = L::load(|l| &extension.column_ratios[at + l]);
        for (coset, (shifts, firsts)) in extension.shifts.iter().enumerate() {
            shifted.clear();
            for (j1, shift) in shifts.iter().enumerate() {
                shifted.push(values[reversed(j1, lg_rows)].times(L::load_same(shift)));
            }
            transform(&mut shifted, &extension.column_roots);
            let mut factor = L::load(|l| &firsts[at + l]);
            for rho in 0..rows {
                let mut words = [[0; 4]; MAX_LANES];
                shifted[reversed(rho, lg_rows)].times(factor).store(&mut words);
                cosets[coset][rho][column..][..L::LANES].copy_from_slice(&words[..L::LANES]);
                factor = factor.times(ratio);
            }
        }
    }
}

/// The NTTs of some rows: the level's form in, integers out.
#[inline(always)]
pub(super) fn terms_to_rows<L: Lanes<Config = FrConfig>>(extension: &Extension, rows: &mut [Words]) {
    let (columns, lg_columns) = (extension.dimensions.columns(), extension.dimensions.lg_columns());
    let mut values: Vec<L> = Vec::with_capacity(columns);
    for rows in rows.chunks_mut(L::LANES * columns) {
        let count = rows.len() / columns;
        values.clear();
        for k in 0..columns {
            values.push(L::load(|l| &rows[l.min(count - 1) * columns + k]));
        }
        transform(&mut values, &extension.row_roots);
        for k in 0..columns {
            let mut words = [[0; 4]; MAX_LANES];
            values[reversed(k, lg_columns)].store_integers(&mut words);
            (0..count).for_each(|row| rows[row * columns + k] = words[row]);
        }
    }
}
