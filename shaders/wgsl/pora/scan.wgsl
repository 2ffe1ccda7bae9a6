// scan_items: qualities of the seals of recalled loads.
//
// Purpose: for every item (a pad and a load) the quality of each available seal, and the list of those that meet the target.
// Source: the 0G Storage PoRA definition. mixed = seal XOR pad[(i mod 4) x 4096 ..][..4096];
//   quality = first 32 bytes of BLAKE2b-512(u256_be(i) | pad_seed | 32 zero bytes | mixed): 4224 bytes, 33 compressions.
// Input: pads 16 KiB each, pad_seeds 64 B each, loads 256 KiB each, items (pad slot, load slot, available bits 0-31, 32-63),
//   target as eight 32-bit words, the most significant first.
// Output: hits. count: how many seals have quality <= target (big-endian integers), also those that found no room;
//   records of 10 words: number of the item, seal, quality in memory order.
// Grid: one workgroup of 64 an item (x only), one thread a seal. Shared memory: none.
// Twin: `scan` in tests/support.

struct ScanParams {
    goal: array<vec4<u32>, 2>,
    // Number of the item of workgroup 0.
    first_item: u32,
    // Records that fit in `hits`.
    capacity: u32,
}

struct Hits {
    count: atomic<u32>,
    records: array<array<u32, 10>>,
}

@group(0) @binding(0) var<uniform> params: ScanParams;
@group(0) @binding(1) var<storage, read> pads: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> pad_seeds: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> loads: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> items: array<vec4<u32>>;
@group(0) @binding(5) var<storage, read_write> hits: Hits;

// vec4 words in each piece.
const WORDS_PER_BLOCK = 8u;
const WORDS_PER_SEAL = 256u;
const WORDS_PER_PAD = 1024u;
const WORDS_PER_LOAD = 16384u;
const WORDS_PER_SEED = 4u;
// Blocks of 128 bytes: the header and 32 of the mixed seal.
const BLOCKS = 33u;

@compute @workgroup_size(64)
fn scan_items(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) seal: u32) {
    let item_number = params.first_item + group.x;
    let item = items[item_number];
    let available = select(item.z, item.w, seal >= 32u);
    if ((available >> (seal & 31u)) & 1u) == 0u {
        return;
    }
    let seed_at = item.x * WORDS_PER_SEED;
    var pad_at = item.x * WORDS_PER_PAD + (seal & 3u) * WORDS_PER_SEAL;
    var seal_at = item.y * WORDS_PER_LOAD + seal * WORDS_PER_SEAL;

    // u256_be(seal) has its one byte that is not zero at its end, byte 31.
    var block = array<vec4<u32>, 8>(
        vec4<u32>(), vec4<u32>(0u, 0u, 0u, seal << 24u),
        pad_seeds[seed_at], pad_seeds[seed_at + 1u], pad_seeds[seed_at + 2u], pad_seeds[seed_at + 3u],
        vec4<u32>(), vec4<u32>(),
    );
    var chain = blake2b_512_start();
    for (var number = 1u; number <= BLOCKS; number++) {
        chain = blake2b_compress(chain, block, number * 128u, number == BLOCKS);
        if number < BLOCKS {
            block = array<vec4<u32>, 8>(
                loads[seal_at] ^ pads[pad_at], loads[seal_at + 1u] ^ pads[pad_at + 1u],
                loads[seal_at + 2u] ^ pads[pad_at + 2u], loads[seal_at + 3u] ^ pads[pad_at + 3u],
                loads[seal_at + 4u] ^ pads[pad_at + 4u], loads[seal_at + 5u] ^ pads[pad_at + 5u],
                loads[seal_at + 6u] ^ pads[pad_at + 6u], loads[seal_at + 7u] ^ pads[pad_at + 7u],
            );
            pad_at += WORDS_PER_BLOCK;
            seal_at += WORDS_PER_BLOCK;
        }
    }

    let front = chain.front;
    let quality = array<u32, 8>(
        front.lo.x, front.hi.x, front.lo.y, front.hi.y, front.lo.z, front.hi.z, front.lo.w, front.hi.w,
    );
    if !meets_goal(quality) {
        return;
    }
    let place = atomicAdd(&hits.count, 1u);
    if place < params.capacity {
        hits.records[place] = array<u32, 10>(
            item_number, seal,
            quality[0], quality[1], quality[2], quality[3], quality[4], quality[5], quality[6], quality[7],
        );
    }
}

// Whether a quality, in memory order, is at most the target, both as big-endian integers.
fn meets_goal(quality: array<u32, 8>) -> bool {
    let high = vec4<u32>(swap_bytes(quality[0]), swap_bytes(quality[1]), swap_bytes(quality[2]), swap_bytes(quality[3]));
    let low = vec4<u32>(swap_bytes(quality[4]), swap_bytes(quality[5]), swap_bytes(quality[6]), swap_bytes(quality[7]));
    if any(high != params.goal[0]) {
        return precedes(high, params.goal[0]);
    }
    return all(low == params.goal[1]) || precedes(low, params.goal[1]);
}

// Whether p < q as 128-bit numbers, the most significant word first; p and q differ.
fn precedes(p: vec4<u32>, q: vec4<u32>) -> bool {
    if p.x != q.x {
        return p.x < q.x;
    }
    if p.y != q.y {
        return p.y < q.y;
    }
    if p.z != q.z {
        return p.z < q.z;
    }
    return p.w < q.w;
}
