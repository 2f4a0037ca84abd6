//! A way to an engine on which what a node has sent comes late: after what the node sends over its next connection.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use datasole_server::backend::{
    Backend, BackendError,
    bus::{Address, Delivery},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    time::{Instant, sleep, timeout},
};

use crate::writers::{PATIENCE, PAUSE};

/// A proxy whose connections can be held: nothing that they carry arrives until they are released, also what a node has
/// sent that has given them up. Those that are made meanwhile pass.
pub(crate) struct Late {
    pub(crate) port: u16,
    to: Arc<AtomicU16>,
    /// Connections up to this number are held.
    held: watch::Sender<u64>,
    count: watch::Receiver<u64>,
}

impl Late {
    pub(crate) async fn start(to: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let to = Arc::new(AtomicU16::new(to));
        let target = Arc::clone(&to);
        let (held, holding) = watch::channel(0);
        let (counting, count) = watch::channel(0);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let number = *counting.borrow() + 1;
                counting.send_replace(number);
                let Ok(server) = TcpStream::connect(("127.0.0.1", target.load(Ordering::SeqCst))).await else {
                    continue;
                };
                let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
                tokio::spawn(pass(from_client, to_server, number, holding.clone()));
                tokio::spawn(pass(from_server, to_client, number, holding.clone()));
            }
        });
        Self { port, to, held, count }
    }

    /// Has connections that are made from here on go to another port.
    pub(crate) fn to(&self, port: u16) {
        self.to.store(port, Ordering::SeqCst);
    }

    pub(crate) fn hold(&self) {
        self.held.send_replace(*self.count.borrow());
    }

    pub(crate) fn release(&self) {
        self.held.send_replace(0);
    }
}

/// Copies one direction to its end, whatever becomes of the other.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, number: u64, mut held: watch::Receiver<u64>) {
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut bytes).await {
        if held.wait_for(|held| number > *held).await.is_err() || to.write_all(&bytes[..length]).await.is_err() {
            return;
        }
    }
}

/// Reads what an engine tells who asks so, until this is among it.
pub(crate) async fn hears(port: u16, ask: &str) -> impl AsyncFnMut(&str) {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    socket.write_all(ask.as_bytes()).await.unwrap();
    let mut heard = Vec::new();
    async move |wanted: &str| {
        let until = async {
            while !heard.windows(wanted.len()).any(|bytes| bytes == wanted.as_bytes()) {
                let length = socket.read_buf(&mut heard).await.unwrap();
                assert!(length > 0, "it goes on");
            }
        };
        timeout(PATIENCE, until).await.unwrap_or_else(|_| panic!("{wanted:?} is heard"));
    }
}

/// A message that was given up with its connection, and comes to the engine after a later one, is not delivered after it.
/// `arrived` waits until the engine has got the late one.
pub(crate) async fn order_is_kept(late: &Late, a: &Backend, b: &Backend, mut arrived: impl AsyncFnMut()) {
    let mut inbox = b.bus.inbox().unwrap();
    b.bus.subscribe(&["t".into()]).await.unwrap();
    let send = async |text: &'static str| a.bus.publish(Address::Topic("t"), Bytes::from_static(text.as_bytes())).await;
    send("1 first").await.unwrap();
    late.hold();
    let given_up = send("2 second").await;
    assert!(matches!(given_up, Err(BackendError::Unavailable(_))), "{given_up:?}");
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = send("3 third").await {
        assert!(Instant::now() < deadline, "{error}");
        sleep(PAUSE).await;
    }
    late.release();
    arrived().await;
    send("4 fourth").await.unwrap();
    let mut came = Vec::new();
    while came.last().is_none_or(|last| last != "4 fourth") {
        match timeout(Duration::from_secs(30), inbox.recv()).await.expect("the last comes").unwrap() {
            Delivery::Message { bytes, .. } => came.push(String::from_utf8(bytes.into()).unwrap()),
            Delivery::Lost => {}
        }
    }
    // The third was sent again until it was answered.
    assert!(came.is_sorted() && came.iter().filter(|text| *text == "2 second").count() < 2, "in order: {came:?}");
    assert!(came.iter().any(|text| text == "1 first") && came.iter().any(|text| text == "3 third"), "{came:?}");
}
