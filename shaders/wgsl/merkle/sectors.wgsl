// hash_sectors: the leaves of the trees over encoded rows.
//
// Purpose: Keccak-256 of each 256-byte sector, 8 scalars.
// Source: encoder/src/merkle.rs. 256 bytes are two blocks, of 136 and of 120 bytes; the second is padded.
// Input: cosets, 32 B a scalar.
// Output: digests, 32 B each, from the first on.
// Grid: one thread a sector, workgroups of 64. Shared memory: none.
// Twin: zgpu-core's tree in tests/support.

struct SectorParams {
    count: u32,
}

@group(0) @binding(0) var<uniform> params: SectorParams;
@group(0) @binding(1) var<storage, read> cosets: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read_write> digests: array<array<vec2<u32>, 4>>;

// 64-bit lanes in each piece.
const LANES_PER_SECTOR = 32u;
const LANES_PER_BLOCK = 17u;

@compute @workgroup_size(64)
fn hash_sectors(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>) {
    let number = thread_number(id, workgroups);
    if number >= params.count {
        return;
    }
    let at = number * LANES_PER_SECTOR;
    var state = array<vec2<u32>, 25>();
    for (var i = 0u; i < LANES_PER_BLOCK; i++) {
        state[i] = cosets[at + i];
    }
    keccak_f(&state);
    for (var i = LANES_PER_BLOCK; i < LANES_PER_SECTOR; i++) {
        state[i - LANES_PER_BLOCK] ^= cosets[at + i];
    }
    state[LANES_PER_SECTOR - LANES_PER_BLOCK] ^= vec2<u32>(1u, 0u);
    state[LANES_PER_BLOCK - 1u] ^= KECCAK_LAST_BIT;
    digests[number] = keccak256_of_state(&state).lanes;
}
