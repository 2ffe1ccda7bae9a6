// sum_runs: sums of consecutive points.
//
// Purpose: the pieces of an MSM become its result.
// Source: none needed.
// Input: pieces, projective, 96 B each.
// Output: nodes[first_node + i] = the sum of pieces[first_piece + i * run ..][.. run], where i has its lowest lg_reversed bits in
//   reverse order; projective, 96 B each.
// Grid: one workgroup of 64 a run. Shared memory: 64 points, 6 KiB.
// Twin: ark-ec in src/commit.rs.

struct SumParams {
    // Runs in this dispatch.
    count: u32,
    // Points of a run.
    run: u32,
    first_piece: u32,
    first_node: u32,
    lg_reversed: u32,
}

@group(0) @binding(0) var<uniform> params: SumParams;
@group(0) @binding(1) var<storage, read> pieces: array<PackedPoint>;
@group(0) @binding(2) var<storage, read_write> nodes: array<PackedPoint>;

var<workgroup> sums: array<PackedPoint, 64>;

@compute @workgroup_size(64)
fn sum_runs(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let number = group.x + group.y * workgroups.x;
    if number >= params.count {
        return;
    }
    let first = params.first_piece + number * params.run;
    var sum = infinity();
    for (var i = lane; i < params.run; i += 64u) {
        sum = add_points(sum, unpack_point(pieces[first + i]));
    }
    sums[lane] = pack_point(sum);
    for (var width = 32u; width > 0u; width >>= 1u) {
        workgroupBarrier();
        if lane < width && lane + width < params.run {
            sums[lane] = pack_point(add_points(unpack_point(sums[lane]), unpack_point(sums[lane + width])));
        }
    }
    if lane == 0u {
        let node = reverseBits(number) >> (32u - params.lg_reversed);
        nodes[params.first_node + select(node, number, params.lg_reversed == 0u)] = sums[0];
    }
}
