//! Prints how long each stage of a blob takes on a device, and how long opening it takes, which compiles the kernels.
//!
//! `cargo run --release -p zgpu-shaders --example blob_rates [INDEX [LG_ROWS LG_COLUMNS]]`

use std::time::Instant;

use ark_bn254::{Fr, G1Affine, G1Projective};
use ark_ec::{CurveGroup, PrimeGroup};
use zgpu_core::blob::{BYTES_PER_POINT, Dimensions, ProverBases};
use zgpu_core::device::DeviceError;
use zgpu_shaders::BlobDevice;

/// Points without a relation that anybody uses: this many different ones are enough for a measurement.
const POINTS: u64 = 1024;
const ROUNDS: u32 = 3;

fn main() -> Result<(), DeviceError> {
    let numbers: Vec<u32> = std::env::args()
        .skip(1)
        .map(|argument| argument.parse().expect("INDEX, LG_ROWS and LG_COLUMNS are numbers"))
        .collect();
    let number = |at: usize, default: u32| numbers.get(at).copied().unwrap_or(default);
    let dimensions = Dimensions::new(number(1, 10), number(2, 10)).expect("a size that matrices have");

    let factor = |number: u64| Fr::from(number * number + 0x1234_5678_9abc_def1) * Fr::from(u64::MAX - number);
    let point = |number: u64| (G1Projective::generator() * factor(number)).into_affine();
    let bytes = |point: G1Affine| [point.x, point.y].into_iter().flat_map(|c| c.0.0).flat_map(u64::to_le_bytes);
    let some: Vec<u8> = (0..POINTS).flat_map(|number| bytes(point(number))).collect();
    let all: Vec<u8> = some.iter().copied().cycle().take(dimensions.scalars() * BYTES_PER_POINT).collect();
    let bases = ProverBases { dimensions, powers: &all, high_powers: &all, lagrange: [&all; 3] };

    let start = Instant::now();
    let mut device = BlobDevice::open(number(0, 0) as usize, &bases, None)?;
    device.wait()?;
    println!("{:?}\nopened in {:.3} s", device.info(), start.elapsed().as_secs_f64());
    let mut blob = device.alloc_blob()?;
    let data: Vec<u8> = (0..dimensions.max_data_bytes() as u64).map(|i| ((i * i) >> 7) as u8 ^ i as u8).collect();
    let length = (data.len() as u32).to_le_bytes();
    let mut slices = vec![0; dimensions.all_slices_bytes()];
    // The first round compiles what the driver left for later.
    for round in 0..=ROUNDS {
        let start = Instant::now();
        device.extend(&data, length, &mut blob)?;
        device.wait()?;
        let extended = start.elapsed();
        device.commit(&mut blob)?;
        device.wait()?;
        let committed = start.elapsed();
        device.hash(&mut blob)?;
        device.wait()?;
        let hashed = start.elapsed();
        device.slices(&mut blob, &mut slices)?;
        let all = start.elapsed();
        let [extend, commit, hash, slices] =
            [extended, committed - extended, hashed - committed, all - hashed].map(|stage| stage.as_secs_f64());
        println!("round {round}: extend {extend:.4} s, commit {commit:.4} s, hash {hash:.4} s, slices {slices:.4} s");
    }
    Ok(())
}
