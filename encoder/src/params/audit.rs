//! Whether the points of parameters belong together, by pairings and random linear combinations.
//!
//! With P_j the powers, T the point that multiplies by τ^C in G2, and r random:
//!
//! | relation | equation | needs |
//! |---|---|---|
//! | generators | P_0 and \[1\]₂ are the curve's generators | |
//! | powers | e(Σ r_j·P_(j+1), \[1\]₂) = e(Σ r_j·P_j, [τ]₂) | [τ]₂: from the ceremony and files of powers |
//! | stride | e(Σ r_j·P_(j+C), \[1\]₂) = e(Σ r_j·P_j, T) | T from the vanishing points |
//! | high powers | e(Σ r_j·H_j, \[1\]₂) = e(Σ r_j·P_j, [τ^high_start]₂) | a prover's points |
//! | Lagrange points of coset k | Σ r_i·L_i = Σ a_j·P_j, where the polynomial of coefficients a has the values r on the coset | |
//! | vanishing points | e(\[1\]₁, Σ r·V) = e(Σ b_j·P_j, \[1\]₂), where b are the coefficients of Σ r·V | |
//!
//! What each set of files allows: with [τ]₂ every point is tied to every other, and a change of any one breaks an equation.
//! The network's prover and verifier files have in G2 the exponents that are multiples of C alone. For them the powers
//! of one residue mod C are tied to each other, and so is everything else to the powers; that the residues have the same τ
//! cannot be seen, nor does any proof or its verification depend on it. A change of any one point breaks an equation
//! here too. A verifier's file has no powers: they are replaced by the Lagrange points of coset 0, of which they are
//! combinations. Where the high powers begin can not be checked: only that they are the powers times one factor.
//!
//! The weights have 128 bits: wrong parameters pass with a probability of about 2^-128. They must come from a generator
//! that nobody can foresee.

use std::fmt;

use ark_bn254::{Bn254, Fr, G1Affine, G2Affine, G2Projective};
use ark_ec::{AffineRepr, CurveGroup, VariableBaseMSM, pairing::Pairing};
use ark_ff::{Field, One, Zero};
use ark_poly::EvaluationDomain;
use rand::CryptoRng;

use super::{ParamsError, Progress, ProverParams, Report, VerifierParams, content::Contents};
use crate::{
    extend::{coset_shift, domain, evaluate, interpolate, reversed},
    msm::msm,
};

/// What has to hold between points.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Relation {
    /// \[1\]₁ and \[1\]₂ are the curve's generators.
    Generators,
    /// Each power is τ times the one before it.
    Powers,
    /// Each power is τ^C times the one C places before it.
    Stride,
    /// Each high power is τ^high_start times its power.
    HighPowers,
    /// The Lagrange points of this coset fit the powers.
    Lagrange(usize),
    /// The vanishing points fit the powers.
    Vanishing,
}

impl fmt::Display for Relation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Relation::Generators => write!(f, "[1]_1 and [1]_2 are the curve's generators"),
            Relation::Powers => write!(f, "each power is tau times the one before"),
            Relation::Stride => write!(f, "each power is tau^C times the one C places before"),
            Relation::HighPowers => write!(f, "each high power is tau^high_start times its power"),
            Relation::Lagrange(coset) => write!(f, "the Lagrange points of coset {coset} fit the powers"),
            Relation::Vanishing => write!(f, "the vanishing points fit the powers"),
        }
    }
}

/// Whether a relation holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What has to hold.
    pub relation: Relation,
    /// Whether it does.
    pub holds: bool,
}

/// Checks every relation that can be checked, the powers first. About a minute of two cores at full size.
pub fn audit(params: &VerifierParams, rng: &mut (impl CryptoRng + ?Sized), report: Report<'_>) -> Vec<Finding> {
    let is_prover = params.content.layout().contents == Contents::Prover;
    let mut relations = vec![Relation::Generators];
    if params.labels.tau_g2.is_some() {
        relations.push(Relation::Powers);
    }
    relations.push(Relation::Stride);
    if is_prover {
        relations.extend([Relation::HighPowers, Relation::Lagrange(0)]);
    }
    relations.extend([Relation::Lagrange(1), Relation::Lagrange(2), Relation::Vanishing]);

    let total = relations.len() as u64;
    let points = Points::new(params);
    let finding = |(done, relation)| {
        report(Progress { stage: "checking by pairings", done, total });
        Finding { relation, holds: points.hold(relation, rng) }
    };
    let findings = (0..).zip(relations).map(finding).collect();
    report(Progress { stage: "checking by pairings", done: total, total });
    findings
}

/// Fails with the first relation that does not hold.
pub(super) fn require(params: &ProverParams, report: Report<'_>) -> Result<(), ParamsError> {
    let findings = audit(params.verifier(), &mut rand::rng(), report);
    match findings.iter().find(|finding| !finding.holds) {
        Some(finding) => Err(ParamsError::Audit(finding.relation)),
        None => Ok(()),
    }
}

/// The points, and those of which all others are combinations.
struct Points<'a> {
    params: &'a VerifierParams,
    /// The powers; for a verifier the Lagrange points of coset 0.
    bases: Vec<G1Affine>,
    is_prover: bool,
}

impl<'a> Points<'a> {
    fn new(params: &'a VerifierParams) -> Self {
        let scalars = params.dimensions.scalars();
        let prover = params.clone().into_prover();
        let is_prover = prover.is_some();
        let bases = prover.map_or_else(|| params.lagrange(0, 0..scalars), |prover| prover.powers(0..scalars));
        Points { params, bases, is_prover }
    }

    /// [f(τ)]₁ for the polynomial with these N coefficients.
    fn value(&self, coefficients: &[Fr]) -> G1Affine {
        let sum = if self.is_prover {
            msm(&self.bases, coefficients)
        } else {
            msm(&self.bases, &evaluate(self.params.dimensions, 0, coefficients))
        };
        sum.into_affine()
    }

    fn hold(&self, relation: Relation, rng: &mut (impl CryptoRng + ?Sized)) -> bool {
        let params = self.params;
        let dimensions = params.dimensions;
        let scalars = dimensions.scalars();
        let mut weights = |count: usize| -> Vec<Fr> { (0..count).map(|_| weight(rng)).collect() };
        // Whether all products of `ratio` and a power are the power `step` places on.
        let mut moves_by = |step: usize, ratio: G2Affine| {
            let mut coefficients = weights(scalars - step);
            coefficients.resize(scalars, Fr::zero());
            let before = self.value(&coefficients);
            coefficients.rotate_right(step);
            pairings_equal((self.value(&coefficients), params.g2), (before, ratio))
        };
        match relation {
            Relation::Generators => {
                let mut constant = vec![Fr::zero(); scalars];
                constant[0] = Fr::one();
                params.g2 == G2Affine::generator() && self.value(&constant) == G1Affine::generator()
            }
            Relation::Powers => params.labels.tau_g2.is_some_and(|tau_g2| moves_by(1, tau_g2)),
            Relation::Stride => moves_by(dimensions.columns(), self.stride()),
            Relation::HighPowers => params.clone().into_prover().is_some_and(|prover| {
                let weights = weights(scalars);
                let high = msm(&prover.high_powers(0..scalars), &weights).into_affine();
                pairings_equal((high, params.g2), (self.value(&weights), params.high_g2))
            }),
            Relation::Lagrange(coset) => {
                let values = weights(scalars);
                let sum = msm(&params.lagrange(coset, 0..scalars), &values).into_affine();
                sum == self.value(&interpolate(dimensions, coset, &values))
            }
            Relation::Vanishing => {
                let mut coefficients = vec![Fr::zero(); scalars];
                let mut sum = G2Projective::zero();
                for (coset, depths) in params.vanishing.iter().enumerate() {
                    for (depth, points) in (1..).zip(depths) {
                        let weights = weights(points.len());
                        sum += G2Projective::msm_unchecked(points, &weights);
                        self.add_vanishing(coset, depth, &weights, &mut coefficients);
                    }
                }
                let value = self.value(&coefficients);
                pairings_equal((G1Affine::generator(), sum.into_affine()), (value, params.g2))
            }
        }
    }

    /// Adds the coefficients of Σ r·V(X/c_k) over the nodes of one depth:
    /// V(X) = Σ_{j < 2^d} ρ^(-t(j+1))·X^(js) for the node that is t with its bits reversed.
    fn add_vanishing(&self, coset: usize, depth: u32, weights: &[Fr], coefficients: &mut [Fr]) {
        let dimensions = self.params.dimensions;
        let (nodes, step) = (weights.len(), dimensions.scalars() >> depth);
        let by_class: Vec<Fr> = (0..nodes).map(|class| weights[reversed(class, depth)]).collect();
        let sums = domain(depth).fft(&by_class);
        let ratio = coset_shift(dimensions, coset).inverse().expect("a shift is not zero").pow([step as u64]);
        let mut factor = Fr::one();
        for j in 0..nodes {
            // Σ_t r_t·ρ^(-t(j+1)).
            coefficients[j * step] += sums[nodes - 1 - j] * factor;
            factor *= ratio;
        }
    }

    /// [τ^C]₂ from the vanishing points of depth lg R in coset 0: Σ_t ρ^(2t)·V_t = R·τ^C.
    fn stride(&self) -> G2Affine {
        let depth = self.params.dimensions.lg_rows();
        let roots = domain(depth);
        let points = &self.params.vanishing[0][depth as usize - 1];
        let factor = |node: usize| roots.element(2 * reversed(node, depth) % points.len()) * roots.size_inv;
        let factors: Vec<Fr> = (0..points.len()).map(factor).collect();
        G2Projective::msm_unchecked(points, &factors).into_affine()
    }
}

fn pairings_equal((left_g1, left_g2): (G1Affine, G2Affine), (right_g1, right_g2): (G1Affine, G2Affine)) -> bool {
    Bn254::multi_pairing([left_g1, -right_g1], [left_g2, right_g2]).is_zero()
}

fn weight(rng: &mut (impl CryptoRng + ?Sized)) -> Fr {
    Fr::from(u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64()))
}
