//! [`Comparison`]: a text and the tree that it may be the same as. What is equal is read, and no tree is made of it.

use super::{Node, Object, Tree, object::Orders, parse::Parser};
use crate::json::value::{Reader, Unfit};

/// A text that is compared with trees.
pub(crate) struct Comparison<'a> {
    parser: Parser<'a>,
    /// Members of the objects that are being compared with the text, of each those that it has.
    seen: Vec<*const Tree>,
    orders: Orders,
    /// Bytes that the reader went back.
    #[cfg(test)]
    pub(crate) again: usize,
    /// Objects whose members came in another order than was expected.
    #[cfg(test)]
    pub(crate) unexpected: usize,
}

impl<'a> Comparison<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self {
            parser: Parser::new(text),
            seen: Vec::new(),
            orders: Orders::default(),
            #[cfg(test)]
            again: 0,
            #[cfg(test)]
            unexpected: 0,
        }
    }

    /// Goes on reading elsewhere.
    pub(crate) fn go(&mut self, at: usize) {
        #[cfg(test)]
        {
            self.again += self.parser.reader.at.saturating_sub(at);
        }
        self.parser.reader.at = at;
    }

    /// Where the text is read.
    pub(crate) fn reader(&mut self) -> &mut Reader<'a> {
        &mut self.parser.reader
    }

    /// The next value, within so many arrays and objects.
    pub(crate) fn tree(&mut self, depth: usize) -> Result<Tree, Unfit> {
        self.parser.tree(depth)
    }

    /// Where the members of an object begin that is compared now.
    pub(crate) fn begin(&self) -> usize {
        self.seen.len()
    }

    /// Notes that the text has this member of it.
    pub(crate) fn see(&mut self, member: &Tree) {
        self.seen.push(member);
    }

    /// The members of the object that the text has not; an error where it has one twice.
    pub(crate) fn end<'o>(&mut self, object: &'o Object, before: usize) -> Result<Vec<&'o str>, Unfit> {
        if !self.is_each_once(before) {
            return Err(Unfit::Other);
        }
        let (seen, mut left) = (&self.seen[before..], Vec::new());
        if seen.len() < object.len() {
            let unseen = |member: &Tree| seen.binary_search(&std::ptr::from_ref(member)).is_err();
            left.extend(object.iter().filter(|(_, member)| unseen(member)).map(|(name, _)| name.as_str()));
        }
        self.seen.truncate(before);
        Ok(left)
    }

    /// Whether the next value, within so many arrays and objects, equals `old`. It is not read any further than that.
    pub(crate) fn is(&mut self, old: &Tree, depth: usize) -> Result<bool, Unfit> {
        let seen = self.seen.len();
        let read = self.expect(old, depth);
        self.seen.truncate(seen);
        match read {
            Ok(()) => Ok(true),
            Err(Unfit::Other) => Ok(false),
            Err(unfit) => Err(unfit),
        }
    }

    fn expect(&mut self, old: &Tree, depth: usize) -> Result<(), Unfit> {
        let is_same = match (self.parser.reader.peek(), &old.0) {
            (Some(b'"'), Node::Text(old)) => {
                let (reader, old) = (&mut self.parser.reader, old.as_bytes());
                reader.pass(old) || reader.string()?.as_bytes() == old
            }
            (Some(b'{'), Node::Object(old)) => self.has_members(old, depth)?,
            (Some(b'['), Node::Array(old)) => {
                let mut left = old.iter();
                let mut more = self.parser.reader.open(b']', depth)?;
                while more {
                    self.expect(left.next().ok_or(Unfit::Other)?, depth + 1)?;
                    more = self.parser.reader.next(b']')?;
                }
                left.next().is_none()
            }
            (Some(b'"' | b'{' | b'['), _) | (Some(_), Node::Text(_) | Node::Array(_) | Node::Object(_)) => false,
            (Some(b't' | b'f' | b'n'), old) => self.tree(depth)?.0 == *old,
            (Some(_), old) => self.parser.number()? == *old,
            (None, _) => return Err(Unfit::Syntax),
        };
        if is_same { Ok(()) } else { Err(Unfit::Other) }
    }

    fn has_members(&mut self, old: &Object, depth: usize) -> Result<bool, Unfit> {
        let mut more = self.parser.reader.open(b'}', depth)?;
        let order = self.orders.of(old);
        for (count, (name, member)) in old.iter_as(order.as_deref()).enumerate() {
            if !more {
                return Ok(false);
            }
            if !self.parser.reader.pass_name(name.as_bytes())? {
                let before = self.seen.len();
                let passed = old.iter_as(order.as_deref()).take(count);
                self.seen.extend(passed.map(|(_, member)| std::ptr::from_ref(member)));
                return self.has_others(old, before, depth);
            }
            self.expect(member, depth + 1)?;
            more = self.parser.reader.next(b'}')?;
        }
        Ok(!more)
    }

    /// Compares the members behind those seen since `before`, in whatever order: others are next than were expected, or have escapes.
    fn has_others(&mut self, old: &Object, before: usize, depth: usize) -> Result<bool, Unfit> {
        #[cfg(test)]
        {
            self.unexpected += 1;
        }
        let mut more = true;
        while more {
            if self.seen.len() - before == old.len() {
                // Ends the whole comparison, as any difference does.
                return Ok(false);
            }
            let name = self.parser.reader.name()?;
            let member = old.get(&name).ok_or(Unfit::Other)?;
            self.seen.push(member);
            self.expect(member, depth + 1)?;
            more = self.parser.reader.next(b'}')?;
        }
        let order = self.orders.new_one(old, &self.seen[before..]);
        let is_whole = self.seen.len() - before == old.len() && self.is_each_once(before);
        if let Some(order) = order.filter(|_| is_whole) {
            self.orders.remember(old, order);
        }
        self.seen.truncate(before);
        Ok(is_whole)
    }

    /// Whether no member since `before` was there twice; sorts them.
    fn is_each_once(&mut self, before: usize) -> bool {
        let seen = &mut self.seen[before..];
        seen.sort_unstable();
        seen.windows(2).all(|pair| pair[0] != pair[1])
    }
}
