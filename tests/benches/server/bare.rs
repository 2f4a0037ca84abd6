//! The baseline: tokio-tungstenite with 1 KiB buffers that answers the load and nothing else.
//!
//! It batches (up to 64 ready messages are taken before one flush), frames an event once for all connections, reuses its
//! zlib contexts and parses no more of a request than its answer needs. No authentication, limits, heartbeat, streams,
//! back-pressure or error answers.

use std::{
    cell::RefCell,
    io::{self, Write},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use datasole_core::{
    frame::{HEADER_LEN, Opcode, ZLIB_MARK},
    wire::{push_varuint, split_varuint},
};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use futures_util::{SinkExt, Stream};
use serde::Deserialize;
use serde_json::{Value, value::RawValue};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_tungstenite::{
    WebSocketStream, accept_async_with_config,
    tungstenite::{self, Message, protocol::WebSocketConfig},
};

use crate::{Result, paper, payload, serve::Order};

/// tungstenite's buffers; bytes.
const BUFFER: usize = 1024;
/// Messages taken, and messages answered, before one flush.
const BATCH: usize = 64;
/// Messages a connection may have queued.
const QUEUE: usize = 1024;
/// The level of our server's zlib.
const LEVEL: u32 = 3;
/// Stands for a stream's epoch.
const EPOCH: u64 = 1_763_000_000_000;
/// The number of the only document.
const CHANNEL: u32 = 1;

/// The server.
#[derive(Clone, Default)]
pub(crate) struct Bare {
    seq: Arc<AtomicU64>,
    connections: Arc<Mutex<Vec<mpsc::Sender<Message>>>>,
    document: Arc<Mutex<paper::Alone>>,
}

impl Bare {
    /// Accepts connections from now on.
    pub(crate) fn start(listener: TcpListener) -> Self {
        let server = Self::default();
        let accepting = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = accepting.clone();
                tokio::spawn(async move {
                    // A connection that ends, however it does, ends alone.
                    let _ = server.connection(stream).await;
                });
            }
        });
        server
    }

    /// Publishes to every connection.
    pub(crate) fn carry_out(&self, order: Order) -> Result<()> {
        match order {
            Order::Events(count) => {
                for _ in 0..count {
                    self.publish(event(&payload::tick(), self.next())?);
                }
            }
            Order::SmallEvents(count) => {
                for _ in 0..count {
                    self.publish(event(&payload::small_tick(), self.next())?);
                }
            }
            Order::Patch(row) => self.publish(patch(row, self.next())?),
            _ => return Err("the bare server keeps no state".into()),
        }
        Ok(())
    }

    fn next(&self) -> u64 {
        self.seq.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn publish(&self, message: Vec<u8>) {
        let message = binary(message);
        self.connections().retain(|connection| connection.try_send(message.clone()).is_ok());
    }

    /// Answers a call with its parameters, a subscription with what lets the load begin, and an update of the document once the
    /// others have been told what was new in it.
    fn answer(&self, request: &[u8], own: &mpsc::Sender<Message>, answers: &mut Vec<Message>) -> Result<()> {
        ZLIB.with_borrow_mut(|zlib| {
            let request = if request.first() == Some(&ZLIB_MARK) { zlib.inflate(request)? } else { request };
            let (header, body) = request.split_first_chunk::<HEADER_LEN>().ok_or("a message without a header")?;
            let &[opcode, a, b, c, d, ..] = header;
            let correlation = u32::from_be_bytes([a, b, c, d]);
            let mut answer = |opcode, bytes: &[u8]| {
                answers.push(binary(message(opcode, correlation, |out| out.write_all(bytes))?));
                Ok(())
            };
            match Opcode::from_byte(opcode) {
                Some(Opcode::RpcRequest) => {
                    let Request { method, params } = serde_json::from_slice(body)?;
                    if method != payload::METHOD {
                        return Err(format!("no method is called `{method}`").into());
                    }
                    let params = params.get();
                    let plain = message(Opcode::RpcResponse, correlation, |out| {
                        write!(out, r#"{{"correlationId":{correlation},"result":{params}}}"#)
                    })?;
                    let whole = if plain.len() > payload::COMPRESS_ABOVE { zlib.deflate(&plain)? } else { plain };
                    answers.push(binary(whole));
                    Ok(())
                }
                Some(Opcode::Subscribe) if holds(body, r#""doc""#) => {
                    answer(Opcode::Subscribed, format!(r#"{{"channel":{CHANNEL}}}"#).as_bytes())?;
                    answer(Opcode::Doc, &payload::document(CHANNEL.into(), payload::QUESTION, &[0]))
                }
                Some(Opcode::Subscribe) => {
                    answer(Opcode::Subscribed, b"{}")?;
                    if holds(body, r#""state""#) { answer(Opcode::StateSnapshot, b"{}") } else { Ok(()) }
                }
                Some(Opcode::Doc) => {
                    let (_, asked) = split_varuint(body).ok_or("a DOC without a number")?;
                    let (kind, bytes) = asked.split_first_chunk().ok_or("a DOC without a kind")?;
                    let (_, bytes) = split_varuint(bytes).ok_or("a DOC without a length")?;
                    let document = self.document.lock().unwrap_or_else(PoisonError::into_inner);
                    if *kind != payload::UPDATE {
                        let whole = document.whole();
                        return answer(Opcode::Doc, &payload::document(CHANNEL.into(), payload::ANSWER, &whole));
                    }
                    let seq = self.next();
                    let new = payload::document(seq, payload::UPDATE, &document.apply(bytes)?);
                    let new = binary(message(Opcode::Doc, CHANNEL, |out| out.write_all(&new))?);
                    let told = |other: &mpsc::Sender<_>| other.same_channel(own) || other.try_send(new.clone()).is_ok();
                    self.connections().retain(told);
                    let mut position = Vec::new();
                    push_varuint(&mut position, seq);
                    answer(Opcode::Ack, &position)
                }
                _ => Err(format!("opcode {opcode:#x} is not served").into()),
            }
        })
    }

    fn connections(&self) -> MutexGuard<'_, Vec<mpsc::Sender<Message>>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connection(&self, stream: TcpStream) -> Result<()> {
        stream.set_nodelay(true)?;
        let config = WebSocketConfig::default().read_buffer_size(BUFFER).write_buffer_size(BUFFER);
        let mut socket = accept_async_with_config(stream, Some(config)).await?;
        socket.send(binary(message(Opcode::Hello, 0, |out| out.write_all(b"{}"))?)).await?;
        let (sender, mut queue) = mpsc::channel(QUEUE);
        self.connections().push(sender.clone());
        let (mut requests, mut queued) = (Vec::new(), Vec::new());
        loop {
            tokio::select! {
                received = Receive(&mut socket, &mut requests) => {
                    received?;
                    for request in requests.drain(..) {
                        self.answer(&request, &sender, &mut queued)?;
                    }
                }
                _ = queue.recv_many(&mut queued, BATCH) => {}
            }
            for message in queued.drain(..) {
                socket.feed(message).await?;
            }
            socket.flush().await?;
        }
    }
}

/// Waits for a message and takes those that are ready with it.
struct Receive<'a>(&'a mut WebSocketStream<TcpStream>, &'a mut Vec<Bytes>);

impl Future for Receive<'_> {
    type Output = tungstenite::Result<()>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Self(socket, received) = &mut *self;
        while received.len() < BATCH {
            let Poll::Ready(next) = Pin::new(&mut **socket).poll_next(context) else { break };
            match next.ok_or(tungstenite::Error::ConnectionClosed)?? {
                Message::Binary(bytes) => received.push(bytes),
                _ => return Poll::Ready(Err(tungstenite::Error::ConnectionClosed)),
            }
        }
        if received.is_empty() { Poll::Pending } else { Poll::Ready(Ok(())) }
    }
}

#[derive(Deserialize)]
struct Request<'a> {
    method: &'a str,
    #[serde(borrow)]
    params: &'a RawValue,
}

fn holds(body: &[u8], word: &str) -> bool {
    body.windows(word.len()).any(|part| part == word.as_bytes())
}

/// The same bytes as our server's, up to the stream's epoch.
fn event(data: &Value, seq: u64) -> io::Result<Vec<u8>> {
    let (topic, now) = (payload::TOPIC, payload::now());
    message(Opcode::ServerEvent, 0, |out| {
        write!(out, r#"{{"event":"{topic}","data":{data},"timestamp":{now},"epoch":{EPOCH},"seq":{seq}}}"#)
    })
}

/// The same.
fn patch(row: u32, seq: u64) -> io::Result<Vec<u8>> {
    change(payload::STATE, &payload::one_cell(row as usize, seq).to_string(), seq)
}

/// The same of any operations.
pub(crate) fn change(key: &str, operations: &str, seq: u64) -> io::Result<Vec<u8>> {
    message(Opcode::StatePatch, 0, |out| {
        write!(out, r#"{{"key":"{key}","patches":{operations},"epoch":{EPOCH},"seq":{seq}}}"#)
    })
}

/// A message whose payload `write` appends.
fn message(
    opcode: Opcode,
    correlation: u32,
    write: impl FnOnce(&mut Vec<u8>) -> io::Result<()>,
) -> io::Result<Vec<u8>> {
    let mut out = vec![0; HEADER_LEN];
    write(&mut out)?;
    let length = (out.len() - HEADER_LEN) as u32;
    out[0] = opcode as u8;
    out[1..5].copy_from_slice(&correlation.to_be_bytes());
    out[5..HEADER_LEN].copy_from_slice(&length.to_be_bytes());
    Ok(out)
}

fn binary(message: Vec<u8>) -> Message {
    Message::Binary(Bytes::from(message))
}

thread_local! {
    static ZLIB: RefCell<Zlib> = RefCell::new(Zlib {
        inflater: Decompress::new(true),
        deflater: Compress::new(Compression::new(LEVEL), true),
        inflated: Vec::with_capacity(payload::LARGEST),
    });
}

/// The thread's zlib contexts.
struct Zlib {
    inflater: Decompress,
    deflater: Compress,
    inflated: Vec<u8>,
}

impl Zlib {
    fn inflate(&mut self, message: &[u8]) -> Result<&[u8]> {
        self.inflater.reset(true);
        self.inflated.clear();
        match self.inflater.decompress_vec(message, &mut self.inflated, FlushDecompress::Finish)? {
            Status::StreamEnd => Ok(&self.inflated),
            _ => Err("a request longer than this server is made for".into()),
        }
    }

    fn deflate(&mut self, plain: &[u8]) -> Result<Vec<u8>> {
        self.deflater.reset();
        let mut out = Vec::with_capacity(plain.len());
        match self.deflater.compress_vec(plain, &mut out, FlushCompress::Finish)? {
            Status::StreamEnd => Ok(out),
            _ => Err("an answer that does not compress".into()),
        }
    }
}
