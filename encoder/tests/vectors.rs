//! Blobs of the network's own encoder, in full: commitment, roots and all listed slices; and what is no vector file.

use std::sync::Arc;

use rand::{SeedableRng, rngs::StdRng};
use zgpu_core::device::DeviceError;
use zgpu_encoder::{
    check::{CaseReport, MAX_FILE_BYTES, Summary, VectorError, check_vectors, compare, parse_vectors},
    cpu::CpuEncoder,
    encode::encode,
    engine::{Engine, engine_on},
    params::ProverParams,
    slice::EncodedSlice,
    verify::verify_slices,
};

const BYTE: &str = include_str!("../vectors/blob-6x5-1.json");
const SCALAR: &str = include_str!("../vectors/blob-6x5-31.json");
const PART: &str = include_str!("../vectors/blob-6x5-1234.json");
const WHOLE: &str = include_str!("../vectors/blob-6x5-63484.json");
const FULL_SIZE: &str = include_str!("../vectors/blob-10x10-32505852.json");

fn engine(params: &Arc<ProverParams>) -> Result<Box<dyn Engine>, DeviceError> {
    engine_on(CpuEncoder::open(0, params, None)?, Arc::clone(params))
}

fn check(text: &str) -> (Summary, CaseReport) {
    let mut reports = Vec::new();
    let summary = check_vectors(text, engine, &mut |report| reports.push(report)).unwrap();
    assert_eq!(reports.len(), 1);
    (summary, reports.remove(0))
}

#[test]
fn blobs_of_the_network_come_out_equal() {
    let mut summary = Summary::default();
    for text in [BYTE, SCALAR, PART, WHOLE] {
        let (counts, report) = check(text);
        assert!(report.passed(), "{report}");
        summary += counts;
    }
    assert_eq!(summary, Summary { passed: 4, failed: 0 });
}

/// All 192 slices, by their bytes: verified together, and slice 0 as the file has it.
#[test]
fn slices_of_the_network_are_verified() {
    let case = parse_vectors(PART).unwrap();
    let params = case.params().unwrap();
    let blob = encode(&params, &case.data()).unwrap();
    let read = |bytes: &[u8]| EncodedSlice::from_bytes(case.dimensions, bytes).unwrap();
    let mut slices: Vec<EncodedSlice> =
        (0..case.dimensions.slices()).map(|index| read(&blob.slice(index).to_bytes(case.dimensions))).collect();
    slices[0] = read(case.first_slice.as_ref().unwrap());
    let mut rng = StdRng::seed_from_u64(1);
    assert_eq!(verify_slices(params.verifier(), &blob.id(), &slices, &mut rng), Ok(()));
}

/// The full size takes a minute or two, so only when asked for: ZGPU_LONG=1.
#[test]
fn the_full_size_blob_of_the_network_comes_out_equal() {
    let case = parse_vectors(FULL_SIZE).unwrap();
    assert_eq!((case.dimensions.slices(), case.slice_step, case.slice_hashes.len()), (3072, 97, 32));
    if std::env::var_os("ZGPU_LONG").is_none_or(|value| value != "1") {
        println!("skipped: the full size runs with ZGPU_LONG=1");
        return;
    }
    let timed = |what: &str, start: std::time::Instant| println!("{what}: {:.1} s", start.elapsed().as_secs_f64());
    let start = std::time::Instant::now();
    let params = case.params().unwrap();
    timed("parameters", start);
    let data = case.data();
    let start = std::time::Instant::now();
    let blob = encode(&params, &data).unwrap();
    timed("encode", start);
    let start = std::time::Instant::now();
    assert_eq!(compare(&case, &blob.roots(), &blob.all_slices()), []);
    timed("serialise and compare", start);
    let slices: Vec<EncodedSlice> = (0..case.dimensions.slices()).map(|index| blob.slice(index)).collect();
    let start = std::time::Instant::now();
    assert_eq!(verify_slices(params.verifier(), &blob.id(), &slices, &mut StdRng::seed_from_u64(1)), Ok(()));
    timed("verify all slices", start);
}

#[test]
fn a_changed_value_is_a_mismatch() {
    for (from, to, what) in [
        ("5de9964f5e59", "5de9964f5e58", "erasure commitment"),
        ("06433bb5", "06433bb6", "root of coset 0"),
        ("2554fa7d", "2554fa7e", "storage root"),
        ("999da0e5", "999da0e6", "SHA-256 of slice 0"),
        ("432ad9f7", "432ad9f8", "SHA-256 of all slices"),
        ("\"slice_len\": 2296", "\"slice_len\": 2297", "length of a slice"),
    ] {
        let changed = PART.replacen(from, to, 1);
        assert_ne!(changed, PART, "{from}");
        let (summary, report) = check(&changed);
        assert_eq!((summary.failed, report.mismatches[0].what.as_str()), (1, what));
        assert!(report.to_string().contains("FAILED"));
    }
}

#[test]
fn what_is_no_vector_file_is_refused() {
    let refused = |from: &str, to: &str| {
        let changed = PART.replacen(from, to, 1);
        assert_ne!(changed, PART, "{from}");
        parse_vectors(&changed).unwrap_err()
    };
    assert!(matches!(parse_vectors(&" ".repeat(MAX_FILE_BYTES + 1)), Err(VectorError::TooLarge { .. })));
    assert!(matches!(parse_vectors("{"), Err(VectorError::Json(_))));
    assert!(matches!(parse_vectors("[]"), Err(VectorError::NoObject)));
    assert!(matches!(parse_vectors("{}"), Err(VectorError::Missing { key: "rows_log" })));
    assert!(matches!(refused("\"rows_log\": 6", "\"rows_log\": 21"), VectorError::Number { key: "rows_log", .. }));
    assert!(matches!(refused("\"rows_log\": 6", "\"rows_log\": 16"), VectorError::Number { key: "cols_log", .. }));
    assert!(matches!(refused("\"rows_log\": 6", "\"rows_log\": 0"), VectorError::Blob(_)));
    assert!(matches!(refused("\"rows_log\": 6", "\"rows_log\": \"6\""), VectorError::Type { key: "rows_log", .. }));
    assert!(matches!(refused("\"data_len\": 1234", "\"data_len\": 63485"), VectorError::Number { limit: 63_484, .. }));
    assert!(matches!(refused("(i*131", "(i*132"), VectorError::Rule { key: "data_rule", .. }));
    assert!(matches!(refused("\"tau_be\": \"1f2e", "\"tau_be\": \"ffff"), VectorError::Tau));
    assert!(matches!(refused("\"tau_be\": \"1f2e", "\"tau_be\": \"1f2"), VectorError::Hex { key: "tau_be", .. }));
    assert!(matches!(refused("\"tau_be\": \"1f2e", "\"tau_be\": \"1f2x"), VectorError::Hex { key: "tau_be", .. }));
    assert!(matches!(refused("\"slice0\": \"00", "\"slice0\": \""), VectorError::Hex { key: "slice0", .. }));
    assert!(matches!(
        refused("\"slice_len\"", "\"slice_sha256_rule\": \"slices 0, 97, 195, … in order\", \"slice_len\""),
        VectorError::Rule { key: "slice_sha256_rule", .. }
    ));
    assert!(matches!(
        refused("\"slice_len\"", "\"slice_sha256_rule\": \"slices 0, 2, 4, … in order\", \"slice_len\""),
        VectorError::Count { key: "slice_sha256", expected: 96, got: 192 }
    ));
}
