//! Vectors of elements of a prime field, one for each of several independent computations.
//!
//! Two implementations of one trait: [`One`], one element on any processor, and `Ifma`, eight elements in 52-bit limbs
//! with AVX-512 IFMA. Elements are held in Montgomery form, v·R mod p, with R = 2^256 for `One` and R = 2^260 for `Ifma`,
//! and not fully reduced: [`Lanes`] says what each operation takes and gives.
//!
//! Everything here is `#[inline(always)]`: the code ends up inside one of the entry points in [`super::kernels`], which
//! enable the instruction set, so that no vector ever crosses a call. A closure is a function of its own without the
//! instruction set; so closures here and in the kernels find elements in memory and do not touch vectors.

use ark_ff::{AdditiveGroup, BigInt, Field, Fp, MontBackend, MontConfig, PrimeField};

/// An element as the field library has it.
pub(super) type Element<C> = Fp<MontBackend<C, 4>, 4>;

/// An element in memory: four 64-bit limbs, the lowest first, of v·R mod p plus at most a small multiple of p.
pub(super) type Words = [u64; 4];

/// A point in affine coordinates, x and y, on a cache line of its own; [`NOTHING`] for x is the point at infinity.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C, align(64))]
pub(super) struct Point(pub(super) [Words; 2]);

/// Most lanes of a vector.
pub(super) const MAX_LANES: usize = 8;

/// As many elements of the field with configuration `Config` as a vector holds.
///
/// An element is *loose* when its integer is below 2p. Operations take and give loose elements unless they say otherwise.
pub(super) trait Lanes: Copy {
    /// The field.
    type Config: MontConfig<4>;
    /// Elements in a vector: 1 or 8.
    const LANES: usize;

    /// The same element in every lane.
    fn splat(element: Element<Self::Config>) -> Self;
    /// Reads the element of each lane: `words(l)` for lane l below LANES. It may be anything that `store` wrote.
    fn load<'a>(words: impl Fn(usize) -> &'a Words) -> Self;
    /// Reads one element for all lanes.
    #[inline(always)]
    fn load_same(words: &Words) -> Self {
        Self::load(|_| words)
    }
    /// Reads the coordinates of each lane's point.
    #[inline(always)]
    fn load_point<'a>(point: impl Fn(usize) -> &'a Point) -> (Self, Self) {
        (Self::load(|l| &point(l).0[0]), Self::load(|l| &point(l).0[1]))
    }
    /// Says that the point will be read soon.
    #[inline(always)]
    fn prefetch(_point: &Point) {}
    /// Writes the element of each lane; those beyond LANES are left alone.
    fn store(self, words: &mut [Words; MAX_LANES]);
    /// Writes `self` and `y` as the first LANES points.
    fn store_point(self, y: Self, points: &mut [Point]);
    /// The elements of all lanes, fully reduced; those beyond LANES are zero.
    fn to_elements(self) -> [Element<Self::Config>; MAX_LANES];
    /// The inverse of `to_elements`.
    fn from_elements(elements: &[Element<Self::Config>; MAX_LANES]) -> Self;
    /// The least non-negative integers that the elements stand for, not in Montgomery form.
    fn store_integers(self, words: &mut [Words; MAX_LANES]);
    /// Elements from integers below the modulus, not in Montgomery form.
    fn load_integers<'a>(words: impl Fn(usize) -> &'a Words) -> Self;

    /// Product. One factor may be wide: the result of `minus_wide`.
    fn times(self, other: Self) -> Self;
    /// Square.
    #[inline(always)]
    fn square(self) -> Self {
        self.times(self)
    }
    /// Sum.
    fn plus(self, other: Self) -> Self;
    /// Difference.
    fn minus(self, other: Self) -> Self;
    /// Difference, below 4p: only to be multiplied.
    fn minus_wide(self, other: Self) -> Self;
    /// self - b - c.
    #[inline(always)]
    fn minus_both(self, b: Self, c: Self) -> Self {
        self.minus(b).minus(c)
    }
    /// Twice the element.
    #[inline(always)]
    fn double(self) -> Self {
        self.plus(self)
    }
    /// In the lanes whose bit is set, the negative.
    fn negate_where(self, mask: u8) -> Self;
    /// A bit for each lane: set where the element, below 4p, is zero.
    fn zeros(self) -> u8;
    /// A bit for each lane: set where `load` found [`NOTHING`].
    fn nothings(self) -> u8;
    /// `self` in the lanes whose bit is set, `other` elsewhere.
    fn where_set(self, mask: u8, other: Self) -> Self;

    /// The inverse in every lane; `None` if one has none. One division on the host for all lanes.
    #[inline(always)]
    fn inverse(self) -> Option<Self> {
        let elements = self.to_elements();
        let mut before = [Element::<Self::Config>::ONE; MAX_LANES];
        let mut product = Element::<Self::Config>::ONE;
        for (element, before) in elements[..Self::LANES].iter().zip(&mut before) {
            *before = product;
            product *= element;
        }
        let mut inverse = invert(&product)?;
        let mut inverses = [Element::<Self::Config>::ZERO; MAX_LANES];
        for lane in (0..Self::LANES).rev() {
            inverses[lane] = inverse * before[lane];
            inverse *= elements[lane];
        }
        Some(Self::from_elements(&inverses))
    }
}

/// No element: what stands in the place of x for the point at infinity. `store` never writes it of itself.
pub(super) const NOTHING: Words = [u64::MAX; 4];

#[inline(never)]
fn invert<C: MontConfig<4>>(element: &Element<C>) -> Option<Element<C>> {
    element.inverse()
}

/// One element.
pub(super) struct One<C: MontConfig<4>>(Element<C>);

impl<C: MontConfig<4>> Clone for One<C> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<C: MontConfig<4>> Copy for One<C> {}

impl<C: MontConfig<4>> Lanes for One<C> {
    type Config = C;
    const LANES: usize = 1;

    #[inline(always)]
    fn splat(element: Element<C>) -> Self {
        One(element)
    }
    #[inline(always)]
    fn load<'a>(words: impl Fn(usize) -> &'a Words) -> Self {
        One(Element::<C>::new_unchecked(BigInt(*words(0))))
    }
    #[inline(always)]
    fn store(self, words: &mut [Words; MAX_LANES]) {
        words[0] = self.0.0.0;
    }
    #[inline(always)]
    fn store_point(self, y: Self, points: &mut [Point]) {
        points[0].0 = [self.0.0.0, y.0.0.0];
    }
    #[inline(always)]
    fn to_elements(self) -> [Element<C>; MAX_LANES] {
        let mut elements = [Element::<C>::ZERO; MAX_LANES];
        elements[0] = self.0;
        elements
    }
    #[inline(always)]
    fn from_elements(elements: &[Element<C>; MAX_LANES]) -> Self {
        One(elements[0])
    }
    #[inline(always)]
    fn store_integers(self, words: &mut [Words; MAX_LANES]) {
        words[0] = self.0.into_bigint().0;
    }
    #[inline(always)]
    fn load_integers<'a>(words: impl Fn(usize) -> &'a Words) -> Self {
        One(Element::<C>::from_bigint(BigInt(*words(0))).expect("an integer below the modulus"))
    }
    #[inline(always)]
    fn times(self, other: Self) -> Self {
        One(self.0 * other.0)
    }
    #[inline(always)]
    fn square(self) -> Self {
        One(self.0.square())
    }
    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        One(self.0 + other.0)
    }
    #[inline(always)]
    fn minus(self, other: Self) -> Self {
        One(self.0 - other.0)
    }
    #[inline(always)]
    fn minus_wide(self, other: Self) -> Self {
        One(self.0 - other.0)
    }
    #[inline(always)]
    fn negate_where(self, mask: u8) -> Self {
        if mask & 1 == 1 { One(-self.0) } else { self }
    }
    #[inline(always)]
    fn zeros(self) -> u8 {
        u8::from(self.0 == Element::<C>::ZERO)
    }
    #[inline(always)]
    fn nothings(self) -> u8 {
        u8::from(self.0.0.0 == NOTHING)
    }
    #[inline(always)]
    fn where_set(self, mask: u8, other: Self) -> Self {
        if mask & 1 == 1 { self } else { other }
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use ifma::Ifma;

#[cfg(target_arch = "x86_64")]
#[allow(clippy::needless_range_loop, reason = "limbs of several vectors go by one index, and a closure has no vectors")]
mod ifma {
    use std::{arch::x86_64::*, marker::PhantomData};

    use super::*;

    /// Bits of a limb, and the limb with all of them.
    const LIMB_BITS: u32 = 52;
    const LIMB_MASK: u64 = (1 << LIMB_BITS) - 1;
    /// log2 of R.
    const LG_RADIX: u32 = 5 * LIMB_BITS;
    /// Multiples of p that are taken away at once: any number below 8p comes out below 2p.
    const MULTIPLES: usize = 8;

    /// Runs intrinsics of the impl's instruction set.
    macro_rules! simd {
        ($expression:expr) => {
            // SAFETY: an `Ifma` exists only below an entry point that enables AVX-512 F, VL, DQ, IFMA and VBMI2, which is
            // called only where the processor has them; memory is reached through arrays of the access's size.
            unsafe { $expression }
        };
    }

    /// The modulus and what follows from it, in five 52-bit limbs, the lowest first.
    struct Constants<C>(PhantomData<C>);

    impl<C: MontConfig<4>> Constants<C> {
        const P: [u64; 5] = split(C::MODULUS.0);
        /// -1/p mod 2^52.
        const MINUS_INVERSE: u64 = C::INV & LIMB_MASK;
        /// Limb i of k·p at \[i\]\[k\].
        const MULTIPLES: [[u64; MULTIPLES]; 5] = multiples(Self::P);
        /// floor(2^260/p): q = floor(floor(v/2^208)·this/2^52) is floor(v/p) or one less for v < 8p. It is not exact
        /// (84 of 84.7), so q is not too large even where carries are still missing in the highest limb.
        const QUOTIENT: u64 = (1u128 << 100).div_euclid((Self::P[4] as u128) << 48 | (Self::P[3] >> 4) as u128) as u64;
        /// 1, 2^256 and 2^264 mod p: factors that change Montgomery forms.
        const UNIT: [u64; 5] = split(power_of_two(0, C::MODULUS.0));
        const TO_HOST: [u64; 5] = split(power_of_two(256, C::MODULUS.0));
        const FROM_HOST: [u64; 5] = split(power_of_two(2 * LG_RADIX - 256, C::MODULUS.0));
        /// 2^520 mod p.
        const FROM_INTEGER: [u64; 5] = split(power_of_two(2 * LG_RADIX, C::MODULUS.0));
    }

    const fn split(words: [u64; 4]) -> [u64; 5] {
        [
            words[0] & LIMB_MASK,
            (words[0] >> 52 | words[1] << 12) & LIMB_MASK,
            (words[1] >> 40 | words[2] << 24) & LIMB_MASK,
            (words[2] >> 28 | words[3] << 36) & LIMB_MASK,
            words[3] >> 16,
        ]
    }

    const fn multiples(p: [u64; 5]) -> [[u64; MULTIPLES]; 5] {
        let mut table = [[0; MULTIPLES]; 5];
        let mut k = 0;
        while k < MULTIPLES {
            let (mut i, mut carry) = (0, 0);
            while i < 5 {
                let limb = k as u64 * p[i] + carry;
                table[i][k] = limb & LIMB_MASK;
                carry = limb >> LIMB_BITS;
                i += 1;
            }
            k += 1;
        }
        table
    }

    /// 2^`exponent` mod `p`, where p is odd and below 2^255.
    const fn power_of_two(exponent: u32, p: [u64; 4]) -> [u64; 4] {
        let mut power = [1, 0, 0, 0];
        let mut step = 0;
        while step < exponent {
            let (mut doubled, mut reduced) = ([0u64; 4], [0u64; 4]);
            let (mut i, mut carry, mut borrow) = (0, 0, false);
            while i < 4 {
                doubled[i] = power[i] << 1 | carry;
                carry = power[i] >> 63;
                let (difference, below) = doubled[i].overflowing_sub(p[i]);
                let (difference, below_too) = difference.overflowing_sub(borrow as u64);
                reduced[i] = difference;
                borrow = below | below_too;
                i += 1;
            }
            power = if borrow { doubled } else { reduced };
            step += 1;
        }
        power
    }

    /// Eight elements; limb i of all of them in vector i, below 2^52.
    pub(in super::super) struct Ifma<C>([__m512i; 5], PhantomData<C>);

    impl<C> Clone for Ifma<C> {
        #[inline(always)]
        fn clone(&self) -> Self {
            *self
        }
    }

    impl<C> Copy for Ifma<C> {}

    #[inline(always)]
    fn broadcast(word: u64) -> __m512i {
        simd!(_mm512_set1_epi64(word as i64))
    }

    #[inline(always)]
    fn broadcast_limbs(l: [u64; 5]) -> [__m512i; 5] {
        [broadcast(l[0]), broadcast(l[1]), broadcast(l[2]), broadcast(l[3]), broadcast(l[4])]
    }

    #[inline(always)]
    fn add(a: __m512i, b: __m512i) -> __m512i {
        simd!(_mm512_add_epi64(a, b))
    }

    #[inline(always)]
    fn sub(a: __m512i, b: __m512i) -> __m512i {
        simd!(_mm512_sub_epi64(a, b))
    }

    #[inline(always)]
    fn low(sum: __m512i, a: __m512i, b: __m512i) -> __m512i {
        simd!(_mm512_madd52lo_epu64(sum, a, b))
    }

    #[inline(always)]
    fn high(sum: __m512i, a: __m512i, b: __m512i) -> __m512i {
        simd!(_mm512_madd52hi_epu64(sum, a, b))
    }

    /// Carries limbs, seen as signed numbers, into the next: all but the highest end below 2^52.
    #[inline(always)]
    fn carried(mut t: [__m512i; 5]) -> [__m512i; 5] {
        let mask = broadcast(LIMB_MASK);
        for i in 0..4 {
            t[i + 1] = add(t[i + 1], simd!(_mm512_srai_epi64::<LIMB_BITS>(t[i])));
            t[i] = simd!(_mm512_and_si512(t[i], mask));
        }
        t
    }

    /// The words of 8 elements as limbs.
    #[inline(always)]
    fn unpack(w: [__m512i; 4]) -> [__m512i; 5] {
        let mask = broadcast(LIMB_MASK);
        simd!([
            _mm512_and_si512(w[0], mask),
            _mm512_and_si512(_mm512_shrdi_epi64::<52>(w[0], w[1]), mask),
            _mm512_and_si512(_mm512_shrdi_epi64::<40>(w[1], w[2]), mask),
            _mm512_and_si512(_mm512_shrdi_epi64::<28>(w[2], w[3]), mask),
            _mm512_srli_epi64::<16>(w[3]),
        ])
    }

    /// The inverse of `unpack`, for numbers below 2^256.
    #[inline(always)]
    fn pack(l: [__m512i; 5]) -> [__m512i; 4] {
        simd!([
            _mm512_or_si512(l[0], _mm512_slli_epi64::<52>(l[1])),
            _mm512_or_si512(_mm512_srli_epi64::<12>(l[1]), _mm512_slli_epi64::<40>(l[2])),
            _mm512_or_si512(_mm512_srli_epi64::<24>(l[2]), _mm512_slli_epi64::<28>(l[3])),
            _mm512_or_si512(_mm512_srli_epi64::<36>(l[3]), _mm512_slli_epi64::<16>(l[4])),
        ])
    }

    /// Word w of 8 rows of four words in vector w.
    #[inline(always)]
    fn gather<'a>(words: impl Fn(usize) -> &'a Words) -> [__m512i; 4] {
        // Row l in the lower half, row l + 4 in the upper.
        let mut rows = [broadcast(0); 4];
        for l in 0..4 {
            let (low, high) = (words(l), words(l + 4));
            rows[l] = simd!({
                let low = _mm256_loadu_si256(low.as_ptr().cast());
                let high = _mm256_loadu_si256(high.as_ptr().cast());
                _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high)
            });
        }
        transpose4(rows)
    }

    /// Transposes 4 by 4 words in both halves.
    #[inline(always)]
    fn transpose4(r: [__m512i; 4]) -> [__m512i; 4] {
        simd!({
            let (a, b) = (_mm512_unpacklo_epi64(r[0], r[1]), _mm512_unpackhi_epi64(r[0], r[1]));
            let (c, d) = (_mm512_unpacklo_epi64(r[2], r[3]), _mm512_unpackhi_epi64(r[2], r[3]));
            // The first 128 bits of both halves of a and c, then the second ones.
            let first = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13);
            let second = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);
            [
                _mm512_permutex2var_epi64(a, first, c),
                _mm512_permutex2var_epi64(b, first, d),
                _mm512_permutex2var_epi64(a, second, c),
                _mm512_permutex2var_epi64(b, second, d),
            ]
        })
    }

    impl<C: MontConfig<4>> Ifma<C> {
        #[inline(always)]
        fn new(limbs: [__m512i; 5]) -> Self {
            Ifma(limbs, PhantomData)
        }

        #[inline(always)]
        fn constant(limbs: [u64; 5]) -> Self {
            Self::new(broadcast_limbs(limbs))
        }

        /// Limb i of k·p.
        #[inline(always)]
        fn multiple(k: usize, i: usize) -> __m512i {
            broadcast(Constants::<C>::MULTIPLES[i][k])
        }

        /// A number of p/2 to 8p, its carries missing, below 2p.
        #[inline(always)]
        fn reduced(mut t: [__m512i; 5]) -> Self {
            let quotient = high(broadcast(0), t[4], broadcast(Constants::<C>::QUOTIENT));
            for i in 0..5 {
                let table = simd!(_mm512_loadu_si512(Constants::<C>::MULTIPLES[i].as_ptr().cast()));
                t[i] = sub(t[i], simd!(_mm512_permutexvar_epi64(quotient, table)));
            }
            Self::new(carried(t))
        }

        /// Below p, from below 4p.
        #[inline(always)]
        fn canonical(self) -> [__m512i; 5] {
            let mut number = self.0;
            for k in [2, 1] {
                let mut less = number;
                for i in 0..5 {
                    less[i] = sub(less[i], Self::multiple(k, i));
                }
                less = carried(less);
                let negative = simd!(_mm512_movepi64_mask(less[4]));
                for i in 0..5 {
                    number[i] = simd!(_mm512_mask_blend_epi64(negative, less[i], number[i]));
                }
            }
            number
        }

        #[inline(always)]
        fn write(words: [__m512i; 4], into: &mut [Words; MAX_LANES]) {
            let rows = transpose4(words);
            for l in 0..4 {
                let (low, high) = simd!((_mm512_castsi512_si256(rows[l]), _mm512_extracti64x4_epi64::<1>(rows[l])));
                simd!(_mm256_storeu_si256(into[l].as_mut_ptr().cast(), low));
                simd!(_mm256_storeu_si256(into[l + 4].as_mut_ptr().cast(), high));
            }
        }

        /// v/2^260 mod p of a number v < 2^514 in columns of 52 bits, its carries missing.
        #[inline(always)]
        fn montgomery(mut t: [__m512i; 10]) -> Self {
            let p = broadcast_limbs(Constants::<C>::P);
            let minus_inverse = broadcast(Constants::<C>::MINUS_INVERSE);
            for i in 0..5 {
                let m = low(broadcast(0), t[i], minus_inverse);
                for j in 0..5 {
                    t[i + j] = low(t[i + j], m, p[j]);
                }
                t[i + 1] = add(t[i + 1], simd!(_mm512_srli_epi64::<LIMB_BITS>(t[i])));
                for j in 0..5 {
                    t[i + j + 1] = high(t[i + j + 1], m, p[j]);
                }
            }
            Self::new(carried([t[5], t[6], t[7], t[8], t[9]]))
        }
    }

    impl<C: MontConfig<4>> Lanes for Ifma<C> {
        type Config = C;
        const LANES: usize = 8;

        #[inline(always)]
        fn splat(element: Element<C>) -> Self {
            Self::from_elements(&[element; MAX_LANES])
        }
        #[inline(always)]
        fn load<'a>(words: impl Fn(usize) -> &'a Words) -> Self {
            Self::new(unpack(gather(words)))
        }
        #[inline(always)]
        fn prefetch(point: &Point) {
            simd!(_mm_prefetch::<_MM_HINT_T0>(point.0.as_ptr().cast()));
        }
        #[inline(always)]
        fn load_same(words: &Words) -> Self {
            Self::new(unpack([broadcast(words[0]), broadcast(words[1]), broadcast(words[2]), broadcast(words[3])]))
        }
        #[inline(always)]
        fn store(self, words: &mut [Words; MAX_LANES]) {
            Self::write(pack(self.0), words);
        }
        #[inline(always)]
        fn store_point(self, y: Self, points: &mut [Point]) {
            let points = &mut points[..MAX_LANES];
            let (x, y) = (transpose4(pack(self.0)), transpose4(pack(y.0)));
            for l in 0..4 {
                let low = simd!(_mm512_shuffle_i64x2::<0b01_00_01_00>(x[l], y[l]));
                let high = simd!(_mm512_shuffle_i64x2::<0b11_10_11_10>(x[l], y[l]));
                simd!(_mm512_storeu_si512(points[l].0.as_mut_ptr().cast(), low));
                simd!(_mm512_storeu_si512(points[l + 4].0.as_mut_ptr().cast(), high));
            }
        }
        #[inline(always)]
        fn to_elements(self) -> [Element<C>; MAX_LANES] {
            let host = self.times(Self::constant(Constants::<C>::TO_HOST));
            let mut words = [[0; 4]; MAX_LANES];
            Self::write(pack(host.canonical()), &mut words);
            words.map(|words| Element::<C>::new_unchecked(BigInt(words)))
        }
        #[inline(always)]
        fn from_elements(elements: &[Element<C>; MAX_LANES]) -> Self {
            let host = Self::load(|l| &elements[l].0.0);
            host.times(Self::constant(Constants::<C>::FROM_HOST))
        }
        #[inline(always)]
        fn store_integers(self, words: &mut [Words; MAX_LANES]) {
            let integer = self.times(Self::constant(Constants::<C>::UNIT));
            Self::write(pack(integer.canonical()), words);
        }
        #[inline(always)]
        fn load_integers<'a>(words: impl Fn(usize) -> &'a Words) -> Self {
            Self::load(words).times(Self::constant(Constants::<C>::FROM_INTEGER))
        }
        #[inline(always)]
        fn times(self, other: Self) -> Self {
            let mut t = [broadcast(0); 10];
            for i in 0..5 {
                for j in 0..5 {
                    t[i + j] = low(t[i + j], self.0[i], other.0[j]);
                    t[i + j + 1] = high(t[i + j + 1], self.0[i], other.0[j]);
                }
            }
            Self::montgomery(t)
        }
        #[inline(always)]
        fn square(self) -> Self {
            let mut t = [broadcast(0); 10];
            for i in 0..5 {
                for j in i + 1..5 {
                    t[i + j] = low(t[i + j], self.0[i], self.0[j]);
                    t[i + j + 1] = high(t[i + j + 1], self.0[i], self.0[j]);
                }
            }
            for column in &mut t {
                *column = add(*column, *column);
            }
            for i in 0..5 {
                t[2 * i] = low(t[2 * i], self.0[i], self.0[i]);
                t[2 * i + 1] = high(t[2 * i + 1], self.0[i], self.0[i]);
            }
            Self::montgomery(t)
        }
        #[inline(always)]
        fn plus(self, other: Self) -> Self {
            // A sum below p/2 has its carries done by `reduced` all the same: the quotient is then 0.
            let mut t = self.0;
            for i in 0..5 {
                t[i] = add(t[i], other.0[i]);
            }
            Self::reduced(t)
        }
        #[inline(always)]
        fn minus(self, other: Self) -> Self {
            let mut t = self.0;
            for i in 0..5 {
                t[i] = add(sub(t[i], other.0[i]), Self::multiple(4, i));
            }
            Self::reduced(t)
        }
        #[inline(always)]
        fn minus_wide(self, other: Self) -> Self {
            let mut t = self.0;
            for i in 0..5 {
                t[i] = add(sub(t[i], other.0[i]), Self::multiple(2, i));
            }
            Self::new(carried(t))
        }
        #[inline(always)]
        fn minus_both(self, b: Self, c: Self) -> Self {
            let mut t = self.0;
            for i in 0..5 {
                t[i] = add(sub(sub(t[i], b.0[i]), c.0[i]), Self::multiple(5, i));
            }
            Self::reduced(t)
        }
        #[inline(always)]
        fn negate_where(self, mask: u8) -> Self {
            let mut t = self.0;
            for i in 0..5 {
                t[i] = simd!(_mm512_mask_sub_epi64(t[i], mask, Self::multiple(2, i), t[i]));
            }
            Self::new(carried(t))
        }
        #[inline(always)]
        fn zeros(self) -> u8 {
            let n = self.canonical();
            let any = simd!({
                let any = _mm512_or_si512(_mm512_or_si512(n[0], n[1]), _mm512_or_si512(n[2], n[3]));
                _mm512_or_si512(any, n[4])
            });
            simd!(_mm512_testn_epi64_mask(any, any))
        }
        #[inline(always)]
        fn nothings(self) -> u8 {
            simd!(_mm512_cmpeq_epi64_mask(self.0[4], broadcast(NOTHING[3] >> 16)))
        }
        #[inline(always)]
        fn where_set(self, mask: u8, other: Self) -> Self {
            let mut t = self.0;
            for i in 0..5 {
                t[i] = simd!(_mm512_mask_blend_epi64(mask, other.0[i], t[i]));
            }
            Self::new(t)
        }
    }
}
