//! The routes at and below the path of the endpoint.

use std::sync::Arc;

use axum::{Router, routing::get};

use super::{health, state, websocket};
use crate::{assets, protocol::Node};

/// Routes for the endpoint, the browser assets, `health` and the values of states.
pub(crate) fn router(node: Arc<Node>) -> Router {
    let path = node.path.trim_end_matches('/');
    let mut router = Router::new()
        .route(&format!("{path}/"), get(websocket::handle))
        .route(&format!("{path}/health"), get(health::handle))
        .route(&format!("{path}/state/{{*key}}"), get(state::handle).options(state::preflight))
        .route(&format!("{path}/{{asset}}"), get(assets::handle));
    #[cfg(feature = "contract")]
    if node.contract.is_some() && cfg!(debug_assertions) {
        router = router
            .route(&format!("{path}/contract.ts"), get(super::contract::typescript))
            .route(&format!("{path}/contract.json"), get(super::contract::json));
    }
    if !path.is_empty() {
        router = router.route(path, get(websocket::handle));
    }
    router.with_state(node)
}
