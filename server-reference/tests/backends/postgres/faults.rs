//! Faults between a node and its PostgreSQL, and what other programs on the same server must not suffer.

use std::{
    sync::{Arc, atomic::AtomicU64, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use datasole_core::{Position, StreamId};
use datasole_server::backend::{
    Backend, BackendError,
    bus::{Address, Delivery},
    log::{Append, Appended, Mark, News, Rule, Tag},
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

use super::{connect, server::Server};
use crate::{
    late::{Late, order_is_kept},
    writers::{PATIENCE, PAUSE, append, survives, until_it_answers, whole},
};

async fn nodes(server: &Server, options: &str) -> [Backend; 2] {
    let postgres = connect(&server.url(options)).await;
    [postgres.node().await.unwrap(), postgres.node().await.unwrap()]
}

async fn next<T>(receiver: &mut mpsc::Receiver<T>) -> T {
    timeout(PATIENCE, receiver.recv()).await.expect("something comes").unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_doubled_when_connections_are_killed() {
    let server = Server::start();
    survives(nodes(&server, "").await, async || {
        for _ in 0..15 {
            server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'datasole'");
            sleep(PAUSE * 5).await;
        }
    })
    .await;
}

/// Killed with all its processes, a server that waits for the disk keeps all that it acknowledged, and lives go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_the_engine_is_killed() {
    let mut server = Server::with(&["synchronous_commit=on"]);
    let [a, b] = nodes(&server, "").await;
    let stream = StreamId::state("before");
    let before = append(&a, &stream, Mark::birth(7), 1).await;
    survives([a.clone(), b.clone()], async || {
        for _ in 0..3 {
            sleep(PAUSE * 20).await;
            server.kill_and_start();
            connect(&server.url("")).await;
        }
        sleep(PAUSE * 20).await;
    })
    .await;
    until_it_answers(&b).await;
    assert_eq!(b.log.heads(&[stream]).await.unwrap(), [Some(before)], "the same life");
}

/// What is acknowledged before it is on the disk may be lost by a crash: all streams begin new lives, once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_that_may_have_lost_entries_begins_a_generation() {
    for (options, begins) in [("options=-csynchronous_commit%3Doff", true), ("durable=yes", false), ("", false)] {
        let mut server = Server::with(&["synchronous_commit=on"]);
        let [a, b] = nodes(&server, options).await;
        let stream = StreamId::state("s");
        let one = append(&a, &stream, Mark::birth(7), 1).await;
        // On the disk, whatever the other settings.
        server.sql("CHECKPOINT");
        server.kill_and_start();
        let (mut heads, mut news) = (Vec::new(), [a.log.news().unwrap(), b.log.news().unwrap()]);
        for (node, news) in [&a, &b].into_iter().zip(&mut news) {
            until_it_answers(node).await;
            heads.push(node.log.heads(std::slice::from_ref(&stream)).await.unwrap()[0].unwrap());
            let first = next(news).await;
            assert_eq!(matches!(first, News::Generation(_)), begins, "{options}: {first:?}");
        }
        assert_eq!(heads[0], heads[1]);
        assert_eq!(heads[0] != one, begins, "{options}");
        assert_eq!((heads[0].position.seq, heads[0].tag), (1, one.tag));
        // A connection that is opened later begins no other.
        let [c, _] = nodes(&server, options).await;
        assert_eq!(c.log.heads(&[stream]).await.unwrap(), [Some(heads[0])]);
    }
}

/// What was given up is sent again over the next connection, and dropped when it comes from the one before.
#[tokio::test]
async fn a_message_that_was_given_up_does_not_come_after_later_ones() {
    let server = Server::start();
    let direct = connect(&server.url("")).await.node().await.unwrap();
    let late = Late::start(server.port).await;
    let url = format!("postgres://postgres@127.0.0.1:{}/postgres?application_name=late", late.port);
    let node = connect(&url).await.node().await.unwrap();
    let senders = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'late' AND query LIKE '%pg_notify%'";
    order_is_kept(&late, &node, &direct, async || {
        let deadline = Instant::now() + PATIENCE;
        // The one that was given up ends when all is read that came over it.
        while server.sql(senders) != "1" {
            assert!(Instant::now() < deadline, "it ends");
            sleep(PAUSE).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_stops_is_not_waited_for_long() {
    let server = Server::start();
    let [a, b] = nodes(&server, "").await;
    let stream = StreamId::state("s");
    let one = append(&a, &stream, Mark::birth(7), 1).await;
    server.pause("-STOP");
    let (began, entries) = (Instant::now(), [Bytes::from_static(b"entry")]);
    let stuck = Append::new(&stream, one, Rule::Exactly, Tag { node: 1, count: 2 }, &entries);
    let refused = a.log.append(stuck).await;
    assert!(matches!(refused, Err(BackendError::Unavailable(_))), "{refused:?}");
    let refused = a.kv.get("k").await;
    assert!(matches!(refused, Err(BackendError::Unavailable(_))), "{refused:?}");
    assert!(began.elapsed() < PATIENCE / 2, "after {:?}", began.elapsed());
    server.pause("-CONT");
    let deadline = Instant::now() + PATIENCE;
    let appended = loop {
        match a.log.append(stuck).await {
            Ok(appended) => break appended,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        sleep(PAUSE).await;
    };
    assert!(matches!(appended, Appended::At { mark, .. } if mark.position.seq == 2), "once, whenever: {appended:?}");
    assert_eq!(whole(&b, &stream).await.unwrap().unwrap().entries.len(), 2);
}

/// A connection that listened is lost: whoever followed is told, and hears what comes after.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_listener_is_told() {
    let server = Server::start();
    let [a, b] = nodes(&server, "").await;
    let stream = StreamId::event("s");
    let (mut news, mut inbox) = (b.log.news().unwrap(), b.bus.inbox().unwrap());
    b.log.follow(std::slice::from_ref(&stream)).await.unwrap();
    b.bus.subscribe(&["t".into()]).await.unwrap();
    let one = append(&a, &stream, Mark::birth(7), 1).await;
    assert!(matches!(next(&mut news).await, News::Entries { first: Position { seq: 1, .. }, .. }));
    server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'datasole'");
    assert_eq!(next(&mut news).await, News::Lost);
    assert_eq!(next(&mut inbox).await, Delivery::Lost);
    until_it_answers(&a).await;
    until_it_answers(&b).await;
    append(&a, &stream, one, 2).await;
    loop {
        match next(&mut news).await {
            News::Entries { first: Position { seq: 2, .. }, .. } => break,
            News::Lost => {}
            other => panic!("{other:?}"),
        }
    }
}

/// Messages beyond the 8,000 bytes of a notification, and keys as long as they may be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_are_as_long_as_they_are() {
    let server = Server::start();
    let [a, b] = nodes(&server, "").await;
    let mut inbox = b.bus.inbox().unwrap();
    let topic = "é".repeat(128);
    b.bus.subscribe(&[topic.as_str().into()]).await.unwrap();
    // With an address of 261 bytes, or of 9, the middle ones are as long as a note may carry, and one byte more.
    let lengths = [0, 1, 4_739, 4_740, 4_991, 4_992, 7_999, 8_000, 8_001, 1 << 20];
    for length in lengths {
        a.bus.publish(Address::Topic(&topic), vec![length as u8; length].into()).await.unwrap();
        a.bus.publish(Address::Node(b.bus.node()), vec![length as u8; length].into()).await.unwrap();
    }
    for length in lengths {
        for named in [true, false] {
            let Delivery::Message { topic: at, bytes, .. } = next(&mut inbox).await else { panic!("{length}: a loss") };
            assert_eq!((at.is_some(), bytes.len()), (named, length));
        }
    }
    let refused = a.bus.publish(Address::Everybody, vec![0; 4 << 20].into()).await;
    assert!(matches!(refused, Err(BackendError::Full(_))), "{refused:?}");
    assert_eq!(server.sql("SELECT count(*) FROM ds.mail"), "12", "the long ones, each once");
}

/// Nobody who appends waits for a lock that notifications take: two transactions that notify wait for each other's
/// commit, two appends do not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_do_not_notify() {
    let server = Server::start();
    let [a, _b] = nodes(&server, "").await;
    let functions = server.sql("SELECT string_agg(prosrc, ' ') FROM pg_proc WHERE pronamespace = 'ds'::regnamespace");
    assert!(functions.contains("INSERT INTO log") && !functions.to_lowercase().contains("notify"));
    let triggers = server.sql("SELECT count(*) FROM pg_trigger WHERE tgrelid = 'ds.log'::regclass");
    assert_eq!(triggers, "0");
    // A transaction that has notified and is slow to commit delays nobody's appends.
    let slow = std::thread::spawn({
        let port = server.port;
        move || {
            let mut client = std::process::Command::new("psql");
            client.args(["-h", "127.0.0.1", "-p", &port.to_string(), "-U", "postgres", "-q"]);
            client.args(["-c", "BEGIN; NOTIFY ds, 'x'; SELECT pg_sleep(1); COMMIT"]);
            client.stdout(std::process::Stdio::null()).status()
        }
    });
    let mut mark = Mark::birth(7);
    for count in 1..=20 {
        mark = append(&a, &StreamId::state("s"), mark, count).await;
    }
    drop(slow.join());
}

/// Transactions commit in another order than they begin, and many streams are in one statement: nobody waits for
/// another in a circle, and followers miss nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_of_the_same_streams_do_not_deadlock() {
    const STREAMS: u64 = 20;
    const ROUNDS: u64 = 20;
    let server = Server::start();
    let nodes = nodes(&server, "").await;
    let tags = Arc::new(AtomicU64::new(1));
    let mut tasks = Vec::new();
    for (n, node) in nodes.iter().enumerate() {
        for task in 0..STREAMS {
            // Both nodes create and append to the same streams, in opposite orders.
            let key = if n == 0 { task } else { STREAMS - 1 - task };
            let (node, stream, tags) = (node.clone(), StreamId::event(format!("s{key}")), Arc::clone(&tags));
            tasks.push(tokio::spawn(async move {
                let (mut at, entries) = (Mark::birth(7), [Bytes::from_static(b"entry")]);
                for _ in 0..ROUNDS {
                    let tag = Tag { node: 1, count: tags.fetch_add(1, Ordering::Relaxed) };
                    loop {
                        match node.log.append(Append::new(&stream, at, Rule::Behind, tag, &entries)).await.unwrap() {
                            Appended::At { mark, .. } => break at = mark,
                            Appended::Conflict { mark, .. } => at = mark,
                        }
                    }
                }
            }));
        }
    }
    for task in tasks {
        timeout(PATIENCE, task).await.expect("no circle of waiting").unwrap();
    }
    for key in 0..STREAMS {
        let stored = whole(&nodes[0], &StreamId::event(format!("s{key}"))).await.unwrap().unwrap();
        assert_eq!(stored.mark.position.seq, 2 * ROUNDS);
    }
    assert_eq!(server.sql("SELECT deadlocks FROM pg_stat_database WHERE datname = 'postgres'"), "0");
}

/// What has expired goes, whoever looks; heads of streams that have ended stay for a day.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_expired_is_removed() {
    let server = Server::start();
    let [a, _b] = nodes(&server, "").await;
    let entries = [Bytes::from_static(b"entry")];
    let brief = StreamId::state("brief");
    let append = Append::new(&brief, Mark::birth(7), Rule::Exactly, Tag { node: 1, count: 1 }, &entries);
    a.log.append(append.ttl(PAUSE)).await.unwrap();
    let ttl = Some(Duration::from_millis(1));
    a.kv.put("k", entries[0].clone(), datasole_server::backend::kv::Expected::Any, ttl).await.unwrap();
    a.kv.set_field("m", "f", Some(entries[0].clone()), ttl).await.unwrap();
    a.kv.lease("n", a.bus.node(), Duration::from_millis(1)).await.unwrap();
    sleep(PAUSE * 2).await;
    server.sql("SET search_path TO ds; SELECT sweep(10)");
    let counts = "SELECT (SELECT count(*) FROM ds.log), (SELECT count(*) FROM ds.value), (SELECT count(*) FROM ds.map),
        (SELECT count(*) FROM ds.field), (SELECT count(*) FROM ds.lease), (SELECT count(*) FROM ds.head)";
    assert_eq!(server.sql(counts), "0|0|0|0|0|1");
    server.sql("SET search_path TO ds; UPDATE head SET expires = now(); SELECT sweep(10)");
    assert_eq!(server.sql(counts), "0|0|0|0|0|0");
}
