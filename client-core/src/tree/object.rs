//! [`Object`]: members in the order of their names.
//!
//! Rows share their names while they have those they were made with: a row to which a member came, or from which one went,
//! has a list of its own from then on, even when it has the names of its neighbours again, until it is replaced.

use std::{
    borrow::Cow,
    collections::{BTreeMap, btree_map},
    iter::Zip,
    mem,
    rc::Rc,
    slice,
    sync::Arc,
};

use super::{Text, Tree};

/// The most members of a row; more are a map, in which one comes or goes without moving the others.
const ROW: usize = 32;

/// How many lists of names are remembered while objects are made.
const REMEMBERED: usize = 16;

/// The members of an object.
#[derive(Clone)]
pub(crate) enum Object {
    Row(Row),
    #[expect(clippy::box_collection, reason = "a map in place would make every row larger")]
    Map(Box<BTreeMap<Text, Tree>>),
}

/// As many values as names.
#[derive(Clone)]
pub(crate) struct Row {
    names: Arc<Names>,
    values: Box<[Tree]>,
}

/// Names in their order, no two alike. Shared by the objects that have these.
type Names = Box<[Text]>;

impl Object {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Row(row) => row.values.len(),
            Self::Map(map) => map.len(),
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Tree> {
        match self {
            Self::Row(row) => row.values.get(row.place(name).ok()?),
            Self::Map(map) => map.get(name.as_bytes()),
        }
    }

    pub(crate) fn get_mut(&mut self, name: &str) -> Option<&mut Tree> {
        match self {
            Self::Row(row) => row.values.get_mut(row.place(name).ok()?),
            Self::Map(map) => map.get_mut(name.as_bytes()),
        }
    }

    pub(crate) fn iter(&self) -> Members<'_> {
        match self {
            Self::Row(row) => Members::Row(row.names.iter().zip(&*row.values)),
            Self::Map(map) => Members::Map(map.iter()),
        }
    }

    /// The members in an order of [`Orders`], if there is one.
    pub(super) fn iter_as<'a>(&'a self, order: Option<&'a [u8]>) -> Members<'a> {
        match (self, order) {
            (Self::Row(row), Some(order)) => Members::Ordered(row, order.iter()),
            _ => self.iter(),
        }
    }

    /// Sets a member, and returns what it was.
    pub(crate) fn insert(&mut self, name: &str, value: Tree) -> Option<Tree> {
        let row = match self {
            Self::Row(row) => row,
            Self::Map(map) => return map.insert(name.into(), value),
        };
        let at = match row.place(name) {
            Ok(at) => return row.values.get_mut(at).map(|member| mem::replace(member, value)),
            Err(at) => at,
        };
        if row.values.len() < ROW {
            let mut names = row.names.to_vec();
            names.insert(at, name.into());
            row.edit(names, |values| values.insert(at, value));
        } else {
            let values = mem::take(&mut row.values).into_iter();
            let mut map: BTreeMap<Text, Tree> = row.names.iter().cloned().zip(values).collect();
            map.insert(name.into(), value);
            *self = Self::Map(Box::new(map));
        }
        None
    }

    /// Removes a member.
    pub(crate) fn remove(&mut self, name: &str) -> Option<Tree> {
        match self {
            Self::Row(row) => {
                let at = row.place(name).ok()?;
                let mut names = row.names.to_vec();
                names.remove(at);
                Some(row.edit(names, |values| values.remove(at)))
            }
            Self::Map(map) => map.remove(name.as_bytes()),
        }
    }

    /// Shares the names of `like` where both have the same, and so on with the members.
    pub(super) fn adopt(&mut self, like: &Self) {
        let (Self::Row(row), Self::Row(like)) = (self, like) else { return };
        if !Arc::ptr_eq(&row.names, &like.names) {
            if row.names != like.names {
                return;
            }
            row.names = like.names.clone();
        }
        row.values.iter_mut().zip(&like.values).for_each(|(own, like)| own.adopt(like));
    }

    /// Whether both have the same list of names, and not only the same names.
    #[cfg(test)]
    pub(super) fn shares_names(&self, other: &Self) -> bool {
        matches!((self, other), (Self::Row(a), Self::Row(b)) if Arc::ptr_eq(&a.names, &b.names))
    }
}

impl Row {
    /// Where a name is, or belongs.
    fn place(&self, name: &str) -> Result<usize, usize> {
        self.names.binary_search_by(|own| own.as_bytes().cmp(name.as_bytes()))
    }

    fn edit<R>(&mut self, names: Vec<Text>, change: impl FnOnce(&mut Vec<Tree>) -> R) -> R {
        let mut values = mem::take(&mut self.values).into_vec();
        let changed = change(&mut values);
        (self.names, self.values) = (Arc::new(names.into()), values.into());
        changed
    }
}

/// No members.
impl Default for Object {
    fn default() -> Self {
        Self::Row(Row { names: Arc::default(), values: Box::default() })
    }
}

/// Equal members, however they are kept.
impl PartialEq for Object {
    fn eq(&self, other: &Self) -> bool {
        if let (Self::Row(a), Self::Row(b)) = (self, other)
            && Arc::ptr_eq(&a.names, &b.names)
        {
            return a.values == b.values;
        }
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

/// The members, in the order of their names or of a text.
pub(crate) enum Members<'a> {
    Ordered(&'a Row, slice::Iter<'a, u8>),
    Row(Zip<slice::Iter<'a, Text>, slice::Iter<'a, Tree>>),
    Map(btree_map::Iter<'a, Text, Tree>),
}

impl<'a> Iterator for Members<'a> {
    type Item = (&'a Text, &'a Tree);

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Row(members) => members.next(),
            Self::Map(members) => members.next(),
            Self::Ordered(row, places) => {
                let place = usize::from(*places.next()?);
                Some((&row.names[place], &row.values[place]))
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        match self {
            Self::Row(members) => members.size_hint(),
            Self::Map(members) => members.size_hint(),
            Self::Ordered(_, places) => places.size_hint(),
        }
    }
}

/// The names of objects that were made, the newest first.
#[derive(Default)]
pub(super) struct Forms {
    known: Vec<Form>,
}

/// Names as some text has them.
struct Form {
    names: Arc<Names>,
    /// For each name, which one of the text it is.
    order: Box<[u8]>,
}

impl Forms {
    /// Makes an object of as many names as values, and leaves `values` empty but for what was before `start`. Of members
    /// with the same name the last one counts.
    pub(super) fn object(&mut self, names: &[Cow<'_, str>], values: &mut Vec<Tree>, start: usize) -> Object {
        if names.len() > ROW {
            let members = names.iter().map(|name| Text::from(&**name)).zip(values.drain(start..));
            let map: BTreeMap<Text, Tree> = members.collect();
            return Object::Map(Box::new(map));
        }
        let at = self.known.iter().position(|form| form.is(names)).unwrap_or_else(|| {
            self.known.truncate(REMEMBERED - 1);
            self.known.push(Form::new(names));
            self.known.len() - 1
        });
        // The least recently used is the first to go.
        self.known[..=at].rotate_right(1);
        let Form { names, order } = &self.known[0];
        let own = &mut values[start..];
        let ordered = order.iter().map(|&at| mem::take(&mut own[usize::from(at)])).collect();
        values.truncate(start);
        Object::Row(Row { names: names.clone(), values: ordered })
    }
}

impl Form {
    fn new(text: &[Cow<'_, str>]) -> Self {
        let mut order: Vec<u8> = (0..).take(text.len()).collect();
        order.sort_by_key(|&at| &text[usize::from(at)]);
        // The last one of each name: they are behind those before.
        let mut last = Vec::with_capacity(order.len());
        for at in order {
            match last.last_mut() {
                Some(before) if text[usize::from(*before)] == text[usize::from(at)] => *before = at,
                _ => last.push(at),
            }
        }
        let names: Names = last.iter().map(|&at| Text::from(&*text[usize::from(at)])).collect();
        Self { names: Arc::new(names), order: last.into() }
    }

    /// Whether these are the names, each once and in the order of the text.
    fn is(&self, text: &[Cow<'_, str>]) -> bool {
        let same =
            |(name, &at): (&Text, &u8)| text.get(usize::from(at)).is_some_and(|own| own.as_bytes() == name.as_bytes());
        self.names.len() == text.len() && self.names.iter().zip(&self.order).all(same)
    }
}

/// The orders in which a text has the members of rows, those last used first: rows with the same names have them mostly in the same one.
#[derive(Default)]
pub(super) struct Orders {
    known: Vec<(Arc<Names>, Rc<[u8]>)>,
}

impl Orders {
    /// The order of the last row with these names that had another than was expected: each of their places once.
    pub(super) fn of(&mut self, object: &Object) -> Option<Rc<[u8]>> {
        let Object::Row(row) = object else { return None };
        let at = self.known.iter().position(|(names, _)| Arc::ptr_eq(names, &row.names))?;
        self.known[..=at].rotate_right(1);
        Some(self.known[0].1.clone())
    }

    /// The order of a row's members, if it was not expected.
    pub(super) fn new_one(&mut self, object: &Object, members: &[*const Tree]) -> Option<Rc<[u8]>> {
        let expected = self.of(object);
        let mut expected = object.iter_as(expected.as_deref()).map(|(_, member)| std::ptr::from_ref(member));
        let Object::Row(row) = object else { return None };
        if members.len() != row.values.len() || members.iter().all(|member| expected.next() == Some(*member)) {
            return None;
        }
        let place = |member: &*const Tree| row.values.iter().position(|own| std::ptr::eq(own, *member));
        members.iter().map(|member| place(member)?.try_into().ok()).collect()
    }

    /// Notes the order of a row that has each member once.
    pub(super) fn remember(&mut self, object: &Object, order: Rc<[u8]>) {
        let Object::Row(row) = object else { return };
        self.known.retain(|(names, _)| !Arc::ptr_eq(names, &row.names));
        self.known.truncate(REMEMBERED - 1);
        self.known.insert(0, (row.names.clone(), order));
    }
}
