//! Points of G1 as bytes, in the network's encodings.
//!
//! Source: the serialisation of the network's DA services. A coordinate is 32 bytes, little-endian, below the field's
//! prime. The two highest bits of the last byte are flags: 0x80 when y is the larger of y and p - y, 0x40 for the point
//! at infinity, whose coordinates are zero. Reading is strict: each point has one encoding and is on the curve, which
//! for G1 of BN254 means in the group.

use ark_bn254::{Fq, G1Affine};
use ark_ec::AffineRepr;
use ark_ff::{PrimeField, Zero};

use crate::extend::{limb_bytes, limbs};

/// Bytes of a coordinate, and of a compressed point.
pub const BYTES_PER_COMPRESSED_POINT: usize = 32;
/// Bytes of a point: x, y.
pub const BYTES_PER_POINT: usize = 64;
const LARGER_Y: u8 = 0x80;
const INFINITY: u8 = 0x40;

/// Why bytes are no point.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum PointError {
    /// Both flags are set, or one that does not fit the coordinates.
    #[error("the flags {0:#04x} do not fit the coordinates")]
    Flags(u8),
    /// A coordinate is not below the field's prime.
    #[error("a coordinate is not below the field's prime")]
    Coordinate,
    /// There is no such point on the curve.
    #[error("the point is not on the curve")]
    Curve,
}

/// x ‖ y with flags: the form inside slices.
pub fn point_bytes(point: &G1Affine) -> [u8; BYTES_PER_POINT] {
    let mut bytes = plain_point_bytes(point);
    bytes[BYTES_PER_POINT - 1] |= flags(point);
    bytes
}

/// x ‖ y without flags, zeros for the point at infinity: the form of an erasure commitment in messages.
pub fn plain_point_bytes(point: &G1Affine) -> [u8; BYTES_PER_POINT] {
    let mut bytes = [0; BYTES_PER_POINT];
    if let Some((x, y)) = point.xy() {
        bytes[..32].copy_from_slice(&limb_bytes(x.into_bigint()));
        bytes[32..].copy_from_slice(&limb_bytes(y.into_bigint()));
    }
    bytes
}

/// x with flags: the form in which slices without rows are stored.
pub fn compressed_point_bytes(point: &G1Affine) -> [u8; BYTES_PER_COMPRESSED_POINT] {
    let mut bytes = point.x().map_or([0; 32], |x| limb_bytes(x.into_bigint()));
    bytes[BYTES_PER_COMPRESSED_POINT - 1] |= flags(point);
    bytes
}

/// Reads what [`point_bytes`] wrote; refuses everything else.
pub fn point_from_bytes(bytes: &[u8; BYTES_PER_POINT]) -> Result<G1Affine, PointError> {
    let mut unflagged = *bytes;
    let found = take_flags(&mut unflagged[BYTES_PER_POINT - 1]);
    let (coordinates, _) = unflagged.as_chunks::<32>();
    let (x, y) = (coordinate(&coordinates[0])?, coordinate(&coordinates[1])?);
    let point = match found {
        INFINITY if x.is_zero() && y.is_zero() => G1Affine::identity(),
        INFINITY => return Err(PointError::Flags(found)),
        _ => G1Affine::new_unchecked(x, y),
    };
    // (0, 0) is not on the curve, but it is how the library writes the point at infinity.
    let stands_for_infinity = point.is_zero() && found != INFINITY;
    if stands_for_infinity || !point.is_on_curve() {
        return Err(PointError::Curve);
    }
    if flags(&point) == found { Ok(point) } else { Err(PointError::Flags(found)) }
}

/// Reads what [`compressed_point_bytes`] wrote; refuses everything else.
pub fn point_from_compressed_bytes(bytes: &[u8; BYTES_PER_COMPRESSED_POINT]) -> Result<G1Affine, PointError> {
    let mut unflagged = *bytes;
    let found = take_flags(&mut unflagged[BYTES_PER_COMPRESSED_POINT - 1]);
    let x = coordinate(&unflagged)?;
    match found {
        INFINITY if x.is_zero() => Ok(G1Affine::identity()),
        0 | LARGER_Y => G1Affine::get_point_from_x_unchecked(x, found == LARGER_Y).ok_or(PointError::Curve),
        _ => Err(PointError::Flags(found)),
    }
}

fn flags(point: &G1Affine) -> u8 {
    match point.y() {
        None => INFINITY,
        Some(y) if y.into_bigint() > (-y).into_bigint() => LARGER_Y,
        Some(_) => 0,
    }
}

/// Clears the two flags of a byte and returns them.
fn take_flags(byte: &mut u8) -> u8 {
    let found = *byte & (LARGER_Y | INFINITY);
    *byte ^= found;
    found
}

fn coordinate(bytes: &[u8; 32]) -> Result<Fq, PointError> {
    Fq::from_bigint(limbs(bytes)).ok_or(PointError::Coordinate)
}

#[cfg(test)]
mod tests {
    use ark_bn254::{Fr, G1Projective};
    use ark_ec::PrimeGroup;
    use ark_serialize::CanonicalSerialize;

    use super::*;

    fn points() -> Vec<G1Affine> {
        (0..50u64).map(|i| (G1Projective::generator() * Fr::from(i * i)).into()).collect()
    }

    #[test]
    fn bytes_are_those_of_the_network_and_come_back() {
        for point in points() {
            let (mut full, mut compressed) = (Vec::new(), Vec::new());
            point.serialize_uncompressed(&mut full).unwrap();
            point.serialize_compressed(&mut compressed).unwrap();
            assert_eq!(point_bytes(&point)[..], full);
            assert_eq!(compressed_point_bytes(&point)[..], compressed);
            assert_eq!(point_from_bytes(&point_bytes(&point)), Ok(point));
            assert_eq!(point_from_compressed_bytes(&compressed_point_bytes(&point)), Ok(point));
        }
    }

    #[test]
    fn each_point_has_one_encoding() {
        let full = point_bytes(&points()[3]);
        let compressed = compressed_point_bytes(&points()[3]);
        let changed = |at: usize, flip: u8| {
            let mut bytes = full;
            bytes[at] ^= flip;
            point_from_bytes(&bytes)
        };
        assert!(matches!(changed(63, 0x80), Err(PointError::Flags(_))), "the other sign");
        assert!(matches!(changed(63, 0x40), Err(PointError::Flags(_))), "infinity with coordinates");
        assert_eq!(changed(0, 1), Err(PointError::Curve));
        assert_eq!(point_from_bytes(&[0; 64]), Err(PointError::Curve), "zeros without the flag");
        assert_eq!(point_from_bytes(&[0xff; 64]), Err(PointError::Coordinate));
        let mut prime = [0; 64];
        prime[..32].copy_from_slice(&limb_bytes(Fq::MODULUS));
        prime[32] = 1;
        assert_eq!(point_from_bytes(&prime), Err(PointError::Coordinate));
        for flags in [0x80, 0xc0] {
            let mut bytes = [0; 64];
            bytes[63] = flags;
            assert!(point_from_bytes(&bytes).is_err(), "{flags:#x} with zeros");
            let mut bytes = compressed;
            bytes[31] |= 0xc0;
            assert_eq!(point_from_compressed_bytes(&bytes), Err(PointError::Flags(0xc0)));
        }
        let refused = (0..=255).filter(|low| {
            let mut bytes = [0; 32];
            bytes[0] = *low;
            point_from_compressed_bytes(&bytes) == Err(PointError::Curve)
        });
        assert!((64..192).contains(&refused.count()), "about half of all x have no point");
    }
}
