// seal_units: seals 4 KiB pieces in place.
//
// Purpose: turns raw data into the sealed form that is mined on.
// Source: the 0G Storage sealing rule. For the 128 units of 32 B of a seal: sealed = data XOR mask; next mask = keccak256(sealed).
// Input: masks, the first mask of each seal, 32 B; data, 4 KiB a seal. All as bytes lie in memory.
// Output: data, sealed in place.
// Grid: one thread a seal, x only, workgroups of 64. Shared memory: none.
// Twin: `seal` in tests/support.

struct SealParams {
    // Seals in this dispatch.
    count: u32,
}

@group(0) @binding(0) var<uniform> params: SealParams;
@group(0) @binding(1) var<storage, read> masks: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read_write> data: array<vec4<u32>>;

// vec4 words in each piece.
const WORDS_PER_UNIT = 2u;
const WORDS_PER_SEAL = 256u;
const UNITS_PER_SEAL = 128u;

@compute @workgroup_size(64)
fn seal_units(@builtin(global_invocation_id) id: vec3<u32>) {
    let seal = id.x;
    if seal >= params.count {
        return;
    }
    var mask = array<vec4<u32>, 2>(masks[seal * WORDS_PER_UNIT], masks[seal * WORDS_PER_UNIT + 1u]);
    var at = seal * WORDS_PER_SEAL;
    // The mask after the last unit is computed and dropped: one copy of the permutation, 1 in 128 to spare.
    for (var unit = 0u; unit < UNITS_PER_SEAL; unit++) {
        let first = data[at] ^ mask[0];
        let second = data[at + 1u] ^ mask[1];
        data[at] = first;
        data[at + 1u] = second;
        let digest = keccak256_of_unit(first, second);
        mask = array<vec4<u32>, 2>(vec4<u32>(digest.lanes[0], digest.lanes[1]), vec4<u32>(digest.lanes[2], digest.lanes[3]));
        at += WORDS_PER_UNIT;
    }
}

// keccak256 of 32 bytes.
fn keccak256_of_unit(first: vec4<u32>, second: vec4<u32>) -> Digest {
    let zero = vec2<u32>();
    var state = array<vec2<u32>, 25>(
        first.xy, first.zw, second.xy, second.zw, vec2<u32>(1u, 0u),
        zero, zero, zero, zero, zero,
        zero, zero, zero, zero, zero,
        zero, KECCAK_LAST_BIT, zero, zero, zero,
        zero, zero, zero, zero, zero,
    );
    return keccak256_of_state(&state);
}
