//! Commitments of blobs against a plain twin on arkworks: MSMs, sums and NTTs of points by their formulas. On the sources
//! compiled as host code, and on a card if there is one; `ZGPU_REQUIRE_CUDA=1` turns that skip into a failure.
//!
//! The formulas hold for any bases, whether they come from a secret or not, so bases are chosen here to make trouble: all
//! equal, or each the opposite of the next, so that buckets double and cancel at every step.

use ark_bn254::{Fq, Fr, G1Affine, G1Projective};
use ark_ec::{AffineRepr, CurveGroup, PrimeGroup, VariableBaseMSM, scalar_mul::ScalarMul};
use ark_ff::{BigInt, FftField, Field, One, PrimeField, Zero};
use zgpu_core::blob::{BYTES_PER_POINT, COSETS, Dimensions, ProverBases};
use zgpu_core::device::DeviceError;
use zgpu_kernels::Cuda;
use zgpu_kernels::commit::{BYTES_PER_NODE, Tables, Work, commit};
use zgpu_kernels::emulated::Host;
use zgpu_kernels::runtime::{Memory, Runtime};

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
        random_scalars_equal_the_twin,
        special_scalars_equal_the_twin,
        bases_that_double_and_cancel_equal_the_twin,
        full_buckets_are_cut_and_merged,
        any_stride_gives_the_same_result,
        a_budget_decides_the_stride,
        wrong_shapes_are_refused_with_both_numbers,
    ]
);
suite!(
    card,
    super::Cuda,
    super::has_card(),
    [
        random_scalars_equal_the_twin,
        special_scalars_equal_the_twin,
        bases_that_double_and_cancel_equal_the_twin,
        full_buckets_are_cut_and_merged,
        any_stride_gives_the_same_result,
        a_budget_decides_the_stride,
        wrong_shapes_are_refused_with_both_numbers,
    ]
);

/// Says why on stderr, or fails when the variable asks for it, if there is no card.
fn has_card() -> bool {
    let (usable, unusable) = zgpu_kernels::list();
    let has = !usable.is_empty();
    if !has {
        let reason =
            unusable.first().map_or_else(|| "no card".to_owned(), |card| format!("{}: {}", card.name, card.reason));
        assert!(std::env::var_os("ZGPU_REQUIRE_CUDA").is_none(), "ZGPU_REQUIRE_CUDA is set, but {reason}");
        eprintln!("skipped: {reason}");
    }
    has
}

/// Tables without doublings.
fn all_windows<R: Runtime>(runtime: &R, bases: &ProverBases<'_>) -> Result<Tables<R>, DeviceError> {
    Tables::new(runtime, bases, u64::MAX)
}

/// Scalars of a blob as the commitment stage finds them. They need not belong to one polynomial.
#[derive(Clone)]
struct Scalars {
    coefficients: Vec<Fr>,
    cosets: [Vec<Fr>; COSETS],
}

/// A prover's points: powers, high powers, Lagrange points of each coset.
struct Points {
    dimensions: Dimensions,
    sections: [Vec<G1Affine>; 2 + COSETS],
}

/// Commitment and quotient of the nodes by coset, depth and number; erasure and high commitment.
#[derive(Debug, PartialEq, Eq)]
struct Results {
    nodes: Vec<[G1Affine; 2]>,
    totals: [G1Affine; 2],
}

impl Points {
    fn new(dimensions: Dimensions, point: impl FnMut(usize) -> Fr) -> Self {
        let factors: Vec<Fr> = (0..dimensions.scalars() * (2 + COSETS)).map(point).collect();
        let points = G1Projective::generator().batch_mul(&factors);
        let mut sections = points.chunks(dimensions.scalars()).map(<[G1Affine]>::to_vec);
        Self { dimensions, sections: std::array::from_fn(|_| sections.next().expect("five sections")) }
    }

    fn random(dimensions: Dimensions) -> Self {
        Self::new(dimensions, noise)
    }
}

impl Scalars {
    /// The same scalars for all four lists.
    fn new(dimensions: Dimensions, scalar: impl Fn(usize) -> Fr) -> Self {
        let list: Vec<Fr> = (0..dimensions.scalars()).map(scalar).collect();
        Self { coefficients: list.clone(), cosets: std::array::from_fn(|_| list.clone()) }
    }

    fn random(dimensions: Dimensions) -> Self {
        let list = |first: usize| (first..first + dimensions.scalars()).map(noise).collect();
        Self { coefficients: list(10_000), cosets: [20_000, 30_000, 40_000].map(list) }
    }
}

/// A scalar that looks random and depends on `i` alone.
fn noise(i: usize) -> Fr {
    Fr::from(i as u64 + 2).pow([0x9e37_79b9_7f4a_7c15])
}

fn reversed(index: usize, bits: u32) -> usize {
    (0..bits).filter(|bit| index >> bit & 1 == 1).map(|bit| 1 << (bits - 1 - bit)).sum()
}

fn root(lg_order: u32) -> Fr {
    Fr::get_root_of_unity(1 << lg_order).expect("an order of at most 2^28")
}

/// The twin: every formula by itself, with the NTT of points as the double sum that it is.
fn twin(points: &Points, scalars: &Scalars) -> Results {
    let dimensions = points.dimensions;
    let (rows, columns, lg_rows) = (dimensions.rows(), dimensions.columns(), dimensions.lg_rows());
    let msm = |section: usize, first: usize, scalars: &[Fr]| {
        G1Projective::msm_unchecked(&points.sections[section][first..first + scalars.len()], scalars)
    };
    let mut nodes = Vec::new();
    for coset in 0..COSETS {
        let shift = [Fr::one(), root(dimensions.lg_scalars() + 1), root(dimensions.lg_scalars() + 2)][coset];
        for depth in 1..=lg_rows {
            let size = dimensions.scalars() >> depth;
            let blocks: Vec<G1Projective> = scalars.coefficients.chunks(size).map(|block| msm(0, 0, block)).collect();
            for node in 0..1usize << depth {
                let leaves = rows >> depth;
                let commitment: G1Projective = (node * leaves..(node + 1) * leaves)
                    .map(|leaf| reversed(leaf, lg_rows) * columns)
                    .map(|first| msm(2 + coset, first, &scalars.cosets[coset][first..first + columns]))
                    .sum();
                let class = reversed(node, depth) as u64;
                let factors: Vec<Fr> = (0..1u64 << depth)
                    .map(|u| {
                        root(depth).pow([class * (u + 1)]) * shift.pow([size as u64 * u])
                            / Fr::from(2u64).pow([u64::from(depth)])
                    })
                    .collect();
                let blocks: Vec<G1Affine> = G1Projective::normalize_batch(&blocks);
                let quotient = G1Projective::msm_unchecked(&blocks, &factors);
                nodes.push([commitment.into_affine(), quotient.into_affine()]);
            }
        }
    }
    let erasure = (0..rows * columns)
        .step_by(columns)
        .map(|first| msm(2, first, &scalars.cosets[0][first..first + columns]))
        .sum::<G1Projective>();
    let high = msm(1, 0, &scalars.coefficients);
    Results { nodes, totals: [erasure.into_affine(), high.into_affine()] }
}

fn limb_bytes(limbs: BigInt<4>) -> Vec<u8> {
    limbs.0.into_iter().flat_map(u64::to_le_bytes).collect()
}

fn scalar_memory<R: Runtime>(runtime: &R, scalars: &[Fr]) -> R::Memory {
    let bytes: Vec<u8> = scalars.iter().flat_map(|scalar| limb_bytes(scalar.0)).collect();
    let mut memory = runtime.alloc("scalars", bytes.len() as u64).expect("memory");
    runtime.write(&mut memory, 0, &bytes).expect("a copy");
    memory
}

fn coordinate(bytes: &[u8]) -> Fq {
    let (limbs, _) = bytes.as_chunks::<8>();
    let value = BigInt([0, 1, 2, 3].map(|i| u64::from_le_bytes(limbs[i])));
    assert!(value < Fq::MODULUS, "a coordinate is below the modulus");
    Fq::new_unchecked(value)
}

/// Points as a device gives them: zeros are infinity, anything else must lie on the curve.
fn read_points<R: Runtime>(runtime: &R, memory: &R::Memory) -> Vec<G1Affine> {
    let mut bytes = vec![0; memory.len() as usize];
    runtime.read(memory, 0, &mut bytes).expect("a copy");
    let points = bytes.chunks(BYTES_PER_POINT).map(|point| {
        if point.iter().all(|&byte| byte == 0) {
            return G1Affine::zero();
        }
        let affine = G1Affine::new_unchecked(coordinate(&point[..32]), coordinate(&point[32..]));
        assert!(affine.is_on_curve());
        affine
    });
    points.collect()
}

struct Setup<R: Runtime> {
    runtime: R,
    tables: Tables<R>,
    work: Work<R>,
}

impl<R: Runtime> Setup<R> {
    fn new(
        points: &Points,
        tables: impl Fn(&R, &ProverBases<'_>) -> Result<Tables<R>, DeviceError>,
    ) -> Result<Self, DeviceError> {
        let runtime = R::open(0).expect("the device is there");
        let bytes = |section: &Vec<G1Affine>| -> Vec<u8> {
            section.iter().flat_map(|point| [limb_bytes(point.x.0), limb_bytes(point.y.0)].concat()).collect()
        };
        let sections: Vec<Vec<u8>> = points.sections.iter().map(bytes).collect();
        let bases = ProverBases {
            dimensions: points.dimensions,
            powers: &sections[0],
            high_powers: &sections[1],
            lagrange: [&sections[2], &sections[3], &sections[4]],
        };
        let tables = tables(&runtime, &bases)?;
        let work = Work::new(&runtime, &tables)?;
        Ok(Self { runtime, tables, work })
    }

    fn commit(&mut self, scalars: &Scalars) -> Results {
        let runtime = &self.runtime;
        let coefficients = scalar_memory(runtime, &scalars.coefficients);
        let cosets: [R::Memory; COSETS] = std::array::from_fn(|coset| scalar_memory(runtime, &scalars.cosets[coset]));
        commit(runtime, &self.tables, &coefficients, &cosets, &mut self.work).expect("a commitment");
        let nodes = read_points(runtime, self.work.nodes());
        let totals = read_points(runtime, self.work.totals());
        assert_eq!(totals.len(), 2);
        let (nodes, rest) = nodes.as_chunks::<2>();
        assert!(rest.is_empty());
        Results { nodes: nodes.to_vec(), totals: [totals[0], totals[1]] }
    }
}

fn compare<R: Runtime>(points: &Points, cases: &[Scalars]) {
    let mut setup = Setup::<R>::new(points, all_windows).expect("tables");
    assert_eq!(setup.tables.dimensions(), points.dimensions);
    assert_eq!(setup.work.nodes().len(), (COSETS * (2 * points.dimensions.rows() - 2) * BYTES_PER_NODE) as u64);
    for (number, scalars) in cases.iter().enumerate() {
        let (got, expected) = (setup.commit(scalars), twin(points, scalars));
        assert_eq!(got.totals, expected.totals, "totals of case {number}");
        for (node, (got, expected)) in got.nodes.iter().zip(&expected.nodes).enumerate() {
            assert_eq!(got, expected, "node {node} of case {number}");
        }
        assert_eq!(got, expected, "case {number}");
    }
}

fn random_scalars_equal_the_twin<R: Runtime>() {
    for (lg_rows, lg_columns) in [(1, 3), (2, 3), (3, 4), (6, 5)] {
        let dimensions = Dimensions::new(lg_rows, lg_columns).expect("a size");
        compare::<R>(&Points::random(dimensions), &[Scalars::random(dimensions)]);
    }
}

fn special_scalars_equal_the_twin<R: Runtime>() {
    let dimensions = Dimensions::new(3, 4).expect("a size");
    let half = -Fr::one() / Fr::from(2u64);
    let equal = Fr::from_le_bytes_mod_order(&[0x5a; 31]);
    let cases: [&dyn Fn(usize) -> Fr; 9] = [
        &|_| Fr::zero(),
        &|_| Fr::one(),
        &|_| -Fr::one(),
        &|_| equal,
        &|_| half,
        &|i| if i == 0 { Fr::one() } else { Fr::zero() },
        &|i| if i % 128 == 127 { Fr::from(1u64 << 31) } else { Fr::zero() },
        &|i| if i % 2 == 0 { equal } else { -equal },
        // Digits at the ends of their range, for every number of bits.
        &|i| Fr::from(2u64).pow([i as u64 % 254]) - Fr::from(i as u64 % 3),
    ];
    let cases: Vec<Scalars> = cases.iter().map(|case| Scalars::new(dimensions, case)).collect();
    compare::<R>(&Points::random(dimensions), &cases);
}

fn bases_that_double_and_cancel_equal_the_twin<R: Runtime>() {
    let dimensions = Dimensions::new(2, 4).expect("a size");
    let equal = Scalars::new(dimensions, |_| Fr::from(0x1234_5678_9abcu64));
    let alternating = Scalars::new(dimensions, |i| Fr::from(77u64) * if i % 2 == 0 { Fr::one() } else { -Fr::one() });
    let cases = [equal, alternating, Scalars::random(dimensions)];
    compare::<R>(&Points::new(dimensions, |_| Fr::one()), &cases);
    compare::<R>(&Points::new(dimensions, |i| if i % 2 == 0 { Fr::one() } else { -Fr::one() }), &cases);
    // Neighbouring windows of bases that are powers of two apart meet as equal points.
    compare::<R>(&Points::new(dimensions, |i| Fr::from(2u64).pow([i as u64 % 32])), &cases);
}

/// 32,768 points in one set of 16,384 buckets, which are four parts; all digits in one bucket, in few, and in all.
fn full_buckets_are_cut_and_merged<R: Runtime>() {
    let dimensions = Dimensions::new(1, 14).expect("a size");
    let points = Points::new(dimensions, |i| noise(i % 7));
    // Every digit of 15 bits is 1.
    let ones: Fr = (0..17u64).map(|window| Fr::from(2u64).pow([15 * window])).sum();
    let cases = [
        Scalars::new(dimensions, |_| ones),
        Scalars::new(dimensions, |i| Fr::from(1 + i as u64 % 2)),
        Scalars::random(dimensions),
    ];
    compare::<R>(&points, &cases);
}

fn any_stride_gives_the_same_result<R: Runtime>() {
    let dimensions = Dimensions::new(3, 4).expect("a size");
    let points = Points::random(dimensions);
    let scalars = Scalars::random(dimensions);
    let expected = twin(&points, &scalars);
    for stride in [1, 2, 3, 4, 8, 16, 32] {
        let tables = |runtime: &R, bases: &ProverBases<'_>| Tables::with_stride(runtime, bases, stride);
        let mut setup = Setup::<R>::new(&points, tables).expect("tables");
        assert_eq!(setup.commit(&scalars), expected, "stride {stride}");
    }
}

fn a_budget_decides_the_stride<R: Runtime>() {
    let points = Points::random(Dimensions::new(1, 10).expect("a size"));
    let with_stride = |stride| move |runtime: &R, bases: &ProverBases<'_>| Tables::with_stride(runtime, bases, stride);
    let with_budget = |budget| move |runtime: &R, bases: &ProverBases<'_>| Tables::new(runtime, bases, budget);
    let bytes = |setup: Setup<R>| setup.tables.bytes();
    let [one, two] = [1, 2].map(|stride| bytes(Setup::new(&points, with_stride(stride)).expect("tables")));
    assert!(two < one);
    assert_eq!(bytes(Setup::new(&points, with_budget(one)).expect("tables")), one);
    assert_eq!(bytes(Setup::new(&points, with_budget(one - 1)).expect("tables")), two);
    let error = Setup::new(&points, with_budget(1000)).err().expect("nothing fits");
    assert!(matches!(error, DeviceError::OutOfMemory { wanted: 1001.., available: 1000, .. }), "{error}");
}

fn wrong_shapes_are_refused_with_both_numbers<R: Runtime>() {
    let dimensions = Dimensions::new(1, 3).expect("a size");
    let mut points = Points::random(dimensions);
    let mut setup = Setup::<R>::new(&points, all_windows).expect("tables");
    let full = || scalar_memory(&setup.runtime, &[Fr::one(); 16]);
    let cosets = [full(), scalar_memory(&setup.runtime, &[Fr::one(); 15]), full()];
    let error = commit(&setup.runtime, &setup.tables, &full(), &cosets, &mut setup.work).expect_err("a short coset");
    assert!(matches!(error, DeviceError::Shape { expected: 512, got: 480, .. }), "{error}");
    points.sections[1].pop();
    let error = Setup::<R>::new(&points, all_windows).err().expect("a short section");
    assert!(matches!(error, DeviceError::Shape { expected: 1024, got: 960, .. }), "{error}");
}
