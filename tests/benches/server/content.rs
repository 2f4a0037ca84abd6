//! What our server holds from the start, and what [`Order::Changes`](crate::serve::Order::Changes) changes.

use std::{fmt, str::FromStr};

/// See the module. Each in a stream, or in streams, that nobody has to follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    Nothing,
    /// A state with so many rows, [`payload::STATE`](crate::payload::STATE); a change is of one cell.
    Rows(usize),
    /// A map (CRDT) of so many entries, [`payload::MAP`](crate::payload::MAP); a change sets one of them.
    Entries(usize),
    /// So many states of one member; a change is of one of them.
    Keys(usize),
}

impl Content {
    /// How many there are that a change may be of.
    pub(crate) fn count(self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Rows(count) | Self::Entries(count) | Self::Keys(count) => count,
        }
    }

    /// Which of them the change of this number is of: far from the last one, as a prime distance is from nearly everything.
    pub(crate) fn of(self, change: u64) -> usize {
        (change * 7_919 % self.count() as u64) as usize
    }
}

/// As on the command line of the child process.
impl fmt::Display for Content {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Nothing => "nothing",
            Self::Rows(_) => "rows",
            Self::Entries(_) => "entries",
            Self::Keys(_) => "keys",
        };
        write!(formatter, "{name}={}", self.count())
    }
}

impl FromStr for Content {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let unknown = || format!("no server holds `{text}`");
        let (name, count) = text.split_once('=').ok_or_else(unknown)?;
        let count = count.parse().map_err(|_| unknown())?;
        match name {
            "nothing" => Ok(Self::Nothing),
            "rows" => Ok(Self::Rows(count)),
            "entries" => Ok(Self::Entries(count)),
            "keys" => Ok(Self::Keys(count)),
            _ => Err(unknown()),
        }
    }
}
