//! The encoder service over real sockets, called by a client that is generated from its protocol: the network's blobs, and
//! what happens when blobs, clients and devices misbehave. Faults of devices are injected at the engine's trait.
//! Then the commands on files, as a person meets them: encode, verify, recover.

use std::{
    collections::VecDeque,
    fs,
    future::Future,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::Duration,
};

use bytes::Bytes;
use http_body::Body as _;
use prost::Message;
use sha2::{Digest, Sha256};
use tonic::{Code, Status, body::Body, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tower_service::Service;
use zgpu_core::{
    blob::Dimensions,
    device::{BackendChoice, DeviceError, DeviceInfo},
    digest::H256,
    tree::{sector_hashes, unbalanced_root},
};
use zgpu_encoder::{
    check::{Case, parse_vectors},
    engine::{EncodeError, Encoded, Engine, EngineOptions, open},
    params::ProverParams,
};
use zgpu_node::encoder::{Device, EncoderOptions, EncoderService, OpenError, ServiceError};

use client::{EncodeBlobReply, EncodeBlobRequest, encoder_client::EncoderClient};

/// Made from `proto/encoder.proto`; see [`the_generated_files_are_those_of_the_protocol`].
#[allow(unreachable_pub, reason = "generated code")]
mod client {
    include!("../proto/encoder.rs");
}

const VECTORS: [&str; 4] = [
    include_str!("../../encoder/vectors/blob-6x5-1.json"),
    include_str!("../../encoder/vectors/blob-6x5-31.json"),
    include_str!("../../encoder/vectors/blob-6x5-1234.json"),
    include_str!("../../encoder/vectors/blob-6x5-63484.json"),
];
/// Longer than anything here takes; what waits for longer has failed.
const PATIENCE: Duration = Duration::from_secs(300);
const LOCAL: &str = "127.0.0.1:0";

/// Parameters of the vectors: all have the same τ.
static PARAMS: LazyLock<Arc<ProverParams>> = LazyLock::new(|| Arc::new(cases()[0].params().unwrap()));

fn cases() -> Vec<Case> {
    VECTORS.iter().map(|text| parse_vectors(text).unwrap()).collect()
}

fn cpu() -> Box<dyn Engine> {
    open(BackendChoice::Cpu, &PARAMS, EngineOptions::default()).unwrap().remove(0)
}

fn runs<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let output = runtime.block_on(async { tokio::time::timeout(PATIENCE, test).await.expect("it does not hang") });
    runtime.shutdown_timeout(Duration::from_secs(1));
    output
}

/// What a scripted engine does with its next blob.
enum Act {
    Encode,
    /// Says that it began, and encodes once it is told to.
    EncodeWhen(mpsc::Receiver<()>),
    Lost,
    OutOfMemory,
    Panic,
}

/// A real engine that fails, waits or panics when it is told so.
struct Scripted {
    engine: Box<dyn Engine>,
    script: Arc<Script>,
}

#[derive(Default)]
struct Script {
    acts: Mutex<VecDeque<Act>>,
    begun: AtomicUsize,
    opened: AtomicUsize,
}

impl Script {
    fn then(&self, act: Act) {
        self.acts.lock().unwrap().push_back(act);
    }

    /// The next blob is held until the sender is used or dropped.
    fn hold(&self) -> mpsc::Sender<()> {
        let (go, wait) = mpsc::channel();
        self.then(Act::EncodeWhen(wait));
        go
    }

    async fn has_begun(&self, blobs: usize) {
        until(|| self.begun.load(Ordering::SeqCst) >= blobs).await;
    }
}

impl Engine for Scripted {
    fn info(&self) -> &DeviceInfo {
        self.engine.info()
    }

    fn dimensions(&self) -> Dimensions {
        self.engine.dimensions()
    }

    fn encode(&mut self, data: &[u8], slices: &mut Vec<u8>) -> Result<Encoded, EncodeError> {
        let act = self.script.acts.lock().unwrap().pop_front();
        self.script.begun.fetch_add(1, Ordering::SeqCst);
        let device = self.info().name.clone();
        match act.unwrap_or(Act::Encode) {
            Act::Encode => {}
            // An error means that the sender is gone: go on as well.
            Act::EncodeWhen(wait) => drop(wait.recv()),
            Act::Lost => return Err(DeviceError::Lost { device, reason: "it fell off the bus".into() }.into()),
            Act::OutOfMemory => {
                return Err(DeviceError::OutOfMemory { device, what: "tables", wanted: 7, available: 3 }.into());
            }
            Act::Panic => panic!("the engine has a bug"),
        }
        self.engine.encode(data, slices)
    }
}

fn scripted(name: &str, script: &Arc<Script>) -> Device {
    let script = Arc::clone(script);
    let open = move || {
        script.opened.fetch_add(1, Ordering::SeqCst);
        Ok(vec![Box::new(Scripted { engine: cpu(), script: Arc::clone(&script) }) as Box<dyn Engine>])
    };
    Device { name: name.into(), open: Box::new(open) }
}

fn options() -> EncoderOptions {
    let mut options = EncoderOptions::new(LOCAL.parse().unwrap());
    options.metrics = Some(LOCAL.parse().unwrap());
    options.reopen_pause = Duration::from_millis(20);
    options
}

async fn start(options: EncoderOptions, devices: Vec<Device>) -> EncoderService {
    let service = EncoderService::start(options, devices).await.unwrap();
    service.serving().wait_for(|serving| *serving).await.unwrap();
    service
}

/// A service on one scripted device, with a queue of `queue`.
async fn start_one(queue: usize) -> (EncoderService, Arc<Script>) {
    let script = Arc::<Script>::default();
    let options = EncoderOptions { queue, ..options() };
    (start(options, vec![scripted("test:0", &script)]).await, script)
}

async fn channel(service: &EncoderService) -> Channel {
    Channel::from_shared(format!("http://{}", service.address())).unwrap().connect().await.unwrap()
}

async fn encode_on(channel: Channel, data: &[u8], require_data: bool) -> Result<EncodeBlobReply, Status> {
    let mut client = EncoderClient::new(channel).max_decoding_message_size(1 << 30).max_encoding_message_size(1 << 30);
    let request = EncodeBlobRequest { data: Bytes::copy_from_slice(data), require_data };
    client.encode_blob(request).await.map(tonic::Response::into_inner)
}

async fn encode(service: &EncoderService, data: &[u8]) -> Result<EncodeBlobReply, Status> {
    encode_on(channel(service).await, data, false).await
}

/// Sends any bytes as a request, and returns the status of the answer, which has no message.
async fn post(mut channel: Channel, method: &str, body: axum::body::Body) -> Status {
    let request = http::Request::post(format!("/encoder.Encoder/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Body::new(body))
        .unwrap();
    std::future::poll_fn(|context| channel.poll_ready(context)).await.unwrap();
    let response = channel.call(request).await.unwrap();
    Status::from_header_map(response.headers()).expect("a status in the headers")
}

/// Fails with `code`, and says all of `words`.
async fn refused(service: &EncoderService, data: &[u8], code: Code, words: &[&str]) {
    let status = encode(service, data).await.expect_err("it is refused");
    says(&status, code, words);
}

fn says(status: &Status, code: Code, words: &[&str]) {
    assert_eq!(status.code(), code, "{status:?}");
    for word in words {
        assert!(status.message().contains(word), "{word:?} in {:?}", status.message());
    }
}

async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn status(service: &EncoderService) -> serde_json::Value {
    serde_json::from_str(&service.status().unwrap()).unwrap()
}

async fn until_status(service: &EncoderService, key: &str, value: u64) {
    until(|| status(service)[key] == value).await;
}

#[test]
fn the_generated_files_are_those_of_the_protocol() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    let made = tempfile::tempdir().unwrap();
    let descriptors = protox::compile(["encoder.proto"], [&folder]).unwrap();
    fs::write(made.path().join("encoder.bin"), descriptors.encode_to_vec()).unwrap();
    let generator = tonic_prost_build::configure().build_server(false).bytes(".").emit_rerun_if_changed(false);
    generator.out_dir(made.path()).compile_fds(descriptors).unwrap();
    for file in ["encoder.bin", "encoder.rs"] {
        let made = fs::read(made.path().join(file)).unwrap();
        if std::env::var_os("ZGPU_GENERATE").is_some_and(|value| value == "1") {
            fs::write(folder.join(file), &made).unwrap();
        }
        let kept = fs::read(folder.join(file)).unwrap();
        assert!(made == kept, "proto/{file} is not what proto/encoder.proto gives; ZGPU_GENERATE=1 writes it anew");
    }
}

#[test]
fn blobs_of_the_network_come_out_equal() {
    runs(async {
        let (service, _) = start_one(4).await;
        for case in cases() {
            let plain = encode(&service, &case.data()).await.unwrap();
            assert_eq!(plain.version, 0);
            assert_eq!(plain.erasure_commitment[..], case.commitment);
            assert_eq!(plain.storage_root[..], case.storage_root.0);
            assert!(plain.encoded_data.is_empty());
            assert_eq!(plain.encoded_slice.len(), case.dimensions.slices());
            let mut hash = Sha256::new();
            plain.encoded_slice.iter().for_each(|slice| hash.update(slice));
            assert_eq!(H256(hash.finalize().into()), case.all_slices_hash);

            let whole = encode_on(channel(&service).await, &case.data(), true).await.unwrap();
            assert_eq!(whole.encoded_data.len(), case.dimensions.slices() * case.dimensions.row_bytes());
            let root = unbalanced_root(&sector_hashes(&whole.encoded_data)).unwrap();
            assert_eq!(root, case.storage_root, "the storage root is that of the encoded data as a file");
            assert_eq!(EncodeBlobReply { encoded_data: Bytes::new(), ..whole }, plain);
        }
        let empty = encode(&service, b"").await.unwrap();
        assert_eq!(empty.encoded_slice.len(), 192);
        service.shutdown().await.unwrap();
    });
}

#[test]
fn health_and_reflection_answer() {
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    runs(async {
        let (service, _) = start_one(4).await;
        let channel = channel(&service).await;
        let mut health = HealthClient::new(channel.clone());
        for name in ["", "encoder.Encoder"] {
            let answer = health.check(HealthCheckRequest { service: name.into() }).await.unwrap().into_inner();
            assert_eq!(answer.status(), ServingStatus::Serving, "{name:?}");
        }
        let unknown = health.check(HealthCheckRequest { service: "encoder.Decoder".into() }).await.unwrap_err();
        assert_eq!(unknown.code(), Code::NotFound);

        let mut reflection = ServerReflectionClient::new(channel);
        let mut ask = async |request: MessageRequest| {
            let request = ServerReflectionRequest { host: String::new(), message_request: Some(request) };
            let mut answers =
                reflection.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
            answers.message().await.unwrap().unwrap().message_response.unwrap()
        };
        let MessageResponse::ListServicesResponse(list) = ask(MessageRequest::ListServices(String::new())).await else {
            panic!("a list of services");
        };
        assert!(list.service.iter().any(|service| service.name == "encoder.Encoder"), "{list:?}");
        let symbol = MessageRequest::FileContainingSymbol("encoder.Encoder.EncodeBlob".into());
        let MessageResponse::FileDescriptorResponse(file) = ask(symbol).await else { panic!("a file") };
        assert!(String::from_utf8_lossy(&file.file_descriptor_proto[0]).contains("require_data"));
        service.shutdown().await.unwrap();
    });
}

#[test]
fn bad_requests_are_named_and_the_service_lives_on() {
    runs(async {
        let (service, script) = start_one(4).await;
        let maximum = PARAMS.dimensions().max_data_bytes();
        let invalid = Code::InvalidArgument;
        refused(&service, &vec![1; maximum + 1], invalid, &["too large", "63485", "63484"]).await;
        refused(&service, &vec![1; 9_000_000], invalid, &["too large", "90000", "63484"]).await;

        let channel = channel(&service).await;
        let send =
            async |method: &str, bytes: Vec<u8>| post(channel.clone(), method, axum::body::Body::from(bytes)).await;
        let whole = EncodeBlobRequest { data: Bytes::from_static(b"data"), require_data: false }.encode_to_vec();
        let framed = |flag: u8, length: u32| [&[flag][..], &length.to_be_bytes(), &whole].concat();
        says(&send("EncodeBlob", vec![]).await, invalid, &["no message"]);
        says(&send("EncodeBlob", vec![0, 0, 0]).await, invalid, &["no message"]);
        says(&send("EncodeBlob", framed(0, 60)).await, invalid, &["ends after 6 of 60"]);
        says(&send("EncodeBlob", framed(0, 5)).await, invalid, &["more than one message"]);
        says(&send("EncodeBlob", framed(0, u32::MAX)).await, invalid, &["4294967295", "63484"]);
        says(&send("EncodeBlob", framed(1, 6)).await, Code::Unimplemented, &["compressed"]);
        says(&send("EncodeBlob", [&[0, 0, 0, 0, 4][..], &[0xff; 4]].concat()).await, invalid, &["EncodeBlobRequest"]);
        says(&send("DecodeBlob", framed(0, 6)).await, Code::Unimplemented, &["DecodeBlob", "EncodeBlob"]);

        assert_eq!(script.begun.load(Ordering::SeqCst), 0, "no engine saw any of it");
        encode(&service, b"data").await.unwrap();
        until_status(&service, "buffers", 0).await;
        assert_eq!(status(&service)["receiving"], 0);
        service.shutdown().await.unwrap();
    });
}

#[test]
fn a_request_that_does_not_come_in_is_given_up() {
    runs(async {
        let script = Arc::<Script>::default();
        let options = EncoderOptions { queue: 0, receive_timeout: Duration::from_millis(50), ..options() };
        let service = start(options, vec![scripted("test:0", &script)]).await;
        let channel = channel(&service).await;
        let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Bytes, std::convert::Infallible>>(1);
        let body = axum::body::Body::from_stream(tokio_stream::wrappers::ReceiverStream::new(receiver));
        sender.send(Ok(Bytes::from_static(&[0, 0, 0, 1]))).await.unwrap();
        says(&post(channel, "EncodeBlob", body).await, Code::DeadlineExceeded, &["50ms"]);
        drop(sender);
        // Its place is free: the only one.
        encode(&service, b"data").await.unwrap();
        service.shutdown().await.unwrap();
    });
}

#[test]
fn a_reply_that_nobody_takes_gives_its_buffer_back() {
    runs(async {
        let script = Arc::<Script>::default();
        let (connection_age, connection_grace) = (Duration::from_millis(100), Duration::from_secs(4));
        let options = EncoderOptions { connection_age, connection_grace, ..options() };
        let service = start(options, vec![scripted("test:0", &script)]).await;
        let endpoint = Channel::from_shared(format!("http://{}", service.address())).unwrap();
        let mut channel = endpoint.initial_stream_window_size(Some(20_000)).connect().await.unwrap();
        let message = EncodeBlobRequest { data: Bytes::from_static(b"data"), require_data: false }.encode_to_vec();
        let framed = [&[0, 0, 0, 0, message.len() as u8][..], &message].concat();
        let request = http::Request::post("/encoder.Encoder/EncodeBlob")
            .header("content-type", "application/grpc")
            .body(Body::new(axum::body::Body::from(framed)))
            .unwrap();
        std::future::poll_fn(|context| channel.poll_ready(context)).await.unwrap();
        let mut untaken = channel.call(request).await.unwrap().into_body();
        until_status(&service, "buffers", 0).await;
        let mut taken = 0;
        let cut = loop {
            match std::future::poll_fn(|context| std::pin::Pin::new(&mut untaken).poll_frame(context)).await {
                Some(Ok(frame)) => taken += frame.into_data().map_or(0, |data| data.len()),
                Some(Err(_)) => break true,
                None => break false,
            }
        };
        assert!(cut && taken < PARAMS.dimensions().all_slices_bytes(), "the rest never comes: {taken} bytes");
        service.shutdown().await.unwrap();
    });
}

#[test]
fn a_full_queue_refuses_at_once_and_cancelled_calls_leave_it() {
    runs(async {
        let (service, script) = start_one(2).await;
        let service = Arc::new(service);
        let go = script.hold();
        let call = |data: &'static [u8]| {
            let service = Arc::clone(&service);
            tokio::spawn(async move { encode(&service, data).await })
        };
        let encoding = call(b"first");
        script.has_begun(1).await;
        let waiting = [call(b"second"), call(b"third")];
        until_status(&service, "waiting", 2).await;
        refused(&service, b"fourth", Code::ResourceExhausted, &["2 blobs wait", "1 that", "at most 2"]).await;

        // A cancelled call leaves the queue at once: there is room for another while the engine is still held.
        let [second, third] = waiting;
        second.abort();
        until_status(&service, "waiting", 1).await;
        let fourth = call(b"fourth");
        until_status(&service, "waiting", 2).await;
        refused(&service, b"fifth", Code::ResourceExhausted, &["at most 2"]).await;

        // A call that is cancelled while it is encoded: the others are served after it, and its buffer comes back.
        encoding.abort();
        go.send(()).unwrap();
        third.await.unwrap().unwrap();
        fourth.await.unwrap().unwrap();
        until_status(&service, "buffers", 0).await;
        assert_eq!(script.begun.load(Ordering::SeqCst), 3, "the second blob reached no engine");
        assert_eq!(status(&service)["encoding"], 0);
    });
}

#[test]
fn devices_share_the_queue() {
    runs(async {
        let scripts = [Arc::<Script>::default(), Arc::default()];
        let devices = scripts.iter().enumerate().map(|(index, script)| scripted(&format!("test:{index}"), script));
        let service = Arc::new(EncoderService::start(options(), devices.collect()).await.unwrap());
        until(|| status(&service)["devices"].as_array().unwrap().iter().all(|device| device["state"] == "up")).await;
        let held = scripts.each_ref().map(|script| script.hold());
        let cases = cases();
        let calls: Vec<_> = (0..8)
            .map(|call| {
                let (service, case) = (Arc::clone(&service), cases[call % 4].clone());
                tokio::spawn(async move { (encode(&service, &case.data()).await.unwrap(), case) })
            })
            .collect();
        // Both encode at the same time.
        for script in &scripts {
            script.has_begun(1).await;
        }
        drop(held);
        for call in calls {
            let (reply, case) = call.await.unwrap();
            assert_eq!(reply.storage_root[..], case.storage_root.0);
        }
        let blobs = |device: usize| status(&service)["devices"][device]["blobs"].as_u64().unwrap();
        assert_eq!(blobs(0) + blobs(1), 8);
    });
}

#[test]
fn a_lost_device_is_opened_again() {
    runs(async {
        let (service, script) = start_one(4).await;
        script.then(Act::Lost);
        refused(&service, b"data", Code::Unavailable, &["fell off the bus"]).await;
        service.serving().wait_for(|serving| *serving).await.unwrap();
        assert_eq!(script.opened.load(Ordering::SeqCst), 2);
        encode(&service, b"data").await.unwrap();

        script.then(Act::OutOfMemory);
        refused(&service, b"data", Code::ResourceExhausted, &["7 bytes", "3 available"]).await;
        encode(&service, b"data").await.unwrap();
        assert_eq!(script.opened.load(Ordering::SeqCst), 2, "too little memory is no reason to open it anew");

        script.then(Act::Panic);
        refused(&service, b"data", Code::Internal, &["the engine has a bug"]).await;
        service.serving().wait_for(|serving| *serving).await.unwrap();
        encode(&service, b"data").await.unwrap();
        assert_eq!(script.opened.load(Ordering::SeqCst), 3);
        assert_eq!(status(&service)["devices"][0]["failures"], 2);
        service.shutdown().await.unwrap();
    });
}

#[test]
fn what_waits_for_a_lost_device_is_refused() {
    runs(async {
        let script = Arc::<Script>::default();
        let options = EncoderOptions { reopen_pause: PATIENCE, ..options() };
        let service = Arc::new(start(options, vec![scripted("test:0", &script)]).await);
        let go = script.hold();
        let first = tokio::spawn({
            let service = Arc::clone(&service);
            async move { encode(&service, b"first").await }
        });
        script.has_begun(1).await;
        script.then(Act::Lost);
        let others = [b"second", b"third!"].map(|data| {
            let service = Arc::clone(&service);
            tokio::spawn(async move { encode(&service, data).await })
        });
        until_status(&service, "waiting", 2).await;
        drop(go);
        first.await.unwrap().unwrap();
        for other in others {
            says(&other.await.unwrap().unwrap_err(), Code::Unavailable, &["fell off the bus"]);
        }
        refused(&service, b"data", Code::Unavailable, &["test:0", "fell off the bus"]).await;
        let answer = HealthClient::new(channel(&service).await).check(HealthCheckRequest::default()).await.unwrap();
        assert_eq!(answer.into_inner().status(), ServingStatus::NotServing);
    });
}

#[test]
fn another_device_takes_the_blob_of_a_lost_one() {
    runs(async {
        let scripts = [Arc::<Script>::default(), Arc::default()];
        let devices = scripts.iter().enumerate().map(|(index, script)| scripted(&format!("test:{index}"), script));
        let options = EncoderOptions { reopen_pause: PATIENCE, ..options() };
        let service = EncoderService::start(options.clone(), devices.collect()).await.unwrap();
        until(|| status(&service)["devices"].as_array().unwrap().iter().all(|device| device["state"] == "up")).await;
        // Whichever takes it first loses it; the other one encodes.
        scripts.iter().for_each(|script| script.then(Act::Lost));
        let first = encode(&service, b"data").await.unwrap_err();
        says(&first, Code::Unavailable, &["fell off the bus"]);
        let tried: Vec<usize> = scripts.iter().map(|script| script.begun.load(Ordering::SeqCst)).collect();
        assert_eq!(tried, [1, 1], "each device tried it once");
        refused(&service, b"data", Code::Unavailable, &["test:0", "test:1"]).await;
        service.shutdown().await.unwrap();

        let scripts = [Arc::<Script>::default(), Arc::default()];
        let devices = scripts.iter().enumerate().map(|(index, script)| scripted(&format!("test:{index}"), script));
        let service = Arc::new(EncoderService::start(options.clone(), devices.collect()).await.unwrap());
        until(|| status(&service)["devices"].as_array().unwrap().iter().all(|device| device["state"] == "up")).await;
        // Device 1 is busy, so device 0 gets the blob, and is lost.
        let go = scripts[1].hold();
        let busy = scripts[0].hold();
        let held = [b"one", b"two"].map(|data| {
            let service = Arc::clone(&service);
            tokio::spawn(async move { encode(&service, data).await })
        });
        scripts[0].has_begun(1).await;
        scripts[1].has_begun(1).await;
        scripts[0].then(Act::Lost);
        drop(busy);
        let moved = tokio::spawn({
            let service = Arc::clone(&service);
            async move { encode(&service, b"moved").await }
        });
        scripts[0].has_begun(2).await;
        until_status(&service, "waiting", 1).await;
        drop(go);
        moved.await.unwrap().unwrap();
        for call in held {
            call.await.unwrap().unwrap();
        }
        assert_eq!(scripts[1].begun.load(Ordering::SeqCst), 2);
    });
}

#[test]
fn missing_parameters_are_named_and_read_when_they_come() {
    runs(async {
        let there = Arc::new(AtomicUsize::new(0));
        let open = {
            let there = Arc::clone(&there);
            move || match there.load(Ordering::SeqCst) {
                0 => Err(OpenError::Parameters("params/none.bin is missing".into())),
                _ => Ok(vec![cpu()]),
            }
        };
        let device = Device { name: "test:0".into(), open: Box::new(open) };
        let service = EncoderService::start(options(), vec![device]).await.unwrap();
        until(|| status(&service)["devices"][0]["state"] == "down").await;
        refused(&service, b"data", Code::FailedPrecondition, &["params/none.bin is missing"]).await;
        there.store(1, Ordering::SeqCst);
        service.serving().wait_for(|serving| *serving).await.unwrap();
        encode(&service, b"data").await.unwrap();
        service.shutdown().await.unwrap();
    });
}

#[test]
fn a_shutdown_finishes_what_is_inside() {
    runs(async {
        let (service, script) = start_one(4).await;
        let go = script.hold();
        let channel = channel(&service).await;
        let mut health = HealthClient::new(channel.clone());
        let mut watch = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
        assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
        let (first, second) = (channel.clone(), channel.clone());
        let encoding = tokio::spawn(async move { encode_on(first, b"first", false).await });
        script.has_begun(1).await;
        let waiting = tokio::spawn(async move { encode_on(second, b"second", false).await });
        until_status(&service, "waiting", 1).await;
        let address = service.address();
        let end = tokio::spawn(service.shutdown());
        assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
        drop(watch);
        until(|| TcpStream::connect(address).is_err()).await;
        drop(go);
        encoding.await.unwrap().unwrap();
        waiting.await.unwrap().unwrap();
        drop((health, channel));
        end.await.unwrap().unwrap();
    });
}

#[test]
fn a_shutdown_does_not_wait_for_ever() {
    runs(async {
        let script = Arc::<Script>::default();
        let options = EncoderOptions { grace: Duration::from_millis(100), ..options() };
        let service = start(options, vec![scripted("test:0", &script)]).await;
        let go = script.hold();
        let channel = channel(&service).await;
        let call = tokio::spawn(async move { encode_on(channel, b"data", false).await });
        script.has_begun(1).await;
        service.shutdown().await.unwrap();
        drop(go);
        drop(call);
    });
}

#[test]
fn metrics_and_status_are_served() {
    runs(async {
        let (service, _) = start_one(4).await;
        encode(&service, &[5; 1000]).await.unwrap();
        refused(&service, &vec![0; 63_485], Code::InvalidArgument, &[]).await;
        until_status(&service, "buffers", 0).await;
        let address = service.metrics_address().unwrap();
        let get =
            async |path: &'static str| tokio::task::spawn_blocking(move || http_get(address, path)).await.unwrap();
        let metrics = get("/metrics").await;
        for line in [
            "zgpu_encoder_calls_total{code=\"Ok\"} 1",
            "zgpu_encoder_calls_total{code=\"InvalidArgument\"} 1",
            "zgpu_encoder_data_bytes_total 1000",
            "zgpu_encoder_stage_seconds_count{stage=\"Commit\"} 1",
            "zgpu_encoder_stage_seconds_count{stage=\"Send\"} 1",
            "zgpu_encoder_device_blobs_total{device=\"test:0\"} 1",
            "zgpu_encoder_waiting 0",
            "zgpu_encoder_encoding 0",
            "zgpu_encoder_devices 1",
            "# EOF",
        ] {
            assert!(metrics.lines().any(|found| found == line), "{line} in\n{metrics}");
        }
        let reply = 192 * (2296 + 3) + (2 + 64) + (2 + 32) + 5;
        assert!(metrics.contains(&format!("zgpu_encoder_reply_bytes_total {reply}\n")), "{metrics}");
        let status = get("/status").await;
        let status: serde_json::Value = serde_json::from_str(&status[status.find('{').unwrap()..]).unwrap();
        assert_eq!((&status["serving"], &status["devices"][0]["state"]), (&true.into(), &"up".into()));
        assert!(get("/nothing").await.starts_with("HTTP/1.1 404"));
        service.shutdown().await.unwrap();
    });
}

fn http_get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_service_that_cannot_run_says_why() {
    runs(async {
        let none = EncoderService::start(options(), vec![]).await.err().unwrap();
        assert!(matches!(none, ServiceError::NoDevices));
        let (service, script) = start_one(1).await;
        let taken = EncoderOptions { listen: service.address(), ..options() };
        let error = EncoderService::start(taken, vec![scripted("test:1", &script)]).await.err().unwrap();
        assert!(error.to_string().contains(&service.address().to_string()), "{error}");
        service.shutdown().await.unwrap();
    });
}

/// A folder with the parameters of the vectors, and room for files.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        let files = Files(tempfile::tempdir().unwrap());
        fs::create_dir(files.path("params")).unwrap();
        PARAMS.save(&files.path("params/vectors.zgpu")).unwrap();
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).unwrap();
    }

    /// The command inside the folder.
    fn zgpu(&self, arguments: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_zgpu"));
        command.args(arguments.split_whitespace()).current_dir(self.0.path()).output().unwrap()
    }

    /// Succeeds; what it says on stdout.
    fn says(&self, arguments: &str) -> String {
        let output = self.zgpu(arguments);
        assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, arguments: &str) -> serde_json::Value {
        serde_json::from_str(&self.says(arguments)).unwrap()
    }

    /// Fails with all of `words` on stderr.
    fn refuses(&self, arguments: &str, words: &[&str]) {
        let output = self.zgpu(arguments);
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code().is_some_and(|code| code > 0), "{arguments}: {text}");
        for word in words {
            assert!(text.contains(word), "{arguments}: {word:?} in {text}");
        }
    }
}

#[test]
fn a_file_is_encoded_verified_and_recovered() {
    let (files, case) = (Files::new(), cases().remove(2));
    files.write("data", &case.data());
    let report = files.json("encode data --params params --out blob --backend cpu --json");
    assert_eq!(report["commitment"], hex::encode(case.commitment));
    assert_eq!(report["storage_root"], hex::encode(case.storage_root.0));
    assert_eq!((&report["data_bytes"], &report["slices"]), (&1234.into(), &192.into()));
    let slices = fs::read(files.path("blob/slices.bin")).unwrap();
    assert_eq!(H256(Sha256::digest(&slices).into()), case.all_slices_hash);

    assert_eq!(files.says("verify blob --params params --blob blob/blob.json"), "192 right, 0 wrong\n");
    files.says("recover --rows blob/slices.bin --blob blob/blob.json --out again");
    assert_eq!(fs::read(files.path("again")).unwrap(), case.data());

    // A file for each slice, and a blob that is named by its digits.
    files.says("encode data --params params/vectors.zgpu --out split --split --backend cpu");
    let joined = (0..192).flat_map(|index| fs::read(files.path(&format!("split/slice-{index:05}.bin"))).unwrap());
    assert!(joined.eq(slices.iter().copied()));
    let (commitment, root) = (hex::encode(case.commitment), hex::encode(case.storage_root.0));
    let verified = files.says(&format!(
        "verify split/slice-00191.bin split/slice-00000.bin --params params --commitment {commitment} --root 0x{root}"
    ));
    assert_eq!(verified, "2 right, 0 wrong\n");
    for index in (0..192).filter(|index| index % 3 != 1) {
        fs::remove_file(files.path(&format!("split/slice-{index:05}.bin"))).unwrap();
    }
    files.says(&format!("recover --rows split --root {root} --out third"));
    assert_eq!(fs::read(files.path("third")).unwrap(), case.data());

    // What is there is not touched.
    files.refuses("encode data --params params --out blob --backend cpu", &["blob.json", "there already"]);
    files.refuses("recover --rows blob --blob blob/blob.json --out again", &["again", "there already"]);
}

#[test]
fn wrong_slices_are_named_and_left_out() {
    let (files, case) = (Files::new(), cases().remove(2));
    files.write("data", &case.data());
    files.says("encode data --params params --out blob --split --backend cpu");
    let change = |index: usize, at: usize| {
        let name = format!("blob/slice-{index:05}.bin");
        let mut bytes = fs::read(files.path(&name)).unwrap();
        bytes[at] ^= 1;
        files.write(&name, &bytes);
    };
    // In a row; in a point of a proof; in an index. The proof of a whole slice moved to another one's place still holds.
    change(7, 100);
    change(100, 96 + 32 * 32 + 8 + 3);
    change(150, 0);
    let report = files.zgpu("verify blob --params params --blob blob/blob.json --json");
    assert_eq!(report.status.code(), Some(1));
    let report: serde_json::Value = serde_json::from_slice(&report.stdout).unwrap();
    assert_eq!((&report["right"], &report["stopped"]), (&189.into(), &false.into()));
    for (index, reason) in [(7, "row root"), (100, "a node's commitment"), (150, "index of the commitment's proof")] {
        let name = format!("slice-{index:05}.bin");
        let wrong = report["wrong"].as_array().unwrap().iter().find(|w| w["place"].as_str().unwrap().ends_with(&name));
        let found = wrong.unwrap_or_else(|| panic!("{name} in {report}"))["reason"].as_str().unwrap();
        assert!(found.contains(reason), "{found}");
    }

    // Rows 5 to 68 with the wrong one are one too few; with row 69 it works, and the wrong one is named.
    let rows = |range: std::ops::Range<usize>| -> String {
        range.map(|index| format!(" blob/slice-{index:05}.bin")).collect()
    };
    let few = format!("recover --out data2 --blob blob/blob.json --rows{}", rows(5..69));
    files.refuses(&few, &["63 rows", "64 are needed", "1 slices were left out", "slice-00007.bin", "root of the row"]);
    assert!(!files.path("data2").exists());
    let enough = files.json(&format!("recover --out data2 --json --blob blob/blob.json --rows{}", rows(5..70)));
    assert_eq!((&enough["rows"], enough["left_out"].as_array().unwrap().len()), (&64.into(), 1));
    assert_eq!(fs::read(files.path("data2")).unwrap(), case.data());
    // The same slice many times is one row.
    let same = format!("recover --out data3 --blob blob/blob.json --rows{}", rows(0..1).repeat(70));
    files.refuses(&same, &["1 rows", "64 are needed"]);
    // Another blob's root.
    files.refuses(&format!("recover --rows blob --out data3 --root {}", "17".repeat(32)), &["0 rows", "storage root"]);

    // All of another blob's slices are wrong: the first ones are named.
    files.write("other", b"other");
    files.says("encode other --params params --out other-blob --backend cpu");
    let report = files.zgpu("verify blob --params params --blob other-blob/blob.json");
    let text = String::from_utf8(report.stdout).unwrap();
    assert_eq!(report.status.code(), Some(1));
    assert_eq!(text.lines().last(), Some("0 right, 32 wrong; the rest was not looked at"));
    assert!(text.contains("another blob's"), "{text}");
}

#[test]
fn bad_files_and_digits_are_named() {
    let files = Files::new();
    files.write("data", b"data");
    files.write("large", &vec![0; 63_485]);
    files.write("cut", &[1; 2295]);
    files.write("json", b"{}");
    files.write("zeros", &[0; 2296]);
    fs::create_dir(files.path("empty")).unwrap();
    let digits = format!("--commitment {} --root {}", "0".repeat(128), "0".repeat(64));
    for (arguments, words) in [
        ("encode large --params params --out blob --backend cpu", &["63485", "63484"][..]),
        ("encode none --params params --out blob --backend cpu", &["none"]),
        ("encode data --params empty --out blob --backend cpu", &["empty", "amt-prove"]),
        ("encode data --params missing --out blob --backend cpu", &["missing"]),
        (&format!("verify cut --params params {digits}"), &["cut", "2295", "2296"]),
        (&format!("verify empty --params params {digits}"), &["empty", "no slice files"]),
        (&format!("verify zeros --params missing {digits}"), &["missing"]),
        ("verify zeros --params params --blob json", &["json", "describe"]),
        ("verify zeros --params params --commitment 12 --root 34", &["2 characters", "128"]),
        ("verify zeros --params params", &["--blob"]),
        ("recover --rows zeros --root 12 --out out", &["zeros", "power of two"]),
        ("recover --rows cut --out out", &["--root"]),
        ("encoder --params params --listen here", &["here"]),
        ("encoder --params params --devices abacus:1", &["abacus:1", "cuda:0"]),
        ("encoder --params params --devices cpu:7", &["cpu:7", "zgpu devices"]),
        ("encoder --params params --memory much", &["much", "GiB"]),
    ] {
        files.refuses(arguments, words);
    }
    assert!(!files.path("blob").exists());
}

/// Parameters that come late, a blob, and a signal: the whole life of `zgpu encoder`.
#[test]
fn the_encoder_serves_until_it_is_told_to_end() {
    let files = Files::new();
    fs::rename(files.path("params"), files.path("later")).unwrap();
    fs::create_dir(files.path("params")).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_zgpu"))
        .args(["encoder", "--params", "params", "--listen", LOCAL, "--metrics", LOCAL, "--devices", "cpu:0"])
        .current_dir(files.0.path())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut line_with = |word: &str| loop {
        let line = lines.next().expect("the line comes before the end").unwrap();
        if line.contains(word) {
            return line;
        }
    };
    let listening = line_with("listening on");
    let address = listening.split_whitespace().nth(2).unwrap().trim_end_matches([',', ';']);
    assert!(listening.contains("cpu:0") && listening.contains("/metrics"), "{listening}");
    line_with("amt-prove");
    let case = cases().remove(2);
    runs(async {
        let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
        let status = encode_on(channel.clone(), b"data", false).await.unwrap_err();
        says(&status, Code::FailedPrecondition, &["params", "amt-prove"]);
        fs::rename(files.path("later/vectors.zgpu"), files.path("params/vectors.zgpu")).unwrap();
        line_with("ready");
        let reply = encode_on(channel, &case.data(), false).await.unwrap();
        assert_eq!(reply.storage_root[..], case.storage_root.0);
    });
    let encoded = line_with("encoded");
    assert!(encoded.contains("bytes=1234") && encoded.contains("commit_ms="), "{encoded}");
    Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    line_with("shutting down");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
