//! Asking the authentication hook about an HTTP request.

use std::net::IpAddr;

use http::StatusCode;

use crate::{
    admission::{Kind, Rejection},
    auth::{AuthError, AuthRequest, Identity},
    protocol::Node,
};

/// The identity of who sends a request from this address; a wrong token is noted.
pub(super) async fn identify(node: &Node, from: Option<IpAddr>, request: AuthRequest) -> Result<Identity, Rejection> {
    let identified = node.identify(request).await;
    if matches!(identified, Err(AuthError::Refused(_))) {
        node.admission.guesses.charge(from, 1.0);
    }
    identified.map_err(refusal)
}

fn refusal(error: AuthError) -> Rejection {
    let (status, kind, text) = match error {
        AuthError::Refused(why) => {
            tracing::debug!(why, "credentials were refused");
            (StatusCode::UNAUTHORIZED, Kind::Token, "unauthorized")
        }
        AuthError::TimedOut => (StatusCode::REQUEST_TIMEOUT, Kind::Auth, "authentication timed out"),
        AuthError::Failed(why) => {
            tracing::error!(why, "the auth hook failed");
            (StatusCode::INTERNAL_SERVER_ERROR, Kind::Auth, "authentication failed")
        }
    };
    Rejection::new(status, kind, text)
}
