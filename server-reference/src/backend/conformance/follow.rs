//! News between nodes.

use std::collections::HashMap;

use tokio::{sync::mpsc, time::timeout};

use super::*;
use crate::backend::log::{MAX_PUSH, News};

/// How long news may take; only a clause that fails waits as long.
const PATIENCE: Duration = Duration::from_secs(30);

async fn next(news: &mut mpsc::Receiver<News>) -> News {
    let next = timeout(PATIENCE, news.recv()).await;
    assert!(matches!(next, Ok(Some(_))), "news must come");
    next.ok().flatten().unwrap_or(News::Lost)
}

/// The next news that are not of `mark`'s own stream being where it is: waits for what must have come by then.
async fn until(news: &mut mpsc::Receiver<News>, stream: &StreamId, seq: u64) -> Vec<News> {
    let mut seen = Vec::new();
    loop {
        let one = next(news).await;
        let is_last = matches!(&one, News::Entries { stream: of, first, entries }
            if of == stream && first.seq + entries.len() as u64 > seq);
        seen.push(one);
        if is_last {
            return seen;
        }
    }
}

/// A node that begins to follow finds every entry in its load or among its news.
pub(super) async fn followers_miss_nothing(_: &dyn Subject, a: &Backend, b: &Backend) -> Outcome {
    const ROUNDS: u64 = 10_000;
    let mut news = b.log.news()?;
    for round in 0..ROUNDS {
        let stream = StreamId::event(round.to_string());
        let author = {
            let (engine, stream) = (a.clone(), stream.clone());
            tokio::spawn(async move { push(&engine, &stream, birth(), tag(1, round + 1), &["x"]).await })
        };
        if round % 3 == 0 {
            tokio::task::yield_now().await;
        }
        b.log.follow(std::slice::from_ref(&stream)).await?;
        if b.log.load(&stream, None).await? == Loaded::Absent {
            until(&mut news, &stream, 1).await;
        }
        author.await.map_err(|error| BackendError::Unavailable(error.to_string()))??;
        b.log.unfollow(&[stream]);
        while news.try_recv().is_ok() {}
    }
    Ok(())
}

pub(super) async fn news_are_in_order(_: &dyn Subject, a: &Backend, b: &Backend) -> Outcome {
    let streams: Vec<_> = (0..3).map(|n| StreamId::event(n.to_string())).collect();
    let mut news = b.log.news()?;
    b.log.follow(&streams).await?;
    b.log.follow(&streams).await?;
    let mut marks = vec![birth(); streams.len()];
    for count in 0..300 {
        let which = count as usize % streams.len();
        let entries = &["a", "b", "c"][..1 + count as usize % 3];
        marks[which] = push(a, &streams[which], marks[which], tag(1, count + 1), entries).await?;
    }
    let mut at: HashMap<StreamId, Mark> = HashMap::new();
    while streams.iter().zip(&marks).any(|(stream, mark)| at.get(stream) != Some(mark)) {
        let News::Entries { stream, first, entries } = next(&mut news).await else { continue };
        let local = at.entry(stream).or_insert(birth());
        assert_eq!((first.epoch, first.seq), (local.position.epoch, local.position.seq + 1), "in order and once");
        assert_chained(local.tag, &entries);
        local.position.seq += entries.len() as u64;
        local.tag = entries.last().map_or(local.tag, |entry| entry.tag);
    }
    Ok(())
}

pub(super) async fn large_entries_are_announced(_: &dyn Subject, a: &Backend, b: &Backend) -> Outcome {
    let (stream, end) = (StreamId::doc("s"), StreamId::doc("end"));
    let mut news = b.log.news()?;
    b.log.follow(&[stream.clone(), end.clone()]).await?;
    let large = "x".repeat(MAX_PUSH + 1);
    let mark = push(a, &stream, birth(), tag(1, 1), &[&large]).await?;
    push(a, &end, birth(), tag(1, 2), &["x"]).await?;
    let seen = until(&mut news, &end, 1).await;
    let told = |one: &News| match one {
        News::Advanced { stream: of, position } => *of == stream && *position == mark.position,
        News::Entries { stream: of, first, .. } => *of == stream && *first == mark.position,
        _ => false,
    };
    assert!(seen.iter().any(told), "a large entry is at least announced: {seen:?}");
    Ok(())
}

pub(super) async fn slow_readers_lose_and_know(_: &dyn Subject, a: &Backend, b: &Backend) -> Outcome {
    const ENTRIES: u64 = 20_000;
    let stream = StreamId::event("s");
    let mut news = b.log.news()?;
    b.log.follow(std::slice::from_ref(&stream)).await?;
    let mut mark = birth();
    for count in 0..ENTRIES / 10 {
        mark = push(a, &stream, mark, tag(1, count + 1), &["x"; 10]).await?;
    }
    assert!(news.max_capacity() < 100_000, "what waits is bounded");
    let mut appended = ENTRIES / 10;
    let mut lost = false;
    // A channel that is not full has everything or a notice of loss: reads until one of both.
    let mut seen = 0;
    while !lost && seen < ENTRIES {
        match next(&mut news).await {
            News::Lost => lost = true,
            News::Entries { entries, .. } => seen += entries.len() as u64,
            _ => {}
        }
    }
    assert!(lost || seen == ENTRIES, "no silent loss");
    while news.try_recv().is_ok() {}
    appended += 1;
    let last = push(a, &stream, mark, tag(1, appended), &["last"]).await?;
    until(&mut news, &stream, last.position.seq).await;
    assert_eq!(b.log.heads(&[stream]).await?, [Some(last)]);
    Ok(())
}

pub(super) async fn unfollowed_streams_are_silent(_: &dyn Subject, a: &Backend, b: &Backend) -> Outcome {
    let (left, never, end) = (StreamId::event("left"), StreamId::event("never"), StreamId::event("end"));
    let mut news = b.log.news()?;
    b.log.follow(&[left.clone(), end.clone()]).await?;
    let mark = push(a, &left, birth(), tag(1, 1), &["x"]).await?;
    until(&mut news, &left, 1).await;
    b.log.unfollow(&[left.clone(), never.clone()]);
    // Also the engine must have heard of it, which an operation after it shows.
    b.log.follow(std::slice::from_ref(&end)).await?;
    push(a, &left, mark, tag(1, 2), &["x"]).await?;
    push(a, &never, birth(), tag(1, 3), &["x"]).await?;
    push(a, &end, birth(), tag(1, 4), &["x"]).await?;
    let seen = until(&mut news, &end, 1).await;
    assert_eq!(seen.len(), 1, "{seen:?}");
    Ok(())
}

pub(super) async fn news_have_one_reader(_: &dyn Subject, a: &Backend, b: &Backend) -> Outcome {
    let (_a, _b) = (a.log.news()?, b.log.news()?);
    for engine in [a, b] {
        assert!(matches!(engine.log.news(), Err(BackendError::Taken(_))));
    }
    Ok(())
}

pub(super) async fn a_generation_begins_once(subject: &dyn Subject, a: &Backend, b: &Backend) -> Outcome {
    let (stream, end) = (StreamId::state("s"), StreamId::state("end"));
    let mut news = [a.log.news()?, b.log.news()?];
    let c = subject.node().await?;
    let one = push(&c, &stream, birth(), tag(1, 1), &["1"]).await?;
    if !subject.fail_over(2).await? {
        return Ok(());
    }
    for engine in [a, b] {
        engine.log.follow(std::slice::from_ref(&end)).await?;
    }
    push(&c, &end, Mark::birth((1 << 53) - 1), tag(1, 2), &["x"]).await?;
    let mut generations = Vec::new();
    for news in &mut news {
        let seen = until(news, &end, 1).await;
        let new: Vec<_> = seen.iter().filter(|one| matches!(one, News::Generation(_))).cloned().collect();
        assert_eq!(new.len(), 1, "each node hears once: {seen:?}");
        generations.extend(new);
    }
    assert_eq!(generations[0], generations[1], "and all of the same");
    let stored = whole(&*a.log, &stream).await?;
    assert!(stored.mark.position.epoch > one.position.epoch, "a new life");
    assert_eq!((stored.mark.position.seq, texts(&stored.entries)), (1, vec!["1".into()]));
    assert!(matches!(b.log.load(&stream, Some(one)).await?, Loaded::Whole(_)), "nobody resumes from the old");
    let refused = append(b, &stream, one, Rule::Behind, tag(2, 1), &["x"]).await?;
    assert!(matches!(refused, Appended::Conflict { mark, .. } if mark == stored.mark), "{refused:?}");
    Ok(())
}
