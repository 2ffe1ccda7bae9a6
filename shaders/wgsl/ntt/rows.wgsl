// take_rows: the end of the transform to a coset.
//
// Purpose: the values on a coset become its rows.
// Source: encoder/src/extend.rs: scalar (ρ, κ) is value κ * R + ρ.
// Input: values, 32 B each, below 2 r, in natural order.
// Output: cosets, 32 B a scalar, below r: R rows of C from `first` on.
// Grid: one thread a scalar, workgroups of 64. Shared memory: none.
// Twin: ark-poly in tests/blob.rs.

struct RowParams {
    count: u32,
    lg_rows: u32,
    lg_columns: u32,
    first: u32,
}

@group(0) @binding(0) var<uniform> params: RowParams;
@group(0) @binding(1) var<storage, read> values: array<Packed>;
@group(0) @binding(2) var<storage, read_write> cosets: array<Packed>;

@compute @workgroup_size(64)
fn take_rows(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>) {
    let number = thread_number(id, workgroups);
    if number >= params.count {
        return;
    }
    let row = number >> params.lg_columns;
    let column = number & ((1u << params.lg_columns) - 1u);
    cosets[params.first + number] = pack(canonical(unpack(values[(column << params.lg_rows) + row])));
}
