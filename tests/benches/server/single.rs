//! What is measured of one server by itself, without a baseline in turns.

use std::hint::black_box;

use datasole_tests::table::Table;
use serde::de::IgnoredAny;

use crate::{
    Result,
    content::Content,
    load::{self, Load, Stream},
    paper::{self, Paper},
    payload,
    process::{self, Server, thread_time},
    report::median,
    serve::{Kind, Order},
    websocket,
};

/// Connections opened before memory is read for the first time, so that what a server keeps once is not counted.
const SETTLED: usize = 64;
/// Edits of a document under way.
const WINDOW: usize = 32;

/// CPU time for each of so many members of a room who join it together, and the bytes that each of them sends and gets.
pub(crate) fn room(members: usize, rounds: usize) -> Result<(f64, f64)> {
    let members = members.min(process::descriptors());
    let server = Server::start(Kind::Ours, Content::Nothing)?;
    let mut load = Load::open(server.port, members, Stream::Room)?;
    let mut figures = Vec::new();
    let mut wire = 0;
    for round in 0..=rounds {
        let (before, moved) = (server.cpu()?, load.moved());
        load.tell(|member| websocket::frame(&payload::presence(2, Some(member))))?;
        let used = server.cpu()? - before;
        wire = load.moved() - moved;
        if round > 0 {
            figures.push(used as f64 / members as f64 / 1_000.0);
            eprintln!("  {:.1} µs and {} bytes a member", figures[figures.len() - 1], wire / members as u64);
        }
        load.tell(|_| websocket::frame(&payload::presence(3, None)))?;
    }
    Ok((median(&mut figures), wire as f64 / members as f64))
}

/// CPU time of one of the last `slice` keystrokes of a paper, and of one of the first, of a server of each kind; they get each slice in
/// turns.
pub(crate) fn document(kinds: &[Kind], slice: usize) -> Result<Vec<(f64, f64)>> {
    let Paper { updates, text } = paper::write()?;
    let mut desks = kinds.iter().map(|kind| Desk::new(*kind)).collect::<Result<Vec<_>>>()?;
    for slice in updates.chunks(slice) {
        for desk in &mut desks {
            desk.type_in(slice)?;
        }
        let figures: Vec<_> = desks.iter().flat_map(|desk| desk.figures.last()).map(|us| format!("{us:.2}")).collect();
        eprintln!("  {} µs an edit", figures.join(" against "));
    }
    desks.iter().map(|desk| desk.ends(&text)).collect()
}

/// A server with a document, and what each slice of its keystrokes took.
struct Desk {
    server: Server,
    load: Load,
    figures: Vec<f64>,
}

impl Desk {
    fn new(kind: Kind) -> Result<Self> {
        let server = Server::start(kind, Content::Nothing)?;
        let load = Load::open(server.port, 2, Stream::Document)?;
        Ok(Self { server, load, figures: Vec::new() })
    }

    fn type_in(&mut self, slice: &[Vec<u8>]) -> Result<()> {
        let channel = self.load.channel();
        let before = self.server.cpu()?;
        for window in slice.chunks(WINDOW) {
            let frames = (2..).zip(window).map(|(id, update)| websocket::frame(&payload::update(id, channel, update)));
            self.load.exchange(&frames.collect::<Vec<_>>())?;
        }
        self.load.tell(|_| Vec::new())?;
        self.figures.push((self.server.cpu()? - before) as f64 / slice.len() as f64 / 1_000.0);
        Ok(())
    }

    /// The last figure and the first.
    fn ends(&self, text: &str) -> Result<(f64, f64)> {
        // An edit that was refused was answered, too.
        load::check_document(self.server.port, text)?;
        match self.figures[..] {
            [first, .., last] => Ok((last, first)),
            _ => Err("too few edits".into()),
        }
    }
}

/// Resident bytes that one more idle connection costs, the median of so many servers.
pub(crate) fn idle_bytes(kind: Kind, connections: usize, servers: usize) -> Result<f64> {
    Ok(median(&mut (0..servers).map(|_| idle_bytes_of_one(kind, connections)).collect::<Result<Vec<_>>>()?))
}

fn idle_bytes_of_one(kind: Kind, connections: usize) -> Result<f64> {
    let possible = process::descriptors().saturating_sub(SETTLED);
    if possible < connections {
        eprintln!("  descriptors for {possible} of {connections} connections: `ulimit -n` permits more");
    }
    let connections = connections.min(possible);
    if connections == 0 {
        return Err("too few descriptors to measure connections: raise `ulimit -n`".into());
    }
    let server = Server::start(kind, Content::Nothing)?;
    let mut load = Load::open(server.port, SETTLED, Stream::Nothing)?;
    server.cpu()?;
    let before = server.resident()?;
    load.add(server.port, connections, Stream::Nothing)?;
    server.cpu()?;
    let after = server.resident()?;
    Ok(after.saturating_sub(before) as f64 / connections as f64)
}

/// Resident bytes that a server's content costs, and the most that it cost meanwhile: of each part, or of each byte of the state's
/// JSON. A server without content is the comparison.
pub(crate) fn memory(content: Content) -> Result<(&'static str, f64, f64)> {
    let (mut server, empty) = (Server::start(Kind::Ours, content)?, Server::start(Kind::Ours, Content::Nothing)?);
    // One change is made once the content is there.
    server.order(Order::Changes(1))?;
    server.cpu()?;
    empty.cpu()?;
    let (unit, parts) = match content {
        Content::Rows(rows) => ("bytes per byte of JSON", text(rows)?.len()),
        _ => ("bytes per key", content.count()),
    };
    let before = empty.resident()?;
    let each = |bytes: u64| bytes.saturating_sub(before) as f64 / parts as f64;
    Ok((unit, each(server.resident()?), each(server.peak()?)))
}

/// CPU time to set a state of so many rows, of which one cell is another, for each MB of its JSON; and the least for it, which is to
/// write the text and to read it once, without a value that is made of it.
pub(crate) fn set(rows: usize, turns: usize, rounds: usize) -> Result<(f64, f64)> {
    let mut server = Server::start(Kind::Ours, Content::Rows(rows))?;
    let megabytes = text(rows)?.len() as f64 / 1_000_000.0;
    let (mut figures, mut least) = (Vec::new(), Vec::new());
    for round in 0..=rounds {
        let before = server.cpu()?;
        for turn in 0..turns {
            server.order(Order::Set((turn * 7_919 % rows) as u32))?;
        }
        let used = server.cpu()? - before;
        let begun = thread_time();
        for _ in 0..turns {
            black_box(serde_json::from_str::<IgnoredAny>(&text(rows)?)?);
        }
        let alone = thread_time() - begun;
        if round > 0 {
            let each = |nanoseconds: f64| nanoseconds / turns as f64 / megabytes / 1_000.0;
            figures.push(each(used as f64));
            least.push(each(alone.as_nanos() as f64));
            eprintln!(
                "  {:.0} µs a MB, {:.0} to write and read it",
                figures[figures.len() - 1],
                least[least.len() - 1]
            );
        }
    }
    Ok((median(&mut figures), median(&mut least)))
}

/// The longest time that the runtime's thread is kept while a state of so many rows is set, patched, set again and replaced, and
/// shown to those who come; microseconds.
pub(crate) fn stall(rows: usize, rounds: usize) -> Result<f64> {
    let mut server = Server::start(Kind::Ours, Content::Rows(rows))?;
    server.order(Order::Watch)?;
    let mut figures = Vec::new();
    for round in 0..=rounds {
        let mut longest = 0.0_f64;
        for (what, order) in
            [("one cell set", Order::Set(7)), ("a patch", Order::Changes(1)), ("replaced", Order::Replace)]
        {
            server.order(Order::Longest)?;
            server.order(order)?;
            longest = longest.max(kept(&mut server, what)?);
        }
        let _load = Load::open(server.port, 1, Stream::State)?;
        longest = longest.max(kept(&mut server, "shown")?);
        if round > 0 {
            figures.push(longest);
        }
    }
    Ok(median(&mut figures))
}

fn kept(server: &mut Server, what: &str) -> Result<f64> {
    let microseconds = server.order(Order::Longest)? as f64 / 1_000.0;
    eprintln!("  {what}: {microseconds:.0} µs");
    Ok(microseconds)
}

/// The JSON of the state.
fn text(rows: usize) -> Result<String> {
    Ok(serde_json::to_string(&Table::new(rows))?)
}
