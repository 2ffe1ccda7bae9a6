//! The seam between the encoder and its devices: stage-sized calls on a blob that stays in device memory.

use zgpu_core::{
    blob::{BYTES_PER_LENGTH, BlobRoots, Dimensions},
    device::{DeviceError, DeviceInfo},
};

/// Encodes blobs. A device is opened with the points of one set of parameters, and holds them, in whatever form it likes.
///
/// The stages of a blob are called in the order `extend`, `commit`, `hash`, `slices`; each may return while the device
/// still works, and the next waits for it.
pub trait Encoder: Send + Sized {
    /// One blob on its way, in device memory: scalars, points, digests and slices. Made once, used for blob after blob.
    type Blob: Send;

    /// What the device is.
    fn info(&self) -> &DeviceInfo;

    /// Size of the matrix.
    fn dimensions(&self) -> Dimensions;

    /// Another queue of work on the same device, with the same points, for another thread.
    fn lane(&self) -> Result<Self, DeviceError>;

    /// Lanes that keep the device busy: 2 where copies of one blob overlap with the work on another.
    fn preferred_lanes(&self) -> usize;

    /// Memory for one blob.
    fn alloc_blob(&mut self) -> Result<Self::Blob, DeviceError>;

    /// Packs and erasure-codes: the N coefficients, and R rows of C scalars for each coset. The matrix's 31·N bytes are
    /// `data`, zeros, and `length` at the very end.
    ///
    /// Twin: [`crate::extend::extend`].
    fn extend(&mut self, data: &[u8], length: [u8; BYTES_PER_LENGTH], blob: &mut Self::Blob)
    -> Result<(), DeviceError>;

    /// Commits: erasure and high commitment, and commitment and quotient of every node of the three trees.
    ///
    /// Twin: [`crate::commit::commit`].
    fn commit(&mut self, blob: &mut Self::Blob) -> Result<(), DeviceError>;

    /// Hashes the rows: row roots, the trees above them, the storage root.
    ///
    /// Twin: [`crate::merkle::BlobTree::new`].
    fn hash(&mut self, blob: &mut Self::Blob) -> Result<(), DeviceError>;

    /// Serialises all slices into `slices`, one behind the other, and returns the roots.
    ///
    /// Twin: [`crate::slice::EncodedSlice::to_bytes`].
    fn slices(&mut self, blob: &mut Self::Blob, slices: &mut [u8]) -> Result<BlobRoots, DeviceError>;

    /// Returns when all work that was begun is done.
    fn wait(&mut self) -> Result<(), DeviceError>;

    /// The N coefficients after `extend`, the constant one first: 32 bytes each, little-endian, below the group order.
    fn read_coefficients(&mut self, blob: &Self::Blob) -> Result<Vec<u8>, DeviceError>;

    /// The scalars of a coset (below 3) after `extend`, R rows of C: 32 bytes each, little-endian, below the group order.
    fn read_coset(&mut self, blob: &Self::Blob, coset: usize) -> Result<Vec<u8>, DeviceError>;
}
