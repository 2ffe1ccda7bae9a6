// take_matrix: bytes as scalars.
//
// Purpose: coset 0, and the input of the inverse transform.
// Source: encoder/src/blob.rs and extend.rs: scalar number ρ * C + κ is 31 bytes, little-endian, and the value at κ * R + ρ.
// Input: data, 31 bytes a scalar, N a multiple of 4.
// Output: cosets, 32 B a scalar: the first R rows of C; values, 32 B each, in bit-reversed order.
// Grid: one thread a scalar, workgroups of 64. Shared memory: none.
// Twin: `extend` in tests/support.

struct MatrixParams {
    count: u32,
    lg_rows: u32,
    lg_columns: u32,
}

@group(0) @binding(0) var<uniform> params: MatrixParams;
@group(0) @binding(1) var<storage, read> data: array<u32>;
@group(0) @binding(2) var<storage, read_write> cosets: array<Packed>;
@group(0) @binding(3) var<storage, read_write> values: array<Packed>;

// The four bytes from byte `at` on.
fn bytes_at(at: u32) -> u32 {
    let word = at / 4u;
    let shift = 8u * (at % 4u);
    if shift == 0u {
        return data[word];
    }
    return (data[word] >> shift) | (data[word + 1u] << (32u - shift));
}

@compute @workgroup_size(64)
fn take_matrix(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>) {
    let number = thread_number(id, workgroups);
    if number >= params.count {
        return;
    }
    let at = 31u * number;
    // The last word begins one byte early, so that nothing behind the last scalar is read.
    let scalar = Packed(
        vec4<u32>(bytes_at(at), bytes_at(at + 4u), bytes_at(at + 8u), bytes_at(at + 12u)),
        vec4<u32>(bytes_at(at + 16u), bytes_at(at + 20u), bytes_at(at + 24u), bytes_at(at + 27u) >> 8u),
    );
    cosets[number] = scalar;
    let row = number >> params.lg_columns;
    let column = number & ((1u << params.lg_columns) - 1u);
    let place = (column << params.lg_rows) + row;
    values[reverseBits(place) >> (32u - params.lg_rows - params.lg_columns)] = scalar;
}
