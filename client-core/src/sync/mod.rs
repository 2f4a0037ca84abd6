//! Open streams: CRDTs, presence rooms and documents, and every rule by which a client keeps them.
//!
//! The host owns values, handles, storage and timers; here are ids of edits, and the text or bytes to be sent. Nothing is
//! sent from here: [`Streams`] says what is to be done ([`Act`]), the client does it and tells how that went.

mod answer;
mod documents;
mod operation;
mod outbox;
mod replicas;
mod rooms;

use std::collections::VecDeque;

pub(crate) use self::answer::{Answer, Refused};
use self::{
    documents::OpenDocument,
    replicas::OpenCrdt,
    rooms::{Connections, OpenRoom},
};
use crate::{
    error::{CommandError, codes},
    event::{CallId, Event, Payload, Progress},
    session::Version,
    stream::{Position, StreamId, StreamKind},
    table::Table,
    time::Millis,
};

/// Reports in a row, without an entry applied between them, that an entry does not fit: the last refuses the stream.
const MAX_UNFIT: u8 = 3;

/// A thing for the client to do.
#[derive(Debug)]
pub(crate) enum Act {
    /// Subscribe.
    Follow(StreamId),
    /// Unsubscribe.
    Unfollow(StreamId),
    /// Fetch anew.
    Resync(StreamId),
    /// Send something that is answered; the number comes back with the answer.
    Submit(StreamId, u64, Payload),
    /// Send something that is not answered.
    Notify(StreamId, Payload),
    /// Tell the host.
    Tell(Event),
}

/// The surroundings of one open stream: the time, the connection, and the list of things to do.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    now: Millis,
    /// That of the connection; `None` without one.
    version: Option<Version>,
    connections: &'a Connections,
    stream: &'a StreamId,
    acts: &'a mut VecDeque<Act>,
}

impl Context<'_> {
    fn submit(&mut self, number: u64, payload: Payload) {
        self.acts.push_back(Act::Submit(self.stream.clone(), number, payload));
    }

    fn notify(&mut self, message: Vec<u8>) {
        self.acts.push_back(Act::Notify(self.stream.clone(), Payload::Binary(message)));
    }

    fn resync(&mut self) {
        self.acts.push_back(Act::Resync(self.stream.clone()));
    }

    fn tell(&mut self, event: Event) {
        self.acts.push_back(Act::Tell(event));
    }
}

/// The open streams of a client.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    open: Table<StreamId, Stream>,
    version: Option<Version>,
    connections: Connections,
    acts: VecDeque<Act>,
    /// The submissions without an answer: the stream, and the number there.
    submitted: Table<CallId, (StreamId, u64)>,
    /// Streams whose progress may have changed.
    touched: Vec<StreamId>,
    /// The earliest deadline, as of the last [`settle`](Self::settle).
    deadline: Option<Millis>,
}

#[derive(Debug)]
struct Stream {
    handles: usize,
    /// There is a subscription; without one, when to ask again on this connection.
    followed: bool,
    again: Option<Millis>,
    /// Reports in a row that an entry does not fit.
    unfit: u8,
    /// As the host was told last.
    progress: Option<Progress>,
    body: Body,
}

#[derive(Debug)]
enum Body {
    Crdt(OpenCrdt),
    Room(OpenRoom),
    Document(OpenDocument),
}

impl Stream {
    fn progress(&self) -> Progress {
        match &self.body {
            Body::Crdt(crdt) => Progress { phase: crdt.phase(), pending: crdt.outbox.pending(), stored: 0 },
            Body::Room(room) => Progress { phase: room.phase(), pending: 0, stored: 0 },
            Body::Document(document) => {
                Progress { phase: document.phase(), pending: document.pending(), stored: document.stored() }
            }
        }
    }

    fn deadline(&self, version: Option<Version>) -> Option<Millis> {
        let body = match &self.body {
            Body::Crdt(crdt) => crdt.deadline(),
            Body::Room(room) => room.deadline(version),
            Body::Document(document) => document.deadline(),
        };
        [self.again, body].into_iter().flatten().min()
    }

    /// Nobody holds it, and nothing is left to be sent.
    fn is_over(&self) -> bool {
        let done = match &self.body {
            Body::Crdt(crdt) => crdt.outbox.is_done(),
            Body::Room(_) => true,
            Body::Document(document) => document.pending() == 0 || document.is_refused(),
        };
        self.handles == 0 && done
    }

    fn run(&mut self, cx: &mut Context<'_>) {
        match &mut self.body {
            Body::Crdt(crdt) => crdt.flush(cx),
            Body::Room(room) => room.flush(cx),
            Body::Document(document) => document.run(cx),
        }
        if self.again.is_some_and(|again| again <= cx.now) {
            self.again = None;
            self.followed = true;
            cx.acts.push_back(Act::Follow(cx.stream.clone()));
        }
    }
}

impl Streams {
    // --- the client ---

    /// Whether the stream is open.
    pub(crate) fn has(&self, stream: &StreamId) -> bool {
        self.open.contains_key(stream)
    }

    /// The next thing to do.
    pub(crate) fn next(&mut self) -> Option<Act> {
        self.acts.pop_front()
    }

    /// Something was sent as the call `call`.
    pub(crate) fn submitted(&mut self, call: CallId, stream: StreamId, number: u64) {
        self.submitted.insert(call, (stream, number));
    }

    /// The submission that a call carried, if it carried one.
    pub(crate) fn take_submitted(&mut self, call: CallId) -> Option<(StreamId, u64)> {
        self.submitted.remove(&call)
    }

    /// After everything: releases what is over, tells of progress, and finds the next deadline.
    pub(crate) fn settle(&mut self) {
        if self.touched.is_empty() {
            return;
        }
        for id in std::mem::take(&mut self.touched) {
            let Some(stream) = self.open.get_mut(&id) else { continue };
            let progress = stream.progress();
            if stream.progress.as_ref() != Some(&progress) {
                stream.progress = Some(progress.clone());
                self.acts.push_back(Act::Tell(Event::Progress { stream: id.clone(), progress }));
            }
            if stream.is_over() {
                if stream.followed {
                    self.acts.push_back(Act::Unfollow(id.clone()));
                }
                self.open.remove(&id);
            }
        }
        self.deadline = None;
        if let Some(version) = self.version {
            let deadlines = self.open.values_mut().filter_map(|stream| stream.deadline(Some(version)));
            self.deadline = deadlines.min();
        }
    }

    /// When [`run`](Self::run) is due.
    pub(crate) fn deadline(&self) -> Option<Millis> {
        self.deadline
    }

    // --- the host ---

    /// Counts a handle. The flag says whether the stream is new, and to be followed.
    pub(crate) fn open(&mut self, now: Millis, id: &StreamId, throttle: u64) -> bool {
        let Some(stream) = self.open.get_mut(id) else {
            let body = match id.kind {
                StreamKind::Presence => Body::Room(OpenRoom::new(throttle)),
                StreamKind::Doc => Body::Document(OpenDocument::new(throttle)),
                StreamKind::Crdt => Body::Crdt(OpenCrdt::default()),
                // Nothing is written to those.
                StreamKind::State | StreamKind::Event => return false,
            };
            let stream = Stream { handles: 1, followed: true, again: None, unfit: 0, progress: None, body };
            self.open.insert(id.clone(), stream);
            self.touched.push(id.clone());
            return true;
        };
        stream.handles += 1;
        stream.progress = None;
        let again = if stream.followed { Act::Resync(id.clone()) } else { Act::Follow(id.clone()) };
        // One that was only waiting to be over begins anew for the new handle; one that was refused is asked for again.
        if !stream.followed || stream.handles == 1 {
            (stream.followed, stream.again) = (true, None);
            self.with(now, id, |stream, _| stream.start_over());
            self.acts.push_back(again);
        }
        self.touched.push(id.clone());
        false
    }

    pub(crate) fn leave(&mut self, now: Millis, id: &StreamId) {
        self.with(now, id, |stream, cx| {
            stream.handles = stream.handles.saturating_sub(1);
            if stream.handles == 0 {
                match &mut stream.body {
                    Body::Crdt(_) => {}
                    Body::Room(room) => room.withdraw(cx),
                    Body::Document(document) => document.withdraw(cx),
                }
            }
        });
    }

    pub(crate) fn edit(&mut self, now: Millis, id: &StreamId, edit: u64, payload: Payload) -> Result<(), CommandError> {
        let what = id.kind.name();
        let edited = self.with(now, id, |stream, cx| match &mut stream.body {
            Body::Crdt(crdt) => crdt.edit(cx, edit, payload),
            Body::Document(document) => document.edit(cx, edit, payload),
            Body::Room(_) => Err(CommandError::Unfit { what }),
        });
        edited.unwrap_or(Err(CommandError::NotOpen { what }))
    }

    pub(crate) fn show(&mut self, now: Millis, id: &StreamId, value: Option<Payload>) -> Result<(), CommandError> {
        let shown = self.with(now, id, |stream, cx| {
            if let Body::Room(room) = &mut stream.body {
                room.show(cx, value);
            }
        });
        shown.ok_or(CommandError::NotOpen { what: id.kind.name() })
    }

    pub(crate) fn aware(&mut self, now: Millis, id: &StreamId, update: Option<Vec<u8>>) {
        self.with_document(now, id, |document, cx| document.aware(cx, update));
    }

    pub(crate) fn answer(&mut self, now: Millis, id: &StreamId, answer: &[u8]) {
        self.with_document(now, id, |document, cx| document.answer(cx, answer));
    }

    pub(crate) fn unfit(&mut self, now: Millis, id: &StreamId, applied: bool) {
        self.with(now, id, |stream, cx| {
            if !stream.followed {
                return;
            }
            stream.unfit = if applied { 1 } else { stream.unfit + 1 };
            if stream.unfit < MAX_UNFIT {
                stream.start_over();
                return cx.resync();
            }
            (stream.unfit, stream.followed) = (0, false);
            cx.acts.push_back(Act::Unfollow(cx.stream.clone()));
            let refused = Refused { code: codes::PARSE, message: "what the server sends does not fit".into() };
            match &mut stream.body {
                Body::Crdt(crdt) => crdt.refuse(cx, refused),
                Body::Room(room) => room.refuse(refused),
                Body::Document(document) => document.refuse(refused),
            }
        });
    }

    // --- the server ---

    /// A connection is open, with this id. Returns the streams that are to be followed again.
    pub(crate) fn connected(&mut self, now: Millis, version: Version, connection: &str) -> Vec<StreamId> {
        self.version = Some(version);
        self.connections.push(connection);
        let mut again = Vec::new();
        for id in self.ids() {
            self.with(now, &id, |stream, cx| {
                if !std::mem::replace(&mut stream.followed, true) {
                    // A stream that was given up without a connection is still refused.
                    stream.start_over();
                    again.push(cx.stream.clone());
                }
                if let Body::Room(room) = &mut stream.body {
                    room.connected(cx);
                }
            });
        }
        again
    }

    /// The connection is lost.
    pub(crate) fn lost(&mut self, now: Millis) {
        if self.version.take().is_none() {
            return;
        }
        for id in self.ids() {
            self.with(now, &id, |stream, _| {
                stream.again = None;
                match &mut stream.body {
                    Body::Crdt(crdt) => crdt.lost(),
                    Body::Room(room) => room.lost(),
                    Body::Document(document) => document.lost(),
                }
            });
        }
    }

    pub(crate) fn subscribed(&mut self, now: Millis, id: &StreamId, recovered: bool) {
        self.with(now, id, |stream, cx| match &mut stream.body {
            Body::Crdt(crdt) => crdt.subscribed(cx, recovered),
            Body::Room(room) => room.subscribed(cx, recovered),
            Body::Document(document) => document.subscribed(cx),
        });
    }

    /// The subscription was refused, and is gone; `retry_after`: for so many milliseconds only.
    pub(crate) fn refused(&mut self, now: Millis, id: &StreamId, refused: Refused, retry_after: Option<u64>) {
        self.with(now, id, |stream, cx| {
            stream.followed = false;
            stream.again = retry_after.map(|wait| cx.now + wait);
            if stream.again.is_some() {
                return stream.start_over();
            }
            match &mut stream.body {
                Body::Crdt(crdt) => crdt.unreadable(cx, refused),
                Body::Room(room) => room.unreadable(refused),
                // Without a channel nothing can be sent.
                Body::Document(document) => document.refuse(refused),
            }
        });
    }

    pub(crate) fn entry(&mut self, now: Millis, id: &StreamId, payload: Payload, position: Position, whole: bool) {
        self.with(now, id, |stream, cx| match &mut stream.body {
            Body::Crdt(crdt) => crdt.entry(cx, payload, position, whole),
            Body::Room(room) => room.entry(cx, payload, position, whole),
            Body::Document(document) => {
                if let Payload::Binary(message) = &payload {
                    document.message(cx, message, position);
                }
            }
        });
    }

    /// How the submission `number` has fared.
    pub(crate) fn answered(&mut self, now: Millis, id: &StreamId, number: u64, answer: Answer) {
        self.with(now, id, |stream, cx| match &mut stream.body {
            Body::Crdt(crdt) => crdt.answered(cx, number, answer),
            Body::Room(room) => room.answered(cx, number, answer),
            Body::Document(document) => document.answered(cx, number, answer),
        });
    }

    /// Does what is due.
    pub(crate) fn run(&mut self, now: Millis) {
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            let version = self.version;
            for id in self.ids() {
                if self.open.get(&id).and_then(|stream| stream.deadline(version)).is_some_and(|due| due <= now) {
                    self.with(now, &id, Stream::run);
                }
            }
        }
    }

    // --- both ---

    fn ids(&self) -> Vec<StreamId> {
        self.open.keys().cloned().collect()
    }

    /// Lets one stream do something; `None` when it is not open.
    fn with<T>(
        &mut self,
        now: Millis,
        id: &StreamId,
        each: impl FnOnce(&mut Stream, &mut Context<'_>) -> T,
    ) -> Option<T> {
        let (stream, mut cx) = self.touch(now, id)?;
        Some(each(stream, &mut cx))
    }

    /// The stream and its context: once, not in each caller, for the size of the wasm.
    #[inline(never)]
    fn touch<'a>(&'a mut self, now: Millis, id: &'a StreamId) -> Option<(&'a mut Stream, Context<'a>)> {
        let stream = self.open.get_mut(id)?;
        if self.touched.last() != Some(id) {
            self.touched.push(id.clone());
        }
        let (version, connections) = (self.version, &self.connections);
        Some((stream, Context { now, version, connections, stream: id, acts: &mut self.acts }))
    }

    fn with_document(&mut self, now: Millis, id: &StreamId, each: impl FnOnce(&mut OpenDocument, &mut Context<'_>)) {
        self.with(now, id, |stream, cx| {
            if let Body::Document(document) = &mut stream.body {
                each(document, cx);
            }
        });
    }
}

impl Stream {
    /// The server's value is not known any more.
    fn start_over(&mut self) {
        match &mut self.body {
            Body::Crdt(crdt) => crdt.start_over(),
            Body::Room(room) => room.start_over(),
            Body::Document(document) => document.reopen(),
        }
    }
}
