//! Keeping: snapshots, trimming, removal, lives and lifetimes.

use super::*;

pub(super) async fn snapshots_and_trimming_leave_no_gap(_: &dyn Subject, a: &Backend, b: &Backend) -> Outcome {
    const ENTRIES: u64 = 6;
    for at in 1..=ENTRIES {
        for keep in [0, 1, 2, 5, 6, 100, u64::MAX] {
            let stream = StreamId::crdt(format!("{at}-{keep}"));
            let mut marks = vec![birth()];
            for count in 1..=ENTRIES {
                let after = marks[marks.len() - 1];
                marks.push(push(a, &stream, after, tag(1, count), &[&count.to_string()]).await?);
            }
            b.log.snapshot(&stream, marks[at as usize], bytes("s"), keep).await?;
            let stored = whole(&*a.log, &stream).await?;
            assert_eq!((stored.mark, stored.snapshot.clone()), (marks[ENTRIES as usize], Some((at, bytes("s")))));
            let expected: Vec<_> = (1..=ENTRIES).map(|n| n.to_string()).collect();
            assert!(expected.ends_with(&texts(&stored.entries)), "at {at}, keep {keep}: no gap up to the head");
            assert_eq!(texts(stored.since_snapshot()), expected[at as usize..], "at {at}, keep {keep}");
            let kept = (ENTRIES - at) + keep.min(at);
            assert!(stored.entries.len() as u64 >= kept, "at {at}, keep {keep}: what is to be kept is");
            let since = marks[(ENTRIES - kept) as usize];
            let loaded = b.log.load(&stream, Some(since)).await?;
            assert!(matches!(&loaded, Loaded::Since(since) if since.len() as u64 == kept), "at {at}, keep {keep}");
            let next = push(b, &stream, stored.mark, tag(2, 1), &["next"]).await?;
            assert_eq!(whole(&*a.log, &stream).await?.mark, next, "and goes on");
        }
    }
    Ok(())
}

pub(super) async fn older_snapshots_are_ignored(_: &dyn Subject, a: &Backend, b: &Backend) -> Outcome {
    let stream = StreamId::state("s");
    b.log.snapshot(&stream, birth(), bytes("nothing"), 0).await?;
    assert_eq!(a.log.load(&stream, None).await?, Loaded::Absent, "a snapshot creates no stream");
    let one = push(a, &stream, birth(), tag(1, 1), &["1"]).await?;
    let two = push(a, &stream, one, tag(1, 2), &["2"]).await?;
    let three = push(a, &stream, two, tag(1, 3), &["3"]).await?;
    b.log.snapshot(&stream, two, bytes("s2"), 1).await?;
    let mut ignored = [one, two, three, three, three];
    ignored[2].tag = tag(9, 9);
    ignored[3].position.epoch += 1;
    ignored[4].position.seq += 1;
    for at in ignored {
        b.log.snapshot(&stream, at, bytes("ignored"), 0).await?;
        let stored = whole(&*a.log, &stream).await?;
        assert_eq!((stored.mark, stored.snapshot.clone()), (three, Some((2, bytes("s2")))), "{at:?}");
        assert!(stored.entries.len() >= 2, "nothing is forgotten for it");
    }
    b.log.snapshot(&stream, three, bytes("s3"), 0).await?;
    assert_eq!(whole(&*a.log, &stream).await?.snapshot, Some((3, bytes("s3"))));
    Ok(())
}

pub(super) async fn removal_compares_marks(_: &dyn Subject, a: &Backend, b: &Backend) -> Outcome {
    let stream = StreamId::state("s");
    let one = push(a, &stream, birth(), tag(1, 1), &["1"]).await?;
    a.log.snapshot(&stream, one, bytes("s"), 0).await?;
    let two = push(a, &stream, one, tag(1, 2), &["2"]).await?;
    let mut wrong = [one, two, two];
    wrong[1].tag = tag(9, 9);
    wrong[2].position.epoch += 1;
    for at in wrong {
        b.log.remove(&stream, at).await?;
        assert_eq!(a.log.heads(std::slice::from_ref(&stream)).await?, [Some(two)], "{at:?}");
    }
    b.log.remove(&stream, two).await?;
    b.log.remove(&stream, two).await?;
    assert_eq!(a.log.load(&stream, Some(two)).await?, Loaded::Absent);
    let refused = append(a, &stream, two, Rule::Behind, tag(1, 3), &["3"]).await?;
    assert!(matches!(refused, Appended::Conflict { mark, missed: None } if mark.position.seq == 0), "{refused:?}");
    let anew = push(b, &stream, Mark::birth(8), tag(2, 1), &["anew"]).await?;
    let stored = whole(&*a.log, &stream).await?;
    assert_eq!((stored.mark, stored.snapshot, stored.entries.len()), (anew, None, 1), "nothing of the old life");
    Ok(())
}

pub(super) async fn lives_grow(_: &dyn Subject, a: &Backend, b: &Backend) -> Outcome {
    let stream = StreamId::state("s");
    let first = push(a, &stream, Mark::birth(100), tag(1, 1), &["1"]).await?;
    b.log.remove(&stream, first).await?;
    let mut above = 0;
    for epoch in [1, 99, 100] {
        let refused = append(b, &stream, Mark::birth(epoch), Rule::Exactly, tag(2, epoch), &["x"]).await?;
        assert!(matches!(refused, Appended::Conflict { missed: None, .. }), "{epoch}: {refused:?}");
        if let Appended::Conflict { mark, .. } = refused {
            assert!(mark.position.seq == 0 && mark.position.epoch >= 100, "{epoch}: {mark:?}");
            above = mark.position.epoch + 1;
        }
    }
    push(b, &stream, Mark::birth(above), tag(2, 201), &["2"]).await?;
    push(a, &StreamId::state("other"), Mark::birth(above + 1), tag(1, 2), &["x"]).await?;
    Ok(())
}

pub(super) async fn streams_expire(subject: &dyn Subject, a: &Backend, b: &Backend) -> Outcome {
    const TTL: Duration = Duration::from_secs(2);
    let (stream, entries) = (StreamId::state("s"), [bytes("x")]);
    let with_ttl = |after, count| Append::new(&stream, after, Rule::Exactly, tag(1, count), &entries).ttl(TTL);
    let mark = |appended| match appended {
        Appended::At { mark, .. } | Appended::Conflict { mark, .. } => mark,
    };
    let one = mark(a.log.append(with_ttl(birth(), 1)).await?);
    subject.pass(TTL * 3 / 4).await;
    let two = mark(a.log.append(with_ttl(one, 2)).await?);
    assert_eq!(two.position.seq, 2);
    subject.pass(TTL * 3 / 4).await;
    assert_eq!(b.log.heads(std::slice::from_ref(&stream)).await?, [Some(two)], "every append renews");
    subject.pass(TTL / 2).await;
    assert_eq!(b.log.heads(std::slice::from_ref(&stream)).await?, [None]);
    assert_eq!(b.log.load(&stream, Some(two)).await?, Loaded::Absent);
    assert!(b.log.keys(stream.kind, None, 10).await?.is_empty());
    let late = append(a, &stream, two, Rule::Behind, tag(1, 3), &["x"]).await?;
    assert_eq!(mark(late.clone()).position.seq, 0, "{late:?}");
    let late = append(a, &stream, birth(), Rule::Exactly, tag(1, 1), &["x"]).await?;
    assert!(matches!(late, Appended::Conflict { .. }), "an expired life ended like a removed one");
    let anew = mark(a.log.append(with_ttl(Mark::birth(8), 4)).await?);
    let for_ever = push(b, &stream, anew, tag(2, 1), &["y"]).await?;
    subject.pass(TTL * 2).await;
    assert_eq!(a.log.heads(std::slice::from_ref(&stream)).await?, [Some(for_ever)], "an append without one ends it");
    Ok(())
}
