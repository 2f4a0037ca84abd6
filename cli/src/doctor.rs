//! `datasole doctor`: asks a server as a page would, through whatever stands before it, and says what to do.

use std::{process::ExitCode, time::Duration};

use ::http::{HeaderMap, Request, StatusCode, header};
use axum::body::{Body, to_bytes};
use clap::Args;
use futures_util::StreamExt;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::time::timeout;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::Role},
};

use crate::http::{Complaint, Endpoint, Place, complain};

/// Above what an honest answer takes.
const PATIENCE: Duration = Duration::from_secs(10);
/// Above what a greeting takes that nothing holds back.
const GREETING: Duration = Duration::from_secs(3);
/// No page has it.
const FOREIGN: &str = "https://datasole-doctor.invalid";
const BODY: usize = 64 * 1024;

/// The flags of `datasole doctor`.
#[derive(Debug, Args)]
pub(crate) struct Visit {
    #[command(flatten)]
    place: Place,
    /// Connect with this token
    #[arg(long, env = "DATASOLE_DOCTOR_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Stay connected so many seconds and say nothing: does something cut idle connections?
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    quiet: u64,
}

type Finding = Result<String, Complaint>;

/// Prints one line for each finding; a failure if one is a complaint.
pub(crate) async fn run(visit: &Visit) -> ExitCode {
    let doctor = match Endpoint::new(&visit.place) {
        Ok(endpoint) => Doctor { visit, endpoint },
        Err(Complaint(why)) => {
            eprintln!("datasole: {why}");
            return ExitCode::FAILURE;
        }
    };
    let mut healthy = true;
    let mut say = |what: &str, finding: Finding| {
        healthy &= finding.is_ok();
        match finding {
            Ok(text) => println!("ok    {what}: {text}"),
            Err(Complaint(text)) => println!("WRONG {what}: {text}"),
        }
    };
    say("health", within(doctor.health()).await);
    say("files", within(doctor.files()).await);
    say("connection", within(doctor.connection()).await);
    say("other pages", within(doctor.other_pages()).await);
    if visit.quiet > 0 {
        say("quiet", doctor.quiet(Duration::from_secs(visit.quiet)).await);
    }
    if healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn within(asking: impl Future<Output = Finding>) -> Finding {
    timeout(PATIENCE, asking)
        .await
        .unwrap_or_else(|_| complain("no answer in 10 s: is the address right, the proxy full?"))
}

struct Doctor<'a> {
    visit: &'a Visit,
    endpoint: Endpoint,
}

impl Doctor<'_> {
    async fn health(&self) -> Finding {
        let (head, body) = self.get("health", None).await?;
        let status = head.status;
        if head.headers.get("datasole").is_none() {
            return complain(stranger(status, &head.headers, &body));
        }
        if status != StatusCode::OK {
            return complain(format!("the server is not ready: {body}"));
        }
        Ok(format!("a datasole server, version {}", text(&head.headers, "datasole")))
    }

    async fn files(&self) -> Finding {
        let (head, body) = self.get("datasole.iife.min.js", Some("br, gzip")).await?;
        let encoding = text(&head.headers, header::CONTENT_ENCODING.as_str());
        match head.status {
            StatusCode::OK if body.trim_start().starts_with('<') => complain(format!(
                "{}/datasole.iife.min.js is an HTML page: only {} itself is proxied, everything below must be, too",
                self.endpoint.base, self.endpoint.base
            )),
            StatusCode::OK if encoding.is_empty() => complain("the script comes uncompressed: pass Accept-Encoding on"),
            StatusCode::OK => Ok(format!("served, in {encoding}")),
            StatusCode::NOT_FOUND if body.contains("datasole") || body.contains("cargo xtask") => complain(body.trim()),
            status => complain(stranger(status, &head.headers, &body)),
        }
    }

    async fn connection(&self) -> Finding {
        let (protocol, mut socket) = match self.open(&self.endpoint.origin()).await? {
            Ok(opened) => opened,
            Err(head) if text(&head.headers, "datasole-refused") == "token" => {
                return match self.visit.token {
                    Some(_) => complain("the token is refused"),
                    None => Ok("pages get through; the server wants a token (--token)".to_owned()),
                };
            }
            Err(head) => return complain(head.text),
        };
        if protocol != datasole_core::wire::SUBPROTOCOLS[1] {
            return complain(
                "something strips Sec-WebSocket-Protocol: clients fall back to version 1, nothing is resumed",
            );
        }
        match timeout(GREETING, socket.next()).await {
            Ok(Some(Ok(Message::Binary(_)))) => Ok("a page of this URL connects, and is greeted".to_owned()),
            Ok(_) => complain("the connection ends at once: the server's log says why"),
            Err(_) => complain(
                "the greeting is held back: switch WebSockets over HTTP/2 off in the proxy (Apache: H2WebSockets)",
            ),
        }
    }

    async fn other_pages(&self) -> Finding {
        match self.open(FOREIGN).await? {
            Ok(_) => {
                complain("pages of every origin may connect, with the cookies of your users: --allow-origin names them")
            }
            Err(head) if text(&head.headers, "datasole-refused") == "origin" => {
                Ok("refused, as they should be".to_owned())
            }
            Err(head) => complain(format!("refused, but not for their origin: {}", head.text)),
        }
    }

    async fn quiet(&self, time: Duration) -> Finding {
        let Ok((_, mut socket)) = within_open(self.open(&self.endpoint.origin())).await? else {
            return complain("cannot be tried without a connection");
        };
        let started = tokio::time::Instant::now();
        while let Ok(next) = tokio::time::timeout_at(started + time, socket.next()).await {
            if !matches!(next, Some(Ok(Message::Binary(_) | Message::Ping(_) | Message::Pong(_)))) {
                let seconds = started.elapsed().as_secs();
                return complain(format!(
                    "cut after {seconds} s: raise the proxy's limit, or --heartbeat {}s",
                    (seconds / 2).max(1)
                ));
            }
        }
        Ok(format!("not cut in {} s", time.as_secs()))
    }

    async fn get(&self, name: &str, encodings: Option<&str>) -> Result<(::http::response::Parts, String), Complaint> {
        self.endpoint.get(name, encodings, BODY).await
    }

    /// Asks for a WebSocket as a page of this origin: one, with its subprotocol, or the refusal.
    async fn open(
        &self,
        origin: &str,
    ) -> Result<Result<(String, WebSocketStream<TokioIo<Upgraded>>), Refusal>, Complaint> {
        let query = self.visit.token.as_ref().map(|token| format!("?token={}", encode(token))).unwrap_or_default();
        let request = Request::get(format!("{}{query}", self.endpoint.base))
            .header(header::HOST, &self.endpoint.authority)
            .header(header::ORIGIN, origin)
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "websocket")
            .header(header::SEC_WEBSOCKET_VERSION, "13")
            .header(header::SEC_WEBSOCKET_KEY, tokio_tungstenite::tungstenite::handshake::client::generate_key())
            .header(header::SEC_WEBSOCKET_PROTOCOL, datasole_core::wire::SUBPROTOCOLS.join(", "))
            .body(Body::empty())?;
        let response = self.endpoint.send(request).await?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let protocol = text(response.headers(), header::SEC_WEBSOCKET_PROTOCOL.as_str()).to_owned();
            let upgraded = TokioIo::new(hyper::upgrade::on(response).await?);
            return Ok(Ok((protocol, WebSocketStream::from_raw_socket(upgraded, Role::Client, None).await)));
        }
        let (head, body) = response.into_parts();
        let body = to_bytes(Body::new(body), BODY).await.map(|body| String::from_utf8_lossy(&body).into_owned());
        let body = body.unwrap_or_default();
        let ours = head.headers.contains_key("datasole-refused");
        let text =
            if ours { format!("{} {body}", head.status.as_u16()) } else { stranger(head.status, &head.headers, &body) };
        Ok(Err(Refusal { headers: head.headers, text }))
    }
}

/// An answer that is no upgrade.
struct Refusal {
    headers: HeaderMap,
    text: String,
}

async fn within_open<T>(asking: impl Future<Output = Result<T, Complaint>>) -> Result<T, Complaint> {
    timeout(PATIENCE, asking).await.unwrap_or_else(|_| complain("no answer in 10 s"))
}

/// The meaning of an answer that is not our server's.
fn stranger(status: StatusCode, headers: &HeaderMap, body: &str) -> String {
    match status.as_u16() {
        300..=399 => {
            format!("answered {status}, to {}: proxy the path itself, without a redirect", text(headers, "location"))
        }
        401 | 403 => format!(
            "answered {status}, and not by the server: the proxy's own sign-on or firewall; let the path through"
        ),
        404 => "answered 404: is the path right, and proxied?".to_owned(),
        426 => "answered 426: a proxy does not pass the upgrade on".to_owned(),
        429 => "answered 429, and not by the server: raise the proxy's limit of requests".to_owned(),
        502..=504 => format!("answered {status}: the proxy does not reach the server"),
        _ if body.trim_start().starts_with('<') => {
            "an HTML page, not a datasole server: is the path proxied?".to_owned()
        }
        _ => format!("answered {status}, and not by a datasole server: is the path proxied?"),
    }
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> &'h str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// Percent-encodes all but what is certain to pass.
fn encode(token: &str) -> String {
    let encode = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    token.bytes().map(encode).collect()
}
