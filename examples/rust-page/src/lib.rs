//! A page in Rust only, for the server of `cargo xtask demo`: the connection, a live state, a counter that all share, and a
//! call. Leptos, Dioxus and egui use the client in the same way, within their own views.

use std::fmt::Display;

use datasole_client::{Client, Counter};
use futures_util::StreamExt;
use serde::Deserialize;
use serde_json::{Value, json};
use wasm_bindgen::{JsCast, JsValue, closure::Closure, prelude::wasm_bindgen};
use wasm_bindgen_futures::spawn_local;
use web_sys::{Document, HtmlElement};

#[derive(Deserialize)]
struct Sum {
    sum: f64,
}

/// Runs once the page has loaded the module.
#[wasm_bindgen(start)]
fn start() -> Result<(), JsValue> {
    console_error_panic_hook::set_once();
    let window = web_sys::window().ok_or("not in a page")?;
    let document = window.document().ok_or("not in a page")?;
    let client = Client::builder(window.location().origin()?).start().map_err(told)?;
    let likes = client.crdt().counter("demo:likes").map_err(told)?;

    let status = element(&document, "status")?;
    let mut statuses = client.statuses();
    spawn_local(async move {
        while let Some(now) = statuses.next().await {
            status.set_inner_text(&now.to_string());
        }
    });

    let beat = element(&document, "beat")?;
    let mut dashboard = client.state::<Value>("dashboard").map_err(told)?;
    spawn_local(async move {
        while dashboard.changed().await.is_ok() {
            let text: Option<String> = dashboard.with_value(|board| board.map(|board| board["beat"].to_string()));
            beat.set_inner_text(text.as_deref().unwrap_or("null"));
        }
    });

    let shown = element(&document, "likes")?;
    let (mut changes, counter) = (likes.changes(), likes.clone());
    spawn_local(async move {
        while changes.next().await.is_some() {
            shown.set_inner_text(&counter.value().to_string());
        }
    });
    on_click(&document, "like", move || like(&likes))?;

    let sum = element(&document, "sum")?;
    on_click(&document, "add", move || {
        let (client, sum) = (client.clone(), sum.clone());
        spawn_local(async move {
            let answer = client.call::<_, Sum>("add", &json!({ "a": 2, "b": 3 })).await;
            sum.set_inner_text(&answer.map_or_else(|error| error.to_string(), |Sum { sum }| sum.to_string()));
        });
    })
}

fn like(likes: &Counter) {
    // Refused only when the page's own limits are reached.
    if let Err(error) = likes.increment(1) {
        web_sys::console::error_1(&told(error));
    }
}

fn element(document: &Document, id: &str) -> Result<HtmlElement, JsValue> {
    let element = document.get_element_by_id(id).ok_or_else(|| format!("the page has no #{id}"))?;
    Ok(element.unchecked_into())
}

fn on_click(document: &Document, id: &str, action: impl FnMut() + 'static) -> Result<(), JsValue> {
    let clicked = Closure::<dyn FnMut()>::new(action);
    element(document, id)?.add_event_listener_with_callback("click", clicked.as_ref().unchecked_ref())?;
    // As long as the page.
    clicked.forget();
    Ok(())
}

fn told(error: impl Display) -> JsValue {
    JsValue::from(error.to_string())
}
