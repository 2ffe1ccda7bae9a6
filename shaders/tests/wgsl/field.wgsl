// check_field: every function of field.wgsl.
//
// Purpose: tests only.
// Source: none needed.
// Input: cases, four elements each, 32 B an element.
// Output: results, eight elements a case, 32 B each: x y, x y + z w, x + y, x - y, -7 x, x; the number of the Montgomery form x;
//   1 or 0 in the lowest word for whether x is zero. Products are divided by 2^260.
// Grid: one thread a case, workgroups of 64. Shared memory: none.
// Twin: ark-ff in src/field.rs.

struct CheckParams {
    count: u32,
}

@group(0) @binding(0) var<uniform> params: CheckParams;
@group(0) @binding(1) var<storage, read> cases: array<array<Packed, 4>>;
@group(0) @binding(2) var<storage, read_write> results: array<array<Packed, 8>>;

@compute @workgroup_size(64)
fn check_field(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>) {
    let number = thread_number(id, workgroups);
    if number >= params.count {
        return;
    }
    let x = unpack(cases[number][0]);
    let y = unpack(cases[number][1]);
    let z = unpack(cases[number][2]);
    let w = unpack(cases[number][3]);
    results[number][0] = pack(canonical(mul(x, y)));
    results[number][1] = pack(canonical(mul_sum(x, y, z, w)));
    results[number][2] = pack(canonical(add(x, y)));
    results[number][3] = pack(canonical(sub(x, y)));
    results[number][4] = pack(canonical(fold(times(x, bitcast<u32>(-7)))));
    results[number][5] = pack(canonical(x));
    results[number][6] = pack(from_montgomery(x));
    results[number][7] = Packed(vec4<u32>(u32(is_zero(x)), 0u, 0u, 0u), vec4<u32>());
}
