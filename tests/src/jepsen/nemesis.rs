//! Faults, one after another, each over after a while.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{cluster::Cluster, record::Record};
use crate::{
    history::{Function, Kind},
    proxy::Weather,
    random::Random,
};

/// How long a replica is behind before it takes the place of the engine, at most; milliseconds.
const BEHIND: u64 = 1_500;

/// Draws faults.
pub(super) struct Nemesis {
    random: Random,
    record: Record,
    /// Faults are shorter in a short run.
    is_brief: bool,
}

impl Nemesis {
    pub(super) fn new(random: Random, record: Record, time: Duration) -> Self {
        Self { random, record, is_brief: time < Duration::from_secs(30) }
    }

    fn below(&mut self, count: usize) -> usize {
        self.random.below(count as u64) as usize
    }

    fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.random.below(to - from))
    }

    /// Makes faults until the time is over. Some are still there.
    pub(super) async fn run(&mut self, cluster: &mut Cluster, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            let pause = self.millis(200, 1_500);
            sleep(pause).await;
            self.fault(cluster).await;
            for number in 0..cluster.len() {
                // One that does not find its engine is started later.
                cluster.try_run(number);
            }
        }
    }

    async fn fault(&mut self, cluster: &mut Cluster) {
        let node = self.below(cluster.len());
        let long = if self.is_brief { Duration::from_secs(3) } else { Duration::from_secs(20) };
        match self.random.below(18) {
            0..3 if cluster.may_kill_nodes() => {
                self.record.count("nodes killed");
                cluster.kill(node);
                let pause = self.millis(0, 2_000);
                sleep(pause).await;
            }
            3..5 => self.stop(cluster, node, Duration::from_secs(1)).await,
            5 => self.stop(cluster, node, long).await,
            6..8 if cluster.engine.is_shared() => {
                self.record.count("engine killed");
                cluster.engine.kill();
                let pause = self.millis(0, 2_000);
                sleep(pause).await;
                cluster.engine.run();
            }
            8 if cluster.engine.is_shared() => {
                self.record.count("engine stopped");
                cluster.engine.signal("-STOP");
                let pause = self.millis(500, 4_000);
                sleep(pause).await;
                cluster.engine.signal("-CONT");
            }
            9..12 if cluster.engine.is_shared() => {
                let weather = self.weather();
                cluster.nodes[node].engine_side.set_weather(weather);
                let pause = self.millis(500, 4_000);
                sleep(pause).await;
                cluster.nodes[node].engine_side.set_weather(Weather::default());
            }
            12 if cluster.engine.is_shared() => {
                self.record.count("connections to the engine ended");
                cluster.nodes[node].engine_side.end_all();
            }
            16.. if cluster.engine.may_fail_over() => self.fail_over(cluster).await,
            13 => {
                self.record.count("connections to clients ended");
                cluster.nodes[node].client_side.end_all();
            }
            _ => {
                let weather = self.weather();
                cluster.nodes[node].client_side.set_weather(weather);
                let pause = self.millis(500, 4_000);
                sleep(pause).await;
                cluster.nodes[node].client_side.set_weather(Weather::default());
            }
        }
    }

    /// The engine's replica is behind for a while; then the engine is killed, and the replica takes its place.
    async fn fail_over(&mut self, cluster: &mut Cluster) {
        self.record.count("replicas promoted");
        cluster.engine.set_weather(Weather { down_is_closed: true, ..Weather::default() });
        let pause = self.millis(0, BEHIND);
        sleep(pause).await;
        cluster.fail_over();
        self.record.tell(0, 0, Kind::Ok, "", Function::Generation);
    }

    async fn stop(&mut self, cluster: &Cluster, node: usize, time: Duration) {
        self.record.count("nodes stopped");
        cluster.signal(node, "-STOP");
        sleep(time).await;
        cluster.signal(node, "-CONT");
    }

    /// One direction cut, or the other, or both, or everything late.
    fn weather(&mut self) -> Weather {
        let open = Weather::default();
        let (what, weather) = match self.random.below(4) {
            0 => ("cut in one direction", Weather { up_is_closed: true, ..open }),
            1 => ("cut in one direction", Weather { down_is_closed: true, ..open }),
            2 => ("cut in both directions", Weather { up_is_closed: true, down_is_closed: true, ..open }),
            _ => ("delayed", Weather { delay: Duration::from_millis(50), ..open }),
        };
        self.record.count(what);
        weather
    }
}
