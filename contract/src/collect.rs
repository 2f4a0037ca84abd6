//! From the traits of a contract to its description.

use std::any::TypeId;
use std::collections::{BTreeMap, HashSet};

use ts_rs::{Config, TS, TypeVisitor};

use crate::{
    crdt::CrdtType,
    description::{Called, ContractError, Declaration, Description, Item, Sent},
    shape::{CrdtKey, Direction, DocKey, Event, Key, Method, RoomKey},
};

/// Collects the entries of a contract. Documentation comes line by line.
pub struct Collector {
    description: Description,
    types: Types,
    error: Option<ContractError>,
}

/// The named types that were met.
struct Types {
    config: Config,
    met: HashSet<TypeId>,
    declared: BTreeMap<String, Declaration>,
    /// A name that two types have.
    twice: Option<String>,
}

impl Collector {
    pub(crate) fn new(name: &str) -> Self {
        // Numbers are what JSON.parse makes of 64 bits.
        let config = Config::new().with_large_int("number");
        let types = Types { config, met: HashSet::new(), declared: BTreeMap::new(), twice: None };
        let description = Description { name: name.to_owned(), ..Description::default() };
        Self { description, types, error: None }
    }

    /// Adds a call.
    pub fn method<M: Method>(&mut self, docs: &[&str]) {
        let unit = TypeId::of::<M::Error>() == TypeId::of::<()>();
        let error = (!unit).then(|| self.types.name::<M::Error>());
        let shape = Called { params: self.types.name::<M>(), result: self.types.name::<M::Output>(), error };
        let twice = self.description.rpc.insert(M::NAME.to_owned(), item(docs, shape)).is_some();
        self.note(twice, M::NAME);
    }

    /// Adds an event.
    pub fn event<E: Event>(&mut self, docs: &[&str]) {
        let (up, down) = (E::DIRECTION != Direction::Down, E::DIRECTION != Direction::Up);
        let shape = Sent { data: self.types.name::<E>(), up, down };
        let twice = self.description.events.insert(E::NAME.to_owned(), item(docs, shape)).is_some();
        self.note(twice, E::NAME);
    }

    /// Adds a live state.
    pub fn state<K: Key>(&mut self, docs: &[&str]) {
        let shape = self.types.name::<K::Value>();
        let twice = self.description.state.insert(K::PATTERN.to_owned(), item(docs, shape)).is_some();
        self.note(twice, K::PATTERN);
    }

    /// Adds a CRDT.
    pub fn crdt<K: CrdtKey>(&mut self, docs: &[&str]) {
        let name = K::Type::NAME;
        let shape = match K::Type::value(&self.types.config) {
            None => format!("'{name}'"),
            Some(value) => {
                self.types.visit::<<K::Type as CrdtType>::Value>();
                format!("{{ type: '{name}'; value: {value} }}")
            }
        };
        let twice = self.description.crdt.insert(K::PATTERN.to_owned(), item(docs, shape)).is_some();
        self.note(twice, K::PATTERN);
    }

    /// Adds a presence room.
    pub fn presence<K: RoomKey>(&mut self, docs: &[&str]) {
        let shape = self.types.name::<K::Value>();
        let twice = self.description.presence.insert(K::PATTERN.to_owned(), item(docs, shape)).is_some();
        self.note(twice, K::PATTERN);
    }

    /// Adds a document.
    pub fn docs<K: DocKey>(&mut self, docs: &[&str]) {
        let twice = self.description.docs.insert(K::PATTERN.to_owned(), item(docs, ())).is_some();
        self.note(twice, K::PATTERN);
    }

    fn note(&mut self, twice: bool, name: &str) {
        if twice {
            let contract = self.description.name.clone();
            self.error.get_or_insert(ContractError::Twice { contract, name: name.to_owned() });
        }
    }

    pub(crate) fn finish(mut self) -> Result<Description, ContractError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        if let Some(name) = self.types.twice {
            return Err(ContractError::TwoTypes { contract: self.description.name, name });
        }
        self.description.types = self.types.declared;
        Ok(self.description)
    }
}

impl Types {
    /// The type as an expression; it and all that it consists of are declared.
    fn name<T: TS + 'static + ?Sized>(&mut self) -> String {
        self.visit::<T>();
        T::name(&self.config)
    }
}

impl TypeVisitor for Types {
    fn visit<T: TS + 'static + ?Sized>(&mut self) {
        if !self.met.insert(TypeId::of::<T>()) {
            return;
        }
        T::visit_generics(self);
        T::visit_dependencies(self);
        // Only derived types have a place to be written to.
        if T::output_path().is_none() {
            return;
        }
        let name = T::ident(&self.config);
        let declaration = Declaration { docs: T::docs().unwrap_or_default(), text: T::decl(&self.config) };
        match self.declared.get(&name) {
            Some(other) if *other != declaration => self.twice = self.twice.take().or(Some(name)),
            _ => drop(self.declared.insert(name, declaration)),
        }
    }
}

fn item<T>(docs: &[&str], shape: T) -> Item<T> {
    let lines: Vec<&str> = docs.iter().map(|line| line.strip_prefix(' ').unwrap_or(line)).collect();
    Item { docs: lines.join("\n"), shape }
}
