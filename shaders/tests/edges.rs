//! Bounds: empty work, the ends of the target's range, wrong shapes, lanes.

mod support;

use support::{device, draw, job, noise, quality, scan, seal, shared};
use zgpu_core::device::DeviceError;
use zgpu_core::work::ScanItem;
use zgpu_shaders::PoraDevice;

const LOAD: usize = 262_144;
const ALL: u64 = u64::MAX;

fn item(pad_slot: u32, load_slot: u32, available: u64) -> ScanItem {
    ScanItem { pad_slot, load_slot, available }
}

/// Asserts a shape error with these two numbers.
#[track_caller]
fn expect_shape<T: std::fmt::Debug>(outcome: Result<T, DeviceError>, wanted: u64, had: u64) {
    match outcome {
        Err(DeviceError::Shape { expected, got, .. }) => assert_eq!((expected, got), (wanted, had)),
        other => panic!("expected a shape error, got {other:?}"),
    }
}

#[test]
fn every_listed_device_is_described() {
    let (devices, unusable) = zgpu_shaders::list();
    assert!(!devices.is_empty() || !unusable.is_empty(), "a machine has devices, or a reason why not");
    for (index, info) in devices.iter().enumerate() {
        assert_eq!(info.index, index);
        assert!(!info.name.is_empty() && !info.level.is_empty());
        assert_eq!(info.software, info.name.ends_with("[software]"));
    }
    for device in unusable {
        assert!(!device.reason.is_empty() && !device.remedy.is_empty());
    }
}

#[test]
fn an_index_that_does_not_exist_is_refused() {
    let error = PoraDevice::open(1000).err().expect("no machine has so many devices");
    assert!(error.is_fatal() && matches!(error, DeviceError::Unusable { index: 1000, .. }), "{error}");
}

#[test]
fn types_cross_threads_as_promised() {
    fn movable<T: Send>() {}
    fn shareable<T: Clone + Send + Sync>() {}
    movable::<PoraDevice>();
    movable::<zgpu_shaders::Pads>();
    shareable::<zgpu_shaders::Loads>();
}

#[test]
fn nothing_to_do_is_done() {
    let Some(mut device) = shared() else { return };
    let mut pads = device.alloc_pads(0).expect("no pads");
    let loads = device.alloc_loads(0).expect("no loads");
    let (mut seeds, mut hits) = (vec![[1; 32]], vec![]);
    device.draw(&job(1, 0), &mut pads, &mut seeds).expect("no draw");
    device.scan(&pads, &loads, &[], &[0xff; 32], &mut hits).expect("no scan");
    device.seal(&[], &mut []).expect("no seal");
    assert!(seeds.is_empty() && hits.is_empty());
}

#[test]
fn seals_that_are_not_available_are_passed_over() {
    let Some(mut device) = shared() else { return };
    let mut pads = device.alloc_pads(1).expect("a pad");
    let loads = device.alloc_loads(1).expect("a load");
    device.draw(&job(2, 1), &mut pads, &mut Vec::new()).expect("a draw");
    let mut hits = Vec::new();
    let items = [item(0, 0, 0), item(0, 0, 1 << 63 | 1 << 31), item(0, 0, 0), item(0, 0, 1 << 32 | 1)];
    device.scan(&pads, &loads, &items, &[0xff; 32], &mut hits).expect("a scan");
    let found: Vec<_> = hits.iter().map(|hit| (hit.item, hit.seal)).collect();
    assert_eq!(found, [(1, 31), (1, 63), (3, 0), (3, 32)]);
    device.scan(&pads, &loads, &items[..1], &[0xff; 32], &mut hits).expect("a scan");
    assert!(hits.is_empty());
}

#[test]
fn a_quality_equal_to_the_target_is_a_hit() {
    let Some(mut device) = shared() else { return };
    let job = job(3, 1);
    let mut pads = device.alloc_pads(1).expect("a pad");
    device.draw(&job, &mut pads, &mut Vec::new()).expect("a draw");
    let bytes = noise(3, LOAD);
    let mut loads = device.alloc_loads(1).expect("a load");
    device.upload_loads(&mut loads, 0, &bytes).expect("an upload");
    let drawn = draw(&job, 0);
    let items = [item(0, 0, ALL)];
    let mut hits = Vec::new();

    device.scan(&pads, &loads, &items, &[0; 32], &mut hits).expect("a scan");
    assert!(hits.is_empty(), "no quality is zero");

    // A target that differs from a quality in one word only must be compared in exactly that word.
    let own = quality(&drawn, &bytes, 17);
    for word in 0..8 {
        for change in [-1i64, 0, 1] {
            let mut target = own;
            let at = &mut target[4 * word..4 * word + 4];
            let value = i64::from(u32::from_be_bytes(at.try_into().expect("4 bytes"))) + change;
            at.copy_from_slice(&u32::try_from(value).expect("a quality's word is not at its bounds").to_be_bytes());
            device.scan(&pads, &loads, &items, &target, &mut hits).expect("a scan");
            let twin = scan(std::slice::from_ref(&drawn), &bytes, &items, &target);
            assert_eq!(hits, twin, "word {word}, {change}");
            assert_eq!(hits.iter().any(|hit| hit.seal == 17), change >= 0);
        }
    }
}

#[test]
fn wrong_shapes_are_refused() {
    let Some(mut device) = shared() else { return };
    let mut pads = device.alloc_pads(4).expect("pads");
    let mut loads = device.alloc_loads(2).expect("loads");
    let (mut seeds, mut hits) = (Vec::new(), Vec::new());

    expect_shape(device.draw(&job(4, 5), &mut pads, &mut seeds), 4, 5);
    expect_shape(device.read_pad(&pads, 0), 0, 0);
    expect_shape(device.scan(&pads, &loads, &[item(0, 0, ALL)], &[0; 32], &mut hits), 0, 0);
    device.draw(&job(4, 3), &mut pads, &mut seeds).expect("a draw");
    expect_shape(device.scan(&pads, &loads, &[item(3, 0, ALL)], &[0; 32], &mut hits), 3, 3);
    expect_shape(device.scan(&pads, &loads, &[item(0, 2, 0)], &[0; 32], &mut hits), 2, 2);
    expect_shape(device.read_pad(&pads, 3), 3, 3);

    expect_shape(device.upload_loads(&mut loads, 0, &[0; 100]), 0, 100);
    expect_shape(device.upload_loads(&mut loads, 1, &vec![0; 2 * LOAD]), 2, 3);
    expect_shape(device.upload_loads(&mut loads, u32::MAX, &vec![0; LOAD]), 2, 1 << 32);
    let copy = loads.clone();
    expect_shape(device.upload_loads(&mut loads, 0, &vec![0; LOAD]), 1, 2);
    drop(copy);
    device.upload_loads(&mut loads, 0, &vec![0; LOAD]).expect("one owner");

    expect_shape(device.seal(&[[0; 32]; 2], &mut [0; 4096]), 8192, 4096);
    expect_shape(device.seal(&[], &mut [0; 1]), 0, 1);
}

#[test]
fn memory_of_another_device_is_refused() {
    let (Some(mut one), Some(mut other)) = (device(), device()) else { return };
    let mut pads = one.alloc_pads(1).expect("a pad");
    let mut loads = one.alloc_loads(1).expect("a load");
    let refused = [
        other.draw(&job(1, 1), &mut pads, &mut Vec::new()),
        other.upload_loads(&mut loads, 0, &[]),
        other.scan(&pads, &loads, &[], &[0; 32], &mut Vec::new()),
    ];
    for outcome in refused {
        assert!(matches!(outcome, Err(DeviceError::Shape { .. })), "{outcome:?}");
    }
}

#[test]
fn more_memory_than_there_is_is_an_error_and_the_device_lives_on() {
    let Some(mut device) = device() else { return };
    let error = device.alloc_loads(u32::MAX).err().expect("no device has a pebibyte");
    assert!(matches!(error, DeviceError::OutOfMemory { .. }), "{error}");
    assert!(!error.is_fatal());
    let mut pads = device.alloc_pads(1).expect("a pad");
    device.draw(&job(6, 1), &mut pads, &mut Vec::new()).expect("a draw");
}

#[test]
fn lanes_on_threads_share_loads() {
    let Some(mut first) = device() else { return };
    let bytes = noise(8, 2 * LOAD);
    let mut loads = first.alloc_loads(2).expect("loads");
    first.upload_loads(&mut loads, 0, &bytes).expect("an upload");
    let second = first.lane().expect("a lane");
    std::thread::scope(|scope| {
        for (number, mut lane) in [first, second].into_iter().enumerate() {
            let (loads, bytes) = (loads.clone(), &bytes);
            scope.spawn(move || {
                let job = job(number as u64, 8);
                let drawn: Vec<_> = (0..8).map(|number| draw(&job, number)).collect();
                let items: Vec<_> = (0..8).map(|n| item(n, n % 2, 0x11 << n)).collect();
                let mut pads = lane.alloc_pads(8).expect("pads");
                let twin = scan(&drawn, bytes, &items, &[0xff; 32]);
                let mut data = noise(9, 40 * 4096);
                let mut sealed = data.clone();
                sealed.chunks_exact_mut(4096).for_each(|data| seal(&[number as u8; 32], data));
                for round in 0..5 {
                    let mut hits = Vec::new();
                    lane.draw(&job, &mut pads, &mut Vec::new()).expect("a draw");
                    lane.scan(&pads, &loads, &items, &[0xff; 32], &mut hits).expect("a scan");
                    assert_eq!(hits, twin, "lane {number}, round {round}");
                }
                lane.seal(&[[number as u8; 32]; 40], &mut data).expect("a seal");
                assert!(data == sealed, "lane {number}");
            });
        }
    });
}

#[test]
fn preferred_batch_is_one_draw() {
    let Some(mut device) = device() else { return };
    let count = device.preferred_batch();
    let mut pads = device.alloc_pads(count).expect("pads of a batch");
    let mut seeds = Vec::new();
    let job = job(10, count);
    device.draw(&job, &mut pads, &mut seeds).expect("a draw");
    assert_eq!(seeds.len(), count as usize);
    assert_eq!(seeds[count as usize - 1], draw(&job, count - 1).recall_seed);
}
