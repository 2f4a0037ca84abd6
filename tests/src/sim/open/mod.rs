//! [`Open`]: what a client's host keeps of CRDTs, a room and a document, and what its user does with them.

mod crdt;
mod doc;
mod room;

use datasole_core::{Client, Event, Millis, Payload, Question, StreamId, StreamKind, SyncPhase};

pub(super) use self::{
    crdt::{Fate, HeldCrdt},
    doc::HeldDoc,
    room::HeldRoom,
};
use super::{
    Stats,
    site::{CRDTS, DOC, ROOM},
    tap::{Sent, What},
};
use crate::random::Random;

/// Edits at once: more than the window holds, where as many calls may be pending.
const BURST: u64 = 90;
const FEW: u64 = 10;

pub(super) struct Open {
    pub(super) crdts: Vec<HeldCrdt>,
    pub(super) room: HeldRoom,
    pub(super) doc: HeldDoc,
    /// Streams of which the last handle was given back.
    pub(super) left: Vec<StreamId>,
    /// A further handle came or went: nothing is sent.
    pub(super) quiet: bool,
    burst: u64,
}

/// Where an event comes from.
#[derive(Clone, Copy)]
pub(super) struct From {
    pub(super) protocol: u8,
    /// Which memory the server of the connection has.
    pub(super) memory: usize,
}

impl Open {
    pub(super) fn new(user: &str, client_id: u64, many_calls: bool, random: &mut Random) -> Self {
        Self {
            crdts: CRDTS.map(|(key, kind)| HeldCrdt::new(key, kind, user, random)).into(),
            room: HeldRoom::new(ROOM),
            doc: HeldDoc::new(DOC, client_id),
            left: Vec::new(),
            quiet: false,
            burst: if many_calls { BURST } else { FEW },
        }
    }

    /// Opens what is not open: everything, or what chance wants.
    pub(super) fn begin(&mut self, client: &mut Client, host: Millis, everything: bool, random: &mut Random) {
        for crdt in &mut self.crdts {
            if everything || random.below(4) > 0 {
                crdt.open(client, host);
            }
        }
        if everything || random.below(4) > 0 {
            self.room.open(client, host, random);
        }
        if everything || random.below(4) > 0 {
            self.doc.open(client, host, random);
        }
    }

    // --- the core ---

    /// Takes an event of an open stream; gives back what is none. The flag: a question is to be answered later.
    pub(super) fn event(
        &mut self,
        client: &mut Client,
        host: Millis,
        event: Event,
        from: From,
        stats: &mut Stats,
    ) -> Result<bool, Event> {
        match event {
            Event::Entry { stream, payload, whole, .. } => match stream.kind {
                StreamKind::Crdt => self.crdt(&stream).entry(&payload, whole, from.protocol),
                StreamKind::Presence => self.room.entry(&payload, whole),
                StreamKind::Doc => self.doc.entry(&payload),
                _ => panic!("an entry of {stream:?}"),
            },
            Event::Settled { stream, edit, outcome } => {
                let fate = Fate { outcome, protocol: from.protocol, memory: from.memory };
                self.crdt(&stream).settled(edit, fate, stats);
            }
            Event::Progress { stream, progress } => match stream.kind {
                StreamKind::Crdt => self.crdt(&stream).progress = progress,
                StreamKind::Presence => self.room.progress = progress,
                _ => self.doc.progress(progress),
            },
            Event::Rejected { stream, payload, .. } => {
                stats.count("rejected");
                match stream.kind {
                    StreamKind::Crdt => self.crdt(&stream).rejected(&payload),
                    StreamKind::Presence => self.room.rejected(&payload),
                    _ => {}
                }
            }
            Event::Ask { question: Question::Awareness, .. } => {
                stats.count("announced again");
                self.doc.announce(client, host, 2);
            }
            Event::Ask { question, .. } => {
                self.doc.ask(question, stats);
                return Ok(true);
            }
            Event::Awareness { update, .. } => self.doc.heard(&update),
            other => return Err(other),
        }
        Ok(false)
    }

    fn crdt(&mut self, stream: &StreamId) -> &mut HeldCrdt {
        self.crdts.iter_mut().find(|crdt| crdt.stream == *stream).unwrap()
    }

    /// The client sends this to an open stream.
    pub(super) fn check_sent(&self, sent: &Sent) {
        if let What::Operation(Some(id)) = &sent.what {
            self.crdts.iter().find(|crdt| crdt.stream == sent.stream).unwrap().check_sent(id);
        }
    }

    /// After everything that the core has told.
    pub(super) fn check(&self, connected: bool) {
        self.crdts.iter().for_each(HeldCrdt::check);
        self.doc.check();
        let crdts = self.crdts.iter().map(|crdt| (&crdt.progress, crdt.handles));
        let others = [(&self.room.progress, self.room.handles), (&self.doc.progress, self.doc.handles)];
        for (progress, handles) in crdts.chain(others) {
            let up_to_date = progress.phase == SyncPhase::Synced && handles > 0;
            assert!(connected || !up_to_date, "up to date without a connection: {progress:?}");
        }
    }

    /// The connection is lost: nobody knows who is there.
    pub(super) fn lost(&mut self) {
        self.doc.others.clear();
    }

    // --- the user ---

    pub(super) fn act(
        &mut self,
        client: &mut Client,
        host: Millis,
        now: u64,
        nonce: u64,
        keeper: bool,
        random: &mut Random,
    ) {
        let which = random.below(self.crdts.len() as u64) as usize;
        let many = if random.below(40) == 0 { self.burst } else { 1 };
        match random.below(20) {
            0..=8 => {
                let crdt = &mut self.crdts[which];
                for _ in 0..many {
                    if crdt.handles > 0 {
                        crdt.edit(client, host, now, random);
                    }
                }
            }
            9..=12 => {
                let many = if random.below(8) == 0 { self.burst / 2 } else { 1 };
                for _ in 0..many {
                    if self.doc.handles > 0 {
                        self.doc.edit(client, host, random);
                    }
                }
            }
            13 | 14 if self.room.handles > 0 => {
                for _ in 0..many {
                    self.room.show(client, host, nonce, random);
                }
            }
            15 if self.doc.handles > 0 => self.doc.show(client, host, nonce, random),
            16 => {
                let keep = 1 + random.below(3) as usize;
                self.open_or_leave(client, host, keep, random);
            }
            17 => self.open_or_leave(client, host, usize::from(keeper), random),
            18 => {
                let stream = self.some_stream(random);
                client.unfit(host, &stream, random.coin());
            }
            _ => {}
        }
    }

    fn some_stream(&self, random: &mut Random) -> StreamId {
        match random.below(5) {
            0 => self.room.stream.clone(),
            1 => self.doc.stream.clone(),
            which => self.crdts[which as usize - 2].stream.clone(),
        }
    }

    /// Opens one more handle or gives one back, but keeps so many.
    fn open_or_leave(&mut self, client: &mut Client, host: Millis, keep: usize, random: &mut Random) {
        let stream = self.some_stream(random);
        let (handles, phase) = match stream.kind {
            StreamKind::Crdt => {
                let crdt = self.crdt(&stream);
                (crdt.handles, &crdt.progress.phase)
            }
            StreamKind::Presence => (self.room.handles, &self.room.progress.phase),
            _ => (self.doc.handles, &self.doc.progress.phase),
        };
        let leaves = handles > keep;
        self.quiet = *phase == SyncPhase::Synced && handles > usize::from(leaves);
        match (stream.kind, leaves) {
            (StreamKind::Crdt, true) => self.crdt(&stream).leave(client, host),
            (StreamKind::Crdt, false) => self.crdt(&stream).open(client, host),
            (StreamKind::Presence, true) => self.room.leave(client, host),
            (StreamKind::Presence, false) => self.room.open(client, host, random),
            (_, true) => self.doc.leave(client, host),
            (_, false) => self.doc.open(client, host, random),
        }
        if leaves && handles == 1 {
            self.left.push(stream);
        }
    }

    /// Changes everything that is open once more.
    pub(super) fn touch(&mut self, client: &mut Client, host: Millis, now: u64, nonce: u64, random: &mut Random) {
        for crdt in &mut self.crdts {
            // Some edits are none: the removal of what is not there.
            for _ in 0..8 {
                crdt.edit(client, host, now, random);
            }
        }
        self.doc.edit(client, host, random);
        self.doc.show(client, host, nonce, random);
        let value = Payload::from_json(&format!("{{\"n\":{nonce}}}"));
        self.room.shown = Some(serde_json::json!({ "n": nonce }));
        client.show(host, ROOM, value).unwrap();
    }
}
