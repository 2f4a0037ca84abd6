//! Calls: from a [`CallId`] of ours to a correlation id on the wire and to the one end that every call has.
//!
//! Knows neither sockets nor the queue: it keeps the books, and reads and writes the payloads.

use serde_json::value::RawValue;

use crate::{
    error::{CallError, codes},
    event::{CallId, Payload, SubscriptionId},
    frame::Opcode,
    json,
    read::Read,
    table::Table,
    time::Millis,
    wire::{ErrorBody, RpcResponse, join_binary, split_binary},
    write,
};

/// The calls that have not ended.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    last: u64,
    pending: Table<CallId, Pending>,
    /// Ordered, so that the next deadline is found without a scan.
    deadlines: Table<(Millis, CallId), ()>,
    wire: Table<u32, CallId>,
}

/// One of them.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) method: String,
    /// What the caller allowed; milliseconds.
    pub(crate) timeout: u64,
    pub(crate) place: Place,
    deadline: Millis,
}

/// Where a call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the queue, under this number.
    Queued(u64),
    /// Sent, under this correlation id.
    Sent(u32),
    /// The same, but no call: there is nothing to cancel. To a document, the answer says where the stream is.
    Submitted(u32, Option<SubscriptionId>),
}

impl Place {
    fn correlation(self) -> Option<u32> {
        match self {
            Self::Queued(_) => None,
            Self::Sent(correlation) | Self::Submitted(correlation, _) => Some(correlation),
        }
    }
}

impl Calls {
    pub(crate) fn len(&self) -> usize {
        self.pending.len()
    }

    /// A new id. One that is never inserted is simply skipped.
    pub(crate) fn next_id(&mut self) -> CallId {
        self.last += 1;
        CallId(self.last)
    }

    pub(crate) fn insert(&mut self, call: CallId, method: String, now: Millis, timeout: u64, place: Place) {
        let deadline = now + timeout;
        self.deadlines.insert((deadline, call), ());
        if let Some(correlation) = place.correlation() {
            self.wire.insert(correlation, call);
        }
        self.pending.insert(call, Pending { method, timeout, place, deadline });
    }

    pub(crate) fn method(&self, call: CallId) -> Option<&str> {
        self.pending.get(&call).map(|pending| pending.method.as_str())
    }

    /// The call leaves the queue under `correlation`.
    pub(crate) fn sent(&mut self, call: CallId, correlation: u32) {
        if let Some(pending) = self.pending.get_mut(&call) {
            pending.place = Place::Sent(correlation);
            self.wire.insert(correlation, call);
        }
    }

    /// Whether a call waits for an answer under `correlation`.
    pub(crate) fn uses(&self, correlation: u32) -> bool {
        self.wire.contains_key(&correlation)
    }

    /// Takes a call out, because it ends.
    pub(crate) fn take(&mut self, call: CallId) -> Option<Pending> {
        let pending = self.pending.remove(&call)?;
        self.deadlines.remove(&(pending.deadline, call));
        if let Some(correlation) = pending.place.correlation() {
            self.wire.remove(&correlation);
        }
        Some(pending)
    }

    /// Takes out the call that was sent under `correlation`.
    pub(crate) fn take_sent(&mut self, correlation: u32) -> Option<(CallId, Place)> {
        let call = *self.wire.get(&correlation)?;
        self.take(call).map(|pending| (call, pending.place))
    }

    /// Takes out one call whose deadline has come.
    pub(crate) fn take_expired(&mut self, now: Millis) -> Option<(CallId, Pending)> {
        let &(deadline, call) = self.deadlines.first()?.0;
        if deadline > now {
            return None;
        }
        self.take(call).map(|pending| (call, pending))
    }

    /// Takes out one call that was sent, oldest first as far as correlation ids tell.
    pub(crate) fn take_any_sent(&mut self) -> Option<(CallId, Pending)> {
        let call = *self.wire.first()?.1;
        self.take(call).map(|pending| (call, pending))
    }

    /// Takes out one call, oldest first.
    pub(crate) fn take_any(&mut self) -> Option<CallId> {
        let call = *self.pending.first()?.0;
        self.take(call).map(|_| call)
    }

    /// The earliest deadline.
    pub(crate) fn deadline(&self) -> Option<Millis> {
        self.deadlines.first().map(|(&(deadline, _), ())| deadline)
    }
}

/// The frame of a request; `short` where the server reads that.
pub(crate) fn request(method: &str, params: &Payload, correlation: u32, short: bool) -> (Opcode, Vec<u8>) {
    let (params, bytes) = match params {
        Payload::Empty => (Some(RawValue::NULL), None),
        Payload::Json(raw) => (Some(&**raw), None),
        Payload::Binary(bytes) => (None, Some(bytes)),
    };
    if let Some(params) = params.filter(|_| short) {
        return (Opcode::Call, write::call(method, params));
    }
    let request = write::request(method, params, correlation);
    match bytes {
        None => (Opcode::RpcRequest, request),
        Some(bytes) => (Opcode::RpcRequestBinary, join_binary(&request, bytes)),
    }
}

/// What an RPC_RES says. One that cannot be read ends its call all the same.
pub(crate) fn response(payload: &[u8]) -> Result<Payload, CallError> {
    let response: RpcResponse<'_> = Read::read(payload).ok_or_else(unreadable)?;
    match response.error {
        Some(error) => Err(CallError::Server {
            code: error.code,
            message: error.message.into_owned(),
            data: error.data.map(RawValue::to_owned),
            retry_after: None,
        }),
        None => Ok(response.result.map_or(Payload::Empty, |raw| Payload::Json(raw.to_owned()))),
    }
}

/// The result in a RESULT: the result's text, or nothing.
pub(crate) fn result(payload: &[u8]) -> Result<Payload, CallError> {
    if payload.is_empty() {
        return Ok(Payload::Empty);
    }
    json::from_bytes(payload).map(|raw| Payload::Json(raw.to_owned())).ok_or_else(unreadable)
}

/// What an RPC_RES_BIN says; its JSON part only repeats the correlation id.
pub(crate) fn binary_response(payload: &[u8]) -> Result<Payload, CallError> {
    split_binary(payload).map(|(_, bytes)| Payload::Binary(bytes.to_vec())).ok_or_else(unreadable)
}

/// What an ERROR says.
pub(crate) struct Refusal {
    pub(crate) code: i32,
    pub(crate) message: String,
    pub(crate) retry_after: Option<u64>,
}

impl Refusal {
    /// Reads the payload of an ERROR. An unreadable one still counts as a refusal.
    pub(crate) fn read(payload: &[u8]) -> Self {
        match ErrorBody::read(payload) {
            Some(body) => Self {
                code: body.code.unwrap_or(codes::HANDLER),
                message: body.message.into_owned(),
                retry_after: body.retry_after,
            },
            None => Self { code: codes::PARSE, message: UNREADABLE.into(), retry_after: None },
        }
    }
}

impl From<Refusal> for CallError {
    fn from(Refusal { code, message, retry_after }: Refusal) -> Self {
        Self::Server { code, message, data: None, retry_after }
    }
}

const UNREADABLE: &str = "the answer cannot be read";

pub(crate) fn unreadable() -> CallError {
    CallError::Server { code: codes::PARSE, message: UNREADABLE.into(), data: None, retry_after: None }
}

/// A correlation id that is not in use; never 0. `last` is where the search begins and what it leaves behind.
///
/// Ends because far fewer than 2^32 are in use at once.
pub(crate) fn next_correlation(last: &mut u32, in_use: impl Fn(u32) -> bool) -> u32 {
    loop {
        *last = last.checked_add(1).unwrap_or(1);
        if !in_use(*last) {
            return *last;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn correlation_ids_wrap_around_zero_and_what_is_in_use() {
        for (last, in_use, expected) in [
            (0, &[][..], 1),
            (0, &[1, 2][..], 3),
            (u32::MAX - 1, &[][..], u32::MAX),
            (u32::MAX, &[][..], 1),
            (u32::MAX, &[1, 3][..], 2),
            (u32::MAX - 1, &[u32::MAX, 1][..], 2),
        ] {
            let mut last = last;
            assert_eq!(next_correlation(&mut last, |id| in_use.contains(&id)), expected);
            assert_eq!(last, expected);
        }
    }

    #[test]
    fn deadlines_come_in_order_and_each_call_ends_once() {
        let mut calls = Calls::default();
        for (id, timeout) in [(1, 30), (2, 10), (3, 20)] {
            calls.insert(CallId(id), "m".into(), Millis(0), timeout, Place::Sent(id as u32 + 100));
        }
        assert_eq!(calls.deadline(), Some(Millis(10)));
        assert!(calls.take_expired(Millis(9)).is_none());
        assert_eq!(calls.take_expired(Millis(10)).map(|(call, _)| call), Some(CallId(2)));
        assert!(!calls.uses(102) && calls.take(CallId(2)).is_none() && calls.take_sent(102).is_none());
        assert_eq!(calls.take_sent(103).map(|(call, _)| call), Some(CallId(3)));
        assert_eq!(calls.deadline(), Some(Millis(30)));
        assert_eq!(calls.take_any(), Some(CallId(1)));
        assert_eq!((calls.len(), calls.deadline(), calls.take_any()), (0, None, None));
    }

    #[test]
    fn requests_are_written_as_version_1_writes_them() {
        let (opcode, payload) = request("ping", &Payload::Empty, 7, false);
        assert_eq!(opcode, Opcode::RpcRequest);
        assert_eq!(payload, br#"{"method":"ping","params":null,"correlationId":7}"#);
    }

    #[test]
    fn short_requests_are_the_name_and_the_parameters() {
        let params = Payload::Json(RawValue::from_string("[1]".into()).unwrap());
        assert_eq!(request("add", &params, 7, true), (Opcode::Call, b"\x03add[1]".to_vec()));
        assert_eq!(request("ping", &Payload::Empty, 7, true), (Opcode::Call, b"\x04pingnull".to_vec()));
        let (opcode, _) = request("blob", &Payload::Binary(vec![1]), 7, true);
        assert_eq!(opcode, Opcode::RpcRequestBinary, "raw bytes go as they did");
    }

    #[test]
    fn short_results_are_read() {
        for (payload, expected) in
            [("", "Ok(Empty)"), ("null", "Ok(Json(RawValue(null)))"), (" [1] ", "Ok(Json(RawValue([1])))")]
        {
            assert_eq!(format!("{:?}", result(payload.as_bytes())), expected);
        }
        for garbage in [&b" "[..], b"[1", b"1 2", b"\xff", b"undefined"] {
            assert_eq!(result(garbage).unwrap_err().code(), codes::PARSE);
        }
    }

    #[test]
    fn answers_are_read() {
        for (payload, expected) in [
            (r#"{"correlationId":1,"result":{"a": 1}}"#, r#"Ok(Json(RawValue({"a": 1})))"#),
            (r#"{"correlationId":1,"result":null}"#, "Ok(Json(RawValue(null)))"),
            (r#"{"correlationId":1}"#, "Ok(Empty)"),
            (r#"{"result":1,"error":null}"#, "Ok(Json(RawValue(1)))"),
            (
                r#"{"error":{"code":-7,"message":"no","data":[1]}}"#,
                r#"Err(Server { code: -7, message: "no", data: Some(RawValue([1])), retry_after: None })"#,
            ),
        ] {
            assert_eq!(format!("{:?}", response(payload.as_bytes())), expected);
        }
        for garbage in [&b""[..], b"{", b"[]x", b"{\"error\":{}}", b"\xff"] {
            assert_eq!(response(garbage).unwrap_err().code(), codes::PARSE);
            assert_eq!(Refusal::read(garbage).code, codes::PARSE);
        }
        assert_eq!(binary_response(&[0, 0]).unwrap_err().code(), codes::PARSE);
    }
}
