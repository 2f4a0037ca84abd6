//! `state/KEY`: the value of a state with its position, for who has no connection: a server that renders pages, a script.
//!
//! The rules are those of a SUBSCRIBE: the same credentials, policies and origins. Answers are counted in bytes, of one address
//! and of all, until they are sent.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    body::Body,
    extract::{ConnectInfo, Path, Request, State, rejection::PathRejection},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use datasole_core::{StreamId, StreamKind, codes, wire};
use http::{HeaderValue, StatusCode, header};

use super::{
    credentials::identify,
    refused::{self, refused},
};
use crate::{
    admission::{Full, Kind, Listening, Rejection, Requester, Seat, counted},
    answer::Refusal,
    auth::AuthRequest,
    message::json,
    metrics::Metrics,
    primitives::state,
    protocol::Node,
};

/// Bytes that a request holds, its answer included unless that is longer.
const REQUEST: usize = 16 * 1024;
/// Bytes that a request counts for, beside its answer, where their rate is bounded.
const ASKED: usize = 2 * 1024;

/// Answers with `{value, epoch, seq}`, or with an error in JSON.
pub(super) async fn handle(
    node: State<Arc<Node>>,
    key: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response {
    let node = node.0;
    let (requester, peer) = requester(&node, &request);
    let (origin, outcome) = match origin(&node, &request, &requester) {
        Ok(origin) => (origin, read(&node, key, request, &requester).await),
        Err(rejection) => (None, Err(rejection)),
    };
    finish(&node, peer, origin, outcome)
}

/// Tells a browser whether a page of another origin may ask, and with which headers.
pub(super) async fn preflight(State(node): State<Arc<Node>>, request: Request) -> Response {
    let (requester, peer) = requester(&node, &request);
    let (origin, outcome) = match origin(&node, &request, &requester) {
        Ok(origin) => (origin, Ok(StatusCode::NO_CONTENT.into_response())),
        Err(rejection) => (None, Err(rejection)),
    };
    let mut response = finish(&node, peer, origin, outcome);
    let headers = response.headers_mut();
    headers.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD, OPTIONS"));
    if headers.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, HEAD"));
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("authorization"));
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    }
    response
}

fn requester(node: &Node, request: &Request) -> (Requester, Option<SocketAddr>) {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0);
    (node.admission.proxies.requester(peer, request.headers()), peer)
}

/// Checks the host and the page's origin; that of `Access-Control-Allow-Origin`.
fn origin(node: &Node, request: &Request, requester: &Requester) -> Result<Option<HeaderValue>, Rejection> {
    node.admission.host(request.headers(), Listening::Elsewhere)?;
    node.admission.origins.admit_reader(request.headers(), requester)
}

async fn read(
    node: &Arc<Node>,
    key: Result<Path<String>, PathRejection>,
    request: Request,
    requester: &Requester,
) -> Result<Response, Rejection> {
    let (remote, from) = (requester.remote, counted(requester.remote));
    let bad = |_| Rejection::new(StatusCode::BAD_REQUEST, Kind::Handshake, "the key is not percent-encoded UTF-8");
    let id = StreamId { kind: StreamKind::State, key: key.map_err(bad)?.0 };
    if node.is_closing() {
        return Err(Rejection::new(StatusCode::SERVICE_UNAVAILABLE, Kind::Closing, "the server is shutting down"));
    }
    node.admission.guesses.admit(from, "many wrong tokens")?;
    if let Some(reads) = &node.admission.reads {
        reads.admit(from, "much is read")?;
        reads.charge(from, ASKED as f64);
    }
    // Taken before anything is asked of the authentication: it is what a flood would exhaust.
    let asking = node.answers(REQUEST, from).map_err(full)?;
    let (parts, _) = request.into_parts();
    let identity = identify(node, from, AuthRequest::new(parts.uri, parts.headers, remote)).await?;
    let Some((identity, lane)) = node.visitor(identity, remote) else {
        return Err(Rejection::new(StatusCode::UNAUTHORIZED, Kind::Token, "unauthorized"));
    };
    node.gate.subscription(&identity, &id, 0).map_err(refusal)?;
    let text = state::read(&node.hub, &id.key, lane).await.map_err(|error| refusal(Refusal::failed(&error)))?;
    let Some(text) = text else {
        return Err(Rejection::new(StatusCode::NOT_FOUND, Kind::Missing, "there is no state of this key"));
    };
    let answering = node.answers(text.len().saturating_sub(REQUEST), from).map_err(full)?;
    if let Some(reads) = &node.admission.reads {
        reads.charge(from, text.len() as f64);
    }
    let answer = Answer { text, _seats: [asking, answering] };
    let kind = (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(([kind], Body::from(Bytes::from_owner(answer))).into_response())
}

/// An answer, which is counted as long as it is in memory.
struct Answer {
    text: Vec<u8>,
    _seats: [Seat; 2],
}

impl AsRef<[u8]> for Answer {
    fn as_ref(&self) -> &[u8] {
        &self.text
    }
}

fn full(full: Full) -> Rejection {
    let text = match full {
        Full::All => "too many answers are on their way",
        Full::Share => "too many answers to this address are on their way; if it is a proxy's: --trust-proxy",
    };
    let rejection = Rejection::new(StatusCode::SERVICE_UNAVAILABLE, Kind::Limit, text);
    Rejection { retry_after: Some(1), ..rejection }
}

fn refusal(refusal: Refusal) -> Rejection {
    let (status, kind) = match refusal.code {
        codes::FORBIDDEN => (StatusCode::FORBIDDEN, Kind::Access),
        codes::INVALID_REQUEST => (StatusCode::BAD_REQUEST, Kind::Handshake),
        codes::LIMIT => (StatusCode::SERVICE_UNAVAILABLE, Kind::Limit),
        _ => (StatusCode::SERVICE_UNAVAILABLE, Kind::Backend),
    };
    let retry_after = refusal.retry_after.and_then(|wait| u32::try_from(wait.div_ceil(1_000)).ok());
    Rejection { retry_after, ..Rejection::new(status, kind, refusal.message) }
}

fn finish(
    node: &Node,
    peer: Option<SocketAddr>,
    origin: Option<HeaderValue>,
    outcome: Result<Response, Rejection>,
) -> Response {
    let mut response = outcome.unwrap_or_else(|rejection| {
        Metrics::add(&node.metrics.refused, 1);
        let error = error(&rejection);
        let mut response = refused(node, rejection, peer);
        *response.body_mut() = Body::from(error);
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    });
    let headers = response.headers_mut();
    headers.insert(refused::MARK, HeaderValue::from_static(env!("CARGO_PKG_VERSION")));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::VARY, HeaderValue::from_static("origin"));
    if let Some(origin) = origin {
        // Where every page may ask, none acts with the cookies of its visitors.
        if origin != "*" {
            headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        let exposed = HeaderValue::from_static("datasole, datasole-refused, retry-after");
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
    }
    response
}

/// `{"error": …}` with what an ERROR has.
fn error(rejection: &Rejection) -> Vec<u8> {
    #[derive(serde::Serialize)]
    struct Failed<'a> {
        error: wire::ErrorBody<'a>,
    }
    let code = match rejection.kind {
        Kind::Token => codes::UNAUTHORIZED,
        Kind::Origin | Kind::Host | Kind::Access => codes::FORBIDDEN,
        Kind::Missing => codes::NOT_FOUND,
        Kind::Limit => codes::LIMIT,
        Kind::Closing => codes::SHUTTING_DOWN,
        Kind::Auth | Kind::Backend => codes::INTERNAL,
        Kind::Upgrade | Kind::Handshake | Kind::Cut | Kind::Accept => codes::INVALID_REQUEST,
    };
    let retry_after = rejection.retry_after.map(|seconds| u64::from(seconds) * 1_000);
    let error = wire::ErrorBody { message: rejection.text.as_ref().into(), code: Some(code), retry_after };
    json(&Failed { error })
}
