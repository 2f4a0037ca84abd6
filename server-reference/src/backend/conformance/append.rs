//! Appends: who wins, what comes between, and repeats.

use std::sync::Arc;

use super::*;
use crate::backend::log::MAX_MISSED;

pub(super) async fn creators_race(_: &dyn Subject, a: &Backend, b: &Backend) -> Outcome {
    for round in 0..100_u64 {
        let stream = Arc::new(StreamId::state(format!("race{round}")));
        let create = |engine: &Backend, node: u64| {
            let (engine, stream) = (engine.clone(), Arc::clone(&stream));
            async move { append(&engine, &stream, Mark::birth(10 + node), Rule::Exactly, tag(node, round), &["x"]).await }
        };
        let (first, second) = (tokio::spawn(create(a, 1)), tokio::spawn(create(b, 2)));
        let outcomes = [first.await, second.await].map(|outcome| outcome.map_err(|error| error.to_string()));
        let mut won = None;
        let mut lost = None;
        for outcome in outcomes {
            match outcome.map_err(BackendError::Unavailable)?? {
                Appended::At { mark, between } => {
                    assert!(between.is_empty() && won.replace(mark).is_none(), "one creator wins");
                }
                Appended::Conflict { mark, .. } => lost = Some(mark),
            }
        }
        assert!(won.is_some() && won == lost, "the other is told the winner's mark: {won:?}, {lost:?}");
        assert_eq!(whole(&*a.log, &stream).await?.entries.len(), 1);
    }
    Ok(())
}

pub(super) async fn exactly_compares(_: &dyn Subject, a: &Backend, b: &Backend) -> Outcome {
    let stream = StreamId::state("s");
    let absent = Mark { tag: tag(1, 1), ..Mark::default() };
    let mut nowhere = absent;
    nowhere.position.seq = 1;
    let refused = append(a, &stream, nowhere, Rule::Exactly, tag(1, 9), &["x"]).await?;
    assert!(matches!(refused, Appended::Conflict { mark, missed: None } if mark.position.seq == 0), "{refused:?}");
    let one = push(a, &stream, birth(), tag(1, 1), &["1"]).await?;
    let two = push(b, &stream, one, tag(2, 1), &["2"]).await?;
    let mut wrong = [two; 4];
    wrong[0].position.epoch += 1;
    wrong[1].position.seq += 1;
    wrong[2].tag = tag(9, 9);
    wrong[3] = Mark { tag: tag(9, 9), ..one };
    for after in wrong {
        for rule in [Rule::Exactly, Rule::Behind] {
            let refused = append(a, &stream, after, rule, tag(1, 9), &["x"]).await?;
            assert_eq!(refused, Appended::Conflict { mark: two, missed: None }, "{after:?}, {rule:?}");
        }
    }
    let refused = append(a, &stream, one, Rule::Exactly, tag(1, 9), &["x"]).await?;
    assert!(matches!(refused, Appended::Conflict { mark, .. } if mark == two), "somebody was faster: {refused:?}");
    assert_eq!(texts(&whole(&*b.log, &stream).await?.entries), ["1", "2"]);
    Ok(())
}

pub(super) async fn behind_brings_between(_: &dyn Subject, a: &Backend, b: &Backend) -> Outcome {
    let stream = StreamId::crdt("s");
    let one = push(a, &stream, birth(), tag(1, 1), &["1"]).await?;
    let four = push(b, &stream, one, tag(2, 1), &["2", "3", "4"]).await?;
    let appended = append(a, &stream, one, Rule::Behind, tag(1, 2), &["5", "6"]).await?;
    let Appended::At { between, mark } = appended else { return missing("an append from behind is taken") };
    assert_eq!(texts(&between), ["2", "3", "4"], "exactly what came between");
    assert_chained(one.tag, &between);
    assert_eq!((mark.position.seq, mark.tag), (6, tag(1, 2)));
    let stored = whole(&*b.log, &stream).await?;
    assert_eq!(texts(&stored.entries), ["1", "2", "3", "4", "5", "6"]);
    assert_chained(Tag::default(), &stored.entries);
    assert_eq!(stored.mark, mark);
    let appended = append(b, &stream, mark, Rule::Behind, tag(2, 2), &["7"]).await?;
    assert!(matches!(appended, Appended::At { between, .. } if between.is_empty()), "nothing came between");
    a.log.snapshot(&stream, mark, bytes("s"), 1).await?;
    let appended = append(a, &stream, four, Rule::Behind, tag(1, 3), &["8"]).await?;
    assert!(matches!(appended, Appended::Conflict { missed: None, .. }), "too far behind: {appended:?}");
    Ok(())
}

/// Repeats, through both nodes, before and after others have written.
pub(super) async fn repeats_append_nothing(_: &dyn Subject, a: &Backend, b: &Backend) -> Outcome {
    for (key, rule) in [("exactly", Rule::Exactly), ("behind", Rule::Behind)] {
        let stream = StreamId::state(key);
        let created = append(a, &stream, birth(), rule, tag(1, 1), &["1"]).await?;
        assert_eq!(append(b, &stream, birth(), rule, tag(1, 1), &["1"]).await?, created, "a repeated creation");
        let Appended::At { mark: one, .. } = created else { return missing("a creation") };
        let after = match rule {
            Rule::Exactly => one,
            Rule::Behind => {
                push(b, &stream, one, tag(2, 1), &["between"]).await?;
                one
            }
        };
        let first = append(a, &stream, after, rule, tag(1, 2), &["x", "y"]).await?;
        let Appended::At { mark, .. } = first.clone() else { return missing("an append") };
        for node in [a, b] {
            assert_eq!(append(node, &stream, after, rule, tag(1, 2), &["x", "y"]).await?, first, "nobody wrote since");
        }
        let last = push(b, &stream, mark, tag(2, 2), &["later"]).await?;
        for node in [a, b] {
            assert_eq!(
                append(node, &stream, after, rule, tag(1, 2), &["x", "y"]).await?,
                first,
                "somebody wrote since"
            );
            assert_eq!(append(node, &stream, birth(), rule, tag(1, 1), &["1"]).await?, created);
        }
        assert_eq!(whole(&*a.log, &stream).await?.mark, last, "{rule:?}");
    }
    Ok(())
}

pub(super) async fn repeats_after_trim_conflict(_: &dyn Subject, a: &Backend, b: &Backend) -> Outcome {
    let stream = StreamId::state("s");
    let one = push(a, &stream, birth(), tag(1, 1), &["1"]).await?;
    let two = push(a, &stream, one, tag(1, 2), &["2"]).await?;
    let three = push(b, &stream, two, tag(2, 1), &["3"]).await?;
    b.log.snapshot(&stream, three, bytes("s"), 1).await?;
    for rule in [Rule::Exactly, Rule::Behind] {
        let repeat = append(a, &stream, one, rule, tag(1, 2), &["2"]).await?;
        assert_eq!(repeat, Appended::Conflict { mark: three, missed: None }, "{rule:?}");
    }
    assert_eq!(whole(&*a.log, &stream).await?.mark, three);
    Ok(())
}

/// A copy that was on its way when its repeat was answered.
pub(super) async fn late_copies_append_nothing(_: &dyn Subject, a: &Backend, b: &Backend) -> Outcome {
    let stream = StreamId::state("s");
    let one = push(a, &stream, birth(), tag(1, 1), &["1"]).await?;
    push(b, &stream, one, tag(2, 1), &["2"]).await?;
    let refused = append(a, &stream, one, Rule::Exactly, tag(1, 2), &["late"]).await?;
    assert!(matches!(refused, Appended::Conflict { .. }));
    let replanned = append(a, &stream, one, Rule::Behind, tag(1, 3), &["3"]).await?;
    let Appended::At { mark, .. } = replanned else { return missing("an append from behind") };
    let late = append(a, &stream, one, Rule::Exactly, tag(1, 2), &["late"]).await?;
    assert!(matches!(late, Appended::Conflict { .. }), "refused once, refused for ever: {late:?}");
    a.log.remove(&stream, mark).await?;
    let late = append(a, &stream, birth(), Rule::Exactly, tag(1, 1), &["1"]).await?;
    assert!(matches!(late, Appended::Conflict { .. }), "what created an ended life creates no other: {late:?}");
    assert_eq!(b.log.load(&stream, None).await?, Loaded::Absent);
    let again = push(b, &stream, Mark::birth(20), tag(2, 2), &["anew"]).await?;
    let late = append(a, &stream, one, Rule::Behind, tag(1, 2), &["late"]).await?;
    assert_eq!(late, Appended::Conflict { mark: again, missed: None }, "another life");
    a.log.remove(&stream, again).await?;
    // Refused while another life stood, its copy comes when that has ended.
    push(b, &stream, Mark::birth(21), tag(2, 3), &["anew"]).await?;
    let refused = append(a, &stream, Mark::birth(22), Rule::Exactly, tag(1, 4), &["late"]).await?;
    let Appended::Conflict { mark, .. } = refused else { return missing("a creation of what exists") };
    b.log.remove(&stream, mark).await?;
    let late = append(a, &stream, Mark::birth(22), Rule::Exactly, tag(1, 4), &["late"]).await?;
    assert!(matches!(late, Appended::Conflict { .. }), "refused once, refused for ever: {late:?}");
    Ok(())
}

pub(super) async fn batches_are_whole(_: &dyn Subject, a: &Backend, b: &Backend) -> Outcome {
    let stream = StreamId::doc("s");
    let three = push(a, &stream, birth(), tag(1, 1), &["1", "2", "3"]).await?;
    let refused = append(b, &stream, birth(), Rule::Exactly, tag(2, 1), &["x", "y"]).await?;
    assert!(matches!(refused, Appended::Conflict { .. }));
    let stored = whole(&*b.log, &stream).await?;
    assert_eq!((stored.mark, texts(&stored.entries)), (three, vec!["1".into(), "2".into(), "3".into()]));
    assert_chained(Tag::default(), &stored.entries);
    assert!(stored.entries.iter().all(|entry| entry.tag == tag(1, 1)), "all have the append's tag");
    Ok(())
}

pub(super) async fn conflicts_bring_what_was_missed(_: &dyn Subject, a: &Backend, b: &Backend) -> Outcome {
    for (size, is_there) in [(MAX_MISSED - 1, true), (MAX_MISSED, true), (MAX_MISSED + 1, false)] {
        let stream = StreamId::state(size.to_string());
        let one = push(a, &stream, birth(), tag(1, 1), &["1"]).await?;
        let large = "x".repeat(size / 2);
        let rest = "y".repeat(size - size / 2);
        let three = push(b, &stream, one, tag(2, 1), &[&large, &rest]).await?;
        let refused = append(a, &stream, one, Rule::Exactly, tag(1, 2), &["z"]).await?;
        let Appended::Conflict { mark, missed } = refused else { return missing("a conflict") };
        assert_eq!((mark, missed.is_some()), (three, is_there), "{size} bytes");
        if let Some(missed) = missed {
            assert_eq!(texts(&missed), [large, rest]);
            assert_chained(one.tag, &missed);
        }
    }
    Ok(())
}

/// Many writers on two nodes, of which half compare and half do not.
pub(super) async fn writers_are_linearised(_: &dyn Subject, a: &Backend, b: &Backend) -> Outcome {
    const WRITERS: u64 = 6;
    const EACH: u64 = 30;
    let stream = Arc::new(StreamId::state("s"));
    let start = push(a, &stream, birth(), tag(99, 1), &["start"]).await?;
    let mut tasks = Vec::new();
    for writer in 1..=WRITERS {
        let engine = if writer % 2 == 0 { a.clone() } else { b.clone() };
        let stream = Arc::clone(&stream);
        let rule = if writer <= WRITERS / 2 { Rule::Exactly } else { Rule::Behind };
        tasks.push(tokio::spawn(async move {
            let (mut at, mut seen) = (start, 1);
            for count in 1..=EACH {
                loop {
                    match append(&engine, &stream, at, rule, tag(writer, count), &["e"]).await? {
                        Appended::At { between, mark } => {
                            seen += between.len() as u64 + 1;
                            at = mark;
                            break;
                        }
                        Appended::Conflict { mark, missed } => {
                            seen += missed.map_or(0, |missed| missed.len() as u64);
                            at = mark;
                        }
                    }
                }
            }
            assert_eq!(seen, at.position.seq, "a writer has seen every entry up to its own");
            Ok::<_, BackendError>(())
        }));
    }
    for task in tasks {
        task.await.map_err(|error| BackendError::Unavailable(error.to_string()))??;
    }
    let stored = whole(&*a.log, &stream).await?;
    assert_eq!(stored.mark.position.seq, 1 + WRITERS * EACH);
    assert_chained(Tag::default(), &stored.entries);
    for writer in 1..=WRITERS {
        let counts: Vec<u64> = stored.entries.iter().filter(|e| e.tag.node == writer).map(|e| e.tag.count).collect();
        assert_eq!(counts, (1..=EACH).collect::<Vec<_>>(), "each once, in order");
    }
    Ok(())
}

pub(super) async fn what_breaks_the_contract_is_refused(_: &dyn Subject, a: &Backend, b: &Backend) -> Outcome {
    let stream = StreamId::state("s");
    let empty = append(a, &stream, birth(), Rule::Exactly, tag(1, 1), &[]).await;
    assert!(matches!(empty, Err(BackendError::Invalid(_))), "without entries: {empty:?}");
    let untagged = append(a, &stream, birth(), Rule::Exactly, Tag::default(), &["x"]).await;
    assert!(matches!(untagged, Err(BackendError::Invalid(_))), "without a tag: {untagged:?}");
    assert_eq!(b.log.load(&stream, None).await?, Loaded::Absent);
    Ok(())
}
