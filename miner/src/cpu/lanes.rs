//! Vectors of 64-bit words, one word for each of several independent nonces or seals.
//!
//! Everything here is `#[inline(always)]`: the code ends up inside one of the entry points in [`super::kernels`], which
//! enable the instruction set, so that no vector ever crosses a call.

/// As many 64-bit words as a vector register holds; lane `l` belongs to nonce or seal `l` of a group.
pub(super) trait Lanes: Copy {
    /// Words in a vector: 1, 4 or 8.
    const LANES: usize;

    /// The same word in every lane.
    fn splat(word: u64) -> Self;
    /// Reads 8 · LANES bytes; little-endian words, lane 0 first.
    fn load(bytes: &[u8]) -> Self;
    /// Writes 8 · LANES bytes; the inverse of `load`.
    fn store(self, bytes: &mut [u8]);
    /// Sum modulo 2^64.
    fn add(self, other: Self) -> Self;
    /// Exclusive or.
    fn xor(self, other: Self) -> Self;
    /// Exclusive or of three.
    fn xor3(self, b: Self, c: Self) -> Self {
        self.xor(b).xor(c)
    }
    /// Keccak's chi: self ^ (!b & c).
    fn chi(self, b: Self, c: Self) -> Self;
    /// Keccak's theta on one word: self ^ left ^ right, where `both` is left ^ right; an implementation uses either.
    fn theta(self, _left: Self, _right: Self, both: Self) -> Self {
        self.xor(both)
    }
    /// Rotates every word to the left by `N`, 0 < N < 64.
    fn rotl<const N: i32>(self) -> Self;
    /// Rotates every word to the right by 32, 24, 16 or 63, as BLAKE2b does.
    fn rotr32(self) -> Self {
        self.rotl::<32>()
    }
    /// As `rotr32`, by 24.
    fn rotr24(self) -> Self {
        self.rotl::<40>()
    }
    /// As `rotr32`, by 16.
    fn rotr16(self) -> Self {
        self.rotl::<48>()
    }
    /// As `rotr32`, by 63.
    fn rotr63(self) -> Self {
        self.rotl::<1>()
    }
    /// Reads 64 bytes of each lane's row, rows `stride` bytes apart: word `w` of the result has word `w` of every row.
    fn transpose_in(rows: &[u8], stride: usize) -> [Self; 8];
    /// Writes 64 bytes to each lane's row; the inverse of `transpose_in`.
    fn transpose_out(words: &[Self; 8], rows: &mut [u8], stride: usize);

    /// One word for each lane; words beyond the lanes are passed over.
    #[inline(always)]
    fn from_words(words: &[u64; 8]) -> Self {
        let mut bytes = [0u8; 64];
        for (bytes, word) in bytes.chunks_exact_mut(8).zip(words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        Self::load(&bytes)
    }

    /// The lanes' words; those beyond the lanes are 0.
    #[inline(always)]
    fn to_words(self) -> [u64; 8] {
        let mut bytes = [0u8; 64];
        self.store(&mut bytes);
        let mut words = [0u64; 8];
        for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_le_bytes(bytes.try_into().expect("chunks of 8 bytes"));
        }
        words
    }
}

impl Lanes for u64 {
    const LANES: usize = 1;

    #[inline(always)]
    fn splat(word: u64) -> Self {
        word
    }
    #[inline(always)]
    fn load(bytes: &[u8]) -> Self {
        u64::from_le_bytes(*bytes.first_chunk().expect("8 bytes"))
    }
    #[inline(always)]
    fn store(self, bytes: &mut [u8]) {
        bytes[..8].copy_from_slice(&self.to_le_bytes());
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.wrapping_add(other)
    }
    #[inline(always)]
    fn xor(self, other: Self) -> Self {
        self ^ other
    }
    #[inline(always)]
    fn chi(self, b: Self, c: Self) -> Self {
        self ^ (!b & c)
    }
    #[inline(always)]
    fn rotl<const N: i32>(self) -> Self {
        self.rotate_left(N as u32)
    }
    #[inline(always)]
    fn transpose_in(rows: &[u8], _stride: usize) -> [Self; 8] {
        let mut words = [0; 8];
        for (word, bytes) in words.iter_mut().zip(rows[..64].chunks_exact(8)) {
            *word = u64::load(bytes);
        }
        words
    }
    #[inline(always)]
    fn transpose_out(words: &[Self; 8], rows: &mut [u8], _stride: usize) {
        for (word, bytes) in words.iter().zip(rows[..64].chunks_exact_mut(8)) {
            word.store(bytes);
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::Lanes;

    /// Runs intrinsics of the impl's instruction set.
    macro_rules! simd {
        ($expression:expr) => {
            // SAFETY: an `Avx512` or `Avx2` exists only below an entry point that enables its instructions, which is
            // called only where the processor has them; memory is reached through arrays of the vector's size.
            unsafe { $expression }
        };
    }

    /// 8 lanes, AVX-512F. Used only below an entry point that enables it, after the processor said that it has it.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Avx512(__m512i);

    /// 4 lanes, AVX2. Used only below an entry point that enables it, after the processor said that it has it.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Avx2(__m256i);

    impl Lanes for Avx512 {
        const LANES: usize = 8;

        #[inline(always)]
        fn splat(word: u64) -> Self {
            Avx512(simd!(_mm512_set1_epi64(word as i64)))
        }
        #[inline(always)]
        fn load(bytes: &[u8]) -> Self {
            let bytes: &[u8; 64] = bytes.first_chunk().expect("64 bytes");
            Avx512(simd!(_mm512_loadu_si512(bytes.as_ptr().cast())))
        }
        #[inline(always)]
        fn store(self, bytes: &mut [u8]) {
            let bytes: &mut [u8; 64] = bytes.first_chunk_mut().expect("64 bytes");
            simd!(_mm512_storeu_si512(bytes.as_mut_ptr().cast(), self.0))
        }
        #[inline(always)]
        fn add(self, other: Self) -> Self {
            Avx512(simd!(_mm512_add_epi64(self.0, other.0)))
        }
        #[inline(always)]
        fn xor(self, other: Self) -> Self {
            Avx512(simd!(_mm512_xor_si512(self.0, other.0)))
        }
        #[inline(always)]
        fn xor3(self, b: Self, c: Self) -> Self {
            Avx512(simd!(_mm512_ternarylogic_epi64::<0x96>(self.0, b.0, c.0)))
        }
        #[inline(always)]
        fn chi(self, b: Self, c: Self) -> Self {
            Avx512(simd!(_mm512_ternarylogic_epi64::<0xd2>(self.0, b.0, c.0)))
        }
        #[inline(always)]
        fn theta(self, left: Self, right: Self, _both: Self) -> Self {
            self.xor3(left, right)
        }
        #[inline(always)]
        fn rotl<const N: i32>(self) -> Self {
            Avx512(simd!(_mm512_rol_epi64::<N>(self.0)))
        }
        #[inline(always)]
        fn transpose_in(rows: &[u8], stride: usize) -> [Self; 8] {
            let row = |lane: usize| Self::load(&rows[lane * stride..]);
            transpose8([row(0), row(1), row(2), row(3), row(4), row(5), row(6), row(7)])
        }
        #[inline(always)]
        fn transpose_out(words: &[Self; 8], rows: &mut [u8], stride: usize) {
            for (lane, row) in transpose8(*words).into_iter().enumerate() {
                row.store(&mut rows[lane * stride..]);
            }
        }
    }

    /// Transposes 8 rows of 8 words: pairs, then pairs of pairs, then halves.
    #[inline(always)]
    fn transpose8(r: [Avx512; 8]) -> [Avx512; 8] {
        // SAFETY: AVX-512F is there, see `Avx512`; these are register operations alone.
        unsafe {
            let lo = |a: Avx512, b: Avx512| _mm512_unpacklo_epi64(a.0, b.0);
            let hi = |a: Avx512, b: Avx512| _mm512_unpackhi_epi64(a.0, b.0);
            // Each 128-bit part p of t[2i], t[2i+1]: words 2p and 2p+1 of rows 2i, 2i+1.
            let t = [
                lo(r[0], r[1]),
                hi(r[0], r[1]),
                lo(r[2], r[3]),
                hi(r[2], r[3]),
                lo(r[4], r[5]),
                hi(r[4], r[5]),
                lo(r[6], r[7]),
                hi(r[6], r[7]),
            ];
            let even = |a, b| _mm512_shuffle_i64x2::<0b10_00_10_00>(a, b);
            let odd = |a, b| _mm512_shuffle_i64x2::<0b11_01_11_01>(a, b);
            // Parts 0, 2 (or 1, 3) of rows 0..4 and 4..8, for even and odd words.
            let (a0, a1) = (even(t[0], t[2]), even(t[1], t[3]));
            let (b0, b1) = (odd(t[0], t[2]), odd(t[1], t[3]));
            let (c0, c1) = (even(t[4], t[6]), even(t[5], t[7]));
            let (d0, d1) = (odd(t[4], t[6]), odd(t[5], t[7]));
            [
                Avx512(even(a0, c0)),
                Avx512(even(a1, c1)),
                Avx512(even(b0, d0)),
                Avx512(even(b1, d1)),
                Avx512(odd(a0, c0)),
                Avx512(odd(a1, c1)),
                Avx512(odd(b0, d0)),
                Avx512(odd(b1, d1)),
            ]
        }
    }

    impl Lanes for Avx2 {
        const LANES: usize = 4;

        #[inline(always)]
        fn splat(word: u64) -> Self {
            Avx2(simd!(_mm256_set1_epi64x(word as i64)))
        }
        #[inline(always)]
        fn load(bytes: &[u8]) -> Self {
            let bytes: &[u8; 32] = bytes.first_chunk().expect("32 bytes");
            Avx2(simd!(_mm256_loadu_si256(bytes.as_ptr().cast())))
        }
        #[inline(always)]
        fn store(self, bytes: &mut [u8]) {
            let bytes: &mut [u8; 32] = bytes.first_chunk_mut().expect("32 bytes");
            simd!(_mm256_storeu_si256(bytes.as_mut_ptr().cast(), self.0))
        }
        #[inline(always)]
        fn add(self, other: Self) -> Self {
            Avx2(simd!(_mm256_add_epi64(self.0, other.0)))
        }
        #[inline(always)]
        fn xor(self, other: Self) -> Self {
            Avx2(simd!(_mm256_xor_si256(self.0, other.0)))
        }
        #[inline(always)]
        fn chi(self, b: Self, c: Self) -> Self {
            Avx2(simd!(_mm256_xor_si256(self.0, _mm256_andnot_si256(b.0, c.0))))
        }
        #[inline(always)]
        fn rotl<const N: i32>(self) -> Self {
            let right = i64::from(64 - N);
            Avx2(simd!({
                _mm256_or_si256(
                    _mm256_sll_epi64(self.0, _mm_cvtsi64_si128(i64::from(N))),
                    _mm256_srl_epi64(self.0, _mm_cvtsi64_si128(right)),
                )
            }))
        }
        #[inline(always)]
        fn rotr32(self) -> Self {
            Avx2(simd!(_mm256_shuffle_epi32::<0b10_11_00_01>(self.0)))
        }
        #[inline(always)]
        fn rotr24(self) -> Self {
            Avx2(simd!({
                let order = _mm256_setr_epi8(
                    3, 4, 5, 6, 7, 0, 1, 2, 11, 12, 13, 14, 15, 8, 9, 10, 3, 4, 5, 6, 7, 0, 1, 2, 11, 12, 13, 14, 15,
                    8, 9, 10,
                );
                _mm256_shuffle_epi8(self.0, order)
            }))
        }
        #[inline(always)]
        fn rotr16(self) -> Self {
            Avx2(simd!({
                let order = _mm256_setr_epi8(
                    2, 3, 4, 5, 6, 7, 0, 1, 10, 11, 12, 13, 14, 15, 8, 9, 2, 3, 4, 5, 6, 7, 0, 1, 10, 11, 12, 13, 14,
                    15, 8, 9,
                );
                _mm256_shuffle_epi8(self.0, order)
            }))
        }
        #[inline(always)]
        fn rotr63(self) -> Self {
            Avx2(simd!(_mm256_or_si256(_mm256_add_epi64(self.0, self.0), _mm256_srli_epi64::<63>(self.0))))
        }
        #[inline(always)]
        fn transpose_in(rows: &[u8], stride: usize) -> [Self; 8] {
            let row = |lane: usize, half: usize| Self::load(&rows[lane * stride + 32 * half..]);
            let low = transpose4([row(0, 0), row(1, 0), row(2, 0), row(3, 0)]);
            let high = transpose4([row(0, 1), row(1, 1), row(2, 1), row(3, 1)]);
            [low[0], low[1], low[2], low[3], high[0], high[1], high[2], high[3]]
        }
        #[inline(always)]
        fn transpose_out(words: &[Self; 8], rows: &mut [u8], stride: usize) {
            for half in 0..2 {
                let w = &words[4 * half..];
                for (lane, row) in transpose4([w[0], w[1], w[2], w[3]]).into_iter().enumerate() {
                    row.store(&mut rows[lane * stride + 32 * half..]);
                }
            }
        }
    }

    /// Transposes 4 rows of 4 words.
    #[inline(always)]
    fn transpose4(r: [Avx2; 4]) -> [Avx2; 4] {
        // SAFETY: AVX2 is there, see `Avx2`; these are register operations alone.
        unsafe {
            let (a, b) = (_mm256_unpacklo_epi64(r[0].0, r[1].0), _mm256_unpackhi_epi64(r[0].0, r[1].0));
            let (c, d) = (_mm256_unpacklo_epi64(r[2].0, r[3].0), _mm256_unpackhi_epi64(r[2].0, r[3].0));
            [
                Avx2(_mm256_permute2x128_si256::<0x20>(a, c)),
                Avx2(_mm256_permute2x128_si256::<0x20>(b, d)),
                Avx2(_mm256_permute2x128_si256::<0x31>(a, c)),
                Avx2(_mm256_permute2x128_si256::<0x31>(b, d)),
            ]
        }
    }
}
