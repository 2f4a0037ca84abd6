//! The browser assets: embedded, precompressed, revalidated by plain name and immutable by hashed name.
//!
//! `datasole.wasm` is served as it is now and revalidated; `datasole.HASH.wasm` never changes and is kept for a year.

use std::sync::Arc;

use axum::{
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, StatusCode, header};

use crate::protocol::Node;

/// One file, with its precompressed forms.
struct Asset {
    name: &'static str,
    /// 64 bits of its content, as 16 hexadecimal digits.
    hash: &'static str,
    plain: &'static [u8],
    brotli: Option<&'static [u8]>,
    gzip: Option<&'static [u8]>,
}

static ASSETS: &[Asset] = include!(concat!(env!("OUT_DIR"), "/assets.rs"));

/// The worker may compile wasm and connect, and do nothing else, whatever the page's own policy says.
const WORKER_POLICY: &str = "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; connect-src *";

pub(crate) async fn handle(State(node): State<Arc<Node>>, Path(name): Path<String>, headers: HeaderMap) -> Response {
    let Some((asset, hashed)) = find(&name) else {
        let why = if ASSETS.is_empty() {
            "this datasole-server was built without browser assets: run `cargo xtask build` first\n"
        } else {
            "no such asset\n"
        };
        tracing::debug!(name, path = node.path, "no such asset");
        return (StatusCode::NOT_FOUND, why).into_response();
    };
    let (encoding, body) = asset.negotiate(&headers);
    let tag = format!("\"{}{}\"", asset.hash, encoding.map_or(String::new(), |encoding| format!("-{encoding}")));
    let fresh = headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|own| own.trim().trim_start_matches("W/") == tag || own.trim() == "*");
    let mut response = if fresh {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        axum::body::Bytes::from_static(body).into_response()
    };
    let out = response.headers_mut();
    let caching = if hashed { "public, max-age=31536000, immutable" } else { "no-cache" };
    out.insert(header::CACHE_CONTROL, HeaderValue::from_static(caching));
    out.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        out.insert(header::ETAG, tag);
    }
    // Public code, the same for everyone: any page may load it, isolated ones too.
    out.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    out.insert("cross-origin-resource-policy", HeaderValue::from_static("cross-origin"));
    out.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if asset.is_worker() {
        out.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(WORKER_POLICY));
        out.insert("cross-origin-embedder-policy", HeaderValue::from_static("require-corp"));
    }
    if !fresh {
        out.insert(header::CONTENT_TYPE, HeaderValue::from_static(asset.content_type()));
        if let Some(encoding) = encoding {
            out.insert(header::CONTENT_ENCODING, HeaderValue::from_static(encoding));
        }
    }
    response
}

/// The asset of a plain name, or of one with its present hash before the last ending; and whether it was the latter.
fn find(name: &str) -> Option<(&'static Asset, bool)> {
    if let Some(asset) = ASSETS.iter().find(|asset| asset.name == name) {
        return Some((asset, false));
    }
    let (stem, ending) = name.rsplit_once('.')?;
    let (stem, hash) = stem.rsplit_once('.')?;
    let matches =
        |asset: &&Asset| asset.hash == hash && asset.name.rsplit_once('.').is_some_and(|own| own == (stem, ending));
    ASSETS.iter().find(matches).map(|asset| (asset, true))
}

impl Asset {
    fn negotiate(&self, headers: &HeaderMap) -> (Option<&'static str>, &'static [u8]) {
        for (encoding, body) in [("br", self.brotli), ("gzip", self.gzip)] {
            if let Some(body) = body
                && accepts(headers, encoding)
            {
                return (Some(encoding), body);
            }
        }
        (None, self.plain)
    }

    /// Whether it runs as a worker, classic or module: those have a policy of their own.
    fn is_worker(&self) -> bool {
        self.name.starts_with("datasole-worker") || self.name == "worker.mjs"
    }

    fn content_type(&self) -> &'static str {
        match self.name.rsplit_once('.').map(|(_, ending)| ending) {
            Some("js" | "mjs") => "text/javascript; charset=utf-8",
            Some("wasm") => "application/wasm",
            Some("json" | "map") => "application/json",
            _ => "application/octet-stream",
        }
    }
}

/// RFC 9110, section 12.5.3: named, and not with a weight of zero.
fn accepts(headers: &HeaderMap, encoding: &str) -> bool {
    headers
        .get_all(header::ACCEPT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|offer| {
            let mut parts = offer.split(';').map(str::trim);
            let named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case(encoding));
            let refused = parts.any(|part| {
                part.strip_prefix("q=").is_some_and(|weight| weight.parse::<f32>().is_ok_and(|weight| weight == 0.0))
            });
            named && !refused
        })
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;

    use super::*;

    async fn get(name: &str, headers: &[(header::HeaderName, &str)]) -> Response {
        let headers = headers.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect();
        handle(State(crate::Server::builder().build().node().clone()), Path(name.to_owned()), headers).await
    }

    fn text<'a>(response: &'a Response, name: &str) -> &'a str {
        response.headers().get(name).map_or("", |value| value.to_str().unwrap())
    }

    #[tokio::test]
    async fn what_does_not_exist() {
        for name in ["", "..", "datasole", "datasole.0123456789abcdef.wasm", "datasole.wasm.br", "Cargo.toml"] {
            let response = get(name, &[]).await;
            assert_eq!(response.status(), StatusCode::NOT_FOUND, "{name}");
            let body = to_bytes(response.into_body(), 1_000).await.unwrap();
            let why = if ASSETS.is_empty() { "cargo xtask build" } else { "no such asset" };
            assert!(String::from_utf8(body.to_vec()).unwrap().contains(why), "{name}");
        }
    }

    /// Without embedded assets, as in a fresh clone, there is nothing to look at.
    #[tokio::test]
    async fn what_exists() {
        for asset in ASSETS {
            let Asset { name, hash, plain, .. } = asset;
            let (stem, ending) = name.rsplit_once('.').unwrap();
            let hashed = format!("{stem}.{hash}.{ending}");
            for (url, caching) in [(*name, "no-cache"), (&hashed, "public, max-age=31536000, immutable")] {
                let response = get(url, &[]).await;
                assert_eq!(response.status(), StatusCode::OK, "{url}");
                assert_eq!(text(&response, "cache-control"), caching);
                assert_eq!(text(&response, "content-type"), asset.content_type());
                assert_eq!(text(&response, "content-encoding"), "");
                assert_eq!(text(&response, "vary"), "accept-encoding");
                assert_eq!(text(&response, "x-content-type-options"), "nosniff");
                assert_eq!(text(&response, "access-control-allow-origin"), "*");
                let workers = ["datasole-worker.iife.min.js", "datasole-worker.inline.iife.min.js", "worker.mjs"];
                let policy = if workers.contains(name) { WORKER_POLICY } else { "" };
                assert_eq!(text(&response, "content-security-policy"), policy, "{name}");
                let tag = text(&response, "etag").to_owned();
                assert_eq!(tag, format!("\"{hash}\""), "a strong one");
                assert_eq!(to_bytes(response.into_body(), usize::MAX).await.unwrap(), *plain);

                for (known, status) in [
                    (tag.clone(), StatusCode::NOT_MODIFIED),
                    (format!("\"x\", {tag}"), StatusCode::NOT_MODIFIED),
                    ("*".into(), StatusCode::NOT_MODIFIED),
                    ("\"x\"".into(), StatusCode::OK),
                ] {
                    let response = get(url, &[(header::IF_NONE_MATCH, &known)]).await;
                    assert_eq!(response.status(), status, "{known}");
                    assert_eq!(text(&response, "etag"), tag);
                    assert_eq!(text(&response, "content-security-policy"), policy);
                }
            }
            for (encoding, body) in [("br", asset.brotli), ("gzip", asset.gzip)] {
                let response = get(name, &[(header::ACCEPT_ENCODING, encoding)]).await;
                let Some(body) = body else { continue };
                assert_eq!(text(&response, "content-encoding"), encoding);
                assert_eq!(text(&response, "etag"), format!("\"{hash}-{encoding}\""), "other bytes, another tag");
                assert_eq!(to_bytes(response.into_body(), usize::MAX).await.unwrap(), body);
            }
        }
    }

    #[test]
    fn types_that_browsers_insist_on() {
        let check = |name: &'static str, content_type: &str| {
            let asset = Asset { name, hash: "", plain: b"", brotli: None, gzip: None };
            assert_eq!(asset.content_type(), content_type, "{name}");
        };
        check("client.mjs", "text/javascript; charset=utf-8");
        check("datasole.iife.min.js", "text/javascript; charset=utf-8");
        check("datasole.wasm", "application/wasm");
        check("client.mjs.map", "application/json");
        check("unknown", "application/octet-stream");
    }

    #[test]
    fn weights_of_zero_refuse() {
        let check = |value: &str, encoding: &str, accepted: bool| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_ENCODING, value.parse().unwrap());
            assert_eq!(accepts(&headers, encoding), accepted, "{value}");
        };
        check("gzip, deflate, br", "br", true);
        check("gzip, deflate", "br", false);
        check("br;q=0, gzip;q=0.5", "br", false);
        check("br;q=0, gzip;q=0.5", "gzip", true);
        check("brotli", "br", false);
    }
}
