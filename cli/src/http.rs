//! A server's endpoint as a client of HTTP/1.1 reaches it.

use std::{fmt, sync::Arc};

use ::http::{Request, Uri, header};
use axum::body::{Body, to_bytes};
use clap::Args;
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

/// The flags that say where a server is.
#[derive(Debug, Args)]
pub(crate) struct Place {
    /// The URL that pages connect to, without the path of the endpoint: `https://app.example`
    url: Uri,
    /// Path of the endpoint
    #[arg(long, default_value = "/__ds")]
    path: String,
}

impl Place {
    pub(crate) fn of(url: Uri, path: &str) -> Self {
        Self { url, path: path.to_owned() }
    }
}

/// A reason in words, with what to do about it.
pub(crate) struct Complaint(pub(crate) String);

impl<T: fmt::Display> From<T> for Complaint {
    fn from(error: T) -> Self {
        Self(error.to_string())
    }
}

pub(crate) fn complain<T>(what: impl Into<String>) -> Result<T, Complaint> {
    Err(Complaint(what.into()))
}

/// An endpoint.
pub(crate) struct Endpoint {
    secure: bool,
    host: String,
    port: u16,
    /// As browsers write it.
    pub(crate) authority: String,
    /// The URL's path and the endpoint's.
    pub(crate) base: String,
}

impl Endpoint {
    pub(crate) fn new(place: &Place) -> Result<Self, Complaint> {
        let secure = match place.url.scheme_str() {
            Some("https" | "wss") => true,
            Some("http" | "ws") => false,
            _ => return complain("the URL must be http, https, ws or wss, with a host"),
        };
        let (Some(host), Some(authority)) = (place.url.host(), place.url.authority()) else {
            return complain("the URL has no host");
        };
        let implied = if secure { ":443" } else { ":80" };
        Ok(Self {
            secure,
            host: host.to_owned(),
            port: place.url.port_u16().unwrap_or(if secure { 443 } else { 80 }),
            authority: authority.as_str().strip_suffix(implied).unwrap_or(authority.as_str()).to_owned(),
            base: format!("{}/{}", place.url.path().trim_end_matches('/'), place.path.trim_matches('/')),
        })
    }

    /// The origin of its own pages.
    pub(crate) fn origin(&self) -> String {
        format!("http{}://{}", if self.secure { "s" } else { "" }, self.authority)
    }

    /// The answer to a GET below the endpoint, in full; its body as text, of at most `most` bytes.
    pub(crate) async fn get(
        &self,
        name: &str,
        encodings: Option<&str>,
        most: usize,
    ) -> Result<(::http::response::Parts, String), Complaint> {
        let mut request = Request::get(format!("{}/{name}", self.base)).header(header::HOST, &self.authority);
        if let Some(encodings) = encodings {
            request = request.header(header::ACCEPT_ENCODING, encodings);
        }
        let (head, body) = self.send(request.body(Body::empty())?).await?.into_parts();
        let body = to_bytes(Body::new(body), 4 * 1024 * 1024).await?;
        Ok((head, String::from_utf8_lossy(&body[..body.len().min(most)]).into_owned()))
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Result<hyper::Response<Incoming>, Complaint> {
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        let socket = TcpStream::connect((host, self.port)).await;
        let socket =
            socket.map_err(|error| Complaint(format!("{}:{} cannot be reached: {error}", self.host, self.port)))?;
        if !self.secure {
            return exchange(socket, request).await;
        }
        let name = ServerName::try_from(host.to_owned())?;
        let secured = tokio_rustls::TlsConnector::from(trust()?).connect(name, socket).await;
        exchange(secured.map_err(|error| Complaint(format!("TLS: {error}")))?, request).await
    }
}

async fn exchange<S>(socket: S, request: Request<Body>) -> Result<hyper::Response<Incoming>, Complaint>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(socket)).await?;
    tokio::spawn(connection.with_upgrades());
    sender.send_request(request).await.map_err(|error| Complaint(format!("no HTTP answer: {error}")))
}

/// The system's certificates.
fn trust() -> Result<Arc<ClientConfig>, Complaint> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(Arc::new(versions.with_root_certificates(roots).with_no_client_auth()))
}
