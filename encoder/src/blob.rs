//! Bytes to blob and back: data, zeros, its length, cut into 31-byte scalars.
//!
//! Source: the data layout of the network's DA encoder. Every scalar is below 2^248, so none needs a reduction.

pub use zgpu_core::blob::{
    BYTES_PER_LENGTH, BYTES_PER_RAW_SCALAR, BYTES_PER_SCALAR, COSETS, Dimensions, DimensionsError,
};

/// Why bytes cannot become a blob, or a blob is none.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum BlobError {
    /// There is no matrix of this size.
    #[error(transparent)]
    Dimensions(#[from] DimensionsError),
    /// More data than a blob takes.
    #[error("the data has {actual} bytes, a blob takes {maximum}")]
    TooLarge {
        /// Bytes given.
        actual: usize,
        /// Bytes that fit.
        maximum: usize,
    },
    /// The scalars have the wrong number of bytes.
    #[error("the blob has {actual} bytes, expected {expected}")]
    Length {
        /// Bytes given.
        actual: usize,
        /// Bytes of the matrix.
        expected: usize,
    },
    /// A scalar has data in its last byte.
    #[error("incorrect scalar: scalar {index} is not below 2^248")]
    Scalar {
        /// Position in the matrix, row by row.
        index: usize,
    },
    /// The length at the end is more than a blob takes.
    #[error("incorrect length field: {actual}, a blob takes {maximum}")]
    LengthField {
        /// What the field says.
        actual: usize,
        /// Bytes that fit.
        maximum: usize,
    },
    /// A byte behind the data is not zero.
    #[error("non zero in padding range: byte {position} behind {length} bytes of data")]
    Padding {
        /// Position of the byte.
        position: usize,
        /// Length of the data.
        length: usize,
    },
}

/// Packs `data` into the matrix, row by row: each scalar as 32 bytes, little-endian, the last byte zero.
pub fn pack(dimensions: Dimensions, data: &[u8]) -> Result<Vec<u8>, BlobError> {
    let maximum = dimensions.max_data_bytes();
    if data.len() > maximum {
        return Err(BlobError::TooLarge { actual: data.len(), maximum });
    }
    let length = u32::try_from(data.len()).expect("2^26 scalars hold less than 2^32 bytes").to_le_bytes();
    let mut scalars = vec![0u8; dimensions.scalars() * BYTES_PER_SCALAR];
    for (scalar, bytes) in scalars.chunks_exact_mut(BYTES_PER_SCALAR).zip(data.chunks(BYTES_PER_RAW_SCALAR)) {
        scalar[..bytes.len()].copy_from_slice(bytes);
    }
    // The length is the end of the last 31 bytes; the matrix ends with that scalar's zero byte.
    let end = scalars.len() - (BYTES_PER_SCALAR - BYTES_PER_RAW_SCALAR);
    scalars[end - BYTES_PER_LENGTH..end].copy_from_slice(&length);
    Ok(scalars)
}

/// Unpacks what [`pack`] made; refuses everything else.
pub fn unpack(dimensions: Dimensions, scalars: &[u8]) -> Result<Vec<u8>, BlobError> {
    let expected = dimensions.scalars() * BYTES_PER_SCALAR;
    if scalars.len() != expected {
        return Err(BlobError::Length { actual: scalars.len(), expected });
    }
    let mut bytes = Vec::with_capacity(dimensions.scalars() * BYTES_PER_RAW_SCALAR);
    for (index, scalar) in scalars.chunks_exact(BYTES_PER_SCALAR).enumerate() {
        if scalar[BYTES_PER_RAW_SCALAR] != 0 {
            return Err(BlobError::Scalar { index });
        }
        bytes.extend_from_slice(&scalar[..BYTES_PER_RAW_SCALAR]);
    }
    let (padded, length) = bytes.split_at(dimensions.max_data_bytes());
    let length = u32::from_le_bytes(length.try_into().expect("the length has 4 bytes")) as usize;
    let maximum = padded.len();
    if length > maximum {
        return Err(BlobError::LengthField { actual: length, maximum });
    }
    if let Some(behind) = padded[length..].iter().position(|byte| *byte != 0) {
        return Err(BlobError::Padding { position: length + behind, length });
    }
    bytes.truncate(length);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(length: usize) -> Vec<u8> {
        (0..length).map(|i| (131 * i + 17 * (i / 256) + 7) as u8).collect()
    }

    /// First scalar of the network's test blob of 1,234 bytes.
    #[test]
    fn first_scalar_of_the_test_blob() {
        let scalars = pack(Dimensions::new(6, 5).unwrap(), &data(1234)).unwrap();
        let text: String = scalars[..31].iter().rev().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(text, "61de5bd855d24fcc49c643c03dba37b431ae2ba825a21f9c199613900d8a07");
    }

    #[test]
    fn what_is_packed_comes_back() {
        let dimensions = Dimensions::new(6, 5).unwrap();
        assert_eq!(dimensions.max_data_bytes(), 63_484);
        assert_eq!(Dimensions::new(10, 10).unwrap().max_data_bytes(), 32_505_852);
        for length in [0, 1, 30, 31, 32, 1234, 63_480, 63_484] {
            let scalars = pack(dimensions, &data(length)).unwrap();
            assert_eq!(unpack(dimensions, &scalars), Ok(data(length)), "{length}");
        }
    }

    #[test]
    fn everything_else_is_refused() {
        let dimensions = Dimensions::new(6, 5).unwrap();
        let full = pack(dimensions, &data(100)).unwrap();
        let last = full.len() - 1;
        let refuse = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut scalars = full.clone();
            change(&mut scalars);
            unpack(dimensions, &scalars).unwrap_err()
        };
        assert_eq!(refuse(&|s| s[31 + 32] = 1), BlobError::Scalar { index: 1 });
        assert!(matches!(refuse(&|s| s[last - 1] = 9), BlobError::LengthField { .. }));
        assert_eq!(refuse(&|s| s[32 * 4] = 9), BlobError::Padding { position: 124, length: 100 });
        assert!(matches!(refuse(&|s| s.truncate(last)), BlobError::Length { .. }));
        assert_eq!(pack(dimensions, &data(63_485)), Err(BlobError::TooLarge { actual: 63_485, maximum: 63_484 }));
        for (lg_rows, lg_columns) in [(u32::MAX, 2), (20, 7), (0, 5), (6, 2)] {
            assert_eq!(Dimensions::new(lg_rows, lg_columns), Err(DimensionsError { lg_rows, lg_columns }));
        }
    }
}
