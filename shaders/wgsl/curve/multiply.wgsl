// The product of a point and a number.
//
// Purpose: factors of the transforms of points.
// Source: digits of 3 bits from -4 to 3, the highest first: three doublings and one sum for each.
// Input: a point, and a number below 2^254 as eight 32-bit words, the lowest first.
// Output: a point.
// Grid: none, a function of one thread. Shared memory: none; the multiples 0 to 4 lie in private memory.
// Twin: ark-ec in src/field.rs.

const PRODUCT_DIGITS = 85u;
// Σ 4 * 8^i for i < 85: adding it to a number turns its digits 0 to 7 into digits -4 to 3 plus 4.
const PRODUCT_BIAS = array<u32, 8>(
    0x24924924u, 0x49249249u, 0x92492492u, 0x24924924u, 0x49249249u, 0x92492492u, 0x24924924u, 0x49249249u,
);

fn multiply_point(p: Point, factor: Packed) -> Point {
    var words = array<u32, 9>(
        factor.lo.x, factor.lo.y, factor.lo.z, factor.lo.w, factor.hi.x, factor.hi.y, factor.hi.z, factor.hi.w, 0u,
    );
    var bias = PRODUCT_BIAS;
    var carry = 0u;
    for (var i = 0u; i < 8u; i++) {
        let partial = words[i] + bias[i];
        let sum = partial + carry;
        carry = u32(partial < bias[i]) + u32(sum < partial);
        words[i] = sum;
    }
    var multiples: array<PackedPoint, 5>;
    var multiple = infinity();
    for (var i = 0u; i < 5u; i++) {
        multiples[i] = pack_point(multiple);
        multiple = add_points(multiple, p);
    }
    var product = infinity();
    for (var i = PRODUCT_DIGITS; i > 0u; i--) {
        for (var j = 0u; j < 3u; j++) {
            product = double_point(product);
        }
        let bit = 3u * (i - 1u);
        let shift = bit % 32u;
        // Twice by a part of the distance: a shift by 32 is none.
        let digit = i32(((words[bit / 32u] >> shift) | ((words[bit / 32u + 1u] << 1u) << (31u - shift))) & 7u) - 4;
        var term = unpack_point(multiples[abs(digit)]);
        if digit < 0 {
            term.y = scaled(term.y, -1);
        }
        product = add_points(product, term);
    }
    return product;
}
