// sum_groups: the weighted sum of each group of buckets.
//
// Purpose: the first half of summing buckets; as many threads as there are groups.
// Source: accumulate.wgsl: the sum of a group's notes.
// Input: buckets, projective, 96 B each.
// Output: buckets, in place: the first of a group becomes the sum of the group, the last stays.
// Grid: one thread a group, workgroups of 64. Shared memory: none.
// Twin: `msm` in tests/support.

struct GroupParams {
    count: u32,
    lg_group: u32,
}

@group(0) @binding(0) var<uniform> params: GroupParams;
@group(0) @binding(1) var<storage, read_write> buckets: array<PackedPoint>;

@compute @workgroup_size(64)
fn sum_groups(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>) {
    let number = thread_number(id, workgroups);
    if number >= params.count {
        return;
    }
    let first = number << params.lg_group;
    var sum = unpack_point(buckets[first]);
    for (var i = 1u; i < (1u << params.lg_group); i++) {
        sum = add_points(sum, unpack_point(buckets[first + i]));
    }
    buckets[first] = pack_point(sum);
}
