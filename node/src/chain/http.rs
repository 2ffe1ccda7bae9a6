//! Servers that are spoken to over HTTP, if only to turn to WebSocket: a URL, a client for it, and the part of the URL that
//! may be shown.

use std::{error::Error, time::Duration};

use alloy::transports::http::reqwest::{self, Url, redirect::Policy};

/// Schemes of servers that take requests over HTTP.
pub(crate) const HTTP: &[&str] = &["http", "https"];
/// Schemes of endpoints of a chain.
pub(crate) const HTTP_OR_WS: &[&str] = &["http", "https", "ws", "wss"];

/// A server, and how it is reached.
pub(crate) struct Server {
    /// Its URL, which may hold credentials.
    pub(crate) url: Url,
    /// Follows no redirects.
    pub(crate) client: reqwest::Client,
    /// Scheme, host and port.
    pub(crate) shown: String,
}

/// Prepares requests to the server at `url`, which has one of these schemes; nothing is sent yet. The error says what is
/// wrong, without the URL.
pub(crate) fn server(
    url: &str,
    schemes: &[&str],
    connect_timeout: Duration,
    timeout: Duration,
) -> Result<Server, String> {
    let url = Url::parse(url.trim()).map_err(|error| error.to_string())?;
    if !schemes.contains(&url.scheme()) {
        return Err(format!("scheme {:?} is none of {}", url.scheme(), schemes.join(", ")));
    }
    let host = url.host_str().ok_or("it names no host")?;
    let mut builder =
        reqwest::Client::builder().timeout(timeout).connect_timeout(connect_timeout).redirect(Policy::none());
    if matches!(host, "localhost" | "127.0.0.1" | "[::1]") {
        // A proxy of the environment cannot reach this machine's own ports.
        builder = builder.no_proxy();
    }
    if matches!(url.scheme(), "ws" | "wss") {
        // Only the first version of HTTP turns into WebSocket.
        builder = builder.http1_only();
    }
    let client = builder.build().map_err(|error| error.without_url().to_string())?;
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    let shown = format!("{}://{host}{port}", url.scheme());
    Ok(Server { url, client, shown })
}

/// An error and what caused it, on one line. reqwest's own text names the kind of failure only.
pub(crate) fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
