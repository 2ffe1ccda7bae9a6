//! The messages of `encoder.Encoder/EncodeBlob` on the wire.
//!
//! Source: the network's encoder service (`proto/encoder.proto`). A gRPC message is a flag byte (0: not compressed), its
//! length (u32, big-endian) and its bytes. A reply has 100 to 200 MB, so it is never put together: its body hands out
//! parts of the one buffer that the engine wrote. Only the head of each slice and what is over whole frames of HTTP/2,
//! 1,915 of 34,683 bytes, is copied: frames of a few bytes cost more than that.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue};
use http_body::{Body, Frame};
use prost::encoding::{WireType, encode_key, encode_varint};
use tonic::Status;
use zgpu_core::blob::{BlobRoots, Dimensions};

use super::metrics::{Metrics, Stage};

/// Bytes in front of a message: flag and length.
const BYTES_PER_PREFIX: usize = 5;
/// Bytes of a frame of HTTP/2 unless a client asks for longer ones.
const BYTES_PER_FRAME: usize = 16_384;
/// Bytes of a request beside its data: keys, length, the flag, and fields of later versions.
const REQUEST_OVERHEAD: usize = 4096;
/// Field numbers of the reply.
const ERASURE_COMMITMENT: u32 = 2;
const STORAGE_ROOT: u32 = 3;
const ENCODED_DATA: u32 = 4;
const ENCODED_SLICE: u32 = 5;

/// What a disperser sends.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct EncodeBlobRequest {
    /// The data, a part of the message's own buffer.
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) data: Bytes,
    /// Whether the reply carries the encoded rows as well.
    #[prost(bool, tag = "2")]
    pub(super) require_data: bool,
}

/// Reads the one message of a request for a blob of at most `maximum` bytes. A longer one is refused by its announced
/// length, before its bytes are taken in.
pub(super) async fn read_request(body: &mut tonic::body::Body, maximum: usize) -> Result<EncodeBlobRequest, Status> {
    let mut received = BytesMut::new();
    let mut expected = None;
    while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await {
        let Ok(data) = frame?.into_data() else { continue };
        received.extend_from_slice(&data);
        if expected.is_none()
            && let Some((prefix, _)) = received.split_first_chunk::<BYTES_PER_PREFIX>()
        {
            let length = message_length(prefix, maximum)?;
            received.reserve((BYTES_PER_PREFIX + length).saturating_sub(received.len()));
            expected = Some(length);
        }
        if let Some(expected) = expected
            && received.len() > BYTES_PER_PREFIX + expected
        {
            return Err(Status::invalid_argument("the request has more than one message, expected 1"));
        }
    }
    let actual = received.len().saturating_sub(BYTES_PER_PREFIX);
    match expected {
        Some(expected) if expected == actual => {}
        Some(expected) => {
            return Err(Status::invalid_argument(format!("the request ends after {actual} of {expected} bytes")));
        }
        None => return Err(Status::invalid_argument("the request has no message")),
    }
    let message = received.freeze().slice(BYTES_PER_PREFIX..);
    let request = <EncodeBlobRequest as prost::Message>::decode(message)
        .map_err(|error| Status::invalid_argument(format!("the request is no EncodeBlobRequest: {error}")))?;
    match request.data.len() {
        actual if actual > maximum => Err(too_large(actual, maximum)),
        _ => Ok(request),
    }
}

/// The length in a message's prefix.
fn message_length(prefix: &[u8; BYTES_PER_PREFIX], maximum: usize) -> Result<usize, Status> {
    let [flag, length @ ..] = *prefix;
    if flag != 0 {
        return Err(Status::unimplemented("the request is compressed; send it as it is (grpc-encoding: identity)"));
    }
    match u32::from_be_bytes(length) as usize {
        length if length > maximum + REQUEST_OVERHEAD => Err(too_large(length, maximum)),
        length => Ok(length),
    }
}

fn too_large(actual: usize, maximum: usize) -> Status {
    Status::invalid_argument(format!("too large a blob: {actual} bytes, at most {maximum} fit"))
}

/// The body of a reply.
pub(super) struct Reply {
    /// Prefix and fields up to the rows or slices.
    head: Option<Bytes>,
    /// Key and length in front of each slice.
    slice_head: Bytes,
    /// All slices, one behind the other; taken when the last one is sent.
    slices: Bytes,
    dimensions: Dimensions,
    /// Rows that were sent, of [`Dimensions::slices`]; all of them from the start if none are asked for.
    rows_sent: usize,
    slices_sent: usize,
    /// Whether the next slice is sent but for its last whole frames.
    slice_begun: bool,
    ended: bool,
    started: Instant,
    metrics: Metrics,
}

impl Reply {
    /// The reply for a blob of `dimensions` with these `roots`, and its encoded rows if `require_data`. `slices` are all
    /// slices as the engine wrote them.
    pub(super) fn new(
        dimensions: Dimensions,
        roots: &BlobRoots,
        slices: Bytes,
        require_data: bool,
        metrics: Metrics,
    ) -> Self {
        assert_eq!(slices.len(), dimensions.all_slices_bytes(), "the engine wrote all slices");
        let count = dimensions.slices();
        let mut slice_head = BytesMut::new();
        put_head(ENCODED_SLICE, dimensions.slice_bytes(), &mut slice_head);
        let mut fields = BytesMut::new();
        put_bytes(ERASURE_COMMITMENT, &roots.commitment, &mut fields);
        put_bytes(STORAGE_ROOT, &roots.storage_root, &mut fields);
        let mut behind = count * (slice_head.len() + dimensions.slice_bytes());
        if require_data {
            put_head(ENCODED_DATA, count * dimensions.row_bytes(), &mut fields);
            behind += count * dimensions.row_bytes();
        }
        let length = u32::try_from(fields.len() + behind).expect("a blob of 2^20 scalars has 200 MB");
        let mut head = BytesMut::with_capacity(BYTES_PER_PREFIX + fields.len());
        head.put_u8(0);
        head.put_u32(length);
        head.put(fields);
        Reply {
            head: Some(head.freeze()),
            slice_head: slice_head.freeze(),
            slices,
            dimensions,
            rows_sent: if require_data { 0 } else { count },
            slices_sent: 0,
            slice_begun: false,
            ended: false,
            started: Instant::now(),
            metrics,
        }
    }

    /// The next bytes of the message.
    fn next(&mut self) -> Option<Bytes> {
        if let Some(head) = self.head.take() {
            return Some(head);
        }
        let dimensions = self.dimensions;
        if self.rows_sent < dimensions.slices() {
            let first = self.rows_sent * dimensions.slice_bytes() + dimensions.row_offset();
            self.rows_sent += 1;
            return Some(self.slices.slice(first..first + dimensions.row_bytes()));
        }
        if self.slices_sent == dimensions.slices() {
            return None;
        }
        let over = dimensions.slice_bytes() % BYTES_PER_FRAME;
        let frames = dimensions.slice_bytes() - over;
        if self.slice_begun {
            self.slice_begun = false;
            self.slices_sent += 1;
            return Some(self.slices.split_to(frames));
        }
        self.slice_begun = frames > 0;
        self.slices_sent += usize::from(frames == 0);
        let mut start = BytesMut::with_capacity(self.slice_head.len() + over);
        start.put_slice(&self.slice_head);
        start.put(self.slices.split_to(over));
        Some(start.freeze())
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(bytes) = self.next() {
            self.metrics.sent(bytes.len());
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        if std::mem::replace(&mut self.ended, true) {
            return Poll::Ready(None);
        }
        // The buffer goes back as soon as the socket has taken the last slice.
        self.slices = Bytes::new();
        self.metrics.stage(Stage::Send, self.started.elapsed());
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}

/// Key and length of a field of bytes.
fn put_head(field: u32, length: usize, out: &mut BytesMut) {
    encode_key(field, WireType::LengthDelimited, out);
    encode_varint(length as u64, out);
}

fn put_bytes(field: u32, bytes: &[u8], out: &mut BytesMut) {
    put_head(field, bytes.len(), out);
    out.put_slice(bytes);
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use zgpu_core::blob::COSETS;

    use super::*;

    /// The reply as the protocol has it.
    #[derive(Clone, PartialEq, Message)]
    struct EncodeBlobReply {
        #[prost(uint32, tag = "1")]
        version: u32,
        #[prost(bytes = "bytes", tag = "2")]
        erasure_commitment: Bytes,
        #[prost(bytes = "bytes", tag = "3")]
        storage_root: Bytes,
        #[prost(bytes = "bytes", tag = "4")]
        encoded_data: Bytes,
        #[prost(bytes = "bytes", repeated, tag = "5")]
        encoded_slice: Vec<Bytes>,
    }

    fn buffer(dimensions: Dimensions) -> Bytes {
        (0..dimensions.all_slices_bytes()).map(|i| (i * 131 + (i >> 8) * 17) as u8).collect::<Vec<_>>().into()
    }

    const ROOTS: BlobRoots = BlobRoots { commitment: [7; 64], coset_roots: [[0; 32]; COSETS], storage_root: [9; 32] };

    #[test]
    fn a_reply_is_the_message_of_the_protocol() {
        // Slices shorter than a frame, as long as one and a bit, and of the length of the network.
        for (lg_rows, lg_columns) in [(6, 5), (1, 9), (3, 10)] {
            let dimensions = Dimensions::new(lg_rows, lg_columns).unwrap();
            for require_data in [false, true] {
                let slices = buffer(dimensions);
                let each = slices.chunks_exact(dimensions.slice_bytes());
                let row = |slice: &[u8]| slice[dimensions.row_offset()..][..dimensions.row_bytes()].to_vec();
                let encoded_data = if require_data { each.clone().flat_map(row).collect() } else { Bytes::new() };
                let message = EncodeBlobReply {
                    version: 0,
                    erasure_commitment: ROOTS.commitment.to_vec().into(),
                    storage_root: ROOTS.storage_root.to_vec().into(),
                    encoded_data,
                    encoded_slice: each.map(Bytes::copy_from_slice).collect(),
                }
                .encode_to_vec();
                let mut reply = Reply::new(dimensions, &ROOTS, slices, require_data, Metrics::new());
                let sent: Vec<u8> = std::iter::from_fn(|| reply.next()).flatten().collect();
                assert_eq!(sent[0], 0);
                assert_eq!(sent[1..5], (message.len() as u32).to_be_bytes());
                assert!(sent[5..] == message, "2^{lg_rows} x 2^{lg_columns}, data: {require_data}");
            }
        }
    }

    #[test]
    fn slices_are_parts_of_one_buffer() {
        let dimensions = Dimensions::new(3, 10).unwrap();
        let slices = buffer(dimensions);
        let inside = slices.as_ptr_range();
        let mut reply = Reply::new(dimensions, &ROOTS, slices, true, Metrics::new());
        let (mut shared, mut copied) = (0, 0);
        while let Some(bytes) = reply.next() {
            let part = bytes.as_ptr_range();
            let is_shared = inside.contains(&part.start) && part.end <= inside.end;
            *if is_shared { &mut shared } else { &mut copied } += bytes.len();
            assert!(!is_shared || bytes.len() % BYTES_PER_FRAME == 0, "whole frames");
        }
        assert_eq!(shared, dimensions.slices() * (32_768 + 32_768), "rows, and slices but for what is over");
        assert!(copied < shared / 20, "{copied} of {shared}");
    }
}
