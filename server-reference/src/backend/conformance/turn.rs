//! Turns of nodes that contend for a stream.

use tokio::{sync::mpsc, time::timeout};

use super::*;
use crate::backend::log::{News, TURN};

async fn next(news: &mut mpsc::Receiver<News>) -> Option<News> {
    timeout(Duration::from_secs(30), news.recv()).await.ok().flatten()
}

/// Three nodes that always want the turn get it one after another, each with all entries before.
pub(super) async fn turns_are_fair(subject: &dyn Subject, a: &Backend, b: &Backend) -> Outcome {
    const ROUNDS: u64 = 30;
    let stream = StreamId::state("s");
    let c = subject.node().await?;
    let mut nodes = Vec::new();
    for engine in [a, b, &c] {
        engine.log.follow(std::slice::from_ref(&stream)).await?;
        nodes.push((engine, engine.log.news()?));
    }
    for (n, (engine, _)) in nodes.iter().enumerate() {
        assert_eq!(engine.log.take_turn(&stream).await?, n == 0, "the first has it, the others wait");
    }
    assert!(a.log.take_turn(&stream).await?, "who has it keeps it");
    assert!(!b.log.take_turn(&stream).await?, "and asking again changes nothing");
    let (mut mark, entries) = (birth(), [bytes("x")]);
    for round in 0..ROUNDS {
        let which = round as usize % nodes.len();
        let (engine, news) = &mut nodes[which];
        if round > 0 {
            // Others' entries come first, then the turn.
            let mut at = 0;
            loop {
                match next(news).await {
                    Some(News::Entries { first, entries, .. }) => at = first.seq + entries.len() as u64 - 1,
                    Some(News::Turn(of)) => break assert_eq!((of, at), (stream.clone(), mark.position.seq)),
                    _ => return missing("the turn, and the entries before it"),
                }
            }
        }
        // Asks for the turn after the next before it hands on this one.
        let append = Append::new(&stream, mark, Rule::Exactly, tag(which as u64 + 1, round + 1), &entries).hand_on();
        let appended = engine.log.append(append).await?;
        assert!(matches!(appended, Appended::At { .. }), "who has the turn meets no conflict: {appended:?}");
        if let Appended::At { mark: at, .. } = appended {
            mark = at;
        }
        assert!(!engine.log.take_turn(&stream).await?, "queued behind the others");
    }
    Ok(())
}

pub(super) async fn turns_survive_their_holder(subject: &dyn Subject, a: &Backend, b: &Backend) -> Outcome {
    let stream = StreamId::state("s");
    let c = subject.node().await?;
    let mut news = c.log.news()?;
    assert!(a.log.take_turn(&stream).await?);
    assert!(!b.log.take_turn(&stream).await?);
    assert!(!c.log.take_turn(&stream).await?);
    subject.pass(TURN / 2).await;
    assert!(!b.log.take_turn(&stream).await?, "not yet");
    subject.pass(TURN).await;
    assert!(b.log.take_turn(&stream).await?, "the holder is gone");
    // Its late append neither fails nor takes the turn from anybody.
    let entries = [bytes("late")];
    a.log.append(Append::new(&stream, birth(), Rule::Exactly, tag(1, 1), &entries).hand_on()).await?;
    assert!(b.log.take_turn(&stream).await?);
    b.log.end_turn(&stream).await?;
    assert_eq!(next(&mut news).await, Some(News::Turn(stream.clone())), "the queue outlives the holder");
    c.log.end_turn(&stream).await?;
    assert!(a.log.take_turn(&stream).await?, "nobody waits");
    assert!(!b.log.take_turn(&stream).await?);
    b.log.end_turn(&stream).await?;
    a.log.end_turn(&stream).await?;
    assert!(c.log.take_turn(&stream).await?, "who left the queue does not get it");
    Ok(())
}
