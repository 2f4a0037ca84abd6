use std::{
    future::Future,
    pin::pin,
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use datasole_core::StreamId;

use super::*;
use crate::{
    backend::{
        bus::Address,
        log::{Append, Appended, Entry, Loaded, Mark, Rule, Tag},
        memory::Memory,
    },
    clock::Manual,
};

const NONE: Faults = Faults { refuse: 0, lose_answer: 0, drop: 0, double: 0, reorder: 0 };
const ALL: Faults = Faults { refuse: 100, lose_answer: 200, drop: 200, double: 200, reorder: 300 };

fn memory() -> Memory {
    let count = AtomicU64::new(1);
    Memory::new(Arc::new(Manual::default()), Arc::new(move || count.fetch_add(1, Ordering::Relaxed)))
}

/// Steps until the future is done.
fn run<T>(chaos: &Chaos, future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return value;
        }
        assert!(chaos.step(), "something must wait");
    }
}

/// Steps as long as anything waits.
fn settle(chaos: &Chaos) {
    while chaos.step() {}
}

fn drain<T>(receiver: &mut mpsc::Receiver<T>) -> Vec<T> {
    std::iter::from_fn(|| receiver.try_recv().ok()).collect()
}

/// Appends with retries by tag until the outcome is known. Answers how often it tried.
async fn insist(engine: &Backend, stream: &StreamId, after: &mut Mark, count: u64) -> u32 {
    let entries = [Bytes::from(count.to_string())];
    let append = Append::new(stream, *after, Rule::Behind, Tag { node: 1, count }, &entries);
    for tries in 1.. {
        match engine.log.append(append).await {
            Ok(Appended::At { mark, .. }) => {
                *after = mark;
                return tries;
            }
            Ok(conflict) => panic!("{conflict:?}"),
            Err(error) => assert!(matches!(error, BackendError::Unavailable(_)), "{error}"),
        }
    }
    0
}

/// The news of a follower of 40 appends that meet every fault, the stored entries, and the number of tries.
fn history(seed: u64) -> (Vec<News>, Vec<Entry>, u32) {
    const APPENDS: u64 = 40;
    let (memory, chaos) = (memory(), Chaos::new(seed, ALL));
    let ((_, author), (_, follower)) = (chaos.wrap(memory.node()), chaos.wrap(memory.node()));
    let stream = StreamId::event("s");
    let mut news = follower.log.news().unwrap();
    while run(&chaos, follower.log.follow(std::slice::from_ref(&stream))).is_err() {}
    let (mut after, mut tries) = (Mark::birth(7), 0);
    for count in 1..=APPENDS {
        tries += run(&chaos, insist(&author, &stream, &mut after, count));
    }
    settle(&chaos);
    let loaded = futures_util::FutureExt::now_or_never(memory.node().log.load(&stream, None)).map(Result::ok);
    let Some(Some(Loaded::Whole(stored))) = loaded else { panic!("{loaded:?}") };
    (drain(&mut news), stored.entries, tries)
}

#[test]
fn equal_seeds_give_equal_runs() {
    for seed in 0..20 {
        assert_eq!(history(seed), history(seed), "seed {seed}");
    }
    assert_ne!(history(1).0, history(2).0);
}

/// Every fault happens in some run, and none of them makes the log wrong.
#[test]
fn the_log_is_exact_whatever_happens() {
    let (mut retried, mut dropped, mut doubled, mut reordered) = (0, 0, 0, 0);
    for seed in 0..200 {
        let (news, entries, tries) = history(seed);
        let counts: Vec<u64> = entries.iter().map(|entry| entry.tag.count).collect();
        assert_eq!(counts, (1..=40).collect::<Vec<_>>(), "seed {seed}: each once, in order");
        let first = |one: &News| match one {
            News::Entries { first, .. } => first.seq,
            other => panic!("{other:?}"),
        };
        let heard: Vec<u64> = news.iter().map(first).collect();
        let mut distinct = heard.clone();
        distinct.sort_unstable();
        distinct.dedup();
        retried += u32::from(tries > 40);
        dropped += u32::from(distinct.len() < 40);
        doubled += u32::from(distinct.len() < heard.len());
        reordered += u32::from(!heard.is_sorted());
    }
    for (fault, runs) in [("retry", retried), ("drop", dropped), ("double", doubled), ("reorder", reordered)] {
        assert!(runs > 100, "{fault}: in {runs} of 200 runs");
    }
}

#[test]
fn operations_wait_for_the_scheduler() {
    let (memory, chaos) = (memory(), Chaos::new(1, NONE));
    let (_, node) = chaos.wrap(memory.node());
    let plain = memory.node();
    let put = || node.kv.set_field("m", "f", Some(Bytes::new()), None);
    let fields = || futures_util::FutureExt::now_or_never(plain.kv.fields("m")).unwrap().unwrap().len();
    let mut waiting = pin!(put());
    let mut poll = || waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready();
    assert!(!poll() && fields() == 0, "before the engine");
    assert!(chaos.step());
    assert!(!poll() && fields() == 1, "before the answer");
    assert!(chaos.step());
    assert!(poll());
    assert!(!chaos.step(), "nothing waits");
}

#[test]
fn a_lost_answer_is_of_what_happened() {
    let chaos = Chaos::new(1, Faults { lose_answer: 1_000, ..NONE });
    let memory = memory();
    let (_, node) = chaos.wrap(memory.node());
    let lost = run(&chaos, node.kv.set_field("m", "f", Some(Bytes::new()), None));
    assert!(matches!(lost, Err(BackendError::Unavailable(_))));
    chaos.set_faults(NONE);
    assert_eq!(run(&chaos, node.kv.fields("m")).unwrap().len(), 1);
    chaos.set_faults(Faults { refuse: 1_000, ..NONE });
    assert!(run(&chaos, node.kv.set_field("m", "g", Some(Bytes::new()), None)).is_err());
    chaos.set_faults(NONE);
    assert_eq!(run(&chaos, node.kv.fields("m")).unwrap().len(), 1, "what was refused did not happen");
}

#[test]
fn nodes_freeze_stop_and_are_cut_off() {
    let (memory, chaos) = (memory(), Chaos::new(1, NONE));
    let ((_, a), (second, b)) = (chaos.wrap(memory.node()), chaos.wrap(memory.node()));
    let mut inbox = b.bus.inbox().unwrap();
    assert!(matches!(b.bus.inbox(), Err(BackendError::Taken(_))));
    let say = |text: &'static str| run(&chaos, a.bus.publish(Address::Everybody, Bytes::from_static(text.as_bytes())));
    let texts = |inbox: &mut mpsc::Receiver<Delivery>| -> Vec<Option<Bytes>> {
        let text = |one| match one {
            Delivery::Message { bytes, .. } => Some(bytes),
            Delivery::Lost => None,
        };
        drain(inbox).into_iter().map(text).collect()
    };
    chaos.freeze(second);
    say("1").unwrap();
    settle(&chaos);
    assert!(texts(&mut inbox).is_empty(), "frozen");
    chaos.thaw(second);
    settle(&chaos);
    assert_eq!(texts(&mut inbox), [Some(Bytes::from_static(b"1"))]);
    say("2").unwrap();
    chaos.cut(second);
    say("3").unwrap();
    settle(&chaos);
    let seen = texts(&mut inbox);
    assert_eq!(seen.last(), Some(&Some(Bytes::from_static(b"3"))));
    assert!(seen.contains(&None), "told of the loss: {seen:?}");
    let mut under_way = pin!(b.kv.fields("m"));
    let mut poll = || under_way.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(poll().is_pending());
    chaos.stop(second);
    assert!(matches!(poll(), Poll::Ready(Err(BackendError::Unavailable(_)))));
    chaos.thaw(second);
    assert!(run(&chaos, b.kv.fields("m")).is_err(), "stopped for ever");
    say("4").unwrap();
    settle(&chaos);
    assert!(texts(&mut inbox).is_empty());
}
