//! `health`: whether this server is alive, and whether it should be sent users.

use std::sync::Arc;

use axum::{
    Json,
    extract::{RawQuery, State},
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use super::refused::MARK;
use crate::protocol::Node;

/// 200 while ready, else 503. With `?live` 200 as long as the process answers.
pub(super) async fn handle(State(node): State<Arc<Node>>, RawQuery(query): RawQuery) -> Response {
    let part = |ready: bool, reason: &str| match ready {
        true => json!({ "ready": true }),
        false => json!({ "ready": false, "reason": reason }),
    };
    let (accepts, stores) = (!node.is_closing(), node.hub.stores().await);
    let ready = accepts && stores;
    let mut body = json!({
        "live": true,
        "ready": ready,
        "version": env!("CARGO_PKG_VERSION"),
        "parts": {
            "connections": part(accepts, "the server is shutting down"),
            "backend": part(stores, "the backend does not store; the log says why"),
        },
    });
    if node.public_metrics {
        body["metrics"] = serde_json::to_value(node.metrics_snapshot()).unwrap_or(Value::Null);
    }
    let asks_for_life = query.is_some_and(|query| query.split('&').any(|part| part == "live" || part == "live="));
    let status = if ready || asks_for_life { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut response = (status, Json(body)).into_response();
    let headers = response.headers_mut();
    headers.insert(MARK, HeaderValue::from_static(env!("CARGO_PKG_VERSION")));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // Pages of refused origins may ask, too: it tells them that the server is there.
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(MARK));
    response
}
