// The scalar field of BN254.
//
// Purpose: the constants of field.wgsl for r, the order of the group, and the root of unity of the transforms.
// Source: EIP-196 (the order); 5 generates the multiplicative group. Montgomery form of v: v * 2^260 mod r.
// Input, output: none, constants; 20 limbs of 13 bits, the lowest first.
// Grid: none. Shared memory: none.
// Twin: ark-bn254's Fr in src/field.rs.

// 21888242871839275222246405745257275088548364400416034343698204186575808495617.
const MODULUS = Fe(
    vec4<u32>(1u, 0u, 1276u, 1003u),
    vec4<u32>(5182u, 6216u, 1765u, 2319u),
    vec4<u32>(5096u, 2369u, 5655u, 770u),
    vec4<u32>(7016u, 2082u, 1761u, 5125u),
    vec4<u32>(305u, 5015u, 6419u, 96u),
);
// -1/MODULUS mod 2^13.
const NEGATED_INVERSE = 8191u;
// 2^260 mod MODULUS: one in Montgomery form.
const MONTGOMERY_ONE = Fe(
    vec4<u32>(8108u, 8191u, 7503u, 5846u),
    vec4<u32>(7069u, 2090u, 7324u, 1793u),
    vec4<u32>(6088u, 5751u, 91u, 798u),
    vec4<u32>(472u, 5264u, 7702u, 3657u),
    vec4<u32>(7095u, 4720u, 1424u, 62u),
);
// 5^((r - 1) / 2^28), of order 2^28, in Montgomery form.
const ROOT_OF_UNITY = Fe(
    vec4<u32>(6584u, 2206u, 3619u, 3857u),
    vec4<u32>(381u, 7278u, 6737u, 8142u),
    vec4<u32>(8180u, 1800u, 7848u, 7722u),
    vec4<u32>(1245u, 2111u, 7815u, 5028u),
    vec4<u32>(3250u, 3420u, 6945u, 5u),
);
const LG_ROOT_OF_UNITY = 28u;
// 1/2 in Montgomery form.
const HALF = Fe(
    vec4<u32>(8150u, 8191u, 3751u, 7019u),
    vec4<u32>(3534u, 1045u, 7758u, 896u),
    vec4<u32>(7140u, 6971u, 45u, 399u),
    vec4<u32>(236u, 2632u, 7947u, 5924u),
    vec4<u32>(3547u, 2360u, 712u, 31u),
);
