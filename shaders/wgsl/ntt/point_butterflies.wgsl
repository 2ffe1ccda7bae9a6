// add_point_butterflies: one pass of the transforms of points.
//
// Purpose: passes with distances R / 2, ..., 1 take the spread blocks of every depth to the quotients of its nodes. The result
//   has bit-reversed order, which is the order of the nodes.
// Source: Gentleman and Sande, decimation in frequency: (p, q) -> (p + q, w^j (p - q)), w of order 2 * distance.
// Input: nodes, projective, 96 B each; factors (make_factors.wgsl).
// Output: nodes, in place; depths whose transform has no pass of this distance stay as they are.
// Grid: one thread a butterfly, workgroups of 64. Shared memory: none.
// Twin: `commit` in tests/support.

struct PointButterflyParams {
    // Butterflies in all cosets: 3 * (R - distance), and the first.
    count: u32,
    first: u32,
    rows: u32,
    lg_distance: u32,
    first_quotient: u32,
}

@group(0) @binding(0) var<uniform> params: PointButterflyParams;
@group(0) @binding(1) var<storage, read> factors: array<Packed>;
@group(0) @binding(2) var<storage, read_write> nodes: array<PackedPoint>;

@compute @workgroup_size(64)
fn add_point_butterflies(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>) {
    let number = params.first + thread_number(id, workgroups);
    if number >= params.count {
        return;
    }
    let distance = 1u << params.lg_distance;
    let butterflies = params.rows - distance;
    let tree = params.first_quotient + number / butterflies * 2u * params.rows;
    // Butterfly u of depth d is number 2^(d-1) + u of a heap.
    let heap = distance + number % butterflies;
    let half = 1u << firstLeadingBit(heap);
    let butterfly = heap - half;
    let place = butterfly & (distance - 1u);
    let front = tree + 2u * half + ((butterfly >> params.lg_distance) << (params.lg_distance + 1u)) + place;
    let p = unpack_point(nodes[front]);
    var q = unpack_point(nodes[front + distance]);
    var difference = p;
    // The sum first, then the difference: drivers that inline every call have one copy of the sum.
    for (var i = 0u; i < 2u; i++) {
        difference = add_points(p, q);
        if i == 0u {
            nodes[front] = pack_point(difference);
        }
        q.y = scaled(q.y, -1);
    }
    // The factor is one in every butterfly of the last pass.
    if params.lg_distance > 0u {
        let power = place * (params.rows >> (params.lg_distance + 1u));
        difference = multiply_point(difference, factors[6u * params.rows + power]);
    }
    nodes[front + distance] = pack_point(difference);
}
