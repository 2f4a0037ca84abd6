//! [`Seat`] and [`Name`]: how nodes tell each other's connections apart, and which incarnation of a node they belong to.

use std::{fmt, str::FromStr};

/// A connection of some node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Seat {
    /// The node; 0 is this one.
    node: u64,
    serial: u64,
}

impl Seat {
    /// A connection of this node.
    pub(crate) const fn here(serial: u64) -> Self {
        Self { node: 0, serial }
    }

    /// A connection of another node.
    pub(super) fn of(node: u64, serial: u64) -> Self {
        Self { node, serial }
    }

    /// A connection of another node, for tests.
    #[cfg(all(test, feature = "docs"))]
    pub(crate) fn elsewhere(serial: u64) -> Self {
        Self::of(u64::MAX, serial)
    }

    /// The other node; `None` for this one.
    pub(super) fn node(self) -> Option<u64> {
        (self.node != 0).then_some(self.node)
    }

    /// The number of a connection of this node.
    pub(crate) fn serial_here(self) -> Option<u64> {
        (self.node == 0).then_some(self.serial)
    }
}

/// An incarnation of a node: a node that has lost its lease begins another. Written `node.incarnation`, in hexadecimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name {
    pub(super) node: u64,
    pub(super) incarnation: u32,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}.{:x}", self.node, self.incarnation)
    }
}

/// The text is not a name.
#[derive(Debug)]
pub(super) struct NoName;

impl FromStr for Name {
    type Err = NoName;

    fn from_str(text: &str) -> Result<Self, NoName> {
        let (node, incarnation) = text.split_once('.').ok_or(NoName)?;
        let node = u64::from_str_radix(node, 16).map_err(|_| NoName)?;
        Ok(Self { node, incarnation: u32::from_str_radix(incarnation, 16).map_err(|_| NoName)? })
    }
}

impl Name {
    /// The field that holds what a connection shares.
    pub(super) fn field(self, serial: u64) -> String {
        format!("{self}-{serial:x}")
    }

    /// The incarnation and the connection that a field is of.
    pub(super) fn of_field(field: &str) -> Option<(Self, u64)> {
        let (name, serial) = field.split_once('-')?;
        Some((name.parse().ok()?, u64::from_str_radix(serial, 16).ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_tells_incarnation_and_connection() {
        let name = Name { node: u64::MAX, incarnation: 16 };
        assert_eq!(name.field(255), "ffffffffffffffff.10-ff");
        assert_eq!(Name::of_field(&name.field(255)), Some((name, 255)));
        for other in ["", "1.0", "1-0", ".-", "1.0-", "1.x-1", "1.100000000-1", "10000000000000000.0-1"] {
            assert_eq!(Name::of_field(other), None, "{other:?}");
        }
    }
}
