//! The load: connections driven by one thread that never sleeps in the kernel, so that it is ahead of the server and the
//! server never pays for waking it.
//!
//! It works in lockstep per connection (the calls in flight are sent in one write, the next ones when all are answered), so
//! that what a server finds to batch does not depend on how fast it is.

use std::{
    thread,
    time::{Duration, Instant},
};

use datasole_core::{
    Limits,
    frame::{Codec, Opcode},
    wire::split_varuint,
};
use serde_json::Value;

use crate::{
    Result, paper, payload,
    websocket::{self, Connection},
};

/// Upgrades that are under way at the same time.
const OPENING: usize = 50;
/// What one read takes at most; bytes.
const READ: usize = 64 * 1024;

/// A stream to subscribe to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    /// None.
    Nothing,
    /// None; the client takes short frames.
    Short,
    /// The topic [`payload::TOPIC`].
    Topic,
    /// The same in short frames.
    ShortTopic,
    /// The state [`payload::STATE`], whose snapshot comes first.
    State,
    /// The presence room [`payload::ROOM`], whose members come first.
    Room,
    /// The document [`payload::DOCUMENT`], whose question comes first.
    Document,
}

/// The least time without a byte after which all is said, where the number of frames depends on time: far more than a room is told
/// its changes in.
const QUIET: Duration = Duration::from_millis(400);

/// Open connections to one server.
pub(crate) struct Load {
    connections: Vec<Connection>,
    buffer: Vec<u8>,
}

impl Load {
    /// Opens `count` connections, greeted and subscribed.
    pub(crate) fn open(port: u16, count: usize, stream: Stream) -> Result<Self> {
        let mut load = Self { connections: Vec::with_capacity(count), buffer: vec![0; READ] };
        load.add(port, count, stream)?;
        Ok(load)
    }

    /// Opens `count` more.
    pub(crate) fn add(&mut self, port: u16, count: usize, stream: Stream) -> Result<()> {
        let mut left = count;
        while left > 0 {
            let batch = left.min(OPENING);
            let mut opening = (0..batch).map(|_| Connection::begin(port)).collect::<std::io::Result<Vec<_>>>()?;
            for connection in &mut opening {
                connection.finish()?;
                subscribe(connection, stream)?;
                connection.start()?;
            }
            self.connections.append(&mut opening);
            left -= batch;
        }
        Ok(())
    }

    /// The number that names the document on the first connection.
    pub(crate) fn channel(&self) -> u64 {
        self.connections.first().map_or(0, |connection| connection.channel)
    }

    /// Bytes on all connections since they were opened, both ways.
    pub(crate) fn moved(&self) -> u64 {
        self.connections.iter().map(|connection| connection.moved).sum()
    }

    /// Sends `frames`, which hold `in_flight` requests, `turns` times on every connection.
    pub(crate) fn call(&mut self, frames: &[u8], in_flight: usize, turns: usize) -> Result<()> {
        let mut left = vec![turns; self.connections.len()];
        for connection in &mut self.connections {
            connection.send(frames)?;
        }
        self.sweep(in_flight, |index, connection| {
            left[index] -= 1;
            if left[index] > 0 {
                connection.send(frames)?;
            }
            Ok(left[index] > 0)
        })
    }

    /// Waits until every connection has got `frames` more frames.
    pub(crate) fn receive(&mut self, frames: usize) -> Result<()> {
        self.sweep(frames, |_, _| Ok(false))
    }

    /// Sends each connection's frames, and takes what comes until nothing comes any more.
    pub(crate) fn tell(&mut self, frames: impl Fn(usize) -> Vec<u8>) -> Result<()> {
        for (index, connection) in self.connections.iter_mut().enumerate() {
            connection.send(&frames(index))?;
        }
        let mut last = (self.moved(), Instant::now());
        while last.1.elapsed() < QUIET {
            for connection in &mut self.connections {
                connection.poll(&mut self.buffer)?;
            }
            let moved = self.moved();
            if moved > last.0 {
                last = (moved, Instant::now());
            }
            thread::yield_now();
        }
        Ok(())
    }

    /// Sends frames on the first connection, and waits until it has got as many; the others take what comes meanwhile.
    pub(crate) fn exchange(&mut self, frames: &[Vec<u8>]) -> Result<()> {
        let Some((first, others)) = self.connections.split_first_mut() else { return Ok(()) };
        first.send(&frames.concat())?;
        let mut missing = frames.len();
        while missing > 0 {
            let got = first.poll(&mut self.buffer)?;
            missing = missing.checked_sub(got).ok_or("more frames than were asked for")?;
            for other in others.iter_mut() {
                other.poll(&mut self.buffer)?;
            }
        }
        Ok(())
    }

    /// Polls every connection in turn. One that has got `frames` frames is passed to `complete`, which says whether it goes
    /// on; ends when none does.
    fn sweep(
        &mut self,
        frames: usize,
        mut complete: impl FnMut(usize, &mut Connection) -> std::io::Result<bool>,
    ) -> Result<()> {
        let mut missing = vec![frames; self.connections.len()];
        let mut active: Vec<usize> = (0..self.connections.len()).collect();
        while !active.is_empty() {
            let mut idle = true;
            let mut index = 0;
            while index < active.len() {
                let at = active[index];
                let connection = &mut self.connections[at];
                let got = connection.poll(&mut self.buffer)?;
                idle &= got == 0;
                missing[at] = missing[at].checked_sub(got).ok_or("more frames than were asked for")?;
                if missing[at] == 0 {
                    missing[at] = frames;
                    if !complete(at, connection)? {
                        active.swap_remove(index);
                        continue;
                    }
                }
                index += 1;
            }
            if idle {
                thread::yield_now();
            }
        }
        Ok(())
    }
}

fn subscribe(connection: &mut Connection, stream: Stream) -> Result<()> {
    if matches!(stream, Stream::Short | Stream::ShortTopic) {
        connection.send(&websocket::frame(&payload::takes_short()))?;
    }
    let (kind, key) = match stream {
        Stream::Nothing | Stream::Short => return Ok(()),
        Stream::Topic | Stream::ShortTopic => ("event", payload::TOPIC),
        Stream::State => ("state", payload::STATE),
        Stream::Room => ("presence", payload::ROOM),
        Stream::Document => ("doc", payload::DOCUMENT),
    };
    connection.send(&websocket::frame(&payload::subscribe(1, kind, key)))?;
    let subscribed = expect(&connection.read_message()?, Opcode::Subscribed)?;
    match stream {
        Stream::State => drop(expect(&connection.read_message()?, Opcode::StateSnapshot)?),
        Stream::Room => drop(expect(&connection.read_message()?, Opcode::Presence)?),
        Stream::Document => {
            connection.channel = subscribed["channel"].as_u64().unwrap_or_default();
            // The server asks for what the client has.
            connection.read_message()?;
        }
        _ => {}
    }
    Ok(())
}

fn expect(message: &[u8], opcode: Opcode) -> Result<Value> {
    let mut codec = Codec::default();
    let frame = codec.decode(message, &limits())?;
    let payload = String::from_utf8_lossy(frame.payload);
    if frame.opcode != opcode {
        return Err(format!("{opcode:?} was due, the server sent {:?}: {payload}", frame.opcode).into());
    }
    Ok(serde_json::from_str(&payload)?)
}

/// For the largest state.
fn limits() -> Limits {
    let (max_payload, max_compressed, max_inflated) = (payload::LARGE, payload::LARGE, payload::LARGE);
    Limits { max_payload, max_compressed, max_inflated, ..Limits::default() }
}

/// Checks that a document has this text.
pub(crate) fn check_document(port: u16, text: &str) -> Result<()> {
    let mut connection = Connection::begin(port)?;
    connection.finish()?;
    subscribe(&mut connection, Stream::Document)?;
    connection.send(&websocket::frame(&payload::whole_document(2, connection.channel)))?;
    let mut codec = Codec::default();
    let whole = loop {
        let message = connection.read_message()?;
        let frame = codec.decode(&message, &limits())?;
        let (_, answer) = split_varuint(frame.payload).ok_or("a DOC without a number")?;
        if let (Opcode::Doc, Some(update)) = (frame.opcode, answer.strip_prefix(&payload::ANSWER)) {
            let (_, update) = split_varuint(update).ok_or("an update without a length")?;
            break update.to_vec();
        }
    };
    if paper::read(&whole)? == text { Ok(()) } else { Err("the document has another text".into()) }
}

/// Checks once that a server answers a call with its parameters.
pub(crate) fn check_echo(port: u16, params: &Value) -> Result<()> {
    let mut connection = Connection::begin(port)?;
    connection.finish()?;
    connection.send(&websocket::frame(&payload::request(1, params)))?;
    let answer = expect(&connection.read_message()?, Opcode::RpcResponse)?;
    if answer["result"] == *params { Ok(()) } else { Err(format!("a call was answered with {answer}").into()) }
}
