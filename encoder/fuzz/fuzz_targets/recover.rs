//! Recovery from rows that anybody may have sent: a result or an error.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use zgpu_encoder::{blob::Dimensions, recover::recover};

fuzz_target!(|input: &[u8]| {
    let [lg_rows, short, input @ ..] = input else { return };
    let dimensions = Dimensions::new(1 + u32::from(lg_rows % 3), 3).expect("2 to 8 rows of 8");
    let mut rows = BTreeMap::new();
    // A byte for the index, then the row; now and then one of the wrong length.
    let length = dimensions.row_bytes() - usize::from(*short == 0);
    for row in input.chunks(1 + length) {
        rows.insert(usize::from(row[0]), &row[1..]);
    }
    let _ = recover(dimensions, &rows);
});
