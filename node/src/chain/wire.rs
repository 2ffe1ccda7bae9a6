//! How a request gets to an endpoint and its reply back: over HTTP or over a WebSocket.

use std::time::Duration;

use alloy::transports::http::reqwest::{self, Response, Url, header};
use bytes::Bytes;

use super::{
    http::{Server, with_causes},
    rpc::RpcOptions,
    ws::Socket,
};

/// The way to one endpoint.
pub(super) enum Wire {
    Http(Poster),
    Ws(Box<Socket>),
}

/// What came back, as it came.
#[derive(Debug)]
pub(super) struct Answer {
    /// HTTP status; 200 for what came over a WebSocket.
    pub(super) status: u16,
    /// When the endpoint asks to be asked again.
    pub(super) retry_after: Option<Duration>,
    pub(super) body: Bytes,
}

/// Why nothing came back.
#[derive(Clone, Debug)]
pub(super) enum Lost {
    Timeout,
    /// It is longer than what is taken.
    TooLong,
    /// The endpoint refuses a connection, in the words of HTTP.
    Refused {
        status: u16,
        retry_after: Option<Duration>,
        body: Vec<u8>,
    },
    /// What the system says. May hold secrets.
    Broken(String),
}

impl Wire {
    /// Prepares the way to `server`; nothing is sent yet. `heard` is called whenever it announces a new block.
    pub(super) fn new(server: Server, options: &RpcOptions, heard: impl Fn() + Send + Sync + 'static) -> Self {
        let Server { url, client, .. } = server;
        if matches!(url.scheme(), "ws" | "wss") {
            Wire::Ws(Box::new(Socket::new(client, url, options, heard)))
        } else {
            Wire::Http(Poster { client, url, timeout: options.timeout, limit: options.max_reply_bytes })
        }
    }

    /// Sends the request with this id, and waits for its reply.
    pub(super) async fn exchange(&self, id: u64, method: &'static str, request: String) -> Result<Answer, Lost> {
        match self {
            Wire::Http(poster) => poster.post(request).await,
            Wire::Ws(socket) => socket.call(id, method, request).await,
        }
    }

    /// The WebSocket, if it is one.
    pub(super) fn socket(&self) -> Option<&Socket> {
        match self {
            Wire::Http(_) => None,
            Wire::Ws(socket) => Some(socket),
        }
    }
}

/// Sends each request by itself, over connections that are kept.
pub(super) struct Poster {
    client: reqwest::Client,
    url: Url,
    timeout: Duration,
    /// Longest reply that is taken, in bytes.
    limit: usize,
}

impl Poster {
    async fn post(&self, request: String) -> Result<Answer, Lost> {
        let request = self.client.post(self.url.clone()).header(header::CONTENT_TYPE, "application/json").body(request);
        let exchange = async {
            let mut response = request.send().await.map_err(lost)?;
            let body = body(&mut response, self.limit).await?;
            Ok(Answer { status: response.status().as_u16(), retry_after: retry_after(&response), body: body.into() })
        };
        // The HTTP client has the same limit; this one also covers what it does not count, such as name lookups.
        let limit = self.timeout + Duration::from_secs(1);
        tokio::time::timeout(limit, exchange).await.unwrap_or(Err(Lost::Timeout))
    }
}

/// The whole body, up to the longest that is taken.
pub(super) async fn body(response: &mut Response, limit: usize) -> Result<Vec<u8>, Lost> {
    let mut body = Vec::new();
    while let Some(part) = response.chunk().await.map_err(lost)? {
        if body.len() + part.len() > limit {
            return Err(Lost::TooLong);
        }
        body.extend_from_slice(&part);
    }
    Ok(body)
}

/// When the endpoint asks to be asked again: seconds, the form that endpoints use.
pub(super) fn retry_after(response: &Response) -> Option<Duration> {
    let seconds: u64 = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

pub(super) fn lost(error: reqwest::Error) -> Lost {
    if error.is_timeout() { Lost::Timeout } else { Lost::Broken(with_causes(&error.without_url())) }
}
