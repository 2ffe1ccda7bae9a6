//! One suite for every backend: equal inputs give equal bytes, and the plain twin judges.
//!
//! A backend that is not here is passed over with a reason; ZGPU_REQUIRE_WGPU=1, ZGPU_REQUIRE_CUDA=1 and
//! ZGPU_REQUIRE_ALL_CPU_LEVELS=1 turn that into a failure.

use std::{collections::HashMap, sync::Arc};

use ark_bn254::Fr;
use rand::{Rng, RngCore, SeedableRng, rngs::StdRng};
use zgpu_core::{
    blob::{BlobRoots, Dimensions},
    device::{BackendKind, DeviceError, DeviceInfo, UnusableDevice},
};
use zgpu_encoder::{
    blob::BlobError,
    check::check_vectors,
    cpu::{CpuEncoder, Level},
    encode::{EncodedBlob, encode},
    engine::{EncodeError, engine_on},
    params::ProverParams,
    seam::Encoder,
};

const VECTORS: [&str; 4] = [
    include_str!("../vectors/blob-6x5-1.json"),
    include_str!("../vectors/blob-6x5-31.json"),
    include_str!("../vectors/blob-6x5-1234.json"),
    include_str!("../vectors/blob-6x5-63484.json"),
];

/// Says why a backend is passed over, or fails when the variable asks for it.
fn absent(variable: &str, backend: BackendKind, unusable: &[UnusableDevice]) {
    let reasons: Vec<String> = unusable.iter().map(|device| format!("{}: {}", device.name, device.reason)).collect();
    let why = format!("there is no {backend} device ({})", reasons.join("; "));
    assert!(std::env::var(variable).as_deref() != Ok("1"), "{variable}=1, but {why}");
    eprintln!("passed over: {why}");
}

fn cpu(level: Level, params: &Arc<ProverParams>) -> Option<CpuEncoder> {
    let (usable, unusable) = zgpu_encoder::engine::devices();
    let Some(device) =
        usable.iter().find(|device| device.backend == BackendKind::Cpu && device.level == level.to_string())
    else {
        absent("ZGPU_REQUIRE_ALL_CPU_LEVELS", BackendKind::Cpu, &unusable);
        return None;
    };
    Some(CpuEncoder::open(device.index, params, None).expect("a listed device opens"))
}

fn emulated(params: &Arc<ProverParams>) -> Option<zgpu_kernels::emulated::BlobDevice> {
    Some(zgpu_kernels::emulated::BlobDevice::open(0, &params.bases(), None).expect("the host can run the kernels"))
}

fn wgpu(params: &Arc<ProverParams>) -> Option<zgpu_shaders::BlobDevice> {
    let (usable, unusable) = zgpu_shaders::list();
    let Some(device) = usable.first() else {
        absent("ZGPU_REQUIRE_WGPU", BackendKind::Wgpu, &unusable);
        return None;
    };
    Some(zgpu_shaders::BlobDevice::open(device.index, &params.bases(), None).expect("a listed device opens"))
}

fn cuda(params: &Arc<ProverParams>) -> Option<zgpu_kernels::BlobDevice> {
    let (usable, unusable) = zgpu_kernels::list();
    let Some(device) = usable.first() else {
        absent("ZGPU_REQUIRE_CUDA", BackendKind::Cuda, &unusable);
        return None;
    };
    Some(zgpu_kernels::BlobDevice::open(device.index, &params.bases(), None).expect("a listed device opens"))
}

/// The suite for one backend; `$shapes` random shapes of matrices.
macro_rules! conformance {
    ($name:ident, $open:expr, $shapes:literal) => {
        mod $name {
            #[test]
            fn vector_files() {
                super::vector_files($open);
            }
            #[test]
            fn special_blobs() {
                super::special_blobs($open);
            }
            #[test]
            fn shapes_of_matrices() {
                super::shapes_of_matrices($open, $shapes);
            }
            #[test]
            fn lanes_share_points() {
                super::lanes_share_points($open);
            }
            #[test]
            fn wrong_shapes_are_refused() {
                super::wrong_shapes($open);
            }
        }
    };
}

conformance!(cpu_ifma, |params| crate::cpu(crate::Level::Ifma, params), 12);
conformance!(cpu_portable, |params| crate::cpu(crate::Level::Portable, params), 12);
conformance!(cuda_emulated, crate::emulated, 2);
conformance!(wgsl, crate::wgpu, 2);
conformance!(cuda_card, crate::cuda, 12);

fn params(lg_rows: u32, lg_columns: u32, tau: u64) -> Arc<ProverParams> {
    let dimensions = Dimensions::new(lg_rows, lg_columns).unwrap();
    let high_start = 3 * dimensions.scalars() as u64;
    Arc::new(ProverParams::insecure_from_tau(dimensions, Fr::from(tau), high_start).unwrap())
}

/// All stages of one blob on a device.
fn run<E: Encoder>(device: &mut E, blob: &mut E::Blob, data: &[u8]) -> (BlobRoots, Vec<u8>) {
    let mut slices = vec![0xaa; device.dimensions().all_slices_bytes()];
    device.extend(data, (data.len() as u32).to_le_bytes(), blob).unwrap();
    device.commit(blob).unwrap();
    device.hash(blob).unwrap();
    let roots = device.slices(blob, &mut slices).unwrap();
    (roots, slices)
}

fn scalar_bytes<'a>(scalars: impl IntoIterator<Item = &'a Fr>) -> Vec<u8> {
    use ark_ff::{BigInteger, PrimeField};
    scalars.into_iter().flat_map(|scalar| scalar.into_bigint().to_bytes_le()).collect()
}

/// Encodes `data` and compares every stage with the twin's.
fn compare<E: Encoder>(device: &mut E, blob: &mut E::Blob, params: &ProverParams, data: &[u8], what: &str) {
    let twin: EncodedBlob = encode(params, data).unwrap();
    let dimensions = params.dimensions();
    let (roots, slices) = run(device, blob, data);
    let extended = twin.extended();
    assert!(device.read_coefficients(blob).unwrap() == scalar_bytes(extended.coefficients()), "{what}: coefficients");
    for coset in 0..3 {
        assert!(
            device.read_coset(blob, coset).unwrap() == scalar_bytes(extended.coset(coset)),
            "{what}: coset {coset}"
        );
    }
    assert_eq!(roots, twin.roots(), "{what}");
    let expected = twin.all_slices();
    for (index, (slice, expected)) in
        slices.chunks(dimensions.slice_bytes()).zip(expected.chunks(dimensions.slice_bytes())).enumerate()
    {
        let first = slice.iter().zip(expected).position(|(got, expected)| got != expected);
        assert_eq!(first, None, "{what}: first wrong byte of slice {index}");
    }
}

fn vector_files<E: Encoder + 'static>(open: impl Fn(&Arc<ProverParams>) -> Option<E>) {
    for text in VECTORS {
        let case = zgpu_encoder::check::parse_vectors(text).unwrap();
        let Some(device) = open(&Arc::new(case.params().unwrap())) else { return };
        let engine = |params: &Arc<ProverParams>| engine_on(device, Arc::clone(params));
        let summary = check_vectors(text, engine, &mut |report| assert!(report.passed(), "{report}")).unwrap();
        assert_eq!((summary.passed, summary.failed), (1, 0));
    }
}

/// Blobs whose sums meet infinity, doubling and cancellation, one after the other in the same memory.
fn special_blobs<E: Encoder>(open: impl Fn(&Arc<ProverParams>) -> Option<E>) {
    let params = params(4, 4, 987_654_321);
    let Some(mut device) = open(&params) else { return };
    let maximum = params.dimensions().max_data_bytes();
    let mut noise = vec![0; maximum];
    StdRng::seed_from_u64(5).fill_bytes(&mut noise);
    // A column's scalars equal, the others zero; half of the rows equal.
    let stripes: Vec<u8> = (0..maximum).map(|i| if i / 31 % 16 == 3 { 7 } else { 0 }).collect();
    let halves: Vec<u8> = (0..maximum).map(|i| if i < maximum / 2 { 0xff } else { ((i * i) >> 4) as u8 }).collect();
    let blobs = [
        ("random", noise.clone()),
        ("nothing", vec![]),
        ("one byte", vec![1]),
        ("one scalar", vec![0xff; 31]),
        ("one scalar and a byte", noise[..32].to_vec()),
        ("zeros", vec![0; maximum]),
        ("equal bytes", vec![0x5a; maximum]),
        ("ones", vec![0xff; maximum]),
        ("stripes", stripes),
        ("halves", halves),
        ("all but one byte", noise[..maximum - 1].to_vec()),
    ];
    let mut blob = device.alloc_blob().unwrap();
    for (what, data) in &blobs {
        compare(&mut device, &mut blob, &params, data, what);
    }
}

fn shapes_of_matrices<E: Encoder>(open: impl Fn(&Arc<ProverParams>) -> Option<E>, random: usize) {
    let mut rng = StdRng::seed_from_u64(6);
    // The smallest, the flattest and the tallest first.
    let fixed = [(1, 3), (1, 7), (6, 3)];
    let shapes = (0..random).map(|_| (rng.random_range(1..7), rng.random_range(3..7))).collect::<Vec<_>>();
    for (lg_rows, lg_columns) in fixed.into_iter().chain(shapes) {
        let params = params(lg_rows, lg_columns, rng.random());
        let Some(mut device) = open(&params) else { return };
        let mut blob = device.alloc_blob().unwrap();
        let mut data = vec![0; rng.random_range(0..=params.dimensions().max_data_bytes())];
        rng.fill_bytes(&mut data);
        compare(&mut device, &mut blob, &params, &data, &format!("2^{lg_rows} x 2^{lg_columns}, {} bytes", data.len()));
    }
}

/// Lanes at work at the same time do not disturb each other.
fn lanes_share_points<E: Encoder>(open: impl Fn(&Arc<ProverParams>) -> Option<E>) {
    let params = params(3, 4, 55);
    let Some(first) = open(&params) else { return };
    let second = first.lane().unwrap();
    let twins: HashMap<u8, (BlobRoots, Vec<u8>)> = (0..4)
        .map(|byte| {
            let twin = encode(&params, &[byte; 1000]).unwrap();
            (byte, (twin.roots(), twin.all_slices()))
        })
        .collect();
    let work = |mut device: E, bytes: [u8; 2]| {
        let mut blob = device.alloc_blob().unwrap();
        for byte in bytes.into_iter().cycle().take(6) {
            assert!(run(&mut device, &mut blob, &[byte; 1000]) == twins[&byte], "blob of {byte}");
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| work(first, [0, 1]));
        scope.spawn(|| work(second, [2, 3]));
    });
}

fn wrong_shapes<E: Encoder>(open: impl Fn(&Arc<ProverParams>) -> Option<E>) {
    let params = params(2, 3, 77);
    let Some(mut device) = open(&params) else { return };
    let dimensions = params.dimensions();
    let mut blob = device.alloc_blob().unwrap();
    let too_long = vec![0; dimensions.max_data_bytes() + 1];
    let refused = device.extend(&too_long, [0; 4], &mut blob);
    assert!(matches!(refused, Err(DeviceError::Shape { expected: 988, got: 989, .. })), "{refused:?}");
    run(&mut device, &mut blob, b"still works");
    for bytes in [0, dimensions.all_slices_bytes() - 1, dimensions.all_slices_bytes() + 1] {
        let refused = device.slices(&mut blob, &mut vec![0; bytes]);
        assert!(matches!(refused, Err(DeviceError::Shape { .. })), "{refused:?}");
    }
    let refused = device.read_coset(&blob, 3);
    assert!(matches!(refused, Err(DeviceError::Shape { .. })), "{refused:?}");
    compare(&mut device, &mut blob, &params, b"and still", "after what was refused");
}

/// A device that returns something wrong now and then.
struct Liar {
    honest: CpuEncoder,
    /// Byte of every slice that is changed, if any.
    changes: Option<usize>,
}

impl Encoder for Liar {
    type Blob = <CpuEncoder as Encoder>::Blob;

    fn info(&self) -> &DeviceInfo {
        self.honest.info()
    }
    fn dimensions(&self) -> Dimensions {
        self.honest.dimensions()
    }
    fn lane(&self) -> Result<Self, DeviceError> {
        Ok(Liar { honest: self.honest.lane()?, changes: self.changes })
    }
    fn preferred_lanes(&self) -> usize {
        1
    }
    fn alloc_blob(&mut self) -> Result<Self::Blob, DeviceError> {
        self.honest.alloc_blob()
    }
    fn extend(&mut self, data: &[u8], length: [u8; 4], blob: &mut Self::Blob) -> Result<(), DeviceError> {
        self.honest.extend(data, length, blob)
    }
    fn commit(&mut self, blob: &mut Self::Blob) -> Result<(), DeviceError> {
        self.honest.commit(blob)
    }
    fn hash(&mut self, blob: &mut Self::Blob) -> Result<(), DeviceError> {
        self.honest.hash(blob)
    }
    fn slices(&mut self, blob: &mut Self::Blob, slices: &mut [u8]) -> Result<BlobRoots, DeviceError> {
        let roots = self.honest.slices(blob, slices)?;
        if let Some(at) = self.changes {
            slices.chunks_mut(self.dimensions().slice_bytes()).for_each(|slice| slice[at] ^= 1);
        }
        Ok(roots)
    }
    fn wait(&mut self) -> Result<(), DeviceError> {
        self.honest.wait()
    }
    fn read_coefficients(&mut self, blob: &Self::Blob) -> Result<Vec<u8>, DeviceError> {
        self.honest.read_coefficients(blob)
    }
    fn read_coset(&mut self, blob: &Self::Blob, coset: usize) -> Result<Vec<u8>, DeviceError> {
        self.honest.read_coset(blob, coset)
    }
}

/// Whatever part of its slices is wrong, the engine notices, says so, and never uses the device again.
#[test]
fn a_device_that_lies_is_quarantined() {
    let params = params(2, 3, 99);
    let dimensions = params.dimensions();
    let row = dimensions.row_offset();
    let proof = row + dimensions.row_bytes() + 8;
    // Indices, commitment, row, its length, scalars, proof, high commitment, roots, path, row root.
    for at in
        [0, 8, 16, 80, 88, row, row + 40, proof, proof + 128 * 2, proof + 128 * 2 + 64, dimensions.slice_bytes() - 1]
    {
        let honest = CpuEncoder::open(0, &params, None).unwrap();
        let mut engine = engine_on(Liar { honest, changes: Some(at) }, Arc::clone(&params)).unwrap();
        let mut slices = Vec::new();
        let error = engine.encode(b"data", &mut slices).unwrap_err();
        assert!(matches!(error, EncodeError::Disagreement { .. }) && error.is_fatal(), "byte {at}: {error}");
        let error = engine.encode(b"data", &mut slices).unwrap_err();
        assert!(matches!(error, EncodeError::Quarantined { .. }) && error.is_fatal(), "byte {at}: {error}");
    }
    let honest = CpuEncoder::open(0, &params, None).unwrap();
    let mut engine = engine_on(Liar { honest, changes: None }, Arc::clone(&params)).unwrap();
    let mut slices = Vec::new();
    let too_large = engine.encode(&vec![0; dimensions.max_data_bytes() + 1], &mut slices).unwrap_err();
    assert!(matches!(too_large, EncodeError::Blob(BlobError::TooLarge { actual: 989, maximum: 988 })));
    assert!(!too_large.is_fatal());
    let encoded = engine.encode(b"data", &mut slices).unwrap();
    let twin = encode(&params, b"data").unwrap();
    assert_eq!((encoded.roots, slices), (twin.roots(), twin.all_slices()));
    assert!(encoded.times.total() >= encoded.times.check);
}
