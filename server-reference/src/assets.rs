//! The browser assets: embedded, precompressed, revalidated by plain name and immutable by hashed name.
//!
//! `datasole.wasm` is served as it is now and revalidated; `datasole.HASH.wasm` never changes and is kept for a year.

use axum::{
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, StatusCode, header};

use crate::server::Server;

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

pub(crate) async fn handle(State(server): State<Server>, Path(name): Path<String>, headers: HeaderMap) -> Response {
    let Some((asset, hashed)) = find(&name) else {
        let why = if ASSETS.is_empty() {
            "this datasole-server was built without browser assets: run `cargo xtask build` first\n"
        } else {
            "no such asset\n"
        };
        tracing::debug!(name, path = server.path(), "no such asset");
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
    if asset.name.starts_with("datasole-worker") {
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
    use super::*;

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
