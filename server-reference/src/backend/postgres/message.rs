//! Messages of the bus as bytes, and the hashes by which their addresses are named.

use bytes::Bytes;

use super::note::hash;
use crate::backend::bus::Address;

const NODE: u8 = b'n';
const EVERYBODY: u8 = b'a';
const TOPIC: u8 = b't';

pub(super) fn everybody() -> u64 {
    hash(EVERYBODY, b"")
}

pub(super) fn node_hash(node: u64) -> u64 {
    hash(NODE, &node.to_be_bytes())
}

pub(super) fn topic_hash(topic: &str) -> u64 {
    hash(TOPIC, topic.as_bytes())
}

/// The hash of an address, and the message as it travels.
pub(super) fn write(to: Address<'_>, bytes: &[u8]) -> (u64, Vec<u8>) {
    match to {
        Address::Everybody => (everybody(), [&[EVERYBODY], bytes].concat()),
        Address::Node(node) => (node_hash(node.0), [&[NODE][..], &node.0.to_be_bytes(), bytes].concat()),
        Address::Topic(topic) => {
            let length = u32::try_from(topic.len()).unwrap_or(u32::MAX).to_be_bytes();
            (topic_hash(topic), [&[TOPIC][..], &length, topic.as_bytes(), bytes].concat())
        }
    }
}

/// A message's topic, if it has one, and its content; `None` if it is for another node.
pub(super) fn read(body: &Bytes, node: u64) -> Option<(Option<&str>, Bytes)> {
    let (kind, rest) = body.split_first()?;
    match *kind {
        EVERYBODY => Some((None, body.slice(1..))),
        NODE => {
            let (to, _) = rest.split_first_chunk::<8>()?;
            (u64::from_be_bytes(*to) == node).then(|| (None, body.slice(9..)))
        }
        TOPIC => {
            let (length, rest) = rest.split_first_chunk::<4>()?;
            let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
            let topic = std::str::from_utf8(rest.get(..length)?).ok()?;
            Some((Some(topic), body.slice(5 + length..)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::bus::NodeId;

    #[test]
    fn what_is_written_is_read() {
        let body = |to| Bytes::from(write(to, b"x").1);
        assert_eq!(read(&body(Address::Everybody), 7), Some((None, Bytes::from_static(b"x"))));
        assert_eq!(read(&body(Address::Node(NodeId(7))), 7), Some((None, Bytes::from_static(b"x"))));
        assert_eq!(read(&body(Address::Node(NodeId(8))), 7), None);
        let topic = body(Address::Topic("r:é"));
        assert_eq!(read(&topic, 7), Some((Some("r:é"), Bytes::from_static(b"x"))));
        for end in 0..topic.len() - 1 {
            assert_eq!(read(&topic.slice(..end), 7), None, "{end}");
        }
        assert_eq!(read(&Bytes::from_static(b"?x"), 7), None);
    }
}
