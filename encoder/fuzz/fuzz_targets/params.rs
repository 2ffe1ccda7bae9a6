//! Parameter files, ours and the network's: read or refused, whatever they hold, and our header is written as it was read.
#![no_main]

use std::{fs, path::PathBuf, sync::LazyLock};

use libfuzzer_sys::fuzz_target;
use sha2::{Digest, Sha256};
use zgpu_encoder::{
    blob::Dimensions,
    params::{
        ProverParams, VerifierParams,
        file::{BYTES_PER_HEADER, Header},
        network::{Format, import_powers, import_prover, import_verifier},
        silent,
    },
};

/// The header's digest is at its end.
const BYTES_PER_DIGEST: usize = 32;
/// Scalars of the largest matrix that is imported here, as log2: transforms of points are slow.
const MAX_LG_SCALARS: u32 = 5;

static FILE: LazyLock<PathBuf> =
    LazyLock::new(|| std::env::temp_dir().join(format!("zgpu-fuzz-params-{}", std::process::id())));

fn read_header(bytes: &[u8; BYTES_PER_HEADER]) {
    let Ok(header) = Header::from_bytes(bytes) else { return };
    // Bytes behind the source may be anything; what they say may not.
    let written = header.to_bytes();
    assert_eq!(Header::from_bytes(&written).expect("what was written").to_bytes(), written);
}

fuzz_target!(|input: &[u8]| {
    let mut header = [0; BYTES_PER_HEADER];
    let length = input.len().min(BYTES_PER_HEADER);
    header[..length].copy_from_slice(&input[..length]);
    read_header(&header);
    let (content, digest) = header.split_at_mut(BYTES_PER_HEADER - BYTES_PER_DIGEST);
    digest.copy_from_slice(&Sha256::digest(content));
    read_header(&header);

    fs::write(&*FILE, input).expect("a temporary file can be written");
    if let Ok(params) = ProverParams::open(&FILE) {
        let _ = params.verifier().check_content(&params.verifier().header());
    }
    let _ = VerifierParams::open(&FILE);
    let Ok(format) = Format::detect(&FILE) else { return };
    let files = [(); 3].map(|()| FILE.clone());
    match format {
        Format::Powers { lg_scalars, .. } if (4..=MAX_LG_SCALARS).contains(&lg_scalars) => {
            let dimensions = Dimensions::new(lg_scalars - 3, 3).expect("2 or 4 rows of 8");
            let _ = import_powers(&FILE, dimensions, None, &silent);
        }
        Format::Prover { dimensions, .. } if dimensions.lg_scalars() <= MAX_LG_SCALARS => {
            let _ = import_prover(&files, None, &silent);
            let _ = import_verifier(&files, None, &silent);
        }
        Format::Verifier { dimensions } if dimensions.lg_scalars() <= MAX_LG_SCALARS => {
            let _ = import_verifier(&files, None, &silent);
        }
        _ => {}
    }
});
