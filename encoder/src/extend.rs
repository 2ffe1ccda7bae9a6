//! Erasure coding: the matrix as a polynomial, and its values on three cosets.
//!
//! Source: the network's DA encoder. With R rows, C columns and N = R·C, scalar (ρ, κ) of the matrix is P(ω^i) at
//! i = κ·R + ρ, where ω is the N-th root of unity and P has degree below N. Row ρ of coset k is the values of P at
//! c_k·ω^(κR+ρ): c_0 = 1, so that the matrix itself is coset 0; c_1 is the 2N-th and c_2 the 4N-th root of unity.
//! All points of one row have the same C-th power.

use ark_bn254::Fr;
use ark_ff::{BigInt, FftField, One, PrimeField};
use ark_poly::{EvaluationDomain, Radix2EvaluationDomain};
use rayon::prelude::*;

use crate::blob::{BYTES_PER_SCALAR, BlobError, COSETS, Dimensions, pack};

/// A blob, erasure coded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extended {
    pub(crate) dimensions: Dimensions,
    pub(crate) coefficients: Vec<Fr>,
    pub(crate) cosets: [Vec<Fr>; COSETS],
}

impl Extended {
    /// Size of the matrix.
    pub fn dimensions(&self) -> Dimensions {
        self.dimensions
    }

    /// The N coefficients of the polynomial, the constant one first.
    pub fn coefficients(&self) -> &[Fr] {
        &self.coefficients
    }

    /// One coset's R rows of C scalars, row by row.
    ///
    /// # Panics
    /// When `coset` is not below 3.
    pub fn coset(&self, coset: usize) -> &[Fr] {
        &self.cosets[coset]
    }

    /// Encoded row `index`: row `index` mod R of coset `index` / R, C scalars.
    ///
    /// # Panics
    /// When `index` is not below 3R.
    pub fn row(&self, index: usize) -> &[Fr] {
        let (rows, columns) = (self.dimensions.rows(), self.dimensions.columns());
        &self.cosets[index / rows][index % rows * columns..][..columns]
    }
}

/// `data` as an erasure-coded blob: packs, interpolates (one inverse NTT of N), evaluates on cosets 1 and 2 (two NTTs).
pub fn extend(dimensions: Dimensions, data: &[u8]) -> Result<Extended, BlobError> {
    let packed = pack(dimensions, data)?;
    let matrix: Vec<Fr> = packed
        .par_chunks_exact(BYTES_PER_SCALAR)
        .map(|bytes| scalar_from_bytes(bytes.try_into().expect("32 bytes")).expect("31 bytes are below the order"))
        .collect();
    let coefficients = interpolate(dimensions, 0, &matrix);
    let [one, two] = [1, 2].map(|coset| evaluate(dimensions, coset, &coefficients));
    Ok(Extended { dimensions, coefficients, cosets: [matrix, one, two] })
}

/// Coefficients of the polynomial that has `rows` (R rows of C scalars) as its values on a coset.
pub(crate) fn interpolate(dimensions: Dimensions, coset: usize, rows: &[Fr]) -> Vec<Fr> {
    let values = transposed(rows, dimensions.columns());
    coset_domain(dimensions, coset).ifft(&values)
}

/// R rows of C scalars: the values on a coset of the polynomial with these coefficients.
pub(crate) fn evaluate(dimensions: Dimensions, coset: usize, coefficients: &[Fr]) -> Vec<Fr> {
    let values = coset_domain(dimensions, coset).fft(coefficients);
    transposed(&values, dimensions.rows())
}

/// The 2^`lg_size`-th roots of unity: powers of 5^((r-1)/2^`lg_size`).
pub(crate) fn domain(lg_size: u32) -> Radix2EvaluationDomain<Fr> {
    Radix2EvaluationDomain::new(1 << lg_size).expect("the field has roots of unity of order 2^28")
}

fn coset_domain(dimensions: Dimensions, coset: usize) -> Radix2EvaluationDomain<Fr> {
    domain(dimensions.lg_scalars()).get_coset(coset_shift(dimensions, coset)).expect("a shift is not zero")
}

/// c_k, the factor between the points of coset 0 and those of coset `coset`.
pub(crate) fn coset_shift(dimensions: Dimensions, coset: usize) -> Fr {
    let root = |lg_order: u32| Fr::get_root_of_unity(1u64 << lg_order).expect("an order of at most 2^28");
    match coset {
        0 => Fr::one(),
        1 => root(dimensions.lg_scalars() + 1),
        _ => root(dimensions.lg_scalars() + 2),
    }
}

/// `index` with its lowest `bits` bits in reverse order: the place of a row among the leaves of the commitment tree.
pub(crate) fn reversed(index: usize, bits: u32) -> usize {
    if bits == 0 { 0 } else { index.reverse_bits() >> (usize::BITS - bits) }
}

/// A matrix with rows of `columns` scalars, column by column.
fn transposed(matrix: &[Fr], columns: usize) -> Vec<Fr> {
    let rows = matrix.len() / columns;
    (0..matrix.len()).into_par_iter().map(|i| matrix[i % rows * columns + i / rows]).collect()
}

/// A scalar from 32 little-endian bytes; `None` unless it is below the group order.
pub(crate) fn scalar_from_bytes(bytes: &[u8; BYTES_PER_SCALAR]) -> Option<Fr> {
    Fr::from_bigint(limbs(bytes))
}

/// A scalar as 32 little-endian bytes.
pub(crate) fn scalar_bytes(scalar: &Fr) -> [u8; BYTES_PER_SCALAR] {
    limb_bytes(scalar.into_bigint())
}

/// 32 little-endian bytes as four 64-bit limbs, the lowest first.
pub(crate) fn limbs(bytes: &[u8; 32]) -> BigInt<4> {
    let (limbs, _) = bytes.as_chunks::<8>();
    BigInt([0, 1, 2, 3].map(|i| u64::from_le_bytes(limbs[i])))
}

/// Four 64-bit limbs, the lowest first, as 32 little-endian bytes.
pub(crate) fn limb_bytes(limbs: BigInt<4>) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.as_chunks_mut::<8>().0.iter_mut().zip(limbs.0).for_each(|(bytes, limb)| *bytes = limb.to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use ark_ff::{Field, MontFp, Zero};

    use super::*;

    fn data(length: usize) -> Vec<u8> {
        (0..length).map(|i| (131 * i + 17 * (i / 256) + 7) as u8).collect()
    }

    fn hex(scalar: &Fr) -> String {
        scalar_bytes(scalar).iter().rev().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Intermediate values of the network's encoder for its test blob of 1,234 bytes.
    #[test]
    fn values_of_the_test_blob() {
        let extended = extend(Dimensions::new(6, 5).unwrap(), &data(1234)).unwrap();
        let coefficient = |i: usize| hex(&extended.coefficients()[i]);
        assert_eq!(coefficient(0), "1595286b0af355de3a3a69e59f4f6e5a2e618aa4d7dd75ea6efea81821dd9082");
        assert_eq!(coefficient(1), "0d8cee2f375a190c51d5ed1827d26514828e959eafd86caf718be0a51c8ab288");
        let value = |row: usize, column: usize| hex(&extended.row(row)[column]);
        assert_eq!(value(0, 0), "0061de5bd855d24fcc49c643c03dba37b431ae2ba825a21f9c199613900d8a07");
        assert_eq!(value(64, 0), "09d3b6b10d9c91b805557c420d5dd699642c6a3c3912e2840f3541c5c338b7ed");
        assert_eq!(value(128, 0), "2308e62d01f586f466e501e5e61fa91520c64dcaac40dc60ad960d83c92b479a");
        assert_eq!(value(129, 1), "1408fd3753ec71376bc86d05f8377c9d79e9afc11e7f1dca7178f1aeae31a975");
    }

    /// Roots of unity of the full size, as the network uses them.
    #[test]
    fn shifts_of_the_full_size() {
        let dimensions = Dimensions::new(10, 10).unwrap();
        let one = MontFp!("13536764371732269273912573961853310557438878140379554347802702086337840854307");
        let two = MontFp!("12143866164239048021030917283424216263377309185099704096317235600302831912062");
        let root = MontFp!("17220337697351015657950521176323262483320249231368149235373741788599650842711");
        assert_eq!([0, 1, 2].map(|coset| coset_shift(dimensions, coset)), [Fr::one(), one, two]);
        assert_eq!(domain(20).group_gen, root);
    }

    /// Every row against the polynomial, term by term.
    #[test]
    fn rows_are_values_of_the_polynomial() {
        let dimensions = Dimensions::new(2, 3).unwrap();
        let extended = extend(dimensions, &data(dimensions.max_data_bytes())).unwrap();
        let root = domain(dimensions.lg_scalars()).group_gen;
        for index in 0..dimensions.slices() {
            let (coset, row) = (index / dimensions.rows(), index % dimensions.rows());
            for (column, value) in extended.row(index).iter().enumerate() {
                let exponent = (column * dimensions.rows() + row) as u64;
                let point = coset_shift(dimensions, coset) * root.pow([exponent]);
                let sum = extended.coefficients().iter().rev().fold(Fr::zero(), |sum, c| sum * point + c);
                assert_eq!(sum, *value, "row {index}, column {column}");
            }
        }
        for coset in 0..COSETS {
            assert_eq!(interpolate(dimensions, coset, extended.coset(coset)), extended.coefficients());
        }
    }

    #[test]
    fn a_scalar_is_below_the_order() {
        let mut order = limb_bytes(Fr::MODULUS);
        assert_eq!(scalar_from_bytes(&order), None);
        order[0] -= 1;
        assert_eq!(scalar_from_bytes(&order), Some(-Fr::one()));
        assert_eq!(scalar_bytes(&-Fr::one()), order);
    }
}
