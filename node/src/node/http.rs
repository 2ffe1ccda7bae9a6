//! `/metrics` for Prometheus, `/status` as JSON, and `/health` for whoever watches over the node.

use std::{io, net::SocketAddr, sync::Arc};

use axum::{
    Router,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::json;
use tokio::net::TcpListener;

use super::{metrics::Metrics, observe::Observer, supervise::Stop};

const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Listens; nothing is answered before [`serve`].
pub(super) async fn listen(address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// Answers until it is told to stop.
pub(super) async fn serve(
    listener: TcpListener,
    observer: Arc<Observer>,
    metrics: Metrics,
    mut stop: Stop,
) -> anyhow::Result<()> {
    let (status, health, metrics) = (observer.clone(), observer.clone(), Arc::new(metrics));
    let router = Router::new()
        .route("/metrics", get(async move || text(METRICS_TYPE, metrics.text(&*observer.snapshot().await))))
        .route("/status", get(async move || json_text(serde_json::to_string_pretty(&*status.snapshot().await))))
        .route("/health", get(async move || healthy(&health).await));
    let serving = axum::serve(listener, router).with_graceful_shutdown(async move { stop.wanted().await });
    Ok(serving.await?)
}

/// 200 when the node is healthy, 503 when it is not, with the reasons.
async fn healthy(observer: &Observer) -> Response {
    let now = observer.snapshot().await;
    let status = if now.healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let answer = json!({ "healthy": now.healthy, "reasons": now.unhealthy_because });
    (status, json_text(serde_json::to_string(&answer))).into_response()
}

fn json_text(text: Result<String, serde_json::Error>) -> Response {
    self::text("application/json", text)
}

fn text<E: std::fmt::Display>(content_type: &'static str, text: Result<String, E>) -> Response {
    match text {
        Ok(text) => ([(CONTENT_TYPE, content_type)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
