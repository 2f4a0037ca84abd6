//! What clients and servers hold at the end of a run, told to the history that is judged.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Node, WORLD, World};
use crate::{
    history::{Function, How, Id, Kind, Placed},
    nodes::{
        client::{STREAMS, id_of},
        notes,
        rooms::LOBBY,
    },
};

impl World {
    pub(super) async fn compare(&mut self) {
        for (stream, name) in STREAMS.iter().enumerate() {
            let at = self.spy.at(stream);
            for client in &self.clients {
                if name.0 == "doc" {
                    let entries = self.placed(stream, client.notes());
                    self.record.tell(client.process, client.node, Kind::Ok, name.1, Function::ReadFinal { entries });
                } else {
                    assert_eq!(client.standing(stream), Some(at.position), "a client of {name:?} is behind");
                }
            }
            for node in 0..self.nodes.len() {
                let entries = self.read(node, stream).await;
                let number = self.nodes[node].number;
                self.record.tell(WORLD, number, Kind::Ok, name.1, Function::ReadFinal { entries });
            }
        }
        for client in &self.clients {
            client.look(&self.record);
        }
        for node in 0..self.nodes.len() {
            let Node { server, number, .. } = &self.nodes[node];
            let (server, number) = (server.clone(), *number);
            let list = self.answer(async move { server.presence(LOBBY).list().await }).await;
            let ids = list.into_iter().map(|member| Id(member.value.as_u64().unwrap())).collect();
            self.record.tell(WORLD, number, Kind::Ok, LOBBY, Function::Members { ids });
        }
    }

    /// What a server answers, which may ask the engine.
    async fn answer<T: Send + 'static>(&mut self, asking: impl Future<Output = T> + Send + 'static) -> T {
        let mut asking = tokio::spawn(asking);
        loop {
            if asking.is_finished() {
                return (&mut asking).await.unwrap();
            }
            self.chaos.step();
            self.breathe().await;
        }
    }

    /// A set of writes in the order of the log.
    fn placed(&self, stream: usize, set: BTreeSet<u64>) -> Vec<Placed> {
        let known: Vec<u64> = self.spy.writes(stream).iter().copied().filter(|id| set.contains(id)).collect();
        assert_eq!(known.len(), set.len(), "elements that nobody has stored");
        known.into_iter().map(|id| Placed { id: Id(id), mark: None }).collect()
    }

    /// What a server says a stream holds; topics are read from the log.
    async fn read(&mut self, node: usize, stream: usize) -> Vec<Placed> {
        let (kind, key, how) = STREAMS[stream];
        let server = self.nodes[node].server.clone();
        let reading = async move {
            match kind {
                "state" => server.state().get(key).await.unwrap().unwrap(),
                "crdt" => json!(server.crdt().set(key).values::<Value>().await.unwrap()),
                "doc" => json!(server.docs().read(key, |read| notes::writes(read)).await.unwrap()),
                _ => Value::Null,
            }
        };
        let value = self.answer(reading).await;
        let there = value.as_array().map(|list| list.iter().map(id_of).collect::<Vec<_>>());
        let ids = match (how, there) {
            (How::Append, Some(list)) => list,
            (_, Some(set)) => return self.placed(stream, set.into_iter().collect()),
            (_, None) => self.spy.writes(stream).to_vec(),
        };
        ids.into_iter().map(|id| Placed { id: Id(id), mark: None }).collect()
    }
}
