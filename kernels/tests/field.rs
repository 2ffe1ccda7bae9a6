//! The kernels' field arithmetic, compiled as host code, against arkworks. What the device's own instructions make of it is
//! seen by the interpreted kernels of `tests/blob.rs`.

use std::marker::PhantomData;

use ark_bn254::{Fq, Fr};
use ark_ff::{AdditiveGroup as _, BigInt, Field as _, Fp, FpConfig, PrimeField};
use proptest::prelude::*;
use zgpu_kernels::emulated::Field;

fn words(limbs: BigInt<4>) -> [u32; 8] {
    std::array::from_fn(|i| (limbs.0[i / 2] >> (32 * (i % 2))) as u32)
}

fn limbs(words: [u32; 8]) -> BigInt<4> {
    BigInt(std::array::from_fn(|i| u64::from(words[2 * i]) | u64::from(words[2 * i + 1]) << 32))
}

/// Every operation on one pair.
fn compare<P: FpConfig<4>>(field: Field, a: Fp<P, 4>, b: Fp<P, 4>) {
    let call = |name: &str| field.call(name, words(a.0), words(b.0)).expect("an operation of the header");
    let truth = |holds: bool| if holds { Fp::ONE } else { Fp::ZERO };
    for (name, expected) in [
        ("add", a + b),
        ("sub", a - b),
        ("mul", a * b),
        ("neg", -a),
        ("dbl", a + a),
        ("sqr", a.square()),
        ("inv", a.inverse().unwrap_or(Fp::ZERO)),
        ("zero", Fp::ZERO),
        ("one", Fp::ONE),
        ("is_zero", truth(a == Fp::ZERO)),
        ("equal", truth(a == b)),
    ] {
        assert_eq!(limbs(call(name)), expected.0, "{name} of {a} and {b} in {field:?}");
    }
    assert_eq!(limbs(call("from_mont")), a.into_bigint(), "from_mont of {a} in {field:?}");
    let plain = field.call("to_mont", words(a.into_bigint()), [0; 8]).expect("an operation of the header");
    assert_eq!(limbs(plain), a.0, "to_mont of {a} in {field:?}");
    assert_eq!(field.call("no such operation", [0; 8], [0; 8]), None);
}

/// Elements whose limbs, in Montgomery form, are as small or as large as they can be, in all places.
fn edges<P: FpConfig<4>>() -> Vec<Fp<P, 4>> {
    let mut edges: Vec<Fp<P, 4>> = [0u64, 1, 2].map(Fp::from).to_vec();
    for place in 0..4 {
        for limb in [1, u64::from(u32::MAX), 1 << 32, u64::MAX] {
            let mut limbs = [0; 4];
            limbs[place] = limb;
            edges.push(Fp(BigInt(limbs), PhantomData));
        }
    }
    edges.retain(|element| element.0 < P::MODULUS);
    edges.push(Fp(BigInt([u64::MAX, u64::MAX, u64::MAX, 0x3064_4e72_e131_a028]), PhantomData));
    let negatives: Vec<_> = edges.iter().map(|element| -*element).collect();
    [edges, negatives].concat()
}

fn compare_edges<P: FpConfig<4>>(field: Field) {
    let edges = edges::<P>();
    for a in &edges {
        for b in &edges {
            compare(field, *a, *b);
        }
    }
}

#[test]
fn edges_of_both_fields_equal_the_twin() {
    compare_edges::<<Fq as Config>::Config>(Field::Fq);
    compare_edges::<<Fr as Config>::Config>(Field::Fr);
}

/// The configuration of a field, by the field.
trait Config {
    type Config: FpConfig<4>;
}

impl<P: FpConfig<4>> Config for Fp<P, 4> {
    type Config = P;
}

proptest! {
    #[test]
    fn elements_of_both_fields_equal_the_twin(bytes in any::<([u8; 32], [u8; 32])>()) {
        let (a, b) = (&bytes.0, &bytes.1);
        compare(Field::Fq, Fq::from_le_bytes_mod_order(a), Fq::from_le_bytes_mod_order(b));
        compare(Field::Fr, Fr::from_le_bytes_mod_order(a), Fr::from_le_bytes_mod_order(b));
    }
}
