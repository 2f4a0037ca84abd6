//! The upgrade from an HTTP request to a WebSocket, or the status that refuses it.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    extract::{ConnectInfo, Request, State},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::{
    super::{
        credentials::identify,
        lobby::{Flow, Watched},
        refused::refused,
    },
    link, parting,
};
use crate::{
    admission::{Full, Kind, Listening, Rejection, Requester, Seat, counted},
    auth::AuthRequest,
    connection::Protocol,
    metrics::Metrics,
    protocol::{Node, Session},
};

/// The one version of RFC 6455.
const VERSION: &str = "13";
const NO_REQUEST: &str = "this is a WebSocket endpoint";
const NO_UPGRADE: &str = "a proxy in front does not pass the upgrade on (nginx: proxy_http_version 1.1; proxy_set_header \
                          Upgrade $http_upgrade; proxy_set_header Connection \"upgrade\"): see docs/proxies.md, 426";

pub(crate) async fn handle(State(node): State<Arc<Node>>, request: Request) -> Response {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0);
    match accept(&node, request, peer).await {
        Ok(response) => response,
        Err(rejection) => {
            Metrics::add(&node.metrics.refused, 1);
            refused(&node, rejection, peer)
        }
    }
}

async fn accept(node: &Arc<Node>, mut request: Request, peer: Option<SocketAddr>) -> Result<Response, Rejection> {
    let reject = Rejection::new;
    let key = handshake_key(&request)?;
    let requester = node.admission.proxies.requester(peer, request.headers());
    node.admission.host(request.headers(), Listening::Elsewhere)?;
    node.admission.origins.admit(request.headers(), &requester)?;
    if node.is_closing() {
        return Err(reject(StatusCode::SERVICE_UNAVAILABLE, Kind::Closing, "the server is shutting down"));
    }
    let on_upgrade = request
        .extensions_mut()
        .remove::<OnUpgrade>()
        .ok_or_else(|| reject(StatusCode::UPGRADE_REQUIRED, Kind::Upgrade, "this connection cannot be upgraded"))?;
    let (protocol, chosen) = negotiate(request.headers());
    let response = switching(&key, chosen);

    let address = counted(requester.remote);
    node.admission.guesses.admit(address, "many wrong tokens")?;

    // The seat is taken before anything is asked of the authentication: it is what a flood would exhaust.
    let seat = match node.seat(address) {
        Ok(seat) => seat,
        Err(full) => return turn_away(node, on_upgrade, full, &requester).map(|()| response),
    };
    if let Some(flow) = request.extensions().get::<Arc<Flow>>() {
        flow.seat();
    }

    let remote = requester.remote;
    let (parts, _) = request.into_parts();
    let mut auth = AuthRequest::new(parts.uri, parts.headers, remote);
    let connection = node.connection(protocol, remote);
    let deferred = protocol == Protocol::V2 && auth.query("auth").as_deref() == Some("frame");
    let upgrade = if deferred {
        auth.token = None;
        node.expect(&connection);
        Some(Box::new(auth))
    } else {
        let identity = identify(node, address, auth).await?;
        if let Some(task) = node.welcome(&connection, identity) {
            tokio::spawn(task);
        }
        None
    };
    let session = Session::new(node.clone(), connection, upgrade);
    tokio::spawn(serve(on_upgrade, session, seat));
    Ok(response)
}

/// Upgrades a socket for which there is no place, and closes it with the reason: a page cannot see a status.
fn turn_away(node: &Arc<Node>, on_upgrade: OnUpgrade, full: Full, requester: &Requester) -> Result<(), Rejection> {
    let (why, text) = match full {
        Full::All => ("too many connections", "all places are taken: --max-connections"),
        Full::Share => (
            "too many connections from this address",
            "an address has its share of the places; if it is a proxy's: --trust-proxy",
        ),
    };
    let Some(parting) = node.admission.places.part() else {
        let rejection = Rejection::new(StatusCode::SERVICE_UNAVAILABLE, Kind::Limit, why);
        return Err(Rejection { retry_after: Some(1), ..rejection });
    };
    node.admission.rejections.tell(Kind::Limit, text, requester.remote);
    Metrics::add(&node.metrics.refused, 1);
    let node = node.clone();
    tokio::spawn(async move {
        if let Ok(upgraded) = on_upgrade.await {
            parting::turn_away(TokioIo::new(upgraded), &node, why).await;
        }
        drop(parting);
    });
    Ok(())
}

/// Waits for the upgrade and has a task of its own run the connection: idle connections are made of tasks, and one keeps the
/// room of whatever it has once held. The session is ended on every way out, also when the upgrade fails.
async fn serve(on_upgrade: OnUpgrade, session: Session, seat: Seat) {
    let upgraded = match on_upgrade.await {
        Ok(upgraded) => upgraded,
        Err(error) => {
            tracing::debug!(%error, "an upgrade failed");
            return link::end(session).await;
        }
    };
    // Straight on the socket where it is one: no indirection, no second buffer.
    match upgraded.downcast::<TokioIo<Watched>>() {
        Ok(parts) => {
            let stream = parts.io.into_inner().into_inner();
            // Answers are written in whole batches: waiting for more would only delay them.
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "TCP_NODELAY");
            }
            tokio::spawn(link::run(stream, &parts.read_buf, session, seat));
        }
        Err(upgraded) => drop(tokio::spawn(link::run(TokioIo::new(upgraded), &[], session, seat))),
    }
}

/// RFC 6455, section 4.2.1.
fn handshake_key(request: &Request) -> Result<String, Rejection> {
    let headers = request.headers();
    let upgrade = request.method() == Method::GET
        && has_token(headers, &header::CONNECTION, "upgrade")
        && has_token(headers, &header::UPGRADE, "websocket");
    if !upgrade {
        // Proxies drop the headers of a hop, and pass this one on.
        let text = if headers.contains_key(header::SEC_WEBSOCKET_KEY) { NO_UPGRADE } else { NO_REQUEST };
        return Err(Rejection::new(StatusCode::UPGRADE_REQUIRED, Kind::Upgrade, text));
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != VERSION) {
        let text = "Sec-WebSocket-Version must be 13";
        return Err(Rejection::new(StatusCode::UPGRADE_REQUIRED, Kind::Handshake, text));
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes).filter(|key| is_nonce(key));
    let Some(key) = key else {
        let text = "Sec-WebSocket-Key must be 16 bytes in base64";
        return Err(Rejection::new(StatusCode::BAD_REQUEST, Kind::Handshake, text));
    };
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
