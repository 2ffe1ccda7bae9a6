// sort_digits: the points of each piece of an MSM, by digit.
//
// Purpose: the lists of points that the buckets of a window sum.
// Source: the bucket method with signed digits. A scalar plus Σ 2^(c-1) * 2^(c w) over all windows w but the highest has digits
//   that are 2^(c-1) too large there, so each digit follows by itself. Digits: -2^(c-1) to 2^(c-1).
// Input: scalars, 32 B each, below r; pieces: the number of the first scalar and of the first point of each.
// Output: for window w of piece i of the batch, with number i * windows + w:
//   order[2^lg_points * number ..]: points within the piece by falling magnitude of digit, those with digit 0 left out, a sign in
//   bit 31; starts[(buckets + 1) * number + s]: where the points with magnitude buckets - s begin.
// Grid: one workgroup of 64 a window of a piece. Shared memory: at most 513 counters.
// Twin: `msm` in tests/support.

struct SortParams {
    // Σ 2^(c-1) * 2^(c w), the lowest word first.
    bias: array<vec4<u32>, 2>,
    // Windows of all pieces in the batch.
    count: u32,
    windows: u32,
    digit_bits: u32,
    lg_points: u32,
    // Number of the batch's first piece.
    first_piece: u32,
}

@group(0) @binding(0) var<uniform> params: SortParams;
@group(0) @binding(1) var<storage, read> scalars: array<Packed>;
@group(0) @binding(2) var<storage, read> pieces: array<vec2<u32>>;
@group(0) @binding(3) var<storage, read_write> order: array<u32>;
@group(0) @binding(4) var<storage, read_write> starts: array<u32>;

struct Packed {
    lo: vec4<u32>,
    hi: vec4<u32>,
}

const SIGN = 0x80000000u;

// Points with each magnitude; then the place for the next one.
var<workgroup> places: array<atomic<u32>, 513>;

// The digit of a scalar in a window.
fn digit_of(scalar: Packed, window: u32) -> i32 {
    var words = array<u32, 9>(
        scalar.lo.x, scalar.lo.y, scalar.lo.z, scalar.lo.w, scalar.hi.x, scalar.hi.y, scalar.hi.z, scalar.hi.w, 0u,
    );
    var carry = 0u;
    for (var i = 0u; i < 8u; i++) {
        let bias = params.bias[i / 4u][i % 4u];
        let partial = words[i] + bias;
        let sum = partial + carry;
        carry = u32(partial < bias) + u32(sum < partial);
        words[i] = sum;
    }
    let bit = window * params.digit_bits;
    let shift = bit % 32u;
    // Twice by a part of the distance: a shift by 32 is none.
    let bits = (words[bit / 32u] >> shift) | ((words[bit / 32u + 1u] << 1u) << (31u - shift));
    let digit = i32(bits & ((1u << params.digit_bits) - 1u));
    return select(digit - i32(1u << (params.digit_bits - 1u)), digit, window + 1u == params.windows);
}

@compute @workgroup_size(64)
fn sort_digits(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let number = group.x + group.y * workgroups.x;
    if number >= params.count {
        return;
    }
    let window = number % params.windows;
    let first = pieces[params.first_piece + number / params.windows].x;
    let points = 1u << params.lg_points;
    let buckets = 1u << (params.digit_bits - 1u);

    for (var i = lane; i <= buckets; i += 64u) {
        atomicStore(&places[i], 0u);
    }
    workgroupBarrier();
    for (var i = lane; i < points; i += 64u) {
        atomicAdd(&places[abs(digit_of(scalars[first + i], window))], 1u);
    }
    workgroupBarrier();
    if lane == 0u {
        var place = 0u;
        for (var magnitude = buckets; magnitude > 0u; magnitude--) {
            let next = place + atomicLoad(&places[magnitude]);
            starts[number * (buckets + 1u) + buckets - magnitude] = place;
            atomicStore(&places[magnitude], place);
            place = next;
        }
        starts[number * (buckets + 1u) + buckets] = place;
    }
    workgroupBarrier();
    for (var i = lane; i < points; i += 64u) {
        let digit = digit_of(scalars[first + i], window);
        if digit != 0 {
            let place = atomicAdd(&places[abs(digit)], 1u);
            order[number * points + place] = i | select(0u, SIGN, digit < 0);
        }
    }
}
