//! Slices: an encoded row with its proofs, as the bytes that go to a signer and as those it stores.
//!
//! Source: the wire formats of the network's DA services. Integers and lengths are u64, little-endian; points as in
//! [`crate::points`]; scalars 32 bytes, little-endian. With R rows and C columns a slice has
//!
//! | bytes | part |
//! |---|---|
//! | 8, 8 | slice index, the same again |
//! | 64 | erasure commitment |
//! | 8 | row: slice index mod R |
//! | 8, 32·C | C, the row's scalars |
//! | 8, 128·lg R | lg R, the proof: commitment and quotient of each sibling, from depth 1 down |
//! | 64 | high commitment |
//! | 96 | coset roots |
//! | 8, 32·lg R | lg R, the merkle path, bottom up |
//! | 8 | slice index |
//! | 32 | row root |
//!
//! 34,680 bytes at full size. A stored slice has its row apart, no second and third index, and compressed points.
//!
//! Reading is strict: the length follows from the dimensions, every number is canonical, every point on the curve.

use ark_bn254::{Fr, G1Affine};
use zgpu_core::digest::H256;

use crate::{
    blob::{COSETS, Dimensions},
    commit::Node,
    extend::{scalar_bytes, scalar_from_bytes},
    points::{PointError, compressed_point_bytes, point_bytes, point_from_bytes, point_from_compressed_bytes},
};

/// A row of an encoded blob with its proofs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedSlice {
    /// The row's C scalars.
    pub row: Vec<Fr>,
    /// All else.
    pub proof: SliceProof,
}

/// A slice without its row: what a signer stores apart from it, and the network's `LightEncodedSlice`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceProof {
    /// Number of the encoded row: row `index` mod R of coset `index` / R.
    pub index: usize,
    /// The erasure commitment.
    pub commitment: G1Affine,
    /// The siblings on the way to the row, from depth 1 down: lg R.
    pub nodes: Vec<Node>,
    /// The high commitment.
    pub high_commitment: G1Affine,
    /// Roots of the three cosets' trees.
    pub coset_roots: [H256; COSETS],
    /// The siblings of the row root and of the nodes above it, bottom up: lg R.
    pub path: Vec<H256>,
    /// Root of the row's sectors.
    pub row_root: H256,
}

/// Why bytes are no slice.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum SliceError {
    /// The length is not that of a slice.
    #[error("the slice has {actual} bytes, expected {expected}")]
    Length {
        /// Bytes given.
        actual: usize,
        /// Bytes of a slice.
        expected: usize,
    },
    /// The index is none of the encoded rows'.
    #[error("the slice has index {actual}, expected one below {slices}")]
    Index {
        /// The index.
        actual: u64,
        /// Slices of a blob.
        slices: usize,
    },
    /// A number that follows from the dimensions and the index differs.
    #[error("{what} is {actual}, expected {expected}")]
    Number {
        /// Which number.
        what: &'static str,
        /// What it is.
        actual: u64,
        /// What it should be.
        expected: u64,
    },
    /// A scalar is not below the group order.
    #[error("scalar {column} of the row is not below the group order")]
    Scalar {
        /// Its place in the row.
        column: usize,
    },
    /// A point is none.
    #[error("{what}: {error}")]
    Point {
        /// Which point.
        what: &'static str,
        /// Why.
        error: PointError,
    },
}

impl EncodedSlice {
    /// The bytes that go to a signer, for a matrix of `dimensions`.
    pub fn to_bytes(&self, dimensions: Dimensions) -> Vec<u8> {
        let EncodedSlice { row, proof } = self;
        let mut out = Writer(Vec::with_capacity(dimensions.slice_bytes()));
        out.number(proof.index);
        out.number(proof.index);
        out.bytes(&point_bytes(&proof.commitment));
        out.number(proof.index % dimensions.rows());
        out.number(row.len());
        row.iter().for_each(|scalar| out.bytes(&scalar_bytes(scalar)));
        out.number(proof.nodes.len());
        proof.points().for_each(|point| out.bytes(&point_bytes(point)));
        out.bytes(&point_bytes(&proof.high_commitment));
        proof.coset_roots.iter().for_each(|root| out.bytes(&root.0));
        out.number(proof.path.len());
        proof.path.iter().for_each(|node| out.bytes(&node.0));
        out.number(proof.index);
        out.bytes(&proof.row_root.0);
        out.0
    }

    /// Reads what [`EncodedSlice::to_bytes`] wrote for a slice of a matrix of `dimensions`; refuses everything else.
    /// It says nothing about the proofs: see [`crate::verify`].
    pub fn from_bytes(dimensions: Dimensions, bytes: &[u8]) -> Result<Self, SliceError> {
        let depth = dimensions.lg_rows() as usize;
        let mut input = Reader::new(bytes, dimensions.slice_bytes())?;
        let index = input.index(dimensions)?;
        input.expect("the index of the commitment's proof", index)?;
        let commitment = input.point("the erasure commitment")?;
        input.expect("the row", index % dimensions.rows())?;
        input.expect("the length of the row", dimensions.columns())?;
        let scalar = |column| scalar_from_bytes(&input.take()).ok_or(SliceError::Scalar { column });
        let row = (0..dimensions.columns()).map(scalar).collect::<Result<_, _>>()?;
        input.expect("the length of the commitment's proof", depth)?;
        let nodes = (0..depth).map(|_| input.node(Reader::point)).collect::<Result<_, _>>()?;
        let high_commitment = input.point("the high commitment")?;
        let coset_roots = std::array::from_fn(|_| H256(input.take()));
        input.expect("the length of the merkle path", depth)?;
        let path = (0..depth).map(|_| H256(input.take())).collect();
        input.expect("the index of the merkle path", index)?;
        let row_root = H256(input.take());
        let proof = SliceProof { index, commitment, nodes, high_commitment, coset_roots, path, row_root };
        Ok(EncodedSlice { row, proof })
    }
}

impl SliceProof {
    /// The bytes that a signer stores.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer(Vec::new());
        out.number(self.index);
        out.bytes(&compressed_point_bytes(&self.commitment));
        out.number(self.nodes.len());
        self.points().for_each(|point| out.bytes(&compressed_point_bytes(point)));
        out.bytes(&compressed_point_bytes(&self.high_commitment));
        self.coset_roots.iter().for_each(|root| out.bytes(&root.0));
        out.number(self.path.len());
        self.path.iter().for_each(|node| out.bytes(&node.0));
        out.bytes(&self.row_root.0);
        out.0
    }

    /// Reads what [`SliceProof::to_bytes`] wrote for a slice of a matrix of `dimensions`; refuses everything else.
    pub fn from_bytes(dimensions: Dimensions, bytes: &[u8]) -> Result<Self, SliceError> {
        let depth = dimensions.lg_rows() as usize;
        let mut input = Reader::new(bytes, dimensions.slice_proof_bytes())?;
        let index = input.index(dimensions)?;
        let commitment = input.compressed_point("the erasure commitment")?;
        input.expect("the length of the commitment's proof", depth)?;
        let nodes = (0..depth).map(|_| input.node(Reader::compressed_point)).collect::<Result<_, _>>()?;
        let high_commitment = input.compressed_point("the high commitment")?;
        let coset_roots = std::array::from_fn(|_| H256(input.take()));
        input.expect("the length of the merkle path", depth)?;
        let path = (0..depth).map(|_| H256(input.take())).collect();
        let row_root = H256(input.take());
        Ok(SliceProof { index, commitment, nodes, high_commitment, coset_roots, path, row_root })
    }

    fn points(&self) -> impl Iterator<Item = &G1Affine> {
        self.nodes.iter().flat_map(|node| [&node.commitment, &node.quotient])
    }
}

struct Writer(Vec<u8>);

impl Writer {
    fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn number(&mut self, number: usize) {
        self.bytes(&(number as u64).to_le_bytes());
    }
}

/// Bytes of a known length, read from the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8], expected: usize) -> Result<Self, SliceError> {
        let actual = bytes.len();
        if actual == expected { Ok(Reader(bytes)) } else { Err(SliceError::Length { actual, expected }) }
    }

    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (bytes, rest) = self.0.split_first_chunk().expect("the parts have the length that was checked");
        self.0 = rest;
        *bytes
    }

    fn number(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    fn index(&mut self, dimensions: Dimensions) -> Result<usize, SliceError> {
        let (actual, slices) = (self.number(), dimensions.slices());
        let index = usize::try_from(actual).ok().filter(|index| *index < slices);
        index.ok_or(SliceError::Index { actual, slices })
    }

    fn expect(&mut self, what: &'static str, expected: usize) -> Result<(), SliceError> {
        let (actual, expected) = (self.number(), expected as u64);
        if actual == expected { Ok(()) } else { Err(SliceError::Number { what, actual, expected }) }
    }

    fn point(&mut self, what: &'static str) -> Result<G1Affine, SliceError> {
        point_from_bytes(&self.take()).map_err(|error| SliceError::Point { what, error })
    }

    fn compressed_point(&mut self, what: &'static str) -> Result<G1Affine, SliceError> {
        point_from_compressed_bytes(&self.take()).map_err(|error| SliceError::Point { what, error })
    }

    fn node(
        &mut self,
        point: impl Fn(&mut Self, &'static str) -> Result<G1Affine, SliceError>,
    ) -> Result<Node, SliceError> {
        let commitment = point(self, "a node's commitment")?;
        Ok(Node { commitment, quotient: point(self, "a node's quotient")? })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use ark_ff::PrimeField;
    use proptest::prelude::*;

    use super::*;
    use crate::{encode::encode, extend::limb_bytes, params::ProverParams};

    fn dimensions() -> Dimensions {
        Dimensions::new(2, 3).unwrap()
    }

    fn slice() -> EncodedSlice {
        static SLICE: LazyLock<EncodedSlice> = LazyLock::new(|| {
            let params = ProverParams::insecure_from_tau(dimensions(), Fr::from(77u64), 96).unwrap();
            encode(&params, &[7; 500]).unwrap().slice(6)
        });
        SLICE.clone()
    }

    #[test]
    fn lengths_of_the_network() {
        let (full, quick) = (Dimensions::new(10, 10).unwrap(), Dimensions::new(6, 5).unwrap());
        assert_eq!((full.slice_bytes(), quick.slice_bytes(), full.slice_proof_bytes()), (34_680, 2_296, 1_176));
    }

    #[test]
    fn what_is_written_is_read() {
        let slice = slice();
        let bytes = slice.to_bytes(dimensions());
        assert_eq!(bytes.len(), dimensions().slice_bytes());
        assert_eq!(EncodedSlice::from_bytes(dimensions(), &bytes).as_ref(), Ok(&slice));
        let bytes = slice.proof.to_bytes();
        assert_eq!(bytes.len(), dimensions().slice_proof_bytes());
        assert_eq!(SliceProof::from_bytes(dimensions(), &bytes), Ok(slice.proof));
    }

    #[test]
    fn every_other_length_is_refused() {
        let whole = slice().to_bytes(dimensions());
        let light = slice().proof.to_bytes();
        let longer = [&whole[..], &[0]].concat();
        assert!(matches!(EncodedSlice::from_bytes(dimensions(), &longer), Err(SliceError::Length { .. })));
        for length in 0..whole.len() {
            let refused = EncodedSlice::from_bytes(dimensions(), &whole[..length]);
            assert_eq!(refused, Err(SliceError::Length { actual: length, expected: whole.len() }));
        }
        for length in 0..light.len() {
            assert!(SliceProof::from_bytes(dimensions(), &light[..length]).is_err());
        }
    }

    #[test]
    fn every_number_is_checked() {
        // 2^2 rows of 2^3: offsets from the table above.
        let whole = slice().to_bytes(dimensions());
        for (at, what) in [
            (8, "the index of the commitment's proof"),
            (80, "the row"),
            (88, "the length of the row"),
            (96 + 256, "the length of the commitment's proof"),
            (96 + 256 + 8 + 256 + 64 + 96, "the length of the merkle path"),
            (96 + 256 + 8 + 256 + 64 + 96 + 8 + 64, "the index of the merkle path"),
        ] {
            for byte in 0..8 {
                let mut bytes = whole.clone();
                bytes[at + byte] ^= 0x80;
                let refused = EncodedSlice::from_bytes(dimensions(), &bytes).unwrap_err();
                assert!(matches!(refused, SliceError::Number { what: found, .. } if found == what), "{refused}");
            }
        }
        let changed = |at: usize, with: &[u8]| {
            let mut bytes = whole.clone();
            bytes[at..at + with.len()].copy_from_slice(with);
            EncodedSlice::from_bytes(dimensions(), &bytes).unwrap_err()
        };
        assert_eq!(changed(0, &12u64.to_le_bytes()), SliceError::Index { actual: 12, slices: 12 });
        assert_eq!(changed(0, &[0xff; 8]), SliceError::Index { actual: u64::MAX, slices: 12 });
        assert_eq!(changed(96 + 32, &limb_bytes(Fr::MODULUS)), SliceError::Scalar { column: 1 });
        assert!(matches!(changed(16, &[0xff; 64]), SliceError::Point { what: "the erasure commitment", .. }));
        assert!(matches!(changed(96 + 256 + 8 + 64, &[1; 64]), SliceError::Point { what: "a node's quotient", .. }));
    }

    proptest! {
        #[test]
        fn no_bytes_are_read_as_another_slice(
            bytes in prop::collection::vec(any::<u8>(), dimensions().slice_bytes()),
            flips in prop::collection::vec((0..dimensions().slice_bytes(), any::<u8>()), 1..4),
        ) {
            prop_assert!(EncodedSlice::from_bytes(dimensions(), &bytes).is_err());
            let mut bytes = slice().to_bytes(dimensions());
            flips.iter().for_each(|(at, flip)| bytes[*at] ^= flip);
            if let Ok(read) = EncodedSlice::from_bytes(dimensions(), &bytes) {
                prop_assert_eq!(read.to_bytes(dimensions()), bytes);
            }
            let mut bytes = slice().proof.to_bytes();
            flips.iter().for_each(|(at, flip)| bytes[*at % dimensions().slice_proof_bytes()] ^= flip);
            if let Ok(read) = SliceProof::from_bytes(dimensions(), &bytes) {
                prop_assert_eq!(read.to_bytes(), bytes);
            }
        }
    }
}
