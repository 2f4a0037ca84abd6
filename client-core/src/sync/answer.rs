//! [`Answer`]: how something that was sent to a stream has fared.

use crate::error::{CallError, CommandError};

/// How a submission fared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The server has stored it.
    Taken,
    /// Nobody knows: it is sent again once the stream is followed again.
    Unknown,
    /// To be sent again, so many milliseconds later.
    Again(u64),
    /// Refused for good.
    Never(Refused),
}

/// Why something was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) code: i32,
    pub(crate) message: String,
}

/// Milliseconds to wait where the server did not say, or did not answer.
const SOON: u64 = 1_000;

impl From<CallError> for Answer {
    fn from(error: CallError) -> Self {
        match error {
            CallError::ConnectionLost { .. } | CallError::Closed | CallError::Cancelled => Self::Unknown,
            CallError::Timeout { .. } => Self::Again(SOON),
            CallError::Server { retry_after: Some(wait), .. } => Self::Again(wait),
            CallError::Refused(refused) => refused.into(),
            CallError::Server { code, message, .. } => Self::Never(Refused { code, message }),
        }
    }
}

impl From<CommandError> for Answer {
    fn from(refused: CommandError) -> Self {
        match refused {
            CommandError::NotConnected | CommandError::Closed => Self::Unknown,
            CommandError::Limit { .. } => Self::Again(SOON),
            refused => Self::Never(refused.into()),
        }
    }
}

impl From<CommandError> for Refused {
    fn from(refused: CommandError) -> Self {
        Self { code: refused.code(), message: refused.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::codes;

    #[test]
    fn what_may_help_is_tried_again_and_nothing_else() {
        let server = |code, retry_after| CallError::Server { code, message: "no".into(), data: None, retry_after };
        let never = |code, message: &str| Answer::Never(Refused { code, message: message.into() });
        let method = || "m".to_owned();
        for (error, expected) in [
            (CallError::ConnectionLost { method: method() }, Answer::Unknown),
            (CallError::Closed, Answer::Unknown),
            (CallError::Cancelled, Answer::Unknown),
            (CallError::Timeout { method: method(), millis: 5 }, Answer::Again(1_000)),
            (server(codes::LIMIT, Some(70)), Answer::Again(70)),
            (server(codes::FORBIDDEN, Some(0)), Answer::Again(0)),
            (server(codes::LIMIT, None), never(codes::LIMIT, "no")),
            (server(7, None), never(7, "no")),
            (CallError::Refused(CommandError::NotConnected), Answer::Unknown),
            (CallError::Refused(CommandError::Limit { what: "x", limit: 1 }), Answer::Again(1_000)),
            (
                CallError::Refused(CommandError::Unfit { what: "x" }),
                never(codes::INVALID_REQUEST, "x takes other data"),
            ),
        ] {
            assert_eq!(Answer::from(error), expected);
        }
    }
}
