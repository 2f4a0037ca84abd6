//! The native half of `tests/browser/trace.mjs`: `trace URL receive|replay KEY FILE`. Writes `ready`, and one line of JSON
//! when its document has the text that the trace in `FILE` ends with, or when it has replayed the trace.

use std::{fs::File, time::Instant};

use datasole_client::{
    Client, Document,
    yrs::{Doc, GetString, OffsetKind, Options, Text, TextRef, Transact, TransactionMut},
};
use datasole_tests::trace::{Edit, Trace};
use flate2::read::GzDecoder;
use futures_util::StreamExt;
use serde_json::json;
use tokio::sync::Notify;

type Error = Box<dyn std::error::Error>;

/// Edits under way, so that each is sent by itself.
const WINDOW: usize = 32;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let [url, task, key, file] =
        std::env::args().skip(1).collect::<Vec<_>>().try_into().map_err(|_| "four arguments")?;
    let trace = Trace::read(GzDecoder::new(File::open(file)?))?;
    let client = Client::builder(&url).connect().await?;
    let options = Options { offset_kind: OffsetKind::Utf16, ..Options::default() };
    let document = client.open_doc(&key, Doc::with_options(options))?;
    document.synced().await?;
    match task.as_str() {
        "receive" => receive(&document, &trace).await,
        "replay" => replay(&document, &trace).await,
        _ => Err("the task is receive or replay".into()),
    }
}

async fn receive(document: &Document, trace: &Trace) -> Result<(), Error> {
    let doc = document.yrs_doc();
    let text = doc.get_or_insert_text("text");
    let length = u32::try_from(trace.end_content.len())?;
    let grown = std::sync::Arc::new(Notify::new());
    let (inner, watched) = (text.clone(), grown.clone());
    doc.observe_update_v1("trace", move |transaction, _| {
        if inner.len(transaction) == length {
            watched.notify_one();
        }
    })?;
    println!("ready");
    while text.get_string(&doc.transact()) != trace.end_content {
        grown.notified().await;
    }
    println!("{}", json!({}));
    Ok(())
}

async fn replay(document: &Document, trace: &Trace) -> Result<(), Error> {
    let edits: Vec<_> = trace.edits().collect();
    let alone = {
        let doc = Doc::new();
        let text = doc.get_or_insert_text("text");
        let began = Instant::now();
        for edit in &edits {
            apply(&text, &mut doc.transact_mut(), edit);
        }
        began.elapsed()
    };
    let doc = document.yrs_doc();
    let text = doc.get_or_insert_text("text");
    let mut statuses = document.statuses();
    let (mut updates, mut bytes) = (0, 0);
    println!("ready");
    let began = Instant::now();
    for edit in &edits {
        let mut transaction = doc.transact_mut();
        apply(&text, &mut transaction, edit);
        bytes += transaction.encode_update_v1().len();
        drop(transaction);
        updates += 1;
        while document.pending() >= WINDOW && statuses.next().await.is_some() {}
    }
    document.synced().await?;
    let seconds = began.elapsed().as_secs_f64();
    let whole = text.get_string(&doc.transact());
    let alone = alone.as_secs_f64();
    println!("{}", json!({ "updates": updates, "bytes": bytes, "seconds": seconds, "alone_s": alone, "text": whole }));
    Ok(())
}

fn apply(text: &TextRef, transaction: &mut TransactionMut<'_>, (at, deleted, inserted): &Edit) {
    if *deleted > 0 {
        text.remove_range(transaction, *at, *deleted);
    }
    if !inserted.is_empty() {
        text.insert(transaction, *at, inserted);
    }
}
