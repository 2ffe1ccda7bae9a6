//! Slices and slice proofs: what is read is written back as the same bytes; nothing else happens, whatever comes in.
//! The first two bytes choose the size of the matrix. The rest is read as it is, and as changes to a slice that is right.
#![no_main]

use std::sync::LazyLock;

use ark_bn254::Fr;
use libfuzzer_sys::fuzz_target;
use zgpu_encoder::{
    blob::Dimensions,
    encode::encode,
    params::ProverParams,
    slice::{EncodedSlice, SliceProof},
};

static RIGHT: LazyLock<(Dimensions, EncodedSlice)> = LazyLock::new(|| {
    let dimensions = Dimensions::new(2, 3).expect("4 rows of 8");
    let params = ProverParams::insecure_from_tau(dimensions, Fr::from(77u64), 96).expect("not on the domain");
    (dimensions, encode(&params, &[7; 500]).expect("it fits").slice(6))
});

fn read_slice(dimensions: Dimensions, bytes: &[u8]) {
    if let Ok(slice) = EncodedSlice::from_bytes(dimensions, bytes) {
        assert_eq!(slice.to_bytes(dimensions), bytes);
    }
}

fn read_proof(dimensions: Dimensions, bytes: &[u8]) {
    if let Ok(proof) = SliceProof::from_bytes(dimensions, bytes) {
        assert_eq!(proof.to_bytes(), bytes);
    }
}

fuzz_target!(|input: &[u8]| {
    let [lg_rows, lg_columns, bytes @ ..] = input else { return };
    let Ok(dimensions) = Dimensions::new(u32::from(lg_rows % 12), u32::from(lg_columns % 12)) else { return };
    // Lengths that are nearly right get through to the content.
    let resized = |length| {
        let mut bytes = bytes.to_vec();
        bytes.resize(length, 0);
        bytes
    };
    read_slice(dimensions, bytes);
    read_slice(dimensions, &resized(dimensions.slice_bytes()));
    read_proof(dimensions, bytes);
    read_proof(dimensions, &resized(dimensions.slice_proof_bytes()));

    let (dimensions, slice) = &*RIGHT;
    let changed = |right: Vec<u8>| -> Vec<u8> {
        right.iter().zip(bytes.iter().chain(std::iter::repeat(&0))).map(|(right, change)| right ^ change).collect()
    };
    read_slice(*dimensions, &changed(slice.to_bytes(*dimensions)));
    read_proof(*dimensions, &changed(slice.proof.to_bytes()));
});
