//! What clients ask for: calls, events, edits of CRDTs and documents, presence. A [`Session`] reads them; the primitives serve them.

use std::{
    borrow::Cow,
    panic::AssertUnwindSafe,
    task::{Context, Poll, Waker},
};

#[cfg(feature = "docs")]
use datasole_core::wire;
use datasole_core::{StreamId, codes};
use futures_util::{
    FutureExt,
    future::{AbortHandle, Abortable},
};

use super::{Caller, Session};
use crate::{
    answer::{Refusal, Request},
    auth::Identity,
    error::RpcError,
    message::Outgoing,
    primitives::{
        presence::Step,
        rpc::{Incoming, Outcome, panicked},
    },
    task::{Task, at_once},
};
#[cfg(feature = "docs")]
use crate::{budget::weight, primitives::docs};

impl Session {
    pub(super) fn crdt(&self, request: Request, payload: &[u8]) -> Result<Option<Task>, (Request, Refusal)> {
        let read = self.node.crdts.read(self.connection.protocol(), request.correlation, payload);
        let admitted = read.and_then(|(id, op)| self.node.gate.change(&request.identity, &id).map(|()| (id, op)));
        match admitted {
            Ok((id, wanted)) => {
                let node = self.node.clone();
                Ok(at_once(async move { node.crdts.serve(&node.hub, &request, &id, wanted).await }.boxed()))
            }
            Err(refusal) => Err((request, refusal)),
        }
    }

    pub(super) fn presence(&self, request: Request, payload: &[u8]) -> Result<Option<Task>, (Request, Refusal)> {
        let admitted = Step::read(payload, &self.node.limits).and_then(|step| {
            if step.enters() {
                self.node.gate.change(&request.identity, &step.id)?;
            }
            Ok(step)
        });
        match admitted {
            Ok(step) => {
                let (node, held) = (self.node.clone(), self.held().clone());
                let served = async move {
                    let may_enter = |identity: &Identity, id: &StreamId| node.gate.may_change(identity, id);
                    held.joined.serve(&node.hub, &request, step, may_enter).await;
                };
                Ok(at_once(served.boxed()))
            }
            Err(refusal) => Err((request, refusal)),
        }
    }

    #[cfg(feature = "docs")]
    pub(super) fn doc(&self, correlation: u32, payload: &[u8]) -> Option<Task> {
        let followed = wire::split_varuint(payload)
            .and_then(|(channel, message)| Some((self.held().followed.by_channel(channel)?, message)));
        let Some((stream, message)) = followed else {
            self.invalid(correlation, codes::INVALID_REQUEST, "no document is followed on this channel");
            return None;
        };
        self.serve(correlation, weight(&[]) + message.len(), |session, request| match docs::Posted::read(message) {
            _ if !session.node.gate.may_read(&request.identity, stream.id()) => {
                Err((request, Refusal::new(codes::FORBIDDEN, "not allowed to read this document any more")))
            }
            Ok(posted) => {
                let node = session.node.clone();
                let may_write = node.gate.may_change(&request.identity, stream.id());
                let served =
                    async move { docs::serve(&node.hub, &node.docs, &request, &stream, posted, may_write).await };
                Ok(at_once(served.boxed()))
            }
            Err(error) => Err((request, error.into())),
        })
    }

    /// Answers an unreadable call, on both versions, so that its caller does not wait.
    pub(super) fn invalid_call(&self, correlation: u32, out: &mut Outgoing) -> Option<Task> {
        self.node.gate.malformed();
        let error = RpcError::new("the payload is not a call").code(codes::PARSE);
        self.answer(out, correlation, &Err(error));
        None
    }

    fn answer(&self, out: &mut Outgoing, correlation: u32, outcome: &Outcome) {
        self.connection.answer(out, correlation, outcome, self.node.limits.max_payload);
    }

    fn caller(&self) -> Option<Caller> {
        let (node, connection) = (self.node.clone(), self.connection.clone());
        let identity = connection.identity()?;
        Some(Caller { node, connection, identity })
    }

    pub(super) fn call(
        &mut self,
        correlation: u32,
        method: &str,
        params: Incoming<'_>,
        out: &mut Outgoing,
    ) -> Option<Task> {
        let bytes = params.weight();
        if let Err(error) = self.node.gate.call(&self.connection, correlation, method, bytes) {
            self.node.gate.call_failed();
            self.answer(out, correlation, &Err(error));
            return None;
        }
        let mut handler = AssertUnwindSafe(self.node.methods.call(method, self.caller()?, params)).catch_unwind();
        // Most handlers are done at once: their answer joins this batch and costs no task.
        if let Poll::Ready(outcome) = handler.poll_unpin(&mut Context::from_waker(Waker::noop())) {
            let outcome = outcome.unwrap_or_else(|_| Err(panicked()));
            if outcome.is_err() {
                self.node.gate.call_failed();
            }
            self.answer(out, correlation, &outcome);
            return None;
        }
        let (abort, registration) = AbortHandle::new_pair();
        let ends_with_caller = self.node.methods.ends_with_caller(method);
        let busy = self.connection.begin_call(correlation, abort, ends_with_caller, bytes);
        let (node, connection) = (self.node.clone(), self.connection.clone());
        let task = async move {
            let outcome = handler.await.unwrap_or_else(|_| Err(panicked()));
            if outcome.is_err() {
                node.gate.call_failed();
            }
            connection.end_call(correlation, &outcome, node.limits.max_payload);
            drop(busy);
        };
        Some(Abortable::new(task, registration).map(drop).boxed())
    }

    pub(super) fn event(&mut self, correlation: u32, name: Cow<'_, str>, data: Incoming<'_>) -> Option<Task> {
        let busy = match self.node.gate.event(&self.connection, &name, data.len(), data.weight()) {
            Ok(busy) => busy,
            Err(refusal) => {
                self.connection.refuse(correlation, &refusal);
                return None;
            }
        };
        // An event without a handler is dropped.
        match self.node.handlers.start(&name, self.caller()?, data)? {
            Err(error) => {
                let body = error.body();
                self.connection.refuse(correlation, &Refusal::new(body.code, body.message.into_owned()));
                None
            }
            Ok(handler) => {
                let mut handler = AssertUnwindSafe(handler).catch_unwind();
                match handler.poll_unpin(&mut Context::from_waker(Waker::noop())) {
                    Poll::Ready(outcome) => {
                        log(&name, outcome);
                        None
                    }
                    Poll::Pending => {
                        let name = name.into_owned();
                        let task = async move {
                            log(&name, handler.await);
                            drop(busy);
                        };
                        Some(task.boxed())
                    }
                }
            }
        }
    }
}

/// Logs the failure of an event handler.
fn log(event: &str, outcome: std::thread::Result<Result<(), String>>) {
    match outcome {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(event, error, "an event handler failed"),
        Err(_) => tracing::error!(event, "an event handler panicked"),
    }
}
