//! Tests of `wgsl/field` and `wgsl/curve` against arkworks, function by function.

use std::sync::Arc;

use ark_bn254::{Fq, Fr, G1Affine, G1Projective};
use ark_ec::{AffineRepr, CurveGroup, PrimeGroup};
use ark_ff::{AdditiveGroup, BigInteger, Field, MontFp, One, PrimeField, Zero};
use wgpu::BufferUsages;

use crate::device::Device;
use crate::plan::Planner;
use crate::program::{Kernel, kernel_of_blob};
use crate::support::{noise, there_is_a_device};

/// Bytes of an element.
const BYTES: usize = 32;
/// Elements of a case and of its results in `check_field`, and in `check_curve`.
const FIELD_ELEMENTS: (usize, usize) = (4, 8);
const CURVE_ELEMENTS: (usize, usize) = (9, 12);

const CHECK_FR: Kernel = kernel_of_blob(
    concat!(
        include_str!("../wgsl/grid.wgsl"),
        include_str!("../wgsl/field/fr.wgsl"),
        include_str!("../wgsl/field/field.wgsl"),
        include_str!("../tests/wgsl/field.wgsl"),
    ),
    "check_field",
    &[false, true],
);
const CHECK_FQ: Kernel = kernel_of_blob(
    concat!(
        include_str!("../wgsl/grid.wgsl"),
        include_str!("../wgsl/field/fq.wgsl"),
        include_str!("../wgsl/field/field.wgsl"),
        include_str!("../tests/wgsl/field.wgsl"),
    ),
    "check_field",
    &[false, true],
);
const CHECK_CURVE: Kernel = kernel_of_blob(
    concat!(
        include_str!("../wgsl/grid.wgsl"),
        include_str!("../wgsl/field/fq.wgsl"),
        include_str!("../wgsl/field/field.wgsl"),
        include_str!("../wgsl/curve/curve.wgsl"),
        include_str!("../wgsl/curve/multiply.wgsl"),
        include_str!("../tests/wgsl/curve.wgsl"),
    ),
    "check_curve",
    &[false, true],
);

/// Runs a kernel on cases, a thread each; `elements` are those of a case and of its results.
/// Dispatches have two dimensions.
fn run(kernel: &Kernel, elements: (usize, usize), cases: &[u8]) -> Vec<u8> {
    let mut device = Device::open(0).expect("a listed device opens");
    Arc::get_mut(&mut device).expect("one owner").limits.max_compute_workgroups_per_dimension = 3;
    let count = cases.len() / (elements.0 * BYTES);
    let bytes = (count * elements.1 * BYTES) as u64;
    let buffer = |bytes, usage| device.buffer("cases", bytes, usage).expect("little memory");
    let input = buffer(cases.len() as u64, BufferUsages::STORAGE | BufferUsages::COPY_DST);
    let output = buffer(bytes, BufferUsages::STORAGE | BufferUsages::COPY_SRC);
    let read_back = buffer(bytes, BufferUsages::MAP_READ | BufferUsages::COPY_DST);
    device.write(&input, 0, cases).expect("cases are written");
    let program = device.new_program(kernel).expect("the kernel compiles");
    let mut planner = Planner::new(&device);
    planner.threads(&program, &[&input, &output], &[count as u32], count as u64);
    planner.finish().expect("a plan").run(&device, |_| ()).expect("the plan runs");
    let copy = |encoder: &mut wgpu::CommandEncoder| encoder.copy_buffer_to_buffer(&output, 0, &read_back, 0, bytes);
    device.submit_and_read(&read_back, bytes, copy, <[u8]>::to_vec).expect("results are read")
}

/// Numbers below 2·modulus that are at the edges of limbs and of the modulus, and some without a pattern: as bytes.
fn numbers<F: PrimeField<BigInt = ark_ff::BigInt<4>>>() -> Vec<ark_ff::BigInt<4>> {
    let modulus = F::MODULUS;
    let near = |number: ark_ff::BigInt<4>| {
        let (mut below, mut above) = (number, number);
        below.sub_with_borrow(&1u64.into());
        above.add_with_carry(&1u64.into());
        [below, number, above]
    };
    let mut twice = modulus;
    twice.mul2();
    let mut half = modulus;
    half.div2();
    let mut numbers = vec![0u64.into(), 1u64.into(), 2u64.into()];
    numbers.extend([modulus, half].into_iter().flat_map(near));
    numbers.extend(near(twice).into_iter().take(1));
    numbers.extend([13u32, 26, 32, 64, 130, 246, 247, 253].into_iter().flat_map(|bit| {
        near(ark_ff::BigInt(std::array::from_fn(|limb| if bit / 64 == limb as u32 { 1 << (bit % 64) } else { 0 })))
    }));
    numbers.extend((0..40).map(|seed| F::from_le_bytes_mod_order(&noise(seed, BYTES)).into_bigint()));
    numbers
}

fn check_field<F: PrimeField<BigInt = ark_ff::BigInt<4>>>(kernel: &Kernel) {
    let numbers = numbers::<F>();
    let count = numbers.len();
    let mut cases = Vec::new();
    for x in 0..count {
        for y in 0..count {
            cases.push([x, y, (x * 7 + y) % count, (y * 11 + x + 3) % count]);
        }
    }
    let input: Vec<u8> = cases.iter().flatten().flat_map(|&number| numbers[number].to_bytes_le()).collect();
    let output = run(kernel, FIELD_ELEMENTS, &input);
    let elements: Vec<F> = numbers.iter().map(|number| F::from_le_bytes_mod_order(&number.to_bytes_le())).collect();
    let radix = F::from(2u64).pow([260]).inverse().expect("not zero");
    for (case, results) in cases.iter().zip(output.chunks_exact(FIELD_ELEMENTS.1 * BYTES)) {
        let [x, y, z, w] = case.map(|number| elements[number]);
        let zero = F::from(u64::from(x.is_zero()));
        let expected = [x * y * radix, (x * y + z * w) * radix, x + y, x - y, -F::from(7u64) * x, x, x * radix, zero];
        for (number, (result, expected)) in results.chunks_exact(BYTES).zip(expected).enumerate() {
            assert_eq!(
                result,
                expected.into_bigint().to_bytes_le(),
                "function {number} of {:?}",
                case.map(|n| numbers[n])
            );
        }
    }
}

#[test]
fn both_fields_equal_arkworks() {
    if there_is_a_device() {
        check_field::<Fr>(&CHECK_FR);
        check_field::<Fq>(&CHECK_FQ);
    }
}

/// A coordinate in the kernels' Montgomery form.
fn coordinate_bytes(coordinate: Fq) -> Vec<u8> {
    let radix = Fq::from(2u64).pow([260]);
    (coordinate * radix).into_bigint().to_bytes_le()
}

/// (xz : yz : z), or (0 : z : 0) for infinity.
fn projective_bytes(point: &G1Affine, z: Fq) -> Vec<u8> {
    let coordinates = point.xy().map_or([Fq::zero(), z, Fq::zero()], |(x, y)| [x * z, y * z, z]);
    coordinates.into_iter().flat_map(coordinate_bytes).collect()
}

fn point_of_bytes(bytes: &[u8]) -> G1Affine {
    let coordinates: Vec<Fq> = bytes.chunks_exact(BYTES).map(Fq::from_le_bytes_mod_order).collect();
    match coordinates[2].inverse() {
        Some(inverse) => G1Affine::new(coordinates[0] * inverse, coordinates[1] * inverse),
        None => {
            assert!(coordinates[0].is_zero() && !coordinates[1].is_zero(), "infinity is (0 : y : 0)");
            G1Affine::identity()
        }
    }
}

#[test]
fn sums_and_products_of_points_equal_arkworks() {
    if !there_is_a_device() {
        return;
    }
    let generator = G1Projective::generator();
    let random = |seed: u64| Fr::from_le_bytes_mod_order(&noise(seed, BYTES));
    let p = generator * random(1);
    let q = generator * random(2);
    let points: Vec<G1Affine> = [p, q, -p, p.double(), -p.double(), generator, -generator, G1Projective::zero()]
        .map(CurveGroup::into_affine)
        .into();
    let edge: Fr = MontFp!("14474011154664524427946373126085988481658748083205070504932198000989141204991");
    let factors = [
        Fr::zero(),
        Fr::one(),
        -Fr::one(),
        Fr::from(2u64),
        Fr::from(3u64),
        Fr::from(4u64),
        Fr::from(5u64),
        Fr::from(7u64),
        Fr::from(8u64),
        edge,
        Fr::from(2u64).pow([253]),
        random(3),
        random(4),
        -random(5),
    ];
    let mut cases = Vec::new();
    let mut input = Vec::new();
    for (number, first) in points.iter().enumerate() {
        for (other, second) in points.iter().enumerate() {
            for (turn, factor) in factors.iter().enumerate() {
                // An affine operand is never infinity.
                let affine = if second.is_zero() { points[turn % 7] } else { *second };
                let (x, y) = affine.xy().expect("not infinity");
                let z = |seed: usize| Fq::from_le_bytes_mod_order(&noise(seed as u64, BYTES));
                input.extend(projective_bytes(first, z(100 + number + turn)));
                input.extend(projective_bytes(second, if turn == 0 { Fq::one() } else { z(200 + other) }));
                input.extend([x, y].into_iter().flat_map(coordinate_bytes));
                input.extend(factor.into_bigint().to_bytes_le());
                cases.push((*first, *second, affine, *factor));
            }
        }
    }
    let output = run(&CHECK_CURVE, CURVE_ELEMENTS, &input);
    for ((p, q, affine, factor), results) in cases.into_iter().zip(output.chunks_exact(CURVE_ELEMENTS.1 * BYTES)) {
        let expected = [p + q, p + affine, p.into_group().double(), p * factor];
        for (number, (result, expected)) in results.chunks_exact(3 * BYTES).zip(expected).enumerate() {
            assert_eq!(
                point_of_bytes(result),
                expected.into_affine(),
                "function {number}: {p}, {q}, {affine}, {factor}"
            );
        }
    }
}
