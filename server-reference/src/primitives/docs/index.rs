//! [`Index`]: the structure of a document, by which an update is judged before yrs sees it: the known clocks of each
//! client, and the place of every unit.
//!
//! yrs keeps items that it cannot place until the rest arrives, recurses as deep as types are nested, and trusts
//! neighbours to have one parent. Updates that would make use of that are refused here, at no cost that grows with the
//! document.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashMap},
    sync::Arc,
};

use super::error::DocError;
use super::update::{Block, Content, Id, Parent, Role, Update};

/// How deep types may nest; deeper, those who read them overflow their stacks.
const MAX_DEPTH: u16 = 100;

/// The units of each client, and their places.
#[derive(Default)]
pub(crate) struct Index {
    /// The runs of each client, from clock 0 without a gap.
    clients: BTreeMap<u64, Vec<Run>>,
    places: Vec<Place>,
    by_name: HashMap<Arc<Name>, u32>,
}

/// Consecutive units of one client that are alike, up to `end`.
struct Run {
    end: u32,
    unit: Unit,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Unit {
    /// Collected garbage, or inserted into such.
    Gone,
    /// Inserted at this place.
    At(u32, Role),
}

/// A list, or one key of a map: all that have the same place are neighbours.
struct Place {
    name: Arc<Name>,
    depth: u16,
}

#[derive(PartialEq, Eq, Hash)]
struct Name {
    parent: Owner,
    key: Option<Box<str>>,
}

#[derive(PartialEq, Eq, Hash)]
enum Owner {
    Root(Box<str>),
    Item(Id),
}

/// The index before an update, to restore it.
pub(crate) struct Mark {
    places: usize,
    /// Number of runs, and the end of the last one.
    clients: Vec<(u64, usize, u32)>,
    /// Bytes of the new blocks of the update.
    pub(crate) bytes: usize,
    /// The new blocks, by the number of their client and their own, in the order in which they were placed.
    pub(crate) order: Vec<(usize, usize)>,
}

impl Index {
    /// Adds the blocks of an update, if all of them can be placed; else nothing changes.
    pub(crate) fn advance(&mut self, update: &Update<'_>) -> Result<Mark, DocError> {
        let mut mark = Mark { places: self.places.len(), clients: Vec::new(), bytes: 0, order: Vec::new() };
        for (client, _) in &update.clients {
            let runs = self.clients.get(client);
            mark.clients.push((*client, runs.map_or(0, Vec::len), self.known(*client)));
        }
        match self.place_all(update, &mut mark).and_then(|()| self.knows(&update.deletes)) {
            Ok(()) => Ok(mark),
            Err(error) => {
                self.go_back(mark);
                Err(error)
            }
        }
    }

    /// Forgets an update.
    pub(crate) fn go_back(&mut self, mark: Mark) {
        for (client, length, end) in mark.clients {
            if length == 0 {
                self.clients.remove(&client);
            } else if let Some(runs) = self.clients.get_mut(&client) {
                runs.truncate(length);
                if let Some(last) = runs.last_mut() {
                    last.end = end;
                }
            }
        }
        for place in self.places.drain(mark.places..) {
            self.by_name.remove(&place.name);
        }
    }

    /// True if an update inserts something new.
    pub(crate) fn lacks(&self, update: &Update<'_>) -> bool {
        let end = |blocks: &[Block<'_>]| blocks.last().map_or(0, |block| block.end);
        update.clients.iter().any(|(client, blocks)| end(blocks) > self.known(*client))
    }

    /// The first unknown clock of each client, as before an update.
    pub(crate) fn state_vector(&self, before: Option<&Mark>) -> Vec<(u64, u32)> {
        let mut known: Vec<(u64, u32)> = self.clients.keys().map(|client| (*client, self.known(*client))).collect();
        for (client, _, end) in before.iter().flat_map(|mark| &mark.clients) {
            if let Ok(at) = known.binary_search_by_key(client, |(client, _)| *client) {
                known[at].1 = *end;
            }
        }
        known.retain(|(_, clock)| *clock > 0);
        known
    }

    /// The first clock of a client that is not known.
    fn known(&self, client: u64) -> u32 {
        self.clients.get(&client).and_then(|runs| runs.last()).map_or(0, |run| run.end)
    }

    fn knows(&self, deletes: &[(u64, u32, u32)]) -> Result<(), DocError> {
        if deletes.iter().all(|(client, _, end)| *end <= self.known(*client)) { Ok(()) } else { Err(DocError::Missing) }
    }

    /// Places every block once the blocks that it refers to have been placed, in any order of the clients.
    fn place_all(&mut self, update: &Update<'_>, mark: &mut Mark) -> Result<(), DocError> {
        let mut next = vec![0; update.clients.len()];
        let mut ready: Vec<usize> = (0..update.clients.len()).collect();
        // Who waits for a client to be known beyond a clock.
        let mut waiting: HashMap<u64, BinaryHeap<Reverse<(u32, usize)>>> = HashMap::new();
        let mut unfinished = update.clients.len();
        while let Some(current) = ready.pop() {
            let Some((client, blocks)) = update.clients.get(current) else { break };
            let Some(next) = next.get_mut(current) else { break };
            loop {
                let Some(block) = blocks.get(*next) else {
                    unfinished -= 1;
                    break;
                };
                let known = self.known(*client);
                if block.start > known {
                    return Err(DocError::Missing);
                }
                if block.end > known {
                    if let Some(missing) = self.missing(block) {
                        waiting.entry(missing.client).or_default().push(Reverse((missing.clock, current)));
                        break;
                    }
                    let unit = self.unit(*client, known, block)?;
                    self.push(*client, block.end, unit);
                    mark.bytes += block.bytes.len();
                    mark.order.push((current, *next));
                }
                *next += 1;
            }
            let known = self.known(*client);
            if let Some(heap) = waiting.get_mut(client) {
                while heap.peek().is_some_and(|Reverse((clock, _))| *clock < known) {
                    ready.extend(heap.pop().map(|Reverse((_, waiter))| waiter));
                }
            }
        }
        if unfinished == 0 { Ok(()) } else { Err(DocError::Missing) }
    }

    fn missing(&self, block: &Block<'_>) -> Option<Id> {
        let Content::Item { left, right, parent, .. } = &block.content else { return None };
        let owner = match parent {
            Some((Parent::Item(id), _)) => Some(*id),
            _ => None,
        };
        [*left, *right, owner].into_iter().flatten().find(|id| id.clock >= self.known(id.client))
    }

    /// The place that yrs will choose for a block whose units before `known` are present already.
    fn unit(&mut self, client: u64, known: u32, block: &Block<'_>) -> Result<Unit, DocError> {
        let Content::Item { left, right, parent, role } = block.content else { return Ok(Unit::Gone) };
        if left.is_some() && left == right {
            return Err(DocError::Malformed("an item's two neighbours are the same"));
        }
        let left = match block.start < known {
            true => Some(Id { client, clock: known - 1 }),
            false => left,
        };
        let place = match (left.and_then(|id| self.place_of(id)), right.and_then(|id| self.place_of(id))) {
            (Some(left), Some(right)) if left != right => {
                return Err(DocError::Malformed("an item's neighbours are in different places"));
            }
            (Some(place), _) | (None, Some(place)) => place,
            (None, None) => match parent {
                Some((parent, key)) => match self.place_in(parent, key)? {
                    Some(place) => place,
                    None => return Ok(Unit::Gone),
                },
                None => return Ok(Unit::Gone),
            },
        };
        Ok(Unit::At(place, role))
    }

    fn unit_of(&self, id: Id) -> Unit {
        let runs = self.clients.get(&id.client).map_or(&[][..], Vec::as_slice);
        let run = runs.get(runs.partition_point(|run| run.end <= id.clock));
        run.map_or(Unit::Gone, |run| run.unit)
    }

    fn place_of(&self, id: Id) -> Option<u32> {
        match self.unit_of(id) {
            Unit::Gone => None,
            Unit::At(place, _) => Some(place),
        }
    }

    /// The place of that key, or of the list; nothing if the parent is gone.
    fn place_in(&mut self, parent: Parent<'_>, key: Option<&str>) -> Result<Option<u32>, DocError> {
        let (parent, depth) = match parent {
            Parent::Root(name) => (Owner::Root(name.into()), 1),
            Parent::Item(id) => match self.unit_of(id) {
                Unit::Gone | Unit::At(_, Role::Deleted) => return Ok(None),
                Unit::At(_, Role::Value) => return Err(DocError::Malformed("an item's parent holds no items")),
                Unit::At(place, Role::Type) => {
                    let above = usize::try_from(place).ok().and_then(|place| self.places.get(place));
                    (Owner::Item(id), above.map_or(1, |above| above.depth + 1))
                }
            },
        };
        if depth > MAX_DEPTH {
            return Err(DocError::Unsupported("types nested more than 100 deep"));
        }
        let name = Arc::new(Name { parent, key: key.map(Into::into) });
        if let Some(place) = self.by_name.get(&name) {
            return Ok(Some(*place));
        }
        let place = u32::try_from(self.places.len()).map_err(|_| DocError::Malformed("too many places"))?;
        self.places.push(Place { name: name.clone(), depth });
        self.by_name.insert(name, place);
        Ok(Some(place))
    }

    fn push(&mut self, client: u64, end: u32, unit: Unit) {
        let runs = self.clients.entry(client).or_default();
        match runs.last_mut() {
            Some(last) if last.unit == unit => last.end = end,
            _ => runs.push(Run { end, unit }),
        }
    }

    /// The number of runs and places.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.clients.values().map(Vec::len).sum::<usize>() + self.places.len()
    }
}
