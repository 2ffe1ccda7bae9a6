use std::time::Instant;

use ark_bn254::{Fq, FqConfig, Fr, FrConfig, G1Affine, G1Projective};
use ark_ec::{AffineRepr, PrimeGroup};
use ark_ff::{AdditiveGroup, Field, MontConfig, PrimeField, Zero};
use rand::{RngCore, SeedableRng, rngs::StdRng};

use super::{
    kernels::{IN_ARENA, INFINITY, NEGATED, Projective},
    lanes::{Element, Lanes, MAX_LANES, NOTHING, One, Point},
    *,
};
use crate::{check::parse_vectors, encode::encode, msm::msm};

fn levels() -> Vec<Simd> {
    Level::ALL.into_iter().filter_map(|level| Simd::new(level).ok()).collect()
}

fn any_element<F: PrimeField>(rng: &mut StdRng) -> F {
    let mut bytes = [0; 64];
    rng.fill_bytes(&mut bytes);
    F::from_le_bytes_mod_order(&bytes)
}

fn any_point(rng: &mut StdRng) -> G1Affine {
    (G1Projective::generator() * any_element::<Fr>(rng)).into()
}

/// All pairs of edge values and of some at random, through every operation of the lanes.
#[inline(always)]
fn check_arithmetic<L: Lanes>() {
    let mut rng = StdRng::seed_from_u64(9);
    let one = Element::<L::Config>::ONE;
    let mut values =
        vec![Element::<L::Config>::ZERO, one, -one, -one - one, one.double(), one.double().inverse().unwrap()];
    values.extend((0..20).map(|_| any_element::<Element<L::Config>>(&mut rng)));
    let count = values.len();
    let at = |i: usize| values[i % count];
    for first in 0..count * count {
        let a: [_; MAX_LANES] =
            std::array::from_fn(|l| if l < L::LANES { at(first + l) } else { Element::<L::Config>::ZERO });
        let b: [_; MAX_LANES] =
            std::array::from_fn(|l| if l < L::LANES { at(first / count + 3 * l) } else { Element::<L::Config>::ZERO });
        let (x, y) = (L::from_elements(&a), L::from_elements(&b));
        let check = |name: &str, result: L, expected: &dyn Fn(usize) -> Element<L::Config>| {
            // Also through memory and back, and once more through the widest inputs that each operation takes.
            let mut words = [[0; 4]; MAX_LANES];
            result.store(&mut words);
            let results = L::load(|l| &words[l]).to_elements();
            (0..L::LANES).for_each(|l| assert_eq!(results[l], expected(l), "{name} of {} and {}", a[l], b[l]));
        };
        check("product", x.times(y), &|l| a[l] * b[l]);
        check("square", x.square(), &|l| a[l].square());
        check("sum", x.plus(y), &|l| a[l] + b[l]);
        check("difference", x.minus(y), &|l| a[l] - b[l]);
        check("wide factor", y.times(x.minus_wide(y)), &|l| b[l] * (a[l] - b[l]));
        check("both differences", x.minus_both(y, x.plus(y)), &|l| a[l] - b[l] - a[l] - b[l]);
        check("loose operands", x.plus(y).minus(y.minus(x)).times(y.plus(y)), &|l| a[l].double() * b[l].double());
        check("negative", x.negate_where(0b0101_0101), &|l| if l % 2 == 0 { -a[l] } else { a[l] });
        check("choice", x.where_set(0b0011_0011, y), &|l| if l % 4 < 2 { a[l] } else { b[l] });
        let zeros = (0..L::LANES).filter(|l| a[*l] == b[*l]).fold(0, |mask, l| mask | 1 << l);
        assert_eq!(x.minus_wide(y).zeros(), zeros);
        assert_eq!(x.nothings(), 0);
        match x.inverse() {
            Some(inverse) => check("inverse", inverse, &|l| a[l].inverse().unwrap()),
            None => assert!(a[..L::LANES].contains(&Element::<L::Config>::ZERO)),
        }
        let mut integers = [[0; 4]; MAX_LANES];
        x.store_integers(&mut integers);
        (0..L::LANES).for_each(|l| assert_eq!(integers[l], a[l].into_bigint().0));
        check("integer", L::load_integers(|l| &integers[l]), &|l| a[l]);
    }
    assert_eq!(L::load(|l| if l % 2 == 0 { &NOTHING } else { &[1, 0, 0, 0] }).nothings() & 1, 1);
}

#[test]
fn lanes_compute_as_the_field_library() {
    check_arithmetic::<One<FqConfig>>();
    check_arithmetic::<One<FrConfig>>();
    #[cfg(target_arch = "x86_64")]
    if Level::Ifma.missing().is_none() {
        #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512ifma,avx512vbmi2")]
        fn check<C: MontConfig<4>>() {
            check_arithmetic::<lanes::Ifma<C>>();
        }
        // SAFETY: the processor has the level's instructions.
        unsafe {
            check::<FqConfig>();
            check::<FrConfig>();
        }
    }
}

/// A point in a level's form.
fn imported(simd: Simd, point: &G1Affine) -> Point {
    let mut words = [[0; 4]; 2];
    simd.import(&[point.x, point.y], &mut words);
    if point.is_zero() { INFINITY } else { Point(words) }
}

fn exported(simd: Simd, point: &Point) -> G1Affine {
    if point.0[0] == NOTHING {
        return G1Affine::identity();
    }
    let mut coordinates = [Fq::ZERO; 2];
    simd.export(&point.0, &mut coordinates);
    G1Affine::new(coordinates[0], coordinates[1])
}

/// Every pair of some points: different, equal, opposite, at infinity; from the table, negated, and from the arena.
#[test]
fn pairs_are_added_as_the_curve_library_does() {
    let generator = G1Projective::generator();
    let points: Vec<G1Affine> = [1i64, 2, 3, 5, -1, -2, 1, 7].map(|k| (generator * Fr::from(k)).into()).to_vec();
    for simd in levels() {
        let table: Vec<Point> = points.iter().map(|point| imported(simd, point)).collect();
        let mut arena = [&table[..], &[INFINITY]].concat();
        let (start, infinity) = (arena.len(), IN_ARENA | table.len() as u32);
        let mut places = vec![infinity];
        places.extend((0..table.len() as u32).flat_map(|i| [i, i | NEGATED, i | IN_ARENA]));
        let value = |place: u32| match place {
            place if place == infinity => G1Affine::identity(),
            place if place & NEGATED != 0 => -points[(place & !NEGATED) as usize],
            place => points[(place & !IN_ARENA) as usize],
        };
        let pairs: Vec<[u32; 2]> = places.iter().flat_map(|a| places.iter().map(move |b| [*a, *b])).collect();
        arena.resize(start + pairs.len(), INFINITY);
        simd.add_pairs(&table, &mut arena, start, &pairs);
        // And a few at a time, so that vectors are not full.
        for count in [1, 3, 11] {
            let mut few = arena[..start + count].to_vec();
            simd.add_pairs(&table, &mut few, start, &pairs[..count]);
            assert!((0..count).all(|i| exported(simd, &few[start + i]) == exported(simd, &arena[start + i])));
        }
        for (pair, sum) in pairs.iter().zip(&arena[start..]) {
            let [a, b] = pair.map(value);
            assert_eq!(exported(simd, sum), G1Affine::from(a + b), "{a} + {b}");
        }
    }
}

#[test]
fn points_are_scaled_and_crossed_as_the_curve_library_does() {
    let mut rng = StdRng::seed_from_u64(4);
    let mut points: Vec<G1Affine> = (0..11).map(|_| any_point(&mut rng)).collect();
    points.extend([G1Affine::identity(), points[0], -points[0], points[1]]);
    let mut factors: Vec<Fr> = [0u64, 1, 2, 16].map(Fr::from).to_vec();
    factors.extend([-Fr::ONE]);
    factors.extend((5..points.len()).map(|_| any_element::<Fr>(&mut rng)));
    for simd in levels() {
        let from = |points: &[G1Affine]| -> Vec<Projective> {
            let one = [Fq::ZERO, Fq::ONE, Fq::ZERO];
            let all = points.iter().flat_map(|p| if p.is_zero() { one } else { [p.x, p.y, Fq::ONE] });
            let mut words = vec![[0; 4]; 3 * points.len()];
            simd.import(&all.collect::<Vec<_>>(), &mut words);
            words.as_chunks::<3>().0.to_vec()
        };
        let to = |point: &Projective| -> G1Affine {
            let mut c = [Fq::ZERO; 3];
            simd.export(point, &mut c);
            c[2].inverse().map_or(G1Affine::identity(), |over_z| G1Affine::new(c[0] * over_z, c[1] * over_z))
        };
        let mut scaled = from(&points);
        simd.scale(&mut scaled, &factors.iter().map(|factor| factor.into_bigint().0).collect::<Vec<_>>());
        for ((scaled, point), factor) in scaled.iter().zip(&points).zip(&factors) {
            assert_eq!(to(scaled), G1Affine::from(*point * factor));
        }
        let all = from(&points);
        let mut pairs: Vec<[Projective; 2]> = all.iter().flat_map(|a| all.iter().map(move |b| [*a, *b])).collect();
        simd.cross(&mut pairs);
        for (at, pair) in pairs.iter().enumerate() {
            let (a, b) = (points[at / points.len()], points[at % points.len()]);
            assert_eq!(pair.each_ref().map(to), [a + b, a - b].map(G1Affine::from));
        }
    }
}

/// Sums of every shape over bases of which some are equal or opposite, of special scalars and any.
#[test]
fn sums_equal_the_plain_ones() {
    let mut rng = StdRng::seed_from_u64(5);
    let mut points: Vec<G1Affine> = (0..40).map(|_| any_point(&mut rng)).collect();
    let doubled = (points[2] + points[2]).into();
    points.extend([points[0], -points[0], points[1], doubled]);
    let bytes: Vec<u8> =
        points.iter().flat_map(|p| [p.x, p.y]).flat_map(|c| c.0.0).flat_map(u64::to_le_bytes).collect();
    let mut all: Vec<Fr> = (0..44).map(|_| any_element(&mut rng)).collect();
    for value in [Fr::ZERO, Fr::ONE, -Fr::ONE, Fr::from(1u64 << 63), -Fr::ONE / Fr::from(2u64)] {
        all.extend([value; 44]);
    }
    let scalars: Vec<Words> = all.iter().map(|scalar| scalar.into_bigint().0).collect();
    let sums: Vec<msm::Sum> = (0..all.len() / 44)
        .flat_map(|i| [44 * i..44 * i + 44, 44 * i..44 * i + 1, 44 * i + 40..44 * i + 44])
        .map(|scalars| msm::Sum { bases: 0, first_base: scalars.start % 44, scalars })
        .collect();
    let expected: Vec<G1Projective> =
        sums.iter().map(|sum| msm(&points[sum.first_base..][..sum.scalars.len()], &all[sum.scalars.clone()])).collect();
    for simd in levels() {
        for shape in msm::Shape::all().filter(|shape| shape.bits < 11 && [1, 2, 3].contains(&shape.tables())) {
            let bases = [FixedBases::new(simd, shape, &[&bytes[..]])];
            let plan = Plan::new(&bases, sums.clone());
            assert_eq!(plan.run(simd, &bases, &scalars, &Workspaces::new()), expected, "{shape:?}");
        }
    }
}

/// More entries than a tile holds, in few buckets and in many.
#[test]
fn long_sums_equal_the_plain_ones() {
    const COUNT: usize = 70_000;
    let mut rng = StdRng::seed_from_u64(6);
    let few: Vec<G1Affine> = (0..100).map(|_| any_point(&mut rng)).collect();
    let bytes: Vec<u8> = few.iter().flat_map(|p| [p.x, p.y]).flat_map(|c| c.0.0).flat_map(u64::to_le_bytes).collect();
    let bytes: Vec<u8> = bytes.iter().copied().cycle().take(64 * COUNT).collect();
    for scalar in [None, Some(Fr::from(5u64))] {
        let mut by_point = vec![Fr::zero(); few.len()];
        let scalars: Vec<Words> = (0..COUNT)
            .map(|i| {
                let scalar = scalar.unwrap_or_else(|| Fr::from(rng.next_u64()));
                by_point[i % few.len()] += scalar;
                scalar.into_bigint().0
            })
            .collect();
        for simd in levels() {
            let bases = [FixedBases::new(simd, msm::Shape { bits: 13, sets: 20 }, &[&bytes[..]])];
            let plan = Plan::new(&bases, vec![msm::Sum { bases: 0, first_base: 0, scalars: 0..COUNT }]);
            assert_eq!(plan.run(simd, &bases, &scalars, &Workspaces::new()), [msm(&few, &by_point)]);
        }
    }
}

/// Every slice and both roots of `data` against the plain path, at every level.
fn compare(params: &Arc<ProverParams>, memory: Option<u64>, blobs: &[Vec<u8>]) {
    let dimensions = params.dimensions();
    for index in 0..list().0.len() {
        let mut device = CpuEncoder::open(index, params, memory).unwrap();
        let mut blob = device.alloc_blob().unwrap();
        for data in blobs {
            let expected = encode(params, data).unwrap();
            let mut slices = vec![0; dimensions.all_slices_bytes()];
            device.extend(data, (data.len() as u32).to_le_bytes(), &mut blob).unwrap();
            device.commit(&mut blob).unwrap();
            device.hash(&mut blob).unwrap();
            let roots = device.slices(&mut blob, &mut slices).unwrap();
            let name = format!("{} bytes at level {}", data.len(), device.info().level);
            assert_eq!(roots.commitment, plain_point_bytes(&expected.id().commitment), "{name}");
            assert_eq!(roots.storage_root, expected.id().storage_root.0, "{name}");
            for (index, slice) in slices.chunks(dimensions.slice_bytes()).enumerate() {
                assert!(slice == expected.slice(index).to_bytes(dimensions), "slice {index} of {name}");
            }
            let coefficients = device.read_coefficients(&blob).unwrap();
            let plain: Vec<u8> =
                expected.extended().coefficients().iter().flat_map(crate::extend::scalar_bytes).collect();
            assert!(coefficients == plain, "coefficients of {name}");
        }
    }
}

fn params(lg_rows: u32, lg_columns: u32, tau: u64) -> Arc<ProverParams> {
    let dimensions = Dimensions::new(lg_rows, lg_columns).unwrap();
    Arc::new(ProverParams::insecure_from_tau(dimensions, Fr::from(tau), 3 * dimensions.scalars() as u64).unwrap())
}

fn random(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    StdRng::seed_from_u64(length as u64).fill_bytes(&mut bytes);
    bytes
}

#[test]
fn special_blobs_equal_the_twin() {
    for (lg_rows, lg_columns) in [(1, 3), (6, 5), (2, 6), (4, 3)] {
        let params = params(lg_rows, lg_columns, 0x1234_5678_9abc_def1);
        let maximum = params.dimensions().max_data_bytes();
        let lengths = [0, 1, 31, 1234.min(maximum), maximum].map(random);
        let equal = [0, 0x5a, 0xff].map(|byte| vec![byte; maximum]);
        compare(&params, None, &[&lengths[..], &equal].concat());
    }
}

#[test]
fn every_budget_gives_the_same_bytes() {
    let params = params(4, 5, 77_777_777);
    for memory in [0, 100_000, 1_000_000, 100_000_000] {
        compare(&params, Some(memory), &[random(12_345), vec![3; 500]]);
    }
}

/// Time that this process had on all cores, in hundredths of a second as Linux counts it; 0 elsewhere.
fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = text.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// The network's blob at full size, when asked for: ZGPU_LONG=1. ZGPU_LEVEL=portable for the other level.
#[test]
fn the_full_size_blob_of_the_network_comes_out_equal() {
    if std::env::var_os("ZGPU_LONG").is_none_or(|value| value != "1") {
        println!("skipped: the full size runs with ZGPU_LONG=1");
        return;
    }
    let case = parse_vectors(include_str!("../../vectors/blob-10x10-32505852.json")).unwrap();
    let params = Arc::new(case.params().unwrap());
    let data = case.data();
    let mut clock = (Instant::now(), cpu_seconds());
    let mut lap = |what: &str| {
        let now = (Instant::now(), cpu_seconds());
        println!("{what}: {:.2} s, {:.2} s of all cores", (now.0 - clock.0).as_secs_f64(), now.1 - clock.1);
        clock = now;
    };
    let index = usize::from(std::env::var_os("ZGPU_LEVEL").is_some());
    let mut device = CpuEncoder::open(index, &params, None).unwrap();
    lap(&format!("open {}", device.info().name));
    let mut blob = device.alloc_blob().unwrap();
    let mut slices = vec![0; case.dimensions.all_slices_bytes()];
    lap("memory for a blob");
    device.extend(&data, (data.len() as u32).to_le_bytes(), &mut blob).unwrap();
    lap("extend");
    device.commit(&mut blob).unwrap();
    lap("commit");
    device.hash(&mut blob).unwrap();
    lap("hash");
    let roots = device.slices(&mut blob, &mut slices).unwrap();
    lap("slices");
    assert_eq!(crate::check::compare(&case, &roots, &slices), []);
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().filter(|line| line.starts_with("VmHWM")).for_each(|line| println!("{line}"));
}
