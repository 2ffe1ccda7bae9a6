//! The loops over vectors of field elements, and their entry points, one set for each instruction set.

use std::mem::MaybeUninit;

use ark_bn254::{Fq, FqConfig, Fr, FrConfig};
use ark_ff::{AdditiveGroup, Field, Fp, MontConfig};

use super::{
    lanes::{Element, Lanes, MAX_LANES, NOTHING, One, Point, Words},
    ntt::{self, Extension, Strip},
};

/// Vectors of additions that share one division.
const VECTORS_PER_BATCH: usize = 512;

/// Vectors between the request for a point's cache line and its use.
const VECTORS_AHEAD: usize = 8;

/// The point at infinity.
pub(super) const INFINITY: Point = Point([NOTHING, [0; 4]]);

/// Where a point is: an index into the table, or with [`IN_ARENA`] into the arena; with [`NEGATED`] its negative counts.
pub(super) type Place = u32;
/// The point counts with its sign changed. Only for points of the table.
pub(super) const NEGATED: Place = 1 << 31;
/// The point is in the arena.
pub(super) const IN_ARENA: Place = 1 << 30;
const INDEX: Place = IN_ARENA - 1;

/// Adds pairs of points in affine coordinates: the sum of pair i goes to `arena[start + i]`. The pairs are points of
/// `table`, and of `arena` below `start`. All sums of a batch share one division (Montgomery's trick): 5 products and a
/// square each.
///
/// Twin: the addition of the curve library.
#[inline(always)]
fn add_pairs<L: Lanes<Config = FqConfig>>(table: &[Point], arena: &mut [Point], start: usize, pairs: &[[Place; 2]]) {
    let (sources, sums) = arena.split_at_mut(start);
    let pairs_per_batch = VECTORS_PER_BATCH * L::LANES;
    for (pairs, sums) in pairs.chunks(pairs_per_batch).zip(sums[..pairs.len()].chunks_mut(pairs_per_batch)) {
        if !add_batch::<L, false>(table, sources, sums, pairs) {
            add_batch::<L, true>(table, sources, sums, pairs);
        }
    }
}

/// One batch. Without `EXACT` it gives up, and returns false, when two points of a pair have the same x.
#[inline(always)]
fn add_batch<L: Lanes<Config = FqConfig>, const EXACT: bool>(
    table: &[Point],
    sources: &[Point],
    sums: &mut [Point],
    pairs: &[[Place; 2]],
) -> bool {
    let last = pairs.len() - 1;
    let place = |v: usize, l: usize, side: usize| pairs[(v * L::LANES + l).min(last)][side];
    let point = |place: Place| {
        let index = (place & INDEX) as usize;
        if place & IN_ARENA != 0 { &sources[index] } else { &table[index] }
    };
    let vectors = pairs.len().div_ceil(L::LANES);
    let one = L::splat(Fq::ONE);
    // Products of the runs (differences in x) of every second vector, the products before each, and the runs.
    let mut products = [one; 2];
    let mut before = [const { MaybeUninit::<L>::uninit() }; VECTORS_PER_BATCH];
    let mut runs = [const { MaybeUninit::<L>::uninit() }; VECTORS_PER_BATCH];
    // Pairs that have no run: twice the same point, or opposite ones.
    let mut vertical: Vec<usize> = Vec::new();
    for v in 0..vectors {
        // Points of the table are far apart: their cache lines are asked for some vectors ahead.
        if v + VECTORS_AHEAD < vectors {
            for l in 0..L::LANES {
                L::prefetch(point(place(v + VECTORS_AHEAD, l, 0)));
                L::prefetch(point(place(v + VECTORS_AHEAD, l, 1)));
            }
        }
        let left = L::load(|l| &point(place(v, l, 0)).0[0]);
        let right = L::load(|l| &point(place(v, l, 1)).0[0]);
        let nothing = left.nothings() | right.nothings();
        let mut run = if nothing == 0 {
            right.minus_wide(left)
        } else {
            one.where_set(nothing, right).minus_wide(L::splat(Fq::ZERO).where_set(nothing, left))
        };
        if EXACT {
            let zeros = run.zeros();
            if zeros != 0 {
                run = one.where_set(zeros, run);
                vertical.extend((0..L::LANES).filter(|l| zeros >> l & 1 == 1).map(|l| v * L::LANES + l));
            }
        }
        before[v].write(products[v % 2]);
        runs[v].write(run);
        products[v % 2] = products[v % 2].times(run);
    }
    let Some(inverse) = products[0].times(products[1]).inverse() else { return false };
    let mut inverses = [inverse.times(products[1]), inverse.times(products[0])];
    for v in (0..vectors).rev() {
        // SAFETY: the loop above wrote the first `vectors` of both.
        let (before, run) = unsafe { (before[v].assume_init_read(), runs[v].assume_init_read()) };
        let inverse = inverses[v % 2].times(before);
        inverses[v % 2] = inverses[v % 2].times(run);

        let (mut lefts, mut rights, mut negated) = ([&INFINITY; MAX_LANES], [&INFINITY; MAX_LANES], [0u8; 2]);
        for (l, (left, right)) in lefts.iter_mut().zip(&mut rights).enumerate().take(L::LANES) {
            let places = [place(v, l, 0), place(v, l, 1)];
            (*left, *right) = (point(places[0]), point(places[1]));
            negated[0] |= ((places[0] >> 31) as u8) << l;
            negated[1] |= ((places[1] >> 31) as u8) << l;
        }
        let (left_x, mut left_y) = L::load_point(|l| lefts[l]);
        let (right_x, mut right_y) = L::load_point(|l| rights[l]);
        if negated[0] != 0 {
            left_y = left_y.negate_where(negated[0]);
        }
        if negated[1] != 0 {
            right_y = right_y.negate_where(negated[1]);
        }
        let (left_nothing, right_nothing) = (left_x.nothings(), right_x.nothings());
        let (mut x, mut y);
        if left_nothing | right_nothing == 0 {
            (x, y) = chord((left_x, left_y), (right_x, right_y), inverse);
        } else {
            // Numbers that can be calculated with in the place of the points that are none.
            let left = (one.where_set(left_nothing, left_x), one.where_set(left_nothing, left_y));
            let right = (one.where_set(right_nothing, right_x), one.where_set(right_nothing, right_y));
            (x, y) = chord(left, right, inverse);
            (x, y) = (right_x.where_set(left_nothing, x), right_y.where_set(left_nothing, y));
            (x, y) = (left_x.where_set(right_nothing, x), left_y.where_set(right_nothing, y));
        }
        let first = v * L::LANES;
        if sums.len() - first >= L::LANES {
            x.store_point(y, &mut sums[first..]);
        } else {
            let mut whole = [INFINITY; MAX_LANES];
            x.store_point(y, &mut whole);
            let rest = sums.len() - first;
            sums[first..].copy_from_slice(&whole[..rest]);
        }
    }
    // Without `EXACT` there are none, and the loop is not compiled.
    for pair in vertical.into_iter().filter(|pair| EXACT && *pair < pairs.len()) {
        let [left, right] = pairs[pair];
        let all_if = |place: Place| if place & NEGATED != 0 { u8::MAX } else { 0 };
        let (x, left_y) = L::load_point(|_| point(left));
        let (_, right_y) = L::load_point(|_| point(right));
        let (left_y, right_y) = (left_y.negate_where(all_if(left)), right_y.negate_where(all_if(right)));
        let mut twice = [INFINITY; MAX_LANES];
        if left_y.minus_wide(right_y).zeros() != 0 {
            let (x, y) = tangent((x, left_y));
            x.store_point(y, &mut twice);
        }
        sums[pair] = twice[0];
    }
    true
}

/// The sum of two points by the inverse of right x - left x.
#[inline(always)]
fn chord<L: Lanes>((left_x, left_y): (L, L), (right_x, right_y): (L, L), inverse: L) -> (L, L) {
    let slope = inverse.times(right_y.minus_wide(left_y));
    let x = slope.square().minus_both(left_x, right_x);
    (x, slope.times(left_x.minus_wide(x)).minus(left_y))
}

/// Twice the point; its order is odd, so y is not zero.
#[inline(always)]
fn tangent<L: Lanes>((x, y): (L, L)) -> (L, L) {
    let square = x.square();
    let inverse = y.double().inverse().expect("no point of odd order has y = 0");
    let slope = square.double().plus(square).times(inverse);
    let twice = slope.square().minus_both(x, x);
    (twice, slope.times(x.minus_wide(twice)).minus(y))
}

/// Elements as the field library has them in the level's form.
#[inline(always)]
fn import<L: Lanes<Config: MontConfig<4>>>(elements: &[Element<L::Config>], words: &mut [Words]) {
    for (elements, words) in elements.chunks(L::LANES).zip(words.chunks_mut(L::LANES)) {
        let (mut padded, mut whole) = ([Fp::ZERO; MAX_LANES], [[0; 4]; MAX_LANES]);
        padded[..elements.len()].copy_from_slice(elements);
        L::from_elements(&padded).store(&mut whole);
        words.copy_from_slice(&whole[..words.len()]);
    }
}

/// Elements in the level's form as the field library has them.
#[inline(always)]
fn export<L: Lanes<Config = FqConfig>>(words: &[Words], elements: &mut [Fq]) {
    for (words, elements) in words.chunks(L::LANES).zip(elements.chunks_mut(L::LANES)) {
        let all = L::load(|l| &words[l.min(words.len() - 1)]).to_elements();
        elements.copy_from_slice(&all[..elements.len()]);
    }
}

/// A point in homogeneous coordinates, X : Y : Z for (X/Z, Y/Z), in the level's form; 0 : 1 : 0 at infinity.
pub(super) type Projective = [Words; 3];

/// Points in homogeneous coordinates, with formulas that have no exceptions.
///
/// Source: Renes, Costello, Batina, "Complete addition formulas for prime order elliptic curves", 2015, for curves
/// y² = x³ + b; here 3b = 9.
#[derive(Clone, Copy)]
struct Points<L>([L; 3]);

impl<L: Lanes> Points<L> {
    #[inline(always)]
    fn load<'a>(point: impl Fn(usize) -> &'a Projective) -> Self {
        Points([L::load(|l| &point(l)[0]), L::load(|l| &point(l)[1]), L::load(|l| &point(l)[2])])
    }

    #[inline(always)]
    fn store(self, points: &mut [[Words; MAX_LANES]; 3]) {
        for (coordinate, words) in self.0.into_iter().zip(points) {
            coordinate.store(words);
        }
    }

    #[inline(always)]
    fn infinity() -> Self {
        let (zero, one) = (L::splat(Fp::ZERO), L::splat(Fp::ONE));
        Points([zero, one, zero])
    }

    #[inline(always)]
    fn times_9(value: L) -> L {
        value.double().double().double().plus(value)
    }

    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        let (Points([x1, y1, z1]), Points([x2, y2, z2])) = (self, other);
        let (xx, yy, zz) = (x1.times(x2), y1.times(y2), z1.times(z2));
        let xy = x1.plus(y1).times(x2.plus(y2)).minus_both(xx, yy);
        let yz = y1.plus(z1).times(y2.plus(z2)).minus_both(yy, zz);
        let xz = Self::times_9(x1.plus(z1).times(x2.plus(z2)).minus_both(xx, zz));
        let (xx, zz) = (xx.double().plus(xx), Self::times_9(zz));
        let (sum, difference) = (yy.plus(zz), yy.minus(zz));
        Points([
            xy.times(difference).minus(yz.times(xz)),
            difference.times(sum).plus(xx.times(xz)),
            sum.times(yz).plus(xx.times(xy)),
        ])
    }

    #[inline(always)]
    fn minus(self, other: Self) -> Self {
        let Points([x, y, z]) = other;
        self.plus(Points([x, L::splat(Fp::ZERO).minus(y), z]))
    }

    #[inline(always)]
    fn double(self) -> Self {
        let Points([x, y, z]) = self;
        let (yy, yz, xy) = (y.square(), y.times(z), x.times(y));
        let zz = Self::times_9(z.square());
        let eight = yy.double().double().double();
        let difference = yy.minus(zz.double().plus(zz));
        Points([difference.times(xy).double(), difference.times(yy.plus(zz)).plus(zz.times(eight)), yz.times(eight)])
    }

    /// `factor`(l) times the point of lane l: four bits at a time.
    #[inline(always)]
    fn scaled<'a>(self, factor: impl Fn(usize) -> &'a Words) -> Self {
        let mut multiples = [[[[0; 4]; MAX_LANES]; 3]; 16];
        let mut multiple = Self::infinity();
        for (k, into) in multiples.iter_mut().enumerate() {
            if k > 0 {
                multiple = multiple.plus(self);
            }
            multiple.store(into);
        }
        let mut sum = Self::infinity();
        for digit in (0..64).rev() {
            if digit < 63 {
                for _ in 0..4 {
                    sum = sum.double();
                }
            }
            let chosen = |l: usize| &multiples[(factor(l)[digit / 16] >> (4 * (digit % 16)) & 15) as usize];
            let [x, y, z] =
                [L::load(|l| &chosen(l)[0][l]), L::load(|l| &chosen(l)[1][l]), L::load(|l| &chosen(l)[2][l])];
            sum = sum.plus(Points([x, y, z]));
        }
        sum
    }
}

/// Multiplies each point by its factor, an integer below 2^256.
///
/// Twin: the curve library's product.
#[inline(always)]
fn scale<L: Lanes<Config = FqConfig>>(points: &mut [Projective], factors: &[Words]) {
    for (points, factors) in points.chunks_mut(L::LANES).zip(factors.chunks(L::LANES)) {
        let last = points.len() - 1;
        let scaled = Points::<L>::load(|l| &points[l.min(last)]).scaled(|l| &factors[l.min(last)]);
        put(scaled, points.iter_mut());
    }
}

/// Each pair (a, b) becomes (a + b, a - b).
#[inline(always)]
fn cross<L: Lanes<Config = FqConfig>>(pairs: &mut [[Projective; 2]]) {
    for pairs in pairs.chunks_mut(L::LANES) {
        let last = pairs.len() - 1;
        let a = Points::<L>::load(|l| &pairs[l.min(last)][0]);
        let b = Points::<L>::load(|l| &pairs[l.min(last)][1]);
        put(a.plus(b), pairs.iter_mut().map(|pair| &mut pair[0]));
        put(a.minus(b), pairs.iter_mut().map(|pair| &mut pair[1]));
    }
}

/// Fills tables of multiples: `tables` entries for each base, the first of which is the base itself, none at infinity;
/// entry i becomes 2^(`doublings`·i) times the base. In Jacobian coordinates (X/Z², Y/Z³), with one division for all.
///
/// Source of the doubling: "dbl-2009-l" of the Explicit-Formulas Database. Twin: the curve library's doubling.
#[inline(always)]
fn fill_tables<L: Lanes<Config = FqConfig>>(table: &mut [Point], tables: usize, doublings: u32) {
    let bases = table.len() / tables;
    let groups = bases.div_ceil(L::LANES);
    let mut multiples: Vec<[L; 3]> = Vec::with_capacity(groups * (tables - 1));
    for group in 0..groups {
        let (mut x, mut y) = L::load_point(|l| &table[(group * L::LANES + l).min(bases - 1) * tables]);
        let mut z = L::splat(Fq::ONE);
        for _ in 1..tables {
            for _ in 0..doublings {
                let (xx, yy) = (x.square(), y.square());
                let yyyy = yy.square();
                let d = x.plus(yy).square().minus_both(xx, yyyy).double();
                let slope = xx.double().plus(xx);
                z = y.times(z).double();
                x = slope.square().minus_both(d, d);
                y = slope.times(d.minus_wide(x)).minus(yyyy.double().double().double());
            }
            multiples.push([x, y, z]);
        }
    }
    let mut product = L::splat(Fq::ONE);
    let mut before: Vec<L> = Vec::with_capacity(multiples.len());
    for [_, _, z] in &multiples {
        before.push(product);
        product = product.times(*z);
    }
    let mut inverse = product.inverse().expect("multiples by powers of two of points of odd order");
    for (at, ([x, y, z], before)) in multiples.iter().zip(&before).enumerate().rev() {
        let over_z = inverse.times(*before);
        inverse = inverse.times(*z);
        let square = over_z.square();
        let mut points = [INFINITY; MAX_LANES];
        x.times(square).store_point(y.times(square.times(over_z)), &mut points);
        let (group, entry) = (at / (tables - 1), at % (tables - 1) + 1);
        for (base, point) in (group * L::LANES..bases).zip(&points[..L::LANES]) {
            table[base * tables + entry] = *point;
        }
    }
}

/// Writes the point of each lane for which there is a place.
#[inline(always)]
fn put<'a, L: Lanes>(points: Points<L>, places: impl Iterator<Item = &'a mut Projective>) {
    let mut words = [[[0; 4]; MAX_LANES]; 3];
    points.store(&mut words);
    places.enumerate().for_each(|(l, place)| *place = words.map(|coordinate| coordinate[l]));
}

type Columns = unsafe fn(&Extension, usize, &mut [&mut [Words]], [&mut Strip<'_>; 2]);
type AddPairs = unsafe fn(&[Point], &mut [Point], usize, &[[Place; 2]]);

/// One instruction set's entry points. Each may be called only where that set is there.
pub(super) struct Kernels {
    pub(super) add_pairs: AddPairs,
    pub(super) import: unsafe fn(&[Fq], &mut [Words]),
    pub(super) export: unsafe fn(&[Words], &mut [Fq]),
    pub(super) scale: unsafe fn(&mut [Projective], &[Words]),
    pub(super) cross: unsafe fn(&mut [[Projective; 2]]),
    pub(super) fill_tables: unsafe fn(&mut [Point], usize, u32),
    pub(super) import_scalars: unsafe fn(&[Fr], &mut [Words]),
    pub(super) rows_to_terms: unsafe fn(&Extension, usize, &[Words], &mut [Words]),
    pub(super) columns: Columns,
    pub(super) terms_to_rows: unsafe fn(&Extension, &mut [Words]),
}

macro_rules! entry_points {
    ($name:ident, $lanes:ident $(, $feature:literal)?) => {
        pub(super) mod $name {
            use super::*;

            $(#[target_feature(enable = $feature)])?
            fn add_pairs(table: &[Point], arena: &mut [Point], start: usize, pairs: &[[Place; 2]]) {
                super::add_pairs::<$lanes<FqConfig>>(table, arena, start, pairs);
            }
            $(#[target_feature(enable = $feature)])?
            fn import(elements: &[Fq], words: &mut [Words]) {
                super::import::<$lanes<FqConfig>>(elements, words);
            }
            $(#[target_feature(enable = $feature)])?
            fn export(words: &[Words], elements: &mut [Fq]) {
                super::export::<$lanes<FqConfig>>(words, elements);
            }
            $(#[target_feature(enable = $feature)])?
            fn scale(points: &mut [Projective], factors: &[Words]) {
                super::scale::<$lanes<FqConfig>>(points, factors);
            }
            $(#[target_feature(enable = $feature)])?
            fn cross(pairs: &mut [[Projective; 2]]) {
                super::cross::<$lanes<FqConfig>>(pairs);
            }

            $(#[target_feature(enable = $feature)])?
            fn fill_tables(table: &mut [Point], tables: usize, doublings: u32) {
                super::fill_tables::<$lanes<FqConfig>>(table, tables, doublings);
            }

            $(#[target_feature(enable = $feature)])?
            fn import_scalars(elements: &[Fr], words: &mut [Words]) {
                super::import::<$lanes<FrConfig>>(elements, words);
            }
            $(#[target_feature(enable = $feature)])?
            fn rows_to_terms(extension: &Extension, first_row: usize, rows: &[Words], terms: &mut [Words]) {
                ntt::rows_to_terms::<$lanes<FrConfig>>(extension, first_row, rows, terms);
            }
            $(#[target_feature(enable = $feature)])?
            fn columns(
                extension: &Extension,
                first_column: usize,
                coefficients: &mut [&mut [Words]],
                cosets: [&mut Strip<'_>; 2],
            ) {
                ntt::columns::<$lanes<FrConfig>>(extension, first_column, coefficients, cosets);
            }
            $(#[target_feature(enable = $feature)])?
            fn terms_to_rows(extension: &Extension, rows: &mut [Words]) {
                ntt::terms_to_rows::<$lanes<FrConfig>>(extension, rows);
            }

            pub(in super::super) const KERNELS: Kernels = Kernels {
                add_pairs,
                import,
                export,
                scale,
                cross,
                fill_tables,
                import_scalars,
                rows_to_terms,
                columns,
                terms_to_rows,
            };
        }
    };
}

#[cfg(target_arch = "x86_64")]
use super::lanes::Ifma;

entry_points!(portable, One);
#[cfg(target_arch = "x86_64")]
entry_points!(ifma, Ifma, "avx512f,avx512vl,avx512dq,avx512ifma,avx512vbmi2");
