//! Blobs: data that is packed comes back, and scalars that can be unpacked are those of their data.
#![no_main]

use libfuzzer_sys::fuzz_target;
use zgpu_encoder::blob::{BYTES_PER_SCALAR, Dimensions, pack, unpack};

fuzz_target!(|input: &[u8]| {
    let [lg_rows, lg_columns, data @ ..] = input else { return };
    let Ok(dimensions) = Dimensions::new(u32::from(lg_rows % 6), u32::from(lg_columns % 7)) else { return };
    if let Ok(scalars) = pack(dimensions, data) {
        assert_eq!(unpack(dimensions, &scalars).as_deref(), Ok(data));
    }
    let mut scalars = data.to_vec();
    scalars.resize(dimensions.scalars() * BYTES_PER_SCALAR, 0);
    if let Ok(data) = unpack(dimensions, &scalars) {
        assert_eq!(pack(dimensions, &data).as_ref(), Ok(&scalars));
    }
    let _ = unpack(dimensions, data);
});
