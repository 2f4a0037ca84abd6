//! HTTP and WebSocket: the upgrade, the routes, and one [`link`] per connection.
//!
//! It moves bytes and knows when a connection has ended; what the bytes mean is the session's.

mod heard;
mod link;
mod serve;
mod upgrade;

#[cfg(test)]
pub(crate) use link::end;

use axum::{Json, Router, extract::State, routing::get};
use http::StatusCode;
use serde_json::json;

use crate::{assets, server::Server};

impl Server {
    /// Routes for the endpoint, the browser assets and `health`, all at and below the server's path. Mount them in any
    /// axum app with `merge`.
    pub fn router(&self) -> Router {
        let path = self.path();
        Router::new()
            .route(path, get(upgrade::handle))
            .route(&format!("{path}/health"), get(health))
            .route(&format!("{path}/{{asset}}"), get(assets::handle))
            .with_state(self.clone())
    }
}

/// 200 while serving, 503 once shutting down.
async fn health(State(server): State<Server>) -> (StatusCode, Json<serde_json::Value>) {
    let (status, text) =
        if server.is_closing() { (StatusCode::SERVICE_UNAVAILABLE, "closing") } else { (StatusCode::OK, "ok") };
    (
        status,
        Json(json!({ "status": text, "version": env!("CARGO_PKG_VERSION"), "metrics": server.metrics_snapshot() })),
    )
}
