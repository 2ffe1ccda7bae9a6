// make_factors: the scalars that transforms of points multiply by.
//
// Purpose: once when a device is opened.
// Source: encoder/src/commit.rs. Block u of depth d goes into coset k with 2^-d * c_k^(u * N / 2^d); c_1 = g^2, c_2 = g for g of
//   order 4 N. Butterflies multiply by powers of the R-th root of unity, g^(4 C).
// Input: roots (roots.wgsl).
// Output: factors, 32 B each, as numbers below r: for each coset 2 R, number 2^d + u for block u of depth d; then the R / 2
//   powers.
// Grid: one thread a factor, workgroups of 64. Shared memory: none.
// Twin: `commit` in tests/support.

struct FactorParams {
    // 6 R + R / 2.
    count: u32,
    lg_half: u32,
    lg_rows: u32,
    lg_columns: u32,
}

@group(0) @binding(0) var<uniform> params: FactorParams;
@group(0) @binding(1) var<storage, read> roots: array<Packed>;
@group(0) @binding(2) var<storage, read_write> factors: array<Packed>;

@compute @workgroup_size(64)
fn make_factors(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>) {
    let number = thread_number(id, workgroups);
    if number >= params.count {
        return;
    }
    let trees = 2u << params.lg_rows;
    let coset = number / trees;
    let place = number % trees;
    // Number 0 of a tree is no block; what it gets is not used.
    let depth = firstLeadingBit(max(place, 1u));
    var exponent = place << (2u + params.lg_columns);
    var halvings = 0u;
    if coset < 3u {
        let block = max(place, 1u) - (1u << depth);
        let power = block << (params.lg_rows + params.lg_columns - depth);
        exponent = select(0u, power << (2u - coset), coset > 0u);
        halvings = depth;
    }
    let root = power_of_root(exponent, params.lg_half);
    let inverse = unpack(roots[(2u << params.lg_half) + halvings]);
    factors[number] = pack(from_montgomery(mul(root, inverse)));
}
