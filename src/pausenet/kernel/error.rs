//! Errors of netlink requests: an error number, and often a text from the kernel.

use std::fmt;
use std::io;

use rustix::io::Errno;

use crate::cni::error::Attempted;
use crate::cni::{Code, Error};

/// The kernel's error for one request: the error number, and the text of the extended ACK if
/// present.
#[derive(Debug)]
pub struct KernelError {
    pub(super) error: io::Error,
    pub(super) note: Option<String>,
}

impl KernelError {
    /// True for this error number.
    pub fn is(&self, errno: Errno) -> bool {
        self.error.raw_os_error() == Some(errno.raw_os_error())
    }

    /// The plugin's error for it: code 101, or 11 if a retry may succeed, with what was attempted in
    /// front, and a hint where the error number has one usual cause.
    #[cold]
    #[inline(never)]
    pub fn during(self, attempt: impl fmt::Display) -> Error {
        let hint = match Errno::from_io_error(&self.error) {
            Some(Errno::PERM | Errno::ACCESS) => {
                "the plugin needs CAP_NET_ADMIN in both network namespaces"
            }
            Some(Errno::OPNOTSUPP) => "this kernel was built without what it needs",
            _ => "",
        };
        let code = Code::of_failure(&self.error, Code::KernelRefused);
        Error::new(code, format!("{attempt}: the kernel says: {self}")).hint(hint)
    }
}

/// A part of the kernel, which may be missing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KernelPart {
    pub(crate) module: &'static str,
    pub(crate) option: &'static str,
}

impl KernelError {
    /// True when the kernel knows no links of the kind that it was asked for.
    pub(crate) fn is_unknown_link_kind(&self) -> bool {
        // The text is in net/core/rtnetlink.c since Linux 4.20.
        self.is(Errno::OPNOTSUPP) && self.note.as_deref() == Some("Unknown device type")
    }

    /// Like [`KernelError::during`], and names the part if the kernel lacks it.
    #[cold]
    #[inline(never)]
    pub(crate) fn during_use_of(self, part: KernelPart, attempt: impl fmt::Display) -> Error {
        // ENOENT is what traffic control says of kinds that it does not know.
        let is_missing = [Errno::OPNOTSUPP, Errno::PROTONOSUPPORT, Errno::NOENT]
            .into_iter()
            .any(|errno| self.is(errno));
        let KernelPart { module, option } = part;
        let hint = format!("load the kernel's module {module}, or build it with {option}");
        let error = self.during(attempt);
        if is_missing { error.hint(hint) } else { error }
    }
}

impl Attempted for KernelError {
    fn during(self, attempt: impl fmt::Display) -> Error {
        self.during(attempt)
    }
}

impl fmt::Display for KernelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.note {
            Some(note) => write!(f, "{} ({note})", self.error),
            None => self.error.fmt(f),
        }
    }
}

impl std::error::Error for KernelError {}

impl From<io::Error> for KernelError {
    fn from(error: io::Error) -> Self {
        Self { error, note: None }
    }
}

impl From<Errno> for KernelError {
    fn from(errno: Errno) -> Self {
        io::Error::from(errno).into()
    }
}

/// The kernel's text for an error: attribute NLMSGERR_ATTR_MSG after the echoed request.
pub(super) fn extended_ack(echoed: &[u8]) -> Option<String> {
    const ATTR_MSG: u16 = 1;
    // A request begins with its length.
    let request = u32::from_ne_bytes(*echoed.first_chunk()?) as usize;
    let mut rest = echoed.get(request.checked_next_multiple_of(4)?..)?;
    while let [len_lo, len_hi, kind_lo, kind_hi, ..] = rest {
        let length = usize::from(u16::from_ne_bytes([*len_lo, *len_hi]));
        let kind = u16::from_ne_bytes([*kind_lo, *kind_hi]) & 0x3fff;
        let value = rest.get(4..length)?;
        if kind == ATTR_MSG {
            let text = value.split(|byte| *byte == 0).next()?;
            return Some(String::from_utf8_lossy(text).into_owned());
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
    None
}

/// The first error of a batch.
#[derive(Debug)]
pub struct BatchError {
    /// The index of the failed request.
    pub request: usize,
    pub error: KernelError,
}

impl Attempted for BatchError {
    fn during(self, attempt: impl fmt::Display) -> Error {
        self.error.during(attempt)
    }
}

/// The socket itself failed: none of the requests is known to be done.
impl From<KernelError> for BatchError {
    fn from(error: KernelError) -> Self {
        Self { request: 0, error }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cni::During;

    #[test]
    fn the_error_says_what_was_attempted_what_the_kernel_said_and_what_to_do() {
        let refused: Result<(), _> = Err(KernelError {
            error: Errno::PERM.into(),
            note: Some("no way".into()),
        });
        let err = refused.during("create a bridge").unwrap_err();
        assert_eq!(err.code, Code::KernelRefused);
        assert_eq!(
            err.msg,
            "create a bridge: the kernel says: Operation not permitted (os error 1) (no way)"
        );
        assert_eq!(
            err.details,
            "the plugin needs CAP_NET_ADMIN in both network namespaces"
        );
    }

    #[test]
    fn a_missing_part_of_the_kernel_is_named() {
        let bridges = KernelPart {
            module: "bridge",
            option: "CONFIG_BRIDGE",
        };
        let unknown = || KernelError {
            error: Errno::OPNOTSUPP.into(),
            note: Some("Unknown device type".into()),
        };
        assert!(unknown().is_unknown_link_kind());
        let err = unknown().during_use_of(bridges, "create bridge cni0");
        assert!(err.details.contains("module bridge"), "{err}");
        assert!(err.details.contains("CONFIG_BRIDGE"), "{err}");
        let other = KernelError::from(Errno::PERM);
        assert!(!other.is_unknown_link_kind());
        let err = other.during_use_of(bridges, "create bridge cni0");
        assert!(!err.details.contains("CONFIG"), "{err}");
    }

    #[test]
    fn a_shortage_of_the_kernel_is_code_11() {
        for errno in [Errno::NOMEM, Errno::NOBUFS, Errno::BUSY, Errno::AGAIN] {
            let err = KernelError::from(errno).during("create a bridge");
            assert_eq!(err.code, Code::TryAgainLater, "{errno}");
        }
    }

    #[test]
    fn of_a_batch_the_failed_request_is_known_and_its_error_passed_on() {
        let failed = BatchError {
            request: 2,
            error: Errno::OPNOTSUPP.into(),
        };
        let err = Err::<(), _>(failed).during("set the VLANs").unwrap_err();
        assert!(
            err.msg.starts_with("set the VLANs: the kernel says: "),
            "{err}"
        );
        assert_eq!(err.details, "this kernel was built without what it needs");
    }

    #[test]
    fn the_kernel_s_words_are_found_among_other_attributes() {
        let mut echoed = vec![0; 20];
        echoed[..4].copy_from_slice(&18_u32.to_ne_bytes());
        echoed.extend([8, 0, 2, 0, 9, 9, 9, 9]); // NLMSGERR_ATTR_OFFS
        echoed.extend([11, 0, 1, 0]);
        echoed.extend(b"no way\0\0");
        assert_eq!(extended_ack(&echoed).as_deref(), Some("no way"));
    }

    #[test]
    fn a_cut_off_extended_ack_is_no_extended_ack() {
        for length in 0..20 {
            assert_eq!(extended_ack(&vec![0xff; length]), None);
        }
        assert_eq!(extended_ack(&[0; 40]), None);
    }
}
