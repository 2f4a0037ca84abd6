//! [`Dialer`], and one open [`Socket`] over the browser's WebSocket.

use std::time::Duration;

use bytes::Bytes;
use datasole_core::SocketClose;
use js_sys::{Array, ArrayBuffer, Uint8Array};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use wasm_bindgen::{JsCast, JsValue, closure::Closure};
use web_sys::{BinaryType, CloseEvent, Event, MessageEvent, WebSocket};

use crate::{
    clock::{never, sleep, timeout},
    host::received::{MAX_UNSENT, Received},
};

/// A close code for a text message: a page may not say 1003.
const TEXT: u16 = 4004;

/// A browser tells nothing of what it has sent: while it holds more than [`MAX_UNSENT`] bytes, it is asked this often.
const ASK_EVERY: Duration = Duration::from_millis(20);

/// Opens sockets.
#[derive(Clone)]
pub(crate) struct Dialer;

impl Dialer {
    /// Opens a socket; also tells the subprotocol the server chose.
    pub(crate) async fn open(
        self,
        url: String,
        protocols: &'static [&'static str],
    ) -> Result<(Socket, Option<String>), SocketClose> {
        let mut socket = Socket::new(&url, protocols)
            .map_err(|error| SocketClose { reason: describe(&error), ..SocketClose::default() })?;
        match socket.events.recv().await {
            Some(Happened::Opened) => {
                let chosen = socket.socket.protocol();
                Ok((socket, Some(chosen).filter(|chosen| !chosen.is_empty())))
            }
            Some(Happened::Closed(close)) => Err(close),
            Some(Happened::Message(_)) | None => Err(SocketClose::default()),
        }
    }
}

enum Happened {
    Opened,
    Message(Bytes),
    Closed(SocketClose),
}

/// A WebSocket of the browser, which is closed when this is dropped.
pub(crate) struct Socket {
    socket: WebSocket,
    events: UnboundedReceiver<Happened>,
    full: bool,
    _handlers: Handlers,
}

/// The functions that the browser calls.
struct Handlers(Closure<dyn FnMut(Event)>, Closure<dyn FnMut(MessageEvent)>, Closure<dyn FnMut(CloseEvent)>);

impl Handlers {
    fn new(socket: &WebSocket, events: UnboundedSender<Happened>) -> Self {
        let told = events.clone();
        let open = Closure::new(move |_: Event| tell(&told, Happened::Opened));
        let (told, object) = (events.clone(), socket.clone());
        let message = Closure::new(move |event: MessageEvent| match event.data().dyn_into::<ArrayBuffer>() {
            Ok(buffer) => tell(&told, Happened::Message(Uint8Array::new(&buffer).to_vec().into())),
            Err(_) => {
                let reason = "text message";
                let _ = object.close_with_code_and_reason(TEXT, reason);
                let close = SocketClose { code: Some(1003), reason: reason.into(), ..SocketClose::default() };
                tell(&told, Happened::Closed(close));
            }
        });
        let close = Closure::new(move |event: CloseEvent| {
            let close = SocketClose { code: Some(event.code()), reason: event.reason(), ..SocketClose::default() };
            tell(&events, Happened::Closed(close));
        });
        let handlers = Self(open, message, close);
        socket.set_onopen(Some(handlers.0.as_ref().unchecked_ref()));
        socket.set_onmessage(Some(handlers.1.as_ref().unchecked_ref()));
        socket.set_onclose(Some(handlers.2.as_ref().unchecked_ref()));
        handlers
    }
}

fn tell(events: &UnboundedSender<Happened>, happened: Happened) {
    // The socket may be dropped by now.
    let _ = events.send(happened);
}

impl Socket {
    fn new(url: &str, protocols: &[&str]) -> Result<Self, JsValue> {
        let names: Array = protocols.iter().map(|name| JsValue::from_str(name)).collect();
        let socket = WebSocket::new_with_str_sequence(url, &names)?;
        socket.set_binary_type(BinaryType::Arraybuffer);
        let (told, events) = mpsc::unbounded_channel();
        let handlers = Handlers::new(&socket, told);
        Ok(Self { socket, events, full: false, _handlers: handlers })
    }

    pub(crate) fn send(&mut self, message: Vec<u8>) {
        // While it closes, the browser drops what it is given, and tells of the end.
        let _ = self.socket.send_with_u8_array(&message);
        self.full |= self.unsent() >= MAX_UNSENT;
    }

    /// Bytes of messages that wait.
    pub(crate) fn unsent(&self) -> usize {
        self.socket.buffered_amount() as usize
    }

    /// Waits until there is something to tell. Cancel safe.
    pub(crate) async fn next(&mut self) -> Received {
        let (socket, full) = (&self.socket, self.full);
        let room = async {
            if !full {
                return never().await;
            }
            while socket.buffered_amount() as usize >= MAX_UNSENT {
                sleep(ASK_EVERY).await;
            }
        };
        tokio::select! {
            biased;
            event = self.events.recv() => match event {
                Some(Happened::Message(bytes)) => Received::Message(bytes),
                Some(Happened::Closed(close)) => Received::Closed(close),
                Some(Happened::Opened) | None => Received::Closed(SocketClose::default()),
            },
            () = room => {
                self.full = false;
                Received::Room
            }
        }
    }

    /// Sends what waits and closes, waiting so long for the peer to agree.
    pub(crate) async fn close(mut self, code: u16, reason: &str, patience: Duration) {
        // A page may say 1000 and its own codes, no other.
        let told = if code == 1000 || code >= 3000 {
            self.socket.close_with_code_and_reason(code, reason)
        } else {
            self.socket.close()
        };
        if told.is_err() {
            return;
        }
        let agreed = async {
            while let Some(event) = self.events.recv().await {
                if matches!(event, Happened::Closed(_)) {
                    break;
                }
            }
        };
        // Whether the peer agreed changes nothing: nobody waits for this socket any more.
        let _ = timeout(patience, agreed).await;
    }

    /// After [`Received::Closed`]: the browser has answered the peer.
    pub(crate) async fn end(self, _: Duration) {}
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.socket.set_onopen(None);
        self.socket.set_onmessage(None);
        self.socket.set_onclose(None);
        let _ = self.socket.close();
    }
}

fn describe(error: &JsValue) -> String {
    error.dyn_ref::<js_sys::Error>().map_or_else(|| format!("{error:?}"), |error| error.message().into())
}
