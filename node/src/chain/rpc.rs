//! JSON-RPC over HTTP to one endpoint: every call has a time limit, passing failures are tried again, and no error
//! tells a secret that the endpoint's URL holds.

use std::{error::Error, fmt, sync::Arc, time::Duration};

use alloy::{
    rpc::client::RpcClient,
    transports::{
        RpcError, TransportError, TransportErrorKind,
        http::{Http, reqwest},
    },
};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    error::ChainError,
    revert::{Revert, clip},
};

/// How patient the node is with an endpoint.
#[derive(Clone, Debug)]
pub struct RpcOptions {
    /// Longest wait for one reply.
    pub timeout: Duration,
    /// Times that a call is made before a passing failure is reported; at least 1.
    pub attempts: u32,
    /// Wait before the second attempt; it doubles with each further one.
    pub backoff: Duration,
    /// Longest wait between two attempts.
    pub max_backoff: Duration,
}

impl Default for RpcOptions {
    fn default() -> Self {
        RpcOptions {
            timeout: Duration::from_secs(10),
            attempts: 5,
            backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(2),
        }
    }
}

/// What can be sent as the parameters of a call: any value that serialises to a JSON array.
pub trait Params: Serialize + Clone + fmt::Debug + Send + Sync + Unpin {}

impl<T: Serialize + Clone + fmt::Debug + Send + Sync + Unpin> Params for T {}

/// What can be read from the reply to a call.
pub trait Reply: DeserializeOwned + fmt::Debug + Send + Sync + Unpin + 'static {}

impl<T: DeserializeOwned + fmt::Debug + Send + Sync + Unpin + 'static> Reply for T {}

/// One endpoint. Cheap to clone.
#[derive(Clone)]
pub struct Rpc {
    client: RpcClient,
    endpoint: Arc<Endpoint>,
    options: RpcOptions,
}

/// The URL as it may be shown, and the parts of it that may not.
struct Endpoint {
    shown: String,
    secrets: Vec<String>,
}

impl fmt::Debug for Rpc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rpc").field("url", &self.endpoint.shown).field("options", &self.options).finish()
    }
}

impl Rpc {
    /// Prepares calls to `url`; nothing is sent yet.
    pub fn new(url: &str, options: RpcOptions) -> Result<Self, ChainError> {
        let unusable = |reason: String| ChainError::Url { reason };
        let url = reqwest::Url::parse(url.trim()).map_err(|error| unusable(error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(unusable(format!("scheme {:?} is neither http nor https", url.scheme())));
        }
        let host = url.host_str().ok_or_else(|| unusable("it names no host".to_owned()))?;
        let mut builder = reqwest::Client::builder()
            .timeout(options.timeout)
            .connect_timeout(options.timeout)
            .redirect(reqwest::redirect::Policy::none());
        if matches!(host, "localhost" | "127.0.0.1" | "[::1]") {
            // A proxy of the environment cannot reach this machine's own ports.
            builder = builder.no_proxy();
        }
        let client = builder.build().map_err(|error| unusable(error.without_url().to_string()))?;
        let endpoint = Arc::new(Endpoint::of(&url));
        Ok(Rpc { client: RpcClient::new(Http::with_client(client, url), true), endpoint, options })
    }

    /// The endpoint as it may be shown: scheme, host and port.
    pub fn url(&self) -> &str {
        &self.endpoint.shown
    }

    /// Calls `method`, again after passing failures. `detail` says more for errors, for example a contract's function.
    pub async fn call<P: Params, R: Reply>(
        &self,
        method: &'static str,
        detail: &str,
        params: P,
    ) -> Result<R, ChainError> {
        let mut wait = self.options.backoff;
        let mut attempt = 1;
        loop {
            match self.call_once(method, detail, params.clone()).await {
                Err(error) if error.is_transient() && attempt < self.options.attempts => {
                    tracing::debug!(attempt, %error, "the chain did not answer, trying again");
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(self.options.max_backoff);
                    attempt += 1;
                }
                other => return other,
            }
        }
    }

    /// Calls `method` one time.
    pub async fn call_once<P: Params, R: Reply>(
        &self,
        method: &'static str,
        detail: &str,
        params: P,
    ) -> Result<R, ChainError> {
        let name = || if detail.is_empty() { method.to_owned() } else { format!("{method} {detail}") };
        // The HTTP client has the same limit; this one also covers what it does not count, such as name lookups.
        let limit = self.options.timeout + Duration::from_secs(1);
        match tokio::time::timeout(limit, self.client.request::<P, R>(method, params)).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(error)) => Err(self.explain(name(), error)),
            Err(_) => Err(self.timed_out(name())),
        }
    }

    /// An error that says the reply to `call` was not understood.
    pub(crate) fn bad_reply(&self, call: &str, reason: impl fmt::Display) -> ChainError {
        let reason = self.endpoint.scrub(&reason.to_string());
        ChainError::Reply { url: self.endpoint.shown.clone(), call: call.to_owned(), reason }
    }

    fn timed_out(&self, call: String) -> ChainError {
        ChainError::Timeout { url: self.endpoint.shown.clone(), call, limit: self.options.timeout }
    }

    fn explain(&self, call: String, error: TransportError) -> ChainError {
        let url = self.endpoint.shown.clone();
        let scrub = |text: &str| self.endpoint.scrub(text);
        match error {
            RpcError::ErrorResp(payload) => {
                let data = payload.as_revert_data();
                let is_revert = data.is_some() || payload.code == 3 || payload.message.contains("execution reverted");
                if is_revert {
                    let revert = Revert::decode(&data.unwrap_or_default(), &scrub(&payload.message));
                    return ChainError::Reverted { url, call, revert };
                }
                ChainError::Rpc { url, call, code: payload.code, message: scrub(&payload.message) }
            }
            RpcError::Transport(TransportErrorKind::HttpError(error)) => {
                ChainError::Http { url, call, status: error.status, body: scrub(&error.body) }
            }
            RpcError::Transport(TransportErrorKind::HttpErrorWithRetryAfter { error, .. }) => {
                ChainError::Http { url, call, status: error.status, body: scrub(&error.body) }
            }
            RpcError::Transport(TransportErrorKind::Custom(error)) => match error.downcast::<reqwest::Error>() {
                Ok(error) if error.is_timeout() => self.timed_out(call),
                Ok(error) => ChainError::Unreachable { url, call, reason: scrub(&with_causes(&error.without_url())) },
                Err(error) => ChainError::Unreachable { url, call, reason: scrub(&with_causes(&*error)) },
            },
            RpcError::Transport(error) => ChainError::Unreachable { url, call, reason: scrub(&error.to_string()) },
            RpcError::DeserError { err, text } => {
                let reason = scrub(&format!("{err}, in {:?}", clip(&text, 120)));
                ChainError::Reply { url, call, reason }
            }
            other => ChainError::Reply { url, call, reason: scrub(&other.to_string()) },
        }
    }
}

/// An error and what caused it, on one line. reqwest's own text names the kind of failure only.
fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    if text.contains("scheme is not http") {
        text.push_str("; this build speaks http, not https");
    }
    text
}

impl Endpoint {
    /// Shortest part of a path or query that is looked for in texts; shorter ones occur in any text.
    const SHORTEST_SECRET: usize = 4;

    fn of(url: &reqwest::Url) -> Self {
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        let shown = format!("{}://{}{port}", url.scheme(), url.host_str().unwrap_or_default());
        let mut secrets: Vec<String> = Vec::new();
        secrets.extend(url.path().split('/').map(str::to_owned));
        secrets.extend(url.query_pairs().map(|(_, value)| value.into_owned()));
        secrets.extend(url.query().map(str::to_owned));
        secrets.push(url.username().to_owned());
        secrets.extend(url.password().map(str::to_owned));
        secrets.retain(|secret| secret.len() >= Self::SHORTEST_SECRET);
        // Longer ones first: a secret that is part of another must not break it up.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        Endpoint { shown, secrets }
    }

    /// `text` on one line, cut, and without the secret parts of the URL.
    fn scrub(&self, text: &str) -> String {
        clip(&self.secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret, "***")), 300)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "http://user:hunter2@127.0.0.1:1/v3/0123456789abcdef?key=topsecret";

    fn hides(text: &str) {
        for secret in ["hunter2", "0123456789abcdef", "topsecret"] {
            assert!(!text.contains(secret), "{text}");
        }
    }

    #[test]
    fn debug_and_scrubbed_texts_hide_the_credentials() {
        let rpc = Rpc::new(URL, RpcOptions::default()).unwrap();
        assert_eq!(rpc.url(), "http://127.0.0.1:1");
        hides(&format!("{rpc:?}"));
        hides(&rpc.endpoint.scrub(URL));
        hides(&rpc.bad_reply("eth_call", URL).to_string());
    }

    #[tokio::test]
    async fn an_unreachable_chain_is_named_without_credentials() {
        let options = RpcOptions { attempts: 2, backoff: Duration::from_millis(1), ..RpcOptions::default() };
        let rpc = Rpc::new(URL, options).unwrap();
        let error = rpc.call::<_, String>("eth_chainId", "", ()).await.unwrap_err();
        assert!(matches!(error, ChainError::Unreachable { .. }), "{error}");
        let text = format!("{error} {error:?}");
        hides(&text);
        assert!(text.contains("http://127.0.0.1:1") && text.contains("eth_chainId"), "{text}");
    }

    #[test]
    fn unusable_urls_are_refused_without_repeating_them() {
        for url in ["", "127.0.0.1:8545", "ws://user:hunter2@host", "http://user:hunter2@"] {
            let error = Rpc::new(url, RpcOptions::default()).unwrap_err();
            assert!(matches!(error, ChainError::Url { .. }));
            hides(&error.to_string());
        }
    }
}
