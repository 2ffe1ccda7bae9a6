// sum_pieces: the result of each piece of an MSM.
//
// Purpose: one point from the windows of a piece.
// Source: Horner's rule, the highest window first: digit_bits doublings before each sum.
// Input: sums, projective, 96 B each: `windows` a piece, the lowest first.
// Output: pieces, projective, 96 B each.
// Grid: one thread a piece, workgroups of 64. Shared memory: none.
// Twin: `msm` in tests/support.

struct PieceParams {
    count: u32,
    windows: u32,
    digit_bits: u32,
}

@group(0) @binding(0) var<uniform> params: PieceParams;
@group(0) @binding(1) var<storage, read> sums: array<PackedPoint>;
@group(0) @binding(2) var<storage, read_write> pieces: array<PackedPoint>;

@compute @workgroup_size(64)
fn sum_pieces(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>) {
    let number = thread_number(id, workgroups);
    if number >= params.count {
        return;
    }
    var sum = infinity();
    for (var window = params.windows; window > 0u; window--) {
        for (var i = 0u; i < params.digit_bits; i++) {
            sum = double_point(sum);
        }
        sum = add_points(sum, unpack_point(sums[number * params.windows + window - 1u]));
    }
    pieces[number] = pack_point(sum);
}
