//! Names that are validated once, when parsed, and safe to use from then on.
//!
//! They become parts of paths, link aliases and log lines; a value of one of these types is safe in
//! all of them.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::hash::{Hash, Hasher};

use sha2::{Digest, Sha256};

use super::error::{Code, Error, Result};

/// True for the characters that the specification allows in network names and container IDs.
fn is_plain(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(plain)
}

/// Shortens a value for an error message: a hostile one may be long.
fn shown(text: &str) -> String {
    let mut head: String = text.chars().take(64).collect();
    if head.len() < text.len() {
        head.push('…');
    }
    format!("{head:?} ({} bytes)", text.len())
}

/// A name of any length. One that is too long for a link's alias is known by its head and a hash;
/// these decide which names are the same.
#[derive(Debug, Clone)]
struct Shortened {
    short: String,
    /// The name as it was given, if that is longer.
    long: Option<String>,
}

impl Shortened {
    fn new(text: &str, max: usize) -> Self {
        let short = Self::shorten(text, max);
        Self {
            long: (short != text).then(|| text.to_owned()),
            short: short.into_owned(),
        }
    }

    fn shorten(text: &str, max: usize) -> Cow<'_, str> {
        const HASH: usize = 64;
        match text.get(..max - HASH - 1) {
            Some(head) if text.len() > max => {
                let hash = Sha256::digest(text.as_bytes());
                let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
                Cow::Owned(format!("{head}.{hash}"))
            }
            _ => Cow::Borrowed(text),
        }
    }
}

impl PartialEq for Shortened {
    fn eq(&self, other: &Self) -> bool {
        self.short == other.short
    }
}

impl Eq for Shortened {}

impl Ord for Shortened {
    fn cmp(&self, other: &Self) -> Ordering {
        self.short.cmp(&other.short)
    }
}

impl PartialOrd for Shortened {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Hash for Shortened {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.short.hash(state);
    }
}

macro_rules! shortened_name {
    ($(#[$doc:meta])* $name:ident, at most $max:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Shortened);

        impl $name {
            /// The maximum length of the short form, in bytes. Those of network and container and an
            /// interface's name together fit into a link's alias (255 bytes: see
            /// [`crate::plan::alias`]).
            pub const MAX: usize = $max;

            fn new(text: &str) -> Self {
                Self(Shortened::new(text, Self::MAX))
            }

            /// The form that links and nftables carry: the name, or the short form of a long one.
            pub fn as_str(&self) -> &str {
                &self.0.short
            }

            /// The name as it was given, for what other programs read. Unknown for one that was read
            /// from a link or from nftables.
            pub fn as_given(&self) -> &str {
                self.0.long.as_deref().unwrap_or(&self.0.short)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

shortened_name! {
    /// A network's name, from the config's `name`.
    NetworkName, at most 100
}
shortened_name! {
    /// A container's ID, from `CNI_CONTAINERID`. IDs of runtimes have at most 64 bytes.
    ContainerId, at most 128
}

/// A network interface's name: 1 to 15 bytes (the kernel's IFNAMSIZ less its NUL).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IfName(String);

impl NetworkName {
    /// # Errors
    /// Code 7 when the name is not of the specification's form.
    pub fn parse(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Err(Error::new(Code::InvalidConfig, "missing network name")
                .hint("the config needs a \"name\""));
        }
        if !is_plain(text) {
            return Err(Error::new(
                Code::InvalidConfig,
                format!("network name {} is not usable", shown(text)),
            )
            .hint(PLAIN_FORM));
        }
        Ok(Self::new(text))
    }

    /// Checks that a folder can have the name.
    ///
    /// # Errors
    /// Code 7 when it is too long.
    pub(crate) fn check_folder(&self) -> Result<()> {
        /// NAME_MAX of the kernel.
        const LONGEST: usize = 255;
        let name = self.as_given();
        if name.len() <= LONGEST {
            return Ok(());
        }
        let what = format!("network name {} is too long for a folder", shown(name));
        Err(Error::new(Code::InvalidConfig, what).hint(format!(
            "the address store has a folder of that name, of at most {LONGEST} bytes"
        )))
    }

    /// Whether a person or a link means this network by a text: its name, or the short form.
    pub fn is_called(&self, text: &str) -> bool {
        text == self.as_given() || text == self.as_str()
    }
}

impl ContainerId {
    /// # Errors
    /// Code 4 when the ID is not of the specification's form.
    pub fn parse(text: &str) -> Result<Self> {
        if !is_plain(text) {
            return Err(Error::new(
                Code::InvalidEnvironment,
                format!("CNI_CONTAINERID {} is not usable", shown(text)),
            )
            .hint(PLAIN_FORM));
        }
        Ok(Self::new(text))
    }

    /// The form that links and nftables carry. Short IDs, and those of this form, stay as they are.
    pub(crate) fn shorten(id: &str) -> Cow<'_, str> {
        Shortened::shorten(id, Self::MAX)
    }
}

const PLAIN_FORM: &str =
    "it must start with a letter or digit, and go on with letters, digits, '_', '.' or '-'";

impl IfName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// # Errors
    /// A sentence that names the fault; the caller adds where the name came from.
    pub fn parse(text: &str) -> std::result::Result<Self, String> {
        let name = Self::parse_any(text)?;
        let bad = |why: &str| Err(format!("interface name {} {why}", shown(text)));
        // Under /proc/sys/net, they are not an interface but all of them, or all new ones.
        if matches!(text, "all" | "default") {
            return bad("means every interface to the kernel");
        }
        // Our addition, for logs and terminals.
        if text.contains(char::is_control) {
            return bad("contains a control character");
        }
        // `eth%d` is a template: the kernel puts a free number in (__dev_alloc_name).
        if text.contains('%') {
            return bad("contains '%', which the kernel takes as a template for a name");
        }
        Ok(name)
    }

    /// Any name that the kernel and other plugins accept, to remove what carries it.
    ///
    /// # Errors
    /// As for [`IfName::parse`].
    pub(super) fn parse_any(text: &str) -> std::result::Result<Self, String> {
        let bad = |why: &str| Err(format!("interface name {} {why}", shown(text)));
        match text {
            "" => return bad("is empty"),
            "." | ".." => return bad("is not allowed"),
            _ if text.len() > 15 => return bad("is longer than 15 bytes"),
            _ => {}
        }
        // The kernel's dev_valid_name, which reads bytes: 0xa0 is a space in Latin-1.
        if text.contains(|c: char| matches!(c, '/' | ':') || c.is_whitespace()) {
            return bad("contains '/', ':' or a space");
        }
        if text.bytes().any(|byte| byte == 0xa0) {
            return bad("has a letter of which the kernel takes a part for a space");
        }
        Ok(Self(text.to_owned()))
    }

    /// What stands for every interface under /proc/sys/net.
    pub fn all() -> Self {
        Self("all".to_owned())
    }
}

impl std::fmt::Display for IfName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct MacAddr(pub(crate) [u8; 6]);

impl MacAddr {
    /// What the kernel reports for a link without a MAC. No frame can be sent to it.
    pub const ZERO: Self = Self([0; 6]);

    /// A random address like those the kernel makes: locally administered, unicast.
    ///
    /// # Errors
    /// Code 999 when the kernel returns no random bytes.
    pub fn random() -> Result<Self> {
        let mut bytes = [0; 6];
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
            .map_err(|err| Error::new(Code::Internal, format!("no random bytes: {err}")))?;
        bytes[0] = (bytes[0] & 0xfe) | 0x02;
        Ok(Self(bytes))
    }

    /// The same, higher than those of physical devices: a bridge whose MAC was never set takes the
    /// lowest of its ports'.
    ///
    /// # Errors
    /// Those of [`MacAddr::random`].
    pub fn random_high() -> Result<Self> {
        let Self([_, rest @ ..]) = Self::random()?;
        let [a, b, c, d, e] = rest;
        Ok(Self([0xfe, a, b, c, d, e]))
    }

    /// Parses `aa:bb:cc:dd:ee:ff`, `aa-bb-cc-dd-ee-ff` or `aabb.ccdd.eeff`, in any case, as Go does.
    ///
    /// # Errors
    /// A sentence that names the fault; the caller adds where the value came from.
    pub fn parse(text: &str) -> std::result::Result<Self, String> {
        const DIGITS: usize = 12;
        let (separator, width) = if text.contains('.') {
            ('.', 4)
        } else if text.contains('-') {
            ('-', 2)
        } else {
            (':', 2)
        };
        let groups: Vec<_> = text.split(separator).collect();
        let is_group = |group: &&str| {
            group.len() == width && group.bytes().all(|digit| digit.is_ascii_hexdigit())
        };
        let well_formed = groups.len() * width == DIGITS && groups.iter().all(is_group);
        let number = u64::from_str_radix(&groups.concat(), 16).ok();
        let Some(number) = number.filter(|_| well_formed) else {
            return Err(format!("{} is not a MAC address", shown(text)));
        };
        let [_, _, bytes @ ..] = number.to_be_bytes();
        if bytes[0] & 1 == 1 || Self(bytes) == Self::ZERO {
            return Err(format!("MAC address {text} cannot belong to an interface"));
        }
        Ok(Self(bytes))
    }
}

impl std::fmt::Display for MacAddr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl std::fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_that_could_leave_a_folder_or_a_line_are_refused() {
        for hostile in [
            "../x", "a/b", "", ".", "-a", "_a", "a b", "a\0b", "a\nb", "é",
        ] {
            assert!(NetworkName::parse(hostile).is_err(), "{hostile:?}");
            assert!(ContainerId::parse(hostile).is_err(), "{hostile:?}");
        }
    }

    #[test]
    fn a_long_container_id_has_a_short_form_of_its_own() {
        let id = |text: &str| ContainerId::parse(text).unwrap();
        let (long, other) = (id(&"a".repeat(300)), id(&"a".repeat(301)));
        assert_eq!(long.as_str().len(), ContainerId::MAX);
        assert_eq!(long.as_given(), "a".repeat(300));
        assert_ne!(long, other);
        assert_eq!(long, id(long.as_str()), "as a link carries it");
        // Frozen: `printf 'a%.0s' $(seq 129) | sha256sum`.
        let frozen = "c12cb024a2e5551cca0e08fce8f1c5e314555cc3fef6329ee994a3db752166ae";
        assert_eq!(
            id(&"a".repeat(129)).as_str(),
            format!("{}.{frozen}", "a".repeat(63))
        );
        let longest = "a".repeat(128);
        assert_eq!(id(&longest).as_str(), longest);
    }

    #[test]
    fn an_error_shows_only_the_head_of_a_long_name() {
        let err = NetworkName::parse(&"/".repeat(100_000)).unwrap_err();
        assert!(err.msg.len() < 300, "{} bytes", err.msg.len());
    }

    #[test]
    fn interface_names_follow_the_kernel() {
        for good in ["eth0", "a", "net1.100", "fifteen-bytes-x"] {
            assert!(IfName::parse(good).is_ok(), "{good:?}");
        }
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "a:b",
            "a b",
            "a\tb",
            "a\u{1b}b",
            "eth%d",
            "a%",
            "%%",
            "all",
            "default",
            "sixteen-bytes-xx",
        ] {
            assert!(IfName::parse(bad).is_err(), "{bad:?}");
        }
        for other_plugins_take in ["eth%d", "all", "default"] {
            assert!(IfName::parse_any(other_plugins_take).is_ok());
        }
        for nobody_takes in ["", "..", "a/b", "a:b", "a b", "sixteen-bytes-xx", "à"] {
            assert!(IfName::parse_any(nobody_takes).is_err(), "{nobody_takes}");
        }
    }

    #[test]
    fn macs_are_read_in_each_form_of_go_s_and_multicast_and_zero_are_none() {
        for bad in [
            "01:00:5e:00:00:01",
            "00:00:00:00:00:00",
            "02:00:00:00:00",
            "0:1:2:3:4:5",
            "+2:00:00:00:00:00",
            "0200.0000.000",
            "0200:0000:0005",
            "02:00-00:00-00:05",
        ] {
            assert!(MacAddr::parse(bad).is_err(), "{bad}");
        }
        for good in ["02:00:00:00:0A:05", "02-00-00-00-0a-05", "0200.0000.0a05"] {
            assert_eq!(MacAddr::parse(good).unwrap(), MacAddr([2, 0, 0, 0, 10, 5]));
        }
    }

    proptest! {
        #[test]
        fn a_mac_reads_back_as_itself(mut bytes: [u8; 6]) {
            bytes[0] = bytes[0] & 0xfe | 0x02;
            let mac = MacAddr(bytes);
            prop_assert_eq!(MacAddr::parse(&mac.to_string()).unwrap(), mac);
        }

        #[test]
        fn parsing_any_text_never_panics(text: String) {
            let _ = NetworkName::parse(&text);
            let _ = ContainerId::parse(&text);
            let _ = IfName::parse(&text);
            let _ = MacAddr::parse(&text);
        }
    }
}
