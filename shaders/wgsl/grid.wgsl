// The number of a thread in a dispatch.
//
// Purpose: more threads than one dimension of a dispatch allows.
// Source: WGSL, built-in values.
// Input: the built-in global_invocation_id and num_workgroups. Output: x + y * (threads in x).
// Grid: x and y, workgroups of 64 in x. Shared memory: none.
// Twin: none needed.

fn thread_number(id: vec3<u32>, workgroups: vec3<u32>) -> u32 {
    return id.x + id.y * workgroups.x * 64u;
}
