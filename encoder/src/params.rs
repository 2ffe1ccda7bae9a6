//! Parameters of the commitment scheme: powers of a secret τ in the exponent, for the prover and for the verifier.
//!
//! Source: the AMT commitment scheme of the network's DA encoder, over BN254. Here they are made from a τ that is
//! known, which is for tests: whoever knows τ can open a commitment to anything.

use ark_bn254::{Fr, G1Affine, G1Projective, G2Affine, G2Projective};
use ark_ec::{PrimeGroup, scalar_mul::ScalarMul};
use ark_ff::{Field, One, Zero, batch_inversion};
use ark_poly::EvaluationDomain;
use rayon::prelude::*;

use crate::{
    blob::{COSETS, Dimensions},
    extend::{coset_shift, domain, reversed},
};

/// What a verifier needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifierParams {
    pub(crate) dimensions: Dimensions,
    /// Per coset: [L_i(τ/c_k)]₁ of the Lagrange polynomial of each point, R rows of C like the coset's scalars.
    pub(crate) lagrange: [Vec<G1Affine>; COSETS],
    /// Per coset and depth d = 1..=lg R: [V(τ/c_k)]₂ for each of the 2^d nodes, V vanishing outside the node's rows.
    pub(crate) vanishing: [Vec<Vec<G2Affine>>; COSETS],
    /// \[1\]₂.
    pub(crate) g2: G2Affine,
    /// [τ^high_start]₂.
    pub(crate) high_g2: G2Affine,
}

/// What the prover needs: 5N points of G1, 335 MB at full size, and the verifier's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProverParams {
    /// [τ^j]₁ for j < N.
    pub(crate) powers: Vec<G1Affine>,
    /// [τ^(high_start+j)]₁ for j < N.
    pub(crate) high_powers: Vec<G1Affine>,
    pub(crate) verifier: VerifierParams,
}

/// Why parameters cannot be made.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ParamsError {
    /// τ is zero or a root of unity: polynomials that must not vanish there do.
    #[error("tau is zero or a 2^{lg_order}-th root of unity")]
    Tau {
        /// log2 of the order.
        lg_order: u32,
    },
}

impl ProverParams {
    /// Parameters from a τ that somebody knows: for tests only. `high_start` is where the high powers begin:
    /// 2^28 - 2^20 with the ceremony's parameters, 3N in the network's test set-up.
    pub fn insecure_from_tau(dimensions: Dimensions, tau: Fr, high_start: u64) -> Result<Self, ParamsError> {
        // The shifted τ/c_k are N-th roots of unity only if τ is a 4N-th one.
        let lg_order = dimensions.lg_scalars() + 2;
        if tau.is_zero() || tau.pow([1u64 << lg_order]).is_one() {
            return Err(ParamsError::Tau { lg_order });
        }
        let g1 = G1Projective::generator();
        let powers_from = |first: Fr| {
            let powers: Vec<Fr> =
                std::iter::successors(Some(first), |power| Some(*power * tau)).take(dimensions.scalars()).collect();
            g1.batch_mul(&powers)
        };
        let high = tau.pow([high_start]);
        let shifted = std::array::from_fn(|coset| tau / coset_shift(dimensions, coset));
        let verifier = VerifierParams {
            dimensions,
            lagrange: shifted.map(|tau| g1.batch_mul(&lagrange_values(dimensions, tau))),
            vanishing: shifted.map(|tau| {
                let depths = (1..=dimensions.lg_rows()).map(|depth| vanishing_values(dimensions, tau, depth));
                depths.map(|values| G2Projective::generator().batch_mul(&values)).collect()
            }),
            g2: G2Projective::generator().into(),
            high_g2: (G2Projective::generator() * high).into(),
        };
        Ok(ProverParams { powers: powers_from(Fr::one()), high_powers: powers_from(high), verifier })
    }

    /// Size of the matrix they are for.
    pub fn dimensions(&self) -> Dimensions {
        self.verifier.dimensions
    }

    /// The verifier's part.
    pub fn verifier(&self) -> &VerifierParams {
        &self.verifier
    }
}

impl VerifierParams {
    /// Size of the matrix they are for.
    pub fn dimensions(&self) -> Dimensions {
        self.dimensions
    }

    /// The Lagrange points of encoded row `index`, which is below 3R.
    pub(crate) fn row(&self, index: usize) -> &[G1Affine] {
        let (rows, columns) = (self.dimensions.rows(), self.dimensions.columns());
        &self.lagrange[index / rows][index % rows * columns..][..columns]
    }
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
        for j in 0..dimensions.scalars() as u64 {
            assert_eq!(params.powers[j as usize], g1 * tau.pow([j]));
            assert_eq!(params.high_powers[j as usize], g1 * tau.pow([1000 + j]));
        }
        assert_eq!(params.verifier.high_g2, g2 * tau.pow([1000]));
        let roots = domain(dimensions.lg_scalars());
        let order = dimensions.scalars() as u64;
        for coset in 0..COSETS {
            let x = tau / coset_shift(dimensions, coset);
            for (at, point) in params.verifier.lagrange[coset].iter().enumerate() {
                let i = at % dimensions.columns() * dimensions.rows() + at / dimensions.columns();
                let root = roots.element(i);
                let value = root / Fr::from(order) * (x.pow([order]) - Fr::one()) / (x - root);
                assert_eq!(*point, g1 * value, "coset {coset}, point {at}");
            }
            for depth in 1..=dimensions.lg_rows() {
                let step = order >> depth;
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
            assert_eq!(refused, Err(ParamsError::Tau { lg_order: 6 }));
        }
    }
}
