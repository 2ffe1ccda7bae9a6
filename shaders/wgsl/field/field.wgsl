// Arithmetic of a prime field of 254 bits.
//
// Purpose: sums and products under the transforms and the points. A file of constants (fr.wgsl, fq.wgsl) goes before it.
// Source: Montgomery's product, one limb at a time, with radix 2^260: 20 limbs of 13 bits. A product of two limbs has 26
//   bits, so that 60 of them fit a 32-bit word: two products are summed and reduced with no carry between limbs before the end.
// Input, output: an Fe in registers has limbs below 2^13, the lowest first, and a value below 2 * MODULUS; all functions keep
//   that. In memory (Packed): the same value as eight 32-bit words, the lowest first.
// Grid: none, functions of one thread. Shared memory: none.
// Twin: ark-bn254's Fr and Fq in src/field.rs.

struct Fe {
    a: vec4<u32>,
    b: vec4<u32>,
    c: vec4<u32>,
    d: vec4<u32>,
    e: vec4<u32>,
}

struct Packed {
    lo: vec4<u32>,
    hi: vec4<u32>,
}

const LIMBS = 20u;
const LIMB_BITS = 13u;
const LIMB_MASK = 0x1fffu;

fn unpack(packed: Packed) -> Fe {
    let lo = packed.lo;
    let hi = packed.hi;
    let mask = vec4<u32>(LIMB_MASK);
    return Fe(
        vec4<u32>(lo.x, lo.x >> 13u, (lo.x >> 26u) | (lo.y << 6u), lo.y >> 7u) & mask,
        vec4<u32>((lo.y >> 20u) | (lo.z << 12u), lo.z >> 1u, lo.z >> 14u, (lo.z >> 27u) | (lo.w << 5u)) & mask,
        vec4<u32>(lo.w >> 8u, (lo.w >> 21u) | (hi.x << 11u), hi.x >> 2u, hi.x >> 15u) & mask,
        vec4<u32>((hi.x >> 28u) | (hi.y << 4u), hi.y >> 9u, (hi.y >> 22u) | (hi.z << 10u), hi.z >> 3u) & mask,
        vec4<u32>(hi.z >> 16u, (hi.z >> 29u) | (hi.w << 3u), hi.w >> 10u, hi.w >> 23u) & mask,
    );
}

fn pack(x: Fe) -> Packed {
    let lo = vec4<u32>(
        x.a.x | (x.a.y << 13u) | (x.a.z << 26u),
        (x.a.z >> 6u) | (x.a.w << 7u) | (x.b.x << 20u),
        (x.b.x >> 12u) | (x.b.y << 1u) | (x.b.z << 14u) | (x.b.w << 27u),
        (x.b.w >> 5u) | (x.c.x << 8u) | (x.c.y << 21u),
    );
    let hi = vec4<u32>(
        (x.c.y >> 11u) | (x.c.z << 2u) | (x.c.w << 15u) | (x.d.x << 28u),
        (x.d.x >> 4u) | (x.d.y << 9u) | (x.d.z << 22u),
        (x.d.z >> 10u) | (x.d.w << 3u) | (x.e.x << 16u) | (x.e.y << 29u),
        (x.e.y >> 3u) | (x.e.z << 10u) | (x.e.w << 23u),
    );
    return Packed(lo, hi);
}

// Sums and differences of limbs, wrapping, for `fold`.
fn plus(x: Fe, y: Fe) -> Fe {
    return Fe(x.a + y.a, x.b + y.b, x.c + y.c, x.d + y.d, x.e + y.e);
}

fn minus(x: Fe, y: Fe) -> Fe {
    return Fe(x.a - y.a, x.b - y.b, x.c - y.c, x.d - y.d, x.e - y.e);
}

fn times(x: Fe, k: u32) -> Fe {
    return Fe(x.a * k, x.b * k, x.c * k, x.d * k, x.e * k);
}

// Four limbs after a carry into the first; each still has the carry to the next in its bits from 13 on.
fn ripple(v: vec4<u32>, carry: u32) -> vec4<u32> {
    let x = v.x + carry;
    let y = v.y + (x >> LIMB_BITS);
    let z = v.z + (y >> LIMB_BITS);
    return vec4<u32>(x, y, z, v.w + (z >> LIMB_BITS));
}

// The same with limbs of either sign.
fn ripple_signed(v: vec4<u32>, carry: i32) -> vec4<i32> {
    let limbs = bitcast<vec4<i32>>(v);
    let x = limbs.x + carry;
    let y = limbs.y + (x >> LIMB_BITS);
    let z = limbs.z + (y >> LIMB_BITS);
    return vec4<i32>(x, y, z, limbs.w + (z >> LIMB_BITS));
}

fn carried(t: Fe) -> Fe {
    let a = ripple(t.a, 0u);
    let b = ripple(t.b, a.w >> LIMB_BITS);
    let c = ripple(t.c, b.w >> LIMB_BITS);
    let d = ripple(t.d, c.w >> LIMB_BITS);
    let e = ripple(t.e, d.w >> LIMB_BITS);
    let mask = vec4<u32>(LIMB_MASK);
    return Fe(a & mask, b & mask, c & mask, d & mask, e & mask);
}

// Limbs of either sign; all but the highest end in 0 to 2^13 - 1.
fn carried_signed(t: Fe) -> Fe {
    let a = ripple_signed(t.a, 0);
    let b = ripple_signed(t.b, a.w >> LIMB_BITS);
    let c = ripple_signed(t.c, b.w >> LIMB_BITS);
    let d = ripple_signed(t.d, c.w >> LIMB_BITS);
    let e = bitcast<vec4<u32>>(ripple_signed(t.e, d.w >> LIMB_BITS));
    let mask = vec4<u32>(LIMB_MASK);
    return Fe(
        bitcast<vec4<u32>>(a) & mask, bitcast<vec4<u32>>(b) & mask,
        bitcast<vec4<u32>>(c) & mask, bitcast<vec4<u32>>(d) & mask,
        vec4<u32>(e.xyz & mask.xyz, e.w),
    );
}

// An element from limbs of either sign below 2^18 and a value within 15 * MODULUS of zero; the result is below 1.1 * MODULUS.
fn fold(t: Fe) -> Fe {
    // In units of 2^247 the modulus is 96.78: q is at most (value / MODULUS), by no more than 1.1.
    let top = bitcast<i32>(t.e.w) + (bitcast<i32>(t.e.z) >> LIMB_BITS);
    let q = bitcast<u32>((((top + 1547) * 1352) >> 17u) - 16);
    return carried_signed(minus(t, times(MODULUS, q)));
}

fn add(x: Fe, y: Fe) -> Fe {
    return fold(plus(x, y));
}

fn sub(x: Fe, y: Fe) -> Fe {
    return fold(minus(x, y));
}

// The value moved down by one limb, the lowest of which has been cleared but for its carry.
fn down(t: Fe) -> Fe {
    return Fe(
        vec4<u32>(t.a.y + (t.a.x >> LIMB_BITS), t.a.zw, t.b.x),
        vec4<u32>(t.b.yzw, t.c.x),
        vec4<u32>(t.c.yzw, t.d.x),
        vec4<u32>(t.d.yzw, t.e.x),
        vec4<u32>(t.e.yzw, 0u),
    );
}

// x * y / 2^260, below 1.1 * MODULUS.
fn mul(x: Fe, y: Fe) -> Fe {
    var rest = x;
    var t = Fe();
    for (var i = 0u; i < LIMBS; i++) {
        t = plus(t, times(y, rest.a.x));
        t = plus(t, times(MODULUS, (t.a.x * NEGATED_INVERSE) & LIMB_MASK));
        t = down(t);
        rest = down(rest);
    }
    return carried(t);
}

// (x * y + z * w) / 2^260, below 1.1 * MODULUS.
fn mul_sum(x: Fe, y: Fe, z: Fe, w: Fe) -> Fe {
    var x_rest = x;
    var z_rest = z;
    var t = Fe();
    for (var i = 0u; i < LIMBS; i++) {
        t = plus(t, plus(times(y, x_rest.a.x), times(w, z_rest.a.x)));
        t = plus(t, times(MODULUS, (t.a.x * NEGATED_INVERSE) & LIMB_MASK));
        t = down(t);
        x_rest = down(x_rest);
        z_rest = down(z_rest);
    }
    return carried(t);
}

// The number below MODULUS.
fn canonical(x: Fe) -> Fe {
    let reduced = carried_signed(minus(x, MODULUS));
    if bitcast<i32>(reduced.e.w) < 0 {
        return x;
    }
    return reduced;
}

// The number of a Montgomery form, below MODULUS.
fn from_montgomery(x: Fe) -> Fe {
    var one = Fe();
    one.a.x = 1u;
    return canonical(mul(x, one));
}

fn same_limbs(x: Fe, y: Fe) -> bool {
    return all(x.a == y.a) && all(x.b == y.b) && all(x.c == y.c) && all(x.d == y.d) && all(x.e == y.e);
}

// Whether the element is zero: as a number 0 or MODULUS.
fn is_zero(x: Fe) -> bool {
    return same_limbs(x, Fe()) || same_limbs(x, MODULUS);
}
