// spread_blocks: the blocks of all depths as the input of the transforms of points.
//
// Purpose: quotients of all nodes of a coset, for each depth a transform of its blocks.
// Source: encoder/src/commit.rs: 2^-d * c_k^(u * N / 2^d) * B(d, u); the exponent u + 1 of the transform moves every block on by
//   one place.
// Input: nodes, projective, 96 B each: blocks, number 2^d + u; factors (make_factors.wgsl).
// Output: nodes: for each coset 2 R from first_quotient on, place (u + 1) mod 2^d of depth d.
// Grid: one thread a block and coset, workgroups of 64. Shared memory: none.
// Twin: `commit` in tests/support.

struct SpreadParams {
    // Places in all cosets: 3 * (2 R - 2), and the first.
    count: u32,
    first: u32,
    rows: u32,
    first_quotient: u32,
}

@group(0) @binding(0) var<uniform> params: SpreadParams;
@group(0) @binding(1) var<storage, read> factors: array<Packed>;
@group(0) @binding(2) var<storage, read_write> nodes: array<PackedPoint>;

@compute @workgroup_size(64)
fn spread_blocks(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>) {
    let number = params.first + thread_number(id, workgroups);
    if number >= params.count {
        return;
    }
    let places = 2u * params.rows - 2u;
    let tree = number / places * 2u * params.rows;
    let place = number % places + 2u;
    let blocks = 1u << firstLeadingBit(place);
    let moved = blocks + ((place + 1u) & (blocks - 1u));
    nodes[params.first_quotient + tree + moved] = pack_point(multiply_point(unpack_point(nodes[place]), factors[tree + place]));
}
