//! The answer to those that are turned away.

use std::net::SocketAddr;

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};

use crate::{
    admission::{Kind, Rejection},
    protocol::Node,
};

/// Tells our answers from those of a proxy.
pub(super) const MARK: &str = "datasole";
/// Why, by one word: tells our own refusals from those of a proxy.
const REFUSED: &str = "datasole-refused";

/// The answer to a rejection, which is logged.
pub(super) fn refused(node: &Node, rejection: Rejection, peer: Option<SocketAddr>) -> Response {
    let Rejection { status, kind, text, retry_after } = rejection;
    // A wrong token is its user's matter, not the operator's, and so is a key; a shutdown is no news, and a failure is told already.
    let is_quiet = matches!(kind, Kind::Token | Kind::Closing | Kind::Access | Kind::Missing | Kind::Backend);
    if is_quiet || text == "this is a WebSocket endpoint" {
        tracing::debug!(%status, "{text}");
    } else {
        node.admission.rejections.tell(kind, &text, peer);
    }
    let mut response = (status, text).into_response();
    let headers = response.headers_mut();
    headers.insert(REFUSED, HeaderValue::from_static(kind.name()));
    headers.insert(MARK, HeaderValue::from_static(env!("CARGO_PKG_VERSION")));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Some(seconds) = retry_after {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if status == StatusCode::UPGRADE_REQUIRED {
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    }
    response
}
