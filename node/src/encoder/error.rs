//! Why a blob is not encoded, or the service does not run, and what a client is told.

use std::{io, net::SocketAddr};

use tonic::{Code, Status};
use zgpu_core::device::DeviceError;
use zgpu_encoder::engine::EncodeError;

/// Why a device cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The parameters cannot be read: for want of files, mostly.
    #[error("the parameters cannot be used: {0}")]
    Parameters(String),
    /// The device cannot be used.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// Why the service does not run.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// There is nothing to encode on.
    #[error("the service has no device")]
    NoDevices,
    /// An address cannot be listened on.
    #[error("{address} cannot be listened on: {error}")]
    Listen {
        /// Which one.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// A thread cannot be started.
    #[error("a thread for {device} cannot be started: {error}")]
    Thread {
        /// The device it is for.
        device: String,
        /// Why.
        error: io::Error,
    },
    /// The server failed.
    #[error("the server failed: {0}")]
    Server(#[from] tonic::transport::Error),
    /// The descriptors for reflection cannot be used.
    #[error("the service cannot be described: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// A part of the service ended on its own.
    #[error("a part of the service ended: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// Why a blob is not encoded.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// As many blobs as may are inside.
    #[error(
        "the queue is full: {waiting} blobs wait behind {encoding} that are being encoded, at most {queue} may wait"
    )]
    QueueFull { waiting: usize, encoding: usize, queue: usize },
    /// The parameters are missing.
    #[error("{0}")]
    Parameters(String),
    /// No device can be used.
    #[error("no device can be used now; {0}")]
    NoDevice(String),
    /// The service ends.
    #[error("the service is shutting down")]
    Stopping,
    /// The device failed, and no other one could take the blob.
    #[error("{device}: {error}")]
    Engine { device: String, error: EncodeError },
    /// The program is at fault.
    #[error("{device}: the encoder panicked: {message}")]
    Panic { device: String, message: String },
}

impl Failure {
    /// The gRPC code: one that says "again, later" where that may help.
    fn code(&self) -> Code {
        match self {
            Failure::QueueFull { .. } => Code::ResourceExhausted,
            Failure::Parameters(_) => Code::FailedPrecondition,
            Failure::NoDevice(_) | Failure::Stopping => Code::Unavailable,
            Failure::Engine { error, .. } => match error {
                EncodeError::Blob(_) => Code::InvalidArgument,
                EncodeError::Device(DeviceError::OutOfMemory { .. }) => Code::ResourceExhausted,
                error if error.is_fatal() => Code::Unavailable,
                _ => Code::Internal,
            },
            Failure::Panic { .. } => Code::Internal,
        }
    }
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        Status::new(failure.code(), failure.to_string())
    }
}
