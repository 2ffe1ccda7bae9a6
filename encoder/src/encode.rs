//! From bytes to a blob's commitment, roots and slices, plainly: the twin of every device behind [`crate::seam`].

use ark_bn254::G1Affine;
use rayon::prelude::*;
use zgpu_core::{blob::BlobRoots, digest::H256};

use crate::{
    blob::{BlobError, Dimensions},
    commit::{Commitments, commit},
    extend::{Extended, extend},
    merkle::BlobTree,
    params::ProverParams,
    points::plain_point_bytes,
    slice::{EncodedSlice, SliceProof},
};

/// What names a blob on chain, and what its slices are verified against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlobId {
    /// The erasure commitment.
    pub commitment: G1Affine,
    /// The storage root.
    pub storage_root: H256,
}

/// A blob with its commitments and trees: everything its slices are made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedBlob {
    extended: Extended,
    commitments: Commitments,
    tree: BlobTree,
}

/// Encodes `data` on the CPU: extend, commit, hash.
pub fn encode(params: &ProverParams, data: &[u8]) -> Result<EncodedBlob, BlobError> {
    let extended = extend(params.dimensions(), data)?;
    let commitments = commit(params, &extended);
    let tree = BlobTree::new(&extended);
    Ok(EncodedBlob { extended, commitments, tree })
}

impl EncodedBlob {
    /// Size of the matrix.
    pub fn dimensions(&self) -> Dimensions {
        self.extended.dimensions()
    }

    /// Commitment and storage root.
    pub fn id(&self) -> BlobId {
        BlobId { commitment: self.commitments.erasure(), storage_root: self.tree.storage_root() }
    }

    /// The encoded rows.
    pub fn extended(&self) -> &Extended {
        &self.extended
    }

    /// The commitments.
    pub fn commitments(&self) -> &Commitments {
        &self.commitments
    }

    /// The trees of hashes.
    pub fn tree(&self) -> &BlobTree {
        &self.tree
    }

    /// Commitment and roots.
    pub fn roots(&self) -> BlobRoots {
        BlobRoots {
            commitment: plain_point_bytes(&self.commitments.erasure()),
            coset_roots: self.tree.roots().map(|root| root.0),
            storage_root: self.tree.storage_root().0,
        }
    }

    /// All slices, one behind the other.
    pub fn all_slices(&self) -> Vec<u8> {
        let dimensions = self.dimensions();
        let indices: Vec<usize> = (0..dimensions.slices()).collect();
        let slices: Vec<Vec<u8>> = indices.par_iter().map(|index| self.slice(*index).to_bytes(dimensions)).collect();
        slices.concat()
    }

    /// Slice `index`.
    ///
    /// # Panics
    /// When `index` is not below 3R.
    pub fn slice(&self, index: usize) -> EncodedSlice {
        let proof = SliceProof {
            index,
            commitment: self.commitments.erasure(),
            nodes: self.commitments.proof(index),
            high_commitment: self.commitments.high(),
            coset_roots: self.tree.roots(),
            path: self.tree.path(index),
            row_root: self.tree.row_root(index),
        };
        EncodedSlice { row: self.extended.row(index).to_vec(), proof }
    }
}
