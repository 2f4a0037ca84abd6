//! What an honest client notices of an attack: the time of its calls.

use std::time::Duration;

use datasole_tests::{peer::Peer, running::Running};
use tokio::time::{Instant, sleep};

const CALLS: u32 = 100;
const PACE: Duration = Duration::from_millis(5);
/// Below this nobody notices anything.
const UNNOTICED: Duration = Duration::from_millis(60);

/// The 99th percentile of paced calls.
async fn p99(peer: &mut Peer) -> Duration {
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

/// Measures with and without the attack, which runs until it is dropped. A noisy machine gets three tries.
pub(crate) async fn assert_unnoticed<A: Future<Output = ()> + Send + 'static>(
    running: &Running,
    attack: impl Fn() -> A,
) {
    let mut worst = Vec::new();
    for _ in 0..3 {
        let mut peer = Peer::v2(running.address).await;
        let own = p99(&mut peer).await;
        let attackers = [tokio::spawn(attack()), tokio::spawn(attack())];
        let during = p99(&mut peer).await;
        assert!(attackers.iter().all(|attacker| !attacker.is_finished()), "they attack to the end");
        attackers.iter().for_each(tokio::task::JoinHandle::abort);
        if during <= UNNOTICED.max(own * 2) {
            return;
        }
        worst.push((own, during));
    }
    panic!("an honest client notices: (before, during) {worst:?}");
}
