//! The error that a handler answers a call with.

use datasole_core::{codes, wire::RpcErrorBody};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

/// A handler's error, the answer to a call instead of a result. The client sees all of it.
///
/// ```
/// use datasole_server::RpcError;
/// let error = RpcError::new("out of stock").code(409).data(&["red", "blue"]);
/// assert_eq!(error.to_string(), "out of stock");
/// ```
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct RpcError {
    code: i32,
    message: String,
    data: Option<Box<RawValue>>,
}

impl RpcError {
    /// An error of the application, code -32000.
    pub fn new(message: impl Into<String>) -> Self {
        Self { code: codes::HANDLER, message: message.into(), data: None }
    }

    /// An error for parameters that do not fit the method, code -32602.
    pub fn invalid_params(message: impl Into<String>) -> Self {
        Self::new(message).code(codes::INVALID_PARAMS)
    }

    /// An error for a caller who is not allowed to call the method, code -32002.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(message).code(codes::FORBIDDEN)
    }

    /// Replaces the code: one of [`codes`], or the application's own.
    #[must_use]
    pub fn code(mut self, code: i32) -> Self {
        self.code = code;
        self
    }

    /// Adds data for programs. Data that cannot be written as JSON is left out.
    #[must_use]
    pub fn data(mut self, data: &impl Serialize) -> Self {
        self.data = to_raw_value(data).ok();
        self
    }

    pub(crate) fn too_large(bytes: usize, limit: usize) -> Self {
        Self::new(format!("result of {bytes} bytes exceeds the frame limit of {limit}")).code(codes::TOO_LARGE)
    }

    pub(crate) fn body(&self) -> RpcErrorBody<'_> {
        RpcErrorBody { code: self.code, message: self.message.as_str().into(), data: self.data.as_deref() }
    }
}
