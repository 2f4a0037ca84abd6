//! Open streams in the world: how what is sent to them is met, and what must be true of them.

use std::collections::BTreeSet;

use datasole_core::{
    EditOutcome, SyncPhase, codes,
    crdt::CrdtKind,
    frame::{Codec, Opcode},
};
use datasole_server::{Protocol, yrs::ClientID};

use super::{What, World};
use crate::{
    converge::model,
    sim::{
        actor::Actor,
        link::items,
        open::{Fate, HeldCrdt},
        rules::Verb,
        site::{self, CRDTS},
        tap::{self, Sent, shown},
    },
};

impl World {
    // --- on the way ---

    /// A client sends a message.
    pub(super) fn check_sent(&mut self, index: usize, id: usize, message: &[u8]) {
        let items = items(&mut self.codec, message);
        if items.len() > 1 {
            self.stats.count("batches of clients");
        }
        for item in items {
            let Some(sent) = Sent::read(&mut self.codec, &item) else { continue };
            let Actor { open, patience, jumped, .. } = &self.actors[index];
            open.check_sent(&sent);
            if !jumped {
                self.links[id].tap.sent(self.now, &sent, *patience, &mut self.stats);
            }
        }
    }

    /// A message reaches the server, unless something before it has an answer of its own.
    pub(super) fn deliver(&mut self, id: usize, message: &[u8]) {
        let v2 = self.links[id].protocol == Protocol::V2;
        if let Some(sent) = Sent::read(&mut self.codec, message) {
            // An operation that comes again is turned away more often: few are stored, lost and then refused.
            let mut odds = 10;
            match &sent.what {
                tap::What::Operation(None) => panic!("an operation without an id was sent"),
                tap::What::Operation(Some(op)) => {
                    self.links[id].tap.arrived(&sent.stream, op);
                    if !self.arrived.insert((sent.stream.key.clone(), op.node.clone(), op.counter)) {
                        self.stats.count("sent again");
                        odds = 3;
                    }
                }
                _ => {}
            }
            if v2 && self.moody && self.faulty && sent.correlation != 0 && self.random.below(odds) == 0 {
                return self.turn_away(id, &sent);
            }
        }
        if let Some(peer) = &mut self.links[id].peer {
            peer.receive(message);
        }
    }

    fn turn_away(&mut self, id: usize, sent: &Sent) {
        if self.links[id].peer.is_none() {
            return;
        }
        self.drain(id, usize::MAX);
        let wait = self.random.below(3_000);
        let error = match self.random.below(3) {
            0 if !matches!(sent.what, tap::What::Subscribe) => {
                self.stats.count("refused");
                format!(r#"{{"code":{},"message":"never"}}"#, codes::LIMIT)
            }
            _ => {
                self.stats.count("put off");
                format!(r#"{{"code":{},"message":"later","retryAfter":{wait}}}"#, codes::INTERNAL)
            }
        };
        let message = Codec::default().encode(Opcode::Error, sent.correlation, error.as_bytes(), usize::MAX);
        let at = self.links[id].down(self.now, &mut self.random);
        self.plan(at, What::Down(id, message));
    }

    /// What the core of a client says to be stored is.
    pub(super) fn check_stored(&mut self, index: usize) {
        let Actor { open, link, .. } = &mut self.actors[index];
        let memory = link.map(|link| self.links[link].memory);
        if let Some(units) = open.doc.stored.take()
            && memory == Some(self.site.memory())
            && !self.site.archive().is_failing()
        {
            let (_, state_vector) = self.site.doc();
            let there = state_vector.get(&ClientID::new(open.doc.client_id));
            assert!(there >= units, "{units} units are said to be stored, there are {there}");
        }
    }

    // --- what the application does ---

    pub(super) fn change_rule(&mut self, index: usize) {
        let streams = site::streams();
        let stream = streams[self.random.below(streams.len() as u64) as usize].clone();
        let verb = if self.random.coin() { Verb::Read } else { Verb::Write };
        if !self.actors[index].keeper {
            self.site.rules.flip(verb, &self.actors[index].name, stream);
        }
    }

    /// Nothing changes any more: some are forbidden something for good, and everybody begins anew with that.
    pub(super) fn settle_rules(&mut self) {
        self.site.archive().fail(false);
        self.site.rules.clear();
        for actor in self.actors.iter().filter(|actor| !actor.keeper) {
            for stream in site::streams() {
                for verb in [Verb::Read, Verb::Write] {
                    if self.random.below(8) == 0 {
                        self.site.rules.flip(verb, &actor.name, stream.clone());
                    }
                }
            }
        }
        let keeps = self.random.coin();
        self.restart(keeps);
    }

    pub(super) fn touch_streams(&mut self) {
        self.nonce += 1;
        let host = self.actors[0].host(self.now);
        let Actor { open, client, .. } = &mut self.actors[0];
        open.touch(client, host, self.now, self.nonce, &mut self.random);
        self.settle(0);
    }

    // --- the end ---

    pub(super) fn check_streams(&self) {
        for (key, kind) in CRDTS {
            self.check_crdt(key, kind);
        }
        self.check_room();
        self.check_doc();
    }

    fn check_crdt(&self, key: &str, kind: CrdtKind) {
        let log = self.site.archive().operations(key);
        let value = self.site.crdt(key, kind);
        assert_eq!(value, model::value(kind, &log), "the value of {key}");
        let ids = log.iter().map(|op| (op.node(), op.counter()));
        let stored: BTreeSet<_> = ids.clone().collect();
        assert_eq!(stored.len(), log.len(), "an operation on {key} was stored twice");
        let logs: Vec<_> = self.site.archives.iter().map(|archive| archive.operations(key)).collect();
        let ever: Vec<BTreeSet<_>> = logs.iter().map(|log| log.iter().flat_map(shown).collect()).collect();
        for actor in &self.actors {
            let name = &actor.name;
            let crdt = actor.open.crdts.iter().find(|crdt| crdt.stream.key == key).unwrap();
            for made in crdt.made.values() {
                let Some(Fate { outcome, protocol, memory }) = &made.fate else {
                    panic!("{made:?} of {name} was never settled");
                };
                if let (EditOutcome::Stored { .. }, 2) = (outcome, protocol) {
                    let id = (made.node.as_str(), made.counter);
                    assert!(ever[..=*memory].iter().any(|ids| ids.contains(&id)), "{made:?} of {name} was not stored");
                }
            }
            assert_eq!(crdt.progress.pending, 0, "{key} of {name}");
            if crdt.handles > 0 {
                self.check_held(actor, crdt, &value);
            }
        }
    }

    fn check_held(&self, actor: &Actor, crdt: &HeldCrdt, value: &serde_json::Value) {
        let (name, stream, phase) = (&actor.name, &crdt.stream, &crdt.progress.phase);
        let readable = self.site.may(Verb::Read, name, stream);
        if actor.watch.protocol == 1 {
            // Totals of version 1 only grow, whatever the server has forgotten; and what was edited there stays there.
            let stays = crdt.made.values().any(|made| made.fate.as_ref().is_some_and(|fate| fate.protocol == 1));
            if readable && !stays && crdt.replica.kind() != CrdtKind::PnCounter {
                assert_eq!(crdt.replica.value(), *value, "{stream:?} of {name} on version 1");
            }
            return;
        }
        if !readable {
            let away = matches!(phase, SyncPhase::Unreadable { .. } | SyncPhase::Refused { .. });
            assert!(away, "{stream:?} of {name} is {phase:?}, and may not be read");
            return;
        }
        assert_eq!(*phase, SyncPhase::Synced, "{stream:?} of {name}");
        assert_eq!(crdt.replica.value(), *value, "{stream:?} of {name}");
        assert_eq!(crdt.replica.own().count(), 0, "something is left on top of {stream:?} of {name}");
        // A server that has lost its data numbers what version 1 adds as before: what names the former means the latter.
        if crdt.replica.kind() != CrdtKind::OrSet || self.site.memory() == 0 {
            let (current, confirmed) = (crdt.replica.current().to_json(), crdt.replica.confirmed().to_json());
            assert_eq!(current.get(), confirmed.get(), "{stream:?} of {name}");
        }
    }

    fn check_room(&self) {
        let room = site::ROOM;
        let list = self.site.presence(room);
        let members: std::collections::BTreeMap<_, _> =
            list.iter().map(|member| (member.connection_id.clone(), member.value.clone())).collect();
        let mut expected: Vec<_> = Vec::new();
        for actor in self.actors.iter().filter(|actor| actor.watch.protocol == 2) {
            let held = &actor.open.room;
            if held.handles == 0 {
                continue;
            }
            let (name, stream, phase) = (&actor.name, &held.stream, &held.progress.phase);
            if let Some(value) = &held.shown {
                assert!(self.site.may(Verb::Write, name, stream), "{name} was not told that {value} is refused");
                expected.push((name.clone(), value.clone()));
            }
            if self.site.may(Verb::Read, name, stream) {
                assert_eq!(*phase, SyncPhase::Synced, "{room} of {name}");
                assert_eq!(held.members, members, "{room} of {name}");
            } else {
                assert!(matches!(phase, SyncPhase::Unreadable { .. }), "{room} of {name} is {phase:?}");
            }
        }
        let mut shown: Vec<_> = list.into_iter().map(|member| (member.user_id, member.value)).collect();
        shown.sort_by(|a, b| a.0.cmp(&b.0));
        assert_eq!(shown, expected, "who is in {room}");
    }

    fn check_doc(&self) {
        let (text, state_vector) = self.site.doc();
        let shows = |actor: &Actor| {
            let doc = &actor.open.doc;
            let there = doc.handles > 0 && actor.watch.protocol == 2;
            let text = doc.shown.clone().filter(|_| there && self.site.may(Verb::Read, &actor.name, &doc.stream));
            Some((doc.client_id, text?))
        };
        for actor in self.actors.iter().filter(|actor| actor.open.doc.handles > 0) {
            let (name, doc) = (&actor.name, &actor.open.doc);
            let (stream, phase) = (&doc.stream, &doc.progress.phase);
            let (reads, writes) = (self.site.may(Verb::Read, name, stream), self.site.may(Verb::Write, name, stream));
            if actor.watch.protocol == 1 || !reads {
                assert!(matches!(phase, SyncPhase::Refused { .. }), "the document of {name} is {phase:?}");
                continue;
            }
            // Only this client has some of it: edits that were refused, or what a server has lost.
            let alone = self.site.memory() > 0 || doc.dropped || doc.progress.pending > 0;
            if !writes && *phase != SyncPhase::Synced {
                assert!(matches!(phase, SyncPhase::Refused { .. }), "the document of {name} is {phase:?}");
                assert!(alone, "the document of {name}, who has nothing to tell, is {phase:?}");
                continue;
            }
            assert_eq!(*phase, SyncPhase::Synced, "the document of {name}");
            // Who may only read cannot tell of deletions.
            if writes || !alone {
                assert_eq!(doc.text(), text, "the document of {name}");
            }
            assert_eq!(doc.state_vector(), state_vector, "the document of {name}");
            assert_eq!((doc.progress.pending, doc.progress.stored), (0, doc.made), "edits of {name}");
            for (client, text) in self.actors.iter().filter_map(shows) {
                if client != doc.client_id {
                    assert_eq!(doc.others.get(&client), Some(&text), "who is in the document, says {name}");
                }
            }
        }
    }
}
