//! [`Hints`]: the browser tells when the network comes and goes, and when the page is seen again.

use datasole_core::Hint;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use wasm_bindgen::{JsCast, closure::Closure};
use web_sys::{Event, EventTarget};

use crate::clock::never;

/// The browser's events; a worker has the first two.
const EVENTS: [&str; 4] = ["online", "offline", "pageshow", "visibilitychange"];

/// The hint that an event stands for.
fn hint(event: &str) -> Hint {
    match event {
        "online" => Hint::Online,
        "offline" => Hint::Offline,
        "pageshow" => Hint::Visible,
        _ => visibility(),
    }
}

fn visibility() -> Hint {
    let document = js_sys::Reflect::get(&js_sys::global(), &"document".into());
    let hidden = document.and_then(|document| js_sys::Reflect::get(&document, &"hidden".into()));
    if hidden.is_ok_and(|hidden| hidden.is_truthy()) { Hint::Hidden } else { Hint::Visible }
}

/// The browser's news of the network, until this is dropped.
pub(crate) struct Hints {
    told: UnboundedReceiver<Hint>,
    _listeners: Vec<Listener>,
}

impl Hints {
    pub(crate) fn listen() -> Self {
        let (tell, told) = mpsc::unbounded_channel();
        let listeners = match js_sys::global().dyn_into::<EventTarget>() {
            Ok(global) => EVENTS.into_iter().filter_map(|name| Listener::new(&global, name, tell.clone())).collect(),
            Err(_) => Vec::new(),
        };
        Self { told, _listeners: listeners }
    }

    pub(crate) async fn next(&mut self) -> Hint {
        match self.told.recv().await {
            Some(hint) => hint,
            None => never().await,
        }
    }
}

/// A listener that is removed when this is dropped.
struct Listener {
    target: EventTarget,
    name: &'static str,
    function: Closure<dyn FnMut(Event)>,
}

impl Listener {
    fn new(target: &EventTarget, name: &'static str, tell: UnboundedSender<Hint>) -> Option<Self> {
        let function = Closure::<dyn FnMut(Event)>::new(move |_| {
            // The driver may have ended.
            let _ = tell.send(hint(name));
        });
        target.add_event_listener_with_callback(name, function.as_ref().unchecked_ref()).ok()?;
        Some(Self { target: target.clone(), name, function })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let function = self.function.as_ref().unchecked_ref();
        let _ = self.target.remove_event_listener_with_callback(self.name, function);
    }
}
