// convert_points: the prover's points from the form of other devices to that of field.wgsl.
//
// Purpose: once when a device is opened.
// Source: v * 2^260 = (v * 2^256) * 2^264 / 2^260 mod p.
// Input: points, affine, 64 B each, coordinates v * 2^256 mod p as eight 32-bit words, the lowest first.
// Output: the same in place, coordinates v * 2^260 mod p.
// Grid: one thread a point, workgroups of 64. Shared memory: none.
// Twin: ark-bn254 in src/field.rs.

struct ConvertParams {
    count: u32,
}

@group(0) @binding(0) var<uniform> params: ConvertParams;
@group(0) @binding(1) var<storage, read_write> points: array<PackedAffine>;

@compute @workgroup_size(64)
fn convert_points(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>) {
    let number = thread_number(id, workgroups);
    if number >= params.count {
        return;
    }
    let point = points[number];
    points[number] = PackedAffine(
        pack(mul(unpack(point.x), FROM_256_BITS)),
        pack(mul(unpack(point.y), FROM_256_BITS)),
    );
}
