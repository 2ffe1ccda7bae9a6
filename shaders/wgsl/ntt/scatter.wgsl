// scatter_coefficients: coefficients as the input of the transform to a coset.
//
// Purpose: values on the coset c_k * w^i are the transform of f_j * c_k^j.
// Source: encoder/src/extend.rs; c_1 = g^2, c_2 = g for g of order 4 N.
// Input: coefficients, 32 B each, below r; roots (roots.wgsl).
// Output: values, 32 B each, below 2 r, in bit-reversed order.
// Grid: one thread a coefficient, workgroups of 64. Shared memory: none.
// Twin: ark-poly in tests/blob.rs.

struct ScatterParams {
    count: u32,
    lg_half: u32,
    // log2 of the count.
    lg_scalars: u32,
    // 1 for coset 1, 0 for coset 2.
    lg_step: u32,
}

@group(0) @binding(0) var<uniform> params: ScatterParams;
@group(0) @binding(1) var<storage, read> roots: array<Packed>;
@group(0) @binding(2) var<storage, read> coefficients: array<Packed>;
@group(0) @binding(3) var<storage, read_write> values: array<Packed>;

@compute @workgroup_size(64)
fn scatter_coefficients(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>) {
    let number = thread_number(id, workgroups);
    if number >= params.count {
        return;
    }
    let shift = power_of_root(number << params.lg_step, params.lg_half);
    let place = reverseBits(number) >> (32u - params.lg_scalars);
    values[place] = pack(mul(unpack(coefficients[number]), shift));
}
