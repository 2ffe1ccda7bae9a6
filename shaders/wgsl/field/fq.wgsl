// The base field of BN254.
//
// Purpose: the constants of field.wgsl for p, the field of the coordinates of points.
// Source: EIP-196. Montgomery form of v: v * 2^260 mod p.
// Input, output: none, constants; 20 limbs of 13 bits, the lowest first.
// Grid: none. Shared memory: none.
// Twin: ark-bn254's Fq in src/field.rs.

// 21888242871839275222246405745257275088696311157297823662689037894645226208583.
const MODULUS = Fe(
    vec4<u32>(7495u, 999u, 1462u, 280u),
    vec4<u32>(5058u, 1350u, 455u, 4653u),
    vec4<u32>(362u, 3260u, 5655u, 770u),
    vec4<u32>(7016u, 2082u, 1761u, 5125u),
    vec4<u32>(305u, 5015u, 6419u, 96u),
);
// -1/MODULUS mod 2^13.
const NEGATED_INVERSE = 905u;
// 2^260 mod MODULUS: one in Montgomery form.
const MONTGOMERY_ONE = Fe(
    vec4<u32>(1204u, 6119u, 61u, 1041u),
    vec4<u32>(1109u, 1236u, 2726u, 2359u),
    vec4<u32>(2312u, 4684u, 82u, 798u),
    vec4<u32>(472u, 5264u, 7702u, 3657u),
    vec4<u32>(7095u, 4720u, 1424u, 62u),
);
// 2^264 mod p: a Montgomery product with it takes v * 2^256 to v * 2^260.
const FROM_256_BITS = Fe(
    vec4<u32>(1658u, 5987u, 2750u, 5662u),
    vec4<u32>(8125u, 6271u, 6298u, 7602u),
    vec4<u32>(602u, 1388u, 2111u, 5061u),
    vec4<u32>(2928u, 6052u, 7325u, 7274u),
    vec4<u32>(3974u, 807u, 7749u, 26u),
);
// p - 2, the exponent of the inverse, as eight 32-bit words.
const INVERSE_EXPONENT = array<vec4<u32>, 2>(
    vec4<u32>(0xd87cfd45u, 0x3c208c16u, 0x6871ca8du, 0x97816a91u),
    vec4<u32>(0x8181585du, 0xb85045b6u, 0xe131a029u, 0x30644e72u),
);
// (p - 1) / 2: a larger y has the larger of y and p - y.
const HALF_OF_MODULUS = Fe(
    vec4<u32>(7843u, 499u, 731u, 140u),
    vec4<u32>(2529u, 4771u, 4323u, 2326u),
    vec4<u32>(181u, 5726u, 2827u, 385u),
    vec4<u32>(3508u, 5137u, 4976u, 6658u),
    vec4<u32>(4248u, 6603u, 3209u, 48u),
);
