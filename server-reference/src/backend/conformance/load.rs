//! Loads: what came since, or the whole; heads and keys.

use datasole_core::StreamKind;
use futures_util::future::try_join_all;

use super::*;

pub(super) async fn since_or_whole(_: &dyn Subject, a: &Backend, b: &Backend) -> Outcome {
    let (stream, other) = (StreamId::state("s"), StreamId::event("s"));
    assert_eq!(b.log.load(&stream, None).await?, Loaded::Absent);
    assert_eq!(b.log.load(&stream, Some(birth())).await?, Loaded::Absent);
    let one = push(a, &stream, birth(), tag(1, 1), &["1"]).await?;
    let three = push(a, &stream, one, tag(1, 2), &["2", "3"]).await?;
    assert_eq!(b.log.load(&other, None).await?, Loaded::Absent, "kinds do not share keys");
    let stored = whole(&*b.log, &stream).await?;
    assert_eq!((stored.mark, &stored.snapshot), (three, &None));
    assert_eq!(texts(stored.since_snapshot()), ["1", "2", "3"]);
    for (since, expected) in [(birth(), 0), (one, 1), (three, 3)] {
        let loaded = b.log.load(&stream, Some(since)).await?;
        assert_eq!(loaded, Loaded::Since(stored.entries[expected..].to_vec()), "{since:?}");
    }
    a.log.snapshot(&stream, three, bytes("s3"), 1).await?;
    let two = Mark { position: datasole_core::Position { seq: 2, ..three.position }, tag: three.tag };
    assert_eq!(b.log.load(&stream, Some(two)).await?, Loaded::Since(stored.entries[2..].to_vec()), "kept");
    assert_eq!(b.log.load(&stream, Some(three)).await?, Loaded::Since(Vec::new()), "nothing missed");
    let loaded = b.log.load(&stream, Some(birth())).await?;
    assert!(
        matches!(&loaded, Loaded::Whole(whole) if whole.snapshot == Some((3, bytes("s3")))),
        "forgotten: {loaded:?}"
    );
    Ok(())
}

pub(super) async fn foreign_marks_get_the_whole(_: &dyn Subject, a: &Backend, b: &Backend) -> Outcome {
    let stream = StreamId::state("s");
    let one = push(a, &stream, birth(), tag(1, 1), &["1"]).await?;
    let three = push(a, &stream, one, tag(1, 2), &["2", "3"]).await?;
    let mut foreign = [one, one, three, three, birth()];
    foreign[0].tag = tag(1, 9);
    foreign[1].position.epoch += 1;
    foreign[2].tag = tag(1, 9);
    foreign[3].position.seq += 1;
    foreign[4].position.epoch += 1;
    for since in foreign {
        let loaded = b.log.load(&stream, Some(since)).await?;
        assert!(matches!(&loaded, Loaded::Whole(whole) if whole.entries.len() == 3), "{since:?}: {loaded:?}");
    }
    a.log.snapshot(&stream, three, bytes("s"), 0).await?;
    let since = Mark { tag: tag(1, 9), ..three };
    let loaded = b.log.load(&stream, Some(since)).await?;
    assert!(
        matches!(loaded, Loaded::Whole(_)),
        "the head's tag is compared though its entry may be forgotten: {loaded:?}"
    );
    Ok(())
}

pub(super) async fn heads_in_order(_: &dyn Subject, a: &Backend, b: &Backend) -> Outcome {
    let ids: Vec<_> = (0..600).map(|n| StreamId::state(n.to_string())).collect();
    let mut expected = vec![None; ids.len()];
    for n in (0..ids.len()).step_by(7) {
        expected[n] = Some(push(a, &ids[n], birth(), tag(1, n as u64 + 1), &["x"]).await?);
    }
    assert_eq!(b.log.heads(&ids).await?, expected);
    assert_eq!(b.log.heads(&[]).await?, []);
    Ok(())
}

pub(super) async fn any_bytes_fit(_: &dyn Subject, a: &Backend, b: &Backend) -> Outcome {
    let long = StreamId::state("é".repeat(128));
    assert_eq!(long.key.len(), 256);
    let contents = [Bytes::new(), Bytes::from_static(b"\0\xff\xfe\0"), vec![0xa5; 1 << 20].into()];
    for (n, stream) in [long, StreamId::state("a\0b"), StreamId::state("a")].iter().enumerate() {
        let tag = tag(u64::MAX, n as u64 + 1);
        let appended = a.log.append(Append::new(stream, birth(), Rule::Exactly, tag, &contents)).await?;
        let stored = whole(&*b.log, stream).await?;
        let mark = stored.mark;
        assert_eq!(appended, Appended::At { between: Vec::new(), mark });
        assert!(stored.entries.iter().map(|entry| &entry.bytes).eq(&contents), "{stream:?}");
        a.log.snapshot(stream, mark, contents[2].clone(), 0).await?;
        assert_eq!(whole(&*b.log, stream).await?.snapshot, Some((3, contents[2].clone())));
    }
    let keys = b.log.keys(StreamKind::State, None, 10).await?;
    assert_eq!(keys, ["a", "a\0b", &"é".repeat(128)], "in the order of their bytes");
    Ok(())
}

pub(super) async fn keys_are_paged(_: &dyn Subject, a: &Backend, b: &Backend) -> Outcome {
    const KEYS: u64 = 10_000;
    for first in (0..KEYS).step_by(250) {
        let ids: Vec<_> = (first..first + 250).map(|n| StreamId::state(format!("k{n}"))).collect();
        let appends = ids.iter().zip(first + 1..).map(|(id, n)| push(a, id, birth(), tag(1, n), &["x"]));
        try_join_all(appends).await?;
    }
    push(a, &StreamId::event("k"), birth(), tag(2, 1), &["x"]).await?;
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = b.log.keys(StreamKind::State, after.as_deref(), 999).await?;
        assert!(page.len() <= 999);
        let Some(last) = page.last() else { break };
        after = Some(last.clone());
        found.extend(page);
    }
    let mut expected: Vec<_> = (0..KEYS).map(|n| format!("k{n}")).collect();
    expected.sort_unstable();
    assert!(found == expected, "every key once, in order: {} of {KEYS}", found.len());
    assert_eq!(b.log.keys(StreamKind::Event, None, 10).await?, ["k"]);
    assert!(b.log.keys(StreamKind::State, None, 0).await?.is_empty());
    Ok(())
}
