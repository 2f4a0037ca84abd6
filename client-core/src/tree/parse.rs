//! Reading a tree from text.

use std::borrow::Cow;

use serde_json::{Error, Number};

use super::{Node, Text, Tree, object::Forms, shared::Shared};
use crate::json::value::{Reader, Unfit, unfit};

/// Reads a tree. A member is a member, whatever its name, as for [`value::parse`](crate::value::parse).
///
/// # Errors
///
/// Those of [`value::parse`](crate::value::parse), in the same words.
pub fn parse(text: &str) -> Result<Tree, Error> {
    let mut parser = Parser::new(text);
    let tree = parser.tree(0);
    let tree = tree.and_then(|tree| if parser.reader.is_at_end() { Ok(tree) } else { Err(Unfit::Syntax) });
    tree.map_err(|reason| unfit(reason, parser.reader.at))
}

/// A text of which trees are made, and what was read of the objects and arrays that have not ended yet.
pub(super) struct Parser<'a> {
    pub(super) reader: Reader<'a>,
    names: Vec<Cow<'a, str>>,
    values: Vec<Tree>,
    forms: Forms,
}

impl<'a> Parser<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { reader: Reader::new(text), names: Vec::new(), values: Vec::new(), forms: Forms::default() }
    }

    /// The next value, within so many arrays and objects.
    pub(super) fn tree(&mut self, depth: usize) -> Result<Tree, Unfit> {
        Ok(Tree(match self.reader.peek() {
            Some(b'"') => Node::Text(Text::from(&*self.reader.string()?)),
            Some(b'{') => self.object(depth)?,
            Some(b'[') => self.array(depth)?,
            Some(b't') => self.reader.word("true").map(|()| Node::Bool(true))?,
            Some(b'f') => self.reader.word("false").map(|()| Node::Bool(false))?,
            Some(b'n') => self.reader.word("null").map(|()| Node::Null)?,
            Some(_) => self.number()?,
            None => return Err(Unfit::Syntax),
        }))
    }

    /// The number that is next.
    pub(super) fn number(&mut self) -> Result<Node, Unfit> {
        Node::number(&self.reader.number()?).ok_or(Unfit::Number)
    }

    fn object(&mut self, depth: usize) -> Result<Node, Unfit> {
        let (first, start) = (self.names.len(), self.values.len());
        let mut more = self.reader.open(b'}', depth)?;
        while more {
            let name = self.reader.name()?;
            self.names.push(name);
            let value = self.tree(depth + 1)?;
            self.values.push(value);
            more = self.reader.next(b'}')?;
        }
        let object = self.forms.object(&self.names[first..], &mut self.values, start);
        self.names.truncate(first);
        Ok(Node::Object(Shared::new(object)))
    }

    fn array(&mut self, depth: usize) -> Result<Node, Unfit> {
        let start = self.values.len();
        let mut more = self.reader.open(b']', depth)?;
        while more {
            let value = self.tree(depth + 1)?;
            self.values.push(value);
            more = self.reader.next(b']')?;
        }
        Ok(Node::Array(Shared::new(self.values.drain(start..).collect())))
    }
}

impl Node {
    /// A number by the rule of [`value::parse`](crate::value::parse), also where it is kept as its text; `None` beyond a
    /// double's range.
    pub(super) fn number(number: &Number) -> Option<Self> {
        if let Some(integer) = number.as_u64() {
            return Some(Self::Unsigned(integer));
        }
        // Negative zero is a double.
        match number.as_i64().filter(|integer| *integer < 0) {
            Some(integer) => Some(Self::Negative(integer)),
            None => number.as_f64().filter(|float| float.is_finite()).map(Self::Float),
        }
    }
}
