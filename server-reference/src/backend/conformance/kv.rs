//! Values, maps, quotas and leases.

use std::time::Instant;

use super::*;
use crate::backend::{
    bus::NodeId,
    kv::{Expected, Quota, Version},
};

pub(super) async fn puts_compare(_: &dyn Subject, a: &Backend, b: &Backend) -> Outcome {
    let put = |engine: &Backend, text, expected| {
        let engine = engine.clone();
        async move { engine.kv.put("k", bytes(text), expected, None).await }
    };
    assert_eq!(a.kv.get("k").await?, None);
    assert_eq!(put(a, "x", Expected::Version(Version(1))).await?, None);
    let first = put(a, "1", Expected::Absent).await?;
    assert!(first.is_some());
    assert_eq!(put(b, "x", Expected::Absent).await?, None, "somebody else's");
    let second = put(b, "2", Expected::Any).await?;
    assert!(second.is_some() && second != first, "every change has a version of its own");
    assert_eq!(put(a, "x", Expected::Version(first.unwrap_or(Version(0)))).await?, None, "changed since");
    let third = put(a, "3", Expected::Version(second.unwrap_or(Version(0)))).await?;
    assert_eq!(b.kv.get("k").await?, third.map(|version| (version, bytes("3"))));
    b.kv.delete("k").await?;
    b.kv.delete("k").await?;
    assert_eq!(a.kv.get("k").await?, None);
    assert_eq!(put(a, "x", Expected::Version(third.unwrap_or(Version(0)))).await?, None, "deleted since");
    let fourth = put(a, "3", Expected::Absent).await?;
    assert!(fourth.is_some() && fourth != third, "no version comes again");
    let raw = Bytes::from_static(b"\0\xff");
    a.kv.put("a\0b", raw.clone(), Expected::Any, None).await?;
    assert_eq!(b.kv.get("a\0b").await?.map(|(_, value)| value), Some(raw));
    Ok(())
}

pub(super) async fn values_expire(subject: &dyn Subject, a: &Backend, b: &Backend) -> Outcome {
    const TTL: Duration = Duration::from_secs(2);
    let version = a.kv.put("k", bytes("v"), Expected::Absent, Some(TTL)).await?;
    a.kv.put("zero", bytes("v"), Expected::Absent, Some(Duration::ZERO)).await?;
    a.kv.put("ever", bytes("v"), Expected::Absent, None).await?;
    assert_eq!(b.kv.get("zero").await?, None);
    subject.pass(TTL / 2).await;
    assert!(b.kv.get("k").await?.is_some());
    subject.pass(TTL).await;
    assert_eq!(b.kv.get("k").await?, None);
    assert!(b.kv.get("ever").await?.is_some());
    let expected = Expected::Version(version.unwrap_or(Version(0)));
    assert_eq!(a.kv.put("k", bytes("x"), expected, None).await?, None, "what has expired is absent");
    assert!(a.kv.put("k", bytes("x"), Expected::Absent, Some(TTL)).await?.is_some());
    assert!(a.kv.put("k", bytes("y"), Expected::Any, None).await?.is_some());
    subject.pass(TTL * 2).await;
    assert!(b.kv.get("k").await?.is_some(), "a put without a lifetime ends the one before");
    Ok(())
}

pub(super) async fn maps_hold_fields(subject: &dyn Subject, a: &Backend, b: &Backend) -> Outcome {
    const TTL: Duration = Duration::from_secs(2);
    assert!(a.kv.fields("m").await?.is_empty());
    for (engine, field, value) in [(a, "b", "1"), (b, "a", "2"), (a, "b", "3"), (b, "c", "4")] {
        engine.kv.set_field("m", field, Some(bytes(value)), Some(TTL)).await?;
    }
    a.kv.set_field("m", "c", None, Some(TTL)).await?;
    a.kv.set_field("m", "never", None, Some(TTL)).await?;
    let expected = [("a".to_owned(), bytes("2")), ("b".to_owned(), bytes("3"))];
    assert_eq!(b.kv.fields("m").await?, expected, "in order");
    assert_eq!(b.kv.get("m").await?, None, "maps and values do not share keys");
    subject.pass(TTL * 3 / 4).await;
    b.kv.set_field("m", "a", Some(bytes("5")), Some(TTL)).await?;
    subject.pass(TTL / 2).await;
    assert_eq!(a.kv.fields("m").await?.len(), 2, "every change renews the whole map");
    subject.pass(TTL).await;
    assert!(a.kv.fields("m").await?.is_empty());
    b.kv.set_field("m", "d", Some(bytes("6")), None).await?;
    assert_eq!(a.kv.fields("m").await?, [("d".to_owned(), bytes("6"))], "nothing of what expired comes back");
    subject.pass(TTL * 2).await;
    assert_eq!(a.kv.fields("m").await?.len(), 1);
    Ok(())
}

/// Two nodes take as fast as they are granted, at uneven moments.
pub(super) async fn quotas_are_never_over(subject: &dyn Subject, a: &Backend, b: &Backend) -> Outcome {
    const LIMIT: u64 = 10;
    const WINDOW: Duration = Duration::from_millis(1_600);
    let quota = |cost| Quota { limit: LIMIT, window: WINDOW, cost };
    // An engine's time is at least what was passed, and at least the machine's where it sleeps.
    let (began, mut now, mut granted) = (Instant::now(), Duration::ZERO, Vec::new());
    for step in 0..60_u64 {
        let cost = 1 + step % 3;
        for engine in [a, b] {
            let asked = now.max(began.elapsed());
            let taken = engine.kv.take("k", quota(cost)).await?;
            assert_eq!(taken.granted, taken.retry_after.is_zero(), "{taken:?}");
            assert!(taken.left <= LIMIT);
            if taken.granted {
                granted.push((asked, now.max(began.elapsed()), cost));
            }
        }
        let wait = Duration::from_millis(40 + step * 37 % 150);
        subject.pass(wait).await;
        now += wait;
    }
    for (first, (start, ..)) in granted.iter().enumerate() {
        let within = granted.iter().skip(first).filter(|(_, answered, _)| *answered < *start + WINDOW);
        let sum: u64 = within.map(|(.., cost)| cost).sum();
        assert!(sum <= LIMIT, "{sum} from {start:?} on");
    }
    let total: u64 = granted.iter().map(|(.., cost)| cost).sum();
    let windows = now.as_millis() as u64 / WINDOW.as_millis() as u64;
    assert!(total >= windows * LIMIT / 2, "and not much less than it may be: {total} in {windows} windows");
    assert!(a.kv.take("other", quota(LIMIT)).await?.granted, "keys do not share");
    let refused = b.kv.take("other", quota(1)).await?;
    assert!(!refused.granted && refused.left == 0);
    subject.pass(refused.retry_after).await;
    assert!(b.kv.take("other", quota(1)).await?.granted, "when it was said");
    assert!(!a.kv.take("huge", quota(LIMIT + 1)).await?.granted, "more than the limit");
    let last = || quota(LIMIT);
    let (one, other) = tokio::join!(a.kv.take("race", last()), b.kv.take("race", last()));
    assert!(one?.granted != other?.granted, "what is left is given once");
    // As long as the documents of a user are counted.
    const DAY: Duration = Duration::from_secs(24 * 3_600);
    let daily = Quota { limit: 3, window: DAY, cost: 1 };
    for node in [a, b, a] {
        assert!(node.kv.take("daily", daily).await?.granted);
    }
    for node in [a, b] {
        let refused = node.kv.take("daily", daily).await?;
        assert!(!refused.granted && refused.left == 0, "{refused:?}");
        assert!(refused.retry_after > DAY - DAY / 16 && refused.retry_after <= DAY + DAY / 8, "{refused:?}");
    }
    Ok(())
}

pub(super) async fn leases_exclude(subject: &dyn Subject, a: &Backend, b: &Backend) -> Outcome {
    const TTL: Duration = Duration::from_secs(2);
    let (one, two) = (NodeId(1), NodeId(2));
    let Some(first) = a.kv.lease("n:1", one, TTL).await? else { return missing("a free lease") };
    assert_eq!(b.kv.lease("n:1", two, TTL).await?, None);
    assert!(b.kv.lease("n:2", two, TTL).await?.is_some());
    assert!(b.kv.lease("o:1", two, TTL).await?.is_some());
    assert_eq!(a.kv.leases("n:").await?, [("n:1".to_owned(), one), ("n:2".to_owned(), two)]);
    subject.pass(TTL * 3 / 4).await;
    assert!(a.kv.renew(&first).await?);
    subject.pass(TTL * 3 / 4).await;
    assert_eq!(b.kv.leases("n:").await?, [("n:1".to_owned(), one)], "renewed and not");
    let Some(again) = a.kv.lease("n:1", one, TTL).await? else { return missing("the holder's own lease") };
    assert!(!a.kv.renew(&first).await?, "replaced");
    a.kv.end(first).await?;
    assert_eq!(b.kv.lease("n:1", two, TTL).await?, None, "the end of an old lease ends no other");
    subject.pass(TTL).await;
    assert!(!a.kv.renew(&again).await?, "too late");
    let Some(theirs) = b.kv.lease("n:1", two, TTL).await? else { return missing("an expired lease") };
    a.kv.end(again).await?;
    assert!(b.kv.renew(&theirs).await?);
    b.kv.end(theirs.clone()).await?;
    assert!(!b.kv.renew(&theirs).await?);
    assert!(a.kv.lease("n:1", one, TTL).await?.is_some());
    Ok(())
}
