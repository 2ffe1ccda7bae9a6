//! The plain twin of the kernels of a blob, over arkworks, and the points that it and the device work with.

use ark_bn254::{Fr, G1Affine, G1Projective};
use ark_ec::{AffineRepr, CurveGroup, PrimeGroup, scalar_mul::ScalarMul};
use ark_ff::{BigInteger, FftField, Field, One, PrimeField, Zero};
use ark_poly::{EvaluationDomain, Radix2EvaluationDomain};
use zgpu_core::blob::{BlobRoots, COSETS, Dimensions, ProverBases};
use zgpu_core::digest::{H256, parent};
use zgpu_core::tree::{sector_hashes, unbalanced_levels};

use super::noise;

/// The prover's points: known multiples of the generator. The kernels ask nothing of them but that none is infinity, so
/// these need no τ; and as the multiples are known, the twin computes with scalars and multiplies once, at the end.
pub(crate) struct Points {
    pub(crate) dimensions: Dimensions,
    /// Of powers, high powers and the Lagrange points of each coset, one list behind the other, again and again.
    factors: Vec<Fr>,
    bytes: Vec<u8>,
}

impl Points {
    /// Points from a rule, which is asked for numbers below `period`; point i of list k has number kN + i mod `period`.
    pub(crate) fn new(dimensions: Dimensions, period: u64, factor: impl Fn(u64) -> Fr) -> Self {
        let factors: Vec<Fr> = (0..period).map(factor).collect();
        let points = G1Projective::generator().batch_mul(&factors);
        assert!(points.iter().all(|point| !point.is_zero()));
        let coordinates = points.iter().flat_map(|point| [point.x, point.y]);
        let bytes: Vec<u8> = coordinates.flat_map(|coordinate| coordinate.0.0).flat_map(u64::to_le_bytes).collect();
        let bytes = bytes.iter().copied().cycle().take(5 * 64 * dimensions.scalars()).collect();
        Self { dimensions, factors, bytes }
    }

    /// Points without a relation, many of them different.
    pub(crate) fn random(dimensions: Dimensions) -> Self {
        Self::new(dimensions, 4999, |number| Fr::from_le_bytes_mod_order(&noise(number, 32)))
    }

    /// Which multiple of the generator a point is.
    fn factor(&self, list: usize, number: usize) -> Fr {
        self.factors[(list * self.dimensions.scalars() + number) % self.factors.len()]
    }

    pub(crate) fn bases(&self) -> ProverBases<'_> {
        let mut lists = self.bytes.chunks_exact(self.dimensions.scalars() * 64);
        let mut next = || lists.next().expect("five lists");
        ProverBases {
            dimensions: self.dimensions,
            powers: next(),
            high_powers: next(),
            lagrange: std::array::from_fn(|_| next()),
        }
    }
}

/// An erasure-coded blob.
pub(crate) struct Extended {
    pub(crate) coefficients: Vec<Fr>,
    pub(crate) cosets: [Vec<Fr>; COSETS],
}

pub(crate) fn scalar_bytes(scalars: &[Fr]) -> Vec<u8> {
    scalars.iter().flat_map(|scalar| scalar.into_bigint().to_bytes_le()).collect()
}

fn domain(size: usize) -> Radix2EvaluationDomain<Fr> {
    Radix2EvaluationDomain::new(size).expect("a small power of two")
}

fn shift(dimensions: Dimensions, coset: usize) -> Fr {
    let root = |times: u64| Fr::get_root_of_unity(times * dimensions.scalars() as u64).expect("an order below 2^28");
    [Fr::one(), root(2), root(4)][coset]
}

fn reversed(index: usize, bits: u32) -> usize {
    (0..bits).fold(0, |reversed, bit| reversed << 1 | index >> bit & 1)
}

/// The twin of `BlobDevice::extend`.
pub(crate) fn extend(dimensions: Dimensions, data: &[u8], length: [u8; 4]) -> Extended {
    let (rows, columns) = (dimensions.rows(), dimensions.columns());
    let mut bytes = vec![0; 31 * dimensions.scalars()];
    bytes[..data.len()].copy_from_slice(data);
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&length);
    let matrix: Vec<Fr> = bytes.chunks_exact(31).map(Fr::from_le_bytes_mod_order).collect();
    let values: Vec<Fr> = (0..matrix.len()).map(|i| matrix[i % rows * columns + i / rows]).collect();
    let coefficients = domain(matrix.len()).ifft(&values);
    let evaluated = |coset| {
        let points = domain(matrix.len()).get_coset(shift(dimensions, coset)).expect("not zero");
        let values = points.fft(&coefficients);
        (0..values.len()).map(|i| values[i % columns * rows + i / columns]).collect::<Vec<Fr>>()
    };
    let cosets = [matrix.clone(), evaluated(1), evaluated(2)];
    Extended { coefficients, cosets }
}

/// Commitment and quotient of every node: by coset, then a heap in which node n of depth d is number 2^d + n.
struct Commitments {
    high: G1Affine,
    commitments: [Vec<G1Affine>; COSETS],
    quotients: [Vec<G1Affine>; COSETS],
}

/// The twin of `BlobDevice::commit`: each line of the formulas by itself.
fn commit(points: &Points, extended: &Extended) -> Commitments {
    let dimensions = points.dimensions;
    let (rows, columns) = (dimensions.rows(), dimensions.columns());
    let lg_rows = dimensions.lg_rows();
    // Σ scalar·point, over the points of a list from `base` on.
    let msm = |scalars: &[Fr], list: usize, base: usize| -> Fr {
        scalars.iter().zip(base..).map(|(scalar, number)| *scalar * points.factor(list, number)).sum()
    };
    let multiplied = |factors: Vec<Fr>| G1Projective::generator().batch_mul(&factors);
    let commitments = std::array::from_fn(|coset| {
        let mut heap = vec![Fr::zero(); 2 * rows];
        for node in 0..rows {
            let first = reversed(node, lg_rows) * columns;
            heap[rows + node] = msm(&extended.cosets[coset][first..first + columns], 2 + coset, first);
        }
        (1..rows).rev().for_each(|node| heap[node] = heap[2 * node] + heap[2 * node + 1]);
        multiplied(heap)
    });
    let quotients = std::array::from_fn(|coset| {
        let mut heap = vec![Fr::zero(); 2 * rows];
        for depth in 1..=lg_rows {
            let nodes = 1usize << depth;
            let size = dimensions.scalars() >> depth;
            let blocks: Vec<Fr> = extended.coefficients.chunks(size).map(|block| msm(block, 0, 0)).collect();
            let step = shift(dimensions, coset).pow([size as u64]);
            let half = Fr::from(nodes as u64).inverse().expect("not zero");
            for node in 0..nodes {
                let turn = domain(nodes).group_gen.pow([reversed(node, depth) as u64]);
                let factors = std::iter::successors(Some(half * turn), |factor| Some(*factor * turn * step));
                heap[nodes + node] = blocks.iter().zip(factors).map(|(block, factor)| *block * factor).sum();
            }
        }
        multiplied(heap)
    });
    let high = (G1Projective::generator() * msm(&extended.coefficients, 1, 0)).into_affine();
    Commitments { high, commitments, quotients }
}

/// x ‖ y with the flags of slices.
fn point_bytes(point: &G1Affine) -> [u8; 64] {
    let mut bytes = [0; 64];
    match point.xy() {
        None => bytes[63] = 0x40,
        Some((x, y)) => {
            bytes[..32].copy_from_slice(&x.into_bigint().to_bytes_le());
            bytes[32..].copy_from_slice(&y.into_bigint().to_bytes_le());
            bytes[63] |= if y > -y { 0x80 } else { 0 };
        }
    }
    bytes
}

/// The twin of `BlobDevice::slices`, with all stages before it.
pub(crate) fn encode(points: &Points, data: &[u8], length: [u8; 4]) -> (Vec<u8>, BlobRoots) {
    let extended = extend(points.dimensions, data, length);
    slices(points, &extended)
}

/// Slices and roots of an extended blob.
pub(crate) fn slices(points: &Points, extended: &Extended) -> (Vec<u8>, BlobRoots) {
    let dimensions = points.dimensions;
    let lg_rows = dimensions.lg_rows();
    let (rows, columns) = (dimensions.rows(), dimensions.columns());
    let commitments = commit(points, extended);
    let trees: Vec<Vec<Vec<H256>>> = (0..COSETS)
        .map(|coset| {
            let rows = extended.cosets[coset].chunks(columns);
            let roots = rows.map(|row| unbalanced_levels(sector_hashes(&scalar_bytes(row))).pop().expect("a root")[0]);
            unbalanced_levels(roots.collect())
        })
        .collect();
    let coset_roots: [H256; COSETS] = std::array::from_fn(|coset| trees[coset][lg_rows as usize][0]);

    let mut bytes = Vec::new();
    let number = |bytes: &mut Vec<u8>, number: usize| bytes.extend((number as u64).to_le_bytes());
    for index in 0..dimensions.slices() {
        let (coset, row) = (index / rows, index % rows);
        number(&mut bytes, index);
        number(&mut bytes, index);
        bytes.extend(point_bytes(&commitments.commitments[0][1]));
        number(&mut bytes, row);
        number(&mut bytes, columns);
        bytes.extend(scalar_bytes(&extended.cosets[coset][row * columns..][..columns]));
        number(&mut bytes, lg_rows as usize);
        for depth in 1..=lg_rows {
            let sibling = (1 << depth) + (reversed(row, lg_rows) >> (lg_rows - depth) ^ 1);
            bytes.extend(point_bytes(&commitments.commitments[coset][sibling]));
            bytes.extend(point_bytes(&commitments.quotients[coset][sibling]));
        }
        bytes.extend(point_bytes(&commitments.high));
        coset_roots.iter().for_each(|root| bytes.extend(root.0));
        number(&mut bytes, lg_rows as usize);
        (0..lg_rows as usize).for_each(|height| bytes.extend(trees[coset][height][row >> height ^ 1].0));
        number(&mut bytes, index);
        bytes.extend(trees[coset][0][row].0);
    }
    let mut commitment = point_bytes(&commitments.commitments[0][1]);
    commitment[63] &= 0x3f;
    let [first, second, third] = coset_roots;
    let storage_root = parent(&parent(&first, &second), &third).0;
    (bytes, BlobRoots { commitment, coset_roots: coset_roots.map(|root| root.0), storage_root })
}
