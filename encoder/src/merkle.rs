//! The Keccak trees over an encoded blob, and its storage root.
//!
//! Source: the network's DA encoder. A row's leaves are the hashes of its 256-byte sectors (8 scalars, little-endian);
//! a coset's tree has its row roots as leaves; the storage root is parent(parent(r0, r1), r2) of the coset roots, which
//! is the root of the encoded rows as a file of the storage network.

use ark_bn254::Fr;
use rayon::prelude::*;
use zgpu_core::{
    digest::{H256, parent},
    tree::{sector_hashes, unbalanced_levels, unbalanced_root},
};

use crate::{
    blob::{COSETS, Dimensions},
    extend::{Extended, scalar_bytes},
};

/// The trees of an encoded blob, from the row roots up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobTree {
    dimensions: Dimensions,
    /// Per coset: the R row roots, then each level above, the coset root last.
    cosets: [Vec<Vec<H256>>; COSETS],
}

impl BlobTree {
    /// Hashes all rows of an extended blob.
    pub fn new(extended: &Extended) -> Self {
        let dimensions = extended.dimensions();
        let cosets = std::array::from_fn(|coset| {
            let rows = extended.coset(coset).par_chunks(dimensions.columns());
            unbalanced_levels(rows.map(row_root).collect())
        });
        BlobTree { dimensions, cosets }
    }

    /// Roots of the three cosets.
    pub fn roots(&self) -> [H256; COSETS] {
        std::array::from_fn(|coset| self.cosets[coset][self.dimensions.lg_rows() as usize][0])
    }

    /// The storage root.
    pub fn storage_root(&self) -> H256 {
        storage_root(&self.roots())
    }

    /// Root of encoded row `index`.
    ///
    /// # Panics
    /// When `index` is not below 3R.
    pub fn row_root(&self, index: usize) -> H256 {
        let rows = self.dimensions.rows();
        self.cosets[index / rows][0][index % rows]
    }

    /// The siblings from the root of encoded row `index` up to below its coset root: lg R digests.
    ///
    /// # Panics
    /// When `index` is not below 3R.
    pub fn path(&self, index: usize) -> Vec<H256> {
        let rows = self.dimensions.rows();
        let below_root = self.cosets[index / rows].iter().take(self.dimensions.lg_rows() as usize);
        below_root.enumerate().map(|(height, level)| level[((index % rows) >> height) ^ 1]).collect()
    }
}

/// Root of a row of a whole number of sectors: at least 8 scalars.
pub fn row_root(row: &[Fr]) -> H256 {
    let bytes: Vec<u8> = row.iter().flat_map(scalar_bytes).collect();
    unbalanced_root(&sector_hashes(&bytes)).expect("a row has scalars")
}

/// The storage root over the three coset roots.
pub fn storage_root(roots: &[H256; COSETS]) -> H256 {
    parent(&parent(&roots[0], &roots[1]), &roots[2])
}

/// The root above `leaf`, number `index` among its tree's leaves, by the siblings on its way, the lowest first.
pub(crate) fn climb(leaf: &H256, index: usize, path: &[H256]) -> H256 {
    path.iter().enumerate().fold(*leaf, |node, (height, sibling)| match index >> height & 1 {
        0 => parent(&node, sibling),
        _ => parent(sibling, &node),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::extend::extend;

    #[test]
    fn the_storage_root_is_the_root_of_the_rows_as_a_file() {
        let dimensions = Dimensions::new(3, 4).unwrap();
        let extended = extend(dimensions, b"any data").unwrap();
        let tree = BlobTree::new(&extended);
        let rows = (0..dimensions.slices()).flat_map(|index| extended.row(index));
        let file: Vec<u8> = rows.flat_map(scalar_bytes).collect();
        assert_eq!(Some(tree.storage_root()), unbalanced_root(&sector_hashes(&file)));
        for index in 0..dimensions.slices() {
            assert_eq!(tree.row_root(index), row_root(extended.row(index)));
            let (coset, row) = (index / dimensions.rows(), index % dimensions.rows());
            assert_eq!(climb(&tree.row_root(index), row, &tree.path(index)), tree.roots()[coset], "row {index}");
        }
    }
}
