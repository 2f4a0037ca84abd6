//! A history as lines of JSON, one event each.
//!
//! ```json
//! {"t":1200,"process":4,"node":1,"type":"ok","stream":"state:cart","f":"write","how":"set","id":17,"mark":{"epoch":9,"seq":3}}
//! ```

use std::borrow::Cow;
use std::io::{self, BufRead, Write};

use serde::{Deserialize, Serialize};

use super::event::{Event, Function, History, Kind, Micros};

#[derive(Serialize, Deserialize)]
struct Line<'a> {
    t: Micros,
    process: u32,
    node: u32,
    #[serde(rename = "type")]
    kind: Kind,
    #[serde(default, borrow, skip_serializing_if = "str::is_empty")]
    stream: Cow<'a, str>,
    #[serde(flatten)]
    function: Cow<'a, Function>,
}

impl History {
    /// Writes one line for each event.
    pub fn write(&self, mut to: impl Write) -> io::Result<()> {
        for event in &self.events {
            let line = Line {
                t: event.time,
                process: event.process,
                node: event.node,
                kind: event.kind,
                stream: Cow::Borrowed(self.name(event.key)),
                function: Cow::Borrowed(&event.function),
            };
            serde_json::to_writer(&mut to, &line)?;
            to.write_all(b"\n")?;
        }
        Ok(())
    }

    /// Adds the events of these lines; empty ones are skipped. An error tells the number of the line, from 1.
    pub fn read(&mut self, from: impl BufRead) -> io::Result<()> {
        for (number, text) in from.lines().enumerate() {
            let text = text?;
            if text.trim().is_empty() {
                continue;
            }
            let line: Line<'_> = serde_json::from_str(&text)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("line {}: {error}", number + 1)))?;
            let key = self.key(&line.stream);
            self.events.push(Event {
                time: line.t,
                process: line.process,
                node: line.node,
                kind: line.kind,
                key,
                function: line.function.into_owned(),
            });
        }
        Ok(())
    }
}
