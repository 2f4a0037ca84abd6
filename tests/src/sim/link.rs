//! One connection between a client's host and the server: delays in both directions, and the ways to fail.

use datasole_core::{
    Limits, SocketId,
    frame::{Codec, Opcode},
};
use datasole_server::{Peer, Protocol};

use super::tap::Tap;
use crate::random::Random;

pub(super) struct Link {
    pub(super) client: usize,
    pub(super) socket: SocketId,
    pub(super) protocol: Protocol,
    /// The server's end, while there is one.
    pub(super) peer: Option<Peer>,
    /// Nothing more arrives at the server.
    pub(super) deaf_up: bool,
    /// Nothing more arrives at the client.
    pub(super) deaf_down: bool,
    /// The client does not read.
    pub(super) stalled: bool,
    /// What arrived while the server did not read.
    pub(super) held: Vec<Vec<u8>>,
    /// What goes to open streams.
    pub(super) tap: Tap,
    /// Which memory the server has.
    pub(super) memory: usize,
    /// Cut when so many messages have arrived at the client.
    pub(super) fuse: Option<u64>,
    latency: u64,
    jitter: u64,
    last_up: u64,
    last_down: u64,
}

impl Link {
    pub(super) fn new(client: usize, socket: SocketId, protocol: Protocol, random: &mut Random, faulty: bool) -> Self {
        let fuse = (faulty && random.below(3) == 0).then(|| random.below(10));
        let latency = random.magnitude(if faulty { 10 } else { 6 });
        let jitter = random.magnitude(6);
        Self {
            client,
            socket,
            protocol,
            peer: None,
            deaf_up: false,
            deaf_down: false,
            stalled: false,
            held: Vec::new(),
            tap: Tap::default(),
            memory: 0,
            fuse,
            latency,
            jitter,
            last_up: 0,
            last_down: 0,
        }
    }

    /// How long something takes that waits for nothing before it.
    pub(super) fn delay(&self, random: &mut Random) -> u64 {
        self.latency + random.below(self.jitter)
    }

    /// When what the client sends at `now` arrives: in order.
    pub(super) fn up(&mut self, now: u64, random: &mut Random) -> u64 {
        self.last_up = self.last_up.max(now + self.delay(random));
        self.last_up
    }

    /// When what the server sends at `now` arrives: in order.
    pub(super) fn down(&mut self, now: u64, random: &mut Random) -> u64 {
        self.last_down = self.last_down.max(now + self.delay(random));
        self.last_down
    }
}

/// Whether a message is an entry of a stream, which a version 2 client can miss and will notice; no snapshot, whose loss
/// is noticed with the next entry only.
pub(super) fn is_entry(codec: &mut Codec, message: &[u8]) -> bool {
    let Ok(frame) = codec.decode(message, &Limits::default()) else { return false };
    match frame.opcode {
        Opcode::StatePatch | Opcode::CrdtOp => true,
        Opcode::Presence => {
            serde_json::from_slice::<serde_json::Value>(frame.payload).is_ok_and(|room| room.get("whole").is_none())
        }
        // What is no entry has the number 0.
        Opcode::Doc => frame.payload.first().is_some_and(|first| *first != 0),
        Opcode::ServerEvent => {
            serde_json::from_slice::<serde_json::Value>(frame.payload).is_ok_and(|event| event.get("seq").is_some())
        }
        _ => false,
    }
}
