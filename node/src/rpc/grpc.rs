//! `zgs_grpc.ZgsGrpcService`: uploads over gRPC, into the same pool and within the same bounds as those over JSON-RPC.
//!
//! A call waits for room in the budget of memory before its message is read, and for a place among the writers before it
//! touches the store. Unlike the JSON method of its name, a segment that the node has already ends the call.

use std::{
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response};
use tokio::{
    net::TcpListener,
    sync::{OwnedSemaphorePermit, watch},
    task::JoinHandle,
    time::timeout,
};
use tonic::{
    Status,
    body::Body,
    server::{Grpc, NamedService},
    transport::{Server, server::TcpIncoming},
};
use tonic_prost::ProstCodec;
use tower::service_fn;
use tower_service::Service;
use zgpu_core::H256;

use super::{
    Api, RpcStartError,
    error::RpcError,
    limits::{BodyBudget, Gate},
    types::{Base64, Proof, SegmentWithProof},
};
use crate::duties::blocking;

/// The protocol, for reflection: what `proto/zgs_grpc.proto` compiles to.
const DESCRIPTORS: &[u8] = include_bytes!("../../proto/zgs_grpc.bin");
/// Calls that one connection may have open.
const STREAMS_PER_CONNECTION: u32 = 32;
/// A client that is silent for this long is asked for a sign of life, and must give it as soon again.
const KEEPALIVE: Duration = Duration::from_secs(20);

#[derive(Clone, PartialEq, prost::Message)]
struct Empty {}

#[derive(Clone, PartialEq, prost::Message)]
struct PingRequest {
    #[prost(string, tag = "1")]
    message: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PingReply {
    #[prost(string, tag = "1")]
    message: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct DataRoot {
    #[prost(bytes = "vec", tag = "1")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct FileProof {
    #[prost(bytes = "vec", repeated, tag = "1")]
    lemma: Vec<Vec<u8>>,
    #[prost(bool, repeated, tag = "2")]
    path: Vec<bool>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Segment {
    #[prost(message, optional, tag = "1")]
    root: Option<DataRoot>,
    #[prost(bytes = "vec", tag = "2")]
    data: Vec<u8>,
    #[prost(uint64, tag = "3")]
    index: u64,
    #[prost(message, optional, tag = "4")]
    proof: Option<FileProof>,
    #[prost(uint64, tag = "5")]
    file_size: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct UploadSegmentsByTxSeqRequest {
    #[prost(message, repeated, tag = "1")]
    segments: Vec<Segment>,
    #[prost(uint64, tag = "2")]
    tx_seq: u64,
}

impl Segment {
    fn with_proof(self) -> Result<SegmentWithProof, Status> {
        let missing = |what: &str| Status::invalid_argument(format!("Invalid segment: it has no {what}"));
        let root = self.root.ok_or_else(|| missing("root"))?;
        let proof = self.proof.ok_or_else(|| missing("proof"))?;
        Ok(SegmentWithProof {
            root: hash(&root.value)?,
            data: Base64(self.data),
            index: self.index,
            proof: Proof {
                lemma: proof.lemma.iter().map(|hash_of| hash(hash_of)).collect::<Result<_, _>>()?,
                path: proof.path,
            },
            file_size: self.file_size,
        })
    }
}

fn hash(bytes: &[u8]) -> Result<H256, Status> {
    let wrong = |_| format!("Invalid segment: Invalid hash length: got {}, want 32", bytes.len());
    bytes.try_into().map(H256).map_err(|error| Status::invalid_argument(wrong(error)))
}

/// What the service is made of.
#[derive(Clone)]
pub(super) struct GrpcParts {
    pub(super) api: Arc<Api>,
    pub(super) writers: Gate,
    pub(super) budget: BodyBudget,
    /// Longest message, in bytes.
    pub(super) max_message_bytes: usize,
    /// Longest time for a call, from its head to its answer.
    pub(super) timeout: Duration,
}

/// The running service. It stops when this is dropped.
#[derive(Debug)]
pub(super) struct GrpcServer {
    address: SocketAddr,
    ending: watch::Sender<bool>,
    task: JoinHandle<()>,
    patience: Duration,
}

/// Listens at `address`, and answers from now on.
pub(super) async fn serve(address: SocketAddr, parts: GrpcParts) -> Result<GrpcServer, RpcStartError> {
    let failed = |source| RpcStartError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    let reflection =
        || tonic_reflection::server::Builder::configure().register_encoded_file_descriptor_set(DESCRIPTORS);
    let proof = "the descriptors are those of the protocol, as a test shows";
    let patience = parts.timeout;
    let router = Server::builder()
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .add_service(UploadService { parts })
        .add_service(reflection().build_v1().expect(proof))
        .add_service(reflection().build_v1alpha().expect(proof));
    let (ending, ended) = watch::channel(false);
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let task = tokio::spawn(async move {
        let ended = async move {
            // An error means that the handle is gone: an end as well.
            let mut ended = ended;
            drop(ended.wait_for(|ended| *ended).await);
        };
        if let Err(error) = router.serve_with_incoming_shutdown(incoming, ended).await {
            tracing::error!(%error, "uploads over gRPC have stopped");
        }
    });
    Ok(GrpcServer { address: bound, ending, task, patience })
}

impl GrpcServer {
    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more calls, and waits until those that run are answered, at most as long as a call may take.
    pub(super) async fn stop(mut self) {
        self.ending.send_replace(true);
        // What has not ended by then is cut off by the drop.
        drop(timeout(self.patience, &mut self.task).await);
    }
}

impl Drop for GrpcServer {
    fn drop(&mut self) {
        self.ending.send_replace(true);
        self.task.abort();
    }
}

/// The service; clones are the same one.
#[derive(Clone)]
struct UploadService {
    parts: GrpcParts,
}

impl NamedService for UploadService {
    const NAME: &'static str = "zgs_grpc.ZgsGrpcService";
}

impl Service<Request<Body>> for UploadService {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let parts = self.parts.clone();
        Box::pin(async move {
            let limit = parts.timeout;
            let late = || Status::deadline_exceeded(format!("the call took longer than {limit:?}")).into_http();
            Ok(timeout(limit, parts.answer(request)).await.unwrap_or_else(|_| late()))
        })
    }
}

impl GrpcParts {
    async fn answer(self, request: Request<Body>) -> Response<Body> {
        // The message is as long as it may be for all that is known now.
        let room = Arc::new(self.budget.room_for(self.max_message_bytes).await);
        let limit = self.max_message_bytes;
        match request.uri().path() {
            "/zgs_grpc.ZgsGrpcService/Ping" => {
                let ping = service_fn(async |request: tonic::Request<PingRequest>| {
                    let message = format!("Echo: {}", request.into_inner().message);
                    Ok::<_, Status>(tonic::Response::new(PingReply { message }))
                });
                let codec = ProstCodec::<PingReply, PingRequest>::default();
                Grpc::new(codec).max_decoding_message_size(limit).unary(ping, request).await
            }
            "/zgs_grpc.ZgsGrpcService/UploadSegmentsByTxSeq" => {
                let upload = service_fn(move |request: tonic::Request<UploadSegmentsByTxSeqRequest>| {
                    let (parts, room) = (self.clone(), room.clone());
                    async move { parts.upload(request.into_inner(), room).await.map(tonic::Response::new) }
                });
                let codec = ProstCodec::<Empty, UploadSegmentsByTxSeqRequest>::default();
                Grpc::new(codec).max_decoding_message_size(limit).unary(upload, request).await
            }
            path => Status::unimplemented(format!("{path} is not known")).into_http(),
        }
    }

    async fn upload(
        &self,
        request: UploadSegmentsByTxSeqRequest,
        room: Arc<OwnedSemaphorePermit>,
    ) -> Result<Empty, Status> {
        let seq = request.tx_seq;
        let segments: Vec<SegmentWithProof> =
            request.segments.into_iter().map(Segment::with_proof).collect::<Result<_, _>>()?;
        let busy = |count| refused(RpcError::failed(format!("too many data writing: {count}")));
        let place = self.writers.enter().await.map_err(busy)?;
        let api = self.api.clone();
        // Place and room go with the work, not with the client's patience.
        let work = move || {
            let _held = (place, room);
            let transaction = api.store.transaction(seq).map_err(|error| {
                let error = RpcError::from(error);
                Status::internal(format!("Failed to get transaction by sequence number: {error}"))
            })?;
            segments.into_iter().try_for_each(|segment| api.pool.take(transaction.clone(), segment).map_err(refused))
        };
        blocking(work).await.map(|()| Empty {})
    }
}

fn refused(error: RpcError) -> Status {
    Status::internal(format!("Failed to put segment: {error}"))
}
