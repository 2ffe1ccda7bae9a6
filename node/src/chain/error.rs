//! What can go wrong between the node and a chain, in words that say which call, where, and what to do.

use std::time::Duration;

use alloy::primitives::Address;

use super::revert::Revert;

/// Why a question to the chain has no answer. URLs in it are shown without credentials, paths or queries.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ChainError {
    /// The endpoint's URL cannot be used.
    #[error("the chain's URL is not usable: {reason}; expected something like http://127.0.0.1:8545")]
    Url {
        /// What is wrong with it, without the URL itself: it may hold a secret.
        reason: String,
    },
    /// No connection, or it broke.
    #[error(
        "{call} at {url}: the chain cannot be reached ({reason}); check that its node runs and that the URL is right"
    )]
    Unreachable {
        /// The endpoint.
        url: String,
        /// Method, and the contract's function if there is one.
        call: String,
        /// What the system says.
        reason: String,
    },
    /// No reply in time.
    #[error("{call} at {url}: no reply within {limit:?}")]
    Timeout {
        /// The endpoint.
        url: String,
        /// Method, and the contract's function if there is one.
        call: String,
        /// How long it was waited for.
        limit: Duration,
    },
    /// The endpoint answered with an HTTP error.
    #[error("{call} at {url}: HTTP status {status}: {body}")]
    Http {
        /// The endpoint.
        url: String,
        /// Method, and the contract's function if there is one.
        call: String,
        /// HTTP status.
        status: u16,
        /// Beginning of the reply.
        body: String,
    },
    /// The endpoint answered with a JSON-RPC error.
    #[error("{call} at {url}: error {code}: {message}")]
    Rpc {
        /// The endpoint.
        url: String,
        /// Method, and the contract's function if there is one.
        call: String,
        /// Code of the error.
        code: i64,
        /// Its text.
        message: String,
    },
    /// The contract refused the call.
    #[error("{call} at {url}: the contract refuses: {revert}")]
    Reverted {
        /// The endpoint.
        url: String,
        /// Method, and the contract's function if there is one.
        call: String,
        /// The contract's reason.
        revert: Revert,
    },
    /// The reply does not have the shape it must have.
    #[error("{call} at {url}: the reply is not understood: {reason}")]
    Reply {
        /// The endpoint.
        url: String,
        /// Method, and the contract's function if there is one.
        call: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Another chain answers.
    #[error("chain {got} answers at {url}, the configuration says chain {expected}; check the URL")]
    WrongChain {
        /// The endpoint.
        url: String,
        /// Its chain id.
        got: u64,
        /// Configured chain id.
        expected: u64,
    },
    /// The addresses do not lead to the contracts of the storage network.
    #[error(
        "wrong contracts at {url}: {reason}; check the addresses of flow and mine, and that they are of this chain"
    )]
    WrongContracts {
        /// The endpoint.
        url: String,
        /// Which check failed.
        reason: WrongContracts,
    },
}

/// Which check of the contracts failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WrongContracts {
    /// Nothing lives at an address.
    #[error("there is no contract at {address}, the address of {role}")]
    NoCode {
        /// flow, mine, market or reward.
        role: &'static str,
        /// Its address.
        address: Address,
    },
    /// A contract does not answer a question that it must know.
    #[error("the contract at {address}, the address of {role}, does not answer {call}: {reason}")]
    NoAnswer {
        /// flow, mine, market or reward.
        role: &'static str,
        /// Its address.
        address: Address,
        /// The question.
        call: &'static str,
        /// What came instead.
        reason: String,
    },
    /// The mine contract speaks another version of the proof.
    #[error("the mine contract has version {got} of the proof, this program speaks version {expected}")]
    Version {
        /// Version of the contract.
        got: u64,
        /// Version of this program.
        expected: u64,
    },
    /// Two contracts do not belong together.
    #[error("{from} names {got} as its {role}, expected {expected}")]
    Link {
        /// Contract that was asked.
        from: &'static str,
        /// What it was asked for.
        role: &'static str,
        /// Its answer.
        got: Address,
        /// Address expected.
        expected: Address,
    },
}

impl ChainError {
    /// Whether the same question may be answered a little later.
    pub fn is_transient(&self) -> bool {
        match self {
            ChainError::Unreachable { .. } | ChainError::Timeout { .. } => true,
            ChainError::Http { status, .. } => matches!(status, 408 | 425 | 429 | 500..=599),
            ChainError::Rpc { code, message, .. } => is_passing(*code, message),
            _ => false,
        }
    }

    /// The contract's reason, if a contract refused.
    pub fn revert(&self) -> Option<&Revert> {
        match self {
            ChainError::Reverted { revert, .. } => Some(revert),
            _ => None,
        }
    }

    /// Text of the JSON-RPC error, if the endpoint answered with one.
    pub fn rpc_message(&self) -> Option<&str> {
        match self {
            ChainError::Rpc { message, .. } => Some(message),
            _ => None,
        }
    }
}

/// Whether a JSON-RPC error speaks of load or of a node that lags, rather than of the question.
fn is_passing(code: i64, message: &str) -> bool {
    const TEXTS: [&str; 13] = [
        "mempool",
        "timeout",
        "timed out",
        "txpool is full",
        "rate limit",
        "request limit",
        "too many requests",
        "try again",
        "temporarily",
        "unavailable",
        "header not found",
        "unknown block",
        "connection",
    ];
    let message = message.to_ascii_lowercase();
    // -32005 is "limit exceeded"; for logs it means the range, which the pages of the log reader handle.
    let range = message.contains("block range") || message.contains("query returned more");
    !range && (code == -32005 || code == 429 || TEXTS.iter().any(|text| message.contains(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rpc(code: i64, message: &str) -> ChainError {
        ChainError::Rpc { url: "http://h".into(), call: "c".into(), code, message: message.into() }
    }

    #[test]
    fn load_passes_and_refusals_stay() {
        assert!(rpc(-32000, "Mempool is full").is_transient());
        assert!(rpc(-32005, "limit exceeded").is_transient());
        assert!(!rpc(-32005, "query returned more than 10000 results").is_transient());
        assert!(!rpc(-32000, "nonce too low").is_transient());
        assert!(!rpc(-32000, "insufficient funds for gas * price + value").is_transient());
        let http = |status| ChainError::Http { url: String::new(), call: String::new(), status, body: String::new() };
        assert!(http(503).is_transient() && http(429).is_transient() && !http(401).is_transient());
    }
}
