//! Verification of slices: one at a time, or many at once.
//!
//! Source: the AMT commitment scheme and the slice rules of the network's DA nodes. With E the erasure commitment and
//! (C', Q') the siblings in a slice's proof, a row is right when
//! - the row's scalars over its Lagrange points and all C' add up to E;
//! - e(C', \[1\]₂) = e(Q', [V']₂) for each sibling, V' vanishing outside the sibling's rows;
//! - e(HC, \[1\]₂) = e(E, [τ^high_start]₂) for the high commitment HC;
//! - its merkle path leads from the row to its coset's root, and the coset roots to the storage root.
//!
//! Many slices at once: hashes are checked one by one; the equations are added up with random weights of 128 bits,
//! equal ones once, and those with the same point of G2 in one pairing. A sum that does not hold is halved until the
//! first bad slice is found. Wrong slices pass with a probability of about 2^-128.

use std::collections::{BTreeMap, HashMap, HashSet};

use ark_bn254::{Bn254, Fr, G1Affine, G1Projective, G2Affine};
use ark_ec::{AffineRepr, CurveGroup, pairing::Pairing};
use ark_ff::Zero;
use rand::CryptoRng;
use rayon::prelude::*;

use crate::{
    blob::Dimensions,
    commit::{Node, siblings},
    encode::BlobId,
    merkle::{climb, row_root, storage_root},
    msm::msm,
    params::VerifierParams,
    slice::EncodedSlice,
};

/// Slices whose rows go into one MSM: large enough for wide windows, small enough for a few megabytes.
const SLICES_PER_MSM: usize = 64;

/// What is wrong with a slice.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum SliceFault {
    /// There is no such row.
    #[error("index {actual}, expected one below {slices}")]
    Index {
        /// The slice's index.
        actual: usize,
        /// Slices of a blob.
        slices: usize,
    },
    /// A part has the wrong length.
    #[error("{what} has {actual} entries, expected {expected}")]
    Length {
        /// Which part.
        what: &'static str,
        /// Its entries.
        actual: usize,
        /// Entries it should have.
        expected: usize,
    },
    /// It is of another blob.
    #[error("the erasure commitment is another blob's")]
    Commitment,
    /// The coset roots are not below the storage root.
    #[error("the coset roots do not lead to the storage root")]
    StorageRoot,
    /// The row root is not the row's.
    #[error("the row root is not the root of the row")]
    RowRoot,
    /// The path leads elsewhere.
    #[error("the merkle path does not lead to the coset's root")]
    Path,
    /// The row does not fit the commitment.
    #[error("the row and its siblings do not add up to the erasure commitment")]
    Row,
    /// A sibling does not vanish where it should.
    #[error("the sibling at depth {depth} does not vanish outside its rows")]
    Node {
        /// From 1, below the root, to lg R.
        depth: u32,
    },
    /// The degree is not shown to be low.
    #[error("the high commitment does not fit the erasure commitment")]
    HighCommitment,
}

/// The first bad one among many slices.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error("slice at position {position}: {fault}")]
pub struct BadSlice {
    /// Where it stands in the list.
    pub position: usize,
    /// What is wrong with it.
    pub fault: SliceFault,
}

/// Verifies one slice of `blob`. Its points are on the curve, as [`EncodedSlice::from_bytes`] has checked.
pub fn verify_slice(params: &VerifierParams, blob: &BlobId, slice: &EncodedSlice) -> Result<(), SliceFault> {
    verify_hashes(params.dimensions, blob, slice)?;
    let proof = &slice.proof;
    let nodes: G1Projective = proof.nodes.iter().map(|node| node.commitment).sum();
    if msm(&params.row(proof.index), &slice.row) + nodes != blob.commitment.into_group() {
        return Err(SliceFault::Row);
    }
    let coset = proof.index / params.dimensions.rows();
    for ((depth, sibling), node) in (1..).zip(siblings(params.dimensions, proof.index)).zip(&proof.nodes) {
        let vanishing = params.vanishing[coset][depth as usize - 1][sibling];
        if !pairings_cancel(&[(node.commitment, params.g2), (-node.quotient, vanishing)]) {
            return Err(SliceFault::Node { depth });
        }
    }
    if !pairings_cancel(&[(proof.high_commitment, params.g2), (-blob.commitment, params.high_g2)]) {
        return Err(SliceFault::HighCommitment);
    }
    Ok(())
}

/// Verifies many slices of `blob` at once; on failure it names the first bad one. Their points are on the curve, as
/// [`EncodedSlice::from_bytes`] has checked. `rng` gives the weights: nobody may foresee them.
pub fn verify_slices(
    params: &VerifierParams,
    blob: &BlobId,
    slices: &[EncodedSlice],
    rng: &mut (impl CryptoRng + ?Sized),
) -> Result<(), BadSlice> {
    let hashes = slices.par_iter().enumerate().map(|(position, slice)| {
        verify_hashes(params.dimensions, blob, slice).map_err(|fault| BadSlice { position, fault })
    });
    let bad_hash = hashes.find_first(Result::is_err).and_then(Result::err);
    // A slice in front of it may have a false equation; those behind it no longer matter.
    let hashed = &slices[..bad_hash.map_or(slices.len(), |bad| bad.position)];
    match first_false_equation(params, blob, hashed, rng).or(bad_hash) {
        Some(bad) => Err(bad),
        None => Ok(()),
    }
}

/// The first slice of a list, all with right hashes, with an equation that does not hold.
fn first_false_equation(
    params: &VerifierParams,
    blob: &BlobId,
    slices: &[EncodedSlice],
    rng: &mut (impl CryptoRng + ?Sized),
) -> Option<BadSlice> {
    match slices {
        [] => None,
        [slice] => verify_slice(params, blob, slice).err().map(|fault| BadSlice { position: 0, fault }),
        _ if equations_hold(params, blob, slices, rng) => None,
        _ => {
            let (front, back) = slices.split_at(slices.len() / 2);
            first_false_equation(params, blob, front, rng).or_else(|| {
                let bad = first_false_equation(params, blob, back, rng)?;
                Some(BadSlice { position: front.len() + bad.position, ..bad })
            })
        }
    }
}

/// Verifies of a slice of `blob` all that needs no parameters: shapes, names and hashes.
pub fn verify_hashes(dimensions: Dimensions, blob: &BlobId, slice: &EncodedSlice) -> Result<(), SliceFault> {
    let EncodedSlice { row, proof } = slice;
    let (slices, depth) = (dimensions.slices(), dimensions.lg_rows() as usize);
    if proof.index >= slices {
        return Err(SliceFault::Index { actual: proof.index, slices });
    }
    for (what, actual, expected) in [
        ("the row", row.len(), dimensions.columns()),
        ("the commitment's proof", proof.nodes.len(), depth),
        ("the merkle path", proof.path.len(), depth),
    ] {
        if actual != expected {
            return Err(SliceFault::Length { what, actual, expected });
        }
    }
    if proof.commitment != blob.commitment {
        return Err(SliceFault::Commitment);
    }
    if storage_root(&proof.coset_roots) != blob.storage_root {
        return Err(SliceFault::StorageRoot);
    }
    if row_root(row) != proof.row_root {
        return Err(SliceFault::RowRoot);
    }
    let (coset, row) = (proof.index / dimensions.rows(), proof.index % dimensions.rows());
    if climb(&proof.row_root, row, &proof.path) != proof.coset_roots[coset] {
        return Err(SliceFault::Path);
    }
    Ok(())
}

/// A node's place: coset, depth from 0, number.
type Place = (usize, usize, usize);

/// The weighted sums of all equations of slices with right hashes.
fn equations_hold(
    params: &VerifierParams,
    blob: &BlobId,
    slices: &[EncodedSlice],
    rng: &mut (impl CryptoRng + ?Sized),
) -> bool {
    let dimensions = params.dimensions;
    let weights: Vec<Fr> = slices.iter().map(|_| weight(rng)).collect();

    // Siblings recur in the slices of one blob: each counts once in the pairings, with all its weights in the row sums.
    let mut nodes: HashMap<(Place, Node), Fr> = HashMap::new();
    for (slice, weight) in slices.iter().zip(&weights) {
        let coset = slice.proof.index / dimensions.rows();
        let places = siblings(dimensions, slice.proof.index).enumerate();
        for ((depth, sibling), node) in places.zip(&slice.proof.nodes) {
            *nodes.entry(((coset, depth, sibling), *node)).or_insert(Fr::zero()) += weight;
        }
    }
    let nodes: Vec<((Place, Node), Fr)> = nodes.into_iter().collect();
    let node_points: Vec<G1Affine> = nodes.iter().map(|((_, node), _)| node.commitment).collect();

    let row_sums =
        slices.par_chunks(SLICES_PER_MSM).zip(weights.par_chunks(SLICES_PER_MSM)).map(|(slices, weights)| {
            let rows = || slices.iter().zip(weights);
            let bases: Vec<G1Affine> = rows().flat_map(|(slice, _)| params.row(slice.proof.index)).collect();
            let scalars: Vec<Fr> =
                rows().flat_map(|(slice, weight)| slice.row.iter().map(move |v| *v * weight)).collect();
            msm(&bases, &scalars)
        });
    let row_sum: G1Projective = row_sums.sum();
    let node_weights: Vec<Fr> = nodes.iter().map(|(_, weight)| *weight).collect();
    let node_sum = msm(&node_points, &node_weights);
    if row_sum + node_sum != blob.commitment * weights.iter().sum::<Fr>() {
        return false;
    }

    let high: HashSet<G1Affine> = slices.iter().map(|slice| slice.proof.high_commitment).collect();
    let (mut left, mut left_weights) = (node_points, Vec::new());
    let mut quotients: BTreeMap<Place, Vec<(G1Affine, Fr)>> = BTreeMap::new();
    for ((place, node), _) in &nodes {
        left_weights.push(weight(rng));
        quotients.entry(*place).or_default().push((node.quotient, left_weights[left_weights.len() - 1]));
    }
    let high_weights: Vec<Fr> = high.iter().map(|_| weight(rng)).collect();
    left.extend(&high);
    left_weights.extend(&high_weights);
    let left = msm(&left, &left_weights);

    let quotients: Vec<(Place, Vec<(G1Affine, Fr)>)> = quotients.into_iter().collect();
    let right = quotients.par_iter().map(|((coset, depth, number), terms)| {
        let sum: G1Projective = terms.iter().map(|(quotient, weight)| *quotient * weight).sum();
        ((-sum).into_affine(), params.vanishing[*coset][*depth][*number])
    });
    let mut pairs: Vec<(G1Affine, G2Affine)> = right.collect();
    pairs.push((left.into_affine(), params.g2));
    pairs.push(((blob.commitment * -high_weights.iter().sum::<Fr>()).into_affine(), params.high_g2));
    pairings_cancel(&pairs)
}

/// Whether the pairings of all pairs multiply to one.
fn pairings_cancel(pairs: &[(G1Affine, G2Affine)]) -> bool {
    let (g1, g2): (Vec<G1Affine>, Vec<G2Affine>) = pairs.iter().copied().unzip();
    Bn254::multi_pairing(g1, g2).is_zero()
}

fn weight(rng: &mut (impl CryptoRng + ?Sized)) -> Fr {
    Fr::from(u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64()))
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use rand::{SeedableRng, rngs::StdRng};
    use zgpu_core::digest::H256;

    use super::*;
    use crate::{
        encode::{EncodedBlob, encode},
        params::ProverParams,
    };

    static PARAMS: LazyLock<ProverParams> = LazyLock::new(|| {
        ProverParams::insecure_from_tau(Dimensions::new(3, 3).unwrap(), Fr::from(0x1234_5678_9abcu64), 192).unwrap()
    });
    static BLOB: LazyLock<EncodedBlob> = LazyLock::new(|| {
        let data: Vec<u8> = (0..1900u32).map(|i| (i * 7 + i / 50) as u8).collect();
        encode(&PARAMS, &data).unwrap()
    });

    fn slices(blob: &EncodedBlob) -> Vec<EncodedSlice> {
        (0..blob.dimensions().slices()).map(|index| blob.slice(index)).collect()
    }

    fn verify_all(blob: &BlobId, slices: &[EncodedSlice]) -> Result<(), BadSlice> {
        verify_slices(PARAMS.verifier(), blob, slices, &mut StdRng::seed_from_u64(5))
    }

    #[test]
    fn right_slices_pass() {
        let maximum = PARAMS.dimensions().max_data_bytes();
        for data in [vec![], vec![3], vec![0; maximum], vec![9; maximum]] {
            let blob = encode(&PARAMS, &data).unwrap();
            let slices = slices(&blob);
            assert_eq!(verify_all(&blob.id(), &slices), Ok(()));
            assert!(slices.iter().all(|slice| verify_slice(PARAMS.verifier(), &blob.id(), slice).is_ok()));
        }
        assert_eq!(verify_all(&BLOB.id(), &[]), Ok(()));
        // The same slice twice, and in any order.
        let some = [17, 3, 17, 0].map(|index| BLOB.slice(index));
        assert_eq!(verify_all(&BLOB.id(), &some), Ok(()));
    }

    /// Each fault, in one slice and among many.
    #[test]
    fn wrong_slices_are_found() {
        let other = encode(&PARAMS, b"another blob").unwrap();
        let generator = G1Affine::generator();
        let plus = |point: G1Affine, other: G1Affine| (point + other).into_affine();
        let length = |what, actual, expected| SliceFault::Length { what, actual, expected };
        let refuse = |position: usize, fault: SliceFault, change: &dyn Fn(&mut EncodedSlice)| {
            let mut slices = slices(&BLOB);
            change(&mut slices[position]);
            assert_eq!(verify_slice(PARAMS.verifier(), &BLOB.id(), &slices[position]), Err(fault));
            assert_eq!(verify_all(&BLOB.id(), &slices), Err(BadSlice { position, fault }));
        };
        refuse(0, SliceFault::Index { actual: 24, slices: 24 }, &|s| s.proof.index = 24);
        refuse(1, SliceFault::Index { actual: usize::MAX, slices: 24 }, &|s| s.proof.index = usize::MAX);
        refuse(2, length("the row", 7, 8), &|s| s.row.truncate(7));
        refuse(3, length("the commitment's proof", 74, 3), &|s| s.proof.nodes.resize(74, s.proof.nodes[0]));
        refuse(4, length("the merkle path", 0, 3), &|s| s.proof.path.clear());
        refuse(5, SliceFault::Commitment, &|s| s.proof.commitment = generator);
        refuse(6, SliceFault::StorageRoot, &|s| s.proof.coset_roots.swap(0, 1));
        refuse(7, SliceFault::RowRoot, &|s| s.row[3] += Fr::from(1u64));
        refuse(8, SliceFault::Path, &|s| s.proof.path[2] = H256::ZERO);
        refuse(9, SliceFault::Path, &|s| s.proof.index = 10);
        // A sibling and its quotient from another row: each holds, but not for this sum.
        refuse(12, SliceFault::Row, &|s| s.proof.nodes[1] = BLOB.slice(14).proof.nodes[1]);
        refuse(13, SliceFault::Row, &|s| s.proof.nodes[0].commitment = generator);
        // What one sibling gains the next one loses: the sum still holds.
        refuse(14, SliceFault::Node { depth: 2 }, &|s| {
            s.proof.nodes[1].commitment = plus(s.proof.nodes[1].commitment, generator);
            s.proof.nodes[2].commitment = plus(s.proof.nodes[2].commitment, -generator);
        });
        refuse(23, SliceFault::Node { depth: 3 }, &|s| s.proof.nodes[2].quotient = G1Affine::identity());
        refuse(22, SliceFault::HighCommitment, &|s| s.proof.high_commitment = other.commitments().high());
        refuse(21, SliceFault::HighCommitment, &|s| s.proof.high_commitment = G1Affine::identity());
    }

    #[test]
    fn errors_of_two_slices_do_not_cancel() {
        let mut slices = slices(&BLOB);
        let generator = G1Affine::generator();
        for (position, error) in [(4, generator), (5, -generator)] {
            let quotient = &mut slices[position].proof.nodes[0].quotient;
            *quotient = (*quotient + error).into_affine();
        }
        assert_eq!(
            verify_all(&BLOB.id(), &slices),
            Err(BadSlice { position: 4, fault: SliceFault::Node { depth: 1 } })
        );
    }

    #[test]
    fn the_first_of_several_bad_slices_is_named() {
        let mut slices = slices(&BLOB);
        slices[20].row.clear();
        slices[11].proof.high_commitment = G1Affine::identity();
        slices[16].proof.nodes[0].commitment = G1Affine::identity();
        assert_eq!(verify_all(&BLOB.id(), &slices), Err(BadSlice { position: 11, fault: SliceFault::HighCommitment }));
        slices[3].proof.row_root = H256::ZERO;
        assert_eq!(verify_all(&BLOB.id(), &slices), Err(BadSlice { position: 3, fault: SliceFault::RowRoot }));
    }
}
