//! Recovery: a blob's data from any R of its 3R encoded rows.
//!
//! Source: the erasure code of the network's DA encoder. All points of row (k, ρ) have the same C-th power, the node
//! η = (c_k·ω^ρ)^C, which is the 4R-th root of unity ζ to the power 4ρ, 4ρ + 2 or 4ρ + 1 for k = 0, 1, 2. With
//! P(X) = Σ_{i<C} X^i·P_i(X^C), deg P_i < R, an inverse NTT of C points over a row's own points gives all P_i(η): C
//! Reed-Solomon codes with the same nodes.
//!
//! Each is decoded with the locator Z, which is zero at the 4R-th roots whose row is missing: P_i·Z is known at all of
//! them, has degree below 4R, and is divided by Z on a coset where Z has no zero. A whole coset needs one inverse NTT.

use std::collections::BTreeMap;

use ark_bn254::Fr;
use ark_ff::{FftField, One, Zero, batch_inversion};
use ark_poly::EvaluationDomain;
use rayon::prelude::*;

use crate::{
    blob::{BYTES_PER_SCALAR, BlobError, COSETS, Dimensions, unpack},
    extend::{coset_shift, domain, evaluate, interpolate, scalar_bytes, scalar_from_bytes},
};

/// Why data cannot be recovered.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum RecoverError {
    /// There are not enough rows.
    #[error("{actual} rows, {expected} are needed")]
    TooFewRows {
        /// Rows given.
        actual: usize,
        /// Rows of the matrix.
        expected: usize,
    },
    /// There is no such row.
    #[error("row {actual}, expected one below {slices}")]
    Index {
        /// The row's index.
        actual: usize,
        /// Encoded rows of a blob.
        slices: usize,
    },
    /// A row has the wrong number of bytes.
    #[error("row {index} has {actual} bytes, expected {expected}")]
    Length {
        /// The row's index.
        index: usize,
        /// Bytes given.
        actual: usize,
        /// Bytes of a row.
        expected: usize,
    },
    /// A scalar is not below the group order.
    #[error("scalar {column} of row {index} is not below the group order")]
    Scalar {
        /// The row's index.
        index: usize,
        /// Its place in the row.
        column: usize,
    },
    /// More rows than needed were given, and they are not of one blob.
    #[error("row {index} does not fit the others")]
    Inconsistent {
        /// The first row that differs from what the rows used give.
        index: usize,
    },
    /// The rows are of no blob.
    #[error(transparent)]
    Blob(#[from] BlobError),
}

/// The data of the blob with these encoded rows: index to C scalars of 32 bytes, little-endian. At least R rows, any.
/// Rows beyond those that are needed must fit them.
pub fn recover(dimensions: Dimensions, rows: &BTreeMap<usize, &[u8]>) -> Result<Vec<u8>, RecoverError> {
    let scalars = rows.par_iter().map(|(index, bytes)| Ok((*index, row(dimensions, *index, bytes)?)));
    let rows: Vec<(usize, Vec<Fr>)> = scalars.collect::<Result<_, RecoverError>>()?;
    let (actual, expected) = (rows.len(), dimensions.rows());
    if actual < expected {
        return Err(RecoverError::TooFewRows { actual, expected });
    }
    let coset_rows = |coset: usize| {
        let first = rows.partition_point(|(index, _)| *index < coset * expected);
        let last = rows.partition_point(|(index, _)| *index < (coset + 1) * expected);
        &rows[first..last]
    };
    let whole = (0..COSETS).find(|coset| coset_rows(*coset).len() == expected);
    let coefficients = match whole {
        Some(coset) => interpolate(dimensions, coset, &joined(coset_rows(coset))),
        None => decode(dimensions, &rows[..expected]),
    };
    let matrix = evaluate(dimensions, 0, &coefficients);
    if actual > expected {
        let cosets = [matrix.clone(), evaluate(dimensions, 1, &coefficients), evaluate(dimensions, 2, &coefficients)];
        let fits = |index: usize, row: &[Fr]| {
            row == &cosets[index / expected][index % expected * dimensions.columns()..][..dimensions.columns()]
        };
        if let Some((index, _)) = rows.iter().find(|(index, row)| !fits(*index, row)) {
            return Err(RecoverError::Inconsistent { index: *index });
        }
    }
    let bytes: Vec<u8> = matrix.par_iter().flat_map_iter(scalar_bytes).collect();
    Ok(unpack(dimensions, &bytes)?)
}

/// The scalars of row `index`.
fn row(dimensions: Dimensions, index: usize, bytes: &[u8]) -> Result<Vec<Fr>, RecoverError> {
    let slices = dimensions.slices();
    if index >= slices {
        return Err(RecoverError::Index { actual: index, slices });
    }
    let (actual, expected) = (bytes.len(), dimensions.columns() * BYTES_PER_SCALAR);
    if actual != expected {
        return Err(RecoverError::Length { index, actual, expected });
    }
    let (scalars, _) = bytes.as_chunks::<BYTES_PER_SCALAR>();
    let scalar = |(column, bytes)| scalar_from_bytes(bytes).ok_or(RecoverError::Scalar { index, column });
    scalars.iter().enumerate().map(scalar).collect()
}

fn joined(rows: &[(usize, Vec<Fr>)]) -> Vec<Fr> {
    rows.iter().flat_map(|(_, row)| row).copied().collect()
}

/// The polynomial's coefficients from R rows with different indices.
fn decode(dimensions: Dimensions, rows: &[(usize, Vec<Fr>)]) -> Vec<Fr> {
    let (row_count, columns) = (dimensions.rows(), dimensions.columns());
    let (lg_rows, lg_columns) = (dimensions.lg_rows(), dimensions.lg_scalars() - dimensions.lg_rows());
    let nodes: Vec<usize> = rows.iter().map(|(index, _)| node(dimensions, *index)).collect();

    // P_i at each row's node, for i < C, row by row.
    let root = domain(dimensions.lg_scalars());
    let values: Vec<Vec<Fr>> = rows
        .par_iter()
        .map(|(index, row)| {
            let first = coset_shift(dimensions, index / row_count) * root.element(index % row_count);
            domain(lg_columns).get_coset(first).expect("a point is not zero").ifft(row)
        })
        .collect();

    let all_nodes = domain(lg_rows + 2);
    let locator = locator(lg_rows, &nodes);
    let at_nodes = all_nodes.fft(&locator);
    // No power of the generator below the group order is one, so Z has no zero on this coset.
    let away = domain(lg_rows).get_coset(Fr::GENERATOR).expect("a generator is not zero");
    let fold = |polynomial: &[Fr]| folded(polynomial, away.coset_offset_pow_size(), row_count);
    let mut inverses = away.fft(&fold(&locator));
    batch_inversion(&mut inverses);

    let pieces: Vec<Vec<Fr>> = (0..columns)
        .into_par_iter()
        .map(|column| {
            let mut products = vec![Fr::zero(); 4 * row_count];
            for (node, values) in nodes.iter().zip(&values) {
                products[*node] = values[column] * at_nodes[*node];
            }
            let mut quotients = away.fft(&fold(&all_nodes.ifft(&products)));
            quotients.iter_mut().zip(&inverses).for_each(|(product, inverse)| *product *= inverse);
            away.ifft(&quotients)
        })
        .collect();
    (0..dimensions.scalars()).into_par_iter().map(|at| pieces[at % columns][at / columns]).collect()
}

/// The power of ζ that is the node of encoded row `index`.
fn node(dimensions: Dimensions, index: usize) -> usize {
    let offset = [0, 2, 1][index / dimensions.rows()];
    4 * (index % dimensions.rows()) + offset
}

/// Z, the product of X - ζ^e over the 3R powers e that are not among `nodes`, padded to 4R coefficients.
fn locator(lg_rows: u32, nodes: &[usize]) -> Vec<Fr> {
    let roots = domain(lg_rows + 2);
    let mut missing = vec![true; roots.size()];
    nodes.iter().for_each(|node| missing[*node] = false);
    let mut product = vec![Fr::zero(); roots.size()];
    product[0] = Fr::one();
    for (degree, (_, root)) in missing.iter().zip(roots.elements()).filter(|(missing, _)| **missing).enumerate() {
        for at in (0..=degree).rev() {
            let coefficient = product[at];
            product[at + 1] += coefficient;
            product[at] = -(coefficient * root);
        }
    }
    product
}

/// A polynomial modulo X^`size` - `power`: with the same values wherever X^`size` is `power`.
fn folded(polynomial: &[Fr], power: Fr, size: usize) -> Vec<Fr> {
    let mut sum = vec![Fr::zero(); size];
    for chunk in polynomial.chunks(size).rev() {
        sum.iter_mut().zip(chunk).for_each(|(sum, coefficient)| *sum = *sum * power + coefficient);
    }
    sum
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use ark_ff::{Field, PrimeField};
    use proptest::prelude::*;

    use super::*;
    use crate::extend::{extend, limb_bytes};

    fn encoded(dimensions: Dimensions, data: &[u8]) -> Vec<Vec<u8>> {
        let extended = extend(dimensions, data).unwrap();
        (0..dimensions.slices()).map(|index| extended.row(index).iter().flat_map(scalar_bytes).collect()).collect()
    }

    fn pick(rows: &[Vec<u8>], indices: impl IntoIterator<Item = usize>) -> BTreeMap<usize, &[u8]> {
        indices.into_iter().map(|index| (index, &rows[index][..])).collect()
    }

    static SIZE: LazyLock<Dimensions> = LazyLock::new(|| Dimensions::new(4, 3).unwrap());
    static DATA: LazyLock<Vec<u8>> = LazyLock::new(|| (0..3900u32).map(|i| (i * i + i / 9) as u8).collect());
    static ROWS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| encoded(*SIZE, &DATA));

    #[test]
    fn nodes_are_the_powers_of_the_rows_points() {
        let (root, zeta) = (domain(SIZE.lg_scalars()), domain(SIZE.lg_rows() + 2));
        for index in 0..SIZE.slices() {
            let first = coset_shift(*SIZE, index / SIZE.rows()) * root.element(index % SIZE.rows());
            assert_eq!(first.pow([SIZE.columns() as u64]), zeta.element(node(*SIZE, index)), "row {index}");
        }
    }

    #[test]
    fn every_coset_alone_is_enough() {
        for coset in 0..COSETS {
            let rows = pick(&ROWS, coset * 16..coset * 16 + 16);
            assert_eq!(recover(*SIZE, &rows).as_ref(), Ok(&*DATA), "coset {coset}");
        }
        assert_eq!(recover(*SIZE, &pick(&ROWS, 0..48)).as_ref(), Ok(&*DATA));
    }

    #[test]
    fn short_and_full_blobs_come_back() {
        let size = Dimensions::new(6, 5).unwrap();
        for length in [0, 1, 31, size.max_data_bytes()] {
            for byte in [0, 0xa7] {
                let (data, indices) = (vec![byte; length], (0..192).step_by(3));
                assert_eq!(recover(size, &pick(&encoded(size, &data), indices)), Ok(data), "{length} x {byte}");
            }
        }
    }

    #[test]
    fn what_is_not_enough_or_not_right_is_refused() {
        let refused = |rows: &BTreeMap<usize, &[u8]>| recover(*SIZE, rows).unwrap_err();
        assert_eq!(refused(&BTreeMap::new()), RecoverError::TooFewRows { actual: 0, expected: 16 });
        assert_eq!(refused(&pick(&ROWS, 3..18)), RecoverError::TooFewRows { actual: 15, expected: 16 });
        let mut rows = pick(&ROWS, 3..19);
        rows.insert(48, &ROWS[0]);
        assert_eq!(refused(&rows), RecoverError::Index { actual: 48, slices: 48 });
        let mut rows = pick(&ROWS, 3..19);
        rows.insert(7, &ROWS[7][1..]);
        assert_eq!(refused(&rows), RecoverError::Length { index: 7, actual: 255, expected: 256 });
        let mut row = ROWS[9].clone();
        row[64..96].copy_from_slice(&limb_bytes(Fr::MODULUS));
        rows.insert(7, &ROWS[7]);
        rows.insert(9, &row);
        assert_eq!(refused(&rows), RecoverError::Scalar { index: 9, column: 2 });
        // One row too many: a false one is noticed, whichever it is.
        let mut rows = pick(&ROWS, 3..20);
        rows.insert(9, &ROWS[10]);
        assert!(matches!(refused(&rows), RecoverError::Inconsistent { .. }));
        // No row too many: what comes out is no blob.
        rows.remove(&19);
        assert!(matches!(refused(&rows), RecoverError::Blob(_)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn any_third_of_the_rows_is_enough(
            indices in prop::sample::subsequence((0..48).collect::<Vec<usize>>(), 16..=48),
        ) {
            let recovered = recover(*SIZE, &pick(&ROWS, indices));
            prop_assert_eq!(recovered.as_ref(), Ok(&*DATA));
        }
    }
}
