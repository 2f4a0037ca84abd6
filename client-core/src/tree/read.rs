//! Reading a type of the application from a tree, as `serde_json` does from a `Value`.

use std::any::{Any, TypeId};

use serde::{
    Deserialize, Deserializer,
    de::{
        DeserializeOwned, DeserializeSeed, EnumAccess, Error as _, MapAccess, SeqAccess, Unexpected, VariantAccess,
        Visitor,
        value::{BorrowedStrDeserializer, MapDeserializer},
    },
    forward_to_deserialize_any,
};
use serde_json::{Error, Value};

use super::{Node, Tree, object::Members};

impl Tree {
    /// Reads a type of the application; a [`Value`] is a copy in which a member is a member, whatever its name.
    ///
    /// # Errors
    ///
    /// `serde_json`'s for a value that is not a `T`.
    pub fn read<T: DeserializeOwned + 'static>(&self) -> Result<T, Error> {
        if TypeId::of::<T>() != TypeId::of::<Value>() {
            return T::deserialize(self);
        }
        let mut value = Some(Value::from(self));
        // Both types are the same.
        (&mut value as &mut dyn Any).downcast_mut().and_then(Option::take).ok_or_else(|| Error::custom("no value"))
    }

    fn unexpected(&self) -> Unexpected<'_> {
        match &self.0 {
            Node::Null => Unexpected::Unit,
            Node::Bool(bool) => Unexpected::Bool(*bool),
            Node::Unsigned(integer) => Unexpected::Unsigned(*integer),
            Node::Negative(integer) => Unexpected::Signed(*integer),
            Node::Float(float) => Unexpected::Float(*float),
            Node::Text(text) => Unexpected::Str(text.as_str()),
            Node::Array(_) => Unexpected::Seq,
            Node::Object(_) => Unexpected::Map,
        }
    }

    fn visit_elements<'de, V: Visitor<'de>>(&'de self, elements: &'de [Self], visitor: V) -> Result<V::Value, Error> {
        let mut left = Elements { left: elements.iter() };
        let value = visitor.visit_seq(&mut left)?;
        if left.left.len() == 0 {
            Ok(value)
        } else {
            Err(Error::invalid_length(elements.len(), &"fewer elements in array"))
        }
    }
}

impl<'de> Deserializer<'de> for &'de Tree {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.0 {
            Node::Null => visitor.visit_unit(),
            Node::Bool(bool) => visitor.visit_bool(*bool),
            Node::Unsigned(integer) => visitor.visit_u64(*integer),
            Node::Negative(integer) => visitor.visit_i64(*integer),
            Node::Float(float) => visitor.visit_f64(*float),
            Node::Text(text) => visitor.visit_borrowed_str(text.as_str()),
            Node::Array(elements) => self.visit_elements(elements, visitor),
            Node::Object(object) => {
                let mut left = Entries { left: object.iter(), value: None };
                let value = visitor.visit_map(&mut left)?;
                if left.left.next().is_none() {
                    Ok(value)
                } else {
                    Err(Error::invalid_length(object.len(), &"fewer elements in map"))
                }
            }
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Error> {
        // A `RawValue` is asked for by a name of its own, and is a map of one member of that name.
        if name == RAW {
            return visitor.visit_map(MapDeserializer::new([(RAW, self.to_string())].into_iter()));
        }
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let single = "map with a single key";
        match &self.0 {
            Node::Text(text) => visitor.visit_enum(Variant { name: text.as_str(), value: None }),
            Node::Object(object) => match (object.iter().next(), object.len()) {
                (Some((name, value)), 1) => visitor.visit_enum(Variant { name: name.as_str(), value: Some(value) }),
                _ => Err(Error::invalid_value(Unexpected::Map, &single)),
            },
            _ => Err(Error::invalid_type(self.unexpected(), &"string or map")),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct identifier
    }
}

/// The name by which `serde_json` asks for a `RawValue`.
const RAW: &str = "$serde_json::private::RawValue";

struct Elements<'de> {
    left: std::slice::Iter<'de, Tree>,
}

impl<'de> SeqAccess<'de> for Elements<'de> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        self.left.next().map(|element| seed.deserialize(element)).transpose()
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.left.len())
    }
}

struct Entries<'de> {
    left: Members<'de>,
    value: Option<&'de Tree>,
}

impl<'de> MapAccess<'de> for Entries<'de> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some((name, value)) = self.left.next() else { return Ok(None) };
        self.value = Some(value);
        seed.deserialize(Name(name.as_str())).map(Some)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Error> {
        seed.deserialize(self.value.take().ok_or_else(|| Error::custom("value is missing"))?)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.left.size_hint().0)
    }
}

/// The name of a member: text, or what the text says where the type has other keys.
struct Name<'de>(&'de str);

fn no_number() -> Error {
    Error::custom("invalid value: expected key to be a number in quotes")
}

macro_rules! numbers {
    ($($method:ident)*) => {
        $(
            fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
                let mut text = serde_json::Deserializer::from_str(self.0);
                if !self.0.starts_with(|first: char| first == '-' || first.is_ascii_digit()) {
                    return Err(no_number());
                }
                let value = text.$method(visitor)?;
                let is_all = text.end().is_ok() && !self.0.ends_with(|last: char| last.is_ascii_whitespace());
                if is_all { Ok(value) } else { Err(no_number()) }
            }
        )*
    };
}

impl<'de> Deserializer<'de> for Name<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_borrowed_str(self.0)
    }

    numbers! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128 deserialize_u8 deserialize_u16
        deserialize_u32 deserialize_u64 deserialize_u128 deserialize_f32 deserialize_f64
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            "true" => visitor.visit_bool(true),
            "false" => visitor.visit_bool(false),
            other => Err(Error::invalid_type(Unexpected::Str(other), &visitor)),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        BorrowedStrDeserializer::<Error>::new(self.0).deserialize_enum(name, variants, visitor)
    }

    forward_to_deserialize_any! {
        char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

struct Variant<'de> {
    name: &'de str,
    value: Option<&'de Tree>,
}

impl<'de> EnumAccess<'de> for Variant<'de> {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Error> {
        let name: BorrowedStrDeserializer<'de, Error> = BorrowedStrDeserializer::new(self.name);
        Ok((seed.deserialize(name)?, self))
    }
}

impl Variant<'_> {
    fn misfit<T>(self, expected: &'static str) -> Result<T, Error> {
        let found = self.value.map_or(Unexpected::UnitVariant, Tree::unexpected);
        Err(Error::invalid_type(found, &expected))
    }
}

impl<'de> VariantAccess<'de> for Variant<'de> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        self.value.map_or(Ok(()), <()>::deserialize)
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Error> {
        match self.value {
            Some(value) => seed.deserialize(value),
            None => self.misfit("newtype variant"),
        }
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        match self.value.map(|value| (value, &value.0)) {
            Some((_, Node::Array(elements))) if elements.is_empty() => visitor.visit_unit(),
            Some((value, Node::Array(_))) => value.deserialize_any(visitor),
            _ => self.misfit("tuple variant"),
        }
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], visitor: V) -> Result<V::Value, Error> {
        match self.value.filter(|value| value.is_object()) {
            Some(value) => value.deserialize_any(visitor),
            None => self.misfit("struct variant"),
        }
    }
}
