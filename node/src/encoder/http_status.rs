//! `/metrics` for Prometheus and `/status` as JSON, over HTTP.

use std::sync::Arc;

use axum::{
    Router,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};

use super::{dispatch::Dispatcher, metrics::Metrics};

const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub(super) fn router(dispatcher: Arc<Dispatcher>, metrics: Metrics) -> Router {
    let status = Arc::clone(&dispatcher);
    Router::new()
        .route("/metrics", get(async move || answer(METRICS_TYPE, metrics.text(&dispatcher.load()))))
        .route("/status", get(async move || answer("application/json", serde_json::to_string_pretty(&status.load()))))
}

fn answer<E: std::fmt::Display>(content_type: &'static str, text: Result<String, E>) -> Response {
    match text {
        Ok(text) => ([(CONTENT_TYPE, content_type)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
