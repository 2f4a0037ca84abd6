//! Two servers on one Redis, also across its faults.

use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{PATIENCE, PROGRAM, arguments, connect, pause};
use crate::{
    clients::{self, Client, server, set},
    running::Running,
};

const PAUSE: std::time::Duration = std::time::Duration::from_millis(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_are_one() {
    let engine = Running::start(PROGRAM, arguments);
    let redis = connect(&format!("redis://127.0.0.1:{}/?prefix=app", engine.port)).await;
    clients::two_servers_are_one(async || redis.node().await.unwrap()).await;
    let redis = connect(&format!("redis://127.0.0.1:{}/?prefix=other", engine.port)).await;
    clients::members_and_cursors_are_shown_on_the_other_server(async || redis.node().await.unwrap()).await;
}

/// Killed and started again, with its file and without one; stopped for longer than anybody waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_survive_their_engine() {
    for keeps in [true, false] {
        let with = |port, dir: &std::path::Path| {
            let mut arguments = arguments(port, dir);
            if !keeps {
                arguments[5] = "no".to_owned();
            }
            arguments
        };
        let mut engine = Running::start(PROGRAM, with);
        let redis = connect(&format!("redis://127.0.0.1:{}", engine.port)).await;
        let (a, b) = (server(redis.node().await.unwrap()), server(redis.node().await.unwrap()));
        let mut ann = Client::new(&b, "ann");
        set(&a, &json!("before")).await;
        ann.follow("state", "k", None).await;
        engine.kill_and_start(PROGRAM, with);
        if keeps {
            connect(&format!("redis://127.0.0.1:{}", engine.port)).await;
            let deadline = Instant::now() + PATIENCE;
            while b.state().get("k").await.ok().flatten() != Some(json!("before")) {
                assert!(Instant::now() < deadline, "what was acknowledged is there");
                sleep(PAUSE).await;
            }
        }
        set(&a, &json!("after")).await;
        ann.holds("after").await;
        assert_eq!(ann.peer.closing(), None, "clients are not disconnected");

        let began = Instant::now();
        let stopped = pause(&engine);
        let refused = a.state().set("k", &json!("stopped")).await;
        let waited = began.elapsed();
        assert!(refused.is_err() && waited < PATIENCE / 3, "a change fails in time: {refused:?} after {waited:?}");
        assert_eq!(b.state().get("k").await.unwrap(), Some(json!("after")), "what is in memory is read on");
        drop(stopped);
        set(&b, &json!("resumed")).await;
        ann.holds("resumed").await;
        let deadline = Instant::now() + PATIENCE;
        while a.state().get("k").await.unwrap() != Some(json!("resumed")) {
            assert!(Instant::now() < deadline, "both servers agree");
            sleep(PAUSE).await;
        }
    }
}
