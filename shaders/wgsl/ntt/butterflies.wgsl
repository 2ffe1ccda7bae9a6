// add_butterflies: one pass of a transform of scalars.
//
// Purpose: lg N passes take N values in bit-reversed order to their transform in natural order.
// Source: Cooley and Tukey, decimation in time, radix 2: (p, q) -> (p + w^j q, p - w^j q), w of order 2 * half.
// Input: values, 32 B each, below 2 r; roots (roots.wgsl).
// Output: values, in place, below 2 r.
// Grid: one thread a butterfly, workgroups of 64. Shared memory: none.
// Twin: ark-poly in tests/blob.rs.

struct ButterflyParams {
    // Butterflies: N / 2.
    count: u32,
    lg_distance: u32,
    // log2 of 4 N.
    lg_order: u32,
    lg_half: u32,
}

@group(0) @binding(0) var<uniform> params: ButterflyParams;
@group(0) @binding(1) var<storage, read> roots: array<Packed>;
@group(0) @binding(2) var<storage, read_write> values: array<Packed>;

@compute @workgroup_size(64)
fn add_butterflies(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>) {
    let number = thread_number(id, workgroups);
    if number >= params.count {
        return;
    }
    let distance = 1u << params.lg_distance;
    let place = number & (distance - 1u);
    let front = ((number >> params.lg_distance) << (params.lg_distance + 1u)) + place;
    let factor = power_of_root(place << (params.lg_order - params.lg_distance - 1u), params.lg_half);
    let p = unpack(values[front]);
    let q = mul(unpack(values[front + distance]), factor);
    values[front] = pack(add(p, q));
    values[front + distance] = pack(sub(p, q));
}
