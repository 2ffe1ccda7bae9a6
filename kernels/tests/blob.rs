//! Blobs from bytes to slices against a plain twin on arkworks, stage by stage. On the sources compiled as host code, on the
//! embedded PTX by an interpreter (save the kernels that sum points), and on a card if there is one; `ZGPU_REQUIRE_NVRTC=1` and
//! `ZGPU_REQUIRE_CUDA=1` turn the skips into failures.
//!
//! The prover's points are known multiples of the generator, so that the twin commits by arithmetic on scalars.

mod ptx;

use ark_bn254::{Fq, Fr, G1Affine, G1Projective};
use ark_ec::{AffineRepr, PrimeGroup, scalar_mul::ScalarMul};
use ark_ff::{BigInteger, FftField, Field, One, PrimeField, Zero};
use ark_poly::{EvaluationDomain, Radix2EvaluationDomain};
use zgpu_core::blob::{BYTES_PER_POINT, BYTES_PER_SCALAR, BlobRoots, COSETS, Dimensions, ProverBases};
use zgpu_core::device::DeviceError;
use zgpu_core::digest::{H256, keccak256, parent};
use zgpu_core::tree::{sector_hashes, unbalanced_levels};
use zgpu_kernels::Cuda;
use zgpu_kernels::blob::{Blob, Device};
use zgpu_kernels::emulated::Host;
use zgpu_kernels::runtime::Runtime;

use ptx::PtxHost;

macro_rules! suite {
    ($backend:ident, $runtime:ty, $ready:expr, [$($test:ident),* $(,)?]) => {
        mod $backend {
            $(
                #[test]
                fn $test() {
                    if $ready {
                        super::$test::<$runtime>();
                    }
                }
            )*
        }
    };
}

suite!(
    emulated,
    super::Host,
    true,
    [
        extensions_equal_the_twin,
        slices_equal_the_twin,
        lanes_encode_side_by_side,
        wrong_shapes_are_refused_with_both_numbers,
    ]
);
suite!(ptx_interpreted, super::PtxHost, super::has_ptx(), [extensions_equal_the_twin, slices_equal_the_twin]);
suite!(
    card,
    super::Cuda,
    super::has_card(),
    [
        extensions_equal_the_twin,
        slices_equal_the_twin,
        lanes_encode_side_by_side,
        wrong_shapes_are_refused_with_both_numbers,
    ]
);

/// Says why on stderr, or fails when `variable` asks for it, if something is missing.
fn ready(has: bool, variable: &str, reason: &str) -> bool {
    assert!(has || std::env::var_os(variable).is_none(), "{variable} is set, but {reason}");
    if !has {
        eprintln!("skipped: {reason}");
    }
    has
}

fn has_ptx() -> bool {
    let has = !zgpu_kernels::images::all().is_empty();
    ready(has, "ZGPU_REQUIRE_NVRTC", "this build holds no kernels; run scripts/setup")
}

fn has_card() -> bool {
    let (usable, unusable) = zgpu_kernels::list();
    let reason =
        unusable.first().map_or_else(|| "no card".to_owned(), |other| format!("{}: {}", other.name, other.reason));
    ready(!usable.is_empty(), "ZGPU_REQUIRE_CUDA", &reason)
}

/// A prover's points as multiples of the generator: powers, high powers, Lagrange points of each coset.
struct Points {
    dimensions: Dimensions,
    factors: [Vec<Fr>; 2 + COSETS],
    bytes: [Vec<u8>; 2 + COSETS],
}

impl Points {
    fn new(dimensions: Dimensions, mut factor: impl FnMut() -> Fr) -> Self {
        let factors: [Vec<Fr>; 2 + COSETS] =
            std::array::from_fn(|_| (0..dimensions.scalars()).map(|_| factor()).collect());
        let bytes = factors.each_ref().map(|factors| {
            let points = G1Projective::generator().batch_mul(factors);
            points.iter().flat_map(|point| [montgomery_bytes(point.x), montgomery_bytes(point.y)].concat()).collect()
        });
        Points { dimensions, factors, bytes }
    }

    fn random(dimensions: Dimensions) -> Self {
        let mut count = 0u32;
        Self::new(dimensions, || {
            count += 1;
            Fr::from_le_bytes_mod_order(&keccak256(&[&count.to_le_bytes()]).0)
        })
    }

    /// All at infinity: tables of them cost nothing.
    fn none(dimensions: Dimensions) -> Self {
        let zeros = || vec![0; dimensions.scalars() * BYTES_PER_POINT];
        let factors = std::array::from_fn(|_| vec![Fr::zero(); dimensions.scalars()]);
        Points { dimensions, factors, bytes: std::array::from_fn(|_| zeros()) }
    }

    fn bases(&self) -> ProverBases<'_> {
        let [powers, high_powers, lagrange @ ..] = self.bytes.each_ref().map(Vec::as_slice);
        ProverBases { dimensions: self.dimensions, powers, high_powers, lagrange }
    }
}

fn montgomery_bytes(coordinate: Fq) -> Vec<u8> {
    coordinate.0.to_bytes_le()
}

fn bytes_of<F: PrimeField>(element: F) -> Vec<u8> {
    element.into_bigint().to_bytes_le()
}

fn root(lg_order: u32) -> Fr {
    Fr::get_root_of_unity(1 << lg_order).expect("an order of at most 2^28")
}

fn reversed(index: usize, bits: u32) -> usize {
    index.reverse_bits() >> (usize::BITS - bits)
}

/// A blob, extended by the formulas.
struct Extended {
    dimensions: Dimensions,
    coefficients: Vec<Fr>,
    cosets: [Vec<Fr>; COSETS],
}

fn shift(dimensions: Dimensions, coset: usize) -> Fr {
    [Fr::one(), root(dimensions.lg_scalars() + 1), root(dimensions.lg_scalars() + 2)][coset]
}

fn extend(dimensions: Dimensions, data: &[u8]) -> Extended {
    let (rows, columns) = (dimensions.rows(), dimensions.columns());
    let mut bytes = data.to_vec();
    bytes.resize(dimensions.max_data_bytes(), 0);
    bytes.extend((data.len() as u32).to_le_bytes());
    let matrix: Vec<Fr> = bytes.chunks(31).map(Fr::from_le_bytes_mod_order).collect();
    let values: Vec<Fr> = (0..dimensions.scalars()).map(|i| matrix[i % rows * columns + i / rows]).collect();
    let domain = Radix2EvaluationDomain::<Fr>::new(dimensions.scalars()).expect("a power of two");
    let coefficients = domain.ifft(&values);
    let cosets = std::array::from_fn(|coset| {
        let values = domain.get_coset(shift(dimensions, coset)).expect("a shift is not zero").fft(&coefficients);
        (0..dimensions.scalars()).map(|place| values[place % columns * rows + place / columns]).collect()
    });
    assert_eq!(cosets[0], matrix);
    Extended { dimensions, coefficients, cosets }
}

fn scalar_bytes(scalars: &[Fr]) -> Vec<u8> {
    scalars.iter().flat_map(|scalar| bytes_of(*scalar)).collect()
}

/// A multiple of the generator, as in a slice.
fn point_bytes(factor: Fr, flags: bool) -> Vec<u8> {
    let point: G1Affine = (G1Affine::generator() * factor).into();
    let Some((x, y)) = point.xy() else {
        let mut bytes = vec![0; BYTES_PER_POINT];
        bytes[BYTES_PER_POINT - 1] = if flags { 0x40 } else { 0 };
        return bytes;
    };
    let mut bytes = [bytes_of(x), bytes_of(y)].concat();
    if flags && y.into_bigint() > (-y).into_bigint() {
        bytes[BYTES_PER_POINT - 1] |= 0x80;
    }
    bytes
}

fn sum_of_products(scalars: &[Fr], factors: &[Fr]) -> Fr {
    scalars.iter().zip(factors).map(|(scalar, factor)| *scalar * factor).sum()
}

/// All slices and the roots, by the formulas.
fn slices(points: &Points, extended: &Extended) -> (Vec<u8>, BlobRoots) {
    let dimensions = extended.dimensions;
    let (rows, columns, depth) = (dimensions.rows(), dimensions.columns(), dimensions.lg_rows());
    let [powers, high_powers, lagrange @ ..] = &points.factors;

    // Per coset and depth, commitment and quotient of each node.
    let nodes: Vec<Vec<Vec<[Vec<u8>; 2]>>> = (0..COSETS)
        .map(|coset| {
            let leaf = |node: usize| {
                let row = reversed(node, depth) * columns..(reversed(node, depth) + 1) * columns;
                sum_of_products(&extended.cosets[coset][row.clone()], &lagrange[coset][row])
            };
            let leaves: Vec<Fr> = (0..rows).map(leaf).collect();
            (1..=depth)
                .map(|d| {
                    let size = dimensions.scalars() >> d;
                    let blocks: Vec<Fr> =
                        extended.coefficients.chunks(size).map(|block| sum_of_products(block, powers)).collect();
                    let step = shift(dimensions, coset).pow([size as u64]);
                    let inverse = Fr::from(1u64 << d).inverse().expect("a power of two is not zero");
                    (0..1usize << d)
                        .map(|node| {
                            let point = root(d).pow([reversed(node, d) as u64]);
                            let terms = blocks.iter().rev().fold(Fr::zero(), |sum, block| sum * point * step + block);
                            let commitment: Fr = leaves[node << (depth - d)..(node + 1) << (depth - d)].iter().sum();
                            [point_bytes(commitment, true), point_bytes(terms * point * inverse, true)]
                        })
                        .collect()
                })
                .collect()
        })
        .collect();
    let erasure = sum_of_products(&extended.cosets[0], &lagrange[0]);
    let high = sum_of_products(&extended.coefficients, high_powers);

    let trees = extended.cosets.each_ref().map(|coset| {
        let row_root = |row: &[Fr]| unbalanced_levels(sector_hashes(&scalar_bytes(row))).pop().expect("a root")[0];
        unbalanced_levels(coset.chunks(columns).map(row_root).collect())
    });
    let coset_roots: [H256; COSETS] = trees.each_ref().map(|tree| tree[depth as usize][0]);

    let mut out = Vec::new();
    for index in 0..dimensions.slices() {
        let (coset, row) = (index / rows, index % rows);
        let number = |out: &mut Vec<u8>, number: usize| out.extend((number as u64).to_le_bytes());
        number(&mut out, index);
        number(&mut out, index);
        out.extend(point_bytes(erasure, true));
        number(&mut out, row);
        number(&mut out, columns);
        out.extend(scalar_bytes(&extended.cosets[coset][row * columns..][..columns]));
        number(&mut out, depth as usize);
        for d in 1..=depth {
            let sibling = (reversed(row, depth) >> (depth - d)) ^ 1;
            out.extend(nodes[coset][d as usize - 1][sibling].concat());
        }
        out.extend(point_bytes(high, true));
        out.extend(coset_roots.iter().flat_map(|root| root.0));
        number(&mut out, depth as usize);
        out.extend((0..depth as usize).flat_map(|height| trees[coset][height][(row >> height) ^ 1].0));
        number(&mut out, index);
        out.extend(trees[coset][0][row].0);
    }
    let roots = BlobRoots {
        commitment: point_bytes(erasure, false).try_into().expect("64 bytes"),
        coset_roots: coset_roots.map(|root| root.0),
        storage_root: parent(&parent(&coset_roots[0], &coset_roots[1]), &coset_roots[2]).0,
    };
    (out, roots)
}

fn dimensions(lg_rows: u32, lg_columns: u32) -> Dimensions {
    Dimensions::new(lg_rows, lg_columns).expect("a matrix")
}

fn data(length: usize) -> Vec<u8> {
    (0..length).map(|i| (131 * i + 17 * (i / 256) + 7) as u8).collect()
}

fn open<R: Runtime>(points: &Points) -> Device<R> {
    Device::open(0, &points.bases(), None).expect("the device is there")
}

fn begin<R: Runtime>(device: &mut Device<R>, data: &[u8], blob: &mut Blob<R>) {
    device.extend(data, (data.len() as u32).to_le_bytes(), blob).expect("the data fits");
}

fn compare_extension<R: Runtime>(device: &mut Device<R>, data: &[u8], blob: &mut Blob<R>) {
    let dimensions = device.dimensions();
    let twin = extend(dimensions, data);
    begin(device, data, blob);
    let coefficients = device.read_coefficients(blob).expect("coefficients");
    assert!(coefficients == scalar_bytes(&twin.coefficients), "coefficients of {} bytes, {dimensions:?}", data.len());
    for coset in 0..COSETS {
        let rows = device.read_coset(blob, coset).expect("a coset");
        assert!(rows == scalar_bytes(&twin.cosets[coset]), "coset {coset} of {} bytes, {dimensions:?}", data.len());
    }
}

/// Blobs of every kind of length, in the order that leaves the most behind for the next one.
fn blobs(dimensions: Dimensions) -> Vec<Vec<u8>> {
    let most = dimensions.max_data_bytes();
    let lengths = [most, 0, 1, 3, 30, 31, 32, most / 2, most - 1];
    let mut blobs: Vec<Vec<u8>> = lengths.into_iter().map(data).collect();
    blobs.extend([vec![0xff; most], vec![0; most], vec![0x5a; most]]);
    blobs
}

fn extensions_equal_the_twin<R: Runtime>() {
    for (lg_rows, lg_columns) in [(1, 3), (6, 5), (2, 8)] {
        let mut device = open::<R>(&Points::none(dimensions(lg_rows, lg_columns)));
        let mut blob = device.alloc_blob().expect("memory");
        let blobs = blobs(device.dimensions());
        // One of the larger size tells as much as all of the smaller.
        let count = if lg_rows + lg_columns > 4 { 1 } else { blobs.len() };
        for data in blobs.iter().take(count) {
            compare_extension(&mut device, data, &mut blob);
        }
    }
}

fn compare_slices<R: Runtime>(device: &mut Device<R>, points: &Points, data: &[u8], blob: &mut Blob<R>) {
    let dimensions = device.dimensions();
    begin(device, data, blob);
    device.commit(blob).expect("commitments");
    device.hash(blob).expect("trees");
    let mut bytes = vec![0xee; dimensions.all_slices_bytes()];
    let roots = device.slices(blob, &mut bytes).expect("slices");
    device.wait().expect("nothing is left to do");
    let (expected, expected_roots) = slices(points, &extend(dimensions, data));
    for (index, (got, expected)) in
        bytes.chunks(dimensions.slice_bytes()).zip(expected.chunks(dimensions.slice_bytes())).enumerate()
    {
        let differs = got.iter().zip(expected).position(|(a, b)| a != b);
        assert_eq!(differs, None, "first wrong byte of slice {index}, {} bytes of data, {dimensions:?}", data.len());
    }
    assert_eq!(bytes.len(), expected.len());
    assert_eq!(roots, expected_roots);
}

fn slices_equal_the_twin<R: Runtime>() {
    for (lg_rows, lg_columns) in [(1, 3), (3, 4), (6, 5)] {
        let points = Points::random(dimensions(lg_rows, lg_columns));
        let mut device = open::<R>(&points);
        let mut blob = device.alloc_blob().expect("memory");
        let blobs = blobs(device.dimensions());
        let count = if lg_rows == 6 { 2 } else { blobs.len() };
        for data in blobs.iter().take(count) {
            compare_slices(&mut device, &points, data, &mut blob);
        }
    }
    // Every commitment of an empty blob's nodes but those above its last row is at infinity; here all points are.
    let points = Points::none(dimensions(2, 3));
    let mut device = open::<R>(&points);
    let mut blob = device.alloc_blob().expect("memory");
    compare_slices(&mut device, &points, b"some data", &mut blob);
}

fn lanes_encode_side_by_side<R: Runtime>() {
    let points = Points::random(dimensions(2, 4));
    let first = open::<R>(&points);
    let second = first.lane().expect("another lane");
    std::thread::scope(|scope| {
        for (lane, mut device) in [first, second].into_iter().enumerate() {
            let points = &points;
            scope.spawn(move || {
                let mut blob = device.alloc_blob().expect("memory");
                for length in [1900, 70, 1000] {
                    compare_slices(&mut device, points, &data(length + lane), &mut blob);
                }
            });
        }
    });
}

fn wrong_shapes_are_refused_with_both_numbers<R: Runtime>() {
    let points = Points::none(dimensions(2, 3));
    let mut device = open::<R>(&points);
    let mut blob = device.alloc_blob().expect("memory");
    let shape = |result: Result<(), DeviceError>| match result {
        Err(DeviceError::Shape { expected, got, .. }) => (expected, got),
        other => panic!("not refused: {other:?}"),
    };
    let most = 32 * 31 - 4;
    assert_eq!(shape(device.extend(&vec![0; most + 1], [0; 4], &mut blob)), (most as u64, most as u64 + 1));
    let bytes = points.dimensions.all_slices_bytes();
    for wrong in [bytes - 1, bytes + 1] {
        let refused = device.slices(&mut blob, &mut vec![0; wrong]).map(|_| ());
        assert_eq!(shape(refused), (bytes as u64, wrong as u64));
    }
    assert_eq!(shape(device.read_coset(&blob, 3).map(|_| ())), (3, 3));
    let mut other = open::<R>(&points);
    assert_eq!(shape(other.extend(&[], [0; 4], &mut blob)), (1, 0));
    assert_eq!(shape(other.read_coefficients(&blob).map(|_| ())), (1, 0));

    let points_bytes = (32 * BYTES_PER_POINT) as u64;
    for section in 0..2 + COSETS {
        let mut short = Points::none(dimensions(2, 3));
        short.bytes[section].pop();
        let refused = Device::<R>::open(0, &short.bases(), None).map(|_| ());
        assert_eq!(shape(refused), (points_bytes, points_bytes - 1));
    }
    let refused = Device::<R>::open(0, &points.bases(), Some(1000)).err().expect("too little memory");
    assert!(matches!(refused, DeviceError::OutOfMemory { available: 1000, .. }), "{refused}");
    assert_eq!(device.read_coefficients(&blob).expect("coefficients").len(), 32 * BYTES_PER_SCALAR);
}
