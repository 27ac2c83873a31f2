//! `CNI_ARGS`: `KEY=VALUE` pairs between semicolons (specification, section 2, "Parameters").

use std::net::IpAddr;

use super::error::{Code, Error, Result};
use super::json::cidr;
use super::names::MacAddr;

/// The keys of `CNI_ARGS` that pausenet understands. An empty value counts as none, as in the
/// reference.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Args {
    /// `MAC`: the requested MAC of the container's interface.
    pub(super) mac: Option<MacAddr>,
    /// `IP`: requested addresses, separated by commas.
    pub(super) ips: Vec<RequestedIp>,
    /// `GATEWAY`: gateways for them, separated by commas.
    pub(super) gateways: Vec<IpAddr>,
}

impl Args {
    /// Parses the variable's value. An empty one has no pairs.
    ///
    /// Unknown keys are refused unless `IgnoreUnknown` is true, as in the reference.
    ///
    /// # Errors
    /// Code 4 for a malformed pair, a malformed value or an unknown key.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = |what: String| Error::new(Code::InvalidEnvironment, format!("CNI_ARGS: {what}"));
        let mut args = Self::default();
        let mut unknown = Vec::new();
        let mut ignore_unknown = false;
        for pair in text.split(';').filter(|_| !text.is_empty()) {
            let (key, value) = match pair.split_once('=') {
                Some((key, value)) if !key.is_empty() && !value.contains('=') => (key, value),
                _ => return Err(bad(format!("{pair:?} is not KEY=VALUE"))),
            };
            match key {
                "IgnoreUnknown" => {
                    ignore_unknown = parse_bool(value).ok_or_else(|| {
                        bad(format!("IgnoreUnknown={value:?} is neither true nor false"))
                    })?
                }
                "MAC" | "IP" | "GATEWAY" if value.is_empty() => {}
                "MAC" => {
                    let mac = MacAddr::parse(value);
                    args.mac = Some(mac.map_err(|why| bad(format!("MAC: {why}")))?);
                }
                "IP" => {
                    let list = value.split(',').map(|ip| RequestedIp::parse(ip.trim()));
                    let list = list.collect::<std::result::Result<_, _>>();
                    args.ips = list.map_err(|why| bad(format!("IP: {why}")))?;
                }
                "GATEWAY" => {
                    let list = value.split(',').map(|ip| parse_ip(ip.trim()));
                    let list = list.collect::<std::result::Result<_, _>>();
                    args.gateways = list.map_err(|why| bad(format!("GATEWAY: {why}")))?;
                }
                "K8S_POD_NAMESPACE"
                | "K8S_POD_NAME"
                | "K8S_POD_INFRA_CONTAINER_ID"
                | "K8S_POD_UID" => {}
                _ => unknown.push(key),
            }
        }
        if !unknown.is_empty() && !ignore_unknown {
            return Err(bad(format!("unknown keys {}", unknown.join(", ")))
                .hint("add IgnoreUnknown=1 to let a plugin pass over keys it does not know"));
        }
        Ok(args)
    }
}

/// A requested address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RequestedIp {
    pub(crate) ip: IpAddr,
    /// The prefix length of its subnet, if given. `host-local` uses its ranges' instead; `static`
    /// needs it.
    pub(crate) prefix: Option<u8>,
}

impl RequestedIp {
    /// Parses an address with or without a prefix length.
    ///
    /// # Errors
    /// A sentence that names the fault.
    pub(super) fn parse(text: &str) -> std::result::Result<Self, String> {
        match cidr::parse(text) {
            Ok(net) => Ok(Self {
                ip: net.ip(),
                prefix: Some(net.prefix()),
            }),
            _ => parse_ip(text).map(|ip| Self { ip, prefix: None }),
        }
    }
}

/// Parses an address. An IPv4-mapped IPv6 address becomes IPv4, as in the reference.
///
/// # Errors
/// A sentence that names the fault.
pub fn parse_ip(text: &str) -> std::result::Result<IpAddr, String> {
    text.parse::<IpAddr>()
        .map(|ip| ip.to_canonical())
        .map_err(|_| format!("{text:?} is not an IP address"))
}

/// Accepts the same values as the reference: in any letter case.
fn parse_bool(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "t" | "true" => Some(true),
        "0" | "f" | "false" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn kubelet_s_arguments_are_known() {
        let kubelet = "K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;\
             K8S_POD_INFRA_CONTAINER_ID=abc;K8S_POD_UID=1-2";
        assert_eq!(Args::parse(kubelet).unwrap(), Args::default());
        for yes in ["1", "true", "TRUE", "tRue"] {
            let more = format!("IgnoreUnknown={yes};{kubelet};FOO=bar");
            assert_eq!(Args::parse(&more).unwrap(), Args::default());
        }
    }

    #[test]
    fn requested_addresses_are_read() {
        let args = Args::parse("IP=10.1.0.5/16;MAC=02:00:00:00:00:05").unwrap();
        assert_eq!(args.ips[0].ip.to_string(), "10.1.0.5");
        assert_eq!(args.ips[0].prefix, Some(16));
        assert_eq!(args.mac.unwrap().to_string(), "02:00:00:00:00:05");
    }

    #[test]
    fn empty_values_are_none() {
        let args = Args::parse("IP=;MAC=;GATEWAY=;K8S_POD_NAME=").unwrap();
        assert_eq!(args, Args::default());
    }

    #[test]
    fn an_error_names_the_key() {
        for (text, msg) in [
            ("IP=10.1.0.2,x", "CNI_ARGS: IP: \"x\" is not an IP address"),
            ("GATEWAY=x", "CNI_ARGS: GATEWAY: \"x\" is not an IP address"),
            (
                "MAC=x",
                "CNI_ARGS: MAC: \"x\" (1 bytes) is not a MAC address",
            ),
        ] {
            assert_eq!(Args::parse(text).unwrap_err().msg, msg);
        }
    }

    #[test]
    fn malformed_pairs_are_code_4() {
        for bad in [
            "x",
            "a=b=c",
            "=b",
            "a=b;",
            ";",
            "IP=x",
            "MAC=1",
            "IgnoreUnknown=maybe",
            "A=1",
        ] {
            let err = Args::parse(bad).unwrap_err();
            assert_eq!(err.code, Code::InvalidEnvironment, "{bad:?}");
        }
    }

    #[test]
    fn an_unknown_key_is_named() {
        let err = Args::parse("FOO=1;BAR=2").unwrap_err();
        assert!(err.msg.contains("FOO, BAR"), "{err}");
    }

    proptest! {
        #[test]
        fn parsing_any_text_never_panics(text: String) {
            let _ = Args::parse(&text);
        }
    }
}
