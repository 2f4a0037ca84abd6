//! `contract.ts` and `contract.json`: the contract of a server under development.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{StatusCode, header};

use crate::protocol::Node;

/// The TypeScript module.
pub(super) async fn typescript(State(node): State<Arc<Node>>) -> Response {
    match &node.contract {
        Some(contract) => {
            let headers = [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::CACHE_CONTROL, "no-store")];
            (headers, contract.typescript.clone()).into_response()
        }
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

/// The description, by which versions are compared.
pub(super) async fn json(State(node): State<Arc<Node>>) -> Response {
    match &node.contract {
        Some(contract) => ([(header::CACHE_CONTROL, "no-store")], Json(&contract.description)).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}
