//! Reading JSON: configs and their parts, fields that may be `null`, and CIDR notation.

use ipnetwork::IpNetwork;
use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

use super::error::{Code, Error, Result};

/// Parses the bytes of stdin as a type that has some of a config's keys.
///
/// # Errors
/// Code 6; the message has the line and column, or says that stdin is empty.
pub fn parse<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> Result<T> {
    if bytes.trim_ascii().is_empty() {
        return Err(Error::new(Code::Decode, "no network config on stdin")
            .hint("the runtime writes the config to stdin; by hand: pausenet < conf.json"));
    }
    serde_json::from_slice(bytes)
        .map_err(|err| Error::new(Code::Decode, format!("network config: {err}")))
}

/// Reads a part of a config that is already parsed as JSON. `what` names the part in the code 6
/// error.
pub fn parse_part<T: for<'de> Deserialize<'de>>(what: &str, part: &Value) -> Result<T> {
    T::deserialize(part).map_err(|err| Error::new(Code::Decode, format!("{what}: {err}")))
}

/// For fields where `null` means the default: `#[serde(default, deserialize_with = "nullable")]`.
pub fn nullable<'de, D, T>(deserializer: D) -> std::result::Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Addresses in CIDR notation. Unlike in ipnetwork's own parser, the prefix length is required.
pub mod cidr {
    use super::*;

    /// Parses `10.1.0.5/16`. The error is a message that quotes the text.
    pub fn parse(text: &str) -> std::result::Result<IpNetwork, String> {
        let net = text.parse::<IpNetwork>().ok();
        net.filter(|_| text.contains('/'))
            .ok_or_else(|| format!("{text:?} is not an address with a prefix length (CIDR)"))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_without_a_prefix_length_is_no_subnet() {
        assert!(cidr::parse("10.0.0.0").is_err());
        assert!(cidr::parse("10.0.0.0/33").is_err());
        assert!(cidr::parse("10.0.0.0/8").is_ok());
    }
}
