// Points of BN254's G1, y^2 = x^3 + 3 over Fq.
//
// Source of the formulas: XYZZ coordinates of the Explicit-Formulas Database (madd-2008-s, add-2008-s, dbl-2008-s-1,
// mdbl-2008-s-1 with a = 0). A Point stands for (x/zz, y/zzz) with zz^3 = zzz^2; infinity has zz = zzz = 0. Every function
// is right for infinity, for equal points and for opposite ones: what an encoded blob of zeros or of equal bytes makes of
// the sums. The group has prime order, so no point but infinity is its own opposite.
// Cost in products: Point + Affine 10, Point + Point 14, doubling 9. Shared memory: none. Twin: ark-ec in tests/commit.
#pragma once

#include "../field/field.cuh"

const u32 VECTORS_PER_AFFINE = 4;  // 64 bytes: x, y
const u32 VECTORS_PER_POINT = 8;   // 128 bytes: x, y, zz, zzz
const u32 NEGATIVE = 1u << 31;     // in the index of a point: its opposite

// Never infinity.
struct Affine {
    Fq x, y;
};

struct Point {
    Fq x, y, zz, zzz;
};

__device__ __forceinline__ Point infinity() {
    Point r;
    r.x = Fq::zero();
    r.y = Fq::zero();
    r.zz = Fq::zero();
    r.zzz = Fq::zero();
    return r;
}

__device__ __forceinline__ bool is_infinity(const Point &p) {
    return is_zero(p.zz);
}

__device__ __forceinline__ Point point(const Affine &p) {
    Point r;
    r.x = p.x;
    r.y = p.y;
    r.zz = Fq::one();
    r.zzz = Fq::one();
    return r;
}

__device__ __forceinline__ Fq chosen(bool first, const Fq &a, const Fq &b) {
    Fq r;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        r.v[i] = first ? a.v[i] : b.v[i];
    }
    return r;
}

__device__ __forceinline__ Point chosen(bool first, const Point &a, const Point &b) {
    Point r;
    r.x = chosen(first, a.x, b.x);
    r.y = chosen(first, a.y, b.y);
    r.zz = chosen(first, a.zz, b.zz);
    r.zzz = chosen(first, a.zzz, b.zzz);
    return r;
}

__device__ __forceinline__ Affine negated_if(bool negative, Affine p) {
    p.y = chosen(negative, neg(p.y), p.y);
    return p;
}

__device__ __forceinline__ Point negated_if(bool negative, Point p) {
    p.y = chosen(negative, neg(p.y), p.y);
    return p;
}

// 2p.
__device__ __forceinline__ Point doubled(const Point &p) {
    const Fq u = dbl(p.y), v = sqr(u), w = mul(u, v), s = mul(p.x, v), xx = sqr(p.x), m = add(dbl(xx), xx);
    Point r;
    r.x = sub(sqr(m), dbl(s));
    r.y = sub(mul(m, sub(s, r.x)), mul(w, p.y));
    r.zz = mul(v, p.zz);
    r.zzz = mul(w, p.zzz);
    return r;
}

// 2p for a point that is not infinity.
__device__ __forceinline__ Point doubled(const Affine &p) {
    const Fq u = dbl(p.y), v = sqr(u), w = mul(u, v), s = mul(p.x, v), xx = sqr(p.x), m = add(dbl(xx), xx);
    Point r;
    r.x = sub(sqr(m), dbl(s));
    r.y = sub(mul(m, sub(s, r.x)), mul(w, p.y));
    r.zz = v;
    r.zzz = w;
    return r;
}

// p + q.
__device__ __forceinline__ Point add(const Point &p, const Affine &q) {
    if (is_infinity(p)) {
        return point(q);
    }
    const Fq dx = sub(mul(q.x, p.zz), p.x), dy = sub(mul(q.y, p.zzz), p.y);
    if (is_zero(dx)) {
        return is_zero(dy) ? doubled(q) : infinity();
    }
    const Fq square = sqr(dx), cube = mul(square, dx), base = mul(p.x, square);
    Point r;
    r.x = sub(sub(sqr(dy), cube), dbl(base));
    r.y = sub(mul(dy, sub(base, r.x)), mul(p.y, cube));
    r.zz = mul(p.zz, square);
    r.zzz = mul(p.zzz, cube);
    return r;
}

// p + q.
__device__ __forceinline__ Point add(const Point &p, const Point &q) {
    if (is_infinity(p)) {
        return q;
    }
    if (is_infinity(q)) {
        return p;
    }
    const Fq x = mul(p.x, q.zz), y = mul(p.y, q.zzz), dx = sub(mul(q.x, p.zz), x), dy = sub(mul(q.y, p.zzz), y);
    if (is_zero(dx)) {
        return is_zero(dy) ? doubled(q) : infinity();
    }
    const Fq square = sqr(dx), cube = mul(square, dx), base = mul(x, square);
    Point r;
    r.x = sub(sub(sqr(dy), cube), dbl(base));
    r.y = sub(mul(dy, sub(base, r.x)), mul(y, cube));
    r.zz = mul(mul(p.zz, q.zz), square);
    r.zzz = mul(mul(p.zzz, q.zzz), cube);
    return r;
}

__device__ __forceinline__ Affine load_affine(const uint4 *place) {
    Affine r;
    r.x = load_constant<Fq>(place);
    r.y = load_constant<Fq>(place + 2);
    return r;
}

__device__ __forceinline__ void store_affine(uint4 *place, const Affine &p) {
    store(place, p.x);
    store(place + 2, p.y);
}

__device__ __forceinline__ Point load_point(const uint4 *place) {
    Point r;
    r.x = load<Fq>(place);
    r.y = load<Fq>(place + 2);
    r.zz = load<Fq>(place + 4);
    r.zzz = load<Fq>(place + 6);
    return r;
}

__device__ __forceinline__ void store_point(uint4 *place, const Point &p) {
    store(place, p.x);
    store(place + 2, p.y);
    store(place + 4, p.zz);
    store(place + 6, p.zzz);
}
