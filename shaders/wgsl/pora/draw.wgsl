// draw_pads: scratch pads and recall seeds.
//
// Purpose: for every nonce its pad seed, its 16 KiB pad and its recall seed.
// Source: the 0G Storage PoRA definition. pad_seed = BLAKE2b-512(miner_id | nonce | subtask_digest | range_digest); d = pad_seed;
//   256 times: d[0..32] = keccak256(d), d[32..64] = keccak256(d), append d to the pad; recall_seed = keccak256(last d).
// Input: job, below.
// Output: pads, 16 KiB each at slot 16 KiB x slot; pad_seeds, 64 B each; recall_seeds, 32 B each, by number in the dispatch.
//   All as the bytes come out of the hashes (little-endian words in memory order).
// Grid: one thread a nonce, x only, workgroups of 64. Shared memory: none.
// Twin: `draw` in tests/support.

struct DrawParams {
    // The 128 bytes under BLAKE2b, with bytes 56 to 64 (the nonce's counter) still zero.
    message: array<vec4<u32>, 8>,
    // The counter of nonce 0 of this dispatch: a 64-bit number.
    counter_lo: u32,
    counter_hi: u32,
    // Slot of nonce 0 of this dispatch within the bound buffers.
    first_slot: u32,
    // Nonces in this dispatch.
    count: u32,
}

@group(0) @binding(0) var<uniform> job: DrawParams;
@group(0) @binding(1) var<storage, read_write> pads: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read_write> pad_seeds: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read_write> recall_seeds: array<vec4<u32>>;

// vec4 words in a pad and in a digest cell.
const WORDS_PER_PAD = 1024u;
const WORDS_PER_CELL = 4u;
const CELLS_PER_PAD = 256u;

@compute @workgroup_size(64)
fn draw_pads(@builtin(global_invocation_id) id: vec3<u32>) {
    let number = id.x;
    if number >= job.count {
        return;
    }
    let slot = job.first_slot + number;

    let counter_lo = job.counter_lo + number;
    let counter_hi = job.counter_hi + u32(counter_lo < number);
    var block = job.message;
    // The counter lies big-endian in the nonce.
    block[3] = vec4<u32>(block[3].xy, swap_bytes(counter_hi), swap_bytes(counter_lo));
    let seed = blake2b_compress(blake2b_512_start(), block, 128u, true);

    // d as eight lanes: `front` is d[0..32], `back` is d[32..64].
    var front = Digest(array<vec2<u32>, 4>(
        vec2<u32>(seed.front.lo.x, seed.front.hi.x), vec2<u32>(seed.front.lo.y, seed.front.hi.y),
        vec2<u32>(seed.front.lo.z, seed.front.hi.z), vec2<u32>(seed.front.lo.w, seed.front.hi.w),
    ));
    var back = Digest(array<vec2<u32>, 4>(
        vec2<u32>(seed.back.lo.x, seed.back.hi.x), vec2<u32>(seed.back.lo.y, seed.back.hi.y),
        vec2<u32>(seed.back.lo.z, seed.back.hi.z), vec2<u32>(seed.back.lo.w, seed.back.hi.w),
    ));
    let seed_at = slot * WORDS_PER_CELL;
    pad_seeds[seed_at] = vec4<u32>(front.lanes[0], front.lanes[1]);
    pad_seeds[seed_at + 1u] = vec4<u32>(front.lanes[2], front.lanes[3]);
    pad_seeds[seed_at + 2u] = vec4<u32>(back.lanes[0], back.lanes[1]);
    pad_seeds[seed_at + 3u] = vec4<u32>(back.lanes[2], back.lanes[3]);

    // Two hashes a cell and one more for the recall seed, all through one copy of the permutation: small code, short compile.
    var cell_at = slot * WORDS_PER_PAD;
    for (var step = 0u; step <= 2u * CELLS_PER_PAD; step++) {
        let digest = keccak256_of_cell(front, back);
        if (step & 1u) == 0u {
            front = digest;
        } else {
            back = digest;
            pads[cell_at] = vec4<u32>(front.lanes[0], front.lanes[1]);
            pads[cell_at + 1u] = vec4<u32>(front.lanes[2], front.lanes[3]);
            pads[cell_at + 2u] = vec4<u32>(back.lanes[0], back.lanes[1]);
            pads[cell_at + 3u] = vec4<u32>(back.lanes[2], back.lanes[3]);
            cell_at += WORDS_PER_CELL;
        }
    }
    recall_seeds[number * 2u] = vec4<u32>(front.lanes[0], front.lanes[1]);
    recall_seeds[number * 2u + 1u] = vec4<u32>(front.lanes[2], front.lanes[3]);
}

// keccak256 of the 64 bytes front | back.
fn keccak256_of_cell(front: Digest, back: Digest) -> Digest {
    let zero = vec2<u32>();
    var state = array<vec2<u32>, 25>(
        front.lanes[0], front.lanes[1], front.lanes[2], front.lanes[3], back.lanes[0],
        back.lanes[1], back.lanes[2], back.lanes[3], vec2<u32>(1u, 0u), zero,
        zero, zero, zero, zero, zero,
        zero, KECCAK_LAST_BIT, zero, zero, zero,
        zero, zero, zero, zero, zero,
    );
    return keccak256_of_state(&state);
}
