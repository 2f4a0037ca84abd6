//! Connections in the world: how they begin and break, and what travels on them.

use datasole_core::{Input, SocketClose};
use datasole_server::{Identity, Protocol};

use super::{LONGEST, What, World, close};
use crate::sim::{
    link::{is_entry, items},
    site::{self, KEYS, TOPICS},
};

impl World {
    pub(super) fn reach(&mut self, id: usize) {
        let fate = if self.faulty { self.random.below(20) } else { 20 };
        let refused =
            |code, status| SocketClose { code, http_status: status, by_datasole: true, ..SocketClose::default() };
        let answer = match fate {
            0 => return,
            1 => Some(refused(None, Some(401))),
            2 => Some(refused(None, Some(503))),
            3 => Some(refused(Some(1006), None)),
            _ if !self.site.up => Some(refused(Some(1006), None)),
            _ => None,
        };
        let link = &mut self.links[id];
        let at = link.down(self.now, &mut self.random);
        match answer {
            Some(close) => self.plan(at, What::Lost(id, close)),
            None => {
                self.stats.count("connections");
                let identity = Identity::user(self.actors[link.client].name.as_str());
                link.peer = Some(self.site.server.peer(link.protocol, identity));
                link.memory = self.site.memory();
                self.plan(at, What::Opened(id));
                self.flush();
            }
        }
    }

    /// Takes from the server what it has for clients that read.
    pub(super) fn flush(&mut self) {
        for id in 0..self.links.len() {
            if !self.links[id].stalled {
                self.drain(id, usize::MAX);
            }
        }
    }

    /// Takes up to so many messages; the bytes.
    pub(super) fn drain(&mut self, id: usize, most: usize) -> usize {
        let mut bytes = 0;
        for _ in 0..most {
            let link = &mut self.links[id];
            let Some(peer) = &mut link.peer else { break };
            let Some(message) = peer.poll_message() else {
                if let Some((code, _)) = peer.closing() {
                    self.trace.close(self.now, id, code);
                    if code == 4001 {
                        self.stats.count("fell behind");
                    }
                    let at = link.down(self.now, &mut self.random);
                    let deaf = link.deaf_down;
                    link.peer = None;
                    if !deaf {
                        self.plan(at, What::Lost(id, close(code)));
                    }
                }
                break;
            };
            bytes += message.len();
            let items = items(&mut self.codec, &message);
            if items.len() > 1 {
                self.stats.count("batches of the server");
            }
            for item in items {
                self.trace.message(self.now, id, &mut self.codec, &item);
            }
            let times =
                if self.leaky && self.faulty && link.protocol == Protocol::V2 && is_entry(&mut self.codec, &message) {
                    match self.random.below(16) {
                        0 => 0,
                        1 => 2,
                        _ => 1,
                    }
                } else {
                    1
                };
            if times != 1 {
                self.stats.count("leaked");
            }
            for _ in 0..times {
                let at = link.down(self.now, &mut self.random);
                self.order += 1;
                self.agenda.insert((at, self.order), What::Down(id, message.clone()));
            }
        }
        bytes
    }

    pub(super) fn arrive(&mut self, id: usize, message: &[u8]) {
        let link = &mut self.links[id];
        if link.deaf_down {
            return;
        }
        let (client, socket) = (link.client, link.socket);
        let patience = self.actors[client].patience;
        let items = items(&mut self.codec, message);
        for item in &items {
            link.tap.received(self.now, &mut self.codec, item, patience, &mut self.stats);
        }
        if items.len() > 1 {
            link.tap.begin_batch(items);
        }
        let burnt = link.fuse == Some(0);
        link.fuse = link.fuse.and_then(|left| left.checked_sub(1));
        self.input(client, Input::Message { socket, bytes: message });
        self.links[id].tap.end_batch(self.now, patience, &mut self.stats);
        if burnt && self.faulty {
            self.cut(id);
        }
    }

    pub(super) fn resume(&mut self, id: usize) {
        let bytes = self.drain(id, usize::MAX);
        let streams = KEYS.len() + 1 + site::streams().len();
        let bound = self.max_queue + streams * LONGEST + TOPICS.len() * 20_000;
        assert!(bytes <= bound, "{bytes} bytes waited for a client that did not read");
        let link = &mut self.links[id];
        link.stalled = false;
        for message in std::mem::take(&mut link.held) {
            self.deliver(id, &message);
            self.drain(id, usize::MAX);
        }
        self.flush();
    }

    /// The connection breaks: what was under way may be lost, and either end may learn of it late or never.
    pub(super) fn cut(&mut self, id: usize) {
        let (soon, later) = (self.random.below(500), self.random.below(20_000));
        let (client, server, silent) = match self.random.below(4) {
            0 => (soon, soon / 2, false),
            1 => (soon, later, false),
            2 => (soon, later, true),
            _ => (soon, soon, true),
        };
        let link = &mut self.links[id];
        link.deaf_up |= self.random.coin();
        link.deaf_down |= silent || self.random.coin();
        self.stats.count(if silent { "half open" } else { "cut" });
        if !silent {
            self.plan(self.now + client, What::Lost(id, close(1006)));
        }
        self.plan(self.now + server, What::Gone(id));
    }

    /// Some connection that the server has.
    pub(super) fn some_link(&mut self) -> Option<usize> {
        let live: Vec<usize> = (0..self.links.len()).filter(|&id| self.links[id].peer.is_some()).collect();
        if live.is_empty() { None } else { Some(live[self.random.below(live.len() as u64) as usize]) }
    }
}
