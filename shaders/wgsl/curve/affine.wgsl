// serialise_points: projective points as their bytes.
//
// Purpose: commitments and quotients as they stand in slices.
// Source: encoder/src/points.rs: x, y, 32 bytes each, little-endian; bit 255 of y when y is the larger of y and p - y, bit 254
//   for the point at infinity, whose coordinates are zero. 1 / Z = Z^(p - 2), each thread its own: there are few points, and
//   as many threads.
// Input: nodes, projective, 96 B each, from `first` on.
// Output: bytes, 64 B each.
// Grid: one thread a point, workgroups of 64. Shared memory: none.
// Twin: `point_bytes` in tests/support.

struct AffineParams {
    count: u32,
    first: u32,
}

@group(0) @binding(0) var<uniform> params: AffineParams;
@group(0) @binding(1) var<storage, read> nodes: array<PackedPoint>;
@group(0) @binding(2) var<storage, read_write> bytes: array<PackedAffine>;

const LARGER_Y = 0x80000000u;
const INFINITY = 0x40000000u;

@compute @workgroup_size(64)
fn serialise_points(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>) {
    let number = thread_number(id, workgroups);
    if number >= params.count {
        return;
    }
    let point = unpack_point(nodes[params.first + number]);
    if is_zero(point.z) {
        var zeros = PackedAffine();
        zeros.y.hi.w = INFINITY;
        bytes[number] = zeros;
        return;
    }
    let inverse = inverted(point.z);
    let y = from_montgomery(mul(point.y, inverse));
    var affine = PackedAffine(pack(from_montgomery(mul(point.x, inverse))), pack(y));
    // Negative exactly when y is above (p - 1) / 2.
    if bitcast<i32>(carried_signed(minus(HALF_OF_MODULUS, y)).e.w) < 0 {
        affine.y.hi.w |= LARGER_Y;
    }
    bytes[number] = affine;
}

// x^(p - 2).
fn inverted(x: Fe) -> Fe {
    var result = MONTGOMERY_ONE;
    for (var word = 8u; word > 0u; word--) {
        let bits = INVERSE_EXPONENT[(word - 1u) / 4u][(word - 1u) % 4u];
        for (var bit = 32u; bit > 0u; bit--) {
            result = mul(result, result);
            if ((bits >> (bit - 1u)) & 1u) == 1u {
                result = mul(result, x);
            }
        }
    }
    return result;
}
