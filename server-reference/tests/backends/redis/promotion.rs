//! A replica takes the place of a master that was killed: what it had not got is lost, and nobody goes on as if it were
//! there.

use datasole_core::StreamId;
use datasole_server::backend::log::{Append, Appended, Mark, Rule, Tag};
use tokio::time::{Instant, sleep};

use super::{PATIENCE, PROGRAM, arguments, connect, faults::read};
use crate::{
    late::Late,
    running::Running,
    writers::{PAUSE, append, generation, until_it_answers, whole},
};

/// How far a server has written, or has had what another wrote.
fn offset(server: &Running, name: &str) -> Option<u64> {
    read(server.port, "INFO replication")
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse().ok())
}

async fn until_it_has_all(master: &Running, replica: &Running) {
    let deadline = Instant::now() + PATIENCE;
    while !read(replica.port, "INFO replication").contains("master_link_status:up")
        || offset(replica, "slave_repl_offset") != offset(master, "master_repl_offset")
    {
        assert!(Instant::now() < deadline, "the replica follows");
        sleep(PAUSE).await;
    }
}

/// `acknowledged` entries of which the replica gets only those before the cut; with `?durable=yes` nothing may be cut.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_replica_had_not_got_is_lost_and_every_life_begins_anew() {
    for (durable, cut) in [("no", 2), ("no", 0), ("yes", 0)] {
        let mut master = Running::start(PROGRAM, arguments);
        drop(connect(&format!("redis://127.0.0.1:{}", master.port)).await);
        let replication = Late::start(master.port).await;
        let replica = Running::start(PROGRAM, |port, dir| {
            let mut arguments = arguments(port, dir);
            arguments.extend(["--replicaof", "127.0.0.1", &replication.port.to_string()].map(str::to_owned));
            arguments
        });
        until_it_listens(&replica).await;
        let front = Late::start(master.port).await;
        let redis = connect(&format!("redis://127.0.0.1:{}?durable={durable}", front.port)).await;
        let (a, b) = (redis.node().await.unwrap(), redis.node().await.unwrap());
        let stream = StreamId::state("s");
        let mut kept = Mark::birth(7);
        for count in 1..=3 {
            kept = append(&a, &stream, kept, count).await;
        }
        until_it_has_all(&master, &replica).await;
        replication.hold();
        let mut last = kept;
        for count in 4..4 + cut {
            last = append(&b, &stream, last, count).await;
        }
        let mut news = [a.log.news().unwrap(), b.log.news().unwrap()];
        master.stop();
        assert_eq!(read(replica.port, "REPLICAOF NO ONE").trim(), "OK");
        front.to(replica.port);
        for node in [&a, &b] {
            until_it_answers(node).await;
        }
        let stored = whole(&b, &stream).await.unwrap().unwrap();
        assert_eq!((stored.entries.len(), stored.mark.position.seq, stored.mark.tag), (3, 3, kept.tag), "cut {cut}");
        if durable == "yes" {
            assert_eq!(stored.mark, kept, "the same life: nothing was lost, as was declared");
        } else {
            let [ours, theirs] = &mut news;
            let begun = generation(ours).await;
            assert_eq!(begun, generation(theirs).await, "one generation for both");
            assert!(begun > last.position.epoch && stored.mark.position.epoch >= begun, "in a new life");
            let entries = [bytes::Bytes::from_static(b"after what was lost")];
            let behind = Append::new(&stream, last, Rule::Behind, Tag { node: 2, count: 1 }, &entries);
            let refused = a.log.append(behind).await;
            assert!(matches!(refused, Ok(Appended::Conflict { mark, .. }) if mark == stored.mark), "{refused:?}");
        }
        let next = append(&a, &stream, stored.mark, 10).await;
        assert_eq!(whole(&b, &stream).await.unwrap().unwrap().mark, next, "both go on");
    }
}

async fn until_it_listens(replica: &Running) {
    let deadline = Instant::now() + PATIENCE;
    while !read(replica.port, "PING").contains("PONG") {
        assert!(Instant::now() < deadline, "the replica answers");
        sleep(PAUSE).await;
    }
}
