//! Reads JSON into types by the rule of Go's encoding/json, which configs are written for:
//!
//! - A key is a field's if it is spelled alike, or else if it differs in the case of letters only
//!   (also `ſ` and the Kelvin sign, which Unicode folds to `s` and `k`). Names in maps are exact.
//! - A key that is there several times, in whatever case, is read each time, in the order of the
//!   text, into the same place: objects and maps add up, lists are read over one another, and of
//!   anything else the last counts.
//! - `null` makes an [`Option`], a list and a map empty, and leaves any other value as it was.
//!
//! A field is an [`Option`] here where it is a pointer or an address in Go.

use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess,
    Visitor,
};
use serde::forward_to_deserialize_any;

use super::fault::Fault;
use super::node::Node;

/// The values that were written for one place, in the order of the text.
#[derive(Debug, Clone)]
pub(super) struct Reader<'a>(Vec<&'a Node>);

/// The name under which [`super::last`] asks for the last value alone.
pub(super) const LAST: &str = "pausenet: the last value alone";

impl<'a> Reader<'a> {
    pub(super) fn new(found: Vec<&'a Node>) -> Self {
        Self(found)
    }

    /// Without what a `null` has made void.
    fn since_null(&self) -> &[&'a Node] {
        let after = self.0.iter().rposition(|node| **node == Node::Null);
        &self.0[after.map_or(0, |null| null + 1)..]
    }

    /// The last value, `null` passed over. Each must be one of those that `is_one` accepts.
    fn last_of(
        &self,
        expected: &dyn Fn() -> String,
        is_one: fn(&Node) -> bool,
    ) -> Result<Option<&'a Node>, Fault> {
        let mut last = None;
        for node in self.0.iter().copied().filter(|node| **node != Node::Null) {
            if !is_one(node) {
                return Err(unexpected(&expected(), node));
            }
            last = Some(node);
        }
        Ok(last)
    }

    // What follows does the work for all types; what is generic below only hands it on.

    fn boolean(&self) -> Result<bool, Fault> {
        let expected = || "true or false".to_owned();
        let last = self.last_of(&expected, |node| matches!(node, Node::Bool(_)))?;
        Ok(matches!(last, Some(Node::Bool(true))))
    }

    fn text(&self) -> Result<&'a str, Fault> {
        let expected = || "a string".to_owned();
        let last = self.last_of(&expected, |node| matches!(node, Node::Text(_)))?;
        match last {
            Some(Node::Text(text)) => Ok(text),
            _ => Ok(""),
        }
    }

    fn integer(&self, least: i128, most: i128) -> Result<i128, Fault> {
        let mut last = 0;
        for node in self.0.iter().copied().filter(|node| **node != Node::Null) {
            let number = match node {
                Node::Number(number) => {
                    let signed = number.as_i64().map(i128::from);
                    signed.or_else(|| number.as_u64().map(i128::from))
                }
                _ => None,
            };
            let fits = number.filter(|number| (least..=most).contains(number));
            last = fits.ok_or_else(|| {
                let mut expected = "a whole number".to_owned();
                // Otherwise, whatever the key allows is less.
                if most != i64::MAX.into() {
                    expected += &format!(" from {least} to {most}");
                }
                unexpected(&expected, node)
            })?;
        }
        Ok(last)
    }

    /// A list is read over the one before it: what an item does not say stays as it was there.
    fn items(&self) -> Result<Items<'a>, Fault> {
        let (mut items, mut length): (Vec<Vec<&Node>>, _) = (Vec::new(), 0);
        for node in self.since_null() {
            let Node::List(list) = node else {
                return Err(unexpected("a list", node));
            };
            if list.is_empty() {
                items.clear();
            }
            for (at, item) in list.iter().enumerate() {
                match items.get_mut(at) {
                    Some(place) => place.push(item),
                    None => items.push(vec![item]),
                }
            }
            length = list.len();
        }
        items.truncate(length);
        Ok(Items {
            next: 0,
            items: items.into_iter(),
        })
    }

    /// The fields that have values, by the names that a type has for them.
    fn fields(&self, fields: &'static [&'static str]) -> Result<Entries<'a>, Fault> {
        let mut values = vec![Vec::new(); fields.len()];
        for (key, value) in self.entries(&self.0)? {
            let field = (fields.iter().position(|field| *field == key))
                .or_else(|| fields.iter().position(|field| names(key, field)));
            if let Some(field) = field {
                values[field].push(value);
            }
        }
        let fields = fields.iter().copied().zip(values);
        Ok(Entries::new(
            fields.filter(|(_, values)| !values.is_empty()).collect(),
        ))
    }

    /// The entries of the objects, one after another.
    fn entries(&self, found: &[&'a Node]) -> Result<Vec<(&'a str, &'a Node)>, Fault> {
        let mut all = Vec::new();
        for node in found {
            match node {
                Node::Object(entries) => {
                    all.extend(entries.iter().map(|(key, value)| (key.as_str(), value)));
                }
                Node::Null => {}
                other => return Err(unexpected("an object", other)),
            }
        }
        Ok(all)
    }

    /// The values of one key, by the rule for fields.
    pub(super) fn field(&self, name: &str) -> Result<Self, Fault> {
        let entries = self.entries(self.since_null())?;
        let ours = entries.into_iter().filter(|(key, _)| names(key, name));
        Ok(Self(ours.map(|(_, value)| value).collect()))
    }

    /// The entries of a map: of each name the last value.
    pub(super) fn map(&self) -> Result<Vec<(&'a str, &'a Node)>, Fault> {
        self.entries(self.since_null())
    }

    pub(super) fn into_nodes(self) -> Vec<Node> {
        self.0.into_iter().cloned().collect()
    }

    pub(super) fn is_absent(&self) -> bool {
        self.since_null().is_empty()
    }
}

fn unexpected(expected: &str, found: &Node) -> Fault {
    Fault::new(format!("expected {expected}, found {}", found.describe()))
}

/// Whether a key is that of a field, by Go's case folding. The field's name is ASCII.
pub(in crate::cni) fn names(key: &str, field: &str) -> bool {
    if key.is_ascii() {
        return key.eq_ignore_ascii_case(field);
    }
    let folded = key.chars().map(|c| match c {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        c => c.to_ascii_lowercase(),
    });
    folded.eq(field.chars().map(|c| c.to_ascii_lowercase()))
}

macro_rules! integers {
    ($($method:ident $visit:ident $type:ty,)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            let number = self.integer(<$type>::MIN.into(), <$type>::MAX.into())?;
            visitor.$visit(number.try_into().unwrap_or_default())
        }
    )*};
}

impl<'de> Deserializer<'de> for Reader<'_> {
    type Error = Fault;

    integers! {
        deserialize_i8 visit_i8 i8,
        deserialize_i16 visit_i16 i16,
        deserialize_i32 visit_i32 i32,
        deserialize_i64 visit_i64 i64,
        deserialize_u8 visit_u8 u8,
        deserialize_u16 visit_u16 u16,
        deserialize_u32 visit_u32 u32,
        deserialize_u64 visit_u64 u64,
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_bool(self.boolean()?)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_str(self.text()?)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_str(self.text()?)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.since_null() {
            [] => visitor.visit_none(),
            found => visitor.visit_some(Self(found.to_vec())),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match (name, self.0.last()) {
            (LAST, Some(last)) => visitor.visit_newtype_struct(Self(vec![last])),
            _ => visitor.visit_newtype_struct(self),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_seq(self.items()?)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_map(self.fields(fields)?)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let entries = self.map()?.into_iter();
        let entries = entries.map(|(key, value)| (key, vec![value]));
        visitor.visit_map(Entries::new(entries.collect()))
    }

    /// JSON of any form: nothing adds up.
    fn deserialize_any<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Fault> {
        self.0.drain(..self.0.len().saturating_sub(1));
        match self.0.first() {
            None | Some(Node::Null) => visitor.visit_unit(),
            Some(Node::Bool(value)) => visitor.visit_bool(*value),
            Some(Node::Text(text)) => visitor.visit_str(text),
            Some(Node::List(_)) => self.deserialize_seq(visitor),
            Some(Node::Object(_)) => self.deserialize_map(visitor),
            Some(Node::Number(number)) => match (number.as_i64(), number.as_u64()) {
                (Some(number), _) => visitor.visit_i64(number),
                (_, Some(number)) => visitor.visit_u64(number),
                _ => visitor.visit_f64(number.as_f64().unwrap_or_default()),
            },
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        i128 u128 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct enum
        identifier
    }
}

/// The keys that a type reads from an object.
pub(in crate::cni) fn keys_of<T: DeserializeOwned>() -> &'static [&'static str] {
    struct Asked<'a>(&'a mut &'static [&'static str]);

    impl<'de> Deserializer<'de> for Asked<'_> {
        type Error = Fault;

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _name: &'static str,
            fields: &'static [&'static str],
            _visitor: V,
        ) -> Result<V::Value, Fault> {
            *self.0 = fields;
            Err(Fault::new("only the names of the fields were asked for"))
        }

        fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Fault> {
            Err(Fault::new("not an object"))
        }

        forward_to_deserialize_any! {
            bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
            option unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier
            ignored_any
        }
    }

    let mut keys: &[&str] = &[];
    let _ = T::deserialize(Asked(&mut keys));
    keys
}

struct Items<'a> {
    next: usize,
    items: std::vec::IntoIter<Vec<&'a Node>>,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Fault> {
        let Some(found) = self.items.next() else {
            return Ok(None);
        };
        let at = self.next;
        self.next += 1;
        let item = seed.deserialize(Reader(found));
        item.map(Some).map_err(|fault| fault.in_item(at))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len())
    }
}

struct Entries<'a> {
    entries: std::vec::IntoIter<(&'a str, Vec<&'a Node>)>,
    /// That of the key that was asked for last.
    value: (&'a str, Vec<&'a Node>),
}

impl<'a> Entries<'a> {
    fn new(entries: Vec<(&'a str, Vec<&'a Node>)>) -> Self {
        Self {
            entries: entries.into_iter(),
            value: ("", Vec::new()),
        }
    }
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Fault> {
        let Some(entry) = self.entries.next() else {
            return Ok(None);
        };
        let name: StrDeserializer<'_, Fault> = entry.0.into_deserializer();
        self.value = entry;
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        let (key, found) = std::mem::take(&mut self.value);
        let value = seed.deserialize(Reader(found));
        value.map_err(|fault| fault.under(key))
    }
}
