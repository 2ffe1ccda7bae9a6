//! What the methods answer when they refuse. Codes and texts are the network's: clients look for them.

use jsonrpsee::types::ErrorObjectOwned;

use crate::store::StoreError;

const INVALID_PARAMS: i32 = -32602;
const INTERNAL: i32 = -32603;
const FAILED: i32 = -32000;
const NOT_SUPPORTED: i32 = -32601;

/// Why a method refuses.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(crate) enum RpcError {
    /// A parameter is wrong: its name, and what is wrong with it.
    #[error("Invalid params: {0}; {1}")]
    Param(&'static str, String),
    /// The node is at fault, or the parameters contradict each other.
    #[error("Internal error: {0}")]
    Internal(String),
    /// Anything else; the text is the message.
    #[error("{0}")]
    Failed(String),
    /// The node does not do this.
    #[error("Not supported")]
    NotSupported,
    /// The parameters cannot be read.
    #[error("{0}")]
    Params(ErrorObjectOwned),
}

impl RpcError {
    pub(crate) fn param(name: &'static str, text: impl Into<String>) -> Self {
        RpcError::Param(name, text.into())
    }

    pub(crate) fn failed(text: impl Into<String>) -> Self {
        RpcError::Failed(text.into())
    }

    /// The segment is stored, or another call is storing it.
    pub(crate) fn duplicate() -> Self {
        RpcError::failed("segment has already been uploaded or is being uploaded")
    }

    pub(crate) fn is_duplicate(&self) -> bool {
        *self == RpcError::duplicate()
    }
}

impl From<StoreError> for RpcError {
    /// Texts about the node's disk go to its log, not to clients.
    fn from(error: StoreError) -> Self {
        if error.is_callers_fault() {
            return RpcError::Failed(error.to_string());
        }
        tracing::error!(%error, "a request failed");
        RpcError::Internal("the node's store failed; its log says why".into())
    }
}

impl From<RpcError> for ErrorObjectOwned {
    fn from(error: RpcError) -> Self {
        let none = None::<()>;
        match error {
            RpcError::Param(name, text) => {
                ErrorObjectOwned::owned(INVALID_PARAMS, format!("Invalid params: {name}"), Some(text))
            }
            RpcError::Internal(text) => ErrorObjectOwned::owned(INTERNAL, "Internal error", Some(text)),
            RpcError::Failed(text) => ErrorObjectOwned::owned(FAILED, text, none),
            RpcError::NotSupported => ErrorObjectOwned::owned(NOT_SUPPORTED, "Not supported", none),
            RpcError::Params(error) => error,
        }
    }
}

impl From<ErrorObjectOwned> for RpcError {
    fn from(error: ErrorObjectOwned) -> Self {
        RpcError::Params(error)
    }
}
