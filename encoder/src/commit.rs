//! The commitment of a blob, and the parts of its rows' proofs.
//!
//! Source: the AMT commitment scheme of the network's DA encoder, in fewer products. Rows are the leaves of a binary
//! tree: node (d, n) has the rows whose index, its lg R bits reversed, begins with the d bits of n. Every node of
//! coset k carries [p(τ/c_k)]₁ and [q(τ/c_k)]₁: p is the sum of its points' values times their Lagrange polynomials,
//! and q = p/V, where V vanishes on all other points of the coset. A row's proof is the siblings on its way up.
//!
//! With f the blob's polynomial of degree < N, m = N/2^d, ρ the 2^d-th root of unity and n = t with its bits reversed:
//! - blocks: B(d,u) = Σ_{j<m} f_{um+j}·[τ^j]₁ for u < 2^d, and
//!   B(d,u) = B(d+1,2u) + Σ_{m/2 <= j < m} f_{um+j}·[τ^j]₁: each level adds one MSM of N/2 points to the level below.
//! - quotients: [q(τ/c_k)]₁ of node (d, n) = 2^-d·Σ_u ρ^(t(u+1))·c_k^(mu)·B(d,u): an NTT of 2^d points of G1 for each
//!   coset, all from the same blocks.
//! - leaves: [p(τ/c_k)]₁ of a row is the MSM of its scalars over its Lagrange points; parents are sums of children;
//!   the root is [f(τ)]₁ in every coset: the erasure commitment.
//! - the high commitment is Σ_j f_j·[τ^(high_start+j)]₁.
//!
//! All results are group elements without choice, so every schedule gives the same bytes.

use ark_bn254::{Fr, G1Affine, G1Projective};
use ark_ec::CurveGroup;
use ark_ff::Field;
use ark_poly::EvaluationDomain;
use rayon::prelude::*;

use crate::{
    blob::{COSETS, Dimensions},
    extend::{Extended, coset_shift, domain, reversed},
    msm::msm,
    params::{ProverParams, VerifierParams},
};

/// What a node of a coset's tree carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    /// [p(τ/c_k)]₁: the node's part of the commitment.
    pub commitment: G1Affine,
    /// [p(τ/c_k)/V(τ/c_k)]₁: it says that p vanishes outside the node's rows.
    pub quotient: G1Affine,
}

/// Commitments of a blob and of all nodes of its three trees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commitments {
    dimensions: Dimensions,
    erasure: G1Affine,
    high: G1Affine,
    /// Per coset and depth d = 1..=lg R: the 2^d nodes.
    nodes: [Vec<Vec<Node>>; COSETS],
}

impl Commitments {
    /// The erasure commitment: [f(τ)]₁.
    pub fn erasure(&self) -> G1Affine {
        self.erasure
    }

    /// The high commitment: [τ^high_start·f(τ)]₁.
    pub fn high(&self) -> G1Affine {
        self.high
    }

    /// Proof of encoded row `index`: the siblings of the nodes on its way, from depth 1 down to its leaf's.
    ///
    /// # Panics
    /// When `index` is not below 3R.
    pub fn proof(&self, index: usize) -> Vec<Node> {
        let tree = &self.nodes[index / self.dimensions.rows()];
        siblings(self.dimensions, index).zip(tree).map(|(sibling, depth)| depth[sibling]).collect()
    }
}

/// Numbers of the siblings on the way to encoded row `index`, from depth 1 to depth lg R.
pub(crate) fn siblings(dimensions: Dimensions, index: usize) -> impl Iterator<Item = usize> {
    let leaf = reversed(index % dimensions.rows(), dimensions.lg_rows());
    (1..=dimensions.lg_rows()).map(move |depth| leaf >> (dimensions.lg_rows() - depth) ^ 1)
}

/// Commits to an extended blob and proves all its rows.
///
/// # Panics
/// When the parameters are for a matrix of another size.
pub fn commit(params: &ProverParams, extended: &Extended) -> Commitments {
    let dimensions = extended.dimensions;
    assert_eq!(params.dimensions(), dimensions, "parameters and blob are of one size");
    let high = msm(&params.high_powers(0..dimensions.scalars()), &extended.coefficients).into_affine();
    let blocks = block_commitments(params, &extended.coefficients);
    let nodes: [Vec<Vec<Node>>; COSETS] = std::array::from_fn(|coset| {
        let commitments = node_commitments(&params.verifier, coset, &extended.cosets[coset]);
        let depths = blocks.par_iter().map(|blocks| node_quotients(dimensions, coset, blocks));
        let depths: Vec<Vec<G1Projective>> = depths.collect();
        commitments.iter().zip(&depths).map(|(commitments, quotients)| nodes(commitments, quotients)).collect()
    });
    let erasure = (nodes[0][0][0].commitment + nodes[0][0][1].commitment).into_affine();
    Commitments { dimensions, erasure, high, nodes }
}

/// B(d,u) for d = 1..=lg R and u < 2^d.
fn block_commitments(params: &ProverParams, coefficients: &[Fr]) -> Vec<Vec<G1Projective>> {
    let dimensions = params.dimensions();
    let columns = dimensions.columns();
    let powers = params.powers(0..dimensions.scalars() / 2);
    let msm_of = |first: usize, last: usize, block: &[Fr]| msm(&powers[first..last], &block[first..last]);
    let leaves = coefficients.par_chunks(columns).map(|block| msm_of(0, columns, block)).collect();
    let mut levels: Vec<Vec<G1Projective>> = vec![leaves];
    for depth in (1..dimensions.lg_rows()).rev() {
        let size = dimensions.scalars() >> depth;
        let below = &levels[levels.len() - 1];
        let blocks = coefficients.par_chunks(size).enumerate();
        let level = blocks.map(|(block, coefficients)| below[2 * block] + msm_of(size / 2, size, coefficients));
        levels.push(level.collect());
    }
    levels.reverse();
    levels
}

/// [q(τ/c_k)]₁ of the 2^d nodes of one depth, from the 2^d blocks of that depth.
fn node_quotients(dimensions: Dimensions, coset: usize, blocks: &[G1Projective]) -> Vec<G1Projective> {
    let depth = blocks.len().ilog2();
    let roots = domain(depth);
    let shift = coset_shift(dimensions, coset).pow([(dimensions.scalars() >> depth) as u64]);
    let factors: Vec<Fr> = powers(roots.size_inv, shift, blocks.len());
    let mut terms: Vec<G1Projective> = blocks.par_iter().zip(&factors).map(|(block, factor)| *block * factor).collect();
    // ρ^(t(u+1)) and not ρ^(tu): the terms move on by one place, the last to the first.
    terms.rotate_right(1);
    let quotients = roots.fft(&terms);
    (0..blocks.len()).map(|node| quotients[reversed(node, depth)]).collect()
}

/// `first`·`ratio`^i for i < `count`.
fn powers(first: Fr, ratio: Fr, count: usize) -> Vec<Fr> {
    std::iter::successors(Some(first), |power| Some(*power * ratio)).take(count).collect()
}

/// [p(τ/c_k)]₁ of all nodes of a coset with these scalars, for depths 1..=lg R.
fn node_commitments(params: &VerifierParams, coset: usize, scalars: &[Fr]) -> Vec<Vec<G1Projective>> {
    let dimensions = params.dimensions;
    let rows = dimensions.rows();
    let leaves = (0..rows).into_par_iter().map(|node| {
        let row = reversed(node, dimensions.lg_rows());
        let scalars = &scalars[row * dimensions.columns()..][..dimensions.columns()];
        msm(&params.row(coset * rows + row), scalars)
    });
    let mut levels: Vec<Vec<G1Projective>> = vec![leaves.collect()];
    while levels[levels.len() - 1].len() > 2 {
        let (pairs, _) = levels[levels.len() - 1].as_chunks::<2>();
        levels.push(pairs.iter().map(|[left, right]| *left + right).collect());
    }
    levels.reverse();
    levels
}

/// Nodes of one depth, as affine points.
fn nodes(commitments: &[G1Projective], quotients: &[G1Projective]) -> Vec<Node> {
    let commitments = G1Projective::normalize_batch(commitments);
    let quotients = G1Projective::normalize_batch(quotients);
    let pairs = commitments.into_iter().zip(quotients);
    pairs.map(|(commitment, quotient)| Node { commitment, quotient }).collect()
}

#[cfg(test)]
pub(crate) mod plain {
    //! The plain twin: the scheme as it is defined, one MSM for every line of a table of bases. For each coset that is
    //! lg R lines of quotients, one of Lagrange points and one of high Lagrange points: 36 N products at full size.

    use ark_ec::{PrimeGroup, VariableBaseMSM, scalar_mul::ScalarMul};

    use super::*;

    /// [Q_i(x)]₁ for every point of depth d, Q_i = (1/N)·Σ_{u=1}^{s} ω^(iu)·x^(s-u) with s = N/2^d.
    fn quotient_bases(dimensions: Dimensions, x: Fr, depth: u32) -> Vec<G1Affine> {
        let roots = domain(dimensions.lg_scalars());
        let size = dimensions.scalars() >> depth;
        let inverse = Fr::from(dimensions.scalars() as u64).inverse().unwrap();
        let value = |i: usize| {
            // Horner in x: ω^i first, times x^(s-1).
            let sum = (1..=size).fold(Fr::from(0u64), |sum, u| sum * x + roots.element(i * u % dimensions.scalars()));
            sum * inverse
        };
        let values: Vec<Fr> = (0..dimensions.scalars()).into_par_iter().map(value).collect();
        G1Projective::generator().batch_mul(&values)
    }

    /// [`super::commit`] from τ itself.
    pub(crate) fn commit(tau: Fr, high_start: u64, extended: &Extended) -> Commitments {
        let dimensions = extended.dimensions;
        let (rows, scalars) = (dimensions.rows(), dimensions.scalars());
        let roots = domain(dimensions.lg_scalars());
        let mut results = (0..COSETS).map(|coset| {
            let x = tau / coset_shift(dimensions, coset);
            // Values and bases by i = κ·R + ρ.
            let values: Vec<Fr> = (0..scalars).map(|i| extended.row(coset * rows + i % rows)[i / rows]).collect();
            let lagrange = roots.evaluate_all_lagrange_coefficients(x);
            let high: Vec<Fr> = lagrange.iter().map(|value| *value * tau.pow([high_start])).collect();
            let basis = G1Projective::generator().batch_mul(&lagrange);
            let high_basis = G1Projective::generator().batch_mul(&high);
            let tree: Vec<Vec<Node>> = (1..=dimensions.lg_rows())
                .map(|depth| {
                    let quotient_basis = quotient_bases(dimensions, x, depth);
                    let msm = |bases: &[G1Affine], class: usize| -> G1Affine {
                        let points = (class..scalars).step_by(1 << depth);
                        let (bases, values): (Vec<_>, Vec<_>) = points.map(|i| (bases[i], values[i])).unzip();
                        G1Projective::msm_unchecked(&bases, &values).into_affine()
                    };
                    let classes = (0..1usize << depth).map(|node| reversed(node, depth));
                    classes
                        .map(|class| Node { commitment: msm(&basis, class), quotient: msm(&quotient_basis, class) })
                        .collect()
                })
                .collect();
            let sum = |bases: &[G1Affine]| G1Projective::msm_unchecked(bases, &values).into_affine();
            (sum(&basis), sum(&high_basis), tree)
        });
        let (erasure, high, first) = results.next().unwrap();
        let mut trees = vec![first];
        for (other_erasure, other_high, tree) in results {
            assert_eq!((erasure, high), (other_erasure, other_high), "commitments are the same in every coset");
            trees.push(tree);
        }
        Commitments { dimensions, erasure, high, nodes: trees.try_into().unwrap() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::extend::extend;

    fn compare(dimensions: Dimensions, tau: u64, high_start: u64, data: &[u8]) {
        let tau = Fr::from(tau);
        let params = ProverParams::insecure_from_tau(dimensions, tau, high_start).unwrap();
        let extended = extend(dimensions, data).unwrap();
        assert_eq!(commit(&params, &extended), plain::commit(tau, high_start, &extended));
    }

    #[test]
    fn special_blobs_equal_the_twin() {
        let dimensions = Dimensions::new(3, 4).unwrap();
        let maximum = dimensions.max_data_bytes();
        for data in [vec![], vec![1], vec![0xff; 31], vec![0; maximum], vec![0x5a; maximum], vec![0xff; maximum]] {
            compare(dimensions, 987_654_321, 3 * 128, &data);
        }
    }

    #[test]
    fn the_test_size_equals_the_twin() {
        let data: Vec<u8> = (0..20_000u32).map(|i| ((i * i) >> 3) as u8).collect();
        compare(Dimensions::new(6, 5).unwrap(), 1 << 60 | 12345, 6144, &data);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]

        #[test]
        fn any_blob_equals_the_twin(
            (lg_rows, lg_columns) in (1u32..5, 3u32..5),
            tau in 2u64..,
            high_start in 0u64..1 << 28,
            data in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            compare(Dimensions::new(lg_rows, lg_columns).unwrap(), tau, high_start, &data);
        }
    }
}
