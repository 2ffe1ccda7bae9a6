//! JSON-RPC over HTTP and WebSocket to one chain, through one or several endpoints: every call has a time limit, passing
//! failures are tried again, where one endpoint fails another is asked, and no error tells a secret that a URL holds.

use std::{
    borrow::Cow,
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use alloy::primitives::{Bytes, U64};
use futures::future::join_all;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

pub use super::endpoints::{EndpointId, EndpointStatus};
use super::{
    endpoints::{ChainCheck, Endpoints, Work},
    error::{ChainError, Fault},
    heads::Heads,
    revert::{Revert, clip},
    wire::Lost,
};

/// How patient the node is with an endpoint.
#[derive(Clone, Debug)]
pub struct RpcOptions {
    /// Longest wait for one reply, and for a sign of life on a WebSocket before it is opened anew. Default 10 s.
    pub timeout: Duration,
    /// Times that a call is made before a passing failure is reported, one more for each further endpoint; at least 1.
    /// Default 5.
    pub attempts: u32,
    /// Wait before the second attempt where no other endpoint is ready; it doubles with each further one. Default 100 ms.
    pub backoff: Duration,
    /// Longest wait between two attempts. Default 2 s.
    pub max_backoff: Duration,
    /// Requests per second that each endpoint gets at most, with bursts of one second's; `None` means no limit.
    /// An endpoint that complains gets fewer for a while, whatever is configured. Default 100.
    pub requests_per_second: Option<u32>,
    /// How long others are asked after an endpoint failed; it doubles with each further failure. Default 2 s.
    pub cool_down: Duration,
    /// Longest time that others are asked for, and that an endpoint may ask to be left alone. Default 60 s.
    pub max_cool_down: Duration,
    /// Blocks that an endpoint may be behind the others before those are asked first. Default 10.
    pub max_lag: u64,
    /// Longest reply that is taken, in bytes. Default 32 MiB.
    pub max_reply_bytes: usize,
}

impl Default for RpcOptions {
    fn default() -> Self {
        RpcOptions {
            timeout: Duration::from_secs(10),
            attempts: 5,
            backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(2),
            requests_per_second: Some(100),
            cool_down: Duration::from_secs(2),
            max_cool_down: Duration::from_secs(60),
            max_lag: 10,
            max_reply_bytes: 32 << 20,
        }
    }
}

/// What can be sent as the parameters of a call: any value that serialises to a JSON array.
pub trait Params: Serialize + Clone + fmt::Debug + Send + Sync + Unpin {}

impl<T: Serialize + Clone + fmt::Debug + Send + Sync + Unpin> Params for T {}

/// What can be read from the reply to a call.
pub trait Reply: DeserializeOwned + fmt::Debug + Send + Sync + Unpin + 'static {}

impl<T: DeserializeOwned + fmt::Debug + Send + Sync + Unpin + 'static> Reply for T {}

/// The endpoints of one chain. Cheap to clone; clones share what is known of the endpoints.
#[derive(Clone)]
pub struct Rpc {
    pub(super) endpoints: Arc<Endpoints>,
    /// Id of the chain that all endpoints have to be of, once it is known.
    chain_id: Arc<OnceLock<u64>>,
    next_id: Arc<AtomicU64>,
    pub(super) options: RpcOptions,
}

impl fmt::Debug for Rpc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rpc").field("endpoints", &self.endpoints).field("options", &self.options).finish()
    }
}

/// Method and what more there is to say about it, as errors show it.
fn named(method: &str, detail: &str) -> String {
    if detail.is_empty() { method.to_owned() } else { format!("{method} {detail}") }
}

impl Rpc {
    /// Prepares calls to one endpoint; nothing is sent yet.
    pub fn new(url: &str, options: RpcOptions) -> Result<Self, ChainError> {
        Rpc::over(&[url], options)
    }

    /// Prepares calls to several endpoints of one chain, the preferred one first; nothing is sent yet.
    pub fn over<U: AsRef<str>>(urls: &[U], options: RpcOptions) -> Result<Self, ChainError> {
        let endpoints = Arc::new(Endpoints::new(urls, &options)?);
        Ok(Rpc { endpoints, chain_id: Arc::default(), next_id: Arc::default(), options })
    }

    /// The endpoint that answered last, as it may be shown: scheme, host and port.
    pub fn url(&self) -> &str {
        &self.endpoints.current().shown
    }

    /// How each endpoint does.
    pub fn endpoints(&self) -> Vec<EndpointStatus> {
        self.endpoints.status()
    }

    /// Asks which chain this is. `expected`, or else what the first answer says, is what every endpoint has to say, now
    /// or when it is first used.
    pub async fn agree_on_chain(&self, expected: Option<u64>) -> Result<u64, ChainError> {
        let (got, first) = self.call_from::<_, U64>("eth_chainId", "", ()).await?;
        let expected = expected.unwrap_or(got.to());
        self.check_chain(first, got.to(), expected)?;
        let chain_id = *self.chain_id.get_or_init(|| expected);
        // A wrong one among the others is a mistake in the configuration; one that does not answer is checked later.
        let others = self.endpoints.ids().filter(|id| *id != first);
        let checks = join_all(others.map(|id| async move {
            match self.call_at::<_, U64>(id, "eth_chainId", "", ()).await {
                Err(error @ ChainError::WrongChain { .. }) => Err(error),
                _ => Ok(()),
            }
        }));
        checks.await.into_iter().collect::<Result<(), _>>()?;
        Ok(chain_id)
    }

    fn check_chain(&self, id: EndpointId, got: u64, expected: u64) -> Result<(), ChainError> {
        let is_right = got == expected;
        self.endpoints.set_chain_check(id, if is_right { ChainCheck::Right } else { ChainCheck::Wrong(got) });
        let url = self.endpoints.get(id).shown.clone();
        if is_right { Ok(()) } else { Err(ChainError::WrongChain { url, got, expected }) }
    }

    /// Number of the last block. An endpoint that is behind what another one told of is passed over if it can be.
    pub async fn head(&self) -> Result<u64, ChainError> {
        let (head, id) = self.call_from::<_, U64>("eth_blockNumber", "", ()).await?;
        if self.endpoints.set_head(id, head.to()) {
            return Ok(head.to());
        }
        let (head, id) = self.call_from::<_, U64>("eth_blockNumber", "", ()).await?;
        self.endpoints.set_head(id, head.to());
        Ok(head.to())
    }

    /// Asks every endpoint for its last block and compares them anew: the only way to learn that the preferred one lags,
    /// or that it does not any more. Nothing is sent where there is one endpoint.
    pub async fn compare_heads(&self) {
        if self.endpoints.len() == 1 {
            return;
        }
        self.endpoints.forget_wrong_chains();
        let heads = join_all(self.endpoints.ids().map(|id| async move {
            let head = self.call_at::<_, U64>(id, "eth_blockNumber", "", ()).await.ok()?;
            Some((id, head.to()))
        }));
        let mut heads: Vec<(EndpointId, u64)> = heads.await.into_iter().flatten().collect();
        // The highest first: the others are compared with it.
        heads.sort_by_key(|(_, head)| std::cmp::Reverse(*head));
        self.endpoints.forget_heads();
        for (id, head) in heads {
            self.endpoints.set_head(id, head);
        }
    }

    /// Forgets the last blocks that endpoints told of: after a reorganisation they may be too high for ever.
    pub fn forget_heads(&self) {
        self.endpoints.forget_heads();
    }

    /// Announcements of new blocks, from now on. Endpoints with a WebSocket are asked for them while this is held; it has
    /// to be called in an async runtime.
    pub fn heads(&self) -> Heads {
        Heads::of(self)
    }

    /// Has others asked for a while, since what this endpoint said cannot be true.
    pub fn distrust(&self, id: EndpointId, reason: &str) {
        self.endpoints.distrust(id, Work::Other, &self.endpoints.scrub(reason));
    }

    /// Has others asked for logs for a while, since those of this endpoint cannot be right or do not come.
    pub fn distrust_logs(&self, id: EndpointId, reason: &str) {
        self.endpoints.distrust(id, Work::Logs, &self.endpoints.scrub(reason));
    }

    /// Calls `method`, again after passing failures. `detail` says more for errors, for example a contract's function.
    pub async fn call<P: Params, R: Reply>(
        &self,
        method: &'static str,
        detail: &str,
        params: P,
    ) -> Result<R, ChainError> {
        Ok(self.call_from(method, detail, params).await?.0)
    }

    /// Like [`Rpc::call`], and says which endpoint answered.
    pub async fn call_from<P: Params, R: Reply>(
        &self,
        method: &'static str,
        detail: &str,
        params: P,
    ) -> Result<(R, EndpointId), ChainError> {
        self.try_each(method, detail, params).await.map_err(|(error, _)| error)
    }

    /// Like [`Rpc::call_from`]; an error too comes with the endpoint that it is of.
    pub(super) async fn try_each<P: Params, R: Reply>(
        &self,
        method: &'static str,
        detail: &str,
        params: P,
    ) -> Result<(R, EndpointId), (ChainError, EndpointId)> {
        let attempts = self.options.attempts.max(1).saturating_add(self.endpoints.len() as u32 - 1);
        let mut wait = self.options.backoff;
        let work = Work::of(method);
        let mut tried = Vec::new();
        let mut attempt = 1;
        loop {
            let id = self.endpoints.choose(work, &tried);
            let error = match self.call_at(id, method, detail, params.clone()).await {
                Ok(reply) => return Ok((reply, id)),
                Err(error) => error,
            };
            tried.push(id);
            let has_other = self.endpoints.has_ready(work, &tried);
            let fault = error.fault();
            let is_worth_it = may_pass(&error) || (fault != Fault::Question && has_other);
            if attempt >= attempts || !is_worth_it || is_heavy(method, &error) {
                return Err((error, id));
            }
            tracing::debug!(attempt, %error, "the chain did not answer, trying again");
            if !has_other {
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(self.options.max_backoff);
                tried.clear();
            }
            attempt += 1;
        }
    }

    /// Calls `method` one time, at the endpoint that does best of those not yet `tried`, and notes that it was tried.
    pub async fn call_once<P: Params, R: Reply>(
        &self,
        tried: &mut Vec<EndpointId>,
        method: &'static str,
        detail: &str,
        params: P,
    ) -> Result<R, ChainError> {
        let id = self.endpoints.choose(Work::of(method), tried);
        tried.push(id);
        self.call_at(id, method, detail, params).await
    }

    /// Calls `method` one time at each endpoint but this one, and returns what they answer.
    pub async fn call_others<P: Params, R: Reply>(
        &self,
        except: EndpointId,
        method: &'static str,
        detail: &str,
        params: P,
    ) -> Vec<R> {
        let others = self.endpoints.ids().filter(|id| *id != except);
        let replies = join_all(others.map(|id| self.call_at(id, method, detail, params.clone()))).await;
        replies.into_iter().filter_map(Result::ok).collect()
    }

    /// Calls `method` one time at this endpoint.
    pub async fn call_at<P: Params, R: Reply>(
        &self,
        id: EndpointId,
        method: &'static str,
        detail: &str,
        params: P,
    ) -> Result<R, ChainError> {
        if let Some(&expected) = self.chain_id.get() {
            match self.endpoints.chain_check(id) {
                ChainCheck::Right => {}
                ChainCheck::Wrong(got) => self.check_chain(id, got, expected)?,
                ChainCheck::Unchecked => {
                    let got: U64 = self.request(id, "eth_chainId", "", ()).await?;
                    self.check_chain(id, got.to(), expected)?;
                }
            }
        }
        self.request(id, method, detail, params).await
    }

    /// Calls `method` at this endpoint, again after passing failures.
    pub async fn call_again_at<P: Params, R: Reply>(
        &self,
        id: EndpointId,
        method: &'static str,
        detail: &str,
        params: P,
    ) -> Result<R, ChainError> {
        let mut wait = self.options.backoff;
        for _ in 1..self.options.attempts {
            match self.call_at(id, method, detail, params.clone()).await {
                Err(error) if may_pass(&error) => tokio::time::sleep(wait).await,
                other => return other,
            }
            wait = (wait * 2).min(self.options.max_backoff);
        }
        self.call_at(id, method, detail, params).await
    }

    /// Sends a request when its turn comes, and notes what that says about the endpoint.
    async fn request<P: Params, R: Reply>(
        &self,
        id: EndpointId,
        method: &'static str,
        detail: &str,
        params: P,
    ) -> Result<R, ChainError> {
        let endpoint = self.endpoints.get(id);
        let call = named(method, detail);
        match endpoint.budget.take(self.options.timeout) {
            Ok(wait) if wait.is_zero() => {}
            Ok(wait) => tokio::time::sleep(wait).await,
            Err(wait) => return Err(ChainError::Busy { url: endpoint.shown.clone(), call, wait }),
        }
        let result = self.exchange(id, &call, method, params).await;
        match &result {
            Ok(_) => self.endpoints.answered(id, Work::of(method)),
            Err(error) => match error.fault() {
                Fault::Endpoint if !is_heavy(method, error) => self.endpoints.failed(id, &error.to_string()),
                Fault::Load(retry_after) => self.endpoints.complained(id, retry_after, &error.to_string()),
                // Neither a failure of the endpoint nor a sign that it does its work.
                _ if is_heavy(method, error) => {}
                _ => self.endpoints.answered(id, Work::of(method)),
            },
        }
        result
    }

    /// One request and its reply.
    async fn exchange<P: Params, R: Reply>(
        &self,
        id: EndpointId,
        call: &str,
        method: &'static str,
        params: P,
    ) -> Result<R, ChainError> {
        let endpoint = self.endpoints.get(id);
        let request_id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let request = Request { jsonrpc: "2.0", id: request_id, method, params };
        let request = serde_json::to_string(&request).map_err(|error| self.bad_reply_of(id, call, error))?;
        let answer = endpoint.wire.exchange(request_id, method, request).await;
        let answer = answer.map_err(|lost| self.lost(id, call, lost))?;
        let (status, body) = (answer.status, answer.body);
        let failure = serde_json::from_slice::<Failure>(&body).ok().and_then(|failure| failure.error);
        match failure {
            Some(error) if status != 429 => Err(self.explain(id, call, error)),
            _ if !(200..300).contains(&status) => Err(self.refused(id, call, status, answer.retry_after, &body)),
            _ => match serde_json::from_slice::<Success<R>>(&body) {
                Ok(success) if success.id == request_id => Ok(success.result),
                Ok(success) => {
                    Err(self.bad_reply_of(id, call, format!("it answers request {}, not {request_id}", success.id)))
                }
                Err(error) => {
                    let text = String::from_utf8_lossy(&body[..body.len().min(400)]);
                    Err(self.bad_reply_of(id, call, format!("{error}, in {:?}", clip(&text, 120))))
                }
            },
        }
    }

    /// An error that says the reply to `call` was not understood.
    pub(crate) fn bad_reply(&self, call: &str, reason: impl fmt::Display) -> ChainError {
        let reason = self.endpoints.scrub(&reason.to_string());
        ChainError::Reply { url: self.url().to_owned(), call: call.to_owned(), reason }
    }

    fn bad_reply_of(&self, id: EndpointId, call: &str, reason: impl fmt::Display) -> ChainError {
        let reason = self.endpoints.scrub(&reason.to_string());
        ChainError::Reply { url: self.endpoints.get(id).shown.clone(), call: call.to_owned(), reason }
    }

    fn refused(
        &self,
        id: EndpointId,
        call: &str,
        status: u16,
        retry_after: Option<Duration>,
        body: &[u8],
    ) -> ChainError {
        let (url, call) = (self.endpoints.get(id).shown.clone(), call.to_owned());
        let body = self.endpoints.scrub(&String::from_utf8_lossy(&body[..body.len().min(400)]));
        ChainError::Http { url, call, status, body, retry_after }
    }

    fn lost(&self, id: EndpointId, call: &str, lost: Lost) -> ChainError {
        let (url, call) = (self.endpoints.get(id).shown.clone(), call.to_owned());
        match lost {
            Lost::Timeout => ChainError::Timeout { url, call, limit: self.options.timeout },
            Lost::TooLong => ChainError::TooLong { url, call, limit: self.options.max_reply_bytes },
            Lost::Refused { status, retry_after, body } => self.refused(id, &call, status, retry_after, &body),
            Lost::Broken(reason) => ChainError::Unreachable { url, call, reason: self.endpoints.scrub(&reason) },
        }
    }

    fn explain(&self, id: EndpointId, call: &str, error: ErrorObject) -> ChainError {
        let (url, call) = (self.endpoints.get(id).shown.clone(), call.to_owned());
        let message = self.endpoints.scrub(&error.message);
        let data = error.message.contains("revert").then(|| revert_data(&error.data)).flatten();
        let is_revert = data.is_some() || error.code == 3 || error.message.contains("execution reverted");
        if is_revert {
            return ChainError::Reverted { url, call, revert: Revert::decode(&data.unwrap_or_default(), &message) };
        }
        ChainError::Rpc { url, call, code: error.code, message }
    }
}

/// Whether the endpoint may answer the same question a little later. What is no reply at all comes from something before
/// the endpoint, and passes too.
fn may_pass(error: &ChainError) -> bool {
    error.is_transient() || matches!(error, ChainError::Reply { .. })
}

/// Whether the endpoint may have failed because the question was too heavy: whoever asked has to ask for less, and
/// nothing is won by asking again.
fn is_heavy(method: &str, error: &ChainError) -> bool {
    method == "eth_getLogs"
        && match error {
            ChainError::Timeout { .. } | ChainError::TooLong { .. } | ChainError::Http { status: 504, .. } => true,
            ChainError::Rpc { message, .. } => error.may_be_range() && message.to_ascii_lowercase().contains("time"),
            _ => false,
        }
}

#[derive(Serialize)]
struct Request<P> {
    jsonrpc: &'static str,
    id: u64,
    method: &'static str,
    params: P,
}

/// A reply with an error; one with a result has none here.
#[derive(Deserialize)]
struct Failure {
    error: Option<ErrorObject>,
}

#[derive(Deserialize)]
struct ErrorObject {
    code: i64,
    #[serde(default)]
    message: Cow<'static, str>,
    #[serde(default)]
    data: Value,
}

#[derive(Deserialize)]
#[serde(bound(deserialize = "R: DeserializeOwned"))]
struct Success<R> {
    id: u64,
    /// Null is a result, nothing is none.
    #[serde(deserialize_with = "Deserialize::deserialize")]
    result: R,
}

/// What the EVM returned when it reverted: the first hexadecimal text in what the endpoint attached to its error.
fn revert_data(data: &Value) -> Option<Bytes> {
    match data {
        Value::String(text) => text.parse().ok(),
        Value::Object(fields) => fields.values().find_map(revert_data),
        _ => None,
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
        hides(&rpc.endpoints.scrub(URL));
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
        for url in ["", "127.0.0.1:8545", "ftp://user:hunter2@host", "ws://user:hunter2@"] {
            let error = Rpc::new(url, RpcOptions::default()).unwrap_err();
            assert!(matches!(error, ChainError::Url { .. }));
            hides(&error.to_string());
        }
    }

    #[tokio::test]
    async fn tls_is_spoken_where_the_url_says_so() {
        for scheme in ["https", "wss"] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("{scheme}://{}/secret-path", listener.local_addr().unwrap());
            let rpc = Rpc::new(&url, RpcOptions { attempts: 1, ..RpcOptions::default() }).unwrap();
            let asked = tokio::spawn(async move { rpc.call::<_, String>("eth_chainId", "", ()).await });
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut first = [0; 6];
            tokio::io::AsyncReadExt::read_exact(&mut stream, &mut first).await.unwrap();
            // A TLS record with a handshake, and in it the greeting of a client.
            assert_eq!((first[0], first[1], first[5]), (22, 3, 1));
            drop(stream);
            let error = asked.await.unwrap().unwrap_err();
            assert!(matches!(error, ChainError::Unreachable { .. }), "{error}");
            assert!(!error.to_string().contains("secret-path"), "{error}");
        }
    }

    #[test]
    fn data_of_reverts_is_found_where_endpoints_put_it() {
        let found = |text: &str| revert_data(&serde_json::from_str(text).unwrap());
        let data = Some(Bytes::from_static(&[8, 195]));
        assert_eq!(found("\"0x08c3\""), data);
        assert_eq!(found(r#"{"hash":{"error":"revert","return":"0x08c3"}}"#), data);
        assert_eq!(found("null"), None);
    }
}
