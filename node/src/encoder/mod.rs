//! The encoder service: `encoder.Encoder/EncodeBlob` of the network, on every device at once.
//!
//! `call -> Ticket (a place, or RESOURCE_EXHAUSTED) -> request -> queue -> engine (a thread of its own) -> slices in one
//! pooled buffer -> Reply (parts of that buffer) -> socket`. The async threads only move bytes.
//!
//! | what | gRPC code |
//! |---|---|
//! | too large a blob, no message | INVALID_ARGUMENT, with both sizes |
//! | as many blobs as may are inside; too little device memory | RESOURCE_EXHAUSTED |
//! | parameters missing | FAILED_PRECONDITION; read again after a while |
//! | no device left, shutting down | UNAVAILABLE; a lost device is opened again with back-off |
//! | a request that does not come in | DEADLINE_EXCEEDED |
//! | a panic of the encoder | INTERNAL; the device is opened anew |
//!
//! The network's own encoder answers UNKNOWN to too large a blob. A disperser looks at the code of no error: it asks
//! again on its next tick, so the better codes are safe.
//!
//! A blob whose device is lost, or returns a wrong slice, goes to another device once. A call that is cancelled while it
//! waits leaves the queue at once; while it is encoded, its result is dropped.

mod device;
mod dispatch;
mod error;
mod grpc;
mod http_status;
mod message;
mod metrics;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::TcpListener,
    sync::watch,
    task::JoinHandle,
    time::{Instant, timeout_at},
};
use tonic::{
    server::NamedService,
    transport::{Server, server::TcpIncoming},
};
use tonic_health::{ServingStatus, server::HealthReporter};

pub use self::{
    device::{Device, OpenDevice},
    error::{OpenError, ServiceError},
};
use self::{dispatch::Dispatcher, grpc::EncoderGrpc, metrics::Metrics};

/// Port that the network's encoder listens on.
pub const DEFAULT_PORT: u16 = 34_000;
/// The protocol, for reflection: what `proto/encoder.proto` compiles to.
const DESCRIPTORS: &[u8] = include_bytes!("../../proto/encoder.bin");
/// What a client may send ahead of what is read: a fast network's bandwidth times its round trip.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// A client that is silent for this long is asked for a sign of life, and must give it as soon again.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// How the service runs.
#[derive(Clone, Debug)]
pub struct EncoderOptions {
    /// Where calls come in.
    pub listen: SocketAddr,
    /// Where /metrics and /status are served, if anywhere.
    pub metrics: Option<SocketAddr>,
    /// Most blobs that wait: 31 MiB each at full size.
    pub queue: usize,
    /// Longest time for what is inside to be finished at the end.
    pub grace: Duration,
    /// Longest time in which a request must have come in.
    pub receive_timeout: Duration,
    /// After this long a connection is asked to end: a client opens another one, and a disperser does so for each blob.
    pub connection_age: Duration,
    /// Longest time for such a connection to finish its calls. Then it is cut, and a reply that nobody takes gives its
    /// buffer back.
    pub connection_grace: Duration,
    /// Pause before a device that failed is opened again; doubled each time, up to a minute.
    pub reopen_pause: Duration,
}

impl EncoderOptions {
    /// Defaults for an address: a queue of 32 blobs, 30 s to finish, 60 s for a request, 10 minutes for a
    /// connection and as many to finish its calls, 1 s before a device is opened again.
    pub fn new(listen: SocketAddr) -> Self {
        EncoderOptions {
            listen,
            metrics: None,
            queue: 32,
            grace: Duration::from_secs(30),
            receive_timeout: Duration::from_secs(60),
            connection_age: Duration::from_secs(600),
            connection_grace: Duration::from_secs(600),
            reopen_pause: Duration::from_secs(1),
        }
    }
}

/// The running service.
pub struct EncoderService {
    address: SocketAddr,
    metrics_address: Option<SocketAddr>,
    dispatcher: Arc<Dispatcher>,
    grace: Duration,
    /// True once the end has begun.
    ending: watch::Sender<bool>,
    server: JoinHandle<Result<(), tonic::transport::Error>>,
    health: JoinHandle<()>,
}

impl EncoderService {
    /// Listens, and opens all devices in their own threads: calls are answered from now on, with blobs encoded as soon as
    /// the first device is open.
    pub async fn start(options: EncoderOptions, devices: Vec<Device>) -> Result<Self, ServiceError> {
        if devices.is_empty() {
            return Err(ServiceError::NoDevices);
        }
        let (listener, address) = listen(options.listen).await?;
        let http = match options.metrics {
            Some(address) => Some(listen(address).await?),
            None => None,
        };
        let dispatcher = Dispatcher::new(devices.iter().map(|device| device.name.clone()).collect(), options.queue);
        let metrics = Metrics::new();
        let (ending, _) = watch::channel(false);

        let (reporter, health_service) = tonic_health::server::health_reporter();
        set_health(&reporter, false).await;
        let health = tokio::spawn(report_health(reporter, dispatcher.serving()));
        let reflection =
            || tonic_reflection::server::Builder::configure().register_encoded_file_descriptor_set(DESCRIPTORS);
        let encoder = EncoderGrpc {
            dispatcher: Arc::clone(&dispatcher),
            metrics: metrics.clone(),
            receive_timeout: options.receive_timeout,
        };
        let router = Server::builder()
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE))
            .max_connection_age(options.connection_age)
            .max_connection_age_grace(options.connection_grace)
            .add_service(encoder)
            .add_service(health_service)
            .add_service(reflection().build_v1()?)
            .add_service(reflection().build_v1alpha()?);
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let server = tokio::spawn(router.serve_with_incoming_shutdown(incoming, ended(ending.subscribe())));
        let metrics_address = http.as_ref().map(|(_, address)| *address);
        if let Some((listener, _)) = http {
            let router = http_status::router(Arc::clone(&dispatcher), metrics.clone());
            let server = axum::serve(listener, router).with_graceful_shutdown(ended(ending.subscribe()));
            tokio::spawn(server.into_future());
        }

        for (index, device) in devices.into_iter().enumerate() {
            let name = device.name.clone();
            device::start(Arc::clone(&dispatcher), metrics.clone(), index, device, options.reopen_pause)
                .map_err(|error| ServiceError::Thread { device: name, error })?;
        }
        Ok(EncoderService { address, metrics_address, dispatcher, grace: options.grace, ending, server, health })
    }

    /// Where calls come in.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where /metrics and /status are.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics_address
    }

    /// True while blobs are taken and a device can encode them; changes are seen by the receiver.
    pub fn serving(&self) -> watch::Receiver<bool> {
        self.dispatcher.serving()
    }

    /// The state of service and devices, as /status shows it.
    pub fn status(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(&self.dispatcher.load())
    }

    /// Takes no more calls, and returns when what is inside is finished and sent, at the latest after the grace time.
    pub async fn shutdown(mut self) -> Result<(), ServiceError> {
        let deadline = Instant::now() + self.grace;
        self.dispatcher.drain();
        // The health service tells its watchers before their connections are asked to end.
        tokio::task::yield_now().await;
        self.ending.send_replace(true);
        let finished = timeout_at(deadline, &mut self.server).await;
        self.dispatcher.stop();
        self.health.abort();
        match finished {
            Ok(result) => Ok(result??),
            Err(_) => {
                tracing::warn!("not everything was finished in {:?}; the rest is dropped", self.grace);
                self.server.abort();
                Ok(())
            }
        }
    }
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), ServiceError> {
    let failed = |error| ServiceError::Listen { address, error };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let local = listener.local_addr().map_err(failed)?;
    Ok((listener, local))
}

/// Returns when the end has begun.
async fn ended(mut ending: watch::Receiver<bool>) {
    // An error means that the service was dropped: an end as well.
    drop(ending.wait_for(|ending| *ending).await);
}

/// Keeps the health service up to date, for the whole server and for the encoder.
async fn report_health(reporter: HealthReporter, mut serving: watch::Receiver<bool>) {
    loop {
        let now = *serving.borrow_and_update();
        set_health(&reporter, now).await;
        if serving.changed().await.is_err() {
            return;
        }
    }
}

async fn set_health(reporter: &HealthReporter, serving: bool) {
    let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
    for service in ["", EncoderGrpc::NAME] {
        reporter.set_service_status(service, status).await;
    }
}
