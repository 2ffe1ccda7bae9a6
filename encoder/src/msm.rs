//! Sums of scalars times points of G1.

use ark_bn254::{Fq, Fr, G1Affine, G1Projective};
use ark_ec::{AffineRepr, VariableBaseMSM};
use ark_ff::{AdditiveGroup, BigInt, Field, PrimeField, Zero};
use rayon::prelude::*;

/// Bits that the windows cover: those of a scalar, and one for the carry of signed digits.
const COVERED_BITS: usize = Fr::MODULUS_BIT_SIZE as usize + 1;
/// Widest window: its digits fit 16 bits.
const MAX_WINDOW_BITS: usize = 16;

/// Σ `scalars`\[i\]·`bases`\[i\]: Pippenger's buckets with signed digits, the windows spread over the thread pool.
/// Many at once may run on the same pool. (The library's own starts a pool of threads for every sum.)
///
/// # Panics
/// When there are not as many scalars as bases.
pub(crate) fn msm(bases: &[G1Affine], scalars: &[Fr]) -> G1Projective {
    assert_eq!(bases.len(), scalars.len(), "a scalar for each base");
    let bits = window_bits(bases.len());
    let scalars: Vec<BigInt<4>> = scalars.iter().map(|scalar| scalar.into_bigint()).collect();
    let windows: Vec<Vec<i16>> = digits(&scalars, bits);
    let sums: Vec<G1Projective> = windows.par_iter().map(|digits| window_sum(bases, digits, bits)).collect();
    sums.iter().rev().fold(G1Projective::zero(), |mut total, sum| {
        (0..bits).for_each(|_| {
            total.double_in_place();
        });
        total + sum
    })
}

/// The window width with the least work: one affine addition per point, and per bucket two others, twice as dear.
fn window_bits(points: usize) -> usize {
    let cost = |bits: &usize| COVERED_BITS.div_ceil(*bits) * (points + (4 << (bits - 1)));
    (2..=MAX_WINDOW_BITS).min_by_key(cost).expect("there are widths")
}

/// Per window, the lowest first: a digit in -2^(`bits`-1)..2^(`bits`-1) of each scalar.
fn digits(scalars: &[BigInt<4>], bits: usize) -> Vec<Vec<i16>> {
    let half = 1i32 << (bits - 1);
    let mut carries = vec![0i32; scalars.len()];
    let window = |at: usize| {
        let digit = |(BigInt(limbs), carry): (&BigInt<4>, &mut i32)| {
            let (limb, shift) = (at / 64, at % 64);
            let low = limbs.get(limb).map_or(0, |limb| limb >> shift);
            // The next limb's bits, shifted in two steps because a shift by 64 is none.
            let high = limbs.get(limb + 1).map_or(0, |limb| limb << 1 << (63 - shift));
            let digit = ((low | high) & ((1 << bits) - 1)) as i32 + *carry;
            *carry = i32::from(digit >= half);
            (digit - (*carry << bits)) as i16
        };
        scalars.iter().zip(&mut carries).map(digit).collect()
    };
    (0..COVERED_BITS).step_by(bits).map(window).collect()
}

/// Σ `digits`\[i\]·`bases`\[i\]: points of equal digits are added up, then the sums times their digits.
fn window_sum(bases: &[G1Affine], digits: &[i16], bits: usize) -> G1Projective {
    let buckets = bucket_sums(bases, digits, 1 << (bits - 1));
    let (mut running, mut sum) = (G1Projective::ZERO_BUCKET, G1Projective::ZERO_BUCKET);
    for bucket in buckets.iter().rev() {
        running += bucket;
        sum += &running;
    }
    sum.into()
}

/// Sums of the points with digit 1, 2, … `buckets`, those with a negative digit negated. In affine coordinates, in
/// rounds: neighbours within a bucket are added in pairs, all with one inversion, until each bucket has one point.
fn bucket_sums(bases: &[G1Affine], digits: &[i16], buckets: usize) -> Vec<G1Affine> {
    let bucket_of = |digit: i16| usize::from(digit.unsigned_abs());
    // Points sorted by bucket, digit 0 left out: bucket b has points[starts[b]..][..lengths[b]].
    let mut lengths = vec![0usize; buckets + 1];
    digits.iter().for_each(|digit| lengths[bucket_of(*digit)] += 1);
    lengths[0] = 0;
    let mut starts = Vec::with_capacity(lengths.len());
    let mut total = 0;
    for length in &lengths {
        starts.push(total);
        total += length;
    }
    let mut points = vec![G1Affine::identity(); total];
    let mut ends = starts.clone();
    for (base, digit) in bases.iter().zip(digits).filter(|(_, digit)| **digit != 0) {
        let end = &mut ends[bucket_of(*digit)];
        points[*end] = if *digit < 0 { -*base } else { *base };
        *end += 1;
    }

    let mut runs: Vec<Fq> = Vec::new();
    while lengths.iter().any(|length| *length > 1) {
        runs.clear();
        for (start, length) in starts.iter().zip(&lengths) {
            let (pairs, _) = points[*start..][..*length].as_chunks::<2>();
            runs.extend(pairs.iter().map(run));
        }
        invert_all(&mut runs);
        let mut inverses = runs.iter();
        for (start, length) in starts.iter().zip(&mut lengths) {
            let bucket = &mut points[*start..][..*length];
            for (pair, inverse) in (0..*length / 2).zip(&mut inverses) {
                bucket[pair] = affine_sum(&[bucket[2 * pair], bucket[2 * pair + 1]], inverse);
            }
            if *length % 2 == 1 {
                bucket[*length / 2] = bucket[*length - 1];
            }
            *length = length.div_ceil(2);
        }
    }
    let sum = |(start, length): (&usize, &usize)| if *length == 1 { points[*start] } else { G1Affine::identity() };
    starts.iter().zip(&lengths).skip(1).map(sum).collect()
}

/// Replaces each value by its inverse, zero by zero, with one division. (On this thread: the library's uses the pool.)
pub(crate) fn invert_all(values: &mut [Fq]) {
    let mut product = Fq::ONE;
    let before: Vec<Fq> = values
        .iter()
        .map(|value| {
            let before = product;
            if !value.is_zero() {
                product *= value;
            }
            before
        })
        .collect();
    let mut inverse = product.inverse().expect("a product of values other than zero");
    for (value, before) in values.iter_mut().zip(&before).rev().filter(|(value, _)| !value.is_zero()) {
        let inverted = inverse * before;
        inverse *= &*value;
        *value = inverted;
    }
}

/// What the rise of the line through both points is divided by; zero when there is no such line.
pub(crate) fn run([left, right]: &[G1Affine; 2]) -> Fq {
    if left.is_zero() || right.is_zero() {
        Fq::zero()
    } else if left == right {
        left.y.double()
    } else {
        right.x - left.x
    }
}

/// The sum of two points, with the inverse of [`run`], or zero if that is zero.
pub(crate) fn affine_sum([left, right]: &[G1Affine; 2], inverse: &Fq) -> G1Affine {
    if left.is_zero() {
        return *right;
    }
    if right.is_zero() {
        return *left;
    }
    if inverse.is_zero() {
        // Opposite points; no point has y = 0, since the order is odd.
        return G1Affine::identity();
    }
    let rise = if left.x == right.x {
        let square = left.x.square();
        square.double() + square
    } else {
        right.y - left.y
    };
    let slope = rise * inverse;
    let x = slope.square() - left.x - right.x;
    G1Affine::new_unchecked(x, slope * (left.x - x) - left.y)
}

#[cfg(test)]
mod tests {
    use ark_ec::CurveGroup;
    use ark_ff::One;
    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    fn plain(bases: &[G1Affine], scalars: &[Fr]) -> G1Projective {
        bases.iter().zip(scalars).map(|(base, scalar)| *base * scalar).sum()
    }

    #[test]
    fn extreme_scalars() {
        let base = G1Affine::generator();
        let bases = [base, base, -base, G1Affine::identity(), (base + base).into_affine(), base, base];
        let scalars = [Fr::zero(), Fr::one(), Fr::one(), -Fr::one(), -Fr::one(), -Fr::from(2u64), Fr::from(1u64 << 63)];
        assert_eq!(msm(&bases, &scalars), plain(&bases, &scalars));
        for scalar in scalars {
            assert_eq!(msm(&bases, &[scalar; 7]), plain(&bases, &[scalar; 7]), "{scalar}");
        }
        assert_eq!(msm(&[], &[]), G1Projective::zero());
    }

    #[test]
    fn digits_add_up_at_every_width() {
        let scalars = [-Fr::one(), Fr::zero(), -Fr::one() / Fr::from(2u64), Fr::from(u128::MAX)];
        let limbs = scalars.map(|scalar| scalar.into_bigint());
        for bits in 2..=MAX_WINDOW_BITS {
            let windows = digits(&limbs, bits);
            for (i, scalar) in scalars.iter().enumerate() {
                let radix = Fr::from(1u64 << bits);
                let sum = windows.iter().rev().fold(Fr::zero(), |sum, digits| sum * radix + Fr::from(digits[i]));
                assert_eq!(sum, *scalar, "{bits} bits");
                let half = 1i32 << (bits - 1);
                assert!(windows.iter().all(|digits| (-half..half).contains(&i32::from(digits[i]))));
            }
        }
    }

    #[test]
    fn many_points() {
        let mut rng = StdRng::seed_from_u64(3);
        let scalars: Vec<Fr> = (0..5000).map(|_| Fr::from(rand::Rng::random::<u128>(&mut rng)).pow([5])).collect();
        let bases: Vec<G1Affine> = (0..5000u64).map(|i| (G1Affine::generator() * Fr::from(i / 2)).into()).collect();
        assert_eq!(msm(&bases, &scalars), plain(&bases, &scalars));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn any_sum_equals_the_plain_one(seeds in prop::collection::vec((any::<u64>(), any::<u128>()), 0..80)) {
            let bases: Vec<G1Affine> =
                seeds.iter().map(|(base, _)| (G1Affine::generator() * Fr::from(base % 16)).into()).collect();
            let scalars: Vec<Fr> = seeds.iter().map(|(_, scalar)| Fr::from(*scalar) * -Fr::from(*scalar)).collect();
            prop_assert_eq!(msm(&bases, &scalars), plain(&bases, &scalars));
        }
    }
}
