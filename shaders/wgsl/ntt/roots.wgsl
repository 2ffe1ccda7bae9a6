// Powers of the root of unity whose order is 4 N.
//
// Purpose: the factors of all transforms, each from two entries of a short table.
// Source: g^e = g^(e mod 2^h) * g^(2^h * floor(e / 2^h)).
// Input: roots: g^i for i < 2^h, then g^(2^h * i) for i < 2^h, then 2^-i for i < 32; Montgomery form of fr.wgsl.
// Output: an element in Montgomery form.
// Grid: none, a function of one thread. Shared memory: none.
// Twin: ark-ff in src/field.rs.

// g^e for e < 4 N and h = lg_half.
fn power_of_root(e: u32, lg_half: u32) -> Fe {
    let low = e & ((1u << lg_half) - 1u);
    let high = (1u << lg_half) + (e >> lg_half);
    return mul(unpack(roots[low]), unpack(roots[high]));
}
