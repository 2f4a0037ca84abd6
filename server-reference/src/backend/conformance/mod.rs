//! The suite that every engine passes, clause by clause: [`verify`] runs it, also in the tests of custom engines.

mod append;
mod bus;
mod follow;
mod keep;
mod kv;
mod load;
mod turn;

use std::{panic::AssertUnwindSafe, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use datasole_core::StreamId;
use futures_util::{FutureExt, future::BoxFuture};

use super::{
    error::BackendError,
    log::{Append, Appended, Entry, Loaded, Log, Mark, Rule, Stored, Tag},
    node::Backend,
};

/// One engine under test, empty at first.
#[async_trait]
pub trait Subject: Send + Sync + 'static {
    /// Handles of another node on the same engine.
    async fn node(&self) -> Result<Backend, BackendError>;

    /// Lets the engine's time pass: advances its clock, or sleeps.
    async fn pass(&self, time: Duration);

    /// Makes the engine notice, by `nodes` nodes at once, that acknowledged entries may be lost. `false` where a test
    /// cannot.
    async fn fail_over(&self, nodes: usize) -> Result<bool, BackendError> {
        let _ = nodes;
        Ok(false)
    }
}

type Outcome = Result<(), BackendError>;
type Clause = for<'a> fn(&'a dyn Subject, &'a Backend, &'a Backend) -> BoxFuture<'a, Outcome>;

macro_rules! clauses {
    ($($module:ident: $($name:ident),* $(,)?;)*) => {
        &[$($((
            concat!(stringify!($module), "::", stringify!($name)),
            |subject, a, b| $module::$name(subject, a, b).boxed(),
        ),)*)*]
    };
}

/// Clauses that hold for two nodes, and for one that is both.
const CLAUSES: &[(&str, Clause)] = clauses! {
    append: creators_race, exactly_compares, behind_brings_between, repeats_append_nothing, repeats_after_trim_conflict,
        late_copies_append_nothing, batches_are_whole, conflicts_bring_what_was_missed, writers_are_linearised,
        what_breaks_the_contract_is_refused;
    load: since_or_whole, foreign_marks_get_the_whole, heads_in_order, any_bytes_fit, keys_are_paged;
    keep: snapshots_and_trimming_leave_no_gap, older_snapshots_are_ignored, removal_compares_marks, lives_grow,
        streams_expire;
    kv: puts_compare, values_expire, maps_hold_fields, quotas_are_never_over, leases_exclude;
};

/// Clauses that need two nodes.
const BETWEEN_NODES: &[(&str, Clause)] = clauses! {
    follow: followers_miss_nothing, news_are_in_order, large_entries_are_announced, slow_readers_lose_and_know,
        unfollowed_streams_are_silent, news_have_one_reader, a_generation_begins_once;
    turn: turns_are_fair, turns_survive_their_holder;
    bus: messages_reach_whom_they_are_for, who_hears_is_never_denied, messages_are_in_order, slow_inboxes_lose_and_know,
        inboxes_have_one_reader;
};

/// Runs every clause on an engine of its own that `open` makes.
///
/// # Panics
///
/// With the names of the clauses that failed; each failure is printed as it happens.
pub async fn verify<S: Subject>(open: impl AsyncFn() -> S) {
    let mut failed = Vec::new();
    for (name, clause) in CLAUSES.iter().chain(BETWEEN_NODES) {
        for nodes in [2, 1] {
            if nodes == 1 && BETWEEN_NODES.iter().any(|(between, _)| between == name) {
                continue;
            }
            let subject = open().await;
            let run = async {
                let a = subject.node().await?;
                let b = if nodes == 2 { subject.node().await? } else { a.clone() };
                clause(&subject, &a, &b).await
            };
            match AssertUnwindSafe(run).catch_unwind().await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => failed.push(format!("{name} ({nodes} nodes): {error}")),
                Err(_) => failed.push(format!("{name} ({nodes} nodes)")),
            }
        }
    }
    assert!(failed.is_empty(), "clauses that failed: {failed:#?}");
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// The tag of the node `node`'s append number `count`.
fn tag(node: u64, count: u64) -> Tag {
    Tag { node, count }
}

fn birth() -> Mark {
    Mark::birth(7)
}

async fn append(
    engine: &Backend,
    stream: &StreamId,
    after: Mark,
    rule: Rule,
    tag: Tag,
    entries: &[&str],
) -> Result<Appended, BackendError> {
    let entries: Vec<Bytes> = entries.iter().copied().map(bytes).collect();
    engine.log.append(Append::new(stream, after, rule, tag, &entries)).await
}

/// Appends by compare-and-set what must not conflict.
async fn push(
    engine: &Backend,
    stream: &StreamId,
    after: Mark,
    tag: Tag,
    entries: &[&str],
) -> Result<Mark, BackendError> {
    let appended = append(engine, stream, after, Rule::Exactly, tag, entries).await?;
    let position = datasole_core::Position { seq: after.position.seq + entries.len() as u64, ..after.position };
    let mark = Mark { position, tag };
    assert_eq!(appended, Appended::At { between: Vec::new(), mark });
    Ok(mark)
}

async fn whole(log: &dyn Log, stream: &StreamId) -> Result<Stored, BackendError> {
    let loaded = log.load(stream, None).await?;
    assert!(matches!(loaded, Loaded::Whole(_) | Loaded::Absent), "a load without a mark is of the whole: {loaded:?}");
    Ok(if let Loaded::Whole(stored) = loaded { stored } else { Stored::default() })
}

fn texts(entries: &[Entry]) -> Vec<String> {
    entries.iter().map(|entry| String::from_utf8_lossy(&entry.bytes).into_owned()).collect()
}

/// Each entry names the tag of the one before.
fn assert_chained(before: Tag, entries: &[Entry]) {
    let mut before = before;
    for entry in entries {
        assert_eq!(entry.prev, before.hash(), "{entry:?} follows {before:?}");
        before = entry.tag;
    }
}

/// Fails a clause whose next step needs what did not come.
fn missing(expected: &str) -> Outcome {
    Err(BackendError::Invalid(format!("expected {expected}")))
}
