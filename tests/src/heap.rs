//! Bytes of heap, counted by the allocator of a program that does nothing else meanwhile.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use peak_alloc::PeakAlloc;

use crate::running::Running;

/// Connections, clients or keys that are counted, after as many that are not: what is made once is there then.
pub const CROWD: usize = 200;

/// The heap of the program.
#[derive(Clone, Copy, Debug)]
pub struct Heap(pub &'static PeakAlloc);

impl Heap {
    /// Bytes in use, once what was dropped is released in the background: several readings in a row agree.
    pub async fn settled(self) -> usize {
        let (mut last, mut alike) = (self.0.current_usage(), 0);
        while alike < 5 {
            tokio::time::sleep(Duration::from_millis(10)).await;
            let now = self.0.current_usage();
            (last, alike) = (now, if now == last { alike + 1 } else { 0 });
        }
        last
    }

    /// Bytes that each of a crowd takes, and the crowd.
    pub async fn each<T>(self, mut make: impl AsyncFnMut(usize) -> T) -> (usize, Vec<T>) {
        let mut crowd = Vec::with_capacity(2 * CROWD);
        for number in 0..CROWD {
            crowd.push(make(number).await);
        }
        let before = self.settled().await;
        for number in CROWD..2 * CROWD {
            crowd.push(make(number).await);
        }
        (self.settled().await.saturating_sub(before) / CROWD, crowd)
    }

    /// Bytes that are held after some work, and that were held at most meanwhile.
    pub async fn during(self, work: impl Future<Output = ()>) -> (isize, isize) {
        let before = self.settled().await as isize;
        self.0.reset_peak_usage();
        work.await;
        let peak = self.0.peak_usage() as isize;
        (self.settled().await as isize - before, peak - before)
    }
}

/// Waits until the server has let go of its connections.
pub async fn alone(running: &Running) {
    while running.server.connection_count() > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A client that has no heap: the socket, after HELLO.
pub fn greeted(address: SocketAddr) -> TcpStream {
    let mut socket = TcpStream::connect(address).unwrap();
    let request = "GET /__ds HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                   Sec-WebSocket-Protocol: datasole.v2\r\n\r\n";
    socket.write_all(request.as_bytes()).unwrap();
    let (mut read, mut byte) = ([0; 4], [0; 1]);
    while read != *b"\r\n\r\n" {
        socket.read_exact(&mut byte).unwrap();
        read.rotate_left(1);
        read[3] = byte[0];
    }
    pass(&mut socket);
    socket
}

/// Sends a message of at most 125 bytes.
pub fn send(socket: &mut TcpStream, message: &[u8]) {
    let head = [0x82, 0x80 | u8::try_from(message.len()).unwrap(), 0, 0, 0, 0];
    socket.write_all(&[&head, message].concat()).unwrap();
}

/// Reads a message, and keeps nothing of it but its first byte.
pub fn pass(socket: &mut TcpStream) -> u8 {
    let mut head = [0; 2];
    socket.read_exact(&mut head).unwrap();
    let mut length = [0; 8];
    let mut left = match head[1] {
        126 => {
            socket.read_exact(&mut length[6..]).unwrap();
            u64::from_be_bytes(length)
        }
        127 => {
            socket.read_exact(&mut length).unwrap();
            u64::from_be_bytes(length)
        }
        length => length.into(),
    };
    let (mut first, mut part) = (0, [0; 16 * 1024]);
    while left > 0 {
        let most = part.len().min(usize::try_from(left).unwrap());
        let some = socket.read(&mut part[..most]).unwrap();
        assert!(some > 0, "a message that is cut off");
        if first == 0 {
            first = part[0];
        }
        left -= some as u64;
    }
    first
}
