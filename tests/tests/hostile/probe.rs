//! What an honest client notices of an attack: the time of its calls.

use std::{
    future::pending,
    hint::spin_loop,
    net::SocketAddr,
    sync::{Arc, Weak},
    time::Duration,
};

use datasole_server::{Context, RpcError};
use datasole_tests::{peer::Peer, running::Running};
use serde_json::Value;
use tokio::{
    runtime,
    task::{spawn_blocking, yield_now},
    time::{Instant, sleep},
};

use super::serve;

const CALLS: u32 = 100;
const PACE: Duration = Duration::from_millis(5);
/// Calls that take longer than this altogether are as many as have been made.
const LONGEST: Duration = Duration::from_secs(3);
/// Below this nobody notices anything.
const UNNOTICED: Duration = Duration::from_millis(60);
/// How many times as long as on a machine that is as busy, without the attack, a call may take.
const TIMES: u32 = 2;
const TRIES: usize = 3;

/// The 99th percentile of paced calls.
async fn p99(address: SocketAddr) -> Duration {
    let mut peer = Peer::v2(address).await;
    let (mut times, begun) = (Vec::new(), Instant::now());
    for id in 1..=CALLS {
        let started = Instant::now();
        assert_eq!(peer.call(id, "add", "[1, 2]").await["result"], 3);
        times.push(started.elapsed());
        if begun.elapsed() > LONGEST {
            break;
        }
        sleep(PACE).await;
    }
    times.sort();
    times[(times.len() * 99 / 100).saturating_sub(1)]
}

/// Runs what is no part of the server on a thread of its own, as if it were another process.
async fn elsewhere<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    spawn_blocking(|| runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work))
        .await
        .unwrap()
}

/// The same without an attack, while two threads keep the machine as busy as the attackers and the work they make do.
async fn without(running: &Running) -> Duration {
    let measured = Arc::new(());
    for _ in 0..2 {
        let measured: Weak<()> = Arc::downgrade(&measured);
        spawn_blocking(move || {
            while measured.strong_count() > 0 {
                spin_loop();
            }
        });
    }
    elsewhere(p99(running.address)).await
}

/// The same during the attack of two.
async fn during<A: Future<Output = ()> + Send + 'static>(running: &Running, attack: &impl Fn() -> A) -> Duration {
    let (first, second, measured) = (attack(), attack(), p99(running.address));
    elsewhere(async move {
        let attackers = [tokio::spawn(first), tokio::spawn(second)];
        let during = elsewhere(measured).await;
        assert!(attackers.iter().all(|attacker| !attacker.is_finished()), "they attack to the end");
        during
    })
    .await
}

/// Measures between two measurements without the attack: what an honest client notices, as (before, during, after).
async fn noticed<A: Future<Output = ()> + Send + 'static>(
    running: &Running,
    attack: &impl Fn() -> A,
) -> Option<[Duration; 3]> {
    let before = without(running).await;
    let others = running.server.connection_count();
    let during = during(running, attack).await;
    if during <= UNNOTICED {
        return None;
    }
    while running.server.connection_count() > others {
        yield_now().await;
    }
    let after = without(running).await;
    println!("before, during, after: {before:?}, {during:?}, {after:?}");
    Some([before, during, after]).filter(|_| during > before.max(after) * TIMES)
}

/// Measures with and without the attack of two, which runs until it is dropped. A noisy machine gets some tries.
pub(crate) async fn assert_unnoticed<A: Future<Output = ()> + Send + 'static>(
    running: &Running,
    attack: impl Fn() -> A,
) {
    let mut worst = Vec::new();
    for _ in 0..TRIES {
        let Some(times) = noticed(running, &attack).await else { return };
        worst.push(times);
    }
    panic!("an honest client notices: (before, during, after) {worst:?}");
}

/// A method that keeps the server's only thread is noticed, on a busy machine, too; one that waits is not.
#[tokio::test]
async fn what_holds_up_others_is_noticed() {
    let running = serve(|builder| {
        let builder = builder.rpc("hold", |_: Context, (): ()| async {
            std::thread::sleep(Duration::from_millis(500));
            Ok::<_, RpcError>(())
        });
        builder.rpc("wait", |_: Context, _: Value| async {
            sleep(Duration::from_millis(500)).await;
            Ok::<_, RpcError>(())
        })
    })
    .await;
    let address = running.address;
    let calls = |method: &'static str| {
        move || async move {
            let mut peer = Peer::v2(address).await;
            for id in 1.. {
                peer.call(id, method, "null").await;
            }
            pending().await
        }
    };
    assert!(noticed(&running, &calls("hold")).await.is_some());
    assert_unnoticed(&running, calls("wait")).await;
}
