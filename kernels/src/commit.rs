//! Commitments of a blob: one plan of sets, sums and products for a shape, and the launches that work through it.
//!
//! Source of the formulas: the AMT commitment scheme of the network's DA encoder, with N = R·C scalars in R rows, m = N/2^d:
//! - blocks: B(lg R, u) is an MSM of C coefficients over the first C powers; B(d,u) = B(d+1,2u) + the MSM of coefficients
//!   um + m/2 .. um + m over powers m/2 .. m;
//! - quotients of the nodes (d, n) of coset k: 2^-d·Σ_u ρ^(t(u+1))·c_k^(mu)·B(d,u), t = n with its d bits reversed, ρ the
//!   2^d-th root of unity, c_k = 1, ω_2N, ω_4N: values of a polynomial at X = ρ^t·c_k^m, times 2^-d·c_k^-m;
//! - commitments of leaves: MSMs of rows over their Lagrange points; of other nodes: sums of their leaves; the root is the
//!   erasure commitment; the high commitment is one MSM of all coefficients.
//!
//! Stages (`cuda/msm`, `cuda/curve`): sets of buckets in batches that fit the scratch memory (sort, accumulate,
//! merge, reduce); then sums of sets; then the quotients' NTTs of all depths and cosets side by side, by remainders: a polynomial
//! mod X^L - z gives those mod X^(L/4) - z' for the four z'^4 = z, so that nodes come in tree order and coset factors are
//! part of the z; then affine form.

use std::collections::HashMap;

use zgpu_core::blob::{BYTES_PER_POINT, BYTES_PER_SCALAR, COSETS, Dimensions, ProverBases};
use zgpu_core::device::DeviceError;

use crate::runtime::{Kernel, Memory, Runtime};

/// Bytes of a node: commitment, then quotient.
pub const BYTES_PER_NODE: usize = 2 * BYTES_PER_POINT;

/// Bytes of a point between launches: x, y, zz, zzz.
const BYTES_PER_XYZZ: u64 = 128;
/// Bytes of a reduced segment: two points.
const BYTES_PER_SEGMENT: u64 = 2 * BYTES_PER_XYZZ;
/// Bits of a scalar.
const SCALAR_BITS: u32 = 254;
/// Distances between the windows of a table, best first: the last has one window, the points themselves.
const STRIDES: [u32; 6] = [1, 2, 4, 8, 16, 32];
/// Bits of a digit: at least 9, so that the buckets are whole segments of segments; with 16, sums of the highest digit and
/// the offset still fit.
const DIGIT_BITS: std::ops::RangeInclusive<u32> = 9..=16;
/// Buckets of a part at most, `MAX_BUCKETS` of `cuda/msm/part.cuh`.
const MAX_PART_BUCKETS: u64 = 4096;
/// Most points of a set.
const MAX_SET_POINTS: usize = 1 << 16;
/// Most entries of a thread's task, `ENTRIES_PER_TASK` of `cuda/msm/part.cuh`.
const ENTRIES_PER_TASK: u64 = 64;
/// Neighbours that one thread reduces, `SEGMENT` of `cuda/msm/bucket.cu`, and terms that it adds.
const SEGMENT: u32 = 16;
/// Cost of a bucket in entries: two additions of 14 products, and three more products in later rounds, to an entry's 10.
const ENTRIES_PER_BUCKET: u64 = 3;
/// Looks at an entry by the sort of one range that cost as much as its addition: 50 instructions to 2,700.
const LOOKS_PER_ENTRY: u64 = 50;
/// Buckets that are worked on at once: 268 MB of sums, and about as much of entries and tasks.
const BUCKETS_PER_BATCH: u64 = 1 << 21;
/// Blobs whose scratch memory lies beside the tables: two lanes keep a card busy.
const BLOBS_BESIDE_TABLES: u64 = 2;
/// Bases whose tables are built at once.
const BASES_PER_PIECE: usize = 1 << 18;
/// Points that `normalise_table` normalises with one inversion.
const POINTS_PER_INVERSION: u32 = 32;
/// In the index of a term: the opposite point.
const NEGATIVE: u32 = 1 << 31;
/// Multiples that a multiplication tabulates.
const MULTIPLES: u64 = 8;

/// `Part` of `cuda/msm/part.cuh`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Part {
    bases: u64,
    source: u32,
    first_scalar: u32,
    points: u32,
    bits: u32,
    windows: u32,
    stride: u32,
    first_window: u32,
    slots: u32,
    range: u32,
    buckets: u32,
    first_entry: u32,
    first_task: u32,
    first_bucket: u32,
    first_extra: u32,
    first_merge: u32,
    offset: [u32; 9],
}

/// `Sum` of `cuda/curve/combine.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Sum {
    first_term: u32,
    term_count: u32,
    doublings: u32,
    out: u32,
}

/// `Multiply` of `cuda/curve/combine.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Multiply {
    input: u32,
    out: u32,
    scalar: u32,
}

/// `Scalar` of `cuda/curve/combine.cu`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Scalar {
    lg_order: u32,
    exponent: u32,
    halvings: u32,
}

/// `TableArgs` of `cuda/msm/table.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct TableArgs {
    input: u64,
    out: u64,
    scratch: u64,
    in_stride: u32,
    out_stride: u32,
    doublings: u32,
    count: u32,
}

/// `SortArgs` of `cuda/msm/sort.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct SortArgs {
    sources: [u64; 1 + COSETS],
    parts: u64,
    entries: u64,
    tasks: u64,
    merges: u64,
}

/// `BucketArgs` of `cuda/msm/bucket.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct BucketArgs {
    parts: u64,
    entries: u64,
    tasks: u64,
    merges: u64,
    sums: u64,
    task_count: u32,
    merge_count: u32,
}

/// `ReduceArgs` of `cuda/msm/bucket.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct ReduceArgs {
    input: u64,
    out: u64,
    count: u32,
    length: u32,
    lg_unit: u32,
    first: u32,
    last: u32,
    unused: u32,
}

/// `SumArgs` of `cuda/curve/combine.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct SumArgs {
    points: u64,
    sums: u64,
    terms: u64,
    count: u32,
    unused: u32,
}

/// `SplitArgs` of `cuda/curve/combine.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct SplitArgs {
    scalars: u64,
    splits: u64,
    count: u32,
    unused: u32,
}

/// `MultiplyArgs` of `cuda/curve/combine.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct MultiplyArgs {
    points: u64,
    multiplies: u64,
    splits: u64,
    multiples: u64,
    count: u32,
    unused: u32,
}

/// `NormaliseArgs` of `cuda/curve/combine.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct NormaliseArgs {
    points: u64,
    places: u64,
    results: u64,
    count: u32,
    unused: u32,
}

/// Bytes of `Split` of `cuda/curve/combine.cu`.
const BYTES_PER_SPLIT: u64 = 40;
/// Bytes of `Task` and of `Merge` of `cuda/msm/part.cuh`.
const BYTES_PER_TASK: u64 = 16;

/// How scalars are cut into digits, for MSMs over one run of bases.
#[derive(Clone, Copy)]
struct Windows {
    /// Of a digit.
    bits: u32,
    /// Windows of a scalar.
    count: u32,
    /// Windows between two that are in the table; the others take doublings.
    stride: u32,
}

impl Windows {
    /// The cheapest for sets of `points` points.
    fn cheapest(points: usize, stride: u32) -> Self {
        let cost = |bits: u32| {
            let windows = SCALAR_BITS.div_ceil(bits);
            let sets = u64::from(stride.min(windows));
            let (entries, buckets) = (points as u64 * u64::from(windows), sets << (bits - 1));
            let looks = entries * sets * (1u64 << (bits - 1)).div_ceil(MAX_PART_BUCKETS);
            entries + buckets * ENTRIES_PER_BUCKET + looks / LOOKS_PER_ENTRY
        };
        let bits = DIGIT_BITS.min_by_key(|&bits| cost(bits)).expect("the range has bits");
        let count = SCALAR_BITS.div_ceil(bits);
        Self { bits, count, stride: stride.min(count) }
    }

    /// Multiples of a base in the table.
    fn slots(self) -> u32 {
        self.count.div_ceil(self.stride)
    }

    /// Buckets of a set.
    fn buckets(self) -> u64 {
        1 << (self.bits - 1)
    }

    /// Buckets of a part.
    fn part_buckets(self) -> u64 {
        self.buckets().min(MAX_PART_BUCKETS)
    }

    /// Σ_j 2^(bits·j + bits - 1): makes signed digits of plain ones. A scalar plus this stays below 2^(bits·count), since
    /// the topmost digit of a scalar is below 2^(bits-1) - 1 for all bits that we use.
    fn offset(self) -> [u32; 9] {
        let mut words = [0; 9];
        for window in 0..self.count {
            let bit = self.bits * window + self.bits - 1;
            words[bit as usize / 32] |= 1 << (bit % 32);
        }
        words
    }
}

/// Bases with one table: a range of one of the five sections of the prover's bases.
#[derive(Clone, Copy)]
struct Run {
    /// 0 powers, 1 high powers, 2 + k the Lagrange points of coset k.
    section: usize,
    first: usize,
    count: usize,
    /// Points of each set.
    set_points: usize,
    windows: Windows,
}

impl Run {
    fn new(section: usize, first: usize, count: usize, points: usize, stride: u32) -> Self {
        let set_points = points.min(MAX_SET_POINTS);
        Self { section, first, count, set_points, windows: Windows::cheapest(set_points, stride) }
    }

    fn table_bytes(&self) -> u64 {
        self.count as u64 * self.base_bytes()
    }

    /// Bytes of a base's slots.
    fn base_bytes(&self) -> u64 {
        u64::from(self.windows.slots()) * BYTES_PER_POINT as u64
    }
}

/// Sets that are worked on together: consecutive, with one number of bits.
struct Batch {
    first_set: u32,
    sets: u32,
    first_part: u32,
    parts: u32,
    bits: u32,
    /// Buckets of the batches before.
    first_bucket: u64,
    buckets: u64,
    entries: u64,
    /// Room for sums beyond the buckets', and for merges; tasks have as much beyond one for each bucket.
    extras: u64,
}

/// Bytes of the scratch memory of one blob.
struct Scratch {
    entries: u64,
    tasks: u64,
    merges: u64,
    sums: u64,
    segments: [u64; 2],
    points: u64,
    multiples: u64,
}

impl Scratch {
    fn bytes(&self) -> u64 {
        let [once, twice] = self.segments;
        self.entries + self.tasks + self.merges + self.sums + once + twice + self.points + self.multiples
    }
}

/// A launch over a range of a list.
enum Step {
    Sum { first: u32, count: u32 },
    Multiply { first: u32, count: u32 },
}

/// All that is done for a blob, for one shape and one stride: lists of indices, made once.
struct Plan {
    dimensions: Dimensions,
    runs: Vec<Run>,
    /// Each part with the number of its run and its first base there; in the order of the batches.
    parts: Vec<(Part, usize, usize)>,
    batches: Vec<Batch>,
    /// Points: the sets' results first, then those of sums and products.
    points: u32,
    steps: Vec<Step>,
    sums: Vec<Sum>,
    terms: Vec<u32>,
    multiplies: Vec<Multiply>,
    scalars: Vec<Scalar>,
    scalar_numbers: HashMap<Scalar, u32>,
    /// Points of the results, in their order.
    nodes: Vec<u32>,
    totals: Vec<u32>,
}

/// An MSM: `points` scalars from `first_scalar` on, over as many bases from `first_base` of the run on.
struct Msm {
    run: usize,
    first_base: usize,
    points: usize,
    source: u32,
    first_scalar: usize,
}

impl Plan {
    fn new(dimensions: Dimensions, stride: u32) -> Self {
        let mut plan = Plan {
            dimensions,
            runs: Vec::new(),
            parts: Vec::new(),
            batches: Vec::new(),
            points: 0,
            steps: Vec::new(),
            sums: Vec::new(),
            terms: Vec::new(),
            multiplies: Vec::new(),
            scalars: Vec::new(),
            scalar_numbers: HashMap::new(),
            nodes: Vec::new(),
            totals: Vec::new(),
        };
        let (rows, columns, scalars) = (dimensions.rows(), dimensions.columns(), dimensions.scalars());
        let lg_rows = dimensions.lg_rows();

        // Run 0: the lowest blocks. Run d: level d. Then the high powers, then the cosets.
        plan.runs.push(Run::new(0, 0, columns, columns, stride));
        for depth in 1..lg_rows {
            let half = scalars >> (depth + 1);
            plan.runs.push(Run::new(0, half, half, half, stride));
        }
        let high_run = plan.runs.len();
        plan.runs.push(Run::new(1, 0, scalars, scalars, stride));
        plan.runs.extend((0..COSETS).map(|coset| Run::new(2 + coset, 0, scalars, columns, stride)));

        let mut msms = Vec::new();
        let lowest =
            |block: usize| Msm { run: 0, first_base: 0, points: columns, source: 0, first_scalar: block * columns };
        msms.extend((0..rows).map(lowest));
        for depth in 1..lg_rows {
            let size = scalars >> depth;
            msms.extend((0..1 << depth).map(|block| Msm {
                run: depth as usize,
                first_base: 0,
                points: size / 2,
                source: 0,
                first_scalar: block * size + size / 2,
            }));
        }
        msms.push(Msm { run: high_run, first_base: 0, points: scalars, source: 0, first_scalar: 0 });
        for coset in 0..COSETS {
            msms.extend((0..rows).map(|node| {
                let first = reversed(node, lg_rows) * columns;
                Msm {
                    run: high_run + 1 + coset,
                    first_base: first,
                    points: columns,
                    source: 1 + coset as u32,
                    first_scalar: first,
                }
            }));
        }
        let msms = plan.add_msms(&msms);

        // Where each kind of MSM begins in the list above: level d after the R lowest and 2 + 4 + .. + 2^(d-1) others.
        let level = |depth: u32, block: usize| rows + (1 << depth) - 2 + block;
        let high = rows + (rows - 2);
        let leaf = |coset: usize, node: usize| high + 1 + coset * rows + node;
        let join = |numbers: &mut dyn Iterator<Item = usize>| -> Vec<u32> {
            numbers.flat_map(|number| msms[number].iter().copied()).collect()
        };

        // One fold for all: high and erasure commitment, the nodes' commitments, the blocks.
        let mut lists = vec![join(&mut [high].into_iter()), join(&mut (0..rows).map(|node| leaf(0, node)))];
        for coset in 0..COSETS {
            for depth in 1..=lg_rows {
                let leaves = rows >> depth;
                lists.extend(
                    (0..1usize << depth)
                        .map(|node| join(&mut (node * leaves..(node + 1) * leaves).map(|node| leaf(coset, node)))),
                );
            }
        }
        for depth in 1..=lg_rows {
            lists.extend((0..1usize << depth).map(|block| {
                let above = (depth..lg_rows).map(|depth_below| level(depth_below, block << (depth_below - depth)));
                join(&mut std::iter::once(block << (lg_rows - depth)).chain(above))
            }));
        }
        let folded = plan.fold(lists);
        let (totals, folded) = folded.split_at(2);
        plan.totals = vec![totals[1], totals[0]];
        let (commitments, blocks) = folded.split_at(COSETS * (2 * rows - 2));
        let quotients = plan.quotients(blocks);
        plan.nodes =
            commitments.iter().zip(&quotients).flat_map(|(&commitment, &quotient)| [commitment, quotient]).collect();
        plan
    }

    /// Cuts MSMs into sets, those into parts, and makes batches; returns the points whose sum each MSM is.
    fn add_msms(&mut self, msms: &[Msm]) -> Vec<Vec<u32>> {
        // (number of the MSM, its tile, its window), by the number of bits.
        let mut order = Vec::new();
        for (number, msm) in msms.iter().enumerate() {
            let run = self.runs[msm.run];
            for tile in 0..msm.points / run.set_points {
                order.extend((0..run.windows.stride).map(|window| (number, tile, window)));
            }
        }
        order.sort_by_key(|&(number, ..)| std::cmp::Reverse(self.runs[msms[number].run].windows.bits));

        let mut results: HashMap<(usize, usize), Vec<u32>> = HashMap::new();
        for (number, tile, window) in order {
            let msm = &msms[number];
            let run = self.runs[msm.run];
            let windows = run.windows;
            let entries = run.set_points as u64 * u64::from(windows.slots());
            let fits =
                |batch: &Batch| batch.bits == windows.bits && batch.buckets + windows.buckets() <= BUCKETS_PER_BATCH;
            if !self.batches.last().is_some_and(fits) {
                self.batches.push(Batch {
                    first_set: self.points,
                    sets: 0,
                    first_part: self.parts.len() as u32,
                    parts: 0,
                    bits: windows.bits,
                    first_bucket: self.buckets(),
                    buckets: 0,
                    entries: 0,
                    extras: 0,
                });
            }
            let batch = self.batches.last_mut().expect("there is one");
            for range in 0..windows.buckets() / windows.part_buckets() {
                let part = Part {
                    bases: 0,
                    source: msm.source,
                    first_scalar: (msm.first_scalar + tile * run.set_points) as u32,
                    points: run.set_points as u32,
                    bits: windows.bits,
                    windows: windows.count,
                    stride: windows.stride,
                    first_window: window,
                    slots: windows.slots(),
                    range: range as u32,
                    buckets: windows.part_buckets() as u32,
                    first_entry: batch.entries as u32,
                    first_task: (batch.buckets + batch.extras) as u32,
                    first_bucket: (batch.buckets + range * windows.part_buckets()) as u32,
                    // Extras lie behind the buckets of the whole batch, which is not full yet.
                    first_extra: 0,
                    first_merge: batch.extras as u32,
                    offset: windows.offset(),
                };
                batch.parts += 1;
                self.parts.push((part, msm.run, msm.first_base + tile * run.set_points));
            }
            batch.sets += 1;
            batch.buckets += windows.buckets();
            batch.entries += entries;
            batch.extras += entries / ENTRIES_PER_TASK;
            results.entry((number, tile)).or_default().push(self.points);
            self.points += 1;
        }
        for batch in &self.batches {
            for (part, ..) in &mut self.parts[batch.first_part as usize..][..batch.parts as usize] {
                part.first_extra = batch.buckets as u32 + part.first_merge;
            }
        }
        // Windows of a tile: Horner's rule, the highest first.
        let first = self.sums.len();
        let totals = msms.iter().enumerate().map(|(number, msm)| {
            let run = self.runs[msm.run];
            let tiles = (0..msm.points / run.set_points).map(|tile| {
                let windows = &results[&(number, tile)];
                match windows[..] {
                    [only] => only,
                    _ => self.add_sum(windows.iter().rev().copied(), run.windows.bits),
                }
            });
            tiles.collect()
        });
        let totals = totals.collect();
        self.add_sum_step(first);
        totals
    }

    /// A new point.
    fn add_point(&mut self) -> u32 {
        self.points += 1;
        self.points - 1
    }

    /// A sum of terms, with so many doublings between two; returns its point.
    fn add_sum(&mut self, terms: impl Iterator<Item = u32>, doublings: u32) -> u32 {
        let first_term = self.terms.len() as u32;
        self.terms.extend(terms);
        let out = self.add_point();
        self.sums.push(Sum { first_term, term_count: self.terms.len() as u32 - first_term, doublings, out });
        out
    }

    /// One launch for the sums from number `first` on, if there are any.
    fn add_sum_step(&mut self, first: usize) {
        if self.sums.len() > first {
            self.steps.push(Step::Sum { first: first as u32, count: (self.sums.len() - first) as u32 });
        }
    }

    /// Sums of lists of points: launch after launch, each adding at most [`SEGMENT`] neighbours.
    fn fold(&mut self, mut lists: Vec<Vec<u32>>) -> Vec<u32> {
        while lists.iter().any(|list| list.len() > 1) {
            let first = self.sums.len();
            for list in &mut lists {
                *list = list
                    .chunks(SEGMENT as usize)
                    .map(|chunk| match *chunk {
                        [only] => only,
                        _ => self.add_sum(chunk.iter().copied(), 0),
                    })
                    .collect();
            }
            self.add_sum_step(first);
        }
        lists.into_iter().map(|list| list[0]).collect()
    }

    /// Quotients of all nodes, by coset, depth and node, from the blocks by depth.
    fn quotients(&mut self, blocks: &[u32]) -> Vec<u32> {
        let lg_rows = self.dimensions.lg_rows();
        let mut transforms = Vec::new();
        for coset in 0..COSETS {
            for depth in 1..=lg_rows {
                let blocks = &blocks[(1 << depth) - 2..][..1 << depth];
                transforms.push(Transform::new(self.dimensions, coset, depth, blocks));
            }
        }
        while transforms.iter().any(|transform| transform.level < transform.depth) {
            let (first_multiply, first_sum) = (self.multiplies.len(), self.sums.len());
            for transform in &mut transforms {
                transform.step(self);
            }
            let count = self.multiplies.len() - first_multiply;
            if count > 0 {
                self.steps.push(Step::Multiply { first: first_multiply as u32, count: count as u32 });
            }
            self.add_sum_step(first_sum);
        }
        transforms.iter().flat_map(|transform| transform.values.iter().map(|&(point, _)| point)).collect()
    }

    /// The product of a point and a scalar; returns its point.
    fn add_multiply(&mut self, input: u32, scalar: Scalar) -> u32 {
        let scalars = &mut self.scalars;
        let number = *self.scalar_numbers.entry(scalar).or_insert_with(|| {
            scalars.push(scalar);
            scalars.len() as u32 - 1
        });
        let out = self.add_point();
        self.multiplies.push(Multiply { input, out, scalar: number });
        out
    }

    /// Buckets of all batches.
    fn buckets(&self) -> u64 {
        self.batches.last().map_or(0, |batch| batch.first_bucket + batch.buckets)
    }

    /// Bytes of the tables, and of the scratch memory for two blobs.
    fn bytes(&self) -> u64 {
        let tables: u64 = self.runs.iter().map(Run::table_bytes).sum();
        tables + BLOBS_BESIDE_TABLES * self.scratch().bytes()
    }

    fn scratch(&self) -> Scratch {
        let most = |count: &dyn Fn(&Batch) -> u64| self.batches.iter().map(count).max().unwrap_or(0);
        let segments = self.buckets() / u64::from(SEGMENT);
        Scratch {
            entries: most(&|batch| batch.entries) * size_of::<u32>() as u64,
            tasks: most(&|batch| batch.buckets + batch.extras) * BYTES_PER_TASK,
            merges: most(&|batch| batch.extras) * BYTES_PER_TASK,
            sums: most(&|batch| batch.buckets + batch.extras) * BYTES_PER_XYZZ,
            segments: [segments, segments / u64::from(SEGMENT)].map(|segments| segments * BYTES_PER_SEGMENT),
            points: u64::from(self.points) * BYTES_PER_XYZZ,
            multiples: self.max_multiplies() * MULTIPLES * BYTES_PER_XYZZ,
        }
    }

    /// Most multiplications of one step.
    fn max_multiplies(&self) -> u64 {
        let counts = self.steps.iter().map(|step| match *step {
            Step::Multiply { count, .. } => u64::from(count),
            Step::Sum { .. } => 0,
        });
        counts.max().unwrap_or(0)
    }
}

/// The NTT of one coset and depth, on its way: Σ_u g_u·X^u at X = ρ^t·c^m, times c^-m·2^-d, with g_(u+1) = B(d,u) and
/// g_0 = X^(2^d)·B(d, 2^d - 1), X^(2^d) being c^N for all nodes. Exponents are of ω_4N, mod 4N.
struct Transform {
    lg_order: u32,
    depth: u32,
    /// N/2^d.
    size: usize,
    /// c is ω_4N to this power.
    shift: usize,
    /// Levels of the tree that are done: values has, for each node of this level, a remainder of 2^(depth - level) terms.
    level: u32,
    /// Points, each still to be multiplied by a power of ω_4N.
    values: Vec<(u32, usize)>,
}

impl Transform {
    fn new(dimensions: Dimensions, coset: usize, depth: u32, blocks: &[u32]) -> Self {
        let shift = [0, 2, 1][coset];
        let (last, others) = blocks.split_last().expect("a depth has blocks");
        let first = (*last, shift * dimensions.scalars());
        Self {
            lg_order: dimensions.lg_scalars() + 2,
            depth,
            size: dimensions.scalars() >> depth,
            shift,
            level: 0,
            values: std::iter::once(first).chain(others.iter().map(|&block| (block, 0))).collect(),
        }
    }

    /// Two levels down, or one if no more is left: from remainders mod X^L - z to those mod X^(L/4) - z'. With the four
    /// quarters x_j of a remainder, each new one is Σ_j z'^j·x_j.
    fn step(&mut self, plan: &mut Plan) {
        let lg_parts = (self.depth - self.level).min(2);
        if lg_parts == 0 {
            return;
        }
        let level = self.level + lg_parts;
        let order = 1usize << self.lg_order;
        let length = 1usize << (self.depth - level);
        let last = level == self.depth;
        let halvings = if last { self.depth } else { 0 };
        let mut products: HashMap<(u32, usize), u32> = HashMap::new();
        let mut values = Vec::with_capacity(self.values.len());
        for node in 0..1usize << level {
            let remainder = &self.values[(node >> lg_parts) * (length << lg_parts)..];
            let root = (4 * reversed(node, level) + self.shift) * self.size * length;
            for i in 0..length {
                let terms: Vec<u32> = (0..1usize << lg_parts)
                    .map(|part| {
                        let (point, own) = remainder[i + part * length];
                        let scale = if last { order - self.shift * self.size } else { 0 };
                        let exponent = (own + part * root + scale) % order;
                        // ω_4N^2N = -1.
                        let (sign, exponent) = (exponent / (order / 2), exponent % (order / 2));
                        let product = if exponent == 0 && halvings == 0 {
                            point
                        } else {
                            *products.entry((point, exponent)).or_insert_with(|| {
                                let scalar = Scalar { lg_order: self.lg_order, exponent: exponent as u32, halvings };
                                plan.add_multiply(point, scalar)
                            })
                        };
                        product | if sign == 1 { NEGATIVE } else { 0 }
                    })
                    .collect();
                values.push((plan.add_sum(terms.into_iter(), 0), 0));
            }
        }
        self.values = values;
        self.level = level;
    }
}

/// `index` with its lowest `bits` bits in reverse order.
fn reversed(index: usize, bits: u32) -> usize {
    if bits == 0 { 0 } else { index.reverse_bits() >> (usize::BITS - bits) }
}

/// Tables of the prover's points and lists of the work, in device memory: made once, shared by all lanes.
pub struct Tables<R: Runtime> {
    plan: Plan,
    /// One for each run of the plan.
    tables: Vec<R::Memory>,
    parts: R::Memory,
    sums: R::Memory,
    terms: R::Memory,
    multiplies: R::Memory,
    splits: R::Memory,
    node_places: R::Memory,
    total_places: R::Memory,
}

impl<R: Runtime> Tables<R> {
    /// Tables that take, with the scratch memory of [`Works`](Work) for two blobs, at most `budget` bytes; the more, the
    /// fewer doublings: 8.1 GB for all windows at full size, 2.9 GB for none but the points. Errors: `Shape` when a section
    /// of `bases` has not N points, `OutOfMemory` when even the points alone exceed the budget.
    pub fn new(runtime: &R, bases: &ProverBases<'_>, budget: u64) -> Result<Self, DeviceError> {
        let mut wanted = 0;
        let stride = STRIDES.into_iter().find(|&stride| {
            wanted = Plan::new(bases.dimensions, stride).bytes();
            wanted <= budget
        });
        match stride {
            Some(stride) => Self::with_stride(runtime, bases, stride),
            None => Err(DeviceError::OutOfMemory {
                device: runtime.info().name.clone(),
                what: "tables of the prover's points",
                wanted,
                available: budget,
            }),
        }
    }

    /// Tables with every `stride`-th window, at least 1; the others take doublings. Errors: `Shape` when a section of
    /// `bases` has not N points, `OutOfMemory`.
    pub fn with_stride(runtime: &R, bases: &ProverBases<'_>, stride: u32) -> Result<Self, DeviceError> {
        let dimensions = bases.dimensions;
        let sections = [bases.powers, bases.high_powers, bases.lagrange[0], bases.lagrange[1], bases.lagrange[2]];
        for section in sections {
            let expected = (dimensions.scalars() * BYTES_PER_POINT) as u64;
            if section.len() as u64 != expected {
                return Err(DeviceError::Shape {
                    what: "bytes of the prover's points",
                    expected,
                    got: section.len() as u64,
                });
            }
        }
        let mut plan = Plan::new(dimensions, stride.max(1));
        let tables: Vec<R::Memory> = plan
            .runs
            .iter()
            .map(|run| runtime.alloc("tables of the prover's points", run.table_bytes()))
            .collect::<Result<_, _>>()?;
        let piece = plan.runs.iter().map(|run| run.count.min(BASES_PER_PIECE)).max().unwrap_or(0) as u64;
        let mut staged = runtime.alloc("points on their way to tables", piece * BYTES_PER_POINT as u64)?;
        let scratch = runtime.alloc("scratch memory of tables", piece * 3 * BYTES_PER_SCALAR as u64)?;
        for (run, table) in plan.runs.iter().zip(&tables) {
            let section = &sections[run.section][run.first * BYTES_PER_POINT..][..run.count * BYTES_PER_POINT];
            let pieces = section.chunks(piece as usize * BYTES_PER_POINT);
            for (bytes, first) in pieces.zip((0u64..).step_by(piece as usize)) {
                runtime.write(&mut staged, 0, bytes)?;
                let count = (bytes.len() / BYTES_PER_POINT) as u32;
                let start = table.address() + first * run.base_bytes();
                fill_table::<R>(runtime, run, count, &staged, start, &scratch)?;
            }
        }
        for (part, run, first_base) in &mut plan.parts {
            part.bases = tables[*run].address() + *first_base as u64 * plan.runs[*run].base_bytes();
        }

        let parts: Vec<u8> =
            plan.parts.iter().flat_map(|(part, ..)| words_of_part(part)).flat_map(u32::to_le_bytes).collect();
        let sums = plan.sums.iter().flat_map(|s| [s.first_term, s.term_count, s.doublings, s.out]);
        let multiplies = plan.multiplies.iter().flat_map(|m| [m.input, m.out, m.scalar]);
        let scalars = plan.scalars.iter().flat_map(|s| [s.lg_order, s.exponent, s.halvings]);
        let places =
            |points: &[u32]| -> Vec<u32> { points.iter().zip(0..).flat_map(|(&from, to)| [from, to]).collect() };
        let scalars = upload_words(runtime, "scalars of quotients", scalars)?;
        let splits = runtime.alloc("scalars of quotients", plan.scalars.len() as u64 * BYTES_PER_SPLIT)?;
        let split_args = SplitArgs {
            scalars: scalars.address(),
            splits: splits.address(),
            count: plan.scalars.len() as u32,
            unused: 0,
        };
        // SAFETY: split_scalars takes SplitArgs; thread i < count reads scalar i and writes split i, of which both have
        // `count`; both live until the wait.
        unsafe { launch_threads(runtime, Kernel::SplitScalars, split_args.count, &split_args)? };
        runtime.wait()?;
        let mut part_memory = runtime.alloc("parts of sums", parts.len() as u64)?;
        runtime.write(&mut part_memory, 0, &parts)?;
        Ok(Self {
            parts: part_memory,
            sums: upload_words(runtime, "lists of sums", sums)?,
            terms: upload_words(runtime, "lists of terms", plan.terms.iter().copied())?,
            multiplies: upload_words(runtime, "lists of products", multiplies)?,
            splits,
            node_places: upload_words(runtime, "places of nodes", places(&plan.nodes).into_iter())?,
            total_places: upload_words(runtime, "places of commitments", places(&plan.totals).into_iter())?,
            tables,
            plan,
        })
    }

    /// Size of the matrix.
    pub fn dimensions(&self) -> Dimensions {
        self.plan.dimensions
    }

    /// Bytes of the tables, and of the scratch memory for two blobs.
    pub fn bytes(&self) -> u64 {
        self.tables.iter().map(Memory::len).sum::<u64>() + BLOBS_BESIDE_TABLES * self.plan.scratch().bytes()
    }
}

/// Fills the slots of `count` bases of a run from byte address `start` on, from their points in `staged`.
fn fill_table<R: Runtime>(
    runtime: &R,
    run: &Run,
    count: u32,
    staged: &R::Memory,
    start: u64,
    scratch: &R::Memory,
) -> Result<(), DeviceError> {
    let vectors = (run.base_bytes() / 16) as u32;
    for slot in 0..u64::from(run.windows.slots()) {
        let out = start + slot * BYTES_PER_POINT as u64;
        let args = TableArgs {
            input: if slot == 0 { staged.address() } else { out - BYTES_PER_POINT as u64 },
            out,
            scratch: scratch.address(),
            in_stride: if slot == 0 { (BYTES_PER_POINT / 16) as u32 } else { vectors },
            out_stride: vectors,
            doublings: if slot == 0 { 0 } else { run.windows.bits * run.windows.stride },
            count,
        };
        // SAFETY: both kernels take TableArgs. Base i < count has its slots `vectors` apart from `start` on, inside the
        // table; `staged` has `count` points, and `scratch` room for three numbers of each; the caller keeps all of them
        // until its next write or wait.
        unsafe {
            launch_threads(runtime, Kernel::ExtendTable, count, &args)?;
            if slot > 0 {
                launch_threads(runtime, Kernel::NormaliseTable, count.div_ceil(POINTS_PER_INVERSION), &args)?;
            }
        }
    }
    runtime.wait()
}

/// A part as the words that kernels read.
fn words_of_part(part: &Part) -> Vec<u32> {
    let mut words = vec![part.bases as u32, (part.bases >> 32) as u32];
    words.extend([part.source, part.first_scalar, part.points, part.bits, part.windows, part.stride]);
    words.extend([part.first_window, part.slots, part.range, part.buckets, part.first_entry, part.first_task]);
    words.extend([part.first_bucket, part.first_extra, part.first_merge]);
    words.extend(part.offset);
    words
}

const _: () = assert!(size_of::<Part>() == 104, "26 words, as words_of_part makes them");

/// New memory with these words.
fn upload_words<R: Runtime>(
    runtime: &R,
    what: &'static str,
    words: impl Iterator<Item = u32>,
) -> Result<R::Memory, DeviceError> {
    let bytes: Vec<u8> = words.flat_map(u32::to_le_bytes).collect();
    let mut memory = runtime.alloc(what, bytes.len() as u64)?;
    runtime.write(&mut memory, 0, &bytes)?;
    Ok(memory)
}

/// Queues one thread for each of `count` entries.
///
/// # Safety
/// As [`Runtime::launch`].
unsafe fn launch_threads<R: Runtime, A: Copy + Sync>(
    runtime: &R,
    kernel: Kernel,
    count: u32,
    args: &A,
) -> Result<(), DeviceError> {
    if count == 0 {
        return Ok(());
    }
    // SAFETY: the caller vouches for the arguments.
    unsafe { runtime.launch(kernel, count.div_ceil(kernel.threads_per_block()), args) }
}

/// Scratch memory for one blob, and its results.
pub struct Work<R: Runtime> {
    entries: R::Memory,
    tasks: R::Memory,
    merges: R::Memory,
    sums: R::Memory,
    /// Reduced segments of all batches, and those reduced once more.
    segments: [R::Memory; 2],
    points: R::Memory,
    multiples: R::Memory,
    nodes: R::Memory,
    totals: R::Memory,
}

impl<R: Runtime> Work<R> {
    /// Memory for one blob of the tables' shape: 0.78 GB at full size.
    pub fn new(runtime: &R, tables: &Tables<R>) -> Result<Self, DeviceError> {
        let plan = &tables.plan;
        let scratch = plan.scratch();
        let alloc = |bytes| runtime.alloc("scratch memory of commitments", bytes);
        Ok(Self {
            entries: alloc(scratch.entries)?,
            tasks: alloc(scratch.tasks)?,
            merges: alloc(scratch.merges)?,
            sums: alloc(scratch.sums)?,
            segments: [alloc(scratch.segments[0])?, alloc(scratch.segments[1])?],
            points: alloc(scratch.points)?,
            multiples: alloc(scratch.multiples)?,
            nodes: runtime.alloc("nodes", (plan.nodes.len() * BYTES_PER_POINT) as u64)?,
            totals: runtime.alloc("commitments", (plan.totals.len() * BYTES_PER_POINT) as u64)?,
        })
    }

    /// Per coset k, depth d = 1..=lg R and node n < 2^d: commitment, then quotient, from byte
    /// ((k·(2R - 2)) + (2^d - 2) + n)·128 on. Each is x ‖ y in Montgomery form, zeros for infinity.
    pub fn nodes(&self) -> &R::Memory {
        &self.nodes
    }

    /// Erasure commitment, then high commitment, in the form of the nodes.
    pub fn totals(&self) -> &R::Memory {
        &self.totals
    }
}

/// Queues the commitments of a blob: N `coefficients`, and the N scalars of each coset, R rows of C; 32 bytes each, in
/// Montgomery form. The results are in `work` once all queued work is done. Errors: `Shape` when an input or `work` is too
/// short for the shape of `tables`.
pub fn commit<R: Runtime>(
    runtime: &R,
    tables: &Tables<R>,
    coefficients: &R::Memory,
    cosets: &[R::Memory; COSETS],
    work: &mut Work<R>,
) -> Result<(), DeviceError> {
    let plan = &tables.plan;
    let scalars = plan.dimensions.scalars() as u64 * BYTES_PER_SCALAR as u64;
    for memory in cosets.iter().chain([coefficients]) {
        at_least("bytes of scalars to commit to", scalars, memory.len())?;
    }
    at_least("points in the scratch memory", u64::from(plan.points), work.points.len() / BYTES_PER_XYZZ)?;
    at_least("nodes in the results", plan.nodes.len() as u64, work.nodes.len() / BYTES_PER_POINT as u64)?;
    at_least(
        "products in the scratch memory",
        plan.max_multiplies() * MULTIPLES,
        work.multiples.len() / BYTES_PER_XYZZ,
    )?;

    let sources = [coefficients.address(), cosets[0].address(), cosets[1].address(), cosets[2].address()];
    for batch in &plan.batches {
        run_batch(runtime, tables, batch, sources, work)?;
    }
    reduce_parts(runtime, plan, work)?;
    let entry = |memory: &R::Memory, first: u32, words: u64| memory.address() + u64::from(first) * words * 4;
    for step in &plan.steps {
        // SAFETY: the kernels take these arguments. Entries first .. first + count are inside their lists, whose indices
        // are all below the plan's numbers of points, terms and scalars by construction; the memory for so many points and
        // products was checked above. `tables` and `work` outlive the work: the caller waits before it drops them.
        unsafe {
            match *step {
                Step::Sum { first, count } => {
                    let args = SumArgs {
                        points: work.points.address(),
                        sums: entry(&tables.sums, first, 4),
                        terms: tables.terms.address(),
                        count,
                        unused: 0,
                    };
                    launch_threads(runtime, Kernel::SumPoints, count, &args)?;
                }
                Step::Multiply { first, count } => {
                    let args = MultiplyArgs {
                        points: work.points.address(),
                        multiplies: entry(&tables.multiplies, first, 3),
                        splits: tables.splits.address(),
                        multiples: work.multiples.address(),
                        count,
                        unused: 0,
                    };
                    launch_threads(runtime, Kernel::MultiplyPoints, count, &args)?;
                }
            }
        }
    }
    let results =
        [(&tables.node_places, &work.nodes, plan.nodes.len()), (&tables.total_places, &work.totals, plan.totals.len())];
    for (places, results, count) in results {
        let args = NormaliseArgs {
            points: work.points.address(),
            places: places.address(),
            results: results.address(),
            count: count as u32,
            unused: 0,
        };
        // SAFETY: normalise_points takes NormaliseArgs; place i < count names a point of the plan and result i, inside
        // memory that was checked above or made for so many; both outlive the work, as above.
        unsafe { launch_threads(runtime, Kernel::NormalisePoints, args.count, &args)? };
    }
    Ok(())
}

/// Queues the sets of one batch: sort, sums of buckets, and the first round of their reduction.
fn run_batch<R: Runtime>(
    runtime: &R,
    tables: &Tables<R>,
    batch: &Batch,
    sources: [u64; 1 + COSETS],
    work: &mut Work<R>,
) -> Result<(), DeviceError> {
    let segment = u64::from(SEGMENT);
    let sum_count = batch.buckets + batch.extras;
    at_least("entries in the scratch memory", batch.entries, work.entries.len() / size_of::<u32>() as u64)?;
    at_least("tasks in the scratch memory", sum_count, work.tasks.len() / BYTES_PER_TASK)?;
    at_least("merges in the scratch memory", batch.extras, work.merges.len() / BYTES_PER_TASK)?;
    at_least("sums in the scratch memory", sum_count, work.sums.len() / BYTES_PER_XYZZ)?;
    let segments = batch.buckets / segment;
    let first_segment = batch.first_bucket / segment;
    let [once, _] = &work.segments;
    at_least("segments in the scratch memory", first_segment + segments, once.len() / BYTES_PER_SEGMENT)?;

    let parts = tables.parts.address() + u64::from(batch.first_part) * size_of::<Part>() as u64;
    let sort = SortArgs {
        sources,
        parts,
        entries: work.entries.address(),
        tasks: work.tasks.address(),
        merges: work.merges.address(),
    };
    let bucket = BucketArgs {
        parts,
        entries: work.entries.address(),
        tasks: work.tasks.address(),
        merges: work.merges.address(),
        sums: work.sums.address(),
        task_count: sum_count as u32,
        merge_count: batch.extras as u32,
    };
    let reduce = ReduceArgs {
        input: work.sums.address(),
        out: once.address() + first_segment * BYTES_PER_SEGMENT,
        count: segments as u32,
        length: SEGMENT,
        lg_unit: 0,
        first: 1,
        last: 0,
        unused: 0,
    };
    // SAFETY: the kernels take these arguments. Each set has room of its own, inside memory that was checked above, for all
    // entries, tasks, merges and sums that its parts can have; its scalars are inside the sources and its bases inside a table, by
    // construction of the plan and the check of the caller. Buckets are whole segments of segments, the same number for
    // every part. All memory outlives the work, as in `commit`.
    unsafe {
        runtime.launch(Kernel::SortDigits, batch.parts, &sort)?;
        launch_threads(runtime, Kernel::AccumulateBuckets, bucket.task_count, &bucket)?;
        launch_threads(runtime, Kernel::MergeTasks, bucket.merge_count, &bucket)?;
        launch_threads(runtime, Kernel::ReduceSegments, reduce.count, &reduce)
    }
}

/// Queues what is left of the reduction, for all batches: segments of segments, and then those of each set, whose sum
/// becomes the point of the set's number.
fn reduce_parts<R: Runtime>(runtime: &R, plan: &Plan, work: &Work<R>) -> Result<(), DeviceError> {
    let [once, twice] = &work.segments;
    let square = u64::from(SEGMENT * SEGMENT);
    let count = plan.buckets() / square;
    at_least("segments in the scratch memory", count * u64::from(SEGMENT), once.len() / BYTES_PER_SEGMENT)?;
    at_least("segments in the scratch memory", count, twice.len() / BYTES_PER_SEGMENT)?;
    let segments = ReduceArgs {
        input: once.address(),
        out: twice.address(),
        count: count as u32,
        length: SEGMENT,
        lg_unit: SEGMENT.ilog2(),
        first: 0,
        last: 0,
        unused: 0,
    };
    // SAFETY: reduce_segments takes ReduceArgs; it reads 16 segments for each that it writes, all inside memory that was
    // checked above.
    unsafe { launch_threads(runtime, Kernel::ReduceSegments, segments.count, &segments)? };
    for batches in plan.batches.chunk_by(|one, other| one.bits == other.bits) {
        let sets: u32 = batches.iter().map(|batch| batch.sets).sum();
        let first_segment = batches[0].first_bucket / square;
        let points = work.points.address() + u64::from(batches[0].first_set) * BYTES_PER_XYZZ;
        let mut input = twice.address() + first_segment * BYTES_PER_SEGMENT;
        let mut length = (1 << (batches[0].bits - 1)) / SEGMENT / SEGMENT;
        let mut lg_unit = 2 * SEGMENT.ilog2();
        if length > SEGMENT {
            let args = ReduceArgs {
                input,
                out: once.address() + first_segment * BYTES_PER_SEGMENT,
                count: sets * (length / SEGMENT),
                length: SEGMENT,
                lg_unit,
                first: 0,
                last: 0,
                unused: 0,
            };
            // SAFETY: as above; `once`, which is longer than `twice`, has been read by now.
            unsafe { launch_threads(runtime, Kernel::ReduceSegments, args.count, &args)? };
            (input, length, lg_unit) = (args.out, length / SEGMENT, lg_unit + SEGMENT.ilog2());
        }
        let args = ReduceArgs { input, out: points, count: sets, length, lg_unit, first: 0, last: 1, unused: 0 };
        // SAFETY: as above. The sets of these batches follow one another and have equally many buckets, a whole number of
        // segments of segments each; points are as many as the plan has, which was checked.
        unsafe { launch_threads(runtime, Kernel::ReduceSegments, args.count, &args)? };
    }
    Ok(())
}

fn at_least(what: &'static str, expected: u64, got: u64) -> Result<(), DeviceError> {
    if got < expected { Err(DeviceError::Shape { what, expected, got }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the headers of the kernels and the documentation say of the full size.
    #[test]
    fn the_full_size_costs_what_is_said() {
        let dimensions = Dimensions::new(10, 10).expect("a size");
        let plan = Plan::new(dimensions, 1);
        let sum = |count: &dyn Fn(&Batch) -> u64| plan.batches.iter().map(count).sum::<u64>();
        assert_eq!(plan.nodes.len(), COSETS * 2 * 2046);
        assert_eq!(sum(&|batch| batch.entries), 209_715_200);
        assert_eq!(sum(&|batch| batch.buckets), 7_077_888);
        assert_eq!((plan.multiplies.len(), plan.max_multiplies()), (34_346, 7_494));
        assert_eq!(plan.steps.len(), 13);
        assert_eq!(plan.bytes(), 8_109_981_184);
        assert_eq!(plan.scratch().bytes(), 779_894_528);
        assert_eq!(Plan::new(dimensions, 32).bytes(), 2_920_160_768);
    }

    #[test]
    fn digits_of_any_scalar_fit() {
        // The highest 64 of the 254 bits of r - 1, the largest scalar.
        let highest = 0x30644e72e131a029u64 << 2 | 2;
        for bits in DIGIT_BITS {
            let windows = Windows { bits, count: SCALAR_BITS.div_ceil(bits), stride: 1 };
            let first = bits * (windows.count - 1);
            let digit = highest >> (first - 190);
            // A carry from below and half of the range on top.
            assert!(digit + 1 + (1 << (bits - 1)) < 1 << bits, "{bits} bits");
        }
    }
}
