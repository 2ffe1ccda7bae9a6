//! Which sums a blob needs, over which bases, and how much memory their tables get.

use std::ops::Range;

use ark_bn254::G1Projective;
use zgpu_core::blob::{BYTES_PER_POINT, Dimensions, ProverBases};

use super::{
    msm::{FixedBases, Shape, Sum},
    quotients::{first_node, nodes_per_coset},
    simd::Simd,
};
use crate::blob::COSETS;

/// Memory for tables unless the caller says otherwise.
pub(super) const DEFAULT_BYTES: u64 = 2 << 30;

/// Bases that sums of one kind share.
struct Kind<'a> {
    points: Vec<&'a [u8]>,
    /// Points of one sum.
    length: usize,
    /// Sums over them.
    sums: usize,
    shape: Shape,
}

impl Kind<'_> {
    fn bases(&self) -> usize {
        self.points.iter().map(|points| points.len() / BYTES_PER_POINT).sum()
    }

    fn table_bytes(&self, shape: Shape) -> u64 {
        (self.bases() * shape.tables() * BYTES_PER_POINT) as u64
    }

    fn additions(&self, shape: Shape) -> u64 {
        (self.sums * shape.additions(self.length)) as u64
    }
}

/// The tables, and the sums in the order that [`Sums`] takes apart.
pub(super) fn build(simd: Simd, bases: &ProverBases<'_>, memory: u64) -> (Vec<FixedBases>, Vec<Sum>) {
    let dimensions = bases.dimensions;
    let (lg_rows, scalars, columns) = (dimensions.lg_rows(), dimensions.scalars(), dimensions.columns());
    let powers = |range: Range<usize>| &bases.powers[range.start * BYTES_PER_POINT..range.end * BYTES_PER_POINT];
    let smallest = Shape { bits: 4, sets: u32::MAX };
    let kind = |points: Vec<_>, length, sums| Kind { points, length, sums, shape: smallest };
    let mut kinds = vec![kind(vec![bases.high_powers], scalars, 1)];
    let mut sums = vec![Sum { bases: 0, first_base: 0, scalars: 0..scalars }];
    for depth in 1..=lg_rows {
        let size = scalars >> depth;
        let used = if depth == lg_rows { 0..columns } else { size / 2..size };
        for block in 0..1 << depth {
            let scalars = block * size + used.start..block * size + used.end;
            sums.push(Sum { bases: kinds.len(), first_base: 0, scalars });
        }
        kinds.push(kind(vec![powers(used.clone())], used.len(), 1 << depth));
    }
    for row in 0..dimensions.slices() {
        let first = scalars + row * columns;
        sums.push(Sum { bases: kinds.len(), first_base: row * columns, scalars: first..first + columns });
    }
    kinds.push(kind(bases.lagrange.to_vec(), columns, dimensions.slices()));
    share(&mut kinds, memory);
    let tables = kinds.iter().map(|kind| FixedBases::new(simd, kind.shape, &kind.points)).collect();
    (tables, sums)
}

/// Gives every kind its best shape without tables, then memory where it saves the most additions a byte.
fn share(kinds: &mut [Kind<'_>], memory: u64) {
    for kind in kinds.iter_mut() {
        let single = Shape::all().filter(|shape| shape.tables() == 1);
        kind.shape = single.min_by_key(|shape| kind.additions(*shape)).expect("there are shapes without tables");
    }
    let used = |kinds: &[Kind<'_>]| kinds.iter().map(|kind| kind.table_bytes(kind.shape)).sum::<u64>();
    loop {
        let room = memory.saturating_sub(used(kinds));
        let mut best: Option<(f64, usize, Shape)> = None;
        for (number, kind) in kinds.iter().enumerate() {
            for shape in Shape::all() {
                let bytes = kind.table_bytes(shape).saturating_sub(kind.table_bytes(kind.shape));
                let saved = kind.additions(kind.shape).saturating_sub(kind.additions(shape));
                if saved > 0 && bytes <= room {
                    let rate = saved as f64 / bytes.max(1) as f64;
                    if best.is_none_or(|(other, _, _)| rate > other) {
                        best = Some((rate, number, shape));
                    }
                }
            }
        }
        match best {
            Some((_, number, shape)) => kinds[number].shape = shape,
            None => return,
        }
    }
}

/// The sums of a blob, by what they are for.
pub(super) struct Sums<'a> {
    /// The high commitment.
    pub(super) high: &'a G1Projective,
    /// By depth 1..=lg R and block: what the block has beside that of half its size at its beginning.
    pub(super) blocks: &'a [G1Projective],
    /// Commitments of the encoded rows.
    pub(super) rows: &'a [G1Projective],
}

impl<'a> Sums<'a> {
    pub(super) fn new(dimensions: Dimensions, sums: &'a [G1Projective]) -> Self {
        debug_assert_eq!(first_node(dimensions.lg_rows(), 0, 1), 0);
        let (high, others) = sums.split_first().expect("a sum for the high commitment");
        let (blocks, rows) = others.split_at(nodes_per_coset(dimensions.lg_rows()));
        assert_eq!(rows.len(), COSETS * dimensions.rows(), "a sum for each row");
        Sums { high, blocks, rows }
    }
}
