//! Messages between nodes.

use std::sync::Arc;

use tokio::{sync::mpsc, time::timeout};

use super::*;
use crate::backend::bus::{Address, Delivery, NodeId};

async fn next(inbox: &mut mpsc::Receiver<Delivery>) -> Option<Delivery> {
    timeout(Duration::from_secs(30), inbox.recv()).await.ok().flatten()
}

fn message(topic: Option<&str>, from: NodeId, text: &str) -> Option<Delivery> {
    Some(Delivery::Message { topic: topic.map(Arc::from), from, bytes: bytes(text) })
}

pub(super) async fn messages_reach_whom_they_are_for(subject: &dyn Subject, a: &Backend, b: &Backend) -> Outcome {
    let c = subject.node().await?;
    let (me, other) = (a.bus.node(), b.bus.node());
    assert!(me != other && me != c.bus.node(), "every node has a name of its own");
    let mut inboxes = [a.bus.inbox()?, b.bus.inbox()?, c.bus.inbox()?];
    let topic: Arc<str> = "r:room".into();
    for engine in [a, b, b] {
        engine.bus.subscribe(std::slice::from_ref(&topic)).await?;
    }
    a.bus.publish(Address::Topic("nobody"), bytes("0")).await?;
    a.bus.publish(Address::Topic(&topic), bytes("1")).await?;
    a.bus.publish(Address::Node(other), bytes("2")).await?;
    a.bus.publish(Address::Node(NodeId(1)), bytes("3")).await?;
    b.bus.unsubscribe(&[Arc::clone(&topic), "never".into()]);
    b.bus.subscribe(&["other".into()]).await?;
    a.bus.publish(Address::Topic(&topic), bytes("4")).await?;
    a.bus.publish(Address::Everybody, bytes("5")).await?;
    c.bus.publish(Address::Topic(&topic), bytes("6")).await?;
    assert_eq!(next(&mut inboxes[1]).await, message(Some(&topic), me, "1"), "once, though subscribed twice");
    assert_eq!(next(&mut inboxes[1]).await, message(None, me, "2"));
    assert_eq!(next(&mut inboxes[1]).await, message(None, me, "5"), "not 4, after the subscription ended");
    assert_eq!(next(&mut inboxes[2]).await, message(None, me, "5"));
    assert_eq!(next(&mut inboxes[0]).await, message(Some(&topic), c.bus.node(), "6"), "nobody hears itself");
    Ok(())
}

pub(super) async fn who_hears_is_never_denied(_: &dyn Subject, a: &Backend, b: &Backend) -> Outcome {
    let mut inbox = b.bus.inbox()?;
    b.bus.subscribe(&["t".into()]).await?;
    for to in [Address::Everybody, Address::Node(b.bus.node()), Address::Topic("t")] {
        assert!(a.bus.is_heard(to), "{to:?}");
    }
    // Whatever it answers about others: who asks before publishing reaches the same nodes.
    for (to, text) in [(Address::Topic("t"), "1"), (Address::Topic("nobody"), "2"), (Address::Everybody, "3")] {
        if a.bus.is_heard(to) {
            a.bus.publish(to, bytes(text)).await?;
        }
    }
    assert_eq!(next(&mut inbox).await, message(Some("t"), a.bus.node(), "1"));
    assert_eq!(next(&mut inbox).await, message(None, a.bus.node(), "3"));
    Ok(())
}

pub(super) async fn messages_are_in_order(_: &dyn Subject, a: &Backend, b: &Backend) -> Outcome {
    let mut inbox = b.bus.inbox()?;
    b.bus.subscribe(&["t".into()]).await?;
    for n in 0..500 {
        a.bus.publish(Address::Topic("t"), bytes(&n.to_string())).await?;
    }
    for n in 0..500 {
        assert_eq!(next(&mut inbox).await, message(Some("t"), a.bus.node(), &n.to_string()));
    }
    Ok(())
}

pub(super) async fn slow_inboxes_lose_and_know(_: &dyn Subject, a: &Backend, b: &Backend) -> Outcome {
    const MESSAGES: usize = 20_000;
    let mut inbox = b.bus.inbox()?;
    b.bus.subscribe(&["t".into()]).await?;
    for _ in 0..MESSAGES {
        a.bus.publish(Address::Topic("t"), bytes("x")).await?;
    }
    assert!(inbox.max_capacity() < 100_000, "what waits is bounded");
    let mut seen = 0;
    while seen < MESSAGES {
        let delivery = next(&mut inbox).await;
        assert!(delivery.is_some(), "no silent loss: {seen} came");
        if delivery == Some(Delivery::Lost) {
            break;
        }
        seen += 1;
    }
    // Of an engine elsewhere some are still on their way, and may fill the inbox again.
    let last = message(Some("t"), a.bus.node(), "last");
    loop {
        a.bus.publish(Address::Topic("t"), bytes("last")).await?;
        loop {
            let delivery = next(&mut inbox).await;
            if delivery == last {
                return Ok(());
            }
            match delivery {
                Some(Delivery::Lost) => break,
                Some(_) => {}
                None => return missing("messages to go on"),
            }
        }
    }
}

pub(super) async fn inboxes_have_one_reader(_: &dyn Subject, a: &Backend, b: &Backend) -> Outcome {
    let (_a, _b) = (a.bus.inbox()?, b.bus.inbox()?);
    for engine in [a, b] {
        assert!(matches!(engine.bus.inbox(), Err(BackendError::Taken(_))));
    }
    Ok(())
}
