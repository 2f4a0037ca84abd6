//! Engines that misbehave under a seeded scheduler, for tests of several nodes in one process.
//!
//! Every operation of a wrapped node waits twice: before it reaches the engine and before its answer reaches the
//! caller. News and messages wait as well. [`Chaos::step`] lets one of what waits go on, drawn by the seed. Nothing
//! of that reads a clock or depends on the order of a hash map: equal seeds and equal programs give equal runs.
//! [`Failpoints`] are for nodes in processes of their own, and in real time.

mod failpoints;
mod gate;
mod wrap;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use tokio::sync::{mpsc, oneshot};

use super::{
    bus::Delivery,
    error::BackendError,
    log::{News, mix},
    node::Backend,
    outlet::Outlet,
};
use crate::sync::lock;

pub use self::failpoints::{Failpoint, Failpoints, Rates};

/// How often each fault happens; in thousandths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// An operation fails before it reaches the engine.
    pub refuse: u16,
    /// An operation is carried out and its answer lost.
    pub lose_answer: u16,
    /// A piece of news or a message never arrives.
    pub drop: u16,
    /// A piece of news arrives twice. Messages do not: the bus delivers at most once.
    pub double: u16,
    /// Of what waits for a node, news that are not the oldest arrive first. Messages keep their order.
    pub reorder: u16,
}

/// A sequence of random numbers.
#[derive(Debug)]
struct Seed(u64);

impl Seed {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// An index below `len`, which is not 0.
    fn below(&mut self, len: usize) -> usize {
        usize::try_from(self.next() % len.max(1) as u64).unwrap_or(0)
    }

    fn happens(&mut self, thousandths: u16) -> bool {
        self.next() % 1_000 < u64::from(thousandths)
    }
}

/// The scheduler of all wrapped nodes. Cloning yields another handle.
#[derive(Clone)]
pub struct Chaos {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    seed: Seed,
    faults: Faults,
    nodes: BTreeMap<usize, Node>,
    /// Operations that wait, in the order in which they began to: the node, and what lets it go on.
    waiting: Vec<(usize, oneshot::Sender<Verdict>)>,
}

struct Node {
    state: State,
    news: Pipe<News>,
    inbox: Pipe<Delivery>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Running,
    Frozen,
    Stopped,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Proceed,
    Fail,
}

/// The way of news or messages from the engine to a node.
struct Pipe<T> {
    from: Option<mpsc::Receiver<T>>,
    waiting: Vec<T>,
    to: Outlet<T>,
    /// Given to the node once.
    reader: Option<mpsc::Receiver<T>>,
}

impl<T> Pipe<T> {
    fn new(from: Result<mpsc::Receiver<T>, BackendError>, lost: fn() -> T) -> Self {
        let (to, reader) = Outlet::new(1_024, lost);
        Self { from: from.ok(), waiting: Vec::new(), to, reader: Some(reader) }
    }

    /// Takes over what the engine has sent.
    fn pull(&mut self) {
        while let Some(one) = self.from.as_mut().and_then(|from| from.try_recv().ok()) {
            self.waiting.push(one);
        }
    }

    fn take(&mut self, what: &str) -> Result<mpsc::Receiver<T>, BackendError> {
        self.reader.take().ok_or_else(|| BackendError::Taken(format!("this handle's {what} is another node's")))
    }
}

/// Something that can go on.
enum Choice {
    Operation(usize),
    News(usize),
    Message(usize),
}

impl Chaos {
    /// A scheduler that draws from `seed`.
    pub fn new(seed: u64, faults: Faults) -> Self {
        let inner = Inner { seed: Seed(seed), faults, nodes: BTreeMap::new(), waiting: Vec::new() };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }

    /// Changes how often faults happen from now on.
    pub fn set_faults(&self, faults: Faults) {
        lock(&self.inner).faults = faults;
    }

    /// Wraps the handles of a node, whose news and inbox nobody has taken. Answers the node's number and its handles.
    pub fn wrap(&self, engine: Backend) -> (usize, Backend) {
        let mut inner = lock(&self.inner);
        let number = inner.nodes.len();
        let news = Pipe::new(engine.log.news(), || News::Lost);
        let inbox = Pipe::new(engine.bus.inbox(), || Delivery::Lost);
        inner.nodes.insert(number, Node { state: State::Running, news, inbox });
        (number, wrap::engine(engine, gate::Gate { chaos: self.clone(), node: number }))
    }

    /// Lets one thing go on. `false` if nothing waits that may.
    pub fn step(&self) -> bool {
        lock(&self.inner).step()
    }

    /// A random index below `len`, from the same seed: for choices of the test.
    pub fn choose(&self, len: usize) -> usize {
        lock(&self.inner).seed.below(len)
    }

    /// Stops a node for ever: its operations fail, those under way with an open outcome, and nothing reaches it.
    pub fn stop(&self, node: usize) {
        self.set_state(node, State::Stopped);
        let mut inner = lock(&self.inner);
        let (stopped, others): (Vec<_>, Vec<_>) = inner.waiting.drain(..).partition(|(of, _)| *of == node);
        inner.waiting = others;
        for (_, gate) in stopped {
            let _ = gate.send(Verdict::Fail);
        }
    }

    /// Freezes a node, as a process that is not scheduled: nothing of it goes on until it is [thawed](Self::thaw).
    pub fn freeze(&self, node: usize) {
        self.set_state(node, State::Frozen);
    }

    /// Lets a frozen node go on.
    pub fn thaw(&self, node: usize) {
        self.set_state(node, State::Running);
    }

    /// Cuts a node's link once: what waits for it is lost, and it is told so.
    pub fn cut(&self, node: usize) {
        if let Some(node) = lock(&self.inner).nodes.get_mut(&node) {
            node.news.pull();
            node.news.waiting.clear();
            node.news.waiting.push(News::Lost);
            node.inbox.pull();
            node.inbox.waiting.clear();
            node.inbox.waiting.push(Delivery::Lost);
        }
    }

    fn set_state(&self, node: usize, state: State) {
        if let Some(node) = lock(&self.inner).nodes.get_mut(&node)
            && node.state != State::Stopped
        {
            node.state = state;
        }
    }
}

impl Inner {
    fn step(&mut self) -> bool {
        self.nodes.values_mut().for_each(|node| {
            node.news.pull();
            node.inbox.pull();
        });
        let runs = |node: &usize| self.nodes.get(node).is_some_and(|node| node.state == State::Running);
        let operations = self.waiting.iter().enumerate().filter(|(_, (node, _))| runs(node));
        let mut choices: Vec<_> = operations.map(|(index, _)| Choice::Operation(index)).collect();
        for (number, node) in self.nodes.iter().filter(|(_, node)| node.state == State::Running) {
            choices.extend(node.news.waiting.first().map(|_| Choice::News(*number)));
            choices.extend(node.inbox.waiting.first().map(|_| Choice::Message(*number)));
        }
        if choices.is_empty() {
            return false;
        }
        match choices.swap_remove(self.seed.below(choices.len())) {
            Choice::Operation(index) => {
                // A caller that has given up is no error.
                let _ = self.waiting.remove(index).1.send(Verdict::Proceed);
            }
            Choice::News(node) => self.deliver_news(node),
            Choice::Message(node) => self.deliver_message(node),
        }
        true
    }

    fn deliver_news(&mut self, node: usize) {
        let Self { seed, faults, nodes, .. } = self;
        let Some(pipe) = nodes.get_mut(&node).map(|node| &mut node.news) else { return };
        let index = if seed.happens(faults.reorder) { seed.below(pipe.waiting.len()) } else { 0 };
        let one = pipe.waiting.remove(index);
        // Notices of loss are never dropped or doubled.
        if matches!(one, News::Lost | News::Generation(_)) {
            return pipe.to.send(one);
        }
        if seed.happens(faults.double) {
            pipe.waiting.push(one.clone());
        }
        if !seed.happens(faults.drop) {
            pipe.to.send(one);
        }
    }

    fn deliver_message(&mut self, node: usize) {
        let Self { seed, faults, nodes, .. } = self;
        let Some(pipe) = nodes.get_mut(&node).map(|node| &mut node.inbox) else { return };
        let one = pipe.waiting.remove(0);
        if one == Delivery::Lost || !seed.happens(faults.drop) {
            pipe.to.send(one);
        }
    }
}

#[cfg(test)]
mod tests;
