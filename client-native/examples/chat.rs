//! A chat in the terminal: lines you type go to everyone as the event `chat:message`.
//!
//! ```text
//! cargo run -p datasole-client --example chat -- --url http://127.0.0.1:4000 --token ann
//! ```

use std::{error::Error, process::ExitCode};

use clap::Parser;
use datasole_client::{Client, EventError};
use futures_util::StreamExt;
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
    let user = options.token.clone().unwrap_or_else(|| "anonymous".into());
    let mut builder = Client::builder(&options.url);
    if let Some(token) = options.token {
        builder = builder.token(token);
    }
    let client = builder.connect().await?;
    // Any data can come under this name: others write what they like.
    let mut messages = client.events::<Value>("chat:message")?;
    let mut statuses = client.statuses();
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    loop {
        tokio::select! {
            line = lines.next_line() => match line? {
                Some(text) => {
                    if let Err(error) = client.emit_queued("chat:message", &json!({"user": user, "text": text})).await {
                        eprintln!("not sent: {error}");
                    }
                }
                None => break,
            },
            message = messages.next() => match message {
                Some(Ok(message)) => print_message(&message.data),
                Some(Err(EventError::Missed)) => eprintln!("(messages may have been missed)"),
                Some(Err(error)) => eprintln!("({error})"),
                None => break,
            },
            Some(status) = statuses.next() => eprintln!("({status})"),
        }
    }
    client.close().await;
    Ok(())
}

fn print_message(message: &Value) {
    match (message["user"].as_str(), message["text"].as_str()) {
        (Some(user), Some(text)) => println!("{user}: {text}"),
        _ => println!("{message}"),
    }
}
