//! Prints what each kernel does in a second on a device, and how long its first call takes, which compiles it.
//!
//! `cargo run --release -p zgpu-shaders --example rates [INDEX [NONCES]]`

use std::time::Instant;

use zgpu_core::device::DeviceError;
use zgpu_core::units::{BYTES_PER_LOAD, BYTES_PER_SEAL};
use zgpu_core::work::{DrawJob, ScanItem};
use zgpu_shaders::PoraDevice;

const LOADS: u32 = 16;
const ROUNDS: u32 = 4;

fn main() -> Result<(), DeviceError> {
    let mut numbers =
        std::env::args().skip(1).map(|argument| argument.parse::<u32>().expect("INDEX and NONCES are numbers"));
    let mut device = PoraDevice::open(numbers.next().unwrap_or(0) as usize)?;
    println!("{:?}", device.info());
    let count = numbers.next().unwrap_or_else(|| device.preferred_batch());

    let mut pads = device.alloc_pads(count)?;
    let mut seeds = Vec::new();
    let job = DrawJob { miner_id: [1; 32], nonce_base: [2; 32], count, subtask_digest: [3; 32], range_digest: [4; 32] };
    measure("draw", "nonces/s", count.into(), || device.draw(&job, &mut pads, &mut seeds))?;

    let mut loads = device.alloc_loads(LOADS)?;
    device.upload_loads(&mut loads, 0, &vec![7; LOADS as usize * BYTES_PER_LOAD])?;
    let items: Vec<_> =
        (0..count).map(|n| ScanItem { pad_slot: n, load_slot: n % LOADS, available: u64::MAX }).collect();
    let mut hits = Vec::new();
    measure("scan", "items/s", count.into(), || device.scan(&pads, &loads, &items, &[0; 32], &mut hits))?;

    let seals = count as usize * 16;
    let (masks, mut data) = (vec![[5; 32]; seals], vec![6; seals * BYTES_PER_SEAL]);
    let mib = (data.len() >> 10) as f64 / 1024.0;
    measure("seal", "MiB/s", mib, || device.seal(&masks, &mut data))
}

/// Runs `work` once, which compiles its kernel, then some rounds of it.
fn measure(
    name: &str,
    unit: &str,
    amount: f64,
    mut work: impl FnMut() -> Result<(), DeviceError>,
) -> Result<(), DeviceError> {
    let start = Instant::now();
    work()?;
    let first = start.elapsed().as_secs_f64();
    let start = Instant::now();
    for _ in 0..ROUNDS {
        work()?;
    }
    let each = start.elapsed().as_secs_f64() / f64::from(ROUNDS);
    println!("{name}: {:.0} {unit}, {each:.3} s a call; first call {first:.3} s", amount / each);
    Ok(())
}
