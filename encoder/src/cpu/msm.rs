//! Many sums of scalars times fixed points, by buckets in affine coordinates.
//!
//! A scalar is written in W digits of c bits, -2^(c-1) to 2^(c-1) - 1. Digit w belongs to *set* w mod s, and counts
//! 2^(c·(w mod s)) times in it: the table has 2^(c·s·i)·P for each base P and i < t, t = ceil(W/s), so that the t
//! digits of one set go into the same buckets, each with its own entry of the table. A set's bucket b holds the sum of
//! the entries whose digit is b + 1 or -(b + 1). Buckets are summed up in a binary tree whose nodes keep, beside the sum
//! of their buckets, the sums of those whose number has bit k set: Σ (b+1)·S_b = Σ_k 2^k·(sum of bit k) + sum.
//! More tables (t) make fewer sets, which saves buckets: time for memory.
//!
//! All additions of a stage are independent, and so share divisions; sums of nothing never reach the adder.

use std::ops::Range;

use ark_bn254::{Fq, G1Affine, G1Projective};
use ark_ff::{AdditiveGroup, Zero};
use rayon::prelude::*;

use super::{
    Workspaces,
    kernels::{IN_ARENA, INFINITY, NEGATED, Place},
    lanes::{NOTHING, Point, Words},
    simd::Simd,
};

/// Bits that the digits must cover: a scalar's 254, and one for the sign of the highest digit.
const COVERED_BITS: u32 = 255;
/// Entries that are summed up at a time: their intermediate sums stay in the cache.
const ENTRIES_PER_TILE: usize = 1 << 15;
/// No place.
const EMPTY: Place = Place::MAX;

/// How sums over some bases are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// c: bits of a digit.
    pub(super) bits: u32,
    /// s: sets of buckets for each sum.
    pub(super) sets: u32,
}

impl Shape {
    /// W: digits of a scalar.
    fn windows(self) -> u32 {
        COVERED_BITS.div_ceil(self.bits)
    }

    /// t: entries of the table for each base.
    pub(super) fn tables(self) -> usize {
        self.windows().div_ceil(self.sets) as usize
    }

    fn buckets(self) -> usize {
        1 << (self.bits - 1)
    }

    /// Additions of a sum over `points` points.
    pub(super) fn additions(self, points: usize) -> usize {
        self.windows() as usize * points + self.sets as usize * self.buckets()
    }

    /// Every useful shape: for each width and number of tables.
    pub(super) fn all() -> impl Iterator<Item = Shape> {
        (4..=17).flat_map(|bits| {
            let windows = COVERED_BITS.div_ceil(bits);
            let shapes = (1..=windows).map(move |sets| Shape { bits, sets });
            // Fewer sets for the same tables are better.
            shapes.filter(|shape| shape.sets == 1 || Shape { sets: shape.sets - 1, ..*shape }.tables() > shape.tables())
        })
    }

    /// What makes all digits non-negative when it is added to a scalar: half a digit's range at each place.
    fn offset(self) -> [u64; 5] {
        let mut offset = [0u64; 5];
        for window in 0..self.windows() {
            let bit = self.bits * window + self.bits - 1;
            offset[(bit / 64) as usize] |= 1 << (bit % 64);
        }
        offset
    }
}

/// Bases with their table.
pub(super) struct FixedBases {
    shape: Shape,
    /// t entries for each base, base by base.
    table: Vec<Point>,
}

impl FixedBases {
    /// A table for bases of 64 bytes, x and y in the host's Montgomery form.
    pub(super) fn new(simd: Simd, shape: Shape, bases: &[&[u8]]) -> Self {
        let tables = shape.tables();
        let bases: Vec<&[u8; 64]> = bases.iter().flat_map(|bases| bases.as_chunks::<64>().0).collect();
        let mut table = vec![INFINITY; bases.len() * tables];
        table.par_chunks_mut(64 * tables).zip(bases.par_chunks(64)).for_each(|(table, bases)| {
            let elements: Vec<Fq> = bases
                .iter()
                .flat_map(|base| base.as_chunks::<32>().0)
                .map(|bytes| Fq::new_unchecked(crate::extend::limbs(bytes)))
                .collect();
            let mut words: Vec<Words> = vec![[0; 4]; elements.len()];
            simd.import(&elements, &mut words);
            let (points, _) = words.as_chunks::<2>();
            for (entries, point) in table.chunks_mut(tables).zip(points) {
                entries[0] = Point(*point);
            }
            if tables > 1 {
                simd.fill_tables(table, tables, shape.bits * shape.sets);
            }
        });
        FixedBases { shape, table }
    }
}

/// One sum, and where its parts are.
#[derive(Clone, Debug)]
pub(super) struct Sum {
    /// Which bases.
    pub(super) bases: usize,
    /// The first of them.
    pub(super) first_base: usize,
    /// Which scalars.
    pub(super) scalars: Range<usize>,
}

/// Some sets of sums over the same bases, done together.
struct Task {
    bases: usize,
    /// Number of the sum, and of its set.
    units: Vec<(usize, u32)>,
}

/// A list of sums, in the order in which they are worked at.
pub(super) struct Plan {
    sums: Vec<Sum>,
    tasks: Vec<Task>,
}

/// The sum over a set's buckets: the point, and whether its negative is meant.
#[derive(Clone, Copy)]
struct Part {
    point: Point,
    negated: bool,
}

/// Memory for a task.
#[derive(Default)]
pub(super) struct Workspace {
    digits: Vec<i32>,
    entries: Vec<Place>,
    counts: Vec<u32>,
    runs: Vec<Run>,
    active: Vec<usize>,
    pairs: Vec<[Place; 2]>,
    arena: Vec<Point>,
    slots: Vec<Place>,
    planes: Vec<Vec<Place>>,
}

/// Entries of one bucket that are still to be summed up.
#[derive(Clone, Copy)]
struct Run {
    slot: usize,
    start: usize,
    length: usize,
}

impl Plan {
    /// Puts sums over `bases` into tasks, the largest first.
    pub(super) fn new(bases: &[FixedBases], sums: Vec<Sum>) -> Self {
        let mut tasks: Vec<Task> = Vec::new();
        let entries = |sum: &Sum| sum.scalars.len() * bases[sum.bases].shape.tables();
        let mut order: Vec<usize> = (0..sums.len()).collect();
        order.sort_by_key(|sum| (std::cmp::Reverse(entries(&sums[*sum])), sums[*sum].bases));
        let mut room = 0;
        for number in order {
            let sum = &sums[number];
            for set in 0..bases[sum.bases].shape.sets {
                let entries = entries(sum);
                match tasks.last_mut() {
                    Some(task) if task.bases == sum.bases && room >= entries => {
                        task.units.push((number, set));
                        room -= entries;
                    }
                    _ => {
                        tasks.push(Task { bases: sum.bases, units: vec![(number, set)] });
                        room = ENTRIES_PER_TILE.saturating_sub(entries);
                    }
                }
            }
        }
        Plan { sums, tasks }
    }

    /// All sums. `scalars` are integers below the group order.
    pub(super) fn run(
        &self,
        simd: Simd,
        bases: &[FixedBases],
        scalars: &[Words],
        workspaces: &Workspaces,
    ) -> Vec<G1Projective> {
        let parts: Vec<Vec<Part>> = self
            .tasks
            .par_iter()
            .with_max_len(1)
            .map(|task| workspaces.with(|space| space.run(simd, &bases[task.bases], &self.sums, task, scalars)))
            .collect();
        let mut places: Vec<Vec<(usize, usize)>> = self.sums.iter().map(|_| Vec::new()).collect();
        for (task, Task { bases: at, units }) in self.tasks.iter().enumerate() {
            for (unit, (sum, _)) in units.iter().enumerate() {
                places[*sum].push((task, unit * bases[*at].shape.bits as usize));
            }
        }
        places
            .par_iter()
            .zip(&self.sums)
            .map(|(places, sum)| {
                let bits = bases[sum.bases].shape.bits as usize;
                let mut total = G1Projective::zero();
                for (task, first) in places.iter().rev() {
                    total = combine(simd, total, &parts[*task][*first..][..bits]);
                }
                total
            })
            .collect()
    }
}

/// 2^c·`total` and a set's sum: its parts are the sum of all buckets, and those of the buckets with bit k, k < c - 1.
fn combine(simd: Simd, mut total: G1Projective, parts: &[Part]) -> G1Projective {
    let words: Vec<Words> = parts.iter().flat_map(|part| part.point.0).collect();
    let mut coordinates = vec![Fq::zero(); words.len()];
    simd.export(&words, &mut coordinates);
    let point = |k: usize| {
        if parts[k].point.0[0] == NOTHING {
            return G1Affine::identity();
        }
        let point = G1Affine::new_unchecked(coordinates[2 * k], coordinates[2 * k + 1]);
        if parts[k].negated { -point } else { point }
    };
    total.double_in_place().double_in_place();
    for bit in (1..parts.len()).rev() {
        total += point(bit);
        if bit > 1 {
            total.double_in_place();
        }
    }
    total + point(0)
}

impl Workspace {
    /// For each unit of the task, the c parts of the set's sum.
    fn run(&mut self, simd: Simd, bases: &FixedBases, sums: &[Sum], task: &Task, scalars: &[Words]) -> Vec<Part> {
        let shape = bases.shape;
        let slots = task.units.len() * shape.buckets();
        self.slots.clear();
        self.slots.resize(slots, EMPTY);
        let needed = slots + ENTRIES_PER_TILE.max(2 * slots);
        if self.arena.len() < needed {
            self.arena.resize(needed, INFINITY);
        }
        self.entries.clear();
        self.runs.clear();
        for (unit, (sum, set)) in task.units.iter().enumerate() {
            let sum = &sums[*sum];
            self.sort(shape, sum.first_base, &scalars[sum.scalars.clone()], *set, unit * shape.buckets());
        }
        self.sum_buckets(simd, &bases.table);
        self.sum_tree(simd, &bases.table, shape);
        let part = |place: Place| match place {
            EMPTY => Part { point: INFINITY, negated: false },
            _ if place & IN_ARENA != 0 => Part { point: self.arena[(place & !IN_ARENA) as usize], negated: false },
            _ => Part { point: bases.table[(place & !NEGATED) as usize], negated: place & NEGATED != 0 },
        };
        (0..task.units.len())
            .flat_map(|unit| self.planes.iter().map(move |plane| (plane, unit)))
            .map(|(plane, unit)| part(plane[unit]))
            .collect()
    }

    /// Appends the table's entries for the digits of one set, sorted by bucket. Bucket 0 is slot `first_slot`.
    fn sort(&mut self, shape: Shape, first_base: usize, scalars: &[Words], set: u32, first_slot: usize) {
        let (bits, tables, offset) = (shape.bits, shape.tables(), shape.offset());
        let half = 1i32 << (bits - 1);
        let windows = (set..shape.windows()).step_by(shape.sets as usize).map(|window| window * bits);
        let windows: Vec<(usize, u32)> = windows.map(|bit| ((bit / 64) as usize, bit % 64)).collect();
        self.counts.clear();
        self.counts.resize(shape.buckets() + 1, 0);
        self.digits.clear();
        self.digits.resize(scalars.len() * windows.len(), 0);
        let mask = (1 << bits) - 1;
        for (scalar, digits) in scalars.iter().zip(self.digits.chunks_exact_mut(windows.len())) {
            let shifted = add_offset(scalar, &offset);
            for (digit, (limb, shift)) in digits.iter_mut().zip(&windows) {
                // The next limb's bits, shifted in two steps because a shift by 64 is none.
                let word = shifted[*limb] >> shift | shifted[limb + 1] << 1 << (63 - shift);
                *digit = (word & mask) as i32 - half;
                self.counts[digit.unsigned_abs() as usize] += 1;
            }
        }
        // counts[b + 1] becomes where bucket b's next entry goes.
        let mut next = self.entries.len();
        self.counts[0] = 0;
        for (bucket, count) in self.counts[1..].iter_mut().enumerate() {
            let length = *count as usize;
            if length > 0 {
                self.runs.push(Run { slot: first_slot + bucket, start: next, length });
            }
            *count = next as u32;
            next += length;
        }
        self.entries.resize(next, EMPTY);
        for (base, digits) in self.digits.chunks_exact(windows.len()).enumerate() {
            let first = ((first_base + base) * tables) as Place;
            for (entry, digit) in digits.iter().enumerate() {
                if *digit != 0 {
                    let next = &mut self.counts[digit.unsigned_abs() as usize];
                    let negated = if *digit < 0 { NEGATED } else { 0 };
                    self.entries[*next as usize] = (first + entry as Place) | negated;
                    *next += 1;
                }
            }
        }
    }

    /// Sums up the runs; `slots` then has the place of each bucket's sum.
    fn sum_buckets(&mut self, simd: Simd, table: &[Point]) {
        let first = self.slots.len();
        let mut at = 0;
        while at < self.runs.len() {
            // As many runs as fit, or a part of the next one.
            let mut room = ENTRIES_PER_TILE;
            let begin = at;
            while at < self.runs.len() && self.runs[at].length <= room {
                room -= self.runs[at].length;
                at += 1;
            }
            if at > begin {
                self.sum_tile(simd, table, first, begin..at);
            } else {
                let Run { slot, start, length } = self.runs[at];
                self.runs[at].length = ENTRIES_PER_TILE;
                self.sum_tile(simd, table, first, at..at + 1);
                // The partial sum goes on as the first of the remaining entries.
                let start = start + ENTRIES_PER_TILE - 1;
                self.entries[start] = self.slots[slot];
                self.runs[at] = Run { slot, start, length: length - ENTRIES_PER_TILE + 1 };
            }
        }
    }

    /// Sums up some runs in rounds: neighbours in pairs, until each run has one entry left.
    fn sum_tile(&mut self, simd: Simd, table: &[Point], first: usize, runs: Range<usize>) {
        let mut next = first;
        self.active.clear();
        self.active.extend(runs.clone());
        loop {
            self.pairs.clear();
            let (entries, pairs, all) = (&mut self.entries, &mut self.pairs, &mut self.runs);
            self.active.retain(|run| {
                let run = &mut all[*run];
                let entries = &mut entries[run.start..][..run.length];
                for pair in 0..run.length / 2 {
                    pairs.push([entries[2 * pair], entries[2 * pair + 1]]);
                    entries[pair] = IN_ARENA | (next + pairs.len() - 1) as Place;
                }
                if run.length % 2 == 1 {
                    entries[run.length / 2] = entries[run.length - 1];
                }
                run.length = run.length.div_ceil(2);
                run.length > 1
            });
            if self.pairs.is_empty() {
                break;
            }
            simd.add_pairs(table, &mut self.arena, next, &self.pairs);
            next += self.pairs.len();
        }
        for Run { slot, start, .. } in &self.runs[runs] {
            let place = self.entries[*start];
            self.slots[*slot] = if place & IN_ARENA == 0 {
                place
            } else {
                self.arena[*slot] = self.arena[(place & !IN_ARENA) as usize];
                IN_ARENA | *slot as Place
            };
        }
    }

    /// From the sums of buckets to the `planes`: for each unit the sum of all, and of the buckets with bit k.
    fn sum_tree(&mut self, simd: Simd, table: &[Point], shape: Shape) {
        let mut next = self.slots.len();
        self.planes.resize(shape.bits as usize, Vec::new());
        std::mem::swap(&mut self.planes[0], &mut self.slots);
        for bit in 0..shape.bits as usize - 1 {
            let (planes, new) = self.planes.split_at_mut(bit + 1);
            new[0].clear();
            new[0].extend(planes[0].as_chunks::<2>().0.iter().map(|[_, odd]| *odd));
            self.pairs.clear();
            for plane in planes {
                for pair in 0..plane.len() / 2 {
                    plane[pair] = match [plane[2 * pair], plane[2 * pair + 1]] {
                        [EMPTY, only] | [only, EMPTY] => only,
                        both => {
                            self.pairs.push(both);
                            IN_ARENA | (next + self.pairs.len() - 1) as Place
                        }
                    };
                }
                plane.truncate(plane.len() / 2);
            }
            simd.add_pairs(table, &mut self.arena, next, &self.pairs);
            next += self.pairs.len();
        }
    }
}

/// `scalar` + `offset`, and a zero limb for reads beyond.
fn add_offset(scalar: &Words, offset: &[u64; 5]) -> [u64; 6] {
    let mut sum = [0; 6];
    let mut carry = false;
    for (i, sum) in sum[..5].iter_mut().enumerate() {
        let limb = scalar.get(i).copied().unwrap_or(0);
        let (partial, over) = limb.overflowing_add(offset[i]);
        let (total, over_too) = partial.overflowing_add(u64::from(carry));
        (*sum, carry) = (total, over | over_too);
    }
    sum
}
