//! The browser assets: embedded, precompressed, revalidated by plain name and immutable by hashed name.
//!
//! `datasole.v3.wasm` is served as it is now and revalidated; `datasole.v3.HASH.wasm` never changes and is kept for a year.

use axum::{
    extract::Path,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, StatusCode, header};

/// An embedded file, with its precompressed forms.
struct Asset {
    name: &'static str,
    /// 64 bits of its content, as 16 hexadecimal digits.
    hash: &'static str,
    plain: &'static [u8],
    brotli: Option<&'static [u8]>,
    gzip: Option<&'static [u8]>,
}

/// The assets that were in `assets/` when the crate was compiled; none in a fresh clone.
static ASSETS: &[Asset] = include!(concat!(env!("OUT_DIR"), "/assets.rs"));

/// The worker may compile wasm and connect, and do nothing else, whatever the page's own policy says.
const WORKER_POLICY: &str = "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; connect-src *";

/// The route of the assets: the last part of the path is an asset's name.
pub(crate) async fn handle(Path(name): Path<String>, headers: HeaderMap) -> Response {
    respond(ASSETS, &name, &headers)
}

fn respond(assets: &'static [Asset], name: &str, headers: &HeaderMap) -> Response {
    let Some((asset, hashed)) = find(assets, name) else {
        tracing::debug!(name, "no such asset");
        // A page of another origin asks why its worker did not load.
        let open = [(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"))];
        return (StatusCode::NOT_FOUND, open, missing(assets, name)).into_response();
    };
    let (encoding, body) = asset.negotiate(headers);
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

/// Why there is no asset of a name.
fn missing(assets: &'static [Asset], name: &str) -> String {
    const WORKER: &str = "datasole-worker.v";
    if assets.is_empty() {
        return "this server was built without browser assets: run `cargo xtask build`, then build the server again\n"
            .into();
    }
    if !name.starts_with(WORKER) {
        return "no such asset\n".into();
    }
    let here: Vec<&str> = assets.iter().map(|asset| asset.name).filter(|name| name.starts_with(WORKER)).collect();
    format!("page and server are of different versions: this server has {}\n", here.join(", "))
}

/// The asset of a plain name, or of one with its present hash before the last ending; and whether it was the latter.
fn find(assets: &'static [Asset], name: &str) -> Option<(&'static Asset, bool)> {
    if let Some(asset) = assets.iter().find(|asset| asset.name == name) {
        return Some((asset, false));
    }
    let (stem, ending) = name.rsplit_once('.')?;
    let (stem, hash) = stem.rsplit_once('.')?;
    let matches =
        |asset: &&Asset| asset.hash == hash && asset.name.rsplit_once('.').is_some_and(|own| own == (stem, ending));
    assets.iter().find(matches).map(|asset| (asset, true))
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

    /// True if the file runs as a worker, classic or module: workers get a Content-Security-Policy of their own.
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

    /// One of each kind: a worker and a script with both precompressed forms, a module with one, wasm with none.
    static TABLE: &[Asset] = &[
        Asset {
            name: "datasole-worker.v3.js",
            hash: "00000000000000aa",
            plain: b"the worker",
            brotli: Some(b"the worker in brotli"),
            gzip: Some(b"the worker in gzip"),
        },
        Asset {
            name: "datasole.iife.min.js",
            hash: "00000000000000bb",
            plain: b"the script",
            brotli: Some(b"the script in brotli"),
            gzip: Some(b"the script in gzip"),
        },
        Asset {
            name: "worker.mjs",
            hash: "00000000000000cc",
            plain: b"the module",
            brotli: None,
            gzip: Some(b"the module in gzip"),
        },
        Asset { name: "datasole.v3.wasm", hash: "00000000000000dd", plain: b"the wasm", brotli: None, gzip: None },
    ];

    fn get(assets: &'static [Asset], name: &str, headers: &[(header::HeaderName, &str)]) -> Response {
        let headers = headers.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect();
        respond(assets, name, &headers)
    }

    fn text<'a>(response: &'a Response, name: &str) -> &'a str {
        response.headers().get(name).map_or("", |value| value.to_str().unwrap())
    }

    async fn body(response: Response) -> Vec<u8> {
        to_bytes(response.into_body(), 1_000).await.unwrap().to_vec()
    }

    #[tokio::test]
    async fn names_that_do_not_exist() {
        for name in [
            "",
            "..",
            "datasole",
            "datasole.v3.0123456789abcdef.wasm",
            "datasole.v3.00000000000000aa.wasm",
            "datasole.v3.wasm.br",
            "Cargo.toml",
        ] {
            let response = get(TABLE, name, &[]);
            assert_eq!(response.status(), StatusCode::NOT_FOUND, "{name}");
            assert_eq!(body(response).await, b"no such asset\n", "{name}");
        }
        let response = get(&[], "datasole.v3.wasm", &[]);
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
        assert!(String::from_utf8(body(response).await).unwrap().contains("cargo xtask build"));
    }

    #[tokio::test]
    async fn plain_names_are_revalidated_and_hashed_names_kept() {
        let hashed = [
            "datasole-worker.v3.00000000000000aa.js",
            "datasole.iife.min.00000000000000bb.js",
            "worker.00000000000000cc.mjs",
            "datasole.v3.00000000000000dd.wasm",
        ];
        for (asset, hashed) in TABLE.iter().zip(hashed) {
            for (url, caching) in [(asset.name, "no-cache"), (hashed, "public, max-age=31536000, immutable")] {
                let response = get(TABLE, url, &[]);
                assert_eq!(response.status(), StatusCode::OK, "{url}");
                assert_eq!(text(&response, "cache-control"), caching, "{url}");
                assert_eq!(text(&response, "content-type"), asset.content_type(), "{url}");
                assert_eq!(text(&response, "content-encoding"), "", "{url}");
                assert_eq!(text(&response, "vary"), "accept-encoding", "{url}");
                assert_eq!(text(&response, "x-content-type-options"), "nosniff", "{url}");
                assert_eq!(text(&response, "access-control-allow-origin"), "*", "{url}");
                assert_eq!(text(&response, "cross-origin-resource-policy"), "cross-origin", "{url}");
                assert_eq!(text(&response, "etag"), format!("\"{}\"", asset.hash), "a strong one");
                assert_eq!(body(response).await, asset.plain, "{url}");
            }
        }
    }

    /// A server has the worker and the wasm of its own version and, for pages that are not new yet, of the one before.
    #[tokio::test]
    async fn two_versions_of_the_worker_are_served_side_by_side() {
        static TWO: &[Asset] = &[
            Asset { name: "datasole-worker.v2.js", hash: "a2", plain: b"loads v2", brotli: None, gzip: None },
            Asset { name: "datasole-worker.v3.js", hash: "a3", plain: b"loads v3", brotli: None, gzip: None },
            Asset { name: "datasole.v2.wasm", hash: "b2", plain: b"wasm 2", brotli: None, gzip: None },
            Asset { name: "datasole.v3.wasm", hash: "b3", plain: b"wasm 3", brotli: None, gzip: None },
        ];
        for asset in TWO {
            let response = get(TWO, asset.name, &[]);
            assert_eq!(response.status(), StatusCode::OK, "{}", asset.name);
            let policy = if asset.is_worker() { WORKER_POLICY } else { "" };
            assert_eq!(text(&response, "content-security-policy"), policy, "{}", asset.name);
            assert_eq!(text(&response, "etag"), format!("\"{}\"", asset.hash));
            assert_eq!(body(response).await, asset.plain, "{}", asset.name);
        }
        let response = get(TWO, "datasole-worker.v4.js", &[]);
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
        assert_eq!(text(&response, "access-control-allow-origin"), "*", "pages elsewhere may see why");
        let why = String::from_utf8(body(response).await).unwrap();
        assert!(why.contains("this server has datasole-worker.v2.js, datasole-worker.v3.js"), "{why}");
    }

    #[test]
    fn workers_alone_have_a_policy_fresh_or_not() {
        for (name, policy, embedder) in [
            ("datasole-worker.v3.js", WORKER_POLICY, "require-corp"),
            ("worker.mjs", WORKER_POLICY, "require-corp"),
            ("datasole.iife.min.js", "", ""),
            ("datasole.v3.wasm", "", ""),
        ] {
            for headers in [&[][..], &[(header::IF_NONE_MATCH, "*")]] {
                let response = get(TABLE, name, headers);
                assert_eq!(text(&response, "content-security-policy"), policy, "{name}");
                assert_eq!(text(&response, "cross-origin-embedder-policy"), embedder, "{name}");
            }
        }
    }

    #[tokio::test]
    async fn known_tags_are_answered_without_a_body() {
        for (known, status, length) in [
            ("\"00000000000000dd\"", StatusCode::NOT_MODIFIED, 0),
            ("W/\"00000000000000dd\"", StatusCode::NOT_MODIFIED, 0),
            ("\"x\", \"00000000000000dd\"", StatusCode::NOT_MODIFIED, 0),
            ("*", StatusCode::NOT_MODIFIED, 0),
            ("\"x\"", StatusCode::OK, 8),
            ("\"00000000000000dd-br\"", StatusCode::OK, 8),
        ] {
            let response = get(TABLE, "datasole.v3.wasm", &[(header::IF_NONE_MATCH, known)]);
            assert_eq!(response.status(), status, "{known}");
            assert_eq!(text(&response, "etag"), "\"00000000000000dd\"", "{known}");
            assert_eq!(body(response).await.len(), length, "{known}");
        }
    }

    #[tokio::test]
    async fn the_best_accepted_form_is_served_under_a_tag_of_its_own() {
        for (name, accepted, encoding, tag, content) in [
            ("datasole.iife.min.js", "gzip, br", "br", "\"00000000000000bb-br\"", "the script in brotli"),
            ("datasole.iife.min.js", "gzip", "gzip", "\"00000000000000bb-gzip\"", "the script in gzip"),
            ("datasole.iife.min.js", "deflate", "", "\"00000000000000bb\"", "the script"),
            ("worker.mjs", "gzip, br", "gzip", "\"00000000000000cc-gzip\"", "the module in gzip"),
            ("datasole.v3.wasm", "gzip, br", "", "\"00000000000000dd\"", "the wasm"),
        ] {
            let response = get(TABLE, name, &[(header::ACCEPT_ENCODING, accepted)]);
            assert_eq!(response.status(), StatusCode::OK, "{name}");
            assert_eq!(text(&response, "content-encoding"), encoding, "{name} {accepted}");
            assert_eq!(text(&response, "etag"), tag, "{name} {accepted}");
            assert_eq!(body(response).await, content.as_bytes(), "{name} {accepted}");
            let both = [(header::ACCEPT_ENCODING, accepted), (header::IF_NONE_MATCH, tag)];
            assert_eq!(get(TABLE, name, &both).status(), StatusCode::NOT_MODIFIED, "{name} {accepted}");
        }
    }

    /// `build.rs` embeds each file of `assets/` under its name, with its precompressed siblings; none in a fresh clone,
    /// where only the route's answer tells.
    #[tokio::test]
    async fn the_embedded_table_is_the_folder() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("assets");
        let read = |name: &str| std::fs::read(folder.join(name)).ok();
        let names: std::collections::BTreeSet<String> = std::fs::read_dir(&folder)
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.ends_with(".br") && !name.ends_with(".gz"))
            .collect();
        assert!(ASSETS.iter().map(|asset| asset.name).eq(names.iter().map(String::as_str)));
        for asset in ASSETS {
            assert_eq!(read(asset.name).as_deref(), Some(asset.plain), "{}", asset.name);
            assert_eq!(read(&format!("{}.br", asset.name)).as_deref(), asset.brotli, "{}", asset.name);
            assert_eq!(read(&format!("{}.gz", asset.name)).as_deref(), asset.gzip, "{}", asset.name);
        }
        let response = handle(Path("datasole.v3.wasm".to_owned()), HeaderMap::new()).await;
        assert_eq!(response.status() == StatusCode::OK, names.contains("datasole.v3.wasm"));
    }

    #[test]
    fn types_that_browsers_insist_on() {
        let check = |name: &'static str, content_type: &str| {
            let asset = Asset { name, hash: "", plain: b"", brotli: None, gzip: None };
            assert_eq!(asset.content_type(), content_type, "{name}");
        };
        check("client.mjs", "text/javascript; charset=utf-8");
        check("datasole.iife.min.js", "text/javascript; charset=utf-8");
        check("datasole.v3.wasm", "application/wasm");
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
