//! Uploads over gRPC, by a client that is generated from the protocol, into a real store beside the JSON-RPC.

#[path = "support/sample.rs"]
mod sample;

use std::{
    fs,
    future::Future,
    path::Path,
    time::{Duration, Instant},
};

use prost::Message;
use tempfile::TempDir;
use tokio::sync::watch;
use tonic::{Code, Status, transport::Channel};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};
use zgpu_core::units::BYTES_PER_LOAD;
use zgpu_node::{
    client::node::{NodeOptions, StorageNode},
    rpc::{Connections, NetworkIdentity, NodeStatus, ProtocolVersion, RpcConfig, RpcHandle, any_local_port, serve},
    store::{Settings, Store},
};

use sample::Sample;

use client::{
    DataRoot, FileProof, PingRequest, SegmentWithProof, UploadSegmentsByTxSeqRequest,
    zgs_grpc_service_client::ZgsGrpcServiceClient,
};

/// Made from `proto/zgs_grpc.proto`; see [`the_generated_files_are_those_of_the_protocol`].
#[allow(unreachable_pub, reason = "generated code")]
mod client {
    include!("../proto/zgs_grpc.rs");
}

/// Longer than anything here takes; what waits for longer has failed.
const PATIENCE: Duration = Duration::from_secs(120);

fn runs<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let output = runtime.block_on(async { tokio::time::timeout(PATIENCE, test).await.expect("it does not hang") });
    runtime.shutdown_timeout(Duration::from_secs(1));
    output
}

/// The files beside the protocol are what the generator makes of it; `ZGPU_GENERATE=1` writes them anew.
#[test]
fn the_generated_files_are_those_of_the_protocol() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    let made = tempfile::tempdir().unwrap();
    let descriptors = protox::compile(["zgs_grpc.proto"], [&folder]).unwrap();
    fs::write(made.path().join("zgs_grpc.bin"), descriptors.encode_to_vec()).unwrap();
    let generator = tonic_prost_build::configure().build_server(false).emit_rerun_if_changed(false);
    generator.out_dir(made.path()).compile_fds(descriptors).unwrap();
    for file in ["zgs_grpc.bin", "zgs_grpc.rs"] {
        let made = fs::read(made.path().join(file)).unwrap();
        if std::env::var_os("ZGPU_GENERATE").is_some_and(|value| value == "1") {
            fs::write(folder.join(file), &made).unwrap();
        }
        let kept = fs::read(folder.join(file)).unwrap();
        assert!(made == kept, "proto/{file} is not what proto/zgs_grpc.proto gives; ZGPU_GENERATE=1 writes it anew");
    }
}

struct Node {
    store: Store,
    rpc: RpcHandle,
    _status: watch::Sender<NodeStatus>,
    _dir: TempDir,
}

impl Node {
    async fn start(change: impl FnOnce(&mut RpcConfig)) -> Node {
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings { reserve_bytes: 1 << 20, write_buffer_bytes: 16 << 20, ..Settings::default() };
        let store = Store::open_with(dir.path(), settings).unwrap();
        let p2p_protocol_version = ProtocolVersion { major: 0, minor: 4, build: 0 };
        let network = NetworkIdentity { chain_id: 1, flow_address: "0x00".into(), p2p_protocol_version };
        let mut config = RpcConfig::new(any_local_port(), network);
        config.listen_grpc = Some(any_local_port());
        change(&mut config);
        let (_status, status) = watch::channel(NodeStatus::default());
        let rpc = serve(config, Connections { store: store.clone(), status, miner: None, files: None }).await.unwrap();
        Node { store, rpc, _status, _dir: dir }
    }

    async fn channel(&self) -> Channel {
        let url = format!("http://{}", self.rpc.grpc_address().unwrap());
        Channel::from_shared(url).unwrap().connect().await.unwrap()
    }

    async fn client(&self) -> ZgsGrpcServiceClient<Channel> {
        ZgsGrpcServiceClient::new(self.channel().await)
    }

    async fn until_finalised(&self, seq: u64) {
        let started = Instant::now();
        while !self.store.is_finalised(seq).unwrap() {
            assert!(started.elapsed() < PATIENCE, "{seq} is never finalised");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn segment(sample: &Sample, index: u64) -> SegmentWithProof {
    let proof = sample.tree.proof(index).unwrap();
    SegmentWithProof {
        root: Some(DataRoot { value: sample.root().0.to_vec() }),
        data: sample.whole_sectors(index),
        index,
        proof: Some(FileProof { lemma: proof.lemma.iter().map(|hash| hash.0.to_vec()).collect(), path: proof.path }),
        file_size: sample.data.len() as u64,
    }
}

fn segments(sample: &Sample, indexes: std::ops::Range<u64>, tx_seq: u64) -> UploadSegmentsByTxSeqRequest {
    UploadSegmentsByTxSeqRequest { segments: indexes.map(|index| segment(sample, index)).collect(), tx_seq }
}

fn refused(result: Result<tonic::Response<client::Empty>, Status>, code: Code, text: &str) {
    let status = result.unwrap_err();
    assert!(status.code() == code && status.message().contains(text), "expected {text:?}: {status:?}");
}

#[test]
fn files_go_up_and_come_down_over_json() {
    runs(async {
        let node = Node::start(|_| ()).await;
        let mut client = node.client().await;
        let reply = client.ping(PingRequest { message: "hello".into() }).await.unwrap();
        assert_eq!(reply.into_inner().message, "Echo: hello");

        let sample = Sample::new(13 * BYTES_PER_LOAD + 700, 1);
        let seq = sample.append(&node.store);
        // Ten segments are what the network's client sends at once; they fit the usual 4 MiB.
        client.upload_segments_by_tx_seq(segments(&sample, 0..10, seq)).await.unwrap();
        assert!(!node.store.is_finalised(seq).unwrap());
        let again = client.upload_segments_by_tx_seq(segments(&sample, 9..14, seq)).await;
        refused(again, Code::Internal, "Failed to put segment: segment has already been uploaded or is being uploaded");
        assert!(!node.store.has_segment(seq, 10).unwrap(), "a duplicate ends the call");
        client.upload_segments_by_tx_seq(segments(&sample, 10..14, seq)).await.unwrap();
        node.until_finalised(seq).await;
        let again = client.upload_segments_by_tx_seq(segments(&sample, 3..4, seq)).await;
        refused(again, Code::Internal, "already uploaded and finalized");

        let json = StorageNode::new(&format!("http://{}", node.rpc.address()), NodeOptions::default()).unwrap();
        for index in 0..14 {
            let given = json.segment_with_proof(seq, index).await.unwrap().unwrap();
            assert!(given.data == segment(&sample, index).data, "segment {index}");
        }

        // Segments may come before their transaction, as over JSON: both use one pool.
        let early = Sample::new(2 * BYTES_PER_LOAD, 2);
        client.upload_segments_by_tx_seq(segments(&early, 0..2, 1)).await.unwrap();
        let seq = early.append(&node.store);
        node.until_finalised(seq).await;
        client.upload_segments_by_tx_seq(UploadSegmentsByTxSeqRequest::default()).await.unwrap();
    });
}

#[test]
fn what_is_wrong_is_refused_in_the_networks_words() {
    runs(async {
        let node = Node::start(|_| ()).await;
        let mut client = node.client().await;
        let sample = Sample::new(3 * BYTES_PER_LOAD, 1);
        let seq = sample.append(&node.store);
        let invalid = Code::InvalidArgument;
        type Change = fn(&mut SegmentWithProof);
        let cases: [(Change, Code, &str); 9] = [
            (|s| s.root = None, invalid, "Invalid segment: it has no root"),
            (|s| s.proof = None, invalid, "Invalid segment: it has no proof"),
            (
                |s| s.root = Some(DataRoot { value: vec![1; 31] }),
                invalid,
                "Invalid segment: Invalid hash length: got 31, want 32",
            ),
            (|s| s.proof.as_mut().unwrap().lemma[1] = vec![], invalid, "Invalid hash length: got 0, want 32"),
            (
                |s| s.root = Some(DataRoot { value: vec![1; 32] }),
                Code::Internal,
                "Failed to put segment: Internal error: data root and tx seq not match",
            ),
            (|s| s.data = vec![], Code::Internal, "Failed to put segment: data is empty"),
            (|s| s.index = 3, Code::Internal, "index out of bound"),
            (|s| s.data[5] ^= 1, Code::Internal, "data hash mismatch"),
            (|s| s.proof.as_mut().unwrap().path.clear(), Code::Internal, "invalid proof"),
        ];
        for (change, code, text) in cases {
            // What is wrong in form is found before anything is stored.
            let mut request = segments(&sample, 0..2, seq);
            change(&mut request.segments[1]);
            if code != invalid {
                request.segments.remove(0);
            }
            refused(client.upload_segments_by_tx_seq(request).await, code, text);
            assert_eq!(node.store.status(seq).unwrap().unwrap().stored, 0, "{text}");
        }
        // A large file of an unknown transaction is not kept.
        let large = Sample::new(11 << 20, 2);
        let request = segments(&large, 0..1, 99);
        refused(client.upload_segments_by_tx_seq(request).await, Code::Internal, "caching of large file");
        // More than 4 MiB is not read.
        let request = segments(&large, 0..17, 99);
        refused(client.upload_segments_by_tx_seq(request).await, Code::OutOfRange, "4194304");
        // And the service is as it was.
        client.upload_segments_by_tx_seq(segments(&sample, 0..3, seq)).await.unwrap();
        node.until_finalised(seq).await;
    });
}

#[test]
fn the_limits_are_those_of_the_node() {
    runs(async {
        // Room for one message at a time, and a short time for each call.
        let node = Node::start(|config| {
            config.max_grpc_message_bytes = 1 << 20;
            config.max_request_bytes = 1 << 20;
            config.max_request_bytes_together = 1 << 20;
            config.request_timeout = Duration::from_secs(2);
        })
        .await;
        let mut client = node.client().await;
        let sample = Sample::new(5 * BYTES_PER_LOAD, 1);
        let seq = sample.append(&node.store);
        refused(client.upload_segments_by_tx_seq(segments(&sample, 0..5, seq)).await, Code::OutOfRange, "1048576");

        // A client that begins a message and does not go on holds the room until its time is up.
        let (body, stalled) = futures::channel::mpsc::unbounded::<Result<bytes::Bytes, Status>>();
        body.unbounded_send(Ok(bytes::Bytes::from_static(&[0, 0, 0, 16, 0]))).unwrap();
        let channel = node.channel().await;
        let request = http::Request::post("http://node/zgs_grpc.ZgsGrpcService/UploadSegmentsByTxSeq")
            .header("content-type", "application/grpc")
            .body(tonic::body::Body::new(Stalled(stalled)))
            .unwrap();
        let stalled = tokio::spawn(async move {
            let mut channel = channel;
            std::future::poll_fn(|cx| tower_service::Service::poll_ready(&mut channel, cx)).await.unwrap();
            tower_service::Service::call(&mut channel, request).await
        });
        // Everybody waits for it, and gets through after it.
        let uploads = (0..5).map(|index| {
            let mut client = client.clone();
            let request = segments(&sample, index..index + 1, seq);
            async move {
                loop {
                    match client.upload_segments_by_tx_seq(request.clone()).await {
                        Err(status) if status.code() == Code::DeadlineExceeded => {}
                        // What was begun is done even when its answer comes too late.
                        Err(status) if status.message().contains("already") => return,
                        other => return drop(other.unwrap()),
                    }
                }
            }
        });
        futures::future::join_all(uploads).await;
        node.until_finalised(seq).await;
        let answer = stalled.await.unwrap().unwrap();
        let status = Status::from_header_map(answer.headers()).unwrap();
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
        drop(body);

        // Stopping waits for calls, takes no more, and frees the address.
        let address = node.rpc.grpc_address().unwrap();
        drop(client);
        node.rpc.stop().await;
        std::net::TcpListener::bind(address).unwrap();
    });
}

/// A body that gives what comes through a channel.
struct Stalled(futures::channel::mpsc::UnboundedReceiver<Result<bytes::Bytes, Status>>);

impl http_body::Body for Stalled {
    type Data = bytes::Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<bytes::Bytes>, Status>>> {
        use futures::StreamExt;
        self.0.poll_next_unpin(cx).map(|next| next.map(|bytes| bytes.map(http_body::Frame::data)))
    }
}

#[test]
fn the_protocol_is_told_by_reflection() {
    runs(async {
        let node = Node::start(|_| ()).await;
        let mut client = ServerReflectionClient::new(node.channel().await);
        let ask = |message| ServerReflectionRequest { host: String::new(), message_request: Some(message) };
        let requests = [
            ask(MessageRequest::ListServices(String::new())),
            ask(MessageRequest::FileContainingSymbol("zgs_grpc.ZgsGrpcService".into())),
        ];
        let mut replies = client.server_reflection_info(tokio_stream::iter(requests)).await.unwrap().into_inner();
        let mut next = async || replies.message().await.unwrap().unwrap().message_response.unwrap();
        let MessageResponse::ListServicesResponse(services) = next().await else { panic!("a list was asked for") };
        assert!(services.service.iter().any(|service| service.name == "zgs_grpc.ZgsGrpcService"), "{services:?}");
        let MessageResponse::FileDescriptorResponse(files) = next().await else { panic!("a file was asked for") };
        let text = String::from_utf8_lossy(&files.file_descriptor_proto[0]).into_owned();
        assert!(text.contains("UploadSegmentsByTxSeq") && text.contains("file_size"), "{text}");

        let other = tonic::client::Grpc::new(node.channel().await);
        let mut other = other;
        other.ready().await.unwrap();
        let path = http::uri::PathAndQuery::from_static("/zgs_grpc.ZgsGrpcService/Delete");
        let codec = tonic_prost::ProstCodec::<PingRequest, PingRequest>::default();
        let status = other.unary(tonic::Request::new(PingRequest::default()), path, codec).await.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented);
    });
}
