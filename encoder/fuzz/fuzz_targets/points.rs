//! Points in all three encodings: each point has one, and what is read is on the curve.
#![no_main]

use libfuzzer_sys::fuzz_target;
use zgpu_encoder::points::{
    compressed_point_bytes, plain_point_bytes, plain_point_from_bytes, point_bytes, point_from_bytes,
    point_from_compressed_bytes,
};

fuzz_target!(|input: [u8; 64]| {
    if let Ok(point) = point_from_bytes(&input) {
        assert!(point.is_on_curve());
        assert_eq!(point_bytes(&point), input);
    }
    if let Ok(point) = plain_point_from_bytes(&input) {
        assert!(point.is_on_curve());
        assert_eq!(plain_point_bytes(&point), input);
    }
    let (half, _) = input.as_chunks::<32>();
    if let Ok(point) = point_from_compressed_bytes(&half[0]) {
        assert!(point.is_on_curve());
        assert_eq!(compressed_point_bytes(&point), half[0]);
        // Whatever can be read can be written in the other forms and read again.
        assert_eq!(point_from_bytes(&point_bytes(&point)), Ok(point));
        assert_eq!(plain_point_from_bytes(&plain_point_bytes(&point)), Ok(point));
    }
});
