//! What an honest client notices of an attack: the time of its calls.

use std::{net::SocketAddr, time::Duration};

use datasole_tests::{peer::Peer, running::Running};
use tokio::{
    runtime,
    task::spawn_blocking,
    time::{Instant, sleep},
};

const CALLS: u32 = 100;
const PACE: Duration = Duration::from_millis(5);
/// Below this nobody notices anything.
const UNNOTICED: Duration = Duration::from_millis(60);

/// The 99th percentile of paced calls.
async fn p99(address: SocketAddr) -> Duration {
    let mut peer = Peer::v2(address).await;
    let mut times = Vec::new();
    for id in 1..=CALLS {
        let started = Instant::now();
        assert_eq!(peer.call(id, "add", "[1, 2]").await["result"], 3);
        times.push(started.elapsed());
        sleep(PACE).await;
    }
    times.sort();
    times[times.len() * 99 / 100 - 1]
}

/// Runs what is no part of the server on a thread of its own, as if it were another process.
async fn elsewhere<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    spawn_blocking(|| runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work))
        .await
        .unwrap()
}

/// Measures with and without the attack of two, which runs until it is dropped. A noisy machine gets three tries.
pub(crate) async fn assert_unnoticed<A: Future<Output = ()> + Send + 'static>(
    running: &Running,
    attack: impl Fn() -> A,
) {
    let mut worst = Vec::new();
    for _ in 0..3 {
        let own = elsewhere(p99(running.address)).await;
        let (first, second, measured) = (attack(), attack(), p99(running.address));
        let during = elsewhere(async move {
            let attackers = [tokio::spawn(first), tokio::spawn(second)];
            let during = elsewhere(measured).await;
            assert!(attackers.iter().all(|attacker| !attacker.is_finished()), "they attack to the end");
            during
        })
        .await;
        if during <= UNNOTICED.max(own * 2) {
            return;
        }
        worst.push((own, during));
    }
    panic!("an honest client notices: (before, during) {worst:?}");
}
