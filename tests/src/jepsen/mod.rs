//! Runs against real engines and real processes under faults: three nodes on one engine, clients that change node, and a
//! nemesis that kills, stops, cuts off and delays. All that was seen is a [`History`], which the checker judges.
//!
//! A kill shows no failure of a machine: the page cache survives it. So nothing acknowledged may be lost here, but what a
//! replica had not got that was promoted.

mod client;
mod cluster;
mod engine;
mod nemesis;
mod postgres;
mod record;
mod replica;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use tokio::{sync::watch, time::sleep};

pub use self::engine::Kind as Engine;
use self::{client::Client, cluster::Cluster, nemesis::Nemesis, record::Record};
use crate::{
    history::{Function, History, How, Id, Kind, Placed},
    random::Random,
};

/// The states that clients write to. Few, so that nodes contend.
const KEYS: usize = 6;

fn key(number: usize) -> String {
    format!("list {number}")
}

/// What is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The engine.
    pub engine: Engine,
    /// How long faults and writes go on.
    pub time: Duration,
    /// Clients that write, and follow every state.
    pub clients: u32,
    /// From which everything is drawn. Processes and the machine's timing are not, so that a seed repeats only about.
    pub seed: u64,
    /// The program of a node.
    pub node: PathBuf,
    /// The NATS server, if it is not on the path.
    pub nats: Option<PathBuf>,
}

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    /// What happened.
    pub history: History,
    /// How often.
    pub counts: BTreeMap<&'static str, u64>,
}

/// Runs once.
///
/// # Panics
///
/// If a program cannot be started, or the cluster does not come to rest.
pub async fn run(options: &Options) -> Outcome {
    let mut random = Random::new(options.seed);
    let record = Record::default();
    let mut cluster = Cluster::start(options).await;
    // A stream without entries has no life yet that nodes could agree on.
    for number in 0..KEYS {
        loop {
            let id = record.next();
            let write = |mark| Function::Write { how: How::Append, id: Id(id), mark };
            record.tell(0, 0, Kind::Invoke, &key(number), write(None));
            let mark = cluster.write(0, &key(number), id).await;
            let kind = if mark.is_some() { Kind::Ok } else { Kind::Info };
            record.tell(0, 0, kind, &key(number), write(mark));
            if mark.is_some() {
                break;
            }
            // It has ended at a failpoint.
            cluster.run(0).await;
        }
    }
    let addresses: Arc<[_]> = cluster.addresses().into();
    let (stop, stopping) = watch::channel(false);
    let clients: Vec<_> = (1..=options.clients)
        .map(|process| {
            let client = Client::new(process, Arc::clone(&addresses), Random::new(random.u64()), record.clone());
            if process % 5 == 0 {
                tokio::spawn(client.run_native(stopping.clone()))
            } else {
                tokio::spawn(client.run(stopping.clone(), options.clients))
            }
        })
        .collect();
    let mut nemesis = Nemesis::new(Random::new(random.u64()), record.clone(), options.time);
    nemesis.run(&mut cluster, options.time).await;
    cluster.heal(&record).await;
    (0..cluster.ended).for_each(|_| record.count("nodes ended at failpoints"));
    stop.send_replace(true);
    for client in clients {
        client.await.expect("a client ends");
    }
    final_reads(&cluster, &record).await;
    let (history, counts) = record.end();
    Outcome { history, counts }
}

/// Reads every state through every node, until all nodes agree or a minute has passed: the checker tells which do not.
async fn final_reads(cluster: &Cluster, record: &Record) {
    const ROUNDS: u32 = 120;
    for round in 1..=ROUNDS {
        let mut reads = Vec::new();
        for number in 0..KEYS {
            for node in 0..cluster.len() {
                reads.push((number, node, cluster.read(node, &key(number)).await));
            }
        }
        let agree = reads.chunks(cluster.len()).all(|reads| {
            let mut values = reads.iter().map(|(.., ids)| ids.as_ref());
            let first = values.next().flatten();
            first.is_some() && values.all(|ids| ids == first)
        });
        if agree || round == ROUNDS {
            for (number, node, ids) in reads {
                let ids = ids.expect("every node answers in the end");
                let entries = ids.into_iter().map(|id| Placed { id: Id(id), mark: None }).collect();
                record.tell(0, node, Kind::Ok, &key(number), Function::ReadFinal { entries });
            }
            return;
        }
        sleep(Duration::from_millis(500)).await;
    }
}
