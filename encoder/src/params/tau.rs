//! Parameters from a τ that somebody knows: for tests only, since whoever knows τ can open a commitment to anything.

use ark_bn254::{Fr, G1Affine, G1Projective, G2Projective};
use ark_ec::{PrimeGroup, scalar_mul::ScalarMul};
use ark_ff::{Field, One, Zero, batch_inversion};
use ark_poly::EvaluationDomain;
use rayon::prelude::*;
use zgpu_core::blob::BYTES_PER_POINT;

use super::{
    Labels, ParamsError, ProverParams,
    content::{Content, Contents, Layout, Section},
};
use crate::{
    blob::{BYTES_PER_SCALAR, COSETS, Dimensions},
    extend::{coset_shift, domain, reversed, scalar_from_bytes},
    points::montgomery_point_bytes,
};

impl ProverParams {
    /// Parameters from a τ that somebody knows: for tests only. `high_start` is where the high powers begin:
    /// 2^28 - 2^20 with the ceremony's parameters, 3N in the network's test set-up.
    pub fn insecure_from_tau(dimensions: Dimensions, tau: Fr, high_start: u64) -> Result<Self, ParamsError> {
        // The shifted τ/c_k are N-th roots of unity only if τ is a 4N-th one.
        let lg_order = dimensions.lg_scalars() + 2;
        if tau.is_zero() || tau.pow([1u64 << lg_order]).is_one() {
            return Err(ParamsError::Tau { lg_order });
        }
        let mut content = Content::new(Layout { dimensions, contents: Contents::Prover });
        let (g1, g2) = (G1Projective::generator(), G2Projective::generator());
        let mut fill =
            |section: Section, exponents: &[Fr]| write(content.section_mut(section), &g1.batch_mul(exponents));
        let powers_from = |first: Fr| -> Vec<Fr> {
            std::iter::successors(Some(first), |power| Some(*power * tau)).take(dimensions.scalars()).collect()
        };
        let high = tau.pow([high_start]);
        fill(Section::Powers, &powers_from(Fr::one()));
        fill(Section::HighPowers, &powers_from(high));
        let shifted: [Fr; COSETS] = std::array::from_fn(|coset| tau / coset_shift(dimensions, coset));
        for (coset, tau) in shifted.iter().enumerate() {
            fill(Section::Lagrange(coset), &lagrange_values(dimensions, *tau));
        }
        let vanishing = shifted.map(|tau| {
            let depths = (1..=dimensions.lg_rows()).map(|depth| vanishing_values(dimensions, tau, depth));
            depths.map(|values| g2.batch_mul(&values)).collect()
        });
        let labels = Labels {
            tau_g2: Some((g2 * tau).into()),
            high_start: Some(high_start),
            source: "INSECURE: made from a tau that is known, for tests".into(),
        };
        let verifier = content.with_vanishing(vanishing, [g2.into(), (g2 * high).into()], labels);
        Ok(verifier.into_prover().expect("the prover's points are there"))
    }
}

/// A τ from 64 hex digits, big-endian, below the group order.
pub fn from_hex(text: &str) -> Result<Fr, ParamsError> {
    let wrong = ParamsError::TauText { characters: text.chars().count() };
    let mut bytes = [0; BYTES_PER_SCALAR];
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != bytes.len() || !rest.is_empty() || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(wrong);
    }
    for (byte, [high, low]) in bytes.iter_mut().rev().zip(pairs) {
        let digit = |character: u8| char::from(character).to_digit(16).expect("a hex digit") as u8;
        *byte = digit(*high) << 4 | digit(*low);
    }
    scalar_from_bytes(&bytes).ok_or(wrong)
}

/// Writes points as devices take them.
pub(super) fn write(section: &mut [u8], points: &[G1Affine]) {
    let places = section.as_chunks_mut::<BYTES_PER_POINT>().0.par_iter_mut();
    places.zip(points).with_min_len(4096).for_each(|(place, point)| *place = montgomery_point_bytes(point));
}

/// L_i(x) = (ω^i/N)·(x^N - 1)/(x - ω^i) for i = κ·R + ρ, in the order of the rows: ρ·C + κ.
fn lagrange_values(dimensions: Dimensions, x: Fr) -> Vec<Fr> {
    let values = domain(dimensions.lg_scalars()).evaluate_all_lagrange_coefficients(x);
    let (rows, columns) = (dimensions.rows(), dimensions.columns());
    (0..values.len()).into_par_iter().map(|at| values[at % columns * rows + at / columns]).collect()
}

/// V(x) = (x^N - 1)/(x^s - ρ^t) with s = N/2^d, ρ = ω^s, for nodes n < 2^d in the order of the tree: t is n with its
/// bits reversed. V is zero at ω^i unless i = t mod 2^d.
fn vanishing_values(dimensions: Dimensions, x: Fr, depth: u32) -> Vec<Fr> {
    let roots = domain(depth);
    let power = x.pow([1u64 << (dimensions.lg_scalars() - depth)]);
    let numerator = x.pow([dimensions.scalars() as u64]) - Fr::one();
    let mut values: Vec<Fr> = (0..1usize << depth).map(|node| power - roots.element(reversed(node, depth))).collect();
    batch_inversion(&mut values);
    values.iter_mut().for_each(|value| *value *= numerator);
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_of_their_formulas() {
        let (dimensions, tau) = (Dimensions::new(2, 3).unwrap(), Fr::from(123_456_789u64));
        let params = ProverParams::insecure_from_tau(dimensions, tau, 1000).unwrap();
        let (g1, g2) = (G1Projective::generator(), G2Projective::generator());
        let order = dimensions.scalars();
        for (j, (power, high)) in (0..).zip(params.powers(0..order).into_iter().zip(params.high_powers(0..order))) {
            assert_eq!(power, g1 * tau.pow([j]));
            assert_eq!(high, g1 * tau.pow([1000 + j]));
        }
        assert_eq!(params.verifier.high_g2, g2 * tau.pow([1000]));
        let roots = domain(dimensions.lg_scalars());
        for coset in 0..COSETS {
            let x = tau / coset_shift(dimensions, coset);
            for (at, point) in params.verifier.lagrange(coset, 0..order).iter().enumerate() {
                let i = at % dimensions.columns() * dimensions.rows() + at / dimensions.columns();
                let root = roots.element(i);
                let value = root / Fr::from(order as u64) * (x.pow([order as u64]) - Fr::one()) / (x - root);
                assert_eq!(*point, g1 * value, "coset {coset}, point {at}");
            }
            for depth in 1..=dimensions.lg_rows() {
                let step = order as u64 >> depth;
                for (node, point) in params.verifier.vanishing[coset][depth as usize - 1].iter().enumerate() {
                    // The other form of V: Σ_{j < 2^d} ρ^(-t(j+1))·x^(j·s).
                    let root = roots.element(step as usize * reversed(node, depth)).inverse().unwrap();
                    let value: Fr = (0..1u64 << depth).map(|j| root.pow([j + 1]) * x.pow([j * step])).sum();
                    assert_eq!(*point, g2 * value, "coset {coset}, depth {depth}, node {node}");
                }
            }
        }
    }

    #[test]
    fn a_tau_on_the_domain_is_refused() {
        let dimensions = Dimensions::new(1, 3).unwrap();
        for tau in [Fr::zero(), Fr::one(), coset_shift(dimensions, 1), coset_shift(dimensions, 2)] {
            let refused = ProverParams::insecure_from_tau(dimensions, tau, 48);
            assert!(matches!(refused, Err(ParamsError::Tau { lg_order: 6 })));
        }
    }
}
