//! The routes at and below the path of the endpoint.

use std::sync::Arc;

use axum::{Json, Router, extract::State, routing::get};
use http::StatusCode;
use serde_json::json;

use super::websocket;
use crate::{assets, protocol::Node};

/// Routes for the endpoint, the browser assets and `health`.
pub(crate) fn router(node: Arc<Node>) -> Router {
    let path = &node.path;
    Router::new()
        .route(path, get(websocket::handle))
        .route(&format!("{path}/health"), get(health))
        .route(&format!("{path}/{{asset}}"), get(assets::handle))
        .with_state(node)
}

/// 200 while serving, 503 once shutting down.
async fn health(State(node): State<Arc<Node>>) -> (StatusCode, Json<serde_json::Value>) {
    let (status, text) =
        if node.is_closing() { (StatusCode::SERVICE_UNAVAILABLE, "closing") } else { (StatusCode::OK, "ok") };
    (status, Json(json!({ "status": text, "version": env!("CARGO_PKG_VERSION"), "metrics": node.metrics_snapshot() })))
}
