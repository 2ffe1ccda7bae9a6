//! Encoding of blobs against its plain twin: every byte of every slice.

mod support;

use std::time::Instant;

use ark_bn254::Fr;
use support::blob::{Points, encode, extend, scalar_bytes};
use support::noise;
use zgpu_core::blob::{COSETS, Dimensions};
use zgpu_core::device::DeviceError;
use zgpu_shaders::{Blob, BlobDevice, BlobTuning};

fn dimensions(lg_rows: u32, lg_columns: u32) -> Dimensions {
    Dimensions::new(lg_rows, lg_columns).expect("a size that matrices have")
}

/// A device with these points; `None` where a machine has no adapter.
fn open(points: &Points, tuning: BlobTuning) -> Option<BlobDevice> {
    if !support::there_is_a_device() {
        return None;
    }
    let start = Instant::now();
    let device = BlobDevice::open_tuned(0, &points.bases(), None, tuning).expect("a listed device opens");
    eprintln!("opened in {:.2?}", start.elapsed());
    Some(device)
}

/// Encodes, and compares with the twin.
#[track_caller]
fn compare(device: &mut BlobDevice, blob: &mut Blob, points: &Points, data: &[u8], what: &str) {
    let length = (data.len() as u32).to_le_bytes();
    let mut slices = vec![0; points.dimensions.all_slices_bytes()];
    let start = Instant::now();
    device.extend(data, length, blob).expect("extends");
    device.wait().expect("waits");
    let extended = start.elapsed();
    device.commit(blob).expect("commits");
    device.wait().expect("waits");
    let committed = start.elapsed();
    device.hash(blob).expect("hashes");
    let roots = device.slices(blob, &mut slices).expect("serialises");
    let all = start.elapsed();
    eprintln!("{what}: extend {extended:.2?}, commit {:.2?}, all {all:.2?}", committed - extended);
    let (twin, twin_roots) = encode(points, data, length);
    let bytes = points.dimensions.slice_bytes();
    for (index, (slice, twin)) in slices.chunks(bytes).zip(twin.chunks(bytes)).enumerate() {
        let differs = slice.iter().zip(twin).position(|(byte, twin)| byte != twin);
        assert_eq!(differs, None, "{what}: first byte of slice {index} that differs");
    }
    assert_eq!(roots, twin_roots, "{what}");
}

#[test]
fn coefficients_and_cosets_equal_the_twin() {
    for size in [dimensions(1, 3), dimensions(3, 4), dimensions(6, 5)] {
        let points = Points::new(size, 5, |number| Fr::from(number + 1));
        let Some(mut device) = open(&points, BlobTuning::default()) else { return };
        let mut blob = device.alloc_blob().expect("memory for a blob");
        for length in [0, 1, 3, 4, 30, 31, 32, size.max_data_bytes() - 1, size.max_data_bytes()] {
            let data = noise(length as u64, length);
            device.extend(&data, [1, 2, 3, 0xff], &mut blob).expect("extends");
            let twin = extend(size, &data, [1, 2, 3, 0xff]);
            assert_eq!(
                device.read_coefficients(&blob).expect("reads"),
                scalar_bytes(&twin.coefficients),
                "{length} bytes"
            );
            for coset in 0..COSETS {
                let rows = device.read_coset(&blob, coset).expect("reads");
                assert_eq!(rows, scalar_bytes(&twin.cosets[coset]), "{length} bytes, coset {coset}");
            }
        }
    }
}

#[test]
fn special_blobs_equal_the_twin() {
    let size = dimensions(3, 4);
    let points = Points::random(size);
    let Some(mut device) = open(&points, BlobTuning::default()) else { return };
    let mut blob = device.alloc_blob().expect("memory for a blob");
    let maximum = size.max_data_bytes();
    for data in [vec![], vec![1], vec![0xff; 31], vec![0; maximum], vec![0x5a; maximum], vec![0xff; maximum]] {
        compare(&mut device, &mut blob, &points, &data, &format!("{} bytes {:?}", data.len(), data.first()));
    }
}

/// Doublings and cancellations wherever points meet.
#[test]
fn related_points_equal_the_twin() {
    let size = dimensions(3, 4);
    type Rule = fn(u64) -> Fr;
    let rules: [(&str, Rule); 3] = [
        ("one point", |_| Fr::from(1u64)),
        ("a point and its negative", |number| if number % 2 == 0 { Fr::from(1u64) } else { -Fr::from(1u64) }),
        ("small multiples", |number| Fr::from(number % 4 + 1)),
    ];
    for (what, rule) in rules {
        let points = Points::new(size, 4, rule);
        let Some(mut device) = open(&points, BlobTuning::default()) else { return };
        let mut blob = device.alloc_blob().expect("memory for a blob");
        for data in [vec![], vec![0x5a; size.max_data_bytes()], noise(3, 3000)] {
            compare(&mut device, &mut blob, &points, &data, what);
        }
    }
}

#[test]
fn every_cut_gives_the_same_bytes() {
    let size = dimensions(2, 4);
    let points = Points::random(size);
    let data = noise(5, size.max_data_bytes());
    for digit_bits in [3, 5, 6, 8, 10] {
        // Pieces of 8 or 16 points, in batches that do not divide their number.
        let tuning = BlobTuning {
            lg_points: Some(3 + digit_bits % 2),
            digit_bits: Some(digit_bits),
            pieces: Some(2 * digit_bits - 5),
            copy_bytes: Some(4 * 997),
        };
        let Some(mut device) = open(&points, tuning) else { return };
        let mut blob = device.alloc_blob().expect("memory for a blob");
        compare(&mut device, &mut blob, &points, &data, &format!("{tuning:?}"));
    }
}

#[test]
fn lanes_on_threads_share_the_points() {
    let size = dimensions(2, 3);
    let points = Points::random(size);
    let Some(first) = open(&points, BlobTuning::default()) else { return };
    let second = first.lane().expect("a lane");
    std::thread::scope(|scope| {
        for (number, mut lane) in [first, second].into_iter().enumerate() {
            let points = &points;
            scope.spawn(move || {
                let mut blob = lane.alloc_blob().expect("memory for a blob");
                for round in 0..3 {
                    let data = noise((10 * number + round) as u64, 700);
                    compare(&mut lane, &mut blob, points, &data, &format!("lane {number}, round {round}"));
                }
            });
        }
    });
}

#[test]
fn wrong_shapes_are_refused() {
    let size = dimensions(1, 3);
    let points = Points::random(size);
    let Some(mut device) = open(&points, BlobTuning::default()) else { return };
    let shape = |outcome: Result<(), DeviceError>, wanted: u64, had: u64| match outcome {
        Err(DeviceError::Shape { expected, got, .. }) => assert_eq!((expected, got), (wanted, had)),
        other => panic!("expected a shape error, got {other:?}"),
    };
    let mut blob = device.alloc_blob().expect("memory for a blob");
    let maximum = size.max_data_bytes();
    shape(device.extend(&vec![0; maximum + 1], [0; 4], &mut blob), maximum as u64, maximum as u64 + 1);
    let bytes = size.all_slices_bytes();
    shape(device.slices(&mut blob, &mut vec![0; bytes - 4]).map(drop), bytes as u64, bytes as u64 - 4);
    shape(device.read_coset(&blob, 3).map(drop), 3, 3);
    let short = zgpu_core::blob::ProverBases { powers: &points.bases().powers[64..], ..points.bases() };
    shape(BlobDevice::open(0, &short, None).map(drop), 1024, 960);
    let Some(mut other) = open(&points, BlobTuning::default()) else { return };
    assert!(matches!(other.commit(&mut blob), Err(DeviceError::Shape { .. })), "a blob of another device");
    let missing = BlobDevice::open(1000, &points.bases(), None).err().expect("no machine has so many devices");
    assert!(matches!(missing, DeviceError::Unusable { index: 1000, .. }), "{missing}");
}

#[test]
fn points_that_are_too_few_are_refused_before_any_work() {
    if !support::there_is_a_device() {
        return;
    }
    // 2^26 scalars: 4 GiB of points in one list.
    let size = dimensions(13, 13);
    let empty: &[u8] = &[];
    let bases =
        zgpu_core::blob::ProverBases { dimensions: size, powers: empty, high_powers: empty, lagrange: [empty; COSETS] };
    let refused = BlobDevice::open(0, &bases, None).err().expect("no points are too few");
    assert!(matches!(refused, DeviceError::Shape { expected: 0x1_0000_0000, got: 0, .. }), "{refused}");
}

#[test]
fn types_cross_threads_as_promised() {
    fn movable<T: Send>() {}
    movable::<BlobDevice>();
    movable::<Blob>();
}

#[test]
fn the_smallest_blob_equals_the_twin() {
    let points = Points::random(dimensions(1, 3));
    let Some(mut device) = open(&points, BlobTuning::default()) else { return };
    let mut blob = device.alloc_blob().expect("memory for a blob");
    compare(&mut device, &mut blob, &points, &noise(1, 400), "noise");
}

#[test]
fn the_test_size_equals_the_twin() {
    let points = Points::random(dimensions(6, 5));
    let Some(mut device) = open(&points, BlobTuning::default()) else { return };
    let mut blob = device.alloc_blob().expect("memory for a blob");
    compare(&mut device, &mut blob, &points, &noise(1, 50_000), "noise");
    compare(&mut device, &mut blob, &points, &[], "no data");
}

/// `cargo test --release -p zgpu-shaders --test blob -- --ignored`: for a card; software takes some ten minutes of two cores.
#[test]
#[ignore = "for a card: software takes some ten minutes of two cores"]
fn the_full_size_equals_the_twin() {
    let points = Points::random(dimensions(10, 10));
    let Some(mut device) = open(&points, BlobTuning::default()) else { return };
    let mut blob = device.alloc_blob().expect("memory for a blob");
    let maximum = points.dimensions.max_data_bytes();
    compare(&mut device, &mut blob, &points, &noise(1, maximum), "noise");
    compare(&mut device, &mut blob, &points, &vec![0x5a; maximum], "equal bytes");
}
