// BLAKE2b-512 compression.
//
// Purpose: the pad seed (one block) and the quality of a seal (33 blocks).
// Source: RFC 7693 section 3; unkeyed, no salt, no personalisation, 64-byte digest.
// Input: chain value, a 128-byte block, the number of message bytes up to its end (< 2^32), whether it is the last.
// Output: the next chain value. A 64-bit word is a low and a high u32, bytes little-endian; the 4x4 state is kept as rows, each
// row one vec4 of low halves and one of high halves, so that a vector operation is one step of four mixes at once.
// Grid: none, a function of one thread. Shared memory: none. The message schedule is written out: all indices are literals.
// Twin: blake2b_simd in tests/support.

// Four 64-bit words.
struct Row {
    lo: vec4<u32>,
    hi: vec4<u32>,
}

// h0 to h3, and h4 to h7.
struct Chain {
    front: Row,
    back: Row,
}

struct Rows {
    a: Row,
    b: Row,
    c: Row,
    d: Row,
}

const IV_FRONT = Row(vec4<u32>(0xf3bcc908u, 0x84caa73bu, 0xfe94f82bu, 0x5f1d36f1u),
    vec4<u32>(0x6a09e667u, 0xbb67ae85u, 0x3c6ef372u, 0xa54ff53au));
const IV_BACK = Row(vec4<u32>(0xade682d1u, 0x2b3e6c1fu, 0xfb41bd6bu, 0x137e2179u),
    vec4<u32>(0x510e527fu, 0x9b05688cu, 0x1f83d9abu, 0x5be0cd19u));

// The parameter block of BLAKE2b-512: digest length 64, fanout 1, depth 1.
const BLAKE2B_512 = 0x01010040u;

fn xor_rows(p: Row, q: Row) -> Row {
    return Row(p.lo ^ q.lo, p.hi ^ q.hi);
}

// Sums of 64-bit words, wrapping.
fn add_rows(p: Row, q: Row) -> Row {
    let lo = p.lo + q.lo;
    return Row(lo, p.hi + q.hi + vec4<u32>(lo < p.lo));
}

// Rotates 64-bit words right by n, 1 to 31 bits.
fn rotate_row_right(p: Row, n: u32) -> Row {
    let right = vec4<u32>(n);
    let left = vec4<u32>(32u - n);
    return Row((p.lo >> right) | (p.hi << left), (p.hi >> right) | (p.lo << left));
}

// Four mixes G, one in each column; x and y are their message words.
fn mix_columns(v: Rows, x: Row, y: Row) -> Rows {
    var a = add_rows(add_rows(v.a, v.b), x);
    var d = xor_rows(v.d, a);
    d = Row(d.hi, d.lo);                    // right by 32
    var c = add_rows(v.c, d);
    var b = rotate_row_right(xor_rows(v.b, c), 24u);
    a = add_rows(add_rows(a, b), y);
    d = rotate_row_right(xor_rows(d, a), 16u);
    c = add_rows(c, d);
    b = xor_rows(b, c);
    b = rotate_row_right(Row(b.hi, b.lo), 31u); // right by 63
    return Rows(a, b, c, d);
}

fn gather(p: vec2<u32>, q: vec2<u32>, r: vec2<u32>, s: vec2<u32>) -> Row {
    return Row(vec4<u32>(p.x, q.x, r.x, s.x), vec4<u32>(p.y, q.y, r.y, s.y));
}

// One round: mixes down the columns, then down the diagonals. s0 to s15: the message words in the order of the round.
fn blake2b_round(v: Rows,
    s0: vec2<u32>, s1: vec2<u32>, s2: vec2<u32>, s3: vec2<u32>, s4: vec2<u32>, s5: vec2<u32>, s6: vec2<u32>, s7: vec2<u32>,
    s8: vec2<u32>, s9: vec2<u32>, s10: vec2<u32>, s11: vec2<u32>, s12: vec2<u32>, s13: vec2<u32>, s14: vec2<u32>, s15: vec2<u32>,
) -> Rows {
    let w = mix_columns(v, gather(s0, s2, s4, s6), gather(s1, s3, s5, s7));
    let turned = Rows(
        w.a,
        Row(w.b.lo.yzwx, w.b.hi.yzwx),
        Row(w.c.lo.zwxy, w.c.hi.zwxy),
        Row(w.d.lo.wxyz, w.d.hi.wxyz),
    );
    let u = mix_columns(turned, gather(s8, s10, s12, s14), gather(s9, s11, s13, s15));
    return Rows(
        u.a,
        Row(u.b.lo.wxyz, u.b.hi.wxyz),
        Row(u.c.lo.zwxy, u.c.hi.zwxy),
        Row(u.d.lo.yzwx, u.d.hi.yzwx),
    );
}

fn blake2b_512_start() -> Chain {
    return Chain(Row(IV_FRONT.lo ^ vec4<u32>(BLAKE2B_512, 0u, 0u, 0u), IV_FRONT.hi), IV_BACK);
}

// block: eight times two 64-bit words, as they lie in memory.
fn blake2b_compress(h: Chain, block: array<vec4<u32>, 8>, bytes_so_far: u32, last: bool) -> Chain {
    let m0 = block[0].xy;
    let m1 = block[0].zw;
    let m2 = block[1].xy;
    let m3 = block[1].zw;
    let m4 = block[2].xy;
    let m5 = block[2].zw;
    let m6 = block[3].xy;
    let m7 = block[3].zw;
    let m8 = block[4].xy;
    let m9 = block[4].zw;
    let m10 = block[5].xy;
    let m11 = block[5].zw;
    let m12 = block[6].xy;
    let m13 = block[6].zw;
    let m14 = block[7].xy;
    let m15 = block[7].zw;
    let final_mask = select(0u, 0xffffffffu, last);
    let tweak_lo = vec4<u32>(bytes_so_far, 0u, final_mask, 0u);
    let tweak_hi = vec4<u32>(0u, 0u, final_mask, 0u);
    var v = Rows(h.front, h.back, IV_FRONT, Row(IV_BACK.lo ^ tweak_lo, IV_BACK.hi ^ tweak_hi));
    v = blake2b_round(v, m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, m14, m15);
    v = blake2b_round(v, m14, m10, m4, m8, m9, m15, m13, m6, m1, m12, m0, m2, m11, m7, m5, m3);
    v = blake2b_round(v, m11, m8, m12, m0, m5, m2, m15, m13, m10, m14, m3, m6, m7, m1, m9, m4);
    v = blake2b_round(v, m7, m9, m3, m1, m13, m12, m11, m14, m2, m6, m5, m10, m4, m0, m15, m8);
    v = blake2b_round(v, m9, m0, m5, m7, m2, m4, m10, m15, m14, m1, m11, m12, m6, m8, m3, m13);
    v = blake2b_round(v, m2, m12, m6, m10, m0, m11, m8, m3, m4, m13, m7, m5, m15, m14, m1, m9);
    v = blake2b_round(v, m12, m5, m1, m15, m14, m13, m4, m10, m0, m7, m6, m3, m9, m2, m8, m11);
    v = blake2b_round(v, m13, m11, m7, m14, m12, m1, m3, m9, m5, m0, m15, m4, m8, m6, m2, m10);
    v = blake2b_round(v, m6, m15, m14, m9, m11, m3, m0, m8, m12, m2, m13, m7, m1, m4, m10, m5);
    v = blake2b_round(v, m10, m2, m8, m4, m7, m6, m1, m5, m15, m11, m9, m14, m3, m12, m13, m0);
    v = blake2b_round(v, m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, m14, m15);
    v = blake2b_round(v, m14, m10, m4, m8, m9, m15, m13, m6, m1, m12, m0, m2, m11, m7, m5, m3);
    return Chain(xor_rows(h.front, xor_rows(v.a, v.c)), xor_rows(h.back, xor_rows(v.b, v.d)));
}
