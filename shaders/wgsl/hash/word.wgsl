// Byte order.

// Reverses the four bytes of a word.
fn swap_bytes(x: u32) -> u32 {
    let halves = ((x & 0x00ff00ffu) << 8u) | ((x >> 8u) & 0x00ff00ffu);
    return (halves << 16u) | (halves >> 16u);
}
