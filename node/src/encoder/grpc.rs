//! `encoder.Encoder` as a service of the gRPC server.
//!
//! Written against HTTP, not against generated code: a generated service copies a reply of 100 to 200 MB into one
//! message before the first byte leaves.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use http::{HeaderValue, Request, Response, header::CONTENT_TYPE};
use tonic::{Code, Status, body::Body, server::NamedService};
use tower_service::Service;

use super::{
    dispatch::{Dispatcher, Done},
    error::Failure,
    message::{EncodeBlobRequest, Reply, read_request},
    metrics::{Metrics, Stage},
};

const ENCODE_BLOB: &str = "/encoder.Encoder/EncodeBlob";

/// The service; clones are the same one.
#[derive(Clone)]
pub(super) struct EncoderGrpc {
    pub(super) dispatcher: Arc<Dispatcher>,
    pub(super) metrics: Metrics,
    /// Longest time in which a request must have come in.
    pub(super) receive_timeout: Duration,
}

impl NamedService for EncoderGrpc {
    const NAME: &'static str = "encoder.Encoder";
}

impl Service<Request<Body>> for EncoderGrpc {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            if request.uri().path() != ENCODE_BLOB {
                let method = request.uri().path().to_owned();
                return Ok(Status::unimplemented(format!("{method} is not known, only {ENCODE_BLOB}")).into_http());
            }
            let mut outcome = Outcome { metrics: service.metrics.clone(), code: Code::Cancelled };
            let reply = service.encode_blob(request.into_body()).await;
            outcome.code = reply.as_ref().map_or_else(|status| status.code(), |_| Code::Ok);
            Ok(match reply {
                Ok(reply) => {
                    let mut response = Response::new(Body::new(reply));
                    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
                    response
                }
                Err(status) => {
                    tracing::warn!("a blob was refused: {:?}: {}", status.code(), status.message());
                    status.into_http()
                }
            })
        })
    }
}

/// Counts a call when it ends, a cancelled one too.
struct Outcome {
    metrics: Metrics,
    code: Code,
}

impl Drop for Outcome {
    fn drop(&mut self) {
        self.metrics.call(self.code);
    }
}

impl EncoderGrpc {
    async fn encode_blob(&self, mut body: Body) -> Result<Reply, Status> {
        let started = Instant::now();
        let (mut ticket, dimensions) = self.dispatcher.admit()?;
        let request = read_request(&mut body, dimensions.max_data_bytes());
        let EncodeBlobRequest { data, require_data } =
            tokio::time::timeout(self.receive_timeout, request).await.map_err(|_| {
                Status::deadline_exceeded(format!("the request did not come in {:?}", self.receive_timeout))
            })??;
        let received = started.elapsed();
        self.metrics.stage(Stage::Receive, received);
        let length = data.len();
        let done = ticket.queue(data)?.await.map_err(|_| Failure::Stopping)??;
        log(length, received, &done, started.elapsed());
        Ok(Reply::new(done.dimensions, &done.roots, done.slices, require_data, self.metrics.clone()))
    }
}

/// One line a blob.
fn log(bytes: usize, received: Duration, done: &Done, total: Duration) {
    let milliseconds = |time: Duration| (time.as_secs_f64() * 1e4).round() / 10.0;
    let times = &done.times;
    tracing::info!(
        bytes,
        device = %done.device,
        root = %zgpu_core::digest::H256(done.roots.storage_root),
        receive_ms = milliseconds(received),
        wait_ms = milliseconds(done.waited),
        extend_ms = milliseconds(times.extend),
        commit_ms = milliseconds(times.commit),
        hash_ms = milliseconds(times.hash),
        slices_ms = milliseconds(times.slices),
        check_ms = milliseconds(times.check),
        total_ms = milliseconds(total),
        "encoded"
    );
}
