//! Snappy with limits: what a header claims is checked before anything is allocated or decompressed.
//!
//! Gossip carries one raw block. Requests and responses carry the length of the plain bytes as a varint, then a framed
//! stream: chunks of a type byte and a 24-bit length, each with at most 64 KiB of plain bytes and a checksum.

use std::io::{self, Read, Write};

use futures::{AsyncRead, AsyncReadExt};
use snap::{
    raw::{self, decompress_len, max_compress_len},
    read::FrameDecoder,
    write::FrameEncoder,
};

/// Plain bytes of a chunk of a framed stream, at most.
const MAX_CHUNK_BYTES: usize = 1 << 16;
/// Bytes of a chunk's checksum.
const BYTES_PER_CHECKSUM: usize = 4;
/// Bytes of a chunk's header: a type and a length.
const BYTES_PER_CHUNK_HEADER: usize = 4;
/// The chunk that starts a stream.
const STREAM_IDENTIFIER: &[u8] = b"\xff\x06\x00\x00sNaPpY";
/// Longest varint of a 64-bit length.
const MAX_VARINT_BYTES: usize = 10;
/// Plain bytes for one compressed byte, at most: the densest element is 64 bytes copied by 3.
const MAX_RATIO: usize = 22;

/// Why compressed bytes are refused.
#[derive(Debug, thiserror::Error)]
pub enum SnappyError {
    /// The plain bytes would be too many or too few.
    #[error("the header claims {got} plain bytes, allowed are {min} to {max}")]
    PlainLength {
        /// Fewest bytes allowed.
        min: usize,
        /// Most bytes allowed.
        max: usize,
        /// Bytes claimed.
        got: u64,
    },
    /// So few compressed bytes cannot hold so many plain ones.
    #[error("the header claims {claimed} plain bytes in {compressed} compressed ones, which is impossible")]
    Ratio {
        /// Bytes claimed.
        claimed: usize,
        /// Bytes there are.
        compressed: usize,
    },
    /// The stream goes on behind what was announced.
    #[error("{expected} plain bytes were announced, the stream has {got} or more")]
    Excess {
        /// Bytes announced.
        expected: usize,
        /// Bytes so far.
        got: usize,
    },
    /// The stream is longer than such plain bytes can be in the worst case.
    #[error("the stream of {plain} plain bytes has more than {limit} bytes")]
    TooLong {
        /// Plain bytes announced.
        plain: usize,
        /// Most bytes of the stream.
        limit: usize,
    },
    /// A varint does not end in time.
    #[error("the length is no varint of at most {MAX_VARINT_BYTES} bytes")]
    Varint,
    /// A chunk is not one.
    #[error("a chunk of type {kind:#04x} and {length} bytes has no place in the stream")]
    Chunk {
        /// Its type.
        kind: u8,
        /// Its length.
        length: usize,
    },
    /// The compressed data is broken.
    #[error("broken block: {0}")]
    Block(#[from] snap::Error),
    /// The stream broke off, or a chunk is broken.
    #[error("broken stream: {0}")]
    Stream(#[from] io::Error),
}

/// Compresses into one raw block.
pub fn compress_block(plain: &[u8]) -> Result<Vec<u8>, SnappyError> {
    Ok(raw::Encoder::new().compress_vec(plain)?)
}

/// Decompresses one raw block of at most `max` plain bytes.
pub fn decompress_block(compressed: &[u8], max: usize) -> Result<Vec<u8>, SnappyError> {
    let claimed = decompress_len(compressed)?;
    if claimed > max {
        return Err(SnappyError::PlainLength { min: 0, max, got: claimed as u64 });
    }
    if claimed > compressed.len().saturating_mul(MAX_RATIO) {
        return Err(SnappyError::Ratio { claimed, compressed: compressed.len() });
    }
    Ok(raw::Decoder::new().decompress_vec(compressed)?)
}

/// Length as a varint, then a framed stream.
pub fn compress_frames(plain: &[u8]) -> Result<Vec<u8>, SnappyError> {
    let mut out = Vec::with_capacity(plain.len() / 2 + 32);
    let mut rest = plain.len() as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
    let mut encoder = FrameEncoder::new(out);
    encoder.write_all(plain)?;
    encoder.into_inner().map_err(|error| SnappyError::Stream(error.into_error()))
}

/// Reads what [`compress_frames`] writes: `min` to `max` plain bytes, and not a byte further than their last chunk.
pub async fn decompress_frames<R: AsyncRead + Unpin>(
    source: &mut R,
    min: usize,
    max: usize,
) -> Result<Vec<u8>, SnappyError> {
    let claimed = read_varint(source).await?;
    let expected = usize::try_from(claimed).ok().filter(|length| (min..=max).contains(length));
    let expected = expected.ok_or(SnappyError::PlainLength { min, max, got: claimed })?;
    let frames = read_frames(source, expected).await?;
    let mut plain = Vec::new();
    let read = FrameDecoder::new(&frames[..]).take(expected as u64 + 1).read_to_end(&mut plain)?;
    if read != expected {
        return Err(SnappyError::Excess { expected, got: read });
    }
    Ok(plain)
}

async fn read_varint<R: AsyncRead + Unpin>(source: &mut R) -> Result<u64, SnappyError> {
    let mut value = 0u64;
    for index in 0..MAX_VARINT_BYTES {
        let mut byte = [0];
        source.read_exact(&mut byte).await?;
        let bits = u64::from(byte[0] & 0x7f);
        if index == MAX_VARINT_BYTES - 1 && bits > 1 {
            return Err(SnappyError::Varint);
        }
        value |= bits << (7 * index);
        if byte[0] & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(SnappyError::Varint)
}

/// The chunks that together claim `expected` plain bytes. Memory grows with what arrives, not with what is claimed.
async fn read_frames<R: AsyncRead + Unpin>(source: &mut R, expected: usize) -> Result<Vec<u8>, SnappyError> {
    let limit = max_compress_len(expected) + STREAM_IDENTIFIER.len();
    let mut frames = Vec::new();
    let mut plain = 0;
    while plain < expected {
        let start = frames.len();
        frames.resize(start + BYTES_PER_CHUNK_HEADER, 0);
        source.read_exact(&mut frames[start..]).await?;
        let [kind, length @ ..] = [frames[start], frames[start + 1], frames[start + 2], frames[start + 3]];
        let length = u32::from_le_bytes([length[0], length[1], length[2], 0]) as usize;
        let longest = match kind {
            0x00 => BYTES_PER_CHECKSUM + max_compress_len(MAX_CHUNK_BYTES),
            0x01 => BYTES_PER_CHECKSUM + MAX_CHUNK_BYTES,
            0xff => STREAM_IDENTIFIER.len() - BYTES_PER_CHUNK_HEADER,
            0x02..=0x7f => 0,
            0x80..=0xfe => limit,
        };
        if length > longest || matches!(kind, 0x02..=0x7f) {
            return Err(SnappyError::Chunk { kind, length });
        }
        let body = start + BYTES_PER_CHUNK_HEADER;
        if body + length > limit {
            return Err(SnappyError::TooLong { plain: expected, limit });
        }
        frames.resize(body + length, 0);
        source.read_exact(&mut frames[body..]).await?;
        if matches!(kind, 0x00 | 0x01) {
            let data = frames[body..].get(BYTES_PER_CHECKSUM..).ok_or(SnappyError::Chunk { kind, length })?;
            let claimed = if kind == 0x00 { decompress_len(data)? } else { data.len() };
            if claimed > MAX_CHUNK_BYTES {
                return Err(SnappyError::Chunk { kind, length });
            }
            plain += claimed;
        }
        if plain > expected {
            return Err(SnappyError::Excess { expected, got: plain });
        }
    }
    Ok(frames)
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;
    use proptest::prelude::*;

    use super::*;

    fn frames(bytes: &[u8], min: usize, max: usize) -> Result<Vec<u8>, SnappyError> {
        block_on(decompress_frames(&mut &bytes[..], min, max))
    }

    proptest! {
        #[test]
        fn both_forms_are_read_back(plain in prop::collection::vec(0u8..4, 0..200_000)) {
            prop_assert_eq!(&decompress_block(&compress_block(&plain).unwrap(), plain.len()).unwrap(), &plain);
            let mut sent = compress_frames(&plain).unwrap();
            sent.extend(b"next");
            let mut rest = &sent[..];
            prop_assert_eq!(&block_on(decompress_frames(&mut rest, plain.len(), plain.len())).unwrap(), &plain);
            prop_assert_eq!(rest, b"next");
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = decompress_block(&bytes, 1 << 20);
            let _ = frames(&bytes, 0, 1 << 20);
            let _ = frames(&[&[200, 1][..], STREAM_IDENTIFIER, &[0, 40, 0, 0], &bytes].concat(), 0, 1 << 20);
        }
    }

    #[test]
    fn incompressible_bytes_stay_within_the_limit() {
        let noise: Vec<u8> = (0..300_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        for length in [0, 1, 65_535, 65_536, 65_537, 300_000] {
            let sent = compress_frames(&noise[..length]).unwrap();
            assert_eq!(frames(&sent, 0, length).unwrap(), &noise[..length]);
        }
    }

    /// A stream by the format's definition, written by hand: "a" uncompressed, its checksum masked as prescribed.
    #[test]
    fn a_stream_has_the_published_form() {
        let sent = compress_frames(b"a").unwrap();
        assert_eq!(sent, b"\x01\xff\x06\x00\x00sNaPpY\x01\x05\x00\x00\x78\x6e\xe4\x28a");
    }

    #[test]
    fn bombs_are_refused_by_their_headers() {
        let zeros = compress_block(&vec![0; 11 << 20]).unwrap();
        assert!(matches!(decompress_block(&zeros, 10 << 20), Err(SnappyError::PlainLength { got: 11_534_336, .. })));
        // A header that claims 10 MiB and nothing behind it.
        assert!(matches!(decompress_block(&[0x80, 0x80, 0x80, 5], 10 << 20), Err(SnappyError::Ratio { .. })));
        assert!(decompress_block(&[], 10).is_err());

        let sent = compress_frames(&[0; 1000]).unwrap();
        assert!(matches!(frames(&sent, 0, 999), Err(SnappyError::PlainLength { max: 999, got: 1000, .. })));
        assert!(matches!(frames(&sent, 1001, 2000), Err(SnappyError::PlainLength { .. })));
        assert!(matches!(frames(&[0xff; 11], 0, 9), Err(SnappyError::Varint)));
        // Announces 900 bytes, sends 1000.
        let excess = [&[0x84, 7][..], &sent[2..]].concat();
        assert!(matches!(frames(&excess, 0, 999), Err(SnappyError::Excess { expected: 900, got: 1000 })));
        // Skippable chunks without end.
        let skips = [&[10][..], STREAM_IDENTIFIER, &b"\xfe\x10\x00\x000123456789abcdef".repeat(9)].concat();
        assert!(matches!(frames(&skips, 0, 99), Err(SnappyError::TooLong { plain: 10, .. })));
        for kind in [0x02, 0x7f] {
            assert!(matches!(frames(&[10, kind, 0, 0, 0], 0, 99), Err(SnappyError::Chunk { .. })));
        }
        assert!(matches!(frames(&[10, 0, 255, 255, 255], 0, 99), Err(SnappyError::Chunk { .. })));
        assert!(matches!(frames(&[10, 1, 3, 0, 0, 1, 1, 1], 0, 99), Err(SnappyError::Chunk { .. })));
    }

    #[test]
    fn every_cut_and_every_flipped_checksum_is_refused() {
        let sent = compress_frames(b"some bytes that repeat, some bytes that repeat").unwrap();
        for length in 0..sent.len() {
            assert!(frames(&sent[..length], 0, 99).is_err(), "{length}");
        }
        for at in 15..19 {
            let mut wrong = sent.clone();
            wrong[at] ^= 1;
            assert!(frames(&wrong, 0, 99).is_err(), "{at}");
        }
    }
}
