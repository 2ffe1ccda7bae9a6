//! Vector files: a case within bounds, or an error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use zgpu_encoder::check::parse_vectors;

fuzz_target!(|text: &str| {
    if let Ok(case) = parse_vectors(text) {
        assert!(case.data_length <= case.dimensions.max_data_bytes());
        assert_eq!(case.slice_hashes.len(), case.dimensions.slices().div_ceil(case.slice_step));
    }
});
