//! Reading JSON as Go does: configs and their parts, and results of other plugins; CIDR notation,
//! and addresses that may be empty.

mod fault;
mod node;
mod reader;
#[cfg(test)]
mod tests;

use std::fmt;
use std::marker::PhantomData;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::de::{DeserializeOwned, Deserializer, Error as _, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

use self::fault::Fault;
use self::node::Node;
use self::reader::{LAST, Reader};
pub(super) use self::reader::{keys_of, names};
use super::error::{Code, Error, Result};

/// A JSON text, or the part of one under some key.
#[derive(Debug, Clone)]
pub struct Json {
    /// What was read, for errors.
    subject: &'static str,
    /// The keys that lead here.
    path: Vec<&'static str>,
    /// All values that the text has here.
    found: Vec<Node>,
}

impl Json {
    /// Parses the bytes of stdin.
    ///
    /// # Errors
    /// Code 6; the message has the line and column, or says that stdin is empty.
    pub fn config(bytes: &[u8]) -> Result<Self> {
        if bytes.trim_ascii().is_empty() {
            return Err(Error::new(Code::Decode, "no network config on stdin")
                .hint("the runtime writes the config to stdin; by hand: pausenet < conf.json"));
        }
        Self::parse("network config", bytes)
    }

    /// Parses an object. `subject` says in errors what it is.
    ///
    /// # Errors
    /// Code 6, with the line and column.
    pub fn parse(subject: &'static str, bytes: &[u8]) -> Result<Self> {
        let root: Node = serde_json::from_slice(bytes)
            .map_err(|err| Error::new(Code::Decode, format!("{subject}: {err}")))?;
        Self::object(subject, root)
    }

    /// The same of what is parsed already.
    ///
    /// # Errors
    /// Code 6 when it is not an object.
    pub fn of(subject: &'static str, value: &Value) -> Result<Self> {
        Self::object(subject, value.into())
    }

    fn object(subject: &'static str, root: Node) -> Result<Self> {
        match root {
            Node::Object(_) => Ok(Self {
                subject,
                path: Vec::new(),
                found: vec![root],
            }),
            other => {
                let what = format!("{subject}: expected an object, found {}", other.describe());
                Err(Error::new(Code::Decode, what))
            }
        }
    }

    fn reader(&self) -> Reader<'_> {
        Reader::new(self.found.iter().collect())
    }

    fn wrong(&self, path: &[&'static str], fault: Fault) -> Error {
        let path = path.iter().rev();
        let fault = path.fold(fault, |fault, key| fault.under(key));
        Error::new(Code::Decode, format!("{}: {fault}", self.subject))
    }

    /// What is under these keys, from the outermost inwards.
    ///
    /// # Errors
    /// Code 6 when one of them leads to something that has no keys.
    pub fn part(&self, keys: &[&'static str]) -> Result<Self> {
        let mut path = self.path.clone();
        Ok(Self {
            found: self.walk(&mut path, keys)?.into_nodes(),
            subject: self.subject,
            path,
        })
    }

    /// Reads what is under these keys as a type. The path in errors starts at the root.
    ///
    /// # Errors
    /// Code 6, naming the key that cannot be read, what was found there, and what was expected.
    pub fn read_part<T: DeserializeOwned>(&self, keys: &[&'static str]) -> Result<T> {
        let mut path = self.path.clone();
        let reader = self.walk(&mut path, keys)?;
        T::deserialize(reader).map_err(|fault| self.wrong(&path, fault))
    }

    fn walk(&self, path: &mut Vec<&'static str>, keys: &[&'static str]) -> Result<Reader<'_>> {
        let mut reader = self.reader();
        for key in keys {
            reader = reader.field(key).map_err(|fault| self.wrong(path, fault))?;
            path.push(key);
        }
        Ok(reader)
    }

    /// What this is, and the keys that lead here, for errors.
    pub(super) fn place(&self) -> String {
        match self.path.join(".") {
            keys if keys.is_empty() => self.subject.to_owned(),
            keys => format!("{}: {keys}", self.subject),
        }
    }

    /// Whether there is nothing here, or null.
    pub fn is_absent(&self) -> bool {
        self.reader().is_absent()
    }

    /// Reads it as a type. The paths in errors start at the root.
    ///
    /// # Errors
    /// Code 6, naming the key that cannot be read, what was found there, and what was expected.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T> {
        self.read_part(&[])
    }

    /// The same after it went through a map, as Go's plugins read prevResult: names count as they
    /// are spelled, the last of one name replaces the others, and all are sorted.
    ///
    /// # Errors
    /// Code 6 when this is not an object.
    pub(super) fn as_map(&self) -> Result<Self> {
        let entries = self.reader().map();
        let entries = entries.map_err(|fault| self.wrong(&self.path, fault))?;
        let entries = entries.into_iter();
        let entries = entries.map(|(key, value)| (key.to_owned(), value.clone()));
        Ok(Self {
            subject: self.subject,
            path: self.path.clone(),
            found: vec![Node::Object(entries.collect()).sorted()],
        })
    }
}

/// Parses the bytes of stdin as a type that has some of a config's keys.
///
/// # Errors
/// Those of [`Json::config`] and [`Json::read`].
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    Json::config(bytes)?.read()
}

/// For what Go's types read by a method of their own: they replace what was there before.
pub(super) fn last<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    from: D,
) -> std::result::Result<T, D::Error> {
    struct Last<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Last<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("JSON")
        }

        fn visit_newtype_struct<D: Deserializer<'de>>(
            self,
            from: D,
        ) -> std::result::Result<T, D::Error> {
            T::deserialize(from)
        }
    }

    from.deserialize_newtype_struct(LAST, Last(PhantomData))
}

/// For fields of other formats' types where `null` means the default.
pub fn nullable<'de, D, T>(deserializer: D) -> std::result::Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// An address; the empty string means none.
pub(super) fn address<'de, D: Deserializer<'de>>(
    from: D,
) -> std::result::Result<Option<IpAddr>, D::Error> {
    match Option::<String>::deserialize(from)?.as_deref() {
        None | Some("") => Ok(None),
        Some(text) => super::args::parse_ip(text)
            .map(Some)
            .map_err(D::Error::custom),
    }
}

/// A number that means "not set" if it is zero or less, as Go's plugins take it.
pub(super) fn positive<'de, D: Deserializer<'de>>(
    from: D,
) -> std::result::Result<Option<u32>, D::Error> {
    let number = i64::deserialize(from)?;
    let too_large = || D::Error::custom(format!("{number} is larger than {}", u32::MAX));
    match u32::try_from(number.max(0)) {
        Ok(0) => Ok(None),
        Ok(number) => Ok(Some(number)),
        Err(_) => Err(too_large()),
    }
}

/// Addresses in CIDR notation. Unlike in ipnetwork's own parser, the prefix length is required.
pub mod cidr {
    use super::*;

    /// Parses `10.1.0.5/16`. The error is a message that quotes the text.
    pub fn parse(text: &str) -> std::result::Result<IpNetwork, String> {
        // ipnetwork also takes masks (`/255.255.0.0`).
        let length = text.split_once('/').map_or("", |(_, length)| length);
        let is_number = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
        let net = text.parse::<IpNetwork>().ok().filter(|_| is_number);
        net.map(canonical)
            .ok_or_else(|| format!("{text:?} is not an address with a prefix length (CIDR)"))
    }

    /// An IPv4-mapped IPv6 network becomes IPv4, as in Go.
    fn canonical(net: IpNetwork) -> IpNetwork {
        match (net.ip().to_canonical(), net.prefix().checked_sub(96)) {
            (ip @ IpAddr::V4(_), Some(prefix)) if net.is_ipv6() => {
                IpNetwork::new(ip, prefix).unwrap_or(net)
            }
            _ => net,
        }
    }

    pub fn serialize<S: Serializer>(
        net: &IpNetwork,
        to: S,
    ) -> std::result::Result<S::Ok, S::Error> {
        net.serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> std::result::Result<IpNetwork, D::Error> {
        parse(&String::deserialize(from)?).map_err(D::Error::custom)
    }
}
