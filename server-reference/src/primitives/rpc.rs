//! Calls: handlers by name, and what came with a call.

use std::{
    any::TypeId,
    collections::{HashMap, HashSet},
    panic::AssertUnwindSafe,
};

use datasole_core::{Payload, codes};
use futures_util::{FutureExt, future::BoxFuture};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::value::{RawValue, to_raw_value};

use crate::{
    budget::weight,
    error::{RpcError, plainly},
};

/// The data of a call or an event, borrowed from the message.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Incoming<'a> {
    Json(&'a RawValue),
    Binary(&'a [u8]),
}

impl Incoming<'_> {
    pub(crate) fn len(self) -> usize {
        self.bytes().len()
    }

    /// The bytes that a handler holds that waits with them.
    pub(crate) fn weight(self) -> usize {
        match self {
            Incoming::Json(text) => weight(text.get().as_bytes()),
            // No values are read from bytes.
            Incoming::Binary(bytes) => weight(&[]) + bytes.len(),
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Incoming::Json(text) => text.get().as_bytes(),
            Incoming::Binary(bytes) => bytes,
        }
    }

    pub(crate) fn to_payload(self) -> Payload {
        match self {
            Incoming::Json(text) => Payload::Json(text.to_owned()),
            Incoming::Binary(bytes) => Payload::Binary(bytes.to_vec()),
        }
    }

    pub(crate) fn parse<T: DeserializeOwned + 'static>(self) -> Result<T, RpcError> {
        match self {
            Incoming::Json(text) => {
                datasole_core::value::from_raw(text).map_err(|error| misfit::<T>(text.get(), &error))
            }
            Incoming::Binary(_) => Err(RpcError::invalid_params("this method takes JSON, not bytes")),
        }
    }
}

/// The error for JSON that is no `T`; it is read once more, to tell which part is wrong.
fn misfit<T: DeserializeOwned>(text: &str, error: &serde_json::Error) -> RpcError {
    let path = match serde_path_to_error::deserialize::<_, T>(&mut serde_json::Deserializer::from_str(text)) {
        Err(found) => pointer(found.path()),
        Ok(_) => String::new(),
    };
    let reason = plainly(error);
    if path.is_empty() {
        return RpcError::invalid_params(reason);
    }
    RpcError::invalid_params(format!("{path}: {reason}")).data(&serde_json::json!({ "path": path }))
}

/// A JSON Pointer (RFC 6901) to the part of a document, cut where it is too long to be of use.
fn pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;

    const LONGEST: usize = 200;
    let mut out = String::new();
    for segment in path {
        let token = match segment {
            Segment::Seq { index } => index.to_string(),
            Segment::Map { key } => key.replace('~', "~0").replace('/', "~1"),
            // No place in the JSON.
            Segment::Enum { .. } | Segment::Unknown => continue,
        };
        if out.len() + token.len() > LONGEST {
            break;
        }
        out.push('/');
        out.push_str(&token);
    }
    out
}

pub(crate) type Outcome = Result<Payload, RpcError>;
type RpcHandler<C> = Box<dyn Fn(C, Incoming<'_>) -> BoxFuture<'static, Outcome> + Send + Sync>;

/// Handlers by method. Each receives the caller, a `C`.
pub(crate) struct Methods<C> {
    handlers: HashMap<String, RpcHandler<C>>,
    /// Methods whose handlers are dropped when their caller's connection ends.
    end_with_caller: HashSet<String>,
    /// The method registered last.
    last: Option<String>,
}

impl<C> Default for Methods<C> {
    fn default() -> Self {
        Self { handlers: HashMap::new(), end_with_caller: HashSet::new(), last: None }
    }
}

impl<C: 'static> Methods<C> {
    pub(crate) fn typed<P, R, F, Fut>(&mut self, name: String, f: F)
    where
        P: DeserializeOwned + 'static,
        R: Serialize + 'static,
        F: Fn(C, P) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, RpcError>> + Send + 'static,
    {
        let handler = move |caller: C, incoming: Incoming<'_>| match incoming.parse() {
            Ok(params) => {
                let result = f(caller, params);
                async move { to_payload(&result.await?) }.boxed()
            }
            Err(error) => std::future::ready(Err(error)).boxed(),
        };
        self.insert(name, Box::new(handler));
    }

    fn insert(&mut self, name: String, handler: RpcHandler<C>) {
        self.end_with_caller.remove(&name);
        self.last = Some(name.clone());
        self.handlers.insert(name, handler);
    }

    /// True if a method has a handler.
    #[cfg(feature = "contract")]
    pub(crate) fn has(&self, name: &str) -> bool {
        self.handlers.contains_key(name)
    }

    /// The methods with a handler.
    #[cfg(feature = "contract")]
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.handlers.keys().map(String::as_str)
    }

    /// Lets handlers of the method registered last end with their caller's connection.
    pub(crate) fn end_with_caller(&mut self) {
        self.end_with_caller.extend(self.last.clone());
    }

    /// Whether the handlers of a method end with their caller's connection.
    pub(crate) fn ends_with_caller(&self, name: &str) -> bool {
        self.end_with_caller.contains(name)
    }

    pub(crate) fn raw<F, Fut>(&mut self, name: String, f: F)
    where
        F: Fn(C, Payload) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Outcome> + Send + 'static,
    {
        self.insert(name, Box::new(move |caller, incoming| f(caller, incoming.to_payload()).boxed()));
    }

    /// Starts a handler. A panic in it becomes an error of this call only.
    pub(crate) fn call(&self, name: &str, caller: C, params: Incoming<'_>) -> BoxFuture<'static, Outcome> {
        let Some(handler) = self.handlers.get(name) else {
            let error = RpcError::new(format!("Method not found: {name}")).code(codes::METHOD_NOT_FOUND);
            return std::future::ready(Err(error)).boxed();
        };
        match std::panic::catch_unwind(AssertUnwindSafe(|| handler(caller, params))) {
            Ok(future) => future,
            Err(_) => std::future::ready(Err(panicked())).boxed(),
        }
    }
}

pub(crate) fn panicked() -> RpcError {
    RpcError::new("internal error").code(codes::INTERNAL)
}

/// A unit result is void on the wire; everything else is JSON.
fn to_payload<R: Serialize + 'static>(result: &R) -> Outcome {
    if TypeId::of::<R>() == TypeId::of::<()>() {
        return Ok(Payload::Empty);
    }
    to_raw_value(result)
        .map(Payload::Json)
        .map_err(|error| RpcError::new(format!("the result cannot be written as JSON: {error}")).code(codes::INTERNAL))
}
