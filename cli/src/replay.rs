//! `datasole replay`: does again what a browser's client did, from the file of a session (docs/sessions.md), and compares.

use std::{
    fmt, fs,
    io::{BufRead, stdin},
    path::PathBuf,
    process::ExitCode,
};

use clap::Args;
use data_encoding::BASE64;
use datasole_core::{
    Limits, Millis, Position, Seed,
    frame::{Codec, Frame, HEADER_LEN, Opcode},
    wire::{split_item, split_varuint},
};
use datasole_wasm::{Driver, Settings, World, payload};
use serde::{
    Deserialize, Deserializer,
    de::{Error, IgnoredAny},
};

/// The version of the format.
const VERSION: u32 = 2;
/// The most characters of a payload that are shown.
const SHOWN: usize = 240;

/// The flags of `datasole replay`.
#[derive(Debug, Args)]
pub(crate) struct Session {
    /// The file that `saveSession` of datasole/devtools made
    file: PathBuf,
    /// Show each input and what comes of it, and wait for Enter before the next
    #[arg(long)]
    step: bool,
    /// Show all of them
    #[arg(long)]
    show: bool,
}

/// Does it again: a failure if something else comes of it, and 2 if the file cannot be read.
pub(crate) fn run(session: &Session) -> ExitCode {
    let read = fs::read_to_string(&session.file).map_err(|error| error.to_string()).and_then(|text| File::read(&text));
    let File { head, steps } = match read {
        Ok(file) => file,
        Err(why) => {
            eprintln!("datasole: {}: {why}", session.file.display());
            return ExitCode::from(2);
        }
    };
    let dropped = head.dropped;
    let whole = dropped == 0;
    let mut core = head.core();
    let mut outputs = 0;
    for (number, step) in (1..).zip(&steps) {
        let came = if whole { core.perform(step.at, &step.input) } else { step.outputs.clone() };
        outputs += came.len();
        if session.step || session.show {
            println!("{number} at {} ms: {}", step.at, plain(&step.input));
            came.iter().for_each(|output| println!("    {}", plain(output)));
        }
        if let Some(at) = difference(&step.outputs, &came) {
            let shown = |outputs: &[Out]| outputs.get(at).map_or("nothing".to_owned(), |output| plain(output));
            println!("input {number}, line {}: {}", step.line, plain(&step.input));
            println!("    in the file  {}", shown(&step.outputs));
            println!("    now          {}", shown(&came));
            return ExitCode::FAILURE;
        }
        if session.step && stdin().lock().read_line(&mut String::new()).unwrap_or(0) == 0 {
            return ExitCode::SUCCESS;
        }
    }
    if whole {
        println!("{} inputs, {outputs} outputs: the same", steps.len());
        return ExitCode::SUCCESS;
    }
    eprintln!("datasole: the beginning is not in the file ({dropped} inputs), so it can be shown, not done again");
    ExitCode::FAILURE
}

/// Where two lists of outputs differ first.
fn difference(expected: &[Out], came: &[Out]) -> Option<usize> {
    let common = expected.iter().zip(came).position(|(expected, came)| !expected.same(came));
    common.or_else(|| (expected.len() != came.len()).then_some(expected.len().min(came.len())))
}

/// A session as it was saved.
struct File {
    head: Head,
    steps: Vec<Step>,
}

/// An input, and what came of it.
struct Step {
    /// Its line in the file.
    line: usize,
    at: u64,
    input: In,
    outputs: Vec<Out>,
}

#[derive(Deserialize)]
struct Version {
    session: u32,
}

#[derive(Deserialize)]
struct Head {
    options: Options,
    seed: Bytes,
    #[serde(default)]
    dropped: u64,
}

/// `CoreOptions` of the wasm, as far as a core reads them.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Options {
    url: String,
    token: Option<String>,
    token_via: Option<String>,
    ask_token: Option<bool>,
    reconnect: Option<bool>,
    reconnect_interval: Option<f64>,
    max_reconnect_attempts: Option<f64>,
    connect_timeout: Option<f64>,
    call_timeout: Option<f64>,
    contract: Option<String>,
}

#[derive(Deserialize)]
struct Line {
    at: Option<u64>,
    #[serde(rename = "in")]
    input: Option<In>,
    out: Option<Out>,
}

/// Everything that a core is told: `CoreInput` of `npm/src/protocol.ts`.
#[derive(Deserialize)]
#[serde(tag = "t", rename_all = "camelCase", rename_all_fields = "camelCase")]
enum In {
    Connect,
    Close,
    Call { id: u32, method: String, json: Option<String>, bytes: Option<Bytes>, timeout: Option<f64>, queue: bool },
    Cancel { id: u32 },
    Emit { event: String, json: Option<String>, bytes: Option<Bytes>, queue: bool },
    Subscribe { id: u32, kind: String, key: String, since: Option<Since> },
    Unsubscribe { id: u32, linger: u32 },
    Resync { key: String, applied: bool },
    Open { kind: String, key: String, throttle: Option<f64> },
    Leave { kind: String, key: String },
    Edit { kind: String, key: String, id: f64, json: Option<String>, bytes: Option<Bytes> },
    Show { kind: String, key: String, json: Option<String> },
    Aware { kind: String, key: String, bytes: Option<Bytes> },
    Answer { kind: String, key: String, bytes: Option<Bytes> },
    Unfit { kind: String, key: String, applied: bool },
    Hint { kind: String },
    Token { token: Option<String>, error: Option<String> },
    Opened { socket: f64, protocol: String },
    Message { socket: f64, bytes: Bytes },
    Closed { socket: f64, code: u16, reason: String, ours: bool, retry_after: Option<f64> },
    Timeout,
    Take,
}

#[derive(Clone, Copy, Deserialize)]
struct Since {
    epoch: u64,
    seq: u64,
}

/// The outputs of a core.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "t", rename_all = "camelCase")]
enum Out {
    Open { socket: f64, url: String, protocols: String },
    Send { socket: f64, bytes: Bytes },
    Shut { socket: f64, code: u16, reason: String },
    Arm { delay: f64 },
    Text { text: String },
    Bytes { bytes: Bytes },
    Soon { urgency: u8 },
    Panicked { message: String },
}

/// In base64.
#[derive(Clone, Debug, PartialEq)]
struct Bytes(Vec<u8>);

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        BASE64.decode(text.as_bytes()).map(Self).map_err(D::Error::custom)
    }
}

impl File {
    fn read(text: &str) -> Result<Self, String> {
        let mut lines = (1..).zip(text.lines()).filter(|(_, line)| !line.is_empty());
        let (_, first) = lines.next().ok_or("the file is empty")?;
        match serde_json::from_str(first) {
            Ok(Version { session: VERSION }) => {}
            Ok(Version { session }) => {
                return Err(format!("a session of version {session}: this program reads those of version {VERSION}"));
            }
            Err(_) => return Err("no session".to_owned()),
        }
        let head = serde_json::from_str(first).map_err(|error| format!("line 1: {error}"))?;
        let mut steps: Vec<Step> = Vec::new();
        for (number, line) in lines {
            let wrong = |why: &dyn fmt::Display| format!("line {number}: {why}");
            match serde_json::from_str::<Line>(line).map_err(|error| wrong(&error))? {
                Line { at: Some(at), input: Some(input), out: None } => {
                    steps.push(Step { line: number, at, input, outputs: Vec::new() });
                }
                Line { at: None, input: None, out: Some(out) } => {
                    steps.last_mut().ok_or_else(|| wrong(&"an output before the first input"))?.outputs.push(out);
                }
                Line { .. } => return Err(wrong(&"neither an input with its time nor an output")),
            }
        }
        Ok(Self { head, steps })
    }
}

impl Head {
    /// A core as it was when the session began.
    fn core(self) -> Core {
        let options = self.options;
        let settings = Settings {
            url: options.url,
            token: options.token,
            token_via: options.token_via,
            ask_token: options.ask_token,
            reconnect: options.reconnect,
            reconnect_interval: options.reconnect_interval,
            max_reconnect_attempts: options.max_reconnect_attempts,
            connect_timeout: options.connect_timeout,
            call_timeout: options.call_timeout,
            contract: options.contract,
        };
        let mut seed = [0; 32];
        seed.iter_mut().zip(self.seed.0).for_each(|(byte, given)| *byte = given);
        Core(Driver::new(settings.config(), Seed(seed), Outputs::default()))
    }
}

/// A core, and what it has done since the last input.
struct Core(Driver<Outputs>);

#[derive(Default)]
struct Outputs(Vec<Out>);

impl World for Outputs {
    fn open(&mut self, socket: f64, url: &str, protocols: &str) {
        self.0.push(Out::Open { socket, url: url.to_owned(), protocols: protocols.to_owned() });
    }

    fn send(&mut self, socket: f64, message: &[u8]) {
        self.0.push(Out::Send { socket, bytes: Bytes(message.to_vec()) });
    }

    fn shut(&mut self, socket: f64, code: u16, reason: &str) {
        self.0.push(Out::Shut { socket, code, reason: reason.to_owned() });
    }

    fn arm(&mut self, delay: f64) {
        self.0.push(Out::Arm { delay });
    }

    fn text(&mut self, text: &str) {
        self.0.push(Out::Text { text: text.to_owned() });
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.0.push(Out::Bytes { bytes: Bytes(bytes.to_vec()) });
    }

    fn soon(&mut self, urgency: u8) {
        self.0.push(Out::Soon { urgency });
    }

    fn warn(&mut self, _message: &str) {}
}

impl Core {
    fn perform(&mut self, at: u64, input: &In) -> Vec<Out> {
        let (core, now) = (&mut self.0, Millis(at));
        let data = |json: &Option<String>, bytes: &Option<Bytes>| {
            payload(json.clone(), bytes.as_ref().map(|Bytes(bytes)| bytes.clone()))
        };
        let mut stream = |command: &str, kind: &str, key: &str, number: Option<f64>, payload| {
            core.stream(now, command, kind, key.to_owned(), number, payload);
        };
        match input {
            In::Open { kind, key, throttle } => stream("open", kind, key, *throttle, data(&None, &None)),
            In::Leave { kind, key } => stream("leave", kind, key, None, data(&None, &None)),
            In::Edit { kind, key, id, json, bytes } => stream("edit", kind, key, Some(*id), data(json, bytes)),
            In::Show { kind, key, json } => stream("show", kind, key, None, data(json, &None)),
            In::Aware { kind, key, bytes } => stream("aware", kind, key, None, data(&None, bytes)),
            In::Answer { kind, key, bytes } => stream("answer", kind, key, None, data(&None, bytes)),
            In::Unfit { kind, key, applied } => stream("unfit", kind, key, Some(flag(*applied)), data(&None, &None)),
            In::Connect => core.connect(now),
            In::Close => core.close(now),
            In::Call { id, method, json, bytes, timeout, queue } => {
                core.call(now, *id, method.clone(), data(json, bytes), *timeout, *queue);
            }
            In::Cancel { id } => core.cancel(now, *id),
            In::Emit { event, json, bytes, queue } => core.emit(now, event, data(json, bytes), *queue),
            In::Subscribe { id, kind, key, since } => {
                let since = since.map(|Since { epoch, seq }| Position { epoch, seq });
                core.follow(now, *id, kind, key.clone(), since);
            }
            In::Unsubscribe { id, linger } => core.unfollow(now, *id, *linger),
            In::Resync { key, applied } => core.resync(now, key.clone(), *applied),
            In::Hint { kind } => core.hint(now, kind),
            In::Token { token, error } => core.token(now, token.clone(), error.clone()),
            In::Opened { socket, protocol } => core.opened(now, *socket, protocol),
            In::Message { socket, bytes } => core.message(now, *socket, &bytes.0),
            In::Closed { socket, code, reason, ours, retry_after } => {
                core.closed(now, *socket, *code, reason.clone(), *ours, *retry_after);
            }
            In::Timeout => core.timeout(now),
            In::Take => core.take(),
        }
        std::mem::take(&mut core.world().0)
    }
}

fn flag(set: bool) -> f64 {
    if set { 1.0 } else { 0.0 }
}

impl Out {
    /// The same output. Messages are compared as what is in them: a browser compresses with another library, and both are right.
    fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Send { socket, bytes }, Self::Send { socket: on, bytes: others }) => {
                let (mut codec, mut codec_of_other, limits) = (Codec::default(), Codec::default(), longest());
                match (codec.decode(&bytes.0, &limits), codec_of_other.decode(&others.0, &limits)) {
                    (Ok(one), Ok(two)) => {
                        socket == on
                            && (one.opcode, one.correlation, one.payload) == (two.opcode, two.correlation, two.payload)
                    }
                    _ => false,
                }
            }
            _ => self == other,
        }
    }
}

/// The bounds of a client whose server announces the longest frames: what a session has, its client has accepted or refused.
fn longest() -> Limits {
    let limits = Limits::default();
    let message = limits.max_received + HEADER_LEN;
    Limits { max_payload: limits.max_received, max_compressed: message, max_inflated: message, ..limits }
}

// --- for people ---

/// Without what would command a terminal: a file may come from anybody.
fn plain(shown: &dyn fmt::Display) -> String {
    shown.to_string().chars().map(|char| if char.is_control() { '\u{fffd}' } else { char }).collect()
}

impl fmt::Display for In {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect => f.write_str("connect"),
            Self::Close => f.write_str("close"),
            Self::Call { id, method, json, bytes, .. } => write!(f, "call {id} {method} {}", content(json, bytes)),
            Self::Cancel { id } => write!(f, "cancel {id}"),
            Self::Emit { event, json, bytes, .. } => write!(f, "emit {event} {}", content(json, bytes)),
            Self::Subscribe { id, kind, key, since: None } => write!(f, "subscribe {id} {kind} {key}"),
            Self::Subscribe { id, kind, key, since: Some(Since { epoch, seq }) } => {
                write!(f, "subscribe {id} {kind} {key} since {epoch}/{seq}")
            }
            Self::Unsubscribe { id, linger } => write!(f, "unsubscribe {id} in {linger} ms"),
            Self::Resync { key, .. } => write!(f, "resync {key}"),
            Self::Open { kind, key, .. } => write!(f, "open {kind} {key}"),
            Self::Leave { kind, key } => write!(f, "leave {kind} {key}"),
            Self::Edit { kind, key, id, json, bytes } => write!(f, "edit {id} {kind} {key} {}", content(json, bytes)),
            Self::Show { key, json, .. } => write!(f, "show {key} {}", content(json, &None)),
            Self::Aware { key, bytes, .. } => write!(f, "aware {key} {}", content(&None, bytes)),
            Self::Answer { key, bytes, .. } => write!(f, "answer {key} {}", content(&None, bytes)),
            Self::Unfit { kind, key, .. } => write!(f, "unfit {kind} {key}"),
            Self::Hint { kind } => write!(f, "hint {kind}"),
            Self::Token { token, error } => {
                let answer = error.as_deref().or(token.as_ref().map(|_| "given"));
                write!(f, "token {}", answer.unwrap_or("none"))
            }
            Self::Opened { socket, protocol } => write!(f, "socket {socket} opened, {protocol}"),
            Self::Message { socket, bytes } => write!(f, "socket {socket} message {}", message(&bytes.0)),
            Self::Closed { socket, code, reason, .. } => write!(f, "socket {socket} closed, {code} {reason}"),
            Self::Timeout => f.write_str("timeout"),
            Self::Take => f.write_str("take"),
        }
    }
}

impl fmt::Display for Out {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open { socket, url, protocols } => write!(f, "open socket {socket} {url} {protocols}"),
            Self::Send { socket, bytes } => write!(f, "send on socket {socket} {}", message(&bytes.0)),
            Self::Shut { socket, code, reason } => write!(f, "close socket {socket} {code} {reason}"),
            Self::Arm { delay } if *delay < 0.0 => f.write_str("no timer"),
            Self::Arm { delay } => write!(f, "timer in {delay} ms"),
            Self::Text { text } => write!(f, "tell {}", cut(text)),
            Self::Bytes { bytes } => write!(f, "tell {} bytes", bytes.0.len()),
            Self::Soon { urgency } => write!(f, "to be taken, urgency {urgency}"),
            Self::Panicked { message } => write!(f, "panic: {message}"),
        }
    }
}

fn content(json: &Option<String>, bytes: &Option<Bytes>) -> String {
    match (json, bytes) {
        (_, Some(Bytes(bytes))) => format!("{} bytes", bytes.len()),
        (Some(json), None) => cut(json),
        (None, None) => String::new(),
    }
}

/// A frame, or those of a batch: opcode, correlation id, the payload as far as it is text.
fn message(bytes: &[u8]) -> String {
    match Codec::default().decode(bytes, &longest()) {
        Ok(Frame { opcode: Opcode::Batch, payload, .. }) => {
            let mut rest = payload;
            let items = std::iter::from_fn(|| {
                let (item, behind) = split_item(rest)?;
                rest = behind;
                Some(message(item))
            });
            items.collect::<Vec<_>>().join(" + ")
        }
        Ok(Frame { opcode, correlation, payload }) => match parts(opcode, payload) {
            Some(parts) => format!("{opcode:?} {correlation} {parts}"),
            None => format!("{opcode:?} {correlation} {} bytes", payload.len()),
        },
        Err(why) => format!("{} bytes, {why}", bytes.len()),
    }
}

/// A payload in words; `None` where it is no text, or not what the opcode says.
fn parts(opcode: Opcode, payload: &[u8]) -> Option<String> {
    let text = |bytes| std::str::from_utf8(bytes).ok();
    Some(match opcode {
        Opcode::Entry => {
            let (seq, rest) = split_varuint(payload)?;
            // The frame does not say of which kind its stream is. A time and JSON after it are never a list together.
            if rest.first() == Some(&b'[') && serde_json::from_slice::<IgnoredAny>(rest).is_ok() {
                return Some(format!("entry {seq} {}", cut(text(rest)?)));
            }
            let (timestamp, data) = split_varuint(rest)?;
            format!("entry {seq} of {timestamp} {}", cut(text(data)?))
        }
        Opcode::Call => {
            let (method, params) = split_item(payload)?;
            format!("{} {}", text(method)?, cut(text(params)?))
        }
        Opcode::Result => cut(text(payload)?),
        _ => cut(text(payload).filter(|text| text.starts_with(['{', '[', 'n']))?),
    })
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
