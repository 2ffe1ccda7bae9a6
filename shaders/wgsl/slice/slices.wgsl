// write_slices: slices as their bytes.
//
// Purpose: what goes back to the host, and from there to signers unchanged.
// Source: encoder/src/slice.rs. In 32-bit words, for depth d = lg R and C columns: index, 0, index, 0; erasure commitment 16;
//   row, 0, C, 0; scalars 8 C; d, 0; siblings from depth 1 down, commitment and quotient 16 each; high commitment 16; coset
//   roots 24; d, 0; merkle path from the row up, 8 each; index, 0; row root 8.
// Input: cosets, 32 B a scalar; points, 64 B each (affine.wgsl): three trees of 2 R commitments, three of quotients, the high
//   commitment; digests, 32 B each: level l from digests - (digests >> l) on, row roots at row_level.
// Output: slices, one behind the other.
// Grid: one thread a word, workgroups of 64. Shared memory: none.
// Twin: `slices` in tests/support.

struct SliceParams {
    // Words of all slices.
    count: u32,
    slice_words: u32,
    lg_rows: u32,
    lg_columns: u32,
    // Twice the sectors: more digests than the trees have.
    digests: u32,
    row_level: u32,
}

@group(0) @binding(0) var<uniform> params: SliceParams;
@group(0) @binding(1) var<storage, read> cosets: array<u32>;
@group(0) @binding(2) var<storage, read> points: array<u32>;
@group(0) @binding(3) var<storage, read> digests: array<u32>;
@group(0) @binding(4) var<storage, read_write> slices: array<u32>;

const WORDS_PER_SCALAR = 8u;
const WORDS_PER_DIGEST = 8u;
const WORDS_PER_POINT = 16u;
// Words before the row.
const WORDS_OF_HEAD = 24u;

@compute @workgroup_size(64)
fn write_slices(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>) {
    let number = thread_number(id, workgroups);
    if number >= params.count {
        return;
    }
    slices[number] = word_of_slice(number / params.slice_words, number % params.slice_words);
}

// A word of node `node` of a level of the trees of digests.
fn word_of_digest(height: u32, node: u32, word: u32) -> u32 {
    let level = params.row_level + height;
    return digests[(params.digests - (params.digests >> level) + node) * WORDS_PER_DIGEST + word];
}

fn word_of_slice(slice: u32, word: u32) -> u32 {
    let trees = 2u << params.lg_rows;
    let coset = slice >> params.lg_rows;
    let row = slice & ((1u << params.lg_rows) - 1u);
    if word < 4u {
        return select(0u, slice, word % 2u == 0u);
    }
    if word < 20u {
        return points[WORDS_PER_POINT + word - 4u];
    }
    if word < WORDS_OF_HEAD {
        return select(0u, select(row, 1u << params.lg_columns, word == 22u), word % 2u == 0u);
    }
    var at = word - WORDS_OF_HEAD;
    let row_words = WORDS_PER_SCALAR << params.lg_columns;
    if at < row_words {
        return cosets[slice * row_words + at];
    }
    at -= row_words;
    if at < 2u {
        return select(params.lg_rows, 0u, at == 1u);
    }
    at -= 2u;
    let proof_words = 2u * WORDS_PER_POINT * params.lg_rows;
    if at < proof_words {
        let depth = at / (2u * WORDS_PER_POINT) + 1u;
        // The row's leaf is 2^lg R + its index with bits reversed; its ancestor's sibling is in the heap as well.
        let leaf = (1u << params.lg_rows) + (reverseBits(row) >> (32u - params.lg_rows));
        let sibling = (leaf >> (params.lg_rows - depth)) ^ 1u;
        let quotient = at / WORDS_PER_POINT % 2u;
        return points[((3u * quotient + coset) * trees + sibling) * WORDS_PER_POINT + at % WORDS_PER_POINT];
    }
    at -= proof_words;
    if at < WORDS_PER_POINT {
        return points[6u * trees * WORDS_PER_POINT + at];
    }
    at -= WORDS_PER_POINT;
    if at < 3u * WORDS_PER_DIGEST {
        return word_of_digest(params.lg_rows, at / WORDS_PER_DIGEST, at % WORDS_PER_DIGEST);
    }
    at -= 3u * WORDS_PER_DIGEST;
    if at < 2u {
        return select(params.lg_rows, 0u, at == 1u);
    }
    at -= 2u;
    if at < WORDS_PER_DIGEST * params.lg_rows {
        let height = at / WORDS_PER_DIGEST;
        return word_of_digest(height, (slice >> height) ^ 1u, at % WORDS_PER_DIGEST);
    }
    at -= WORDS_PER_DIGEST * params.lg_rows;
    if at < 2u {
        return select(slice, 0u, at == 1u);
    }
    return word_of_digest(0u, slice, at - 2u);
}
