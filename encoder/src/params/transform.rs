//! Fourier transforms over G1: from Lagrange points to powers, and back.
//!
//! Σ_i ω^(ij)·P_i for j < N, by lg N rounds of N/2 butterflies (a, b) -> (a + wb, a - wb). A product wb is a Straus sum over
//! half-length scalars: w = k + λl with |k|, |l| < 2^127, where λ acts on the curve as (x, y) -> (βx, y). Points stay affine
//! and lanes go in step, so that an addition is five multiplications and a share of one inversion.

use ark_bn254::{Fq, Fr, G1Affine, g1};
use ark_ec::{AffineRepr, CurveGroup, scalar_mul::glv::GLVConfig};
use ark_ff::{AdditiveGroup, PrimeField, Zero};
use ark_poly::EvaluationDomain;
use rayon::prelude::*;

use crate::{
    extend::{domain, reversed},
    msm::{affine_sum, invert_all, run},
};

/// Lanes in step: enough for an inversion to be cheap, few enough for the tables to stay in the cache.
const LANES: usize = 512;
/// Width of the digits: odd, below 2^4 in size, at least four zeros between two of them.
const DIGIT_BITS: u32 = 5;
/// Odd multiples of a point that digits need: 1, 3, …, 15.
const MULTIPLES: usize = 1 << (DIGIT_BITS - 2);
/// Digits of half a scalar.
const DIGITS: usize = 129;

/// A scalar as k + λl, both halves with their signs.
#[derive(Clone, Copy)]
pub(super) struct SplitScalar([(bool, u128); 2]);

impl SplitScalar {
    pub(super) fn new(scalar: Fr) -> Self {
        let (k, l) = g1::Config::scalar_decomposition(scalar);
        SplitScalar([k, l].map(|(is_positive, half)| {
            let limbs = half.into_bigint().0;
            debug_assert!(limbs[2..] == [0, 0] && limbs[1] >> 63 == 0, "half a scalar has at most 127 bits");
            (!is_positive, u128::from(limbs[1]) << 64 | u128::from(limbs[0]))
        }))
    }

    /// The digits of both halves, the lowest first.
    fn digits(&self) -> [[i8; DIGITS]; 2] {
        self.0.map(|(is_negative, mut rest)| {
            let mut digits = [0; DIGITS];
            for digit in &mut digits {
                if rest & 1 == 1 {
                    // Odd, from -15 to 15.
                    let low = (rest & 31) as i8;
                    let signed = if low > 16 { low - 32 } else { low };
                    rest = if signed < 0 { rest + u128::from(signed.unsigned_abs()) } else { rest - signed as u128 };
                    *digit = if is_negative { -signed } else { signed };
                }
                rest >>= 1;
            }
            digits
        })
    }
}

/// Products of points and scalars.
///
/// # Panics
/// When there are not as many scalars as points.
pub(super) fn products(points: &[G1Affine], scalars: &[SplitScalar], progress: &(dyn Fn(u64) + Sync)) -> Vec<G1Affine> {
    assert_eq!(points.len(), scalars.len(), "a scalar for each point");
    let mut products = points.to_vec();
    products.par_chunks_mut(LANES).zip(scalars.par_chunks(LANES)).for_each(|(points, scalars)| {
        multiply(points, |lane| scalars[lane]);
        progress(points.len() as u64);
    });
    products
}

/// A transform's roots.
pub(super) struct GroupTransform {
    lg_size: u32,
    /// ω^j for j < N/2.
    roots: Vec<SplitScalar>,
}

impl GroupTransform {
    /// The transform of 2^`lg_size` points.
    pub(super) fn new(lg_size: u32) -> Self {
        let roots: Vec<Fr> = domain(lg_size).elements().take(1 << lg_size >> 1).collect();
        GroupTransform { lg_size, roots: roots.into_par_iter().map(SplitScalar::new).collect() }
    }

    /// Butterflies of a transform: what its progress adds up to.
    pub(super) fn butterflies(&self) -> u64 {
        u64::from(self.lg_size) << self.lg_size >> 1
    }

    /// Replaces P_i by Σ_i ω^(ij)·P_i.
    ///
    /// # Panics
    /// When there are not 2^`lg_size` points.
    pub(super) fn forward(&self, points: &mut [G1Affine], progress: &(dyn Fn(u64) + Sync)) {
        assert_eq!(points.len(), 1 << self.lg_size, "the transform's points");
        for i in 0..points.len() {
            let other = reversed(i, self.lg_size);
            if i < other {
                points.swap(i, other);
            }
        }
        for round in 0..self.lg_size {
            let half = 1 << round;
            let step = self.roots.len() >> round;
            if half >= LANES {
                points.par_chunks_mut(2 * half).for_each(|block| {
                    let (low, high) = block.split_at_mut(half);
                    let lanes = low.par_chunks_mut(LANES).zip(high.par_chunks_mut(LANES)).enumerate();
                    lanes.for_each(|(chunk, (low, high))| {
                        multiply(high, |lane| self.roots[(chunk * LANES + lane) * step]);
                        sums_and_differences(low, high);
                        progress(low.len() as u64);
                    });
                });
            } else {
                points.par_chunks_mut(2 * LANES).for_each(|blocks| {
                    let halves = |which: usize| blocks.chunks(half).skip(which).step_by(2).flatten().copied().collect();
                    let (mut low, mut high): (Vec<G1Affine>, Vec<G1Affine>) = (halves(0), halves(1));
                    if round > 0 {
                        multiply(&mut high, |lane| self.roots[lane % half * step]);
                    }
                    sums_and_differences(&mut low, &mut high);
                    let results = low.chunks(half).zip(high.chunks(half));
                    for (block, (low, high)) in blocks.chunks_mut(2 * half).zip(results) {
                        block[..half].copy_from_slice(low);
                        block[half..].copy_from_slice(high);
                    }
                    progress(low.len() as u64);
                });
            }
        }
    }

    /// Replaces P_j by Σ_j ω^(-ij)·P_j, without the factor 1/N of an inverse.
    ///
    /// # Panics
    /// When there are not 2^`lg_size` points.
    pub(super) fn backward(&self, points: &mut [G1Affine], progress: &(dyn Fn(u64) + Sync)) {
        self.forward(points, progress);
        points[1..].reverse();
    }
}

/// Replaces each point by its product with its lane's scalar.
fn multiply(points: &mut [G1Affine], scalar: impl Fn(usize) -> SplitScalar) {
    let lanes = points.len();
    let digits: Vec<[[i8; DIGITS]; 2]> = (0..lanes).map(|lane| scalar(lane).digits()).collect();
    let mut scratch = Vec::with_capacity(lanes);

    // multiples[m·lanes + lane] = (2m + 1)·P.
    let mut multiples = Vec::with_capacity(MULTIPLES * lanes);
    multiples.extend_from_slice(points);
    let mut doubles = points.to_vec();
    double_all(&mut doubles, &mut scratch);
    let doubles: Vec<(usize, G1Affine)> = doubles.into_iter().enumerate().collect();
    for m in 1..MULTIPLES {
        multiples.extend_from_within((m - 1) * lanes..);
        add_all(&mut multiples[m * lanes..], &doubles, &mut scratch);
    }

    points.fill(G1Affine::identity());
    let is_used = |at: usize| digits.iter().any(|halves| halves.iter().any(|digits| digits[at] != 0));
    let Some(top) = (0..DIGITS).rev().find(|at| is_used(*at)) else { return };
    let mut addends: Vec<(usize, G1Affine)> = Vec::with_capacity(lanes);
    for at in (0..=top).rev() {
        if at < top {
            double_all(points, &mut scratch);
        }
        for half in 0..2 {
            addends.clear();
            for (lane, digits) in digits.iter().enumerate().filter(|(_, digits)| digits[half][at] != 0) {
                let digit = digits[half][at];
                let mut multiple = multiples[usize::from(digit.unsigned_abs()) / 2 * lanes + lane];
                if half == 1 {
                    multiple.x *= g1::Config::ENDO_COEFFS[0];
                }
                addends.push((lane, if digit < 0 { -multiple } else { multiple }));
            }
            add_all(points, &addends, &mut scratch);
        }
    }
}

/// Doubles each point. Infinity is (0, 0), whose y has no inverse.
fn double_all(points: &mut [G1Affine], scratch: &mut Vec<Fq>) {
    scratch.clear();
    scratch.extend(points.iter().map(|point| point.y.double()));
    invert_all(scratch);
    for (point, inverse) in points.iter_mut().zip(scratch.iter()).filter(|(_, inverse)| !inverse.is_zero()) {
        *point = affine_sum(&[*point, *point], inverse);
    }
}

/// Adds to points, by their places.
fn add_all(points: &mut [G1Affine], addends: &[(usize, G1Affine)], scratch: &mut Vec<Fq>) {
    scratch.clear();
    scratch.extend(addends.iter().map(|(place, addend)| run(&[points[*place], *addend])));
    invert_all(scratch);
    for ((place, addend), inverse) in addends.iter().zip(scratch.iter()) {
        points[*place] = affine_sum(&[points[*place], *addend], inverse);
    }
}

/// (a, b) -> (a + b, a - b). The lines through a and b and through a and -b have the same run.
fn sums_and_differences(low: &mut [G1Affine], high: &mut [G1Affine]) {
    let mut runs: Vec<Fq> = low
        .iter()
        .zip(high.iter())
        .map(|(a, b)| if a.is_zero() || b.is_zero() { Fq::ZERO } else { b.x - a.x })
        .collect();
    invert_all(&mut runs);
    for ((low, high), inverse) in low.iter_mut().zip(high).zip(&runs) {
        let (a, b) = (*low, *high);
        (*low, *high) = if inverse.is_zero() {
            ((a + b).into_affine(), (a - b).into_affine())
        } else {
            (affine_sum(&[a, b], inverse), affine_sum(&[a, -b], inverse))
        };
    }
}

#[cfg(test)]
mod tests {
    use ark_bn254::G1Projective;
    use ark_ff::{Field, One};
    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;

    fn scalar(rng: &mut StdRng) -> Fr {
        Fr::from(rng.random::<u128>()).pow([3])
    }

    #[test]
    fn products_are_those_of_the_library() {
        let mut rng = StdRng::seed_from_u64(7);
        let lambda = g1::Config::LAMBDA;
        let mut scalars = vec![Fr::zero(), Fr::one(), -Fr::one(), lambda, -lambda, lambda + Fr::one(), Fr::from(16u64)];
        scalars.extend((0..600).map(|_| scalar(&mut rng)));
        let mut points: Vec<G1Affine> =
            scalars.iter().map(|_| (G1Affine::generator() * scalar(&mut rng)).into_affine()).collect();
        points[20] = G1Affine::identity();
        let split: Vec<SplitScalar> = scalars.iter().copied().map(SplitScalar::new).collect();
        let products = products(&points, &split, &|_| ());
        for ((product, point), scalar) in products.iter().zip(&points).zip(&scalars) {
            assert_eq!(*product, *point * scalar, "{scalar}");
        }
    }

    #[test]
    fn transforms_are_those_of_the_library() {
        let mut rng = StdRng::seed_from_u64(8);
        for lg_size in [1, 2, 5, 11] {
            let points: Vec<G1Affine> = (0..1 << lg_size)
                .map(|i| match i % 7 {
                    // Equal ones, opposite ones and infinity.
                    0 => G1Affine::generator(),
                    1 => -G1Affine::generator(),
                    2 => G1Affine::identity(),
                    _ => (G1Affine::generator() * scalar(&mut rng)).into_affine(),
                })
                .collect();
            let projective: Vec<G1Projective> = points.iter().map(|point| point.into_group()).collect();
            let transform = GroupTransform::new(lg_size);
            let mut forward = points.clone();
            transform.forward(&mut forward, &|_| ());
            assert_eq!(forward, G1Projective::normalize_batch(&domain(lg_size).fft(&projective)));
            transform.backward(&mut forward, &|_| ());
            let size = Fr::from(1u64 << lg_size);
            assert!(forward.iter().zip(&points).all(|(back, point)| *back == *point * size));
        }
    }
}
