//! What users, the application and bad luck do.

use datasole_core::Input;
use futures_util::FutureExt;

use super::{What, World, close};
use crate::sim::site::TOPICS;

impl World {
    pub(super) fn act(&mut self) {
        let index = self.random.below(self.actors.len() as u64) as usize;
        match self.random.below(100) {
            0..=19 => {
                self.nonce += 1;
                self.actors[index].act(self.now, self.nonce, &mut self.random);
                self.settle(index);
            }
            20..=41 => {
                self.nonce += 1;
                self.actors[index].act_on_streams(self.now, self.nonce, &mut self.random);
                self.settle(index);
            }
            42..=59 => {
                for _ in 0..self.random.magnitude(4) {
                    self.site.change(&mut self.random);
                }
            }
            60..=79 => {
                for _ in 0..self.random.magnitude(4) {
                    let topic = TOPICS[self.random.below(2) as usize];
                    // Short enough to go out plain: the timestamp's digits must not change how long a frame is.
                    let filling = self.random.below(100) as usize;
                    self.site.publish(topic, filling);
                }
            }
            80..=83 => {
                self.nonce += 1;
                let nonce = self.nonce;
                let user = self.actors[index].name.clone();
                let sent = self.site.server.to_user(&user).emit("note", &nonce).now_or_never();
                assert!(matches!(sent, Some(Ok(()))), "one server has nobody to wait for: {sent:?}");
            }
            84..=87 => self.site.answer_one(&mut self.random),
            _ => self.fault(index),
        }
        self.flush();
    }

    fn fault(&mut self, index: usize) {
        match self.random.below(15) {
            0..=2 => {
                if let Some(id) = self.some_link() {
                    self.cut(id);
                }
            }
            3..=6 => {
                if let Some(id) = self.some_link()
                    && !self.links[id].stalled
                {
                    self.links[id].stalled = true;
                    let pause = self.random.below(8_000);
                    self.plan(self.now + pause, What::Resume(id));
                }
            }
            7 | 8 => {
                if let Some(id) = self.some_link() {
                    let most = 1 + self.random.below(3) as usize;
                    self.drain(id, most);
                }
            }
            9 => {
                if let Some(id) = self.some_link()
                    && let Some(peer) = &self.links[id].peer
                {
                    let codes = [1_000, 1_008, 1_011, 1_013, 4_000, 4_001, 4_002, 4_003];
                    let code = codes[self.random.below(8) as usize];
                    let id = peer.connection_id();
                    assert!(self.site.server.disconnect(&id, code, "because").now_or_never().is_some());
                }
            }
            10 if self.random.below(3) == 0 => {
                let keeps = self.random.coin();
                self.restart(keeps);
            }
            12 | 13 => self.change_rule(index),
            11 if self.clocks_jump => {
                let far = self.random.below(5 * 3_600_000) as i64;
                let by = if self.random.coin() { far } else { -far };
                self.stats.count("jumps");
                self.actors[index].jump(by);
                if self.random.coin() {
                    self.input(index, Input::Timeout);
                }
            }
            14 => {
                let failing = self.random.coin();
                self.site.archive().fail(failing);
            }
            _ => self.actors[index].heal(self.now),
        }
        self.settle(index);
    }

    pub(super) fn restart(&mut self, keeps: bool) {
        self.stats.count(if keeps { "restarts that kept" } else { "restarts" });
        for id in 0..self.links.len() {
            let link = &mut self.links[id];
            if link.peer.take().is_none() {
                continue;
            }
            let at = link.down(self.now, &mut self.random);
            let codes = [Some(1001), Some(1006), Some(1012), None];
            match codes[self.random.below(4) as usize] {
                Some(code) => self.plan(at, What::Lost(id, close(code))),
                None => self.links[id].deaf_down = true,
            }
        }
        assert_eq!(self.site.server.connection_count(), 0, "every connection has ended");
        self.site.restart(keeps, &mut self.random);
        self.site.up = false;
        let pause = self.random.below(3_000);
        self.plan(self.now + pause, What::Start);
    }
}
