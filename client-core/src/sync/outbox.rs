//! [`Outbox`]: the operations of one CRDT on their way to the server, in order, until each is settled and has come back.

use std::{collections::VecDeque, mem};

use serde_json::value::RawValue;

use super::{
    answer::{Answer, Refused},
    operation::{self, Id, Seen},
};
use crate::{error::CommandError, event::EditOutcome, time::Millis};

/// Operations of a stream that may be without an answer (`docs/protocol.md`, *CRDTs*).
pub(crate) const WINDOW: usize = 64;

/// Operations that an outbox holds, and their bytes.
pub(crate) const MAX_OPERATIONS: usize = 10_000;
pub(crate) const MAX_BYTES: usize = 4 * 1024 * 1024;

const UNFIT: CommandError = CommandError::Unfit { what: "crdt" };

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    items: VecDeque<Item>,
    bytes: usize,
    /// The latest number that the host gave.
    last: u64,
    /// The number of the latest submission.
    sent: u64,
    /// Operations whose outcome the host does not know.
    unsettled: usize,
    in_flight: usize,
    /// The server has asked to wait until then.
    wait: Option<Millis>,
}

#[derive(Debug)]
struct Item {
    /// The host's number.
    edit: u64,
    id: Id,
    text: Box<RawValue>,
    stage: Stage,
    /// The host knows the outcome.
    settled: bool,
    /// Refused: `none` takes its place.
    void: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// To be sent.
    Waiting,
    /// Sent under this number, and not answered.
    Sent(u64),
    /// Acknowledged, and neither come as an entry nor within a state.
    Arriving,
}

/// News for the host.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// An edit is settled.
    Settled(u64, EditOutcome),
    /// An operation was refused.
    Rejected(Refused, String),
}

impl Outbox {
    /// Edits that are not settled.
    pub(crate) fn pending(&self) -> usize {
        self.unsettled
    }

    /// Every edit is settled, and every `none` in place of a refused one is acknowledged.
    pub(crate) fn is_done(&self) -> bool {
        self.unsettled == 0 && self.items.iter().all(|item| !item.void)
    }

    /// Queues an operation under the host's number.
    pub(crate) fn push(&mut self, edit: u64, text: Box<RawValue>) -> Result<(), CommandError> {
        let id = operation::id(&text).filter(|_| edit > self.last).ok_or(UNFIT)?;
        // The numbers of a replica increase, upon which `done` relies.
        let before = self.items.iter().rfind(|item| item.id.node == id.node);
        if before.is_some_and(|before| before.id.counter >= id.counter) {
            return Err(UNFIT);
        }
        if self.items.len() >= MAX_OPERATIONS {
            return Err(CommandError::Limit { what: "operations waiting", limit: MAX_OPERATIONS });
        }
        let bytes = self.bytes + text.get().len();
        if bytes > MAX_BYTES {
            return Err(CommandError::Limit { what: "bytes of operations waiting", limit: MAX_BYTES });
        }
        self.bytes = bytes;
        self.last = edit;
        self.unsettled += 1;
        self.items.push_back(Item { edit, id, text, stage: Stage::Waiting, settled: false, void: false });
        Ok(())
    }

    /// The next operation to be sent, and the number of the submission; nothing while the window is full or the server
    /// has asked to wait.
    pub(crate) fn next(&mut self, now: Millis) -> Option<(u64, Box<RawValue>)> {
        if self.in_flight >= WINDOW || self.waits(now) {
            return None;
        }
        let at = self.items.iter().position(|item| item.stage == Stage::Waiting)?;
        let item = &self.items[at];
        let text = operation::write(&item.text, item.void, self.done(&item.id))?;
        self.sent += 1;
        self.in_flight += 1;
        self.items[at].stage = Stage::Sent(self.sent);
        Some((self.sent, text))
    }

    /// Every operation of the replica up to this number has been acknowledged, or given up.
    fn done(&self, id: &Id) -> u64 {
        let open = |item: &&Item| item.stage != Stage::Arriving && item.id.node == id.node;
        self.items.iter().find(open).map_or(id.counter, |first| first.id.counter.min(id.counter)).saturating_sub(1)
    }

    fn waits(&mut self, now: Millis) -> bool {
        self.wait = self.wait.filter(|until| now < *until);
        self.wait.is_some()
    }

    /// When the server may be asked again.
    pub(crate) fn deadline(&self) -> Option<Millis> {
        self.wait.filter(|_| self.items.iter().any(|item| item.stage == Stage::Waiting))
    }

    /// The answer to the submission `number`. `returns`: what is stored comes back as an entry.
    pub(crate) fn answered(&mut self, now: Millis, number: u64, answer: Answer, returns: bool, news: &mut Vec<News>) {
        if let Answer::Again(wait) = answer {
            // Whatever has become of the operation: the server asks the whole stream to wait.
            self.wait = self.wait.max(Some(now + wait));
        }
        let Some(at) = self.items.iter().position(|item| item.stage == Stage::Sent(number)) else { return };
        match answer {
            Answer::Unknown => {}
            Answer::Again(_) => {
                self.in_flight -= 1;
                self.items[at].stage = Stage::Waiting;
            }
            Answer::Taken if returns && !self.items[at].void => {
                self.in_flight -= 1;
                self.items[at].stage = Stage::Arriving;
                settle(&mut self.unsettled, &mut self.items[at], EditOutcome::Stored { returns: true }, news);
            }
            Answer::Taken => self.taken(at, returns, news),
            Answer::Never(_) if self.items[at].void => self.remove(at),
            Answer::Never(refused) => {
                self.in_flight -= 1;
                let item = &mut self.items[at];
                (item.stage, item.void) = (Stage::Waiting, true);
                // One that was stored, and lost by the server, is on top in the host.
                self.unsettled -= usize::from(!mem::replace(&mut item.settled, true));
                news.push(News::Rejected(refused.clone(), item.text.get().to_owned()));
                let Refused { code, message } = refused;
                news.push(News::Settled(item.edit, EditOutcome::Refused { code, message }));
            }
        }
    }

    /// An operation came: what it shows to be stored is done.
    pub(crate) fn entry(&mut self, operation: &RawValue, news: &mut Vec<News>) {
        if self.items.is_empty() {
            return;
        }
        operation::seen(operation, &mut |id| {
            if let Some(at) = self.items.iter().position(|item| item.id == id) {
                self.arrived(at, news);
            }
        });
    }

    /// A state came: what it contains is done; what was acknowledged and is not in it has been lost, and is sent again.
    pub(crate) fn state(&mut self, state: &RawValue, news: &mut Vec<News>) {
        if self.items.is_empty() {
            return;
        }
        let seen = Seen::of(state);
        for mut item in mem::take(&mut self.items) {
            if seen.contains(&item.id) {
                settle(&mut self.unsettled, &mut item, EditOutcome::Stored { returns: true }, news);
                self.forget(&item);
                continue;
            }
            if item.stage == Stage::Arriving {
                item.stage = Stage::Waiting;
            }
            self.items.push_back(item);
        }
    }

    /// The connection is lost: everything is to be sent again.
    pub(crate) fn lost(&mut self) {
        self.unsend();
        self.wait = None;
    }

    fn unsend(&mut self) {
        self.items.iter_mut().for_each(|item| item.stage = Stage::Waiting);
        self.in_flight = 0;
    }

    /// The whole stream is refused, and every edit with it; but for what was acknowledged and has not come back, which may
    /// have to be sent again on another connection.
    pub(crate) fn refuse(&mut self, refused: &Refused, news: &mut Vec<News>) {
        self.unsend();
        for mut item in mem::take(&mut self.items) {
            if item.settled && !item.void {
                self.items.push_back(item);
                continue;
            }
            if !item.settled {
                let Refused { code, message } = refused.clone();
                news.push(News::Rejected(refused.clone(), item.text.get().to_owned()));
                settle(&mut self.unsettled, &mut item, EditOutcome::Refused { code, message }, news);
            }
            self.forget(&item);
        }
    }

    fn arrived(&mut self, at: usize, news: &mut Vec<News>) {
        settle(&mut self.unsettled, &mut self.items[at], EditOutcome::Stored { returns: true }, news);
        self.remove(at);
    }

    /// An operation is stored, and nothing more will come of it. The host may have been told that it would return.
    fn taken(&mut self, at: usize, returns: bool, news: &mut Vec<News>) {
        let outcome = EditOutcome::Stored { returns };
        match self.items.get_mut(at) {
            Some(item) if item.settled && !item.void && !returns => news.push(News::Settled(item.edit, outcome)),
            Some(item) => settle(&mut self.unsettled, item, outcome, news),
            None => {}
        }
        self.remove(at);
    }

    /// Nothing is sent: every edit is settled, and does not return.
    pub(crate) fn stay(&mut self, news: &mut Vec<News>) {
        while !self.items.is_empty() {
            self.taken(0, false, news);
        }
    }

    fn remove(&mut self, at: usize) {
        // The items before move up by one: `VecDeque::remove` would do the same with 800 bytes of wasm.
        (0..at).rev().for_each(|before| self.items.swap(before, before + 1));
        if let Some(item) = self.items.pop_front() {
            self.forget(&item);
        }
    }

    fn forget(&mut self, item: &Item) {
        self.bytes -= item.text.get().len();
        self.in_flight -= usize::from(matches!(item.stage, Stage::Sent(_)));
    }
}

fn settle(unsettled: &mut usize, item: &mut Item, outcome: EditOutcome, news: &mut Vec<News>) {
    if !mem::replace(&mut item.settled, true) {
        *unsettled -= 1;
        news.push(News::Settled(item.edit, outcome));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(node: &str, counter: u64, bytes: usize) -> Box<RawValue> {
        let text = format!(r#"{{"nodeId":"{node}","counter":{counter},"op":"set","value":""}}"#);
        let text =
            text.replace(r#""value":"""#, &format!(r#""value":"{}""#, "x".repeat(bytes.saturating_sub(text.len()))));
        RawValue::from_string(text).unwrap()
    }

    fn push(outbox: &mut Outbox, counter: u64) {
        outbox.push(counter, operation("me", counter, 0)).unwrap();
    }

    /// The numbers of what is sent now.
    fn send(outbox: &mut Outbox, now: u64) -> Vec<u64> {
        std::iter::from_fn(|| outbox.next(Millis(now)).map(|(number, _)| number)).collect()
    }

    fn answer(outbox: &mut Outbox, number: u64, answer: Answer) -> Vec<News> {
        let mut news = Vec::new();
        outbox.answered(Millis(0), number, answer, true, &mut news);
        news
    }

    #[test]
    fn the_number_of_operations_is_bounded() {
        let mut outbox = Outbox::default();
        for counter in 1..=MAX_OPERATIONS as u64 {
            push(&mut outbox, counter);
        }
        let above = MAX_OPERATIONS as u64 + 1;
        let limit = Err(CommandError::Limit { what: "operations waiting", limit: MAX_OPERATIONS });
        assert_eq!(outbox.push(above, operation("me", above, 0)), limit);
        assert_eq!(send(&mut outbox, 0), (1..=WINDOW as u64).collect::<Vec<_>>());
        // An acknowledged operation counts until it has come back.
        assert_eq!(answer(&mut outbox, 1, Answer::Taken).len(), 1);
        assert_eq!((outbox.push(above, operation("me", above, 0)), outbox.pending()), (limit, MAX_OPERATIONS - 1));
        let mut news = Vec::new();
        outbox.entry(&operation("me", 1, 0), &mut news);
        assert_eq!((news, outbox.push(above, operation("me", above, 0))), (vec![], Ok(())));
    }

    #[test]
    fn the_bytes_of_operations_are_bounded_and_given_back() {
        for (bytes, fits) in [(MAX_BYTES / 4 - 1, true), (MAX_BYTES / 4, true), (MAX_BYTES / 4 + 1, false)] {
            let mut outbox = Outbox::default();
            for counter in 1..=3 {
                outbox.push(counter, operation("me", counter, MAX_BYTES / 4)).unwrap();
            }
            let last = outbox.push(4, operation("me", 4, bytes));
            assert_eq!(last.is_ok(), fits, "{bytes}: {last:?}");
            send(&mut outbox, 0);
            let mut news = Vec::new();
            outbox.entry(&operation("me", 2, 0), &mut news);
            assert_eq!(outbox.push(9, operation("me", 9, MAX_BYTES / 4)), Ok(()), "there is room again");
            outbox.refuse(&Refused { code: 1, message: String::new() }, &mut news);
            assert_eq!((outbox.bytes, outbox.pending(), outbox.in_flight), (0, 0, 0));
        }
    }

    #[test]
    fn numbers_and_the_counters_of_a_replica_increase() {
        let mut outbox = Outbox::default();
        outbox.push(5, operation("a", 3, 0)).unwrap();
        for (edit, node, counter, fits) in [
            (5, "a", 4, false),
            (4, "a", 4, false),
            (6, "a", 3, false),
            (6, "a", 2, false),
            (6, "b", 1, true),
            (7, "a", 4, true),
            (8, "b", 1, false),
        ] {
            assert_eq!(outbox.push(edit, operation(node, counter, 0)).is_ok(), fits, "{edit} {node} {counter}");
        }
    }

    #[test]
    fn the_window_holds_at_64() {
        let mut outbox = Outbox::default();
        (1..=WINDOW as u64 - 1).for_each(|counter| push(&mut outbox, counter));
        assert_eq!(send(&mut outbox, 0).len(), WINDOW - 1, "below");
        push(&mut outbox, 64);
        push(&mut outbox, 65);
        assert_eq!(send(&mut outbox, 0), [64], "at");
        // Every kind of answer makes room, and so does an entry that comes before the answer.
        let never = Answer::Never(Refused { code: 1, message: "no".into() });
        for (number, kind) in [(1, Answer::Taken), (2, Answer::Again(0)), (3, never)] {
            answer(&mut outbox, number, kind);
            assert_eq!(send(&mut outbox, 0).len(), 1, "{number}");
        }
        answer(&mut outbox, 4, Answer::Unknown);
        assert!(send(&mut outbox, 0).is_empty(), "nobody knows");
        push(&mut outbox, 66);
        outbox.entry(&operation("me", 5, 0), &mut Vec::new());
        assert_eq!((send(&mut outbox, 0).len(), outbox.in_flight), (1, WINDOW));
        outbox.lost();
        assert_eq!(send(&mut outbox, 0).len(), WINDOW);
    }

    #[test]
    fn the_longest_wait_counts() {
        let mut outbox = Outbox::default();
        (1..=3).for_each(|counter| push(&mut outbox, counter));
        send(&mut outbox, 0);
        answer(&mut outbox, 1, Answer::Again(70));
        answer(&mut outbox, 2, Answer::Again(50));
        assert_eq!((outbox.deadline(), send(&mut outbox, 69)), (Some(Millis(70)), vec![]));
        assert_eq!(send(&mut outbox, 70), [4, 5]);
        assert_eq!(outbox.deadline(), None);
        answer(&mut outbox, 4, Answer::Again(70));
        outbox.lost();
        assert_eq!(send(&mut outbox, 0), [6, 7, 8], "a new connection does not wait");
    }

    #[test]
    fn it_is_done_when_the_none_of_a_refused_edit_is_taken() {
        let mut outbox = Outbox::default();
        push(&mut outbox, 1);
        assert_eq!((send(&mut outbox, 0), outbox.is_done()), (vec![1], false));
        answer(&mut outbox, 1, Answer::Never(Refused { code: 1, message: "no".into() }));
        assert_eq!((outbox.pending(), outbox.is_done()), (0, false), "the host knows, the server waits for the number");
        assert_eq!(send(&mut outbox, 0), [2]);
        answer(&mut outbox, 2, Answer::Again(70));
        assert!(!outbox.is_done() && outbox.deadline() == Some(Millis(70)));
        assert_eq!(send(&mut outbox, 70), [3]);
        answer(&mut outbox, 3, Answer::Taken);
        assert!(outbox.is_done());
    }

    #[test]
    fn a_wait_outlasts_the_operation_that_it_answers() {
        let refused = Refused { code: 1, message: String::new() };
        let mut outbox = Outbox::default();
        (1..=2).for_each(|counter| push(&mut outbox, counter));
        send(&mut outbox, 0);
        answer(&mut outbox, 1, Answer::Again(70));
        outbox.refuse(&refused, &mut Vec::new());
        push(&mut outbox, 3);
        assert!(send(&mut outbox, 69).is_empty(), "the stream was refused, and opened again");
        // The answer to what was refused with the stream.
        answer(&mut outbox, 2, Answer::Again(90));
        assert!(send(&mut outbox, 89).is_empty());
        assert_eq!(send(&mut outbox, 90), [3]);
    }
}
