//! The shapes of DA work that pass between the encoder and a device. Plain data, no protocol.

/// Bytes of data in one scalar.
pub const BYTES_PER_RAW_SCALAR: usize = 31;
/// Bytes of a scalar in a row: 32, little-endian.
pub const BYTES_PER_SCALAR: usize = 32;
/// Bytes of the length at the end of a blob: a little-endian u32.
pub const BYTES_PER_LENGTH: usize = 4;
/// Bytes of a point: x, y.
pub const BYTES_PER_POINT: usize = 64;
/// Bytes of a compressed point.
pub const BYTES_PER_COMPRESSED_POINT: usize = 32;
/// Bytes of an integer in a slice: a little-endian u64.
pub const BYTES_PER_INTEGER: usize = 8;
/// Bytes of a digest.
pub const BYTES_PER_DIGEST: usize = 32;

/// Encoded rows for each row of the matrix: the code has three cosets, the first of which is the matrix itself.
pub const COSETS: usize = 3;
/// Most scalars of a matrix, as log2: the field has roots of unity for four times as many.
const MAX_LG_SCALARS: u32 = 26;
/// Fewest columns, as log2: a row is a whole number of 256-byte sectors.
const MIN_LG_COLUMNS: u32 = 3;

/// Size of a blob's matrix, a run-time value: 2^10 x 2^10 in production, 2^6 x 2^5 in quick tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dimensions {
    lg_rows: u32,
    lg_columns: u32,
}

/// A size that no matrix has: larger than the field's roots of unity allow, or too small for a tree over it.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "2^{lg_rows} rows by 2^{lg_columns} columns: expected at least 2 rows of 2^{MIN_LG_COLUMNS} columns, \
     at most 2^{MAX_LG_SCALARS} scalars"
)]
pub struct DimensionsError {
    /// log2 of the rows.
    pub lg_rows: u32,
    /// log2 of the columns.
    pub lg_columns: u32,
}

impl Dimensions {
    /// A matrix of 2^`lg_rows` by 2^`lg_columns` scalars: at least 2 rows of 8 columns, at most 2^26 scalars.
    pub fn new(lg_rows: u32, lg_columns: u32) -> Result<Self, DimensionsError> {
        match lg_rows.checked_add(lg_columns) {
            Some(lg_scalars) if lg_rows >= 1 && lg_columns >= MIN_LG_COLUMNS && lg_scalars <= MAX_LG_SCALARS => {
                Ok(Dimensions { lg_rows, lg_columns })
            }
            _ => Err(DimensionsError { lg_rows, lg_columns }),
        }
    }

    /// log2 of the rows: the depth of a row's proof.
    pub fn lg_rows(&self) -> u32 {
        self.lg_rows
    }

    /// log2 of a row's scalars.
    pub fn lg_columns(&self) -> u32 {
        self.lg_columns
    }

    /// log2 of the scalars.
    pub fn lg_scalars(&self) -> u32 {
        self.lg_rows + self.lg_columns
    }

    /// Rows of the matrix.
    pub fn rows(&self) -> usize {
        1 << self.lg_rows
    }

    /// Scalars of a row.
    pub fn columns(&self) -> usize {
        1 << self.lg_columns
    }

    /// Scalars in the matrix.
    pub fn scalars(&self) -> usize {
        1 << self.lg_scalars()
    }

    /// Encoded rows, and so slices: the rows of all cosets.
    pub fn slices(&self) -> usize {
        COSETS * self.rows()
    }

    /// Bytes of data that fit: 31 a scalar, less the length.
    pub fn max_data_bytes(&self) -> usize {
        self.scalars() * BYTES_PER_RAW_SCALAR - BYTES_PER_LENGTH
    }

    /// Bytes of an encoded row: 32 KiB at full size.
    pub fn row_bytes(&self) -> usize {
        self.columns() * BYTES_PER_SCALAR
    }

    /// Where the row begins in a slice: behind both indices, the commitment, the row's number and length.
    pub fn row_offset(&self) -> usize {
        4 * BYTES_PER_INTEGER + BYTES_PER_POINT
    }

    /// Bytes of a slice: 34,680 at full size.
    pub fn slice_bytes(&self) -> usize {
        let depth = self.lg_rows() as usize;
        7 * BYTES_PER_INTEGER
            + self.row_bytes()
            + (2 + 2 * depth) * BYTES_PER_POINT
            + (COSETS + depth + 1) * BYTES_PER_DIGEST
    }

    /// Bytes of all slices, one behind the other: 106,536,960 at full size.
    pub fn all_slices_bytes(&self) -> usize {
        self.slices() * self.slice_bytes()
    }

    /// Bytes of a slice without its row, with compressed points: 1,176 at full size.
    pub fn slice_proof_bytes(&self) -> usize {
        let depth = self.lg_rows() as usize;
        3 * BYTES_PER_INTEGER + (2 + 2 * depth) * BYTES_PER_COMPRESSED_POINT + (COSETS + depth + 1) * BYTES_PER_DIGEST
    }
}

/// The prover's points as devices take them, 64 bytes each: x ‖ y, each coordinate v as v·2^256 mod p (Montgomery form),
/// four 64-bit limbs, the lowest first, little-endian. None is the point at infinity.
#[derive(Clone, Copy, Debug)]
pub struct ProverBases<'a> {
    /// Size of the matrix, of N scalars.
    pub dimensions: Dimensions,
    /// [τ^j]₁ for j < N.
    pub powers: &'a [u8],
    /// [τ^(high_start+j)]₁ for j < N.
    pub high_powers: &'a [u8],
    /// Per coset, the Lagrange points: R rows of C points, in the order of the coset's scalars.
    pub lagrange: [&'a [u8]; COSETS],
}

/// What names an encoded blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlobRoots {
    /// The erasure commitment: x ‖ y, 32 bytes each, little-endian, no flags; zeros for the point at infinity.
    pub commitment: [u8; BYTES_PER_POINT],
    /// Roots of the cosets' trees.
    pub coset_roots: [[u8; BYTES_PER_DIGEST]; COSETS],
    /// The storage root, above them.
    pub storage_root: [u8; BYTES_PER_DIGEST],
}
