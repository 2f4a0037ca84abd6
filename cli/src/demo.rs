//! The demo: two pages, their handlers, and a dashboard that always changes.
//!
//! The fleet on the dashboard is made up; the server's own numbers are not. Without `--data` everything lives in one
//! [`Server`]'s memory and is gone after a restart: the pages show how clients notice.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use axum::{Router, response::IntoResponse, routing::get};
use datasole_server::{
    Builder, Context, CrdtKind, Draft, Payload, Replay, RpcError, Server, StateError, StreamKind, Tree,
};
use http::{HeaderName, header};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::{
    sync::Notify,
    time::{MissedTickBehavior, interval, sleep},
};

const DASHBOARD: &str = "dashboard";
/// The last messages, for tabs that come later; a state that no page follows.
const CHAT: &str = "chat";
const MESSAGE: &str = "chat:message";
/// The CRDTs, the document and the room that the board's tabs share with the terminal client (example `board` of
/// `client-native`). Clients may write no others.
const COUNTERS: [&str; 2] = ["demo:likes", "demo:coffee"];
const TODO: &str = "demo:todo";
const NOTES: &str = "demo:notes";
const ROOM: &str = "demo";

/// How often the dashboard changes; each change is one patch.
const BEAT: Duration = Duration::from_millis(250);
/// Points of the curve, one a tick.
const POINTS: usize = 120;
const SERVICES: [&str; 10] =
    ["gateway", "auth", "search", "catalog", "cart", "checkout", "payments", "shipping", "mail", "media"];
const REGIONS: [&str; 4] = ["fra", "iad", "gru", "sin"];
/// Messages kept for later tabs and for tabs that reconnect.
const RECENT: usize = 50;
/// A message's length, and a name's; characters.
const MAX_TEXT: usize = 500;
const MAX_NAME: usize = 32;
/// The longest `slow`; milliseconds.
const MAX_SLOW: u64 = 60_000;
/// The close code of a cut: one after which clients reconnect.
const CUT: u16 = 4000;

/// The Content-Security-Policy of the pages: only this server's files. The first page has others in frames.
const POLICY: &str = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'";
/// The board's policy: styles in attributes as well, for the colours of remote cursors.
const BOARD_POLICY: &str =
    "default-src 'self'; style-src-attr 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// A page: the beginning that all have, and its own rest.
macro_rules! page {
    ($name:literal) => {
        concat!(include_str!("../demo/head.html"), include_str!(concat!("../demo/", $name, ".html")))
    };
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const FILES: [(&str, &str, &str); 10] = [
    ("/", HTML, page!("index")),
    ("/dashboard", HTML, page!("dashboard")),
    ("/board", HTML, page!("board")),
    ("/demo.css", CSS, include_str!("../demo/demo.css")),
    ("/dashboard.css", CSS, include_str!("../demo/dashboard.css")),
    ("/pane.css", CSS, include_str!("../demo/pane.css")),
    ("/board.css", CSS, include_str!("../demo/board.css")),
    ("/connection.js", SCRIPT, include_str!("../demo/connection.js")),
    ("/dashboard.js", SCRIPT, include_str!("../demo/dashboard.js")),
    ("/demo.svg", "image/svg+xml", include_str!("../demo/demo.svg")),
];

/// The board's script with all that it needs, gzip; made by `cargo xtask build`.
const BOARD: Option<&[u8]> = include!(concat!(env!("OUT_DIR"), "/board.rs"));
/// Stands in for [`BOARD`] in a build without it.
const NO_BOARD: &str = "import('/connection.js').then(({ missing }) => missing());";

/// The pages and their files.
pub(crate) fn pages() -> Router {
    let router = FILES.iter().fold(Router::new(), |router, &(path, kind, body)| {
        let policy = if path == "/board" { BOARD_POLICY } else { POLICY };
        router.route(path, get(async move || (headers(kind, policy), body)))
    });
    router.route(
        "/board.js",
        get(async || match BOARD {
            // As it is: browsers all read gzip.
            Some(script) => (headers(SCRIPT, POLICY), [(header::CONTENT_ENCODING, "gzip")], script).into_response(),
            None => (headers(SCRIPT, POLICY), NO_BOARD).into_response(),
        }),
    )
}

fn headers(kind: &'static str, policy: &'static str) -> [(HeaderName, &'static str); 5] {
    [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::CACHE_CONTROL, "no-cache"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ]
}

/// The demo's part in one server's life.
pub(crate) struct Demo {
    /// The number of servers before this one.
    restarts: u64,
    started: Instant,
    restart: Arc<Notify>,
}

#[derive(Deserialize)]
struct Add {
    a: f64,
    b: f64,
}

#[derive(Deserialize)]
struct Slow {
    ms: u64,
}

#[derive(Deserialize)]
struct Switch {
    row: usize,
    on: bool,
}

/// A message as a tab sends it. `tab` tells a tab its own messages.
#[derive(Deserialize)]
struct Said {
    tab: String,
    from: String,
    text: String,
}

/// A message as all tabs get it. Ids grow, across restarts as well: they are times, Unix milliseconds, where those
/// grow.
#[derive(Clone, Serialize)]
struct Message {
    id: u64,
    tab: String,
    from: String,
    text: String,
}

impl Demo {
    pub(crate) fn new(restarts: u64) -> Self {
        Self { restarts, started: Instant::now(), restart: Arc::default() }
    }

    /// Registers the handlers that the pages call.
    pub(crate) fn handlers(&self, builder: Builder) -> Builder {
        let restart = self.restart.clone();
        COUNTERS
            .iter()
            .fold(builder, |builder, key| builder.crdt(key, CrdtKind::PnCounter))
            .crdt(TODO, CrdtKind::OrSet)
            .client_crdts(false)
            .authorize_write(|_, stream| match stream.kind {
                StreamKind::Doc => stream.key == NOTES,
                StreamKind::Presence => stream.key == ROOM,
                _ => true,
            })
            .topic(MESSAGE, Replay::default().entries(RECENT))
            .rpc("add", async |_: Context, Add { a, b }: Add| Ok(json!({ "sum": a + b })))
            .rpc_raw("echo", async |_: Context, payload: Payload| Ok(payload))
            .rpc("fail", async |_: Context, _: Value| Err::<(), _>(RpcError::new("boom")))
            .rpc("slow", async |_: Context, Slow { ms }: Slow| {
                if ms > MAX_SLOW {
                    return Err(RpcError::invalid_params(format!("at most {MAX_SLOW} ms")));
                }
                sleep(Duration::from_millis(ms)).await;
                Ok(json!({ "waited": ms }))
            })
            .rpc("fleet:switch", async |context: Context, Switch { row, on }: Switch| {
                Ok(switch(context.server(), row, on).await?)
            })
            .rpc("chat:recent", async |context: Context, _: Value| Ok(context.server().state().get(CHAT).await?))
            .on(MESSAGE, async |context: Context, said: Said| say(context.server(), said).await)
            .on("demo:cut", async |context: Context, _: Value| {
                context.server().disconnect(&context.connection_id(), CUT, "cut by the demo").await;
            })
            .on("demo:restart", move |_: Context, _: Value| {
                restart.notify_one();
                async {}
            })
    }

    /// Creates the dashboard and the chat, unless an earlier server has left them on disk.
    pub(crate) async fn prepare(&self, server: &Server) -> Result<(), StateError> {
        let state = server.state();
        // Tells a tab which server it talks to.
        let instance = json!({ "number": self.restarts + 1, "startedAt": unix_millis() });
        if state.get(DASHBOARD).await?.is_some() {
            state.update(DASHBOARD, |draft| draft.set("/instance", &instance)).await?;
        } else {
            let rows: Vec<Value> =
                SERVICES.iter().flat_map(|name| REGIONS.map(|region| service(name, region))).collect();
            let dashboard = json!({
                "instance": instance,
                // No patch touches it: a tab tells by its identity whether it went on from where it was, or started
                // from a snapshot.
                "regions": REGIONS,
                "beat": 0,
                "server": self.numbers(server),
                "series": [rows.iter().filter_map(|row| row["rps"].as_u64()).sum::<u64>()],
                "rows": rows,
            });
            state.set(DASHBOARD, &dashboard).await?;
        }
        if state.get(CHAT).await?.is_none() {
            state.set(CHAT, &json!([])).await?;
        }
        Ok(())
    }

    fn numbers(&self, server: &Server) -> Value {
        let counted = server.metrics_snapshot();
        json!({
            "connections": counted.connections,
            "messagesIn": counted.messages_in,
            "bytesOut": counted.bytes_out,
            "uptime": self.started.elapsed().as_secs(),
        })
    }

    /// Keeps the dashboard moving until a restart is asked for.
    pub(crate) async fn run(&self, server: &Server) {
        let mut beats = interval(BEAT);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = beats.tick() => {}
                () = self.restart.notified() => return,
            }
            if let Err(error) = server.state().update(DASHBOARD, |draft| beat(draft, self.numbers(server))).await {
                tracing::error!(%error, "the dashboard could not be changed");
            }
        }
    }
}

fn service(name: &str, region: &str) -> Value {
    let (rps, p95, cpu) = (100 + random(900), 10 + random(110), 15 + random(60));
    json!({ "name": name, "region": region, "on": true, "rps": rps, "p95": p95, "cpu": cpu })
}

/// Publishes one tick: a few cells, the curve, the server's numbers.
fn beat(draft: &mut Draft<'_>, numbers: Value) -> Result<(), StateError> {
    draft.add("/beat", 1)?;
    for _ in 0..3 {
        let row = format!("/rows/{}", random(SERVICES.len() as u64 * REGIONS.len() as u64));
        if draft.get(&format!("{row}/on")).and_then(Tree::as_bool) != Some(true) {
            continue;
        }
        let (column, range) = [("rps", 20..1_800), ("p95", 4..400), ("cpu", 2..97)][random(3) as usize].clone();
        let cell = format!("{row}/{column}");
        let value = draft.get(&cell).and_then(Tree::as_u64).unwrap_or(range.start);
        let step = 1 + random(value / 6 + 2);
        let value = if random(2) == 0 { value.saturating_sub(step) } else { value + step };
        draft.set(&cell, value.clamp(range.start, range.end))?;
    }
    // Requests per second of all services.
    let sum = draft
        .get("/rows")
        .and_then(Tree::as_array)
        .map_or(0, |rows| rows.iter().filter_map(|row| row["rps"].as_u64()).sum::<u64>());
    draft.insert("/series/-", sum)?;
    if draft.get("/series").and_then(Tree::as_array).is_some_and(|series| series.len() > POINTS) {
        draft.remove("/series/0")?;
    }
    if draft.get("/server").is_none_or(|shown| *shown != numbers) {
        draft.set("/server", numbers)?;
    }
    Ok(())
}

/// Takes a service out of the fleet, or puts it back.
async fn switch(server: &Server, row: usize, on: bool) -> Result<(), StateError> {
    server
        .state()
        .update(DASHBOARD, |draft| {
            draft.set(&format!("/rows/{row}/on"), on)?;
            for (column, idle, busy) in [("rps", 0, 400), ("p95", 0, 40), ("cpu", 1, 30)] {
                draft.set(&format!("/rows/{row}/{column}"), if on { busy } else { idle })?;
            }
            Ok(())
        })
        .await?;
    Ok(())
}

/// Passes a message on to all tabs, and keeps it for later ones. Empty messages are dropped.
async fn say(server: &Server, said: Said) {
    let cut = |text: &str, limit| text.trim().chars().take(limit).collect::<String>();
    let (tab, from, text) = (cut(&said.tab, MAX_NAME), cut(&said.from, MAX_NAME), cut(&said.text, MAX_TEXT));
    if from.is_empty() || text.is_empty() {
        return;
    }
    let mut message = Message { id: 0, tab, from, text };
    let state = server.state();
    let kept = state.update(CHAT, |draft| {
        let messages = draft.get("").and_then(Tree::as_array);
        let last = messages.and_then(|messages| messages.last()?["id"].as_u64());
        let full = messages.is_some_and(|messages| messages.len() >= RECENT);
        message.id = last.map_or(0, |last| last + 1).max(unix_millis());
        if full {
            draft.remove("/0")?;
        }
        draft.insert("/-", &message)
    });
    if let Err(error) = kept.await {
        return tracing::error!(%error, "a message could not be kept");
    }
    if let Err(error) = server.broadcast(MESSAGE, &message).await {
        tracing::error!(%error, "a message could not be passed on");
    }
}

/// A random number below `bound`; 0 if the system has no randomness.
fn random(bound: u64) -> u64 {
    getrandom::u64().unwrap_or(0) % bound
}

fn unix_millis() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}
