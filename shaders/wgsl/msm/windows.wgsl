// sum_windows: the sum of each window of a piece.
//
// Purpose: the second half of summing buckets.
// Source: with G buckets a group and groups 0, 1, ... by falling magnitude, a point of group g counts as often as its group's
//   weighted sum says, and G times for each group behind g. So: Σ weighted + G * Σ_g (prefix sum of the plain sums up to g), g
//   without the last group.
// Input: buckets after groups.wgsl, projective, 96 B each: first of a group its weighted, last its plain sum.
// Output: sums[first_sum + i] for window number i of the batch, projective, 96 B each.
// Grid: one thread a window, workgroups of 64. Shared memory: none.
// Twin: `msm` in tests/support.

struct WindowParams {
    // Windows in the batch.
    count: u32,
    lg_groups: u32,
    lg_group: u32,
    first_sum: u32,
}

@group(0) @binding(0) var<uniform> params: WindowParams;
@group(0) @binding(1) var<storage, read> buckets: array<PackedPoint>;
@group(0) @binding(2) var<storage, read_write> sums: array<PackedPoint>;

@compute @workgroup_size(64)
fn sum_windows(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>) {
    let number = thread_number(id, workgroups);
    if number >= params.count {
        return;
    }
    let groups = 1u << params.lg_groups;
    let group = 1u << params.lg_group;
    let first = number * groups * group;
    var prefix = infinity();
    var sum = infinity();
    // Pairs of steps for the prefix sums, lg_group doublings, the weighted sums. One loop: drivers that inline every call have
    // one copy of the sum.
    let doublings = 2u * (groups - 1u);
    let weighted = doublings + params.lg_group;
    for (var step = 0u; step < weighted + groups; step++) {
        let to_prefix = step < doublings && step % 2u == 0u;
        var p = sum;
        var q = sum;
        if to_prefix {
            p = prefix;
            q = unpack_point(buckets[first + step / 2u * group + group - 1u]);
        } else if step < doublings {
            q = prefix;
        } else if step >= weighted {
            q = unpack_point(buckets[first + (step - weighted) * group]);
        }
        p = add_points(p, q);
        if to_prefix {
            prefix = p;
        } else {
            sum = p;
        }
    }
    sums[params.first_sum + number] = pack_point(sum);
}
