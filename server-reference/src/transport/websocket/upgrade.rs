//! The upgrade from an HTTP request to a WebSocket, or the status that refuses it.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    extract::{ConnectInfo, Request, State},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::link;
use crate::{
    auth::{AuthError, AuthRequest},
    connection::Protocol,
    metrics::Metrics,
    protocol::{Node, Seat, Session},
};

/// The one version of RFC 6455.
const VERSION: &str = "13";

pub(crate) async fn handle(State(node): State<Arc<Node>>, request: Request) -> Response {
    match accept(&node, request).await {
        Ok(response) => response,
        Err((status, why)) => {
            Metrics::add(&node.metrics.refused, 1);
            tracing::debug!(%status, why, "an upgrade was refused");
            let mut response = (status, why).into_response();
            // Tells clients that a datasole server refuses, and nothing in between.
            let marked = match status {
                StatusCode::UNAUTHORIZED => "token",
                StatusCode::FORBIDDEN => "origin",
                _ => "other",
            };
            response.headers_mut().insert("datasole-refused", HeaderValue::from_static(marked));
            if status == StatusCode::UPGRADE_REQUIRED {
                response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
                response.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static(VERSION));
            }
            response
        }
    }
}

type Refusal = (StatusCode, &'static str);

async fn accept(node: &Arc<Node>, mut request: Request) -> Result<Response, Refusal> {
    let key = handshake_key(&request)?;
    if !node.origins.admit(request.headers()) {
        return Err((StatusCode::FORBIDDEN, "this origin may not connect"));
    }
    if node.is_closing() {
        return Err((StatusCode::SERVICE_UNAVAILABLE, "the server is shutting down"));
    }
    let on_upgrade = request
        .extensions_mut()
        .remove::<OnUpgrade>()
        .ok_or((StatusCode::UPGRADE_REQUIRED, "this connection cannot be upgraded"))?;
    let (protocol, chosen) = negotiate(request.headers());
    let response = switching(&key, chosen);

    // The seat is taken before anything is asked of the authentication: it is what a flood would exhaust.
    let Some(seat) = node.seat() else {
        Metrics::add(&node.metrics.refused, 1);
        let node = node.clone();
        tokio::spawn(async move {
            if let Ok(upgraded) = on_upgrade.await {
                link::turn_away(TokioIo::new(upgraded), &node).await;
            }
        });
        return Ok(response);
    };

    let remote = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0);
    let (parts, _) = request.into_parts();
    let mut auth = AuthRequest::new(parts.uri, parts.headers, remote);
    let connection = node.connection(protocol, remote);
    let deferred = protocol == Protocol::V2 && auth.query("auth").as_deref() == Some("frame");
    let upgrade = if deferred {
        auth.token = None;
        node.expect(&connection);
        Some(Box::new(auth))
    } else {
        let identity = node.identify(auth).await.map_err(refusal)?;
        if let Some(task) = node.welcome(&connection, identity) {
            tokio::spawn(task);
        }
        None
    };
    let session = Session::new(node.clone(), connection, upgrade);
    tokio::spawn(serve(on_upgrade, node.clone(), session, seat));
    Ok(response)
}

/// Runs the connection to its end. The session is ended on every way out, also when the upgrade fails.
async fn serve(on_upgrade: OnUpgrade, node: Arc<Node>, session: Session, seat: Seat) {
    match on_upgrade.await {
        Ok(upgraded) => run(upgraded, node, session, seat).await,
        Err(error) => {
            tracing::debug!(%error, "an upgrade failed");
            Box::pin(link::end(session)).await;
        }
    }
}

/// Boxed, because the task was allocated for what waits for the upgrade, which is much smaller.
fn run(upgraded: Upgraded, node: Arc<Node>, session: Session, seat: Seat) -> BoxFuture<'static, ()> {
    // Straight on the socket where it is one: no indirection, no second buffer.
    match upgraded.downcast::<TokioIo<TcpStream>>() {
        Ok(parts) => {
            let stream = parts.io.into_inner();
            // Answers are written in whole batches: waiting for more would only delay them.
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "TCP_NODELAY");
            }
            link::run(stream, parts.read_buf, node, session, seat).boxed()
        }
        Err(upgraded) => link::run(TokioIo::new(upgraded), Bytes::new(), node, session, seat).boxed(),
    }
}

fn refusal(error: AuthError) -> Refusal {
    match error {
        AuthError::Refused(why) => {
            tracing::debug!(why, "credentials were refused");
            (StatusCode::UNAUTHORIZED, "unauthorized")
        }
        AuthError::TimedOut => (StatusCode::REQUEST_TIMEOUT, "authentication timed out"),
        AuthError::Failed(why) => {
            tracing::error!(why, "the auth hook failed");
            (StatusCode::INTERNAL_SERVER_ERROR, "authentication failed")
        }
    }
}

/// RFC 6455, section 4.2.1.
fn handshake_key(request: &Request) -> Result<String, Refusal> {
    let headers = request.headers();
    let upgrade = request.method() == Method::GET
        && has_token(headers, &header::CONNECTION, "upgrade")
        && has_token(headers, &header::UPGRADE, "websocket");
    if !upgrade {
        return Err((StatusCode::UPGRADE_REQUIRED, "this is a WebSocket endpoint"));
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != VERSION) {
        return Err((StatusCode::UPGRADE_REQUIRED, "Sec-WebSocket-Version must be 13"));
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes).filter(|key| is_nonce(key));
    let key = key.ok_or((StatusCode::BAD_REQUEST, "Sec-WebSocket-Key must be 16 bytes in base64"))?;
    Ok(derive_accept_key(key))
}

/// True for the base64 of 16 bytes: 22 digits and the padding.
fn is_nonce(key: &[u8]) -> bool {
    let is_digit = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    key.len() == 24 && key.strip_suffix(b"==").is_some_and(|digits| digits.iter().all(is_digit))
}

fn has_token(headers: &HeaderMap, name: &header::HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(token)))
}

/// Version 2 where it is offered; no subprotocol means version 1.
fn negotiate(headers: &HeaderMap) -> (Protocol, Option<&'static str>) {
    let [v1, v2] = datasole_core::wire::SUBPROTOCOLS;
    if has_token(headers, &header::SEC_WEBSOCKET_PROTOCOL, v2) {
        (Protocol::V2, Some(v2))
    } else if has_token(headers, &header::SEC_WEBSOCKET_PROTOCOL, v1) {
        (Protocol::V1, Some(v1))
    } else {
        (Protocol::V1, None)
    }
}

fn switching(accept: &str, protocol: Option<&'static str>) -> Response {
    let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accept) = HeaderValue::from_str(accept) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    if let Some(protocol) = protocol {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    }
    response
}
