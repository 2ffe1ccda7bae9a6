// accumulate_buckets: sums of the points of buckets.
//
// Purpose: nearly all the work of an MSM.
// Source: the bucket method. Buckets are in groups of neighbours by falling magnitude; a thread sums the points of a group and
//   notes the running sum at the end of each bucket, so that a sum of the notes counts every point once for each bucket of the
//   group below its own and once for its own. One loop over the points of the group: threads of a wave wait for the longest
//   group and not for the longest bucket.
// Input: bases, affine, 64 B each; pieces, order and starts as in sort.wgsl.
// Output: buckets, projective, 96 B each: bucket s of window number w is w * buckets + s.
// Grid: one thread a group, workgroups of 64. Shared memory: none.
// Twin: `msm` in tests/support.

struct AccumulateParams {
    // Groups in the batch.
    count: u32,
    windows: u32,
    // log2 of the groups of a window, of the buckets of a group, of the points of a piece.
    lg_groups: u32,
    lg_group: u32,
    lg_points: u32,
    first_piece: u32,
}

@group(0) @binding(0) var<uniform> params: AccumulateParams;
@group(0) @binding(1) var<storage, read> bases: array<PackedAffine>;
@group(0) @binding(2) var<storage, read> pieces: array<vec2<u32>>;
@group(0) @binding(3) var<storage, read> order: array<u32>;
@group(0) @binding(4) var<storage, read> starts: array<u32>;
@group(0) @binding(5) var<storage, read_write> buckets: array<PackedPoint>;

const NUMBER_MASK = 0x7fffffffu;

@compute @workgroup_size(64)
fn accumulate_buckets(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>) {
    let number = thread_number(id, workgroups);
    if number >= params.count {
        return;
    }
    let window = number >> params.lg_groups;
    let group = number & ((1u << params.lg_groups) - 1u);
    let first_base = pieces[params.first_piece + window / params.windows].y;
    let list = window << params.lg_points;
    // There is one start more than buckets.
    var bucket = number << params.lg_group;
    let end_bucket = bucket + (1u << params.lg_group);
    let to_start = window;
    let end = starts[end_bucket + to_start];
    var bucket_end = starts[bucket + to_start + 1u];
    var sum = infinity();
    for (var place = starts[bucket + to_start]; place < end; place++) {
        while place >= bucket_end {
            buckets[bucket] = pack_point(sum);
            bucket++;
            bucket_end = starts[bucket + to_start + 1u];
        }
        let entry = order[list + place];
        let base = bases[first_base + (entry & NUMBER_MASK)];
        var y = unpack(base.y);
        if entry > NUMBER_MASK {
            y = scaled(y, -1);
        }
        sum = add_affine(sum, unpack(base.x), y);
    }
    for (; bucket < end_bucket; bucket++) {
        buckets[bucket] = pack_point(sum);
    }
}
