//! [`HeldDoc`]: a document at a client: its Yjs document, a book of its edits, and who is in it.

use std::collections::{BTreeMap, VecDeque};

use datasole_core::{
    Client, Millis, Payload, Progress, Question, StreamId, SyncPhase,
    wire::{push_varuint, split_varuint},
};
use datasole_server::yrs::{
    ClientID, Doc, GetString, Options, ReadTxn, StateVector, Text, TextRef, Transact, Update, merge_updates_v1,
    updates::{decoder::Decode, encoder::Encode},
};

use crate::{random::Random, sim::Stats};

pub(in crate::sim) struct HeldDoc {
    pub(in crate::sim) stream: StreamId,
    pub(in crate::sim) handles: usize,
    pub(in crate::sim) progress: Progress,
    pub(in crate::sim) client_id: u64,
    /// The number of the latest edit, since the document was opened.
    pub(in crate::sim) made: u64,
    /// How many units of this client there were after each edit that is not known to be stored.
    marks: BTreeMap<u64, u32>,
    /// The document was left with refused edits, which nobody counts any more.
    pub(in crate::sim) dropped: bool,
    /// As many units of this client are stored; to be compared with the server.
    pub(in crate::sim) stored: Option<u32>,
    /// What is shown to others, and the states of others, as JSON text.
    pub(in crate::sim) shown: Option<String>,
    pub(in crate::sim) others: BTreeMap<u64, String>,
    clock: u32,
    doc: Doc,
    text: TextRef,
    questions: VecDeque<Question>,
}

impl HeldDoc {
    pub(super) fn new(key: &str, client_id: u64) -> Self {
        let doc = Doc::with_options(Options { client_id: ClientID::new(client_id), ..Options::default() });
        let text = doc.get_or_insert_text("body");
        Self {
            stream: StreamId::doc(key),
            handles: 0,
            progress: Progress::default(),
            client_id,
            made: 0,
            marks: BTreeMap::new(),
            dropped: false,
            stored: None,
            shown: None,
            others: BTreeMap::new(),
            clock: 0,
            doc,
            text,
            questions: VecDeque::new(),
        }
    }

    pub(in crate::sim) fn text(&self) -> String {
        self.text.get_string(&self.doc.transact())
    }

    pub(in crate::sim) fn state_vector(&self) -> StateVector {
        self.doc.transact().state_vector()
    }

    /// The core has nothing of it any more: numbers begin anew.
    fn is_over(&self) -> bool {
        self.handles == 0 && (self.progress.pending == 0 || matches!(self.progress.phase, SyncPhase::Refused { .. }))
    }

    pub(super) fn open(&mut self, client: &mut Client, host: Millis, random: &mut Random) {
        self.handles += 1;
        client.open(host, self.stream.clone(), random.coin().then(|| random.below(2_000))).unwrap();
    }

    pub(super) fn leave(&mut self, client: &mut Client, host: Millis) {
        self.handles -= 1;
        if self.handles == 0 {
            self.shown = None;
            self.others.clear();
        }
        client.leave(host, &self.stream);
        self.begin_anew();
    }

    pub(in crate::sim) fn edit(&mut self, client: &mut Client, host: Millis, random: &mut Random) {
        let update = {
            let mut change = self.doc.transact_mut();
            let length = self.text.len(&change);
            let at = random.below(u64::from(length) + 1) as u32;
            if length > 200 || at < length && random.below(4) == 0 {
                let count = if length > 200 { length - at } else { 1 };
                self.text.remove_range(&mut change, at, count);
            } else {
                let word = ["a", "bc", "xyz"][random.below(3) as usize];
                self.text.insert(&mut change, at, word);
            }
            change.encode_update_v1()
        };
        self.made += 1;
        let units = self.state_vector().get(&ClientID::new(self.client_id));
        self.marks.insert(self.made, units);
        client.edit(host, &self.stream, self.made, Payload::Binary(update)).unwrap();
    }

    pub(super) fn entry(&mut self, payload: &Payload) {
        let Payload::Binary(update) = payload else { panic!("a document's entry is no update") };
        let mut change = self.doc.transact_mut();
        let (update, here) = (Update::decode_v1(update).unwrap(), change.state_vector());
        let follows = update.state_vector_lower().iter().all(|(client, clock)| here.get(client) >= *clock);
        change.apply_update(update).unwrap();
        assert!(follows && !change.has_missing_updates(), "an update refers to what has not come");
    }

    pub(super) fn progress(&mut self, progress: Progress) {
        assert!(progress.stored >= self.progress.stored || self.made <= progress.stored, "what was stored is not");
        self.progress = progress;
        let later = self.marks.split_off(&(self.progress.stored + 1));
        if let Some((_, units)) = std::mem::replace(&mut self.marks, later).pop_last() {
            self.stored = Some(units);
        }
        self.begin_anew();
    }

    fn begin_anew(&mut self) {
        if self.is_over() {
            self.dropped |= self.progress.pending > 0;
            self.made = 0;
            self.marks.clear();
            self.progress = Progress::default();
        }
    }

    // --- questions ---

    pub(super) fn ask(&mut self, question: Question, stats: &mut Stats) {
        stats.count(match question {
            Question::Merge { .. } => "updates merged",
            Question::Difference { .. } => "documents compared",
            _ => "questions",
        });
        self.questions.push_back(question);
    }

    /// Answers the oldest question.
    pub(in crate::sim) fn answer(&mut self, client: &mut Client, host: Millis) {
        let answer = match self.questions.pop_front().unwrap() {
            Question::Difference { theirs, .. } => {
                self.doc.transact().encode_diff_v1(&StateVector::decode_v1(&theirs).unwrap())
            }
            Question::Merge { updates } => {
                assert!((2..=64).contains(&updates.len()), "{} updates to be merged", updates.len());
                merge_updates_v1(&updates).unwrap()
            }
            _ => self.state_vector().encode_v1(),
        };
        client.answer(host, &self.stream.key, answer);
    }

    // --- awareness ---

    pub(in crate::sim) fn show(&mut self, client: &mut Client, host: Millis, nonce: u64, random: &mut Random) {
        self.shown = (random.below(6) > 0).then(|| format!("{{\"n\":{nonce}}}"));
        self.announce(client, host, 1);
        if self.shown.is_none() {
            client.aware(host, &self.stream.key, None);
        }
    }

    pub(super) fn announce(&mut self, client: &mut Client, host: Millis, step: u32) {
        self.clock += step;
        let text = self.shown.as_deref().unwrap_or("null");
        let mut update = Vec::new();
        for number in [1, self.client_id, u64::from(self.clock), text.len() as u64] {
            push_varuint(&mut update, number);
        }
        update.extend_from_slice(text.as_bytes());
        client.aware(host, &self.stream.key, Some(update));
    }

    pub(super) fn heard(&mut self, update: &[u8]) {
        let (count, mut rest) = split_varuint(update).unwrap();
        for _ in 0..count {
            let (client, after) = split_varuint(rest).unwrap();
            let (_, after) = split_varuint(after).unwrap();
            let (length, after) = split_varuint(after).unwrap();
            let (text, after) = after.split_at(length as usize);
            rest = after;
            match std::str::from_utf8(text).unwrap() {
                "null" => self.others.remove(&client),
                text => self.others.insert(client, text.to_owned()),
            };
        }
        assert!(rest.is_empty(), "there is something behind an awareness update");
    }

    /// After everything that the core has told.
    pub(super) fn check(&self) {
        if !self.is_over() {
            assert_eq!(self.progress.pending as u64, self.made - self.progress.stored, "edits that are not stored");
        }
    }
}
