//! A standby takes the place of a server that was killed: what an asynchronous one had not got is lost, and nobody goes
//! on as if it were there.

use bytes::Bytes;
use datasole_core::StreamId;
use datasole_server::backend::log::{Append, Appended, Mark, Rule, Tag};
use tokio::time::{Instant, sleep};

use super::{connect, server::Server};
use crate::{
    late::Late,
    writers::{PATIENCE, PAUSE, append, generation, until_it_answers, whole},
};

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        sleep(PAUSE).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_standby_had_not_got_is_lost_and_every_life_begins_anew() {
    for (options, is_synchronous) in [("", false), ("durable=yes", true)] {
        let mut first = Server::with(&["synchronous_commit=on"]);
        let replication = Late::start(first.port).await;
        let standby = first.standby(replication.port);
        let front = Late::start(first.port).await;
        if is_synchronous {
            first.sql("ALTER SYSTEM SET synchronous_standby_names = '*'");
            first.sql("SELECT pg_reload_conf()");
        }
        let url = format!("postgres://postgres@127.0.0.1:{}/postgres?{options}", front.port);
        let postgres = connect(&url).await;
        let (a, b) = (postgres.node().await.unwrap(), postgres.node().await.unwrap());
        let stream = StreamId::state("s");
        let mut kept = Mark::birth(7);
        for count in 1..=3 {
            kept = append(&a, &stream, kept, count).await;
        }
        let mut last = kept;
        if !is_synchronous {
            let written = first.sql("SELECT pg_current_wal_lsn()");
            let has_all = format!("SELECT pg_last_wal_replay_lsn() >= '{written}'");
            until("the standby has all", || standby.sql(&has_all) == "t").await;
            replication.hold();
            for count in 4..6 {
                last = append(&b, &stream, last, count).await;
            }
        }
        let mut news = [a.log.news().unwrap(), b.log.news().unwrap()];
        first.kill();
        assert_eq!(standby.sql("SELECT pg_promote()"), "t");
        front.to(standby.port);
        for node in [&a, &b] {
            until_it_answers(node).await;
        }
        let stored = whole(&b, &stream).await.unwrap().unwrap();
        assert_eq!((stored.entries.len(), stored.mark.position.seq, stored.mark.tag), (3, 3, kept.tag), "{options}");
        if is_synchronous {
            assert_eq!(stored.mark, kept, "the same life: nothing was lost, as was declared");
        } else {
            let [ours, theirs] = &mut news;
            let begun = generation(ours).await;
            assert_eq!(begun, generation(theirs).await, "one generation for both");
            assert!(begun > last.position.epoch && stored.mark.position.epoch >= begun, "in a new life");
            let entries = [Bytes::from_static(b"after what was lost")];
            let behind = Append::new(&stream, last, Rule::Behind, Tag { node: 2, count: 1 }, &entries);
            let refused = a.log.append(behind).await;
            assert!(matches!(refused, Ok(Appended::Conflict { mark, .. }) if mark == stored.mark), "{refused:?}");
        }
        standby.sql("ALTER SYSTEM RESET synchronous_standby_names");
        standby.sql("SELECT pg_reload_conf()");
        let next = append(&a, &stream, stored.mark, 10).await;
        assert_eq!(whole(&b, &stream).await.unwrap().unwrap().mark, next, "both go on");
    }
}
