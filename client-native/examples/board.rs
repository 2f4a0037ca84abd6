//! The demo's board in the terminal: its counters, its todo set, its document and who is there, live and to be edited.
//!
//! ```text
//! cargo run -p datasole-client --features docs --example board -- --url http://127.0.0.1:4000 --name Ann
//! ```
//!
//! `+ likes` counts up, `- coffee` down, `todo TEXT` adds, `done TEXT` removes, `type TEXT` writes at the end of the document, `quit`
//! ends once everything is stored.

use std::{
    error::Error,
    io::{self, Write},
    process::ExitCode,
};

use clap::Parser;
use datasole_client::{
    Client, Counter, Document, Presence, Set,
    yrs::{GetString, Text, TextRef, Transact},
};
use futures_util::{StreamExt, stream::select_all};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};

#[derive(Parser)]
struct Options {
    /// The server.
    #[arg(long, default_value = "http://127.0.0.1:4000")]
    url: String,
    /// Who you are.
    #[arg(long)]
    token: Option<String>,
    /// The name that the others see.
    #[arg(long, default_value = "terminal")]
    name: String,
}

/// Everything that is shared.
struct Board {
    client: Client,
    counters: [(&'static str, Counter); 2],
    todo: Set<Value>,
    notes: Document,
    text: TextRef,
    room: Presence,
    message: String,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Options::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: Options) -> Result<(), Box<dyn Error>> {
    let mut builder = Client::builder(&options.url).node_id("board");
    if let Some(token) = options.token {
        builder = builder.token(token);
    }
    println!("connecting to {}", options.url);
    let client = builder.connect().await?;
    let notes = client.doc("demo:notes")?;
    let mut board = Board {
        counters: [("likes", client.crdt().counter("demo:likes")?), ("coffee", client.crdt().counter("demo:coffee")?)],
        todo: client.crdt().set("demo:todo")?,
        text: notes.yrs_doc().get_or_insert_text("text"),
        room: client.presence("demo")?,
        notes,
        client,
        message: String::new(),
    };
    let shown = json!({"name": options.name, "color": "#2a9d8f"});
    board.room.join(&shown)?;
    board.notes.set_awareness(&json!({"user": shown}))?;

    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut statuses = board.client.statuses();
    let mut refusals = board.client.refusals();
    let [(_, likes), (_, coffee)] = &board.counters;
    let mut changes = select_all([likes.changes(), coffee.changes(), board.todo.changes(), board.room.changes()]);
    let mut document = board.notes.statuses();
    loop {
        board.draw()?;
        tokio::select! {
            line = lines.next_line() => match line? {
                Some(line) if line.trim() != "quit" => {
                    board.message = board.obey(line.trim()).err().map(|error| error.to_string()).unwrap_or_default();
                }
                _ => break,
            },
            Some(changed) = changes.next() => changed?,
            Some(_) = document.next() => {}
            Some(_) = statuses.next() => {}
            Some(refusal) = refusals.next() => board.message = format!("refused: {}", refusal.message),
        }
    }
    board.client.crdt().synced().await?;
    board.notes.synced().await?;
    board.client.close().await;
    Ok(())
}

impl Board {
    fn obey(&self, line: &str) -> Result<(), Box<dyn Error>> {
        match line.split_once(' ').unwrap_or((line, "")) {
            ("", _) => {}
            ("+", name) => self.counter(name)?.increment(1)?,
            ("-", name) => self.counter(name)?.decrement(1)?,
            ("todo", text) if !text.is_empty() => self.todo.add(&text.into())?,
            ("done", text) => self.todo.remove(&text.into())?,
            ("type", text) => self.text.push(&mut self.notes.yrs_doc().transact_mut(), text),
            _ => return Err("there is no such command".into()),
        }
        Ok(())
    }

    fn counter(&self, name: &str) -> Result<&Counter, Box<dyn Error>> {
        let counter = self.counters.iter().find(|(known, _)| *known == name);
        Ok(counter.map(|(_, counter)| counter).ok_or("the counters are likes and coffee")?)
    }

    /// Clears the screen and writes everything again, in one write so that nothing flickers.
    fn draw(&self) -> io::Result<()> {
        const BOLD: &str = "\x1b[1m";
        const DIM: &str = "\x1b[2m";
        const PLAIN: &str = "\x1b[0m";
        let mut screen = format!("\x1b[H\x1b[2J{BOLD}datasole board{PLAIN}   {}\n\n", self.client.status());
        let members = self.room.members();
        let names: Vec<_> = members.iter().map(|member| member.value["name"].as_str().unwrap_or("somebody")).collect();
        screen += &format!("  here   {}\n", printable(&names.join(", ")));
        for (name, counter) in &self.counters {
            screen += &format!("  {name:<6} {BOLD}{}{PLAIN}   {DIM}{}{PLAIN}\n", counter.value(), counter.status());
        }
        screen += &format!("  todo   {DIM}{}{PLAIN}\n", self.todo.status());
        for item in self.todo.iter() {
            let text = item.as_str().map_or_else(|| item.to_string(), str::to_owned);
            screen += &format!("         · {}\n", printable(&text));
        }
        screen += &format!("  notes  {DIM}{}{PLAIN}\n", self.notes.status());
        let text = self.text.get_string(&self.notes.yrs_doc().transact());
        for line in text.lines() {
            screen += &format!("         {}\n", printable(line));
        }
        screen +=
            &format!("\n{DIM}+ NAME, - NAME, todo TEXT, done TEXT, type TEXT, quit{PLAIN}   {}\n> ", self.message);
        let mut stdout = io::stdout().lock();
        stdout.write_all(screen.as_bytes())?;
        stdout.flush()
    }
}

/// Others write what they like, but not to this terminal.
fn printable(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).collect()
}
