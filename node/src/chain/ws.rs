//! A WebSocket to an endpoint: one connection for all calls, opened when the first one needs it and again after it broke.
//!
//! The endpoint is a stranger. Replies go to the call with their id and are dropped where none waits; what is no JSON-RPC
//! ends the connection, and so does silence; calls, frames under way and the length of a reply are bounded.

use std::{
    borrow::Cow,
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use alloy::transports::http::reqwest::{
    self, StatusCode, Upgraded, Url,
    header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE},
};
use bytes::Bytes;
use futures::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use serde::Deserialize;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        self, Message, Utf8Bytes,
        handshake::{client::generate_key, derive_accept_key},
        protocol::{Role, WebSocketConfig},
    },
};

use super::{
    endpoints::Work,
    rpc::RpcOptions,
    wire::{Answer, Lost, body, lost, retry_after},
};

/// Calls that wait for their replies at the same time; further ones wait for a place.
const MAX_CALLS: usize = 128;
/// Bytes that may wait to be written: far more than any request has, and what an endpoint that sends pings and reads
/// nothing can make us keep.
const MAX_UNWRITTEN: usize = 16 << 20;
/// Longest explanation of a connection that was refused.
const MAX_REFUSAL_BYTES: usize = 4096;
/// Time to say goodbye.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

type Stream = WebSocketStream<Upgraded>;

/// An endpoint, and the connection to it while there is one.
pub(super) struct Socket {
    client: reqwest::Client,
    /// With http or https in place of ws or wss: a connection begins as a request.
    url: Url,
    timeout: Duration,
    max_reply_bytes: usize,
    places: Semaphore,
    line: tokio::sync::Mutex<Option<Arc<Line>>>,
    heard: Arc<dyn Fn() + Send + Sync>,
}

/// A connection. Its task ends when this is dropped.
pub(super) struct Line {
    outgoing: mpsc::Sender<Message>,
    calls: Arc<Calls>,
}

/// The calls of a connection, shared with its task.
#[derive(Default)]
struct Calls(Mutex<State>);

struct State {
    waiting: HashMap<u64, Waiting>,
    /// When the endpoint last answered a call or a ping.
    answered_at: Instant,
    /// Since when it owes an answer.
    owes_since: Option<Instant>,
    /// Whether it was sent a ping since its last answer.
    is_pinged: bool,
    /// Whether it was asked to announce blocks, and answered.
    is_subscribed: bool,
    /// Why the connection ended.
    end: Option<Lost>,
}

impl Default for State {
    fn default() -> Self {
        State {
            waiting: HashMap::new(),
            answered_at: Instant::now(),
            owes_since: None,
            is_pinged: false,
            is_subscribed: false,
            end: None,
        }
    }
}

/// A call that waits for its reply.
struct Waiting {
    method: &'static str,
    reply: oneshot::Sender<Result<Utf8Bytes, Lost>>,
}

/// Keeps a call among those that wait, until it is dropped.
struct Place<'a> {
    calls: &'a Calls,
    id: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.calls.state().waiting.remove(&self.id);
    }
}

impl Socket {
    pub(super) fn new(
        client: reqwest::Client,
        mut url: Url,
        options: &RpcOptions,
        heard: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        let scheme = if url.scheme() == "wss" { "https" } else { "http" };
        // It always fits: all four are schemes of one kind, with the same ports.
        let _ = url.set_scheme(scheme);
        Socket {
            client,
            url,
            timeout: options.timeout,
            max_reply_bytes: options.max_reply_bytes,
            places: Semaphore::new(MAX_CALLS),
            line: tokio::sync::Mutex::default(),
            heard: Arc::new(heard),
        }
    }

    /// Sends the request with this id, and waits for its reply. Dropped, it leaves nothing behind.
    pub(super) async fn call(&self, id: u64, method: &'static str, request: String) -> Result<Answer, Lost> {
        let call = async {
            let Ok(_place) = self.places.acquire().await else { return Err(Lost::Timeout) };
            let text = self.line().await?.call(id, method, request).await?;
            Ok(Answer { status: StatusCode::OK.as_u16(), retry_after: None, body: Bytes::from(text) })
        };
        tokio::time::timeout(self.timeout, call).await.unwrap_or(Err(Lost::Timeout))
    }

    /// The connection, if it was asked to announce blocks.
    pub(super) async fn subscribed(&self) -> Option<Arc<Line>> {
        let line = self.line.lock().await;
        line.as_ref().filter(|line| line.calls.state().is_subscribed && !line.outgoing.is_closed()).cloned()
    }

    /// The connection, opened if there is none: by one caller, the others wait for it.
    async fn line(&self) -> Result<Arc<Line>, Lost> {
        let mut held = self.line.lock().await;
        if let Some(line) = held.as_ref().filter(|line| !line.outgoing.is_closed()) {
            return Ok(line.clone());
        }
        *held = None;
        let stream = self.open().await?;
        let (outgoing, queue) = mpsc::channel(MAX_CALLS);
        let line = Arc::new(Line { outgoing, calls: Arc::default() });
        let (calls, pings) = (line.calls.clone(), line.outgoing.downgrade());
        tokio::spawn(run(stream, queue, pings, calls, self.heard.clone(), self.timeout));
        *held = Some(line.clone());
        Ok(line)
    }

    /// A new connection.
    async fn open(&self) -> Result<Stream, Lost> {
        let key = generate_key();
        let request = self.client.get(self.url.clone());
        let request = request.header(CONNECTION, "Upgrade").header(UPGRADE, "websocket");
        let request = request.header(SEC_WEBSOCKET_VERSION, "13").header(SEC_WEBSOCKET_KEY, &key);
        let mut response = request.send().await.map_err(lost)?;
        let status = response.status();
        if status != StatusCode::SWITCHING_PROTOCOLS {
            let retry_after = retry_after(&response);
            let body = body(&mut response, MAX_REFUSAL_BYTES).await.unwrap_or_default();
            return Err(match status {
                // Of a call these would say that every endpoint refuses it.
                StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE => broken(format_args!("HTTP status {status}")),
                status if status.is_success() => broken(format_args!("HTTP status {status}, but no WebSocket")),
                status => Lost::Refused { status: status.as_u16(), retry_after, body },
            });
        }
        let accept = response.headers().get(SEC_WEBSOCKET_ACCEPT).map(|accept| accept.as_bytes());
        if accept != Some(derive_accept_key(key.as_bytes()).as_bytes()) {
            return Err(broken("what answers does not speak WebSocket"));
        }
        let connection = response.upgrade().await.map_err(lost)?;
        let limit = Some(self.max_reply_bytes);
        let config = WebSocketConfig::default().max_message_size(limit).max_frame_size(limit);
        let config = config.max_write_buffer_size(MAX_UNWRITTEN);
        Ok(WebSocketStream::from_raw_socket(connection, Role::Client, Some(config)).await)
    }

    #[cfg(test)]
    async fn waiting(&self) -> usize {
        self.line.lock().await.as_ref().map_or(0, |line| line.calls.state().waiting.len())
    }
}

impl Line {
    async fn call(&self, id: u64, method: &'static str, request: String) -> Result<Utf8Bytes, Lost> {
        let (reply, replied) = oneshot::channel();
        let _place = self.calls.enter(id, Waiting { method, reply })?;
        let gone = || self.calls.state().end.clone().unwrap_or_else(|| broken("the connection was closed"));
        self.outgoing.send(Message::text(request)).await.map_err(|_| gone())?;
        replied.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Waits until the connection has ended.
    pub(super) async fn ended(&self) {
        self.outgoing.closed().await;
    }
}

fn broken(reason: impl fmt::Display) -> Lost {
    Lost::Broken(reason.to_string())
}

impl Calls {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, id: u64, call: Waiting) -> Result<Place<'_>, Lost> {
        let mut state = self.state();
        if let Some(end) = &state.end {
            return Err(end.clone());
        }
        state.waiting.insert(id, call);
        state.owes_since.get_or_insert_with(Instant::now);
        Ok(Place { calls: self, id })
    }

    /// Hands a reply to the call that waits for it. One that nobody waits for comes too late, twice, or for nothing.
    fn reply(&self, id: u64, text: Utf8Bytes) {
        let mut state = self.state();
        if let Some(call) = state.waiting.remove(&id) {
            state.has_answered();
            state.is_subscribed |= call.method == "eth_subscribe";
            // The call may have been dropped at this moment.
            let _ = call.reply.send(Ok(text));
        }
    }

    /// No call waits any more, and none is taken.
    fn end(&self, end: Lost) {
        let mut state = self.state();
        // A message that is too long is not read, so its call is not known: it is one for logs, or nobody's.
        let (of_logs, of_others) = match end {
            Lost::TooLong => (Lost::TooLong, broken("a message came that is longer than any that is taken")),
            end => (end.clone(), end),
        };
        for (_, call) in state.waiting.drain() {
            let end = if Work::of(call.method) == Work::Logs { &of_logs } else { &of_others };
            // The call may have been dropped at this moment.
            let _ = call.reply.send(Err(end.clone()));
        }
        state.end = Some(of_others);
    }
}

impl State {
    fn has_answered(&mut self) {
        self.answered_at = Instant::now();
        self.owes_since = None;
        self.is_pinged = false;
    }
}

/// Serves a connection until it ends.
async fn run(
    stream: Stream,
    queue: mpsc::Receiver<Message>,
    pings: mpsc::WeakSender<Message>,
    calls: Arc<Calls>,
    heard: Arc<dyn Fn() + Send + Sync>,
    limit: Duration,
) {
    let (sink, stream) = stream.split();
    // Side by side: an endpoint that does not read must not keep us from reading, nor the other way round.
    let end = tokio::select! {
        end = listen(stream, &calls, &*heard) => end,
        end = speak(sink, queue, limit) => end,
        end = watch_over(&calls, &pings, limit) => end,
    };
    tracing::debug!("a WebSocket to the chain has ended");
    calls.end(end);
}

/// What is looked at in a message before the caller reads it.
#[derive(Deserialize)]
struct Envelope<'a> {
    id: Option<u64>,
    #[serde(borrow)]
    method: Option<Cow<'a, str>>,
}

async fn listen(mut stream: SplitStream<Stream>, calls: &Calls, heard: &(dyn Fn() + Send + Sync)) -> Lost {
    loop {
        let text = match stream.next().await {
            Some(Ok(Message::Text(text))) => text,
            // The library answers it with the next read.
            Some(Ok(Message::Ping(_))) => continue,
            Some(Ok(Message::Pong(_))) => {
                calls.state().has_answered();
                continue;
            }
            Some(Ok(Message::Close(Some(why)))) => return broken(format_args!("the endpoint closed it: {why}")),
            Some(Ok(Message::Close(None))) | None => return broken("the endpoint closed it"),
            Some(Ok(Message::Binary(_) | Message::Frame(_))) => return broken("a message came that is no text"),
            Some(Err(tungstenite::Error::Capacity(_))) => return Lost::TooLong,
            Some(Err(error)) => return broken(error),
        };
        match serde_json::from_str(&text) {
            Ok(Envelope { method: Some(method), .. }) if method == "eth_subscription" => heard(),
            Ok(Envelope { method: None, id: Some(id) }) => calls.reply(id, text),
            Ok(_) => {}
            Err(error) => return broken(format_args!("a message came that is no JSON-RPC: {error}")),
        }
    }
}

/// Writes what is queued. What an endpoint does not take in time ends the connection.
async fn speak(mut sink: SplitSink<Stream, Message>, mut queue: mpsc::Receiver<Message>, limit: Duration) -> Lost {
    while let Some(message) = queue.recv().await {
        match tokio::time::timeout(limit, sink.send(message)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return broken(error),
            Err(_) => return broken(format_args!("it took no message for {limit:?}")),
        }
    }
    // Nobody is left who may ask. Whether the goodbye arrives does not matter.
    let _ = tokio::time::timeout(CLOSE_LIMIT, sink.close()).await;
    broken("it is not needed any more")
}

/// Asks for a sign of life after half of the limit, and returns when none came within the whole.
async fn watch_over(calls: &Calls, pings: &mpsc::WeakSender<Message>, limit: Duration) -> Lost {
    let mut ticks = tokio::time::interval((limit / 4).max(Duration::from_millis(1)));
    loop {
        ticks.tick().await;
        let mut state = calls.state();
        if state.owes_since.is_some_and(|since| since.elapsed() >= limit) {
            return broken(format_args!("neither a reply nor an answer to a ping came within {limit:?}"));
        }
        if !state.is_pinged && state.answered_at.elapsed() >= limit / 2 {
            state.is_pinged = true;
            state.owes_since.get_or_insert_with(Instant::now);
            // Where the queue is full, calls wait for an answer anyway.
            let _ = pings.upgrade().map(|pings| pings.try_send(Message::Ping(Bytes::new())));
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tokio_tungstenite::accept_async;

    use super::*;
    use crate::chain::http::{HTTP_OR_WS, server};

    /// A socket to a server that answers pings and nothing else.
    async fn unanswered(timeout: Duration) -> Arc<Socket> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let mut stream = accept_async(stream).await.unwrap();
                tokio::spawn(async move { while let Some(Ok(_)) = stream.next().await {} });
            }
        });
        let server = server(&url, HTTP_OR_WS, timeout, timeout).unwrap();
        let options = RpcOptions { timeout, ..RpcOptions::default() };
        Arc::new(Socket::new(server.client, server.url, &options, || ()))
    }

    #[tokio::test]
    async fn calls_that_end_early_are_forgotten() {
        let socket = unanswered(Duration::from_secs(60)).await;
        let call = |id| {
            let socket = socket.clone();
            tokio::spawn(async move { socket.call(id, "zgpu_hang", "{}".to_owned()).await })
        };
        let calls: Vec<_> = (0..MAX_CALLS as u64 + 10).map(call).collect();
        while socket.waiting().await < MAX_CALLS {
            tokio::task::yield_now().await;
        }
        assert_eq!((socket.waiting().await, socket.places.available_permits()), (MAX_CALLS, 0));
        calls.iter().for_each(|call| call.abort());
        for call in calls {
            assert!(call.await.unwrap_err().is_cancelled());
        }
        assert_eq!((socket.waiting().await, socket.places.available_permits()), (0, MAX_CALLS));

        let socket = unanswered(Duration::from_millis(500)).await;
        let lost = socket.call(1, "zgpu_hang", "{}".to_owned()).await.unwrap_err();
        assert!(matches!(lost, Lost::Timeout), "{lost:?}");
        assert_eq!((socket.waiting().await, socket.places.available_permits()), (0, MAX_CALLS));
    }
}
