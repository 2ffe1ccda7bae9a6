use futures::executor::block_on;
use libp2p::{
    Multiaddr, PeerId,
    identity::{Keypair, PublicKey, secp256k1},
};
use proptest::prelude::*;
use zgpu_core::H256;

use super::{
    gossip::*,
    rpc::*,
    snappy::{SnappyError, compress_frames},
    ssz::SszError,
    types::*,
};

const TIMESTAMP: u32 = 1_700_000_000;
const ELEVENS: &str = "1111111111111111111111111111111111111111111111111111111111111111";
const TX: TxId = TxId { seq: 7, hash: H256([0x11; 32]) };
const SHARD: ShardConfig = ShardConfig { num_shard: 4, shard_id: 1 };

fn hex(text: &str) -> Vec<u8> {
    let digit = |byte: u8| (byte as char).to_digit(16).expect("hex digits") as u8;
    text.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

fn timed<T>(inner: T) -> Timed<T> {
    Timed { inner, timestamp: TIMESTAMP }
}

/// Peer id bytes of the secp256k1 key 02 22 22 … 22.
fn peer_of_twos() -> Vec<u8> {
    hex(&format!("00250802122102{}", "22".repeat(32)))
}

fn announcement() -> SignedAnnouncement {
    let address: Multiaddr = "/ip4/1.2.3.4/tcp/1234".parse().unwrap();
    SignedAnnouncement {
        announcement: timed(FileAnnouncement {
            tx_ids: vec![TX],
            shard: SHARD,
            peer_id: peer_of_twos(),
            address: address.to_vec(),
        }),
        signature: vec![0x33; 70],
        resend_timestamp: TIMESTAMP,
    }
}

/// Appendix A.10 of the protocol sheet.
#[test]
fn gossip_has_the_bytes_of_the_sheet() {
    let file = ShardedFile { tx_id: TX, shard: SHARD };
    let rows = [
        (Message::NewFile(timed(file)), format!("0700000000000000{ELEVENS}0400000000000000010000000000000000f15365")),
        (Message::AskFile(timed(file)), format!("0700000000000000{ELEVENS}0400000000000000010000000000000000f15365")),
        (
            Message::FindFile(timed(FindFile { tx_id: TX, shard: Some(SHARD) })),
            format!("0800000000f153650700000000000000{ELEVENS}2c0000000104000000000000000100000000000000"),
        ),
        (
            Message::FindFile(timed(FindFile { tx_id: TX, shard: None })),
            format!("0800000000f153650700000000000000{ELEVENS}2c00000000"),
        ),
        (Message::AnnounceShardConfig(timed(SHARD)), "0400000000000000010000000000000000f15365".into()),
        (
            Message::AnnounceFile(vec![announcement()]),
            format!(
                "040000000c0000008700000000f153650800000000f153651c00000004000000000000000100000000000000440000006b000000\
                 0700000000000000{ELEVENS}00250802122102{}0401020304060\
                 4d2{}",
                "22".repeat(32),
                "33".repeat(70)
            ),
        ),
        (
            Message::FindChunks(timed(ChunkRange { tx_id: TX, start: 2, end: 0x0300 })),
            format!("0700000000000000{ELEVENS}0200000000000000000300000000000000f15365"),
        ),
        (
            Message::AnnounceChunks(timed(ChunkAnnouncement {
                range: ChunkRange { tx_id: TX, start: 0, end: 1 },
                peer_id: vec![0xaa; 2],
                address: vec![0xbb; 3],
            })),
            format!(
                "0800000000f153650700000000000000{ELEVENS}00000000000000000100000000000000\
                 4000000042000000aaaabbbbbb"
            ),
        ),
    ];
    for (message, text) in rows {
        let bytes = hex(&text);
        assert_eq!(message.to_ssz(), bytes, "{message:?}");
        assert_eq!(Message::from_ssz(message.topic(), &bytes).unwrap(), message);
        assert_eq!(Message::from_wire(message.topic(), &message.to_wire().unwrap()).unwrap(), message);
        refuses_other_lengths(&bytes, |bytes| Message::from_ssz(message.topic(), bytes));
    }
    assert_eq!(Message::AnnounceFile(vec![announcement()]).to_ssz().len(), 209);
}

/// A cut form is refused, unless only its last field of free length lost bytes: then it is another message, and what
/// is signed or looked up no longer fits.
fn refuses_other_lengths(bytes: &[u8], read: impl Fn(&[u8]) -> Result<Message, SszError>) {
    for length in 0..bytes.len() {
        if let Ok(message) = read(&bytes[..length]) {
            assert!(matches!(message, Message::AnnounceFile(_) | Message::AnnounceChunks(_)));
            assert_eq!(message.to_ssz(), &bytes[..length]);
        }
    }
    let longer = [bytes, &[0]].concat();
    if let Ok(message) = read(&longer) {
        assert!(matches!(message, Message::AnnounceFile(_) | Message::AnnounceChunks(_)));
        assert_eq!(message.to_ssz(), longer);
    }
}

/// Appendices A.7 and A.10.
#[test]
fn status_and_requests_have_the_bytes_of_the_sheet() {
    let identity = "154100000000000062d4144db0f0a6fbbaeb6296c785c71b3d57c526000400";
    let flow_address = hex(&identity[16..56]).try_into().unwrap();
    let expected = NetworkIdentity { chain_id: 16661, flow_address, version: PROTOCOL_VERSION };
    assert_eq!(expected.to_bytes().to_vec(), hex(identity));
    assert_eq!(NetworkIdentity::from_bytes(&hex(identity)).unwrap(), expected);
    let status = Status { identity: expected, shard: ShardConfig::WHOLE };
    let text = format!("{identity}01000000000000000000000000000000");
    assert_eq!(status.to_bytes(), hex(&text));
    assert_eq!(Status::from_bytes(&hex(&text)).unwrap(), status);

    let request = Request::GetChunks(ChunkRequest { tx_id: TX, start: 1, end: 0x0400, root_seq: 9 });
    let text = format!("0700000000000000{ELEVENS}010000000000000000040000000000000900000000000000");
    let requests = [
        (request, text.as_str()),
        (Request::Goodbye(Goodbye::TooManyPeers), "8100000000000000"),
        (Request::Ping(PING_VALUE), "0100000000000000"),
        (Request::DataByHash(vec![H256([0x11; 32])]), ELEVENS),
    ];
    for (request, text) in requests {
        let (method, bytes) = (request.method(), hex(text));
        assert_eq!(request.to_ssz(), bytes);
        assert_eq!(Request::from_ssz(method, &bytes).unwrap(), request);
        let wire = request.to_wire().unwrap();
        assert_eq!(block_on(Request::read(method, &mut &wire[..])).unwrap(), request);
        for length in 0..wire.len() {
            assert!(block_on(Request::read(method, &mut &wire[..length])).is_err());
        }
        for wrong in [&bytes[1..], &[&bytes[..], &[0]].concat()] {
            assert!(Request::from_ssz(method, wrong).is_err());
            let framed = compress_frames(wrong).unwrap();
            let error = block_on(Request::read(method, &mut &framed[..])).unwrap_err();
            assert!(error.is_peers_fault(), "{error}");
        }
    }
    for code in 0..300 {
        assert_eq!(Goodbye::from_code(code).code(), code);
    }
}

fn chunks(sectors: usize, steps: usize) -> ChunksWithProof {
    let proof =
        FlowProof { lemma: vec![H256([5; 32]); steps + 2], path: (0..steps).map(|step| step % 2 == 0).collect() };
    ChunksWithProof { start: 3, data: vec![9; sectors * 256], left: proof.clone(), right: proof }
}

async fn read_response(method: Method, mut wire: &[u8]) -> Result<Response, RpcError> {
    Response::read(method, &mut wire).await
}

#[test]
fn responses_are_read_back_and_bounded() {
    for (sectors, steps) in [(0, 0), (1, 1), (1024, 20), (2048, 64)] {
        let response = Response::Chunks(Box::new(chunks(sectors, steps)));
        let wire = response.to_wire().unwrap();
        assert_eq!(block_on(read_response(Method::GetChunks, &wire)).unwrap(), response);
    }
    for (sectors, steps) in [(2049, 0), (1, 65), (2048, 65)] {
        let wire = Response::Chunks(Box::new(chunks(sectors, steps))).to_wire().unwrap();
        assert!(block_on(read_response(Method::GetChunks, &wire)).unwrap_err().is_peers_fault());
    }
    let refused = Response::Refused { refusal: Refusal::RateLimited, text: "é".repeat(200) };
    let wire = refused.to_wire().unwrap();
    assert_eq!(wire[0], 139);
    let Response::Refused { refusal, text } = block_on(read_response(Method::Status, &wire)).unwrap() else {
        panic!("a refusal is read back as one")
    };
    assert_eq!((refusal, text), (Refusal::RateLimited, "é".repeat(128)));
    assert_eq!(block_on(read_response(Method::Goodbye, &[])).unwrap(), Response::None);
    assert!(!block_on(read_response(Method::Status, &[])).unwrap_err().is_peers_fault());
    // An error text of 257 bytes.
    let long = [&[2][..], &compress_frames(&[b'a'; 257]).unwrap()].concat();
    assert!(matches!(
        block_on(read_response(Method::Ping, &long)),
        Err(RpcError::Snappy(SnappyError::PlainLength { max: 256, got: 257, .. }))
    ));
}

/// Appendix A.10: the length of a response with 1024 sectors and proofs of 20 steps, and where its parts lie.
#[test]
fn chunks_have_the_layout_of_the_sheet() {
    let wire = Response::Chunks(Box::new(chunks(1024, 20))).to_wire().unwrap();
    let ssz = block_on(super::snappy::decompress_frames(&mut &wire[1..], 0, 1 << 20)).unwrap();
    assert_eq!(ssz.len(), 263_636);
    let offset = |at: usize| u32::from_le_bytes(ssz[at..at + 4].try_into().unwrap());
    assert_eq!([offset(0), offset(4), offset(8), offset(12)], [8, 8 + 12 + 262_144, 12, 3]);
    let proof = offset(4) as usize;
    assert_eq!([offset(proof), offset(proof + 4)], [8, 8 + 8 + 22 * 32 + 20]);
    assert_eq!([offset(proof + 8), offset(proof + 12)], [8, 8 + 22 * 32]);
}

#[test]
fn hostile_messages_are_refused() {
    let find = Message::FindFile(timed(FindFile { tx_id: TX, shard: Some(SHARD) })).to_ssz();
    for (at, value) in [(0, 9), (0, 7), (48, 45), (48, 0), (51, 1), (52, 2), (52, 0)] {
        let mut wrong = find.clone();
        wrong[at] = value;
        assert!(Message::from_ssz(Topic::FindFile, &wrong).is_err(), "{at} {value}");
    }
    let announce = Message::AnnounceFile(vec![announcement(), announcement()]).to_ssz();
    for (at, value) in
        [(0, 0), (0, 4), (0, 7), (0, 12), (3, 255), (4, 0), (4, 255), (8, 11), (12, 0), (20, 9), (28, 29)]
    {
        let mut wrong = announce.clone();
        wrong[at] = value;
        assert!(Message::from_ssz(Topic::AnnounceFile, &wrong).is_err(), "{at} {value}");
    }
    let many = Message::AnnounceFile(vec![announcement(); MAX_ANNOUNCEMENTS + 1]).to_ssz();
    assert!(matches!(Message::from_ssz(Topic::AnnounceFile, &many), Err(SszError::TooMany { .. })));
    let mut long = announcement();
    long.signature = vec![0; 300];
    assert!(Message::from_ssz(Topic::AnnounceFile, &Message::AnnounceFile(vec![long]).to_ssz()).is_err());
}

#[test]
fn topics_and_protocols_have_the_names_of_the_sheet() {
    let topics = "/eth2/new_file_v2/ssz_snappy, /eth2/ask_file/ssz_snappy, /eth2/find_file_v2/ssz_snappy, \
                  /eth2/announce_file_v2/ssz_snappy, /eth2/announce_shard_config_v2/ssz_snappy, \
                  /eth2/find_chunks_v2/ssz_snappy, /eth2/announce_chunks_v2/ssz_snappy";
    assert_eq!(Topic::ALL.map(Topic::name).join(", "), topics);
    assert!(Topic::ALL.iter().all(|topic| Topic::from_name(topic.name()) == Some(*topic)));
    let protocols = "/zgs/req/status/1/ssz_snappy, /zgs/req/goodbye/1/ssz_snappy, /zgs/req/ping/1/ssz_snappy, \
                     /zgs/req/data_by_hash/1/ssz_snappy, /zgs/req/answer_file/1/ssz_snappy, /zgs/req/get_chunks/1/ssz_snappy";
    assert_eq!(Method::ALL.map(Method::protocol).join(", "), protocols);
}

/// The digest was computed with another implementation of SHA-256.
#[test]
fn message_ids_hash_source_topic_data_and_number() {
    let data = Message::NewFile(timed(ShardedFile { tx_id: TX, shard: SHARD })).to_ssz();
    let id = message_id(&peer_of_twos(), Topic::NewFile.name(), &data, 0x0102_0304_0506_0708);
    assert_eq!(id.to_vec(), hex("da97dbd29445104f188d58e76904a2d73810bc64"));
}

fn key(byte: u8) -> Keypair {
    let secret = secp256k1::SecretKey::try_from_bytes([byte; 32]).unwrap();
    secp256k1::Keypair::from(secret).into()
}

#[test]
fn announcements_are_verified_with_the_key_in_the_peer_id() {
    let mut announcement = announcement().announcement;
    announcement.inner.peer_id = key(1).public().to_peer_id().to_bytes();
    assert_eq!(announcement.inner.peer_id.len(), 39);
    let signed = SignedAnnouncement::sign(announcement, &key(1)).unwrap();
    assert!(signed.is_signed());
    assert_eq!(signed.peer_id(), Some(PeerId::from(key(1).public())));
    assert_eq!(signed.address().unwrap().to_string(), "/ip4/1.2.3.4/tcp/1234");
    // Anyone may send it again at another time.
    assert!(SignedAnnouncement { resend_timestamp: 0, ..signed.clone() }.is_signed());

    let refused = |change: fn(&mut SignedAnnouncement)| {
        let mut changed = signed.clone();
        change(&mut changed);
        !changed.is_signed()
    };
    assert!(refused(|signed| signed.announcement.timestamp += 1));
    assert!(refused(|signed| signed.announcement.inner.tx_ids[0].seq += 1));
    assert!(refused(|signed| signed.announcement.inner.shard.shard_id += 1));
    assert!(refused(|signed| signed.announcement.inner.address[1] ^= 1));
    assert!(refused(|signed| signed.signature[20] ^= 1));
    assert!(refused(|signed| signed.signature.clear()));
    assert!(refused(|signed| signed.announcement.inner.peer_id = key(2).public().to_peer_id().to_bytes()));
    assert!(refused(|signed| signed.announcement.inner.peer_id.clear()));
    // A peer id that is a SHA-256 multihash holds no key.
    assert!(refused(|signed| signed.announcement.inner.peer_id = [&[0x12, 0x20][..], &[7; 32]].concat()));
    assert!(PublicKey::try_decode_protobuf(&peer_of_twos()[2..]).is_ok());
}

#[test]
fn only_addresses_that_everybody_reaches_are_public() {
    let is_public = |text: &str| is_public(&text.parse().unwrap());
    for text in [
        "/ip4/1.2.3.4/tcp/1234",
        "/ip6/2606:4700::1/tcp/9",
        "/dns4/node.example.org/tcp/1234",
        "/ip4/100.128.0.1/tcp/1",
    ] {
        assert!(is_public(text), "{text}");
    }
    for text in [
        "/ip4/127.0.0.1/tcp/1234",
        "/ip4/10.1.2.3/tcp/1",
        "/ip4/172.16.0.1/tcp/1",
        "/ip4/192.168.1.1/tcp/1",
        "/ip4/169.254.1.1/tcp/1",
        "/ip4/100.64.0.1/tcp/1",
        "/ip4/0.0.0.0/tcp/1",
        "/ip4/224.0.0.1/tcp/1",
        "/ip4/255.255.255.255/tcp/1",
        "/ip4/203.0.113.9/tcp/1",
        "/ip6/::1/tcp/1",
        "/ip6/::/tcp/1",
        "/ip6/fe80::1/tcp/1",
        "/ip6/fd00::1/tcp/1",
        "/ip6/::ffff:10.0.0.1/tcp/1",
        "/ip6/2001:db8::1/tcp/1",
        "/ip4/1.2.3.4/tcp/0",
        "/ip4/1.2.3.4/udp/1234",
        "/ip4/1.2.3.4",
        "/memory/1",
    ] {
        assert!(!is_public(text), "{text}");
    }
}

fn any_tx() -> impl Strategy<Value = TxId> + Clone {
    (any::<u64>(), any::<[u8; 32]>()).prop_map(|(seq, hash)| TxId { seq, hash: H256(hash) })
}

fn any_shard() -> impl Strategy<Value = ShardConfig> + Clone {
    (any::<u64>(), any::<u64>()).prop_map(|(num_shard, shard_id)| ShardConfig { num_shard, shard_id })
}

fn any_bytes(limit: usize) -> impl Strategy<Value = Vec<u8>> + Clone {
    prop::collection::vec(any::<u8>(), 0..limit)
}

fn any_announcement() -> impl Strategy<Value = SignedAnnouncement> {
    let inner = (prop::collection::vec(any_tx(), 0..5), any_shard(), any_bytes(60), any_bytes(60))
        .prop_map(|(tx_ids, shard, peer_id, address)| FileAnnouncement { tx_ids, shard, peer_id, address });
    (inner, any::<u32>(), any_bytes(90), any::<u32>()).prop_map(|(inner, timestamp, signature, resend_timestamp)| {
        SignedAnnouncement { announcement: Timed { inner, timestamp }, signature, resend_timestamp }
    })
}

fn any_message() -> impl Strategy<Value = Message> {
    let file = (any_tx(), any_shard()).prop_map(|(tx_id, shard)| ShardedFile { tx_id, shard });
    let range = (any_tx(), any::<u64>(), any::<u64>()).prop_map(|(tx_id, start, end)| ChunkRange { tx_id, start, end });
    let find = (any_tx(), prop::option::of(any_shard())).prop_map(|(tx_id, shard)| FindFile { tx_id, shard });
    let chunks = (range.clone(), any_bytes(60), any_bytes(60))
        .prop_map(|(range, peer_id, address)| ChunkAnnouncement { range, peer_id, address });
    prop_oneof![
        file.clone().prop_map(|inner| Message::NewFile(timed(inner))),
        file.prop_map(|inner| Message::AskFile(timed(inner))),
        find.prop_map(|inner| Message::FindFile(timed(inner))),
        any_shard().prop_map(|inner| Message::AnnounceShardConfig(timed(inner))),
        prop::collection::vec(any_announcement(), 0..4).prop_map(Message::AnnounceFile),
        range.prop_map(|inner| Message::FindChunks(timed(inner))),
        chunks.prop_map(|inner| Message::AnnounceChunks(timed(inner))),
    ]
}

proptest! {
    #[test]
    fn messages_are_read_back(message in any_message()) {
        let wire = message.to_wire().unwrap();
        prop_assert_eq!(Message::from_wire(message.topic(), &wire).unwrap(), message);
    }

    /// One form for each message: what is read is written again byte for byte.
    #[test]
    fn changed_messages_are_refused_or_canonical(message in any_message(), at in any::<prop::sample::Index>(), value: u8) {
        let mut bytes = message.to_ssz();
        if !bytes.is_empty() {
            let at = at.index(bytes.len());
            bytes[at] = value;
            bytes.truncate(bytes.len() - usize::from(value & 1));
            if let Ok(read) = Message::from_ssz(message.topic(), &bytes) {
                prop_assert_eq!(read.to_ssz(), bytes);
            }
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in any_bytes(400)) {
        for topic in Topic::ALL {
            if let Ok(message) = Message::from_ssz(topic, &bytes) {
                prop_assert_eq!(message.to_ssz(), bytes.clone());
            }
            let _ = Message::from_wire(topic, &bytes);
        }
        for method in Method::ALL {
            let _ = Request::from_ssz(method, &bytes);
            let _ = block_on(Request::read(method, &mut &bytes[..]));
            let _ = block_on(read_response(method, &bytes));
            let framed = compress_frames(&bytes).unwrap();
            let _ = block_on(read_response(method, &[&[0][..], &framed].concat()));
        }
    }
}
