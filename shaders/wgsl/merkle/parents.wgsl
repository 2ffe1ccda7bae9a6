// hash_parents: one level of the trees over encoded rows.
//
// Purpose: row roots, and the trees above them.
// Source: encoder/src/merkle.rs: a node is Keccak-256 of its children, 64 bytes.
// Input: digests, 32 B each: children 2 i and 2 i + 1 of node i from first_child on.
// Output: digests: node i at first + i.
// Grid: one thread a node, workgroups of 64. Shared memory: none.
// Twin: zgpu-core's tree in tests/support.

struct ParentParams {
    count: u32,
    first_child: u32,
    first: u32,
}

@group(0) @binding(0) var<uniform> params: ParentParams;
@group(0) @binding(1) var<storage, read_write> digests: array<array<vec2<u32>, 4>>;

@compute @workgroup_size(64)
fn hash_parents(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>) {
    let number = thread_number(id, workgroups);
    if number >= params.count {
        return;
    }
    let left = digests[params.first_child + 2u * number];
    let right = digests[params.first_child + 2u * number + 1u];
    let zero = vec2<u32>();
    var state = array<vec2<u32>, 25>(
        left[0], left[1], left[2], left[3], right[0],
        right[1], right[2], right[3], vec2<u32>(1u, 0u), zero,
        zero, zero, zero, zero, zero,
        zero, KECCAK_LAST_BIT, zero, zero, zero,
        zero, zero, zero, zero, zero,
    );
    digests[params.first + number] = keccak256_of_state(&state).lanes;
}
