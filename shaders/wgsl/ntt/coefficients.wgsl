// take_coefficients: the end of the inverse transform.
//
// Purpose: the transform of the matrix becomes the coefficients of its polynomial.
// Source: f_j = 1/N * Σ_i v_i w^(-ij), which is entry -j mod N of the transform, divided by N.
// Input: values, 32 B each, below 2 r, in natural order; roots (roots.wgsl).
// Output: coefficients, 32 B each, below r.
// Grid: one thread a coefficient, workgroups of 64. Shared memory: none.
// Twin: ark-poly in tests/blob.rs.

struct CoefficientParams {
    count: u32,
    lg_half: u32,
    // log2 of the count.
    lg_scalars: u32,
}

@group(0) @binding(0) var<uniform> params: CoefficientParams;
@group(0) @binding(1) var<storage, read> roots: array<Packed>;
@group(0) @binding(2) var<storage, read> values: array<Packed>;
@group(0) @binding(3) var<storage, read_write> coefficients: array<Packed>;

@compute @workgroup_size(64)
fn take_coefficients(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>) {
    let number = thread_number(id, workgroups);
    if number >= params.count {
        return;
    }
    let value = unpack(values[(params.count - number) & (params.count - 1u)]);
    let inverse = unpack(roots[(2u << params.lg_half) + params.lg_scalars]);
    coefficients[number] = pack(canonical(mul(value, inverse)));
}
