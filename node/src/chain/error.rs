//! What can go wrong between the node and a chain, in words that say which call, where, and what to do.

use std::time::Duration;

use alloy::primitives::Address;

use super::revert::Revert;

/// Why a question to the chain has no answer. URLs in it are shown without credentials, paths or queries.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ChainError {
    /// The endpoint's URL cannot be used.
    #[error(
        "the chain's URL is not usable: {reason}; expected something like http://127.0.0.1:8545 or ws://127.0.0.1:8546"
    )]
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
        /// When it asks to be asked again, if it says so.
        retry_after: Option<Duration>,
    },
    /// The reply is longer than any that is taken.
    #[error("{call} at {url}: the reply is longer than {limit} bytes; ask for less at a time")]
    TooLong {
        /// The endpoint.
        url: String,
        /// Method, and the contract's function if there is one.
        call: String,
        /// Longest reply that is taken.
        limit: usize,
    },
    /// The endpoint got as many requests as it may get.
    #[error(
        "{call} at {url}: it may get no request for {wait:?}, by its own wish or by the configured rate; \
         configure another endpoint besides, or a plan with more requests"
    )]
    Busy {
        /// The endpoint.
        url: String,
        /// Method, and the contract's function if there is one.
        call: String,
        /// How long until the next request may be sent.
        wait: Duration,
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

/// Whose fault an error is: what to do about it follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The endpoint does not work.
    Endpoint,
    /// The endpoint works and does not answer this question: others may.
    Answer,
    /// The endpoint gets too many requests, and says perhaps when to come again.
    Load(Option<Duration>),
    /// The question: every endpoint would say so.
    Question,
}

impl ChainError {
    /// Whether the same question may be answered a little later.
    pub fn is_transient(&self) -> bool {
        match self {
            ChainError::Unreachable { .. } | ChainError::Timeout { .. } | ChainError::Busy { .. } => true,
            ChainError::Http { status, .. } => matches!(status, 408 | 425 | 429 | 500..=599),
            ChainError::Rpc { code, message, .. } => is_passing(*code, message),
            _ => false,
        }
    }

    /// Whose fault it is.
    pub(super) fn fault(&self) -> Fault {
        match self {
            ChainError::Unreachable { .. } | ChainError::Timeout { .. } | ChainError::WrongChain { .. } => {
                Fault::Endpoint
            }
            ChainError::Http { status: 429, retry_after, .. } => Fault::Load(*retry_after),
            ChainError::Http { status: 400 | 413, .. } => Fault::Question,
            ChainError::Http { .. } => Fault::Endpoint,
            ChainError::Rpc { code, message, .. } if is_load(*code, message) => Fault::Load(None),
            ChainError::Rpc { code, message, .. } if *code == -32601 || is_passing(*code, message) => Fault::Answer,
            ChainError::Reply { .. } | ChainError::Busy { .. } => Fault::Answer,
            _ => Fault::Question,
        }
    }

    /// Whether an endpoint may mean that too many blocks, or blocks with too much in them, were asked for at once.
    /// They say so in many ways; only those are left out that certainly mean something else.
    pub(super) fn may_be_range(&self) -> bool {
        match self {
            ChainError::Timeout { .. } | ChainError::TooLong { .. } => true,
            ChainError::Http { status, .. } => !matches!(status, 401..=407 | 429),
            ChainError::Rpc { code, message, .. } => !is_load(*code, message),
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

/// Whether a text speaks of the length of a range of logs.
fn is_range(message: &str) -> bool {
    const TEXTS: [&str; 4] = ["block range", "blocks range", "query returned more", "range limit"];
    TEXTS.iter().any(|text| message.contains(text))
}

/// Whether a JSON-RPC error says that there were too many requests.
fn is_load(code: i64, message: &str) -> bool {
    const TEXTS: [&str; 7] = [
        "rate limit",
        "rate exceeded",
        "request limit",
        "requests per",
        "too many requests",
        "credits",
        "concurrent requests",
    ];
    let message = message.to_ascii_lowercase();
    // -32005 is "limit exceeded"; for logs it means the range, which the pages of the log reader handle.
    !is_range(&message) && (matches!(code, -32005 | 429) || TEXTS.iter().any(|text| message.contains(text)))
}

/// Whether a JSON-RPC error speaks of load or of a node that lags, rather than of the question.
fn is_passing(code: i64, message: &str) -> bool {
    const TEXTS: [&str; 10] = [
        "mempool",
        "timeout",
        "timed out",
        "txpool is full",
        "try again",
        "temporarily",
        "unavailable",
        "header not found",
        "unknown block",
        "connection",
    ];
    let lowercase = message.to_ascii_lowercase();
    is_load(code, message) || (!is_range(&lowercase) && TEXTS.iter().any(|text| lowercase.contains(text)))
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
        let (url, call, body) = (String::new(), String::new(), String::new());
        let http = |status| ChainError::Http {
            url: url.clone(),
            call: call.clone(),
            status,
            body: body.clone(),
            retry_after: None,
        };
        assert!(http(503).is_transient() && http(429).is_transient() && !http(401).is_transient());
    }
    #[test]
    fn texts_of_providers_are_told_apart() {
        for (code, message, fault, range) in [
            (429, "Your app has exceeded its compute units per second capacity", Fault::Load(None), false),
            (-32005, "limit exceeded", Fault::Load(None), false),
            (-32007, "100/second request limit reached", Fault::Load(None), false),
            (-32016, "over rate limit", Fault::Load(None), false),
            (-32012, "credits limited to 6000/sec", Fault::Load(None), false),
            (-32005, "query returned more than 10000 results", Fault::Question, true),
            (-32600, "eth_getLogs is limited to a 10,000 range", Fault::Question, true),
            (-32614, "eth_getLogs and eth_newFilter are limited to a 10,000 blocks range", Fault::Question, true),
            (-32000, "exceed maximum block range: 5000", Fault::Question, true),
            (-32602, "Log response size exceeded.", Fault::Question, true),
            (-32000, "query timeout exceeded", Fault::Answer, true),
            (-32601, "the method eth_getLogs does not exist", Fault::Answer, true),
            (-32000, "header not found", Fault::Answer, true),
        ] {
            let error = rpc(code, message);
            assert_eq!((error.fault(), error.may_be_range()), (fault, range), "{error}");
        }
    }
}
