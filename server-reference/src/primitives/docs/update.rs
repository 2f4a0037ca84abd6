//! The structure of a Yjs update (encoding 1), read before anything is trusted: the insertions and deletions of each
//! client. The format is that of `readClientsStructRefs` and `readDeleteSet` in Yjs, and of `Update::decode` in yrs.

use datasole_core::wire::push_varuint;

use super::error::DocError;
use super::lib0::Reader;

/// Clocks end below this: yrs computes with signed numbers.
const MAX_CLOCK: u32 = i32::MAX as u32;
/// Client ids are below this: JavaScript's integers.
const MAX_CLIENT: u64 = 1 << 53;

/// Blocks, and deleted ranges, in a piece of an update.
pub(crate) const PIECE: usize = 16;
pub(crate) const RANGES: usize = 256;

/// Longer, an update is not looked at before it is known where the work is done; bytes.
const SHORT: usize = 256;

/// The id of one unit that a client inserted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Id {
    pub(crate) client: u64,
    pub(crate) clock: u32,
}

/// An update's structure.
pub(crate) struct Update<'a> {
    /// The blocks that each client inserted, at most one list for each.
    pub(crate) clients: Vec<(u64, Vec<Block<'a>>)>,
    /// Ranges of clocks: client, start, end.
    pub(crate) deletes: Vec<(u64, u32, u32)>,
}

/// Consecutive units of one client.
pub(crate) struct Block<'a> {
    pub(crate) start: u32,
    pub(crate) end: u32,
    /// The block as it was written.
    pub(crate) bytes: &'a [u8],
    pub(crate) content: Content<'a>,
}

#[derive(Clone, Copy)]
pub(crate) enum Content<'a> {
    /// Collected garbage: only the clocks are left.
    Gone,
    Item {
        left: Option<Id>,
        right: Option<Id>,
        /// The parent, unless the neighbours tell it.
        parent: Option<(Parent<'a>, Option<&'a str>)>,
        role: Role,
    },
}

#[derive(Clone, Copy)]
pub(crate) enum Parent<'a> {
    Root(&'a str),
    Item(Id),
}

/// The role of an item for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// An item that cannot be a parent.
    Value,
    /// A type that holds others.
    Type,
    /// A deleted item that may have held others.
    Deleted,
}

impl<'a> Update<'a> {
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, DocError> {
        let reader = &mut Reader::new(bytes);
        let mut clients = Vec::new();
        for _ in 0..count(reader, 3)? {
            let blocks = count(reader, 2)?;
            let client = client(reader)?;
            let mut clock = clock(reader)?;
            let mut list = Vec::new();
            for _ in 0..blocks {
                let before = reader.rest();
                let (length, content) = block(reader)?;
                let end = end(clock, length)?;
                let bytes = before.get(..before.len() - reader.len()).unwrap_or_default();
                // Units that were left out, and items without any, which old versions of yrs wrote, say nothing.
                if let Some(content) = content.filter(|_| length > 0) {
                    list.push(Block { start: clock, end, bytes, content });
                }
                clock = end;
            }
            clients.push((client, list));
        }
        let mut deletes = Vec::new();
        let mut deleters = Vec::new();
        for _ in 0..count(reader, 2)? {
            let client = client(reader)?;
            deleters.push(client);
            for _ in 0..count(reader, 2)? {
                let start = clock(reader)?;
                let end = end(start, clock(reader)?)?;
                if start == end {
                    return Err(DocError::Malformed("an empty range is deleted"));
                }
                deletes.push((client, start, end));
            }
        }
        if !reader.is_empty() {
            return Err(DocError::Malformed("bytes follow the update"));
        }
        distinct(clients.iter().map(|(client, _)| *client).collect())?;
        distinct(deleters)?;
        Ok(Self { clients, deletes })
    }

    /// The number of blocks.
    pub(crate) fn blocks(&self) -> usize {
        self.clients.iter().map(|(_, blocks)| blocks.len()).sum()
    }

    /// The same as updates of a few blocks each, in an order in which each block finds those it refers to.
    pub(crate) fn pieces(&self, order: &[(usize, usize)]) -> Vec<Vec<u8>> {
        let mut pieces = Vec::new();
        let mut order = order.iter().peekable();
        while let Some(&(client, first)) = order.next() {
            let Some((id, blocks)) = self.clients.get(client) else { continue };
            let mut last = first;
            while last - first + 1 < PIECE
                && order.next_if(|next| **next == (client, last + 1) && follows(blocks, last)).is_some()
            {
                last += 1;
            }
            let blocks = blocks.get(first..=last).unwrap_or_default();
            let mut piece = vec![1];
            push_varuint(&mut piece, blocks.len() as u64);
            push_varuint(&mut piece, *id);
            push_varuint(&mut piece, blocks.first().map_or(0, |block| u64::from(block.start)));
            blocks.iter().for_each(|block| piece.extend_from_slice(block.bytes));
            piece.push(0);
            pieces.push(piece);
        }
        for ranges in self.deletes.chunks(RANGES) {
            let mut piece = vec![0];
            let clients = ranges.chunk_by(|(one, ..), (other, ..)| one == other);
            push_varuint(&mut piece, clients.clone().count() as u64);
            for ranges in clients {
                push_varuint(&mut piece, ranges.first().map_or(0, |(client, ..)| *client));
                push_varuint(&mut piece, ranges.len() as u64);
                for (_, start, end) in ranges {
                    push_varuint(&mut piece, u64::from(*start));
                    push_varuint(&mut piece, u64::from(end - start));
                }
            }
            pieces.push(piece);
        }
        pieces
    }
}

/// The units of work on an update: one for every 16 bytes, or for every block and range of a short one, if these are fewer.
pub(super) fn effort(bytes: &[u8]) -> usize {
    let most = bytes.len() / 16 + 1;
    if bytes.len() > SHORT {
        return most;
    }
    Update::parse(bytes).map_or(most, |update| most.min(update.blocks() + update.deletes.len()))
}

/// True if nothing was left out between a block and the next one.
fn follows(blocks: &[Block<'_>], at: usize) -> bool {
    matches!(blocks.get(at..at + 2), Some([block, next]) if block.end == next.start)
}

/// A number of things that follow and take at least `each` bytes.
fn count(reader: &mut Reader<'_>, each: usize) -> Result<usize, DocError> {
    let count = reader.varuint().and_then(|count| usize::try_from(count).ok()).ok_or(CUT)?;
    if count > reader.len() / each { Err(CUT) } else { Ok(count) }
}

const CUT: DocError = DocError::Malformed("it ends early");

pub(crate) fn client(reader: &mut Reader<'_>) -> Result<u64, DocError> {
    reader.varuint().filter(|client| *client < MAX_CLIENT).ok_or(DocError::Malformed("a client id is out of range"))
}

pub(crate) fn clock(reader: &mut Reader<'_>) -> Result<u32, DocError> {
    reader.small().filter(|clock| *clock < MAX_CLOCK).ok_or(DocError::Malformed("a clock is out of range"))
}

fn end(start: u32, length: u32) -> Result<u32, DocError> {
    start.checked_add(length).filter(|end| *end < MAX_CLOCK).ok_or(DocError::Malformed("a clock is out of range"))
}

fn distinct(mut clients: Vec<u64>) -> Result<(), DocError> {
    let all = clients.len();
    clients.sort_unstable();
    clients.dedup();
    if clients.len() < all { Err(DocError::Malformed("a client appears twice")) } else { Ok(()) }
}

fn id(reader: &mut Reader<'_>) -> Result<Id, DocError> {
    Ok(Id { client: client(reader)?, clock: clock(reader)? })
}

/// The number and kind of units; `None` for units that were left out.
fn block<'a>(reader: &mut Reader<'a>) -> Result<(u32, Option<Content<'a>>), DocError> {
    const LEFT: u8 = 0x80;
    const RIGHT: u8 = 0x40;
    const NAMED: u8 = 0x20;
    let info = reader.byte().ok_or(CUT)?;
    if info == 0 || info == 10 {
        let length = clock(reader)?;
        if length == 0 {
            return Err(DocError::Malformed("a block is empty"));
        }
        return Ok((length, (info == 0).then_some(Content::Gone)));
    }
    let left = if info & LEFT != 0 { Some(id(reader)?) } else { None };
    let right = if info & RIGHT != 0 { Some(id(reader)?) } else { None };
    let parent = if left.is_some() || right.is_some() {
        None
    } else {
        let parent = match reader.varuint().ok_or(CUT)? {
            1 => Parent::Root(reader.string().ok_or(CUT)?),
            0 => Parent::Item(id(reader)?),
            _ => return Err(DocError::Malformed("an item's parent is of an unknown form")),
        };
        let key = if info & NAMED != 0 { Some(reader.string().ok_or(CUT)?) } else { None };
        Some((parent, key))
    };
    let (length, role) = content(info & 0x1f, reader)?;
    Ok((length, Some(Content::Item { left, right, parent, role })))
}

/// Passes over an item's content: the number of its units, and its role.
fn content(kind: u8, reader: &mut Reader<'_>) -> Result<(u32, Role), DocError> {
    let (length, role) = match kind {
        1 => (clock(reader)?, Role::Deleted),
        3 => (reader.bytes().map(|_| 1).ok_or(CUT)?, Role::Value),
        // A string is counted in UTF-16's units.
        4 => (units(reader.string().ok_or(CUT)?)?, Role::Value),
        5 => (reader.string().map(|_| 1).ok_or(CUT)?, Role::Value),
        6 => (reader.string().and_then(|_| reader.string()).map(|_| 1).ok_or(CUT)?, Role::Value),
        7 => {
            match reader.byte().ok_or(CUT)? {
                0 | 1 | 2 | 4 | 6 => {}
                3 => drop(reader.string().ok_or(CUT)?),
                // Of an XML hook (5) yrs does not read the name.
                _ => return Err(DocError::Unsupported("this shared type")),
            }
            (1, Role::Type)
        }
        8 => {
            let values = count(reader, 1)?;
            for _ in 0..values {
                reader.skip_any().ok_or(DocError::Malformed("a value cannot be read"))?;
            }
            (u32::try_from(values).unwrap_or(MAX_CLOCK), Role::Value)
        }
        // yrs reads one string too many, and Yjs has not written it since version 13.
        2 => return Err(DocError::Unsupported("content of Yjs before version 13")),
        // yrs keeps pointers to its item that outlive it.
        9 => return Err(DocError::Unsupported("a document inside a document: give it a key of its own")),
        _ => return Err(DocError::Malformed("content is of an unknown kind")),
    };
    Ok((length, role))
}

fn units(text: &str) -> Result<u32, DocError> {
    u32::try_from(text.encode_utf16().count()).map_err(|_| DocError::Malformed("a text is too long"))
}
