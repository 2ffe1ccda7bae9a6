// check_curve: every sum of curve.wgsl, and the product of multiply.wgsl.
//
// Purpose: tests only.
// Source: none needed.
// Input: cases: two projective points, then x and y of an affine one, then a number: 9 elements of 32 B.
// Output: results: p + q, p + affine, 2 p, number * p, projective, 96 B each.
// Grid: one thread a case, workgroups of 64. Shared memory: none.
// Twin: ark-ec in src/field.rs.

struct CheckParams {
    count: u32,
}

struct Case {
    p: PackedPoint,
    q: PackedPoint,
    affine: PackedAffine,
    number: Packed,
}

@group(0) @binding(0) var<uniform> params: CheckParams;
@group(0) @binding(1) var<storage, read> cases: array<Case>;
@group(0) @binding(2) var<storage, read_write> results: array<array<PackedPoint, 4>>;

@compute @workgroup_size(64)
fn check_curve(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>) {
    let number = thread_number(id, workgroups);
    if number >= params.count {
        return;
    }
    let p = unpack_point(cases[number].p);
    let affine = cases[number].affine;
    results[number][0] = pack_point(add_points(p, unpack_point(cases[number].q)));
    results[number][1] = pack_point(add_affine(p, unpack(affine.x), unpack(affine.y)));
    results[number][2] = pack_point(double_point(p));
    results[number][3] = pack_point(multiply_point(p, cases[number].number));
}
