//! What the server sends. Nothing it sends makes this fail: on version 1 what cannot be read is dropped, on version 2 it
//! ends the connection, because then it is not known what was missed.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::Client;
use crate::{
    config::Limits,
    error::codes,
    event::{Event, Payload, SocketId, SubscriptionId},
    frame::{Frame, HEADER_LEN, Opcode},
    json,
    read::{Entry, Read},
    rpc::{self, Place, Refusal},
    session::{Phase, Version},
    stream::{Position, StreamId, StreamKind},
    subscriptions::{Receipt, Step, first_value},
    wire::{self, ServerEvent, StatePatch, StateSnapshot, Subscribed, split_binary, split_varuint},
};

/// Epochs and sequence numbers are below 2^53, so that JavaScript numbers hold them.
const POSITIONS: u64 = 1 << 53;

/// Why a frame's payload is not what its opcode says.
type Malformed = &'static str;

const MALFORMED: Malformed = "malformed payload";

impl Client {
    pub(super) fn on_message(&mut self, socket: SocketId, bytes: &[u8]) {
        let now = self.clock.now();
        let (version, announced) = match self.phase.link() {
            Some(link) if link.socket == socket => {
                link.received(now);
                (link.version, link.announced)
            }
            _ => return,
        };
        let limits = receiving(self.config.limits, announced);
        let mut decoder = std::mem::take(&mut self.decoder);
        let read = match decoder.decode(bytes, &limits) {
            Err(error) if error.is_ignorable() => Ok(()),
            Err(_) => Err("malformed frame"),
            Ok(frame) if version == Version::V1 => self.on_v1_frame(&frame),
            Ok(Frame { opcode: Opcode::Batch, payload, .. }) => self.on_batch(socket, payload, &limits),
            Ok(frame) => self.on_v2_frame(&frame),
        };
        self.decoder = decoder;
        match read {
            Err(why) if version == Version::V2 => self.violation(why),
            _ => {}
        }
    }

    /// Takes the messages of a batch one after the other, as long as the connection lasts.
    fn on_batch(&mut self, socket: SocketId, mut payload: &[u8], limits: &Limits) -> Result<(), Malformed> {
        let mut unpacker = std::mem::take(&mut self.unpacker);
        let mut read = Ok(());
        while read.is_ok() && !payload.is_empty() && self.phase.socket() == Some(socket) {
            read = match wire::split_item(payload) {
                None => Err(MALFORMED),
                Some((message, rest)) => {
                    payload = rest;
                    match unpacker.decode(message, limits) {
                        Err(error) if error.is_ignorable() => Ok(()),
                        Err(_) => Err("malformed frame"),
                        Ok(Frame { opcode: Opcode::Batch, .. }) => Err("a batch in a batch"),
                        Ok(frame) => self.on_v2_frame(&frame),
                    }
                }
            };
        }
        self.unpacker = unpacker;
        read
    }

    fn on_v1_frame(&mut self, frame: &Frame<'_>) -> Result<(), Malformed> {
        match frame.opcode {
            Opcode::RpcResponse | Opcode::Error => self.on_answer(frame)?,
            Opcode::ServerEvent => {
                let event: ServerEvent<'_> = parse(frame.payload)?;
                let data = json_payload(event.data);
                self.message(event.event, data, event.timestamp);
            }
            Opcode::StatePatch => self.on_v1_patch(&parse(frame.payload)?)?,
            Opcode::StateSnapshot => {
                let StateSnapshot { key, data, removed, .. } = parse(frame.payload)?;
                if let Some((position, _)) = self.subscriptions.count(&key, &self.config.limits) {
                    self.snapshot(key, data.filter(|_| !removed), position);
                }
            }
            Opcode::CrdtState => self.on_entry(StreamKind::Crdt, frame.payload, "state")?,
            // PONG has done its work by coming; the rest is not for version 1 clients of this crate.
            _ => {}
        }
        Ok(())
    }

    /// Before HELLO.
    fn on_greeting_frame(&mut self, frame: &Frame<'_>) -> Result<(), Malformed> {
        match frame.opcode {
            Opcode::Hello => self.on_hello(frame.payload),
            Opcode::Authed => self.on_authed(frame.correlation),
            Opcode::Error => self.on_answer(frame)?,
            _ => return Err("the first frame is not HELLO"),
        }
        Ok(())
    }

    fn on_v2_frame(&mut self, frame: &Frame<'_>) -> Result<(), Malformed> {
        if matches!(self.phase, Phase::Greeting { .. }) {
            return self.on_greeting_frame(frame);
        }
        match frame.opcode {
            Opcode::RpcResponse | Opcode::RpcResponseBinary | Opcode::Result | Opcode::Error | Opcode::Ack => {
                self.on_answer(frame)?;
            }
            Opcode::Entry => self.on_short_entry(frame.correlation, frame.payload)?,
            Opcode::CrdtOp => self.on_entry(StreamKind::Crdt, frame.payload, "op")?,
            Opcode::CrdtState => self.on_entry(StreamKind::Crdt, frame.payload, "state")?,
            Opcode::Presence => self.on_entry(StreamKind::Presence, frame.payload, "members")?,
            Opcode::Doc => self.on_doc(frame.correlation, frame.payload)?,
            Opcode::ServerEvent => {
                let event = parse(frame.payload)?;
                self.on_event(event, None)?;
            }
            Opcode::ServerEventBinary => {
                let (head, bytes) = split_binary(frame.payload).ok_or("binary payload is too short")?;
                self.on_event(parse(head)?, Some(bytes))?;
            }
            Opcode::StatePatch => self.on_v2_patch(parse(frame.payload)?)?,
            Opcode::StateSnapshot => self.on_v2_snapshot(parse(frame.payload)?)?,
            Opcode::Subscribed => {
                let answer: Subscribed = parse(frame.payload)?;
                position(Some(answer.epoch), Some(answer.seq))?;
                let step = self.subscriptions.answered(frame.correlation, &answer);
                self.take(step)?;
            }
            Opcode::Authed => self.on_authed(frame.correlation),
            Opcode::Hello => return Err("a second HELLO"),
            // PONG has done its work by coming; reserved opcodes and those of clients mean nothing here.
            _ => {}
        }
        Ok(())
    }

    /// RPC_RES, ACK or ERROR: ends what was sent under the frame's correlation id, readable or not.
    fn on_answer(&mut self, frame: &Frame<'_>) -> Result<(), Malformed> {
        let id = frame.correlation;
        if let Some((call, place)) = self.calls.take_sent(id) {
            let mut seq = 0;
            let outcome = match frame.opcode {
                Opcode::RpcResponse => rpc::response(frame.payload),
                Opcode::RpcResponseBinary => rpc::binary_response(frame.payload),
                Opcode::Result => rpc::result(frame.payload),
                Opcode::Ack => match entry_number(frame.payload) {
                    Some((at, _)) => {
                        seq = at;
                        Ok(Payload::Empty)
                    }
                    None => Err(rpc::unreadable()),
                },
                _ => Err(Refusal::read(frame.payload).into()),
            };
            self.done(call, outcome);
            // To its author, a document's entry comes as the answer.
            if let Place::Submitted(_, Some(id)) = place
                && seq > 0
                && let Receipt::Gap(id) = self.subscriptions.receive_seq(id, seq)
            {
                return self.repair(id);
            }
            return Ok(());
        }
        if frame.opcode == Opcode::Error {
            self.on_refusal(frame);
        }
        Ok(())
    }

    /// ERROR of what is no call.
    fn on_refusal(&mut self, frame: &Frame<'_>) {
        let id = frame.correlation;
        if let Some((subscription, stream)) = self.subscriptions.refuse(id, &self.config.limits) {
            let refusal = Refusal::read(frame.payload);
            if self.streams.has(&stream) {
                return self.stream_refused(&stream, refusal);
            }
            let Refusal { code, message, .. } = refusal;
            self.forget_value(&stream);
            return self.event(Event::Refused { subscription, stream, code, message });
        }
        let greeting = matches!(self.phase, Phase::Greeting { .. });
        if self.phase.link().is_some_and(|link| link.auth == Some(id)) {
            let Refusal { code, message, .. } = Refusal::read(frame.payload);
            // Without a greeting nothing else can follow; later, a limit on AUTH leaves the old identity as it is.
            if greeting || matches!(code, codes::UNAUTHORIZED | codes::FORBIDDEN) {
                self.unauthorized(message);
            } else if let Some(link) = self.phase.link() {
                link.auth = None;
            }
        }
    }

    fn on_authed(&mut self, correlation: u32) {
        if let Some(link) = self.phase.link()
            && link.auth == Some(correlation)
        {
            link.auth = None;
        }
    }

    // --- events ---

    fn on_event(&mut self, event: ServerEvent<'_>, bytes: Option<&[u8]>) -> Result<(), Malformed> {
        if let Some(at) = position(event.epoch, event.seq)? {
            match self.subscriptions.receive(StreamKind::Event, &event.event, at, false) {
                Receipt::Next => {}
                Receipt::Ignore => return Ok(()),
                Receipt::Gap(id) => return self.repair(id),
            }
        }
        let payload = bytes.map_or_else(|| json_payload(event.data), |bytes| Payload::Binary(bytes.to_vec()));
        self.message(event.event, payload, event.timestamp);
        Ok(())
    }

    fn message(&mut self, event: Cow<'_, str>, payload: Payload, timestamp: u64) {
        self.event(Event::Message { event: event.into_owned(), payload, timestamp });
    }

    // --- states ---

    fn on_v2_patch(&mut self, patch: StatePatch<'_>) -> Result<(), Malformed> {
        let at = position(patch.epoch, patch.seq)?.ok_or("a patch without a position")?;
        check_ops(patch.patches)?;
        match self.subscriptions.receive(StreamKind::State, &patch.key, at, false) {
            Receipt::Next if self.apply(&patch.key, patch.patches) => {
                self.patch(patch.key, patch.patches, at);
                Ok(())
            }
            Receipt::Next => self.start_over(&patch.key),
            Receipt::Ignore => Ok(()),
            Receipt::Gap(id) => self.repair(id),
        }
    }

    fn on_v2_snapshot(&mut self, snapshot: StateSnapshot<'_>) -> Result<(), Malformed> {
        let at = position(snapshot.epoch, snapshot.seq)?.ok_or("a snapshot without a position")?;
        match self.subscriptions.receive(StreamKind::State, &snapshot.key, at, true) {
            Receipt::Next => {
                let value = snapshot.data.filter(|_| !snapshot.removed);
                if !self.snapshot(snapshot.key.clone(), value, at) {
                    return self.start_over(&snapshot.key);
                }
                Ok(())
            }
            Receipt::Ignore => Ok(()),
            Receipt::Gap(id) => self.repair(id),
        }
    }

    fn on_v1_patch(&mut self, patch: &StatePatch<'_>) -> Result<(), Malformed> {
        check_ops(patch.patches)?;
        let Some((position, first)) = self.subscriptions.count(&patch.key, &self.config.limits) else { return Ok(()) };
        if first && let Some(start) = json::whole(first_value(patch.patches)) {
            self.snapshot(patch.key.clone(), Some(start), Position { seq: 0, ..position });
        }
        if !self.apply(&patch.key, patch.patches) {
            #[cfg(feature = "mirror")]
            self.doubt(patch.key.clone().into_owned());
            return Ok(());
        }
        self.patch(patch.key.clone(), patch.patches, position);
        Ok(())
    }

    /// Hands a snapshot on, unless the mirror cannot hold it.
    fn snapshot(&mut self, key: Cow<'_, str>, value: Option<&RawValue>, position: Position) -> bool {
        #[cfg(feature = "mirror")]
        if self.config.mirror && !self.mirror.replace(&key, value) {
            return false;
        }
        self.event(Event::Snapshot { key: key.into_owned(), value: value.map(RawValue::to_owned), position });
        true
    }

    /// Applies operations to the mirror; `false` when they do not fit what it has.
    #[cfg(feature = "mirror")]
    fn apply(&mut self, key: &str, ops: &RawValue) -> bool {
        if !self.config.mirror {
            return true;
        }
        let fits = self.mirror.patch(key, ops);
        if fits {
            self.subscriptions.fits(key);
        }
        fits
    }

    /// Version 1: a change was left out, and cannot be asked for. Told once until the next snapshot.
    #[cfg(feature = "mirror")]
    fn doubt(&mut self, key: String) {
        if self.mirror.doubt(&key) {
            let message = "the state may be wrong: a change did not fit, and a server of version 1 cannot repeat it";
            let (stream, message) = (StreamId::state(key), message.into());
            self.event(Event::Rejected { stream, code: codes::PARSE, message, payload: Payload::Empty });
        }
    }

    #[cfg(not(feature = "mirror"))]
    fn apply(&mut self, _key: &str, _ops: &RawValue) -> bool {
        true
    }

    fn patch(&mut self, key: Cow<'_, str>, ops: &RawValue, position: Position) {
        self.event(Event::Patch { key: key.into_owned(), ops: ops.to_owned(), position });
    }

    // --- operations, members, documents ---

    fn on_entry(&mut self, kind: StreamKind, payload: &[u8], body: &str) -> Result<(), Malformed> {
        let Entry { key, body, whole, epoch, seq } = Entry::read(payload, body).ok_or(MALFORMED)?;
        let at = if self.phase.open().is_some_and(|link| link.version == Version::V1) {
            self.subscriptions.keep(&key, body, &self.config.limits);
            let Some(at) = self.subscriptions.count_crdt(&key) else { return Ok(()) };
            at
        } else {
            let at = position(epoch, seq)?.ok_or("an entry without a position")?;
            match self.subscriptions.receive(kind, &key, at, whole) {
                Receipt::Next => at,
                Receipt::Ignore => return Ok(()),
                Receipt::Gap(id) => return self.repair(id),
            }
        };
        self.stream_entry(StreamId { kind, key: key.into_owned() }, json_payload(Some(body)), at, whole);
        Ok(())
    }

    fn on_doc(&mut self, channel: u32, payload: &[u8]) -> Result<(), Malformed> {
        let (seq, message) = entry_number(payload).ok_or(MALFORMED)?;
        let Some((id, stream, mut at)) = self.subscriptions.called(channel) else { return Ok(()) };
        if stream.kind != StreamKind::Doc {
            return Ok(());
        }
        let stream = stream.clone();
        // What is no entry moves nothing.
        if seq > 0 {
            at.seq = seq;
            match self.subscriptions.receive_seq(id, seq) {
                Receipt::Next => {}
                Receipt::Ignore => return Ok(()),
                Receipt::Gap(id) => return self.repair(id),
            }
        }
        self.stream_entry(stream, Payload::Binary(message.to_vec()), at, false);
        Ok(())
    }

    // --- short entries ---

    /// An event or a patch that names its stream by a number, which implies the epoch.
    fn on_short_entry(&mut self, channel: u32, payload: &[u8]) -> Result<(), Malformed> {
        let (seq, content) = entry_number(payload).ok_or(MALFORMED)?;
        let Some((_, stream, Position { epoch, .. })) = self.subscriptions.called(channel) else { return Ok(()) };
        let (kind, key) = (stream.kind, Cow::Owned(stream.key.clone()));
        let (epoch, seq) = (Some(epoch), Some(seq));
        match kind {
            StreamKind::State => {
                let patches = json::from_bytes(content).ok_or(MALFORMED)?;
                self.on_v2_patch(StatePatch { key, patches, epoch, seq })
            }
            StreamKind::Event => {
                let (timestamp, data) = split_varuint(content).ok_or(MALFORMED)?;
                let data = if data.is_empty() { None } else { Some(json::from_bytes(data).ok_or(MALFORMED)?) };
                self.on_event(ServerEvent { event: key, data, timestamp, epoch, seq }, None)
            }
            _ => Ok(()),
        }
    }

    // --- repairs ---

    /// The mirror and the stream no longer fit: asks for the whole value.
    fn start_over(&mut self, key: &str) -> Result<(), Malformed> {
        let Some(id) = self.subscriptions.find(StreamKind::State, key) else { return Ok(()) };
        self.misfit(id, false)
    }

    /// The host's value and the stream do not fit; see [`resync`](Self::resync).
    pub(super) fn misfit(&mut self, id: SubscriptionId, applied: bool) -> Result<(), Malformed> {
        let step = self.subscriptions.misfit(id, applied);
        self.take(step)
    }

    fn repair(&mut self, id: SubscriptionId) -> Result<(), Malformed> {
        let step = self.subscriptions.gap(id);
        self.take(step)
    }

    fn take(&mut self, step: Step) -> Result<(), Malformed> {
        match step {
            Step::None => {}
            Step::Answered { subscription, stream, recovered } => {
                self.answered(subscription, stream, recovered);
            }
            Step::Ask(id) => self.ask(id),
            Step::Rest(id, bound) => {
                let until = self.clock.now() + self.rng.up_to(bound);
                self.subscriptions.rest(id, until);
            }
            Step::GiveUp(why) => return Err(why),
        }
        Ok(())
    }
}

/// The bounds on messages of a server whose payloads are at most so long.
fn receiving(limits: Limits, announced: usize) -> Limits {
    let max_payload = limits.max_payload.max(announced.min(limits.max_received));
    let longest = max_payload.saturating_add(HEADER_LEN);
    let (max_compressed, max_inflated) = (limits.max_compressed.max(longest), limits.max_inflated.max(longest));
    Limits { max_payload, max_compressed, max_inflated, ..limits }
}

fn parse<'a, T: Read<'a>>(payload: &'a [u8]) -> Result<T, Malformed> {
    T::read(payload).ok_or(MALFORMED)
}

/// The `seq` that a binary payload begins with, and what follows it.
fn entry_number(payload: &[u8]) -> Option<(u64, &[u8])> {
    split_varuint(payload).filter(|(seq, _)| *seq < POSITIONS)
}

fn position(epoch: Option<u64>, seq: Option<u64>) -> Result<Option<Position>, Malformed> {
    match (epoch, seq) {
        (Some(epoch), Some(seq)) if epoch < POSITIONS && seq < POSITIONS => Ok(Some(Position { epoch, seq })),
        (Some(_), Some(_)) => Err("a position out of range"),
        _ => Ok(None),
    }
}

fn check_ops(ops: &RawValue) -> Result<(), Malformed> {
    if ops.get().starts_with('[') { Ok(()) } else { Err("operations that are no array") }
}

fn json_payload(data: Option<&RawValue>) -> Payload {
    data.map_or(Payload::Empty, |raw| Payload::Json(raw.to_owned()))
}
