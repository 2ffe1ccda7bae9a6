// Points of G1 of BN254, y^2 = x^3 + 3.
//
// Purpose: sums under the MSMs, the transforms of points and the trees.
// Source: Renes, Costello, Batina, "Complete addition formulas for prime order elliptic curves" (2016), algorithms 7 to 9 for
//   a = 0, with b3 = 3 * 3. They hold for all points: infinity, doubling and cancellation are no special cases.
// Input, output: projective points (X : Y : Z), x = X / Z, y = Y / Z, infinity (0 : 1 : 0); coordinates are elements of
//   field.wgsl over fq.wgsl in Montgomery form. In memory 96 bytes a point, 64 bytes an affine one, which is never infinity.
// Grid: none, functions of one thread. Shared memory: none.
// Twin: ark-ec in src/field.rs.

struct Point {
    x: Fe,
    y: Fe,
    z: Fe,
}

struct PackedPoint {
    x: Packed,
    y: Packed,
    z: Packed,
}

struct PackedAffine {
    x: Packed,
    y: Packed,
}

fn infinity() -> Point {
    return Point(Fe(), MONTGOMERY_ONE, Fe());
}

fn unpack_point(p: PackedPoint) -> Point {
    return Point(unpack(p.x), unpack(p.y), unpack(p.z));
}

fn pack_point(p: Point) -> PackedPoint {
    return PackedPoint(pack(p.x), pack(p.y), pack(p.z));
}

// k * x for a small k of either sign.
fn scaled(x: Fe, k: i32) -> Fe {
    return fold(times(x, bitcast<u32>(k)));
}

// The end of both sums: xx, yy and zz3 = 9 * zz are products of equal coordinates, xy, yz and xz sums of mixed products.
fn sum_of_products(xx: Fe, yy: Fe, zz9: Fe, xy: Fe, yz: Fe, xz: Fe) -> Point {
    let m = scaled(xx, 3);
    let s = add(yy, zz9);
    let t = sub(yy, zz9);
    let xz9 = scaled(xz, 9);
    return Point(
        mul_sum(xy, t, yz, scaled(xz, -9)),
        mul_sum(xz9, m, t, s),
        mul_sum(s, yz, m, xy),
    );
}

fn add_points(p: Point, q: Point) -> Point {
    return sum_of_products(
        mul(p.x, q.x),
        mul(p.y, q.y),
        scaled(mul(p.z, q.z), 9),
        mul_sum(p.x, q.y, q.x, p.y),
        mul_sum(p.y, q.z, q.y, p.z),
        mul_sum(p.x, q.z, q.x, p.z),
    );
}

// The sum with an affine point (x, y).
fn add_affine(p: Point, x: Fe, y: Fe) -> Point {
    return sum_of_products(
        mul(p.x, x),
        mul(p.y, y),
        scaled(p.z, 9),
        mul_sum(p.x, y, x, p.y),
        add(mul(y, p.z), p.y),
        add(mul(x, p.z), p.x),
    );
}

fn double_point(p: Point) -> Point {
    let yy = mul(p.y, p.y);
    let yy8 = scaled(yy, 8);
    let zz9 = scaled(mul(p.z, p.z), 9);
    let t = fold(minus(yy, times(zz9, 3u)));
    return Point(
        mul(t, scaled(mul(p.x, p.y), 2)),
        mul_sum(t, add(yy, zz9), zz9, yy8),
        mul(mul(p.y, p.z), yy8),
    );
}
