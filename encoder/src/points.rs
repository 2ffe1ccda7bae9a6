//! Points of G1 as bytes, in the network's encodings.
//!
//! Source: the serialisation of the network's DA services, of its parameter files and of the ceremony behind them. A coordinate is 32 bytes, little-endian, below the field's
//! prime. The two highest bits of the last byte are flags: 0x80 when y is the larger of y and p - y, 0x40 for the point
//! at infinity, whose coordinates are zero. Reading is strict: each point has one encoding and is on the curve, which
//! for G1 of BN254 means in the group. Parameters hold points of G1 and G2 besides, in four encodings: see [`Encoding`].

use ark_bn254::{Fq, Fq2, G1Affine, G2Affine};
use ark_ec::{AffineRepr, short_weierstrass::SWCurveConfig};
use ark_ff::{PrimeField, Zero};

use crate::extend::{limb_bytes, limbs};

pub use zgpu_core::blob::{BYTES_PER_COMPRESSED_POINT, BYTES_PER_POINT};

/// Bytes of a point of G2 in full: x, y, two coordinates each.
pub const BYTES_PER_G2_POINT: usize = 128;

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
    /// It is on the curve, but not in the group of prime order.
    #[error("the point is not in the group")]
    Group,
    /// It is the point at infinity, which no parameter is.
    #[error("it is the point at infinity")]
    Infinity,
}

/// How files of parameters encode points. The point at infinity is refused in all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// x ‖ y, each coordinate v as v·2^256 mod p, little-endian, no flags; in G2 c0 before c1. What devices take.
    Montgomery,
    /// x ‖ y, little-endian, flags in the last byte; in G2 c0 before c1.
    Full,
    /// x, little-endian, flags in the last byte; in G2 c0 before c1.
    Compressed,
    /// x ‖ y, big-endian, flags in the first byte; in G2 c1 before c0. The ceremony's.
    BigEndian,
}

impl Encoding {
    /// Bytes of a point of G1.
    pub fn g1_bytes(self) -> usize {
        if self == Encoding::Compressed { BYTES_PER_COMPRESSED_POINT } else { BYTES_PER_POINT }
    }

    /// Bytes of a point of G2.
    pub fn g2_bytes(self) -> usize {
        2 * self.g1_bytes()
    }

    /// A point of G1 other than the one at infinity, from [`Self::g1_bytes`] bytes: canonical and on the curve.
    ///
    /// # Panics
    /// When there are more or fewer bytes.
    pub fn g1(self, bytes: &[u8]) -> Result<G1Affine, PointError> {
        assert_eq!(bytes.len(), self.g1_bytes(), "the bytes of one point");
        let point = match self {
            Encoding::Montgomery => {
                let point = montgomery_point_unchecked(bytes);
                let [x, y] = [point.x, point.y].map(|coordinate| coordinate.0);
                if x >= Fq::MODULUS || y >= Fq::MODULUS {
                    return Err(PointError::Coordinate);
                }
                if !point.is_zero() && !point.is_on_curve() {
                    return Err(PointError::Curve);
                }
                point
            }
            Encoding::Full => point_from_bytes(bytes.try_into().expect("64 bytes"))?,
            Encoding::Compressed => point_from_compressed_bytes(bytes.try_into().expect("32 bytes"))?,
            Encoding::BigEndian => {
                let [x, y] = big_endian_coordinates(bytes)?;
                let point = G1Affine::new_unchecked(x, y);
                if point.is_zero() || !point.is_on_curve() {
                    return Err(PointError::Curve);
                }
                point
            }
        };
        if point.is_zero() { Err(PointError::Infinity) } else { Ok(point) }
    }

    /// A point of G2 other than the one at infinity, from [`Self::g2_bytes`] bytes: canonical and in the group.
    ///
    /// # Panics
    /// When there are more or fewer bytes.
    pub fn g2(self, bytes: &[u8]) -> Result<G2Affine, PointError> {
        assert_eq!(bytes.len(), self.g2_bytes(), "the bytes of one point");
        let mut unflagged = [0; BYTES_PER_G2_POINT];
        unflagged[..bytes.len()].copy_from_slice(bytes);
        let point = match self {
            Encoding::Montgomery => {
                let (coordinates, _) = unflagged.as_chunks::<32>();
                let mut read = coordinates.iter().map(limbs);
                let mut next = || read.next().filter(|v| *v < Fq::MODULUS).map(Fq::new_unchecked);
                let mut pair = || Some(Fq2::new(next()?, next()?));
                let (x, y) = pair().zip(pair()).ok_or(PointError::Coordinate)?;
                G2Affine::new_unchecked(x, y)
            }
            Encoding::Full | Encoding::Compressed => {
                let found = take_flags(&mut unflagged[bytes.len() - 1]);
                let (coordinates, _) = unflagged.as_chunks::<32>();
                let pair = |at: usize| Ok(Fq2::new(coordinate(&coordinates[at])?, coordinate(&coordinates[at + 1])?));
                let x = pair(0)?;
                if found == INFINITY && unflagged == [0; BYTES_PER_G2_POINT] {
                    return Err(PointError::Infinity);
                }
                if found & INFINITY != 0 {
                    return Err(PointError::Flags(found));
                }
                if self == Encoding::Compressed {
                    G2Affine::get_point_from_x_unchecked(x, found == LARGER_Y).ok_or(PointError::Curve)?
                } else {
                    let point = G2Affine::new_unchecked(x, pair(2)?);
                    if (point.y > -point.y) != (found == LARGER_Y) {
                        return Err(PointError::Flags(found));
                    }
                    point
                }
            }
            Encoding::BigEndian => {
                let [x1, x0, y1, y0] = big_endian_coordinates(bytes)?;
                G2Affine::new_unchecked(Fq2::new(x0, x1), Fq2::new(y0, y1))
            }
        };
        if point.is_zero() {
            return Err(PointError::Infinity);
        }
        if !point.is_on_curve() {
            return Err(PointError::Curve);
        }
        if !ark_bn254::g2::Config::is_in_correct_subgroup_assuming_on_curve(&point) {
            return Err(PointError::Group);
        }
        Ok(point)
    }
}

/// Coordinates of the ceremony: big-endian, the highest bit of the first byte clear, the next one for infinity.
fn big_endian_coordinates<const COUNT: usize>(bytes: &[u8]) -> Result<[Fq; COUNT], PointError> {
    let flags = bytes[0] & (LARGER_Y | INFINITY);
    if flags == INFINITY {
        return Err(PointError::Infinity);
    }
    if flags != 0 {
        return Err(PointError::Flags(flags));
    }
    let (coordinates, _) = bytes.as_chunks::<32>();
    let mut read = [Fq::zero(); COUNT];
    for (read, bytes) in read.iter_mut().zip(coordinates) {
        let mut bytes = *bytes;
        bytes.reverse();
        *read = coordinate(&bytes)?;
    }
    Ok(read)
}

/// x ‖ y in Montgomery form, zeros for the point at infinity: the form in which devices take points.
pub fn montgomery_point_bytes(point: &G1Affine) -> [u8; BYTES_PER_POINT] {
    let mut bytes = [0; BYTES_PER_POINT];
    bytes[..32].copy_from_slice(&limb_bytes(point.x.0));
    bytes[32..].copy_from_slice(&limb_bytes(point.y.0));
    bytes
}

/// x ‖ y in Montgomery form, c0 before c1.
pub fn montgomery_g2_point_bytes(point: &G2Affine) -> [u8; BYTES_PER_G2_POINT] {
    let mut bytes = [0; BYTES_PER_G2_POINT];
    let coordinates = [point.x.c0, point.x.c1, point.y.c0, point.y.c1];
    let (places, _) = bytes.as_chunks_mut::<32>();
    places.iter_mut().zip(coordinates).for_each(|(place, coordinate)| *place = limb_bytes(coordinate.0));
    bytes
}

/// What [`montgomery_point_bytes`] wrote, taken on trust.
///
/// # Panics
/// When there are not 64 bytes.
pub(crate) fn montgomery_point_unchecked(bytes: &[u8]) -> G1Affine {
    let (coordinates, _) = bytes.as_chunks::<32>();
    let coordinate = |at: usize| Fq::new_unchecked(limbs(&coordinates[at]));
    G1Affine::new_unchecked(coordinate(0), coordinate(1))
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

/// Reads what [`plain_point_bytes`] wrote; refuses everything else.
pub fn plain_point_from_bytes(bytes: &[u8; BYTES_PER_POINT]) -> Result<G1Affine, PointError> {
    if *bytes == [0; BYTES_PER_POINT] {
        return Ok(G1Affine::identity());
    }
    let (coordinates, _) = bytes.as_chunks::<32>();
    let point = G1Affine::new_unchecked(coordinate(&coordinates[0])?, coordinate(&coordinates[1])?);
    if point.is_on_curve() { Ok(point) } else { Err(PointError::Curve) }
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
            assert_eq!(plain_point_from_bytes(&plain_point_bytes(&point)), Ok(point));
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
