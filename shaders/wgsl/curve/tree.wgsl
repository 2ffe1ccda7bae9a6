// add_children: one level of the trees of points, from the level below.
//
// Purpose: commitments of inner nodes, and of the blocks of the polynomial.
// Source: encoder/src/commit.rs. Trees are heaps: node n of depth d is number 2^d + n, its children 2 * (2^d + n) and the next.
// Input, output: nodes, projective, 96 B each; a tree from each multiple of `stride` on. node = left child + right child, or
//   with `keep` node = node + left child.
// Grid: one thread a node, workgroups of 64. Shared memory: none.
// Twin: `commit` in tests/support.

struct TreeParams {
    // Nodes of this level in all trees, and in each.
    count: u32,
    level: u32,
    // First number of the first tree, and numbers from one tree to the next.
    first: u32,
    stride: u32,
    keep: u32,
}

@group(0) @binding(0) var<uniform> params: TreeParams;
@group(0) @binding(1) var<storage, read_write> nodes: array<PackedPoint>;

@compute @workgroup_size(64)
fn add_children(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>) {
    let number = thread_number(id, workgroups);
    if number >= params.count {
        return;
    }
    let tree = params.first + number / params.level * params.stride;
    let node = params.level + number % params.level;
    let other = select(2u * node + 1u, node, params.keep == 1u);
    nodes[tree + node] = pack_point(add_points(unpack_point(nodes[tree + 2u * node]), unpack_point(nodes[tree + other])));
}
