//! The folder of `--static`. Hidden files are not served, except those below `.well-known`; symbolic links are followed.

use std::{path::Path, sync::Arc};

use axum::{
    Router,
    extract::{Request, State},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use tower_http::services::ServeDir;

/// The router with the folder below it, at the base path or at the root.
pub(crate) fn serve(router: Router, folder: &Path, base: Option<&str>) -> Router {
    let prefix: Arc<str> = base.unwrap_or_default().into();
    let files = Router::new().fallback_service(ServeDir::new(folder)).layer(from_fn_with_state(prefix, visible));
    match base {
        Some(base) => router.nest(base, files),
        None => router.fallback_service(files),
    }
}

/// Passes on requests for files that are not hidden, and keeps browsers from guessing their types.
async fn visible(State(prefix): State<Arc<str>>, request: Request, next: Next) -> Response {
    if is_hidden(request.uri().path()) {
        return StatusCode::NOT_FOUND.into_response();
    }
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // Folders are redirected to their path as the folder's service saw it.
    if !prefix.is_empty()
        && let Some(location) = headers.get_mut(header::LOCATION)
        && let Ok(moved) = HeaderValue::from_bytes(&[prefix.as_bytes(), location.as_bytes()].concat())
    {
        *location = moved;
    }
    response
}

/// True if a part of the path begins with a dot, as it is or escaped; or if two slashes begin it, which a redirect would
/// make another host of.
fn is_hidden(path: &str) -> bool {
    let is_hidden = |part: &str| (part.starts_with('.') && part != ".well-known") || starts_with_escaped_dot(part);
    path.starts_with("//") || path.split('/').any(is_hidden)
}

fn starts_with_escaped_dot(part: &str) -> bool {
    part.get(..3).is_some_and(|escape| escape.eq_ignore_ascii_case("%2e"))
        // An escaped slash begins another part.
        || part.to_ascii_lowercase().split("%2f").skip(1).any(|part| part.starts_with('.') || part.starts_with("%2e"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_hide_however_they_are_written() {
        for hidden in [
            "/.env",
            "/a/.git/config",
            "/%2eenv",
            "/a/%2Eb",
            "/a%2f.env",
            "/a%2F%2eenv",
            "//a",
            "/..",
            "/.well-known/.a",
        ] {
            assert!(is_hidden(hidden), "{hidden}");
        }
        for shown in ["/", "/a.b", "/a/b.js", "/a%20b", "/a%2fb", "/a.", "/.well-known/acme"] {
            assert!(!is_hidden(shown), "{shown}");
        }
    }
}
