//! How a commitment is cut into pieces: MSMs of one size, sums, and transforms of points.
//!
//! Source of the formulas: `encoder/src/commit.rs`. Every MSM is a sum of pieces of the same number of points, so that one
//! dispatch works on many of them alike, and no thread ever has more points than a piece.

use wgpu::Buffer;
use zgpu_core::blob::{COSETS, Dimensions};

use crate::blob::Programs;
use crate::plan::Planner;

/// Most points of a piece, as log2: lists of more are no better, and a bucket with all of them takes a thread that long.
const MAX_LG_POINTS: u32 = 10;
/// Buckets of a group, as log2: threads of a wave wait for the longest of their groups, and long ones differ less.
const LG_GROUP: u32 = 3;
/// Bits of a digit that are worth trying: the kernel has counters for 2^9 magnitudes.
const DIGIT_BITS: std::ops::RangeInclusive<u32> = 3..=10;
/// Bits of a scalar.
const SCALAR_BITS: u32 = 254;
/// Limb products of a sum with an affine point, and of a sum of two projective points.
const COSTS: (u64, u64) = (8000, 9600);
/// Bytes of a projective point.
pub(crate) const BYTES_PER_PROJECTIVE: u64 = 96;
/// Threads in a dispatch whose threads each multiply points by numbers: thousands of field products a thread.
const THREADS_OF_PRODUCTS: u32 = 16384;

/// How MSMs are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    /// Points of a piece, as log2.
    pub(crate) lg_points: u32,
    /// Bits of a digit.
    pub(crate) digit_bits: u32,
}

impl Cut {
    /// The cut for a matrix, with `lg_points` at most so much; the digits that cost least.
    pub(crate) fn new(dimensions: Dimensions, lg_points: Option<u32>, digit_bits: Option<u32>) -> Self {
        let lg_points = lg_points.unwrap_or(MAX_LG_POINTS).min(MAX_LG_POINTS).min(dimensions.lg_columns());
        let cost = |digit_bits: &u32| {
            let cut = Self { lg_points, digit_bits: *digit_bits };
            // Every bucket is summed once, every group three times and doubled.
            let sums = u64::from(cut.buckets() + 4 * cut.groups());
            u64::from(cut.windows()) * ((COSTS.0 << lg_points) + COSTS.1 * sums)
        };
        let best = DIGIT_BITS.min_by_key(cost).expect("some digits are worth trying");
        let digit_bits = digit_bits.map_or(best, |bits| bits.clamp(*DIGIT_BITS.start(), *DIGIT_BITS.end()));
        Self { lg_points, digit_bits }
    }

    /// Windows of a scalar. The highest has two bits or more to spare, so that it needs no sign.
    pub(crate) fn windows(self) -> u32 {
        SCALAR_BITS / self.digit_bits + 1
    }

    /// Buckets of a window.
    pub(crate) fn buckets(self) -> u32 {
        1 << (self.digit_bits - 1)
    }

    fn lg_group(self) -> u32 {
        LG_GROUP.min(self.digit_bits - 1)
    }

    fn groups(self) -> u32 {
        self.buckets() >> self.lg_group()
    }

    /// Points of a piece.
    pub(crate) fn points(self) -> u32 {
        1 << self.lg_points
    }

    /// Bytes of `order`, `starts` and `buckets` for one piece.
    pub(crate) fn scratch_bytes(self) -> [u64; 3] {
        let windows = u64::from(self.windows());
        let buckets = u64::from(self.buckets());
        [windows * 4 * u64::from(self.points()), windows * 4 * (buckets + 1), windows * buckets * BYTES_PER_PROJECTIVE]
    }

    /// Σ 2^(c-1)·2^(c·w) over all windows but the highest, the lowest word first.
    fn bias(self) -> [u32; 8] {
        let mut words = [0u32; 8];
        for window in 0..self.windows() - 1 {
            let bit = window * self.digit_bits + self.digit_bits - 1;
            words[(bit / 32) as usize] |= 1 << (bit % 32);
        }
        words
    }
}

/// Scalars and points of each piece, in the order of the results: `[number of the first scalar, of the first point]`.
pub(crate) struct Pieces {
    pub(crate) table: Vec<[u32; 2]>,
    /// MSMs over powers, then one over high powers, then those over the Lagrange points of each coset.
    runs: Vec<Run>,
}

/// MSMs of one length whose pieces lie one behind the other.
struct Run {
    msms: u32,
    /// Pieces of each.
    pieces: u32,
    /// Where the results go, and how many bits of their numbers are reversed.
    first_node: u32,
    lg_reversed: u32,
}

/// Which points and scalars a stretch of pieces is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bases {
    Powers,
    HighPowers,
    Lagrange,
}

/// Numbers of points in `nodes`: a tree is a heap, node n of depth d being number 2^d + n.
#[derive(Clone, Copy)]
pub(crate) struct Nodes {
    rows: u32,
}

impl Nodes {
    pub(crate) fn new(dimensions: Dimensions) -> Self {
        Self { rows: dimensions.rows() as u32 }
    }

    /// Commitments of nodes: a tree for each coset. Blocks are the tree before it.
    pub(crate) fn commitments(self) -> u32 {
        2 * self.rows
    }

    /// Quotients of nodes: a tree for each coset.
    fn quotients(self) -> u32 {
        self.commitments() + COSETS as u32 * 2 * self.rows
    }

    /// The high commitment.
    fn high(self) -> u32 {
        self.quotients() + COSETS as u32 * 2 * self.rows
    }

    /// All points.
    pub(crate) fn count(self) -> u32 {
        self.high() + 1
    }
}

impl Pieces {
    pub(crate) fn new(dimensions: Dimensions, cut: Cut) -> Self {
        let (rows, columns, scalars) =
            (dimensions.rows() as u32, dimensions.columns() as u32, dimensions.scalars() as u32);
        let nodes = Nodes::new(dimensions);
        let points = cut.points();
        let mut all = Self { table: Vec::new(), runs: Vec::new() };
        let whole_columns = columns / points;
        all.push(rows, whole_columns, nodes.rows, 0, |msm, piece| [msm * columns + piece * points, piece * points]);
        for depth in 1..dimensions.lg_rows() {
            let half = scalars >> (depth + 1);
            all.push(1 << depth, half / points, 1 << depth, 0, |msm, piece| {
                let base = half + piece * points;
                [2 * half * msm + base, base]
            });
        }
        all.push(1, scalars / points, nodes.high(), 0, |_, piece| [piece * points; 2]);
        for coset in 0..COSETS as u32 {
            let leaves = nodes.commitments() + coset * 2 * rows + rows;
            all.push(rows, whole_columns, leaves, dimensions.lg_rows(), |msm, piece| {
                let base = msm * columns + piece * points;
                [coset * scalars + base, base]
            });
        }
        all
    }

    fn push(
        &mut self,
        msms: u32,
        pieces: u32,
        first_node: u32,
        lg_reversed: u32,
        piece: impl Fn(u32, u32) -> [u32; 2],
    ) {
        self.table
            .extend((0..msms).flat_map(|msm| (0..pieces).map(move |number| (msm, number))).map(|(m, n)| piece(m, n)));
        self.runs.push(Run { msms, pieces, first_node, lg_reversed });
    }

    pub(crate) fn count(&self) -> u32 {
        self.table.len() as u32
    }

    /// How many pieces are over powers, over high powers, and over the points of each coset.
    fn stretches(&self) -> impl Iterator<Item = (Bases, u32)> {
        let powers = self.runs.len() - COSETS - 1;
        self.runs.iter().enumerate().map(move |(number, run)| {
            let bases = match number {
                number if number < powers => Bases::Powers,
                number if number == powers => Bases::HighPowers,
                _ => Bases::Lagrange,
            };
            (bases, run.msms * run.pieces)
        })
    }
}

/// What a commitment reads and writes.
pub(crate) struct CommitBuffers<'a> {
    pub(crate) powers: &'a Buffer,
    pub(crate) high_powers: &'a Buffer,
    pub(crate) lagrange: [&'a Buffer; COSETS],
    pub(crate) factors: &'a Buffer,
    pub(crate) pieces: &'a Buffer,
    pub(crate) coefficients: &'a Buffer,
    pub(crate) cosets: &'a Buffer,
    pub(crate) order: &'a Buffer,
    pub(crate) starts: &'a Buffer,
    pub(crate) buckets: &'a Buffer,
    pub(crate) window_sums: &'a Buffer,
    pub(crate) piece_sums: &'a Buffer,
    pub(crate) nodes: &'a Buffer,
    pub(crate) points: &'a Buffer,
}

/// Plans a commitment: `batch` pieces at a time.
pub(crate) fn plan_commit<'a>(
    planner: &mut Planner<'a>,
    programs: &'a Programs,
    buffers: &CommitBuffers<'a>,
    dimensions: Dimensions,
    cut: Cut,
    pieces: &Pieces,
    batch: u32,
) {
    plan_pieces(planner, programs, buffers, cut, pieces, batch);
    let mut first_piece = 0;
    for run in &pieces.runs {
        let parameters = [run.msms, run.pieces, first_piece, run.first_node, run.lg_reversed];
        planner.workgroups(&programs.runs, &[buffers.piece_sums, buffers.nodes], &parameters, run.msms.into());
        first_piece += run.msms * run.pieces;
    }
    planner.submit();
    plan_trees(planner, programs, buffers, dimensions);
    plan_quotients(planner, programs, buffers, dimensions);
    let nodes = Nodes::new(dimensions);
    let count = nodes.count() - nodes.commitments();
    planner.threads(&programs.affine, &[buffers.nodes, buffers.points], &[count, nodes.commitments()], count.into());
    planner.submit();
}

/// The sum of every piece.
fn plan_pieces<'a>(
    planner: &mut Planner<'a>,
    programs: &'a Programs,
    buffers: &CommitBuffers<'a>,
    cut: Cut,
    pieces: &Pieces,
    batch: u32,
) {
    let (windows, lg_group) = (cut.windows(), cut.lg_group());
    let lg_groups = cut.digit_bits - 1 - lg_group;
    let bias = cut.bias();
    let mut coset = 0;
    let mut first = 0;
    for (bases, count) in pieces.stretches() {
        let (bases, scalars) = match bases {
            Bases::Powers => (buffers.powers, buffers.coefficients),
            Bases::HighPowers => (buffers.high_powers, buffers.coefficients),
            Bases::Lagrange => {
                coset += 1;
                (buffers.lagrange[coset - 1], buffers.cosets)
            }
        };
        let end = first + count;
        while first < end {
            let in_batch = batch.min(end - first);
            let lists = in_batch * windows;
            let groups = lists << lg_groups;
            let mut sort = bias.to_vec();
            sort.extend([lists, windows, cut.digit_bits, cut.lg_points, first]);
            let to_sort = [scalars, buffers.pieces, buffers.order, buffers.starts];
            planner.workgroups(&programs.sort, &to_sort, &sort, lists.into());
            let to_sum = [bases, buffers.pieces, buffers.order, buffers.starts, buffers.buckets];
            let parameters = [groups, windows, lg_groups, lg_group, cut.lg_points, first];
            planner.threads(&programs.accumulate, &to_sum, &parameters, groups.into());
            planner.threads(&programs.groups, &[buffers.buckets], &[groups, lg_group], groups.into());
            let parameters = [lists, lg_groups, lg_group, first * windows];
            planner.threads(&programs.windows, &[buffers.buckets, buffers.window_sums], &parameters, lists.into());
            planner.submit();
            first += in_batch;
        }
    }
    let parameters = [pieces.count(), windows, cut.digit_bits];
    let to_sum = [buffers.window_sums, buffers.piece_sums];
    planner.threads(&programs.pieces, &to_sum, &parameters, pieces.count().into());
    planner.submit();
}

/// Blocks of all depths from their own MSMs, and commitments of inner nodes.
fn plan_trees<'a>(
    planner: &mut Planner<'a>,
    programs: &'a Programs,
    buffers: &CommitBuffers<'a>,
    dimensions: Dimensions,
) {
    let nodes = Nodes::new(dimensions);
    for depth in (0..dimensions.lg_rows()).rev() {
        let level = 1 << depth;
        if depth > 0 {
            planner.threads(&programs.children, &[buffers.nodes], &[level, level, 0, 0, 1], level.into());
        }
        let all = COSETS as u32 * level;
        let parameters = [all, level, nodes.commitments(), 2 * nodes.rows, 0];
        planner.threads(&programs.children, &[buffers.nodes], &parameters, all.into());
    }
    planner.submit();
}

/// Quotients of all nodes from the blocks.
fn plan_quotients<'a>(
    planner: &mut Planner<'a>,
    programs: &'a Programs,
    buffers: &CommitBuffers<'a>,
    dimensions: Dimensions,
) {
    let nodes = Nodes::new(dimensions);
    let bound = [buffers.factors, buffers.nodes];
    let parts = |count: u32| {
        let starts = (0..count).step_by(THREADS_OF_PRODUCTS as usize);
        starts.map(move |first| (first, count.min(first.saturating_add(THREADS_OF_PRODUCTS))))
    };
    for (first, end) in parts(COSETS as u32 * (2 * nodes.rows - 2)) {
        let parameters = [end, first, nodes.rows, nodes.quotients()];
        planner.threads(&programs.spread, &bound, &parameters, (end - first).into());
        planner.submit();
    }
    for lg_distance in (0..dimensions.lg_rows()).rev() {
        for (first, end) in parts(COSETS as u32 * (nodes.rows - (1 << lg_distance))) {
            let parameters = [end, first, nodes.rows, lg_distance, nodes.quotients()];
            planner.threads(&programs.point_butterflies, &bound, &parameters, (end - first).into());
            planner.submit();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_full_size_is_cut_into_pieces_of_a_row() {
        let dimensions = Dimensions::new(10, 10).expect("the full size");
        let cut = Cut::new(dimensions, None, None);
        assert_eq!((cut.lg_points, cut.digit_bits, cut.windows()), (10, 8, 32));
        let pieces = Pieces::new(dimensions, cut);
        // A product for each coefficient and depth from 1 on but half of them in a level, for the high commitment and the cosets.
        assert_eq!(pieces.count() * 2, 1024 * (2 + 9 + 2 + 6));
    }

    #[test]
    fn every_digit_has_a_bit_to_spare() {
        for digit_bits in DIGIT_BITS {
            let cut = Cut { lg_points: 4, digit_bits };
            let highest = SCALAR_BITS - digit_bits * (cut.windows() - 1);
            assert!(highest < digit_bits, "{digit_bits}-bit digits, {highest} bits in the highest window");
        }
    }
}
