//! The compiled kernels: one image for every target, and none that loses time to spills. Needs no card.

use std::env;

use zgpu_kernels::images;
use zgpu_kernels::runtime::Kernel;

/// The targets that this build was asked for.
fn archs() -> Vec<u32> {
    match env::var("ZGPU_CUDA_ARCHS") {
        Ok(list) => list.split(',').map(|arch| arch.trim().parse().expect("a number")).collect(),
        Err(_) => vec![75, 80, 86, 89, 90],
    }
}

/// False, with the reason on stderr, when this build holds no images; a failure when it must.
fn has_images() -> bool {
    let has = !images::all().is_empty();
    if !has {
        assert!(
            env::var_os("ZGPU_REQUIRE_NVRTC").is_none(),
            "ZGPU_REQUIRE_NVRTC is set, and NVRTC was not found when this build was made"
        );
        eprintln!("skipped: NVRTC was not found when this build was made; scripts/setup fetches it");
    }
    has
}

#[test]
fn every_target_has_every_object() {
    if !has_images() {
        return;
    }
    for kernel in Kernel::ALL {
        for arch in archs() {
            let image = images::best(kernel.object(), arch / 10, arch % 10).expect("an image");
            assert!(!image.ptx && image.arch == arch, "{} for {arch}: got {}", kernel.name(), image.arch);
            assert!(image.bytes.starts_with(b"\x7fELF"));
            assert!(contains(image.bytes, kernel.name()), "{} for {arch} has no such symbol", kernel.name());
        }
        let newer = images::best(kernel.object(), 12, 0).expect("PTX for newer cards");
        assert!(newer.ptx && newer.bytes.starts_with(b"//"));
        assert!(contains(newer.bytes, kernel.name()));
        assert!(images::best(kernel.object(), 7, 0).is_none(), "nothing fits a card of capability 7.0");
    }
    if archs().contains(&80) {
        let between = images::best("scan", 8, 7).expect("an image");
        assert_eq!((between.ptx, between.arch / 10), (false, 8));
    }
}

fn contains(bytes: &[u8], name: &str) -> bool {
    bytes.windows(name.len()).any(|window| window == name.as_bytes())
}

#[test]
fn no_kernel_spills_and_enough_warps_fit() {
    if !has_images() {
        return;
    }
    for kernel in Kernel::ALL {
        for arch in archs() {
            let report = images::resources()
                .iter()
                .find(|report| report.kernel == kernel.name() && report.arch == arch)
                .expect("the assembler reports on every kernel");
            assert_eq!((report.stack_bytes, report.spill_bytes), (0, 0), "{report:?}");
            // 65,536 registers a multiprocessor: 80 a thread leave 24 warps, 128 leave 16, 168 leave 12.
            let most = match kernel {
                Kernel::SeedPads | Kernel::DrawPads | Kernel::SealUnits => 80,
                Kernel::ReduceSegments => 168,
                _ => 128,
            };
            assert!(report.registers <= most, "{report:?} takes more than {most} registers");
        }
    }
}

#[test]
fn the_listing_explains_itself_without_a_card() {
    let (usable, unusable) = zgpu_kernels::list();
    assert!(!usable.is_empty() || !unusable.is_empty());
    for device in &unusable {
        assert!(!device.reason.is_empty() && !device.remedy.is_empty(), "{device:?}");
    }
    assert!(usable.iter().all(|info| !info.software));
    let beyond = usable.len() + 1000;
    let error = zgpu_kernels::PoraDevice::open(beyond).err().expect("no such card");
    assert!(error.is_fatal(), "{error}");
}
