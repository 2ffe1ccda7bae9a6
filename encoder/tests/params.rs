//! Parameters: every form in which they come gives the same points, and what is no parameter is refused.
//!
//! The network's files are made here from the formulas and the τ of the vectors; their digests show that they are, byte for
//! byte, what the network's own tools write.

use std::{
    fs::{self, File},
    io::{self, Cursor, Read, Seek, SeekFrom},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use ark_bn254::{Fq, Fr, G1Affine, G1Projective, G2Affine, G2Projective};
use ark_ec::{AffineRepr, CurveGroup, PrimeGroup, scalar_mul::ScalarMul};
use ark_ff::{BigInteger, FftField, Field, One, PrimeField, Zero};
use ark_serialize::CanonicalSerialize;
use proptest::prelude::*;
use rand::{SeedableRng, rngs::StdRng};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use zgpu_encoder::{
    blob::{COSETS, Dimensions},
    check::{compare, parse_vectors},
    encode::encode,
    params::{
        BadPoint, Contents, ParamsError, Progress, ProverParams, VerifierParams,
        audit::{Relation, audit},
        ceremony, deployed,
        file::{BYTES_PER_HEADER, FileError, Header},
        load_dir,
        network::{self, Format, FormatError},
        silent,
    },
    points::{Encoding, PointError},
    verify::verify_slices,
};

const TAU: &str = "1f2e3d4c5b6a79880123456789abcdeffedcba98765432100f1e2d3c4b5a6978";
const HIGH_START: u64 = 6144;
const LG_ROWS: u32 = 6;
const N: usize = 2048;
/// The ceremony's size: 2^13 - 2^11 is where the high powers of the vectors begin.
const POWER: u32 = 13;

fn dimensions() -> Dimensions {
    Dimensions::new(LG_ROWS, 5).unwrap()
}

fn tau() -> Fr {
    let bytes: Vec<u8> = (0..32).map(|i| u8::from_str_radix(&TAU[2 * i..][..2], 16).unwrap()).collect();
    Fr::from_be_bytes_mod_order(&bytes)
}

static MADE: LazyLock<ProverParams> =
    LazyLock::new(|| ProverParams::insecure_from_tau(dimensions(), tau(), HIGH_START).unwrap());

fn reversed(index: usize, bits: u32) -> usize {
    (0..bits).fold(0, |reversed, bit| reversed << 1 | (index >> bit & 1))
}

fn g1(exponents: &[Fr]) -> Vec<G1Affine> {
    G1Projective::generator().batch_mul(exponents)
}

fn g2(exponents: &[Fr]) -> Vec<G2Affine> {
    G2Projective::generator().batch_mul(exponents)
}

fn powers(first: Fr, count: usize) -> Vec<Fr> {
    (0..count).scan(first, |power, _| Some(std::mem::replace(power, *power * tau()))).collect()
}

fn full(point: &impl CanonicalSerialize) -> Vec<u8> {
    let mut bytes = Vec::new();
    point.serialize_uncompressed(&mut bytes).unwrap();
    bytes
}

fn compressed(point: &impl CanonicalSerialize) -> Vec<u8> {
    let mut bytes = Vec::new();
    point.serialize_compressed(&mut bytes).unwrap();
    bytes
}

fn montgomery(coordinates: &[Fq]) -> Vec<u8> {
    coordinates.iter().flat_map(|coordinate| coordinate.0.0).flat_map(u64::to_le_bytes).collect()
}

fn montgomery_g1(points: &[G1Affine]) -> Vec<u8> {
    points.iter().flat_map(|point| montgomery(&[point.x, point.y])).collect()
}

fn montgomery_g2(points: &[G2Affine]) -> Vec<u8> {
    points.iter().flat_map(|point| montgomery(&[point.x.c0, point.x.c1, point.y.c0, point.y.c1])).collect()
}

fn big_endian(coordinates: &[Fq]) -> Vec<u8> {
    coordinates.iter().flat_map(|coordinate| coordinate.into_bigint().to_bytes_be()).collect()
}

/// The files of one τ, by name.
struct Files {
    folder: TempDir,
}

impl Files {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn set(&self, pattern: &str) -> [PathBuf; COSETS] {
        [0, 1, 2].map(|coset| self.path(&pattern.replace('#', &coset.to_string())))
    }
}

const MONTGOMERY: &str = "amt-prove-coset#-mont-06-11.bin";
const FULL: &str = "amt-prove-coset#-06-11.bin";
const VERIFY: &str = "amt-verify-coset#-06-11.bin";

static FILES: LazyLock<Files> = LazyLock::new(|| {
    let files = Files { folder: tempfile::tempdir().unwrap() };
    let write = |name: String, bytes: Vec<u8>| fs::write(files.path(&name), bytes).unwrap();
    let root = Fr::get_root_of_unity(N as u64).unwrap();
    let (high, inverse) = (tau().pow([HIGH_START]), Fr::from(N as u64).inverse().unwrap());
    let one = G2Affine::generator();
    let high_g2 = (one * high).into_affine();
    for coset in 0..COSETS {
        let shift = if coset == 0 { Fr::one() } else { Fr::get_root_of_unity((N as u64) << coset).unwrap() };
        let x = tau() / shift;
        let points: Vec<Fr> = (0..N).map(|q| root.pow([reversed(q, 11) as u64])).collect();
        let lagrange: Vec<Fr> =
            points.iter().map(|p| *p * inverse * (x.pow([N as u64]) - Fr::one()) / (x - p)).collect();
        let high_lagrange: Vec<Fr> = lagrange.iter().map(|value| *value * high).collect();
        let quotients: Vec<Vec<G1Affine>> = (1..=LG_ROWS)
            .map(|depth| {
                let s = [(N >> depth) as u64];
                g1(&points.iter().map(|p| *p * inverse * (x.pow(s) - p.pow(s)) / (x - p)).collect::<Vec<_>>())
            })
            .collect();
        let vanishing: Vec<Vec<G2Affine>> = (1..=LG_ROWS)
            .map(|depth| {
                let s = (N >> depth) as u64;
                let class = |node: usize| root.pow([s * reversed(node, depth) as u64]);
                let value = |node: usize| (x.pow([N as u64]) - Fr::one()) / (x.pow([s]) - class(node));
                g2(&(0..1 << depth).map(value).collect::<Vec<_>>())
            })
            .collect();
        let (lagrange, high_lagrange) = (g1(&lagrange), g1(&high_lagrange));
        let name = |pattern: &str| pattern.replace('#', &coset.to_string());
        let parts = [
            b"bamt\x0b\x06".to_vec(),
            full(&one),
            full(&high_g2),
            montgomery_g1(&lagrange),
            montgomery_g1(&quotients.concat()),
            montgomery_g2(&vanishing.concat()),
            montgomery_g1(&high_lagrange),
        ];
        write(name(MONTGOMERY), parts.concat());
        let parts =
            [full(&lagrange), full(&quotients), full(&vanishing), full(&one), full(&high_lagrange), full(&high_g2)];
        write(name(FULL), parts.concat());
        write(name(VERIFY), [full(&lagrange), full(&vanishing), full(&one), full(&high_g2)].concat());
    }
    let (low, high) = (powers(Fr::one(), N), powers(high, N));
    let (low_g1, low_g2, high_g1) = (g1(&low), g2(&low), g1(&high));
    let parts =
        [b"ptau\x0b".to_vec(), full(&high_g2), montgomery_g1(&low_g1), montgomery_g2(&low_g2), montgomery_g1(&high_g1)];
    write("power-tau-mont-11.bin".into(), parts.concat());
    let parts = [compressed(&low_g1), compressed(&low_g2), compressed(&high_g1), compressed(&high_g2)];
    write("power-tau-11.bin".into(), parts.concat());
    files
});

/// A challenge file of the ceremony's layout.
static CHALLENGE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let size = 1usize << POWER;
    let mut bytes = vec![0x5a; 64];
    let powers = powers(Fr::one(), 2 * size - 1);
    bytes.extend(g1(&powers).iter().flat_map(|point| big_endian(&[point.x, point.y])));
    let g2 = g2(&powers[..size]);
    bytes.extend(g2.iter().flat_map(|point| big_endian(&[point.x.c1, point.x.c0, point.y.c1, point.y.c0])));
    bytes.resize(ceremony::challenge_bytes(POWER).unwrap() as usize, 0);
    bytes
});

fn own_file(folder: &TempDir) -> PathBuf {
    let path = folder.path().join("made.zgpu");
    MADE.save(&path).unwrap();
    path
}

fn failures(params: &VerifierParams) -> Vec<Relation> {
    let findings = audit(params, &mut StdRng::seed_from_u64(11), &silent);
    findings.iter().filter(|finding| !finding.holds).map(|finding| finding.relation).collect()
}

#[test]
fn files_are_those_of_the_network() {
    for (name, digest) in [
        ("amt-prove-coset0-mont-06-11.bin", "05aef2bc1bdf5831dd96197fe959057f20680b28a7a1ca9c2cf4cf30caab3f78"),
        ("amt-prove-coset1-mont-06-11.bin", "61cc8502b899c2110431e1dfda7893899ebdb236729d0ed94e23683e893849b1"),
        ("amt-prove-coset2-mont-06-11.bin", "b104546ab358a28c9c59336185af3a66d808c5eb362a96fd46ec1f2ee71201a8"),
        ("power-tau-mont-11.bin", "c050e916f523a1047e9766da406cbb28d4a16d796ae7e265737285e200d374fd"),
        ("power-tau-11.bin", "c94ef43a9c712c0e71b67560cb2ec6ffa51695e7d7038d5a8d0065b1c7db7aa5"),
    ] {
        assert_eq!(deployed::digest(&FILES.path(name), &silent).unwrap(), digest, "{name}");
        assert_eq!(deployed::deployed_name(digest), None, "{name} is for tests");
    }
    let (name, digest) = deployed::DEPLOYED[1];
    assert_eq!(deployed::deployed_name(digest), Some(name));
}

#[test]
fn every_import_gives_the_same_points() {
    for pattern in [MONTGOMERY, FULL] {
        let params = network::import_prover(&FILES.set(pattern), Some(HIGH_START), &silent).unwrap();
        assert_eq!(params, *MADE, "{pattern}");
        assert_eq!(failures(params.verifier()), []);
    }
    for name in ["power-tau-mont-11.bin", "power-tau-11.bin"] {
        let params = network::import_powers(&FILES.path(name), dimensions(), None, &silent).unwrap();
        assert_eq!(params, *MADE, "{name}");
        assert_eq!(failures(params.verifier()), []);
    }
    for pattern in [MONTGOMERY, FULL, VERIFY] {
        let verifier = network::import_verifier(&FILES.set(pattern), None, &silent).unwrap();
        assert_eq!(verifier, *MADE.verifier(), "{pattern}");
        assert_eq!(failures(&verifier), []);
    }
}

/// A blob of the network's own encoder, with parameters from its own files.
#[test]
fn a_blob_of_the_network_comes_out_equal_with_imported_parameters() {
    let case = parse_vectors(include_str!("../vectors/blob-6x5-1234.json")).unwrap();
    let params = network::import_prover(&FILES.set(MONTGOMERY), None, &silent).unwrap();
    let blob = encode(&params, &case.data()).unwrap();
    assert_eq!(compare(&case, &blob.roots(), &blob.all_slices()), []);
    let verifier = network::import_verifier(&FILES.set(VERIFY), None, &silent).unwrap();
    let slices: Vec<_> = (0..case.dimensions.slices()).map(|index| blob.slice(index)).collect();
    assert_eq!(verify_slices(&verifier, &blob.id(), &slices, &mut StdRng::seed_from_u64(2)), Ok(()));
}

#[test]
fn a_file_of_our_own_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = own_file(&folder);
    let header = Header::read(&path).unwrap();
    assert_eq!((header.contents, header.dimensions), (Contents::Prover, dimensions()));
    assert_eq!((header.high_start, header.file_bytes()), (Some(HIGH_START), fs::metadata(&path).unwrap().len()));
    let opened = ProverParams::open(&path).unwrap();
    assert!(opened.is_mapped() && !MADE.is_mapped());
    assert_eq!(opened, *MADE);
    assert_eq!((opened.source(), opened.high_start()), (MADE.source(), Some(HIGH_START)));
    assert_eq!(opened.verifier().check_content(&header), Ok(()));
    assert_eq!(failures(opened.verifier()), []);

    // Written anew over the file that is mapped: the map keeps its bytes, and the name has the new ones.
    let other = ProverParams::insecure_from_tau(dimensions(), Fr::from(77u64), 9).unwrap();
    other.save(&path).unwrap();
    assert_eq!(opened, *MADE);
    assert_eq!(ProverParams::open(&path).unwrap(), other);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left behind");

    let verifier = network::import_verifier(&FILES.set(VERIFY), None, &silent).unwrap();
    let path = folder.path().join("verifier.zgpu");
    verifier.save(&path).unwrap();
    assert_eq!(VerifierParams::open(&path).unwrap(), verifier);
    let refused = ProverParams::open(&path).unwrap_err();
    assert!(matches!(refused, ParamsError::File { source: FileError::VerifierOnly, .. }), "{refused}");
    let full_size = Header { dimensions: Dimensions::new(10, 10).unwrap(), ..header };
    assert_eq!(full_size.file_bytes(), 336_334_848);
}

/// The bytes of a file of our own, with both digests right whatever is changed.
struct Forgery(Vec<u8>);

impl Forgery {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Forgery(fs::read(own_file(&folder)).unwrap())
    }

    fn put(mut self, at: usize, bytes: &[u8]) -> Self {
        self.0[at..][..bytes.len()].copy_from_slice(bytes);
        self
    }

    fn seal(mut self) -> Vec<u8> {
        let digest = Sha256::digest(&self.0[BYTES_PER_HEADER..]);
        self.0[40..72].copy_from_slice(&digest);
        let digest = Sha256::digest(&self.0[..4064]);
        self.0[4064..BYTES_PER_HEADER].copy_from_slice(&digest);
        self.0
    }
}

fn open_bytes(bytes: &[u8]) -> (TempDir, Result<ProverParams, ParamsError>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("forged.zgpu");
    fs::write(&path, bytes).unwrap();
    let opened = ProverParams::open(&path);
    (folder, opened)
}

fn file_error(bytes: &[u8]) -> FileError {
    match open_bytes(bytes).1 {
        Err(ParamsError::File { source, .. }) => source,
        other => panic!("{other:?}"),
    }
}

/// Sections of our own file for a prover: where they begin, and the relation that breaks with them.
const SECTIONS: [(usize, Relation); 5] = [
    (4096, Relation::Powers),
    (4096 + 64 * N, Relation::HighPowers),
    (4096 + 2 * 64 * N, Relation::Lagrange(0)),
    (4096 + 3 * 64 * N, Relation::Lagrange(1)),
    (4096 + 4 * 64 * N, Relation::Lagrange(2)),
];
const VANISHING_AT: usize = 4096 + 5 * 64 * N;

#[test]
fn damaged_and_hostile_files_of_our_own_are_refused() {
    let good = Forgery::new().seal();
    for length in [0, 7, 4095, 4096, good.len() - 1] {
        let error = file_error(&good[..length]);
        assert!(matches!(error, FileError::Short { .. } | FileError::Length { .. }), "{length}: {error}");
    }
    assert!(matches!(file_error(&[&good[..], &[0]].concat()), FileError::Length { .. }));
    let field = |at: usize, bytes: &[u8]| file_error(&Forgery::new().put(at, bytes).seal());
    assert!(matches!(field(0, b"zgpu-amx"), FileError::Magic { .. }));
    assert_eq!(field(8, &[2]), FileError::Version { actual: 2 });
    assert_eq!(field(12, &[3]), FileError::Contents { actual: 3 });
    assert!(matches!(field(12, &[1]), FileError::Length { .. }));
    for at in [16, 20] {
        assert!(matches!(field(at, &[7]), FileError::Length { .. }));
        assert!(matches!(field(at, &[0]), FileError::Dimensions(_)));
        assert!(matches!(field(at, &[0xff; 4]), FileError::Dimensions(_)));
    }
    assert!(matches!(field(32, &[0xff; 8]), FileError::Length { actual: u64::MAX, .. }));
    for (at, name) in [(72, "[1]_2"), (200, "[tau^high_start]_2"), (328, "[tau]_2")] {
        assert_eq!(field(at, &[0xff; 32]), FileError::Point { name, fault: PointError::Coordinate });
        assert_eq!(field(at, &[1]), FileError::Point { name, fault: PointError::Curve });
    }
    assert_eq!(field(72, &[0; 128]), FileError::Point { name: "[1]_2", fault: PointError::Infinity });
    assert_eq!(field(456, &[0xff; 4]), FileError::Source { actual: u32::MAX as usize });
    assert_eq!(field(456, &1025u32.to_le_bytes()), FileError::Source { actual: 1025 });
    assert_eq!(field(460, &[0xff]), FileError::Source { actual: MADE.source().len() });
    assert!(matches!(field(VANISHING_AT, &[1]), FileError::BadPoint(BadPoint { section: "vanishing points", .. })));
    let outside = g2_outside_the_group();
    assert_eq!(field(72, &outside), FileError::Point { name: "[1]_2", fault: PointError::Group });
    for at in [0, 8, 20, 33, 50, 100, 300, 470, 4000, 4070] {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        let error = file_error(&bytes);
        let expected = matches!(error, FileError::HeaderDigest { .. });
        assert!(expected || matches!(error, FileError::Magic { .. } | FileError::Version { .. }), "{at}: {error}");
    }
}

/// On the twist and not in its subgroup, in Montgomery form.
fn g2_outside_the_group() -> Vec<u8> {
    let points = (1u64..).filter_map(|x| G2Affine::get_point_from_x_unchecked(Fq::from(x).into_fq2(), false));
    let mut outside = points.filter(|point| !point.is_in_correct_subgroup_assuming_on_curve());
    montgomery_g2(&[outside.next().unwrap()])
}

trait IntoFq2 {
    fn into_fq2(self) -> ark_bn254::Fq2;
}

impl IntoFq2 for Fq {
    fn into_fq2(self) -> ark_bn254::Fq2 {
        ark_bn254::Fq2::new(self, Fq::zero())
    }
}

#[test]
fn damaged_content_is_found() {
    let sections = SECTIONS.map(|(at, _)| at);
    for at in sections.into_iter().chain([VANISHING_AT]) {
        let mut bytes = Forgery::new().seal();
        // Another byte of padding, or another point: whatever is changed.
        let last = if at == VANISHING_AT { bytes.len() - 1 } else { at + 64 * 1500 };
        bytes[last] ^= 1;
        let (folder, opened) = open_bytes(&bytes);
        let header = Header::read(&folder.path().join("forged.zgpu")).unwrap();
        let found = opened.unwrap().verifier().check_content(&header);
        assert!(matches!(found, Err(FileError::ContentDigest { .. })), "{at}: {found:?}");
    }
    for (point, fault) in [
        (vec![0xff; 64], PointError::Coordinate),
        (montgomery(&[Fq::one(), Fq::one()]), PointError::Curve),
        (vec![0; 64], PointError::Infinity),
    ] {
        for (at, _) in SECTIONS {
            let (folder, opened) = open_bytes(&Forgery::new().put(at + 64 * 700, &point).seal());
            let header = Header::read(&folder.path().join("forged.zgpu")).unwrap();
            match opened.unwrap().verifier().check_content(&header) {
                Err(FileError::BadPoint(bad)) => assert_eq!((bad.index, bad.fault), (700, fault)),
                other => panic!("{other:?}"),
            }
        }
    }
}

/// One right point in the place of another, in every section: its relation breaks.
#[test]
fn a_single_false_point_is_found() {
    let other = montgomery_g1(&[(G1Affine::generator() * Fr::from(5u64)).into()]);
    let other_g2 = montgomery_g2(&[(G2Affine::generator() * Fr::from(5u64)).into()]);
    let found = |at: usize, point: &[u8]| {
        let (_folder, opened) = open_bytes(&Forgery::new().put(at, point).seal());
        failures(opened.unwrap().verifier())
    };
    for (section, relation) in SECTIONS {
        for index in [0, 1, 31, 32, 1000, N - 1] {
            let broken = found(section + 64 * index, &other);
            if relation == Relation::Powers {
                assert!(broken.contains(&relation) && broken.contains(&Relation::Stride), "{index}: {broken:?}");
            } else {
                assert_eq!(broken, [relation], "point {index}");
            }
        }
    }
    for index in [0, 1, 2, 62, 125, 126, 300, 377] {
        assert!(found(VANISHING_AT + 128 * index, &other_g2).contains(&Relation::Vanishing), "vanishing point {index}");
    }
    assert!(found(72, &other_g2).contains(&Relation::Generators));
    assert_eq!(found(200, &other_g2), [Relation::HighPowers]);
    assert_eq!(found(328, &other_g2), [Relation::Powers]);
}

/// The same without [τ]₂, as in the network's files, and for a verifier, who has no powers.
#[test]
fn a_single_false_point_of_the_network_is_found() {
    let other = (G1Affine::generator() * Fr::from(5u64)).into();
    let lagrange_at = 4 + 2 + 2 * 128;
    let high_at = 1_064_966 - 64 * N;
    for (coset, at, relation) in [
        (0, lagrange_at + 64 * 9, Relation::Stride),
        (1, lagrange_at + 64 * 2047, Relation::Lagrange(1)),
        (2, lagrange_at, Relation::Lagrange(2)),
        (0, high_at + 64 * 77, Relation::HighPowers),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mut set = FILES.set(MONTGOMERY);
        let mut bytes = fs::read(&set[coset]).unwrap();
        bytes[at..][..64].copy_from_slice(&montgomery_g1(&[other]));
        set[coset] = folder.path().join("forged.bin");
        fs::write(&set[coset], bytes).unwrap();
        let params = network::import_prover(&set, None, &silent).unwrap();
        assert!(failures(params.verifier()).contains(&relation), "coset {coset} at {at}");
        if relation != Relation::HighPowers {
            let verifier = network::import_verifier(&set, None, &silent).unwrap();
            assert!(failures(&verifier).contains(&relation), "coset {coset} at {at}, for a verifier");
        }
    }
}

#[test]
fn damaged_and_hostile_files_of_the_network_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("forged.bin");
    let changed = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = fs::read(FILES.path(name)).unwrap();
        change(&mut bytes);
        fs::write(&path, bytes).unwrap();
        let import = |set: [PathBuf; COSETS]| network::import_prover(&set, None, &silent).map(|_| ());
        let result = match name {
            name if name.contains("verify") => {
                let mut set = FILES.set(VERIFY);
                set[1] = path.clone();
                network::import_verifier(&set, None, &silent).map(|_| ())
            }
            name if name.starts_with("power") => network::import_powers(&path, dimensions(), None, &silent).map(|_| ()),
            _ => {
                let mut set = FILES.set(MONTGOMERY);
                set[0] = path.clone();
                import(set)
            }
        };
        match result {
            Err(ParamsError::Foreign { source, .. }) => source,
            other => panic!("{name}: {other:?}"),
        }
    };
    let fault = |error: FormatError| match error {
        FormatError::Point(bad) => bad.fault,
        other => panic!("{other}"),
    };
    let (montgomery, full, verify) =
        (&MONTGOMERY.replace('#', "0"), &FULL.replace('#', "0"), &VERIFY.replace('#', "1"));
    for name in [montgomery.as_str(), full, verify, "power-tau-mont-11.bin", "power-tau-11.bin"] {
        let is_length = |error: FormatError| matches!(error, FormatError::Length { .. } | FormatError::Unknown { .. });
        assert!(is_length(changed(name, &|bytes| bytes.truncate(bytes.len() - 1))), "{name}");
        assert!(is_length(changed(name, &|bytes| bytes.push(0))), "{name}");
        assert!(is_length(changed(name, &|bytes| bytes.truncate(3))), "{name}");
        assert!(is_length(changed(name, &|bytes| bytes.clear())), "{name}");
    }
    let point = 6 + 256 + 64 * 5;
    assert_eq!(fault(changed(montgomery, &|b| b[point..][..64].fill(0))), PointError::Infinity);
    assert_eq!(fault(changed(montgomery, &|b| b[point..][..64].fill(0xff))), PointError::Coordinate);
    assert_eq!(fault(changed(montgomery, &|b| b[point] ^= 1)), PointError::Curve);
    assert_eq!(fault(changed(montgomery, &|b| b[6] ^= 1)), PointError::Curve);
    assert_eq!(fault(changed(montgomery, &|b| b[6 + 127] ^= 0x80)), PointError::Flags(0x80));
    assert!(matches!(changed(montgomery, &|b| b[4] = 255), FormatError::Dimensions(_)));
    assert!(matches!(changed(montgomery, &|b| b[5] = 12), FormatError::Dimensions(_)));
    assert!(matches!(changed(montgomery, &|b| b[5] = 5), FormatError::Length { .. }));
    let vanishing = 6 + 256 + 7 * 64 * N;
    let outside = g2_outside_the_group();
    assert_eq!(fault(changed(montgomery, &|b| b[vanishing..][..128].copy_from_slice(&outside))), PointError::Group);
    let point = 8 + 64 * 5;
    assert!(matches!(fault(changed(full, &|b| b[point + 63] ^= 0x80)), PointError::Flags(_)));
    assert!(matches!(fault(changed(full, &|b| b[point + 63] |= 0xc0)), PointError::Flags(_)));
    let infinity = |b: &mut Vec<u8>| {
        b[point..][..64].fill(0);
        b[point + 63] = 0x40;
    };
    assert_eq!(fault(changed(full, &infinity)), PointError::Infinity);
    assert!(matches!(changed(full, &|b| b[..8].fill(0xff)), FormatError::Unknown { .. }));
    // Counts inside: of the vanishing points, and of the high Lagrange points.
    let list = 8 + 64 * N;
    let vanishing = list + 8 + 6 * list;
    assert!(matches!(changed(full, &|b| b[vanishing] = 7), FormatError::Count { actual: 7, expected: 6, .. }));
    assert!(matches!(changed(full, &|b| b[vanishing + 8] = 0xff), FormatError::Count { expected: 2, .. }));
    let high = vanishing + 8 + 6 * 8 + 126 * 128 + 128;
    assert!(matches!(changed(full, &|b| b[high] = 1), FormatError::Count { expected: 2048, .. }));
    assert!(matches!(changed(verify, &|b| b[list] = 0), FormatError::Count { actual: 0, expected: 6, .. }));
    assert_eq!(fault(changed("power-tau-11.bin", &|b| b[8 + 31] |= 0xc0)), PointError::Flags(0xc0));
    assert!(matches!(changed("power-tau-11.bin", &|b| b[8 + 32 * N] = 1), FormatError::Count { .. }));

    // Files of the wrong kind, or of two sets.
    let mut set = FILES.set(MONTGOMERY);
    set[2] = FILES.path("power-tau-mont-11.bin");
    let refused = network::import_prover(&set, None, &silent).unwrap_err();
    assert!(matches!(refused, ParamsError::Foreign { source: FormatError::Kind { .. }, .. }), "{refused}");
    let refused = network::import_powers(&FILES.path(montgomery), dimensions(), None, &silent).unwrap_err();
    assert!(matches!(refused, ParamsError::Foreign { source: FormatError::Kind { .. }, .. }), "{refused}");
    let wide = Dimensions::new(6, 6).unwrap();
    let refused = network::import_powers(&FILES.path("power-tau-11.bin"), wide, None, &silent).unwrap_err();
    assert!(matches!(refused, ParamsError::Foreign { source: FormatError::Size { actual: 11, expected: 12 }, .. }));
    let refused = network::import_prover(&[const { PathBuf::new() }; 3], None, &silent).unwrap_err();
    assert!(matches!(refused, ParamsError::Io { .. }), "{refused}");
    // The cosets in another order: every point is right, and they do not belong together.
    let mut set = FILES.set(MONTGOMERY);
    set.swap(1, 2);
    let params = network::import_prover(&set, None, &silent).unwrap();
    assert_eq!(failures(params.verifier()), [Relation::Lagrange(1), Relation::Lagrange(2), Relation::Vanishing]);
}

#[test]
fn folders_are_found_out() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |words: &str| {
        let error = load_dir(folder.path()).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    };
    refused("there is no amt-prove-coset0-mont-*");
    assert!(matches!(load_dir(&folder.path().join("none")), Err(ParamsError::Io { .. })));
    for path in FILES.set(MONTGOMERY) {
        fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    assert_eq!(load_dir(folder.path()).unwrap(), *MADE);
    fs::copy(FILES.path(&MONTGOMERY.replace('#', "1")), folder.path().join("amt-prove-coset1-mont-other.bin")).unwrap();
    refused("more than one amt-prove-coset1-mont-*");
    let own = own_file(&folder);
    assert!(load_dir(folder.path()).unwrap().is_mapped(), "our own file comes first");
    assert_eq!(load_dir(&own).unwrap(), *MADE);
    fs::copy(&own, folder.path().join("second.zgpu")).unwrap();
    refused("2 files end in .zgpu, expected one");

    // A file of another coset under the name of this one.
    let folder = tempfile::tempdir().unwrap();
    for (path, coset) in FILES.set(MONTGOMERY).iter().zip([0, 2, 1]) {
        fs::copy(path, folder.path().join(MONTGOMERY.replace('#', &coset.to_string()))).unwrap();
    }
    assert!(matches!(load_dir(folder.path()), Err(ParamsError::Audit(Relation::Lagrange(1)))));
}

fn convert(challenge: &[u8], output: &Path, report: &(dyn Fn(Progress) + Sync)) -> Result<ProverParams, ParamsError> {
    ceremony::convert(Cursor::new(challenge), Path::new("challenge_13"), dimensions(), output, report)
}

#[test]
fn the_ceremony_gives_the_same_points() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("ceremony.zgpu");
    let params = convert(&CHALLENGE, &output, &silent).unwrap();
    assert_eq!(params, *MADE);
    assert_eq!(params.high_start(), Some(HIGH_START));
    assert!(params.is_mapped() && params.source().contains("challenge_13"));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "the work file has become the output");

    // Only the ranges that are named are read.
    let mut sparse = vec![0; CHALLENGE.len()];
    for range in ceremony::ranges(CHALLENGE.len() as u64, dimensions()).unwrap() {
        let range = range.start as usize..range.end as usize;
        sparse[range.clone()].copy_from_slice(&CHALLENGE[range]);
    }
    let again = folder.path().join("sparse.zgpu");
    convert(&sparse, &again, &silent).unwrap();
    assert!(fs::read(&again).unwrap() == fs::read(&output).unwrap());
    // Offsets of the real file.
    let real = ceremony::challenge_bytes(28).unwrap();
    let [_, high, g2, high_g2] = ceremony::ranges(real, Dimensions::new(10, 10).unwrap()).unwrap();
    assert_eq!((real, high.start), (103_079_215_232, 17_112_760_384));
    assert_eq!((g2.start, high_g2.start), (34_359_738_368, 68_585_259_008));
}

/// Stopped at every kind of place, and its work file damaged in between: the same bytes come out.
#[test]
fn an_interrupted_ceremony_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole.zgpu");
    let events = AtomicUsize::new(0);
    let count = |_: Progress| {
        events.fetch_add(1, Ordering::Relaxed);
    };
    convert(&CHALLENGE, &whole, &count).unwrap();
    let (whole, all) = (fs::read(whole).unwrap(), events.into_inner());
    let output = folder.path().join("interrupted.zgpu");
    let work = folder.path().join("interrupted.zgpu.work");
    let mut runs = 0;
    let mut stops = vec![1, 2, 20, 31, 34, 40, 50, 60, 5, 12];
    stops.retain(|stop| *stop < all);
    for (run, stop) in stops.iter().enumerate() {
        let left = AtomicUsize::new(*stop);
        let stopping = |_: Progress| {
            let before = left.fetch_sub(1, Ordering::Relaxed);
            assert!(before != 1, "stopped here");
        };
        let stopped = catch_unwind(AssertUnwindSafe(|| convert(&CHALLENGE, &output, &stopping)));
        if stopped.is_ok() {
            break;
        }
        runs += 1;
        assert!(!output.exists() && work.exists());
        if run == 3 {
            let mut bytes = fs::read(&work).unwrap();
            bytes[4096 + 64 * 200] ^= 1;
            fs::write(&work, bytes).unwrap();
        }
    }
    assert!(runs >= 4, "{runs} of the runs were stopped");
    // What is done is not read again: the parts of the powers were complete after the first stops.
    let params = convert(&CHALLENGE, &output, &silent).unwrap();
    assert_eq!(params, *MADE);
    assert!(fs::read(&output).unwrap() == whole);

    // A work file of another challenge, and one that is damaged, count for nothing.
    for damage in [vec![0; 4096], vec![0xff; 5000], Vec::new()] {
        fs::write(&work, damage).unwrap();
        convert(&CHALLENGE, &output, &silent).unwrap();
        assert!(fs::read(&output).unwrap() == whole);
    }
}

/// A reader that fails once it has read so much.
struct Failing<'a>(Cursor<&'a [u8]>, usize);

impl Read for Failing<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.0.read(bytes)?;
        self.1 = self.1.checked_sub(read).ok_or_else(|| io::Error::other("the line is cut"))?;
        Ok(read)
    }
}

impl Seek for Failing<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.0.seek(to)
    }
}

#[test]
fn what_is_done_of_a_ceremony_is_not_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("cut.zgpu");
    // Every run reads the points of G2, some 8 kB; the powers are 256 KiB.
    let mut runs = 1;
    loop {
        let failing = Failing(Cursor::new(&CHALLENGE), 100_000);
        match ceremony::convert(failing, Path::new("challenge_13"), dimensions(), &output, &silent) {
            Ok(params) => break assert_eq!(params, *MADE),
            Err(ParamsError::Io { source, .. }) if source.to_string() == "the line is cut" => runs += 1,
            Err(other) => panic!("{other}"),
        }
        assert!(runs < 10, "no run gets further than the one before");
    }
    assert_eq!(runs, 3);
}

#[test]
fn a_false_challenge_is_refused() {
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = CHALLENGE.clone();
        change(&mut bytes);
        let folder = tempfile::tempdir().unwrap();
        let error = convert(&bytes, &folder.path().join("false.zgpu"), &silent).unwrap_err();
        let is_useless = matches!(error, ParamsError::Audit(_));
        assert!(!is_useless || fs::read_dir(folder.path()).unwrap().count() == 0, "false points are not kept");
        error
    };
    let fault = |error: ParamsError| match error {
        ParamsError::Foreign { source: FormatError::Point(bad), .. } => (bad.section, bad.index, bad.fault),
        other => panic!("{other}"),
    };
    for error in [changed(&|b| b.truncate(b.len() - 1)), changed(&|b| b.push(0)), changed(&|b| b.clear())] {
        assert!(matches!(error, ParamsError::Foreign { source: FormatError::Challenge { .. }, .. }), "{error}");
    }
    let power = |index: usize| 64 + 64 * index;
    assert_eq!(fault(changed(&|b| b[power(300)] ^= 0x80)), ("powers", 300, PointError::Flags(0x80)));
    assert_eq!(fault(changed(&|b| b[power(301)] |= 0x40)), ("powers", 301, PointError::Infinity));
    assert_eq!(fault(changed(&|b| b[power(302) + 31] ^= 1)), ("powers", 302, PointError::Curve));
    assert_eq!(fault(changed(&|b| b[power(303)] |= 0x3f)), ("powers", 303, PointError::Coordinate));
    assert_eq!(fault(changed(&|b| b[power(6144 + 7)] ^= 0x80)), ("high powers", 7, PointError::Flags(0x80)));
    // Points that are right and false: found by pairings.
    let other = big_endian(&[Fq::one(), Fq::from(2u64)]);
    let false_power = changed(&|b| b[power(400)..][..64].copy_from_slice(&other));
    assert!(matches!(false_power, ParamsError::Audit(Relation::Powers)), "{false_power}");
    let false_high = changed(&|b| b[power(6144 + 400)..][..64].copy_from_slice(&other));
    assert!(matches!(false_high, ParamsError::Audit(Relation::HighPowers)), "{false_high}");

    // Two runs at once.
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("false.zgpu");
    let work = folder.path().join("false.zgpu.work");
    let file = File::create(&work).unwrap();
    file.lock().unwrap();
    let refused = convert(&CHALLENGE, &output, &silent).unwrap_err();
    assert!(matches!(refused, ParamsError::Io { .. }), "{refused}");
}

#[test]
fn points_come_back_in_every_encoding() {
    let point: G1Affine = (G1Affine::generator() * tau()).into();
    let point_g2: G2Affine = (G2Affine::generator() * tau()).into();
    for sign in [point, -point] {
        let forms = [
            (Encoding::Montgomery, montgomery_g1(&[sign])),
            (Encoding::Full, full(&sign)),
            (Encoding::Compressed, compressed(&sign)),
            (Encoding::BigEndian, big_endian(&[sign.x, sign.y])),
        ];
        forms.iter().for_each(|(encoding, bytes)| assert_eq!(encoding.g1(bytes), Ok(sign), "{encoding:?}"));
    }
    for sign in [point_g2, -point_g2] {
        let forms = [
            (Encoding::Montgomery, montgomery_g2(&[sign])),
            (Encoding::Full, full(&sign)),
            (Encoding::Compressed, compressed(&sign)),
            (Encoding::BigEndian, big_endian(&[sign.x.c1, sign.x.c0, sign.y.c1, sign.y.c0])),
        ];
        forms.iter().for_each(|(encoding, bytes)| assert_eq!(encoding.g2(bytes), Ok(sign), "{encoding:?}"));
    }
    for encoding in [Encoding::Full, Encoding::Compressed] {
        let mut infinity = vec![0; encoding.g2_bytes()];
        *infinity.last_mut().unwrap() = 0x40;
        assert_eq!(encoding.g2(&infinity), Err(PointError::Infinity));
        infinity[0] = 1;
        assert_eq!(encoding.g2(&infinity), Err(PointError::Flags(0x40)));
    }
}

proptest! {
    #[test]
    fn any_header_is_read_or_refused(
        changes in prop::collection::vec((0usize..4064, any::<u8>()), 0..6),
        source in ".{0,400}",
        high_start in prop::option::of(0..u64::MAX),
        (lg_rows, lg_columns) in (1u32..13, 3u32..14),
    ) {
        let header = Header {
            dimensions: Dimensions::new(lg_rows, lg_columns).unwrap(),
            source,
            high_start,
            ..MADE.verifier().header()
        };
        let mut bytes = header.to_bytes();
        let mut read = Header::from_bytes(&bytes).unwrap();
        let cut = read.source.len();
        prop_assert!(header.source.starts_with(&read.source) && (cut == header.source.len() || cut > 1020));
        read.source.clone_from(&header.source);
        prop_assert_eq!(&read, &header);
        changes.iter().for_each(|(at, byte)| bytes[*at] = *byte);
        let digest = Sha256::digest(&bytes[..4064]);
        bytes[4064..].copy_from_slice(&digest);
        if let Ok(changed) = Header::from_bytes(&bytes) {
            prop_assert_eq!(Header::from_bytes(&changed.to_bytes()), Ok(changed));
        }
    }

    #[test]
    fn any_start_of_a_file_is_known_or_refused(first in any::<[u8; 8]>(), magic in 0usize..4, length in any::<u64>()) {
        let mut first = first;
        match magic {
            0 => first[..4].copy_from_slice(b"bamt"),
            1 => first[..4].copy_from_slice(b"ptau"),
            2 => first = (u64::from(first[0]) * 64).to_le_bytes(),
            _ => {}
        }
        if let Ok(format) = Format::from_start(first, length) {
            prop_assert!(!format.name().is_empty());
        }
        let ranges = ceremony::ranges(length, dimensions());
        prop_assert!(ranges.is_err() || length > 384 << 11);
    }
}
