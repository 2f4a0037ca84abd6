//! The engine's requests that all else stands on: read the last message of a subject, read many, put if nothing came
//! since, purge.

use std::{sync::Arc, time::Duration};

use async_nats::{Client, HeaderMap, Request, RequestErrorKind};
use bytes::Bytes;
use data_encoding::BASE64;
use futures_util::StreamExt;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::{sync::Notify, time::timeout};

use crate::backend::error::BackendError;

/// How long an answer may take. Whoever waits longer has a connection that is replaced.
pub(super) const ANSWER: Duration = Duration::from_secs(2);
/// Messages in one answer.
const BATCH: usize = 256;
/// Subjects in one request. The engine answers at most 1,024.
pub(super) const SUBJECTS: usize = 256;

const NO_MESSAGE: u64 = 10_037;
const NO_STREAM: u64 = 10_059;
const STREAM_EXISTS: u64 = 10_058;
const WRONG_LAST: [u64; 2] = [10_071, 10_164];
/// Memory, storage, the stream's limits, the size of a message.
const FULL: [u64; 5] = [10_023, 10_028, 10_047, 10_054, 10_077];

/// Requests over one connection.
#[derive(Clone, Debug)]
pub(super) struct Api {
    pub(super) client: Client,
    /// Told when the connection does not answer.
    pub(super) broken: Arc<Notify>,
    /// Whether one server alone has the streams: then what it reads directly is the newest.
    pub(super) is_single: bool,
}

/// A stored message.
#[derive(Clone, Debug)]
pub(super) struct Message {
    /// The engine's number of it, among all in the engine's stream.
    pub(super) number: u64,
    pub(super) subject: String,
    pub(super) payload: Bytes,
}

/// The condition under which a message is stored, and how.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Terms {
    /// The number of the subject's last message, 0 for none; `None` for anything.
    pub(super) after: Option<u64>,
    /// How long the message is kept; whole seconds, rounded up.
    pub(super) ttl: Option<Duration>,
    /// Whether it replaces all earlier messages of its subject.
    pub(super) replaces: bool,
}

impl Terms {
    pub(super) fn after(number: u64) -> Self {
        Self { after: Some(number), ..Self::default() }
    }

    pub(super) fn ttl(self, ttl: Option<Duration>) -> Self {
        Self { ttl, ..self }
    }
}

#[derive(Debug, Deserialize)]
struct Failure {
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

#[derive(Debug, Deserialize)]
struct Answer<T> {
    error: Option<Failure>,
    #[serde(flatten)]
    answer: Option<T>,
}

#[derive(Debug, Deserialize)]
struct Stored {
    seq: u64,
}

#[derive(Debug, Deserialize)]
struct Got {
    message: Gotten,
}

#[derive(Debug, Deserialize)]
struct Gotten {
    subject: String,
    seq: u64,
    #[serde(default)]
    data: String,
}

/// What is known of one of the engine's streams.
#[derive(Debug, Deserialize)]
pub(super) struct Info {
    pub(super) config: Config,
    pub(super) state: State,
    /// The engine's time, as RFC 3339 has it.
    #[serde(default)]
    pub(super) ts: String,
    /// How many subjects there are, of which this is a page.
    #[serde(default)]
    pub(super) total: usize,
}

#[derive(Debug, Deserialize)]
pub(super) struct Config {
    pub(super) num_replicas: u8,
}

#[derive(Debug, Deserialize)]
pub(super) struct State {
    pub(super) last_seq: u64,
    #[serde(default)]
    pub(super) subjects: std::collections::HashMap<String, u64>,
}

pub(super) fn corrupt(expected: &str) -> BackendError {
    BackendError::Corrupt(format!("the engine answered something other than {expected}"))
}

pub(super) fn unavailable(why: impl ToString) -> BackendError {
    BackendError::Unavailable(why.to_string())
}

fn failed(failure: &Failure) -> BackendError {
    if FULL.contains(&failure.err_code) {
        BackendError::Full(failure.description.clone())
    } else {
        BackendError::Unavailable(failure.description.clone())
    }
}

/// A number among the headers of a message.
pub(super) fn number(headers: Option<&HeaderMap>, name: &str) -> Option<u64> {
    headers?.get(name)?.as_str().parse().ok()
}

/// A message as the engine reads it out.
fn stored(message: async_nats::Message) -> Result<Message, BackendError> {
    let headers = message.headers.as_ref();
    let number = number(headers, "Nats-Sequence").ok_or_else(|| corrupt("a message"))?;
    let subject = headers.and_then(|headers| headers.get("Nats-Subject")).ok_or_else(|| corrupt("a message"))?;
    Ok(Message { number, subject: subject.as_str().to_owned(), payload: message.payload })
}

impl Api {
    async fn ask(
        &self,
        subject: String,
        headers: Option<HeaderMap>,
        payload: Bytes,
    ) -> Result<async_nats::Message, BackendError> {
        let mut request = Request::new().payload(payload).timeout(Some(ANSWER));
        if let Some(headers) = headers {
            request = request.headers(headers);
        }
        self.client.send_request(subject, request).await.map_err(|error| match error.kind() {
            RequestErrorKind::NoResponders => unavailable("the engine's streams are not there, or not yet"),
            RequestErrorKind::MaxPayloadExceeded => {
                let most = self.client.max_payload();
                BackendError::Full(format!("the engine accepts {most} bytes a message: raise its max_payload"))
            }
            RequestErrorKind::InvalidSubject => BackendError::Invalid(error.to_string()),
            _ => {
                self.broken.notify_one();
                unavailable("the engine does not answer")
            }
        })
    }

    async fn call<T: DeserializeOwned>(&self, name: &str, body: &Value) -> Result<Answer<T>, BackendError> {
        let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
        let answer = self.ask(format!("$JS.API.{name}"), None, body).await?;
        let answer: Answer<Value> = serde_json::from_slice(&answer.payload).map_err(|_| corrupt("JSON"))?;
        if answer.error.is_some() {
            return Ok(Answer { error: answer.error, answer: None });
        }
        let answer = answer.answer.and_then(|answer| serde_json::from_value(answer).ok());
        Ok(Answer { error: None, answer: Some(answer.ok_or_else(|| corrupt(name))?) })
    }

    /// What is known of a stream, with the subjects that fit `filter` from the one at `offset` on; `None` for one that
    /// does not exist.
    pub(super) async fn info(
        &self,
        stream: &str,
        subjects: Option<(&str, usize)>,
    ) -> Result<Option<Info>, BackendError> {
        let body =
            subjects.map_or(Value::Null, |(filter, offset)| json!({ "subjects_filter": filter, "offset": offset }));
        let answer = self.call(&format!("STREAM.INFO.{stream}"), &body).await?;
        match answer.error {
            Some(failure) if failure.err_code == NO_STREAM => Ok(None),
            Some(failure) => Err(failed(&failure)),
            None => Ok(answer.answer),
        }
    }

    /// Makes a stream, unless there is one of that name.
    pub(super) async fn create(&self, config: &Value) -> Result<(), BackendError> {
        let name = config.get("name").and_then(Value::as_str).unwrap_or_default();
        let answer = self.call::<Value>(&format!("STREAM.CREATE.{name}"), config).await?;
        match answer.error {
            Some(failure) if failure.err_code != STREAM_EXISTS => {
                Err(BackendError::Invalid(format!("the engine does not make {name}: {}", failure.description)))
            }
            _ => Ok(()),
        }
    }

    /// The last message of a subject, as the stream's leader has it.
    pub(super) async fn last(&self, stream: &str, subject: &str) -> Result<Option<Message>, BackendError> {
        if self.is_single {
            let message = self.ask(format!("$JS.API.DIRECT.GET.{stream}.{subject}"), None, Bytes::new()).await?;
            return match message.status.map(|status| status.as_u16()) {
                None | Some(200) => stored(message).map(Some),
                Some(404) => Ok(None),
                Some(_) => Err(unavailable(message.description.unwrap_or_default())),
            };
        }
        let answer = self.call::<Got>(&format!("STREAM.MSG.GET.{stream}"), &json!({ "last_by_subj": subject })).await?;
        match answer.error {
            Some(failure) if failure.err_code == NO_MESSAGE => Ok(None),
            Some(failure) => Err(failed(&failure)),
            None => {
                let Got { message } = answer.answer.ok_or_else(|| corrupt("a message"))?;
                let payload = BASE64.decode(message.data.as_bytes()).map_err(|_| corrupt("a message"))?;
                Ok(Some(Message { number: message.seq, subject: message.subject, payload: payload.into() }))
            }
        }
    }

    /// Stores a message and answers its number; `None` if another one than was expected is the subject's last.
    pub(super) async fn put(&self, subject: String, payload: Bytes, terms: Terms) -> Result<Option<u64>, BackendError> {
        let mut headers = HeaderMap::new();
        if let Some(after) = terms.after {
            headers.insert("Nats-Expected-Last-Subject-Sequence", after.to_string().as_str());
        }
        // Longer ones than a hundred years are for ever.
        if let Some(ttl) = terms.ttl.map(|ttl| ttl.as_secs() + 1).filter(|ttl| *ttl < 100 * 366 * 86_400) {
            headers.insert("Nats-TTL", format!("{ttl}s").as_str());
        }
        if terms.replaces {
            headers.insert("Nats-Rollup", "sub");
        }
        let answer = self.ask(subject, (!headers.is_empty()).then_some(headers), payload).await?;
        let answer: Answer<Stored> =
            serde_json::from_slice(&answer.payload).map_err(|_| corrupt("the fate of a message"))?;
        match answer.error {
            Some(failure) if WRONG_LAST.contains(&failure.err_code) => Ok(None),
            Some(failure) => Err(failed(&failure)),
            None => answer.answer.map(|stored| Some(stored.seq)).ok_or_else(|| corrupt("the number of a message")),
        }
    }

    /// Removes the messages of the subjects that fit `filter`, of one whose number is below `below`, if that is given.
    pub(super) async fn purge(&self, stream: &str, filter: &str, below: Option<u64>) -> Result<(), BackendError> {
        let mut body = json!({ "filter": filter });
        if let Some(below) = below {
            body["seq"] = below.into();
        }
        let answer = self.call::<Value>(&format!("STREAM.PURGE.{stream}"), &body).await?;
        answer.error.map_or(Ok(()), |failure| Err(failed(&failure)))
    }

    /// The messages from number `from` on whose subjects fit `filter`, in the order of their numbers.
    pub(super) async fn scan(&self, stream: &str, filter: &str, mut from: u64) -> Result<Vec<Message>, BackendError> {
        let mut found: Vec<Message> = Vec::new();
        loop {
            let before = found.len();
            let body = json!({ "seq": from.max(1), "next_by_subj": filter, "batch": BATCH });
            let left = self.many(stream, &body, &mut found).await?;
            let Some(last) = found.last().filter(|_| found.len() > before && left > 0) else { return Ok(found) };
            from = last.number + 1;
        }
    }

    /// The last messages of these subjects, at most [`SUBJECTS`].
    pub(super) async fn lasts(&self, stream: &str, subjects: &[String]) -> Result<Vec<Message>, BackendError> {
        let mut found = Vec::with_capacity(subjects.len());
        self.many(stream, &json!({ "multi_last": subjects, "batch": SUBJECTS }), &mut found).await?;
        Ok(found)
    }

    /// Reads one answer of many messages; answers how many more there are.
    async fn many(&self, stream: &str, body: &Value, found: &mut Vec<Message>) -> Result<u64, BackendError> {
        let inbox = self.client.new_inbox();
        let mut answers = self.client.subscribe(inbox.clone()).await.map_err(unavailable)?;
        let subject = format!("$JS.API.DIRECT.GET.{stream}");
        self.client.publish_with_reply(subject, inbox, body.to_string().into()).await.map_err(unavailable)?;
        loop {
            let Ok(Some(message)) = timeout(ANSWER, answers.next()).await else {
                self.broken.notify_one();
                return Err(unavailable("the engine does not answer"));
            };
            let headers = message.headers.as_ref();
            match message.status.map(|status| status.as_u16()) {
                None | Some(200) => found.push(stored(message)?),
                Some(204) => return Ok(number(headers, "Nats-Num-Pending").unwrap_or(0)),
                Some(404) => return Ok(0),
                Some(_) => return Err(unavailable(message.description.unwrap_or_default())),
            }
        }
    }
}
