// make_roots: the table of roots.wgsl.
//
// Purpose: once when a device is opened.
// Source: g = ROOT_OF_UNITY^(2^(28 - lg_order)), of order 2^lg_order = 4 N.
// Input: none but the parameters.
// Output: roots, 32 B each, as roots.wgsl has them.
// Grid: one thread an entry, workgroups of 64. Shared memory: none.
// Twin: ark-ff in src/field.rs.

struct RootParams {
    // Entries: 2 * 2^lg_half + 32.
    count: u32,
    lg_half: u32,
    lg_order: u32,
}

@group(0) @binding(0) var<uniform> params: RootParams;
@group(0) @binding(1) var<storage, read_write> roots: array<Packed>;

@compute @workgroup_size(64)
fn make_roots(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>) {
    let number = thread_number(id, workgroups);
    if number >= params.count {
        return;
    }
    let half = 1u << params.lg_half;
    var base = HALF;
    var exponent = number - 2u * half;
    if number < 2u * half {
        base = ROOT_OF_UNITY;
        exponent = select(number, (number - half) << params.lg_half, number >= half) << (LG_ROOT_OF_UNITY - params.lg_order);
    }
    var power = MONTGOMERY_ONE;
    for (; exponent > 0u; exponent >>= 1u) {
        if (exponent & 1u) == 1u {
            power = mul(power, base);
        }
        base = mul(base, base);
    }
    roots[number] = pack(power);
}
