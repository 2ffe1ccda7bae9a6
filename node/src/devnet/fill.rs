//! Completing a pricing chunk with zeros, so that the network's pay rule applies: a chunk pays once its 8 GiB are full.

use zgpu_core::units::SECTORS_PER_PRICING;

/// Heights of single-node submissions that take the flow from `length` sectors to the end of its pricing chunk without a gap.
///
/// Each is as large as its alignment and the room allow; their roots are those of the zero ladder, so there is nothing to
/// upload. Empty when `length` ends a chunk already.
pub fn heights_to_chunk_end(length: u64) -> Vec<u32> {
    let end = length.next_multiple_of(SECTORS_PER_PRICING);
    let mut at = length;
    let mut heights = Vec::new();
    while at < end {
        let height = at.trailing_zeros().min((end - at).ilog2());
        heights.push(height);
        at += 1 << height;
    }
    heights
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;
    use zgpu_core::flow::place;

    #[test]
    fn fills_the_chunk_exactly_and_without_gaps() {
        for length in [1, 2, 3, 1024, 1025, 18 * 1024, 33_554_431, 33_554_432, 33_554_433] {
            let mut at = length;
            for height in heights_to_chunk_end(length) {
                let placement = place::<Infallible>(at, &[height]).unwrap();
                assert_eq!(placement.start, at, "no gap");
                at = placement.end;
            }
            assert_eq!(at, length.next_multiple_of(SECTORS_PER_PRICING));
        }
    }
}
