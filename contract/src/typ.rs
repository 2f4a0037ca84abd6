//! The part of TypeScript in which contracts are written, and which of its types take the values of which others.

use std::collections::{BTreeMap, HashSet};

use crate::description::Declaration;

/// A type.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Type {
    Object(Vec<Member>),
    /// Members of any name.
    Record(Box<Type>),
    Array(Box<Type>),
    Tuple(Vec<Type>),
    Union(Vec<Type>),
    Intersection(Vec<Type>),
    /// A string or a number that stands for itself.
    Literal(String),
    /// `string`, `null`, a declared type, one of its parameters; with arguments.
    Name(String, Vec<Type>),
}

/// A member of an object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) optional: bool,
    pub(crate) value: Type,
}

/// The declarations of a contract: parameters and type by name.
pub(crate) type Declared = BTreeMap<String, (Vec<String>, Type)>;

/// Reads all declarations; one that is not of this part of TypeScript is left out, and equal to itself only.
pub(crate) fn declared(types: &BTreeMap<String, Declaration>) -> Declared {
    let read = |declaration: &Declaration| {
        let mut reader = Reader { rest: &declaration.text };
        reader.take("type");
        reader.name()?;
        let mut parameters = Vec::new();
        if reader.take("<") {
            while !reader.take(">") {
                parameters.push(reader.name()?);
                // A default.
                if reader.take("=") {
                    reader.union()?;
                }
                reader.take(",");
            }
        }
        reader.take("=");
        let value = reader.union()?;
        reader.take(";");
        reader.rest.trim().is_empty().then_some((parameters, value))
    };
    types.iter().filter_map(|(name, declaration)| Some((name.clone(), read(declaration)?))).collect()
}

/// Reads one type.
pub(crate) fn parse(text: &str) -> Option<Type> {
    let mut reader = Reader { rest: text };
    let read = reader.union()?;
    reader.rest.trim().is_empty().then_some(read)
}

struct Reader<'a> {
    rest: &'a str,
}

impl<'a> Reader<'a> {
    fn skip(&mut self) {
        loop {
            self.rest = self.rest.trim_start();
            let Some(comment) = self.rest.strip_prefix("/*") else { return };
            self.rest = comment.split_once("*/").map_or("", |(_, rest)| rest);
        }
    }

    /// Takes a token if it comes next.
    fn take(&mut self, token: &str) -> bool {
        self.skip();
        let Some(rest) = self.rest.strip_prefix(token) else { return false };
        self.rest = rest;
        true
    }

    fn while_of(&mut self, is: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|letter| !is(letter)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        taken
    }

    fn name(&mut self) -> Option<String> {
        self.skip();
        let name = self.while_of(|letter| letter.is_alphanumeric() || matches!(letter, '_' | '$' | '.'));
        (!name.is_empty()).then(|| name.to_owned())
    }

    fn text(&mut self) -> Option<String> {
        let quote = self.rest.chars().next().filter(|quote| matches!(quote, '"' | '\''))?;
        let mut escaped = false;
        let end = self.rest.char_indices().skip(1).find(|&(_, letter)| {
            let ends = letter == quote && !escaped;
            escaped = letter == '\\' && !escaped;
            ends
        })?;
        let (text, rest) = self.rest.split_at(end.0 + 1);
        self.rest = rest;
        Some(text.get(1..text.len() - 1)?.to_owned())
    }

    fn union(&mut self) -> Option<Type> {
        self.take("|");
        let mut parts = vec![self.intersection()?];
        while self.take("|") {
            parts.push(self.intersection()?);
        }
        if parts.len() == 1 { parts.pop() } else { Some(Type::Union(parts)) }
    }

    fn intersection(&mut self) -> Option<Type> {
        let mut parts = vec![self.array()?];
        while self.take("&") {
            parts.push(self.array()?);
        }
        if parts.len() == 1 { parts.pop() } else { Some(Type::Intersection(parts)) }
    }

    fn array(&mut self) -> Option<Type> {
        let mut element = self.one()?;
        while self.take("[") {
            if !self.take("]") {
                return None;
            }
            element = Type::Array(Box::new(element));
        }
        Some(element)
    }

    fn one(&mut self) -> Option<Type> {
        self.skip();
        if let Some(text) = self.text() {
            return Some(Type::Literal(text));
        }
        if self.take("(") {
            let inner = self.union()?;
            return self.take(")").then_some(inner);
        }
        if self.take("[") {
            let mut elements = Vec::new();
            while !self.take("]") {
                elements.push(self.union()?);
                self.take(",");
            }
            return Some(Type::Tuple(elements));
        }
        if self.take("{") {
            return self.object();
        }
        if self.rest.starts_with(|letter: char| letter.is_ascii_digit() || letter == '-') {
            let number = self.while_of(|letter| letter.is_ascii_digit() || matches!(letter, '-' | '.'));
            return Some(Type::Literal(number.to_owned()));
        }
        let name = self.name()?;
        let mut arguments = Vec::new();
        if self.take("<") {
            while !self.take(">") {
                arguments.push(self.union()?);
                self.take(",");
            }
        }
        match (&name[..], &mut arguments[..]) {
            ("Array", [element]) => Some(Type::Array(Box::new(element.clone()))),
            // The object without members.
            ("Record", [Type::Name(keys, _), _]) if keys == "symbol" => Some(Type::Object(Vec::new())),
            ("Record", [_, value]) => Some(Type::Record(Box::new(value.clone()))),
            _ => Some(Type::Name(name, arguments)),
        }
    }

    fn object(&mut self) -> Option<Type> {
        let (mut members, mut record) = (Vec::new(), None);
        while !self.take("}") {
            if self.take("[") {
                // `[key in string]?: T`, or `[key: string]: T`.
                self.rest = self.rest.split_once(']')?.1;
                self.take("?");
                self.take(":");
                record = Some(Type::Record(Box::new(self.union()?)));
            } else {
                self.skip();
                let name = match self.text() {
                    Some(name) => name,
                    None => self.name()?,
                };
                let optional = self.take("?");
                if !self.take(":") {
                    return None;
                }
                members.push(Member { name, optional, value: self.union()? });
            }
            let _ = self.take(",") || self.take(";");
        }
        match record {
            None => Some(Type::Object(members)),
            Some(record) if members.is_empty() => Some(record),
            Some(record) => Some(Type::Intersection(vec![Type::Object(members), record])),
        }
    }
}

/// A difference: where in the type, as in `.items[].id`, and what.
pub(crate) type Found = (String, String);

/// Whether values of one contract's types may be read as another's.
pub(crate) struct Flow<'a> {
    pub(crate) from: &'a Declared,
    pub(crate) to: &'a Declared,
    /// The new server reads: it takes a missing member for null, as serde does.
    pub(crate) lenient: bool,
    /// Pairs that are being compared: a type may contain itself.
    pub(crate) open: HashSet<(Type, Type)>,
}

impl Flow<'_> {
    /// Nothing if every value of `from` is one of `to`, which ignores members that it does not know; else what is not.
    pub(crate) fn differs(&mut self, from: &Type, to: &Type) -> Option<Found> {
        let any = |to: &Type| matches!(to, Type::Name(name, _) if matches!(&name[..], "unknown" | "any" | "JsonValue"));
        if any(to) {
            return None;
        }
        let (from, to) = (resolve(from, self.from), resolve(to, self.to));
        if !self.open.insert((from.clone(), to.clone())) {
            return None;
        }
        let found = self.compare(&from, &to);
        self.open.remove(&(from, to));
        found
    }

    fn compare(&mut self, from: &Type, to: &Type) -> Option<Found> {
        // The new one first.
        let (new, old) = if self.lenient { (to, from) } else { (from, to) };
        let other = || Some((String::new(), format!("{} was {}", show(new), show(old))));
        match (from, to) {
            (Type::Union(parts), to) => parts.iter().find_map(|part| self.differs(part, to)),
            (from, Type::Union(parts)) => {
                let objects: Vec<&Type> =
                    parts.iter().filter(|part| !matches!(part, Type::Name(null, _) if null == "null")).collect();
                if parts.iter().any(|part| self.differs(from, part).is_none()) {
                    return None;
                }
                match (from, &objects[..]) {
                    // All but null: what is it inside?
                    (Type::Object(_) | Type::Array(_) | Type::Name(..), [one]) => self.differs(from, one),
                    _ => other(),
                }
            }
            (Type::Literal(text), Type::Name(name, _)) => {
                let is_number = text.parse::<f64>().is_ok();
                (name != "string" && !(is_number && name == "number")).then(other).flatten()
            }
            (Type::Object(members), Type::Object(wanted)) => {
                wanted.iter().find_map(|wanted| self.member(members, wanted))
            }
            (Type::Object(members), Type::Record(value)) => {
                members.iter().find_map(|member| self.differs(&member.value, value))
            }
            (Type::Record(from), Type::Record(to)) | (Type::Array(from), Type::Array(to)) => {
                self.differs(from, to).map(|found| within("[]", found))
            }
            (Type::Tuple(from), Type::Tuple(to)) if from.len() == to.len() => from
                .iter()
                .zip(to)
                .enumerate()
                .find_map(|(at, (from, to))| self.differs(from, to).map(|found| within(&format!("[{at}]"), found))),
            (from, Type::Intersection(parts)) => parts.iter().find_map(|part| self.differs(from, part)),
            (Type::Intersection(parts), to) => {
                let mut members = Vec::new();
                for part in parts {
                    match resolve(part, self.from) {
                        Type::Object(own) => members.extend(own),
                        other => drop(other),
                    }
                }
                self.differs(&Type::Object(members), to)
            }
            _ if from == to => None,
            _ => other(),
        }
    }

    fn member(&mut self, members: &[Member], wanted: &Member) -> Option<Found> {
        let place = format!(".{}", wanted.name);
        let nullable = |to: &Type| self.lenient && matches!(to, Type::Union(parts) if parts.iter().any(is_null));
        match members.iter().find(|member| member.name == wanted.name) {
            None if wanted.optional || nullable(&resolve(&wanted.value, self.to)) => None,
            None => Some((place, "is missing".to_owned())),
            Some(member) if member.optional && !wanted.optional && !nullable(&resolve(&wanted.value, self.to)) => {
                Some((place, "may be missing".to_owned()))
            }
            Some(member) => self.differs(&member.value, &wanted.value).map(|found| within(&place, found)),
        }
    }
}

fn is_null(part: &Type) -> bool {
    matches!(part, Type::Name(name, _) if name == "null")
}

fn within(place: &str, (path, what): Found) -> Found {
    (format!("{place}{path}"), what)
}

/// A declared type in place of its name.
fn resolve(read: &Type, declared: &Declared) -> Type {
    let Type::Name(name, arguments) = read else { return read.clone() };
    let Some((parameters, value)) = declared.get(name) else { return read.clone() };
    let known: BTreeMap<&str, &Type> = parameters.iter().map(String::as_str).zip(arguments).collect();
    let value = substitute(value, &known);
    // Another name of the same.
    if matches!(&value, Type::Name(other, _) if other != name) { resolve(&value, declared) } else { value }
}

fn substitute(read: &Type, known: &BTreeMap<&str, &Type>) -> Type {
    let all = |types: &[Type]| types.iter().map(|one| substitute(one, known)).collect();
    match read {
        Type::Name(name, arguments) => match known.get(&name[..]) {
            Some(&argument) => argument.clone(),
            None => Type::Name(name.clone(), all(arguments)),
        },
        Type::Object(members) => Type::Object(
            members.iter().map(|member| Member { value: substitute(&member.value, known), ..member.clone() }).collect(),
        ),
        Type::Record(value) => Type::Record(Box::new(substitute(value, known))),
        Type::Array(element) => Type::Array(Box::new(substitute(element, known))),
        Type::Tuple(elements) => Type::Tuple(all(elements)),
        Type::Union(parts) => Type::Union(all(parts)),
        Type::Intersection(parts) => Type::Intersection(all(parts)),
        Type::Literal(text) => Type::Literal(text.clone()),
    }
}

/// A type in short.
fn show(read: &Type) -> String {
    let all = |types: &[Type], between: &str| types.iter().map(show).collect::<Vec<_>>().join(between);
    match read {
        Type::Object(members) => {
            let names: Vec<&str> = members.iter().map(|member| &member.name[..]).collect();
            format!("{{ {} }}", names.join(", "))
        }
        Type::Record(value) => format!("Record<string, {}>", show(value)),
        Type::Array(element) => format!("{}[]", show(element)),
        Type::Tuple(elements) => format!("[{}]", all(elements, ", ")),
        Type::Union(parts) => all(parts, " | "),
        Type::Intersection(parts) => all(parts, " & "),
        Type::Literal(text) => format!("{text:?}"),
        Type::Name(name, arguments) if arguments.is_empty() => name.clone(),
        Type::Name(name, arguments) => format!("{name}<{}>", all(arguments, ", ")),
    }
}
