//! Recognizes a call that led back to itself: a plugin that we delegate to may be a script that runs
//! pausenet again, for the same container. The inner call would wait for the outer one's lock, or
//! start the next.
//!
//! Each delegate, and what it starts, inherits in a variable the calls that led to it: a line for each,
//! with network, container and interface.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use super::error::{Code, Error, Result};
use super::names::NetworkName;

/// The calls that led to this process. Only pausenet reads it.
pub(super) const VARIABLE: &str = "PAUSENET_CALLS";

/// No sensible chain of plugins is longer. A script may give each call another container's name.
const MAX_DEPTH: usize = 8;

/// The value of [`VARIABLE`].
pub(super) type Calls = OsString;

/// The calls that led here, and this one.
pub(super) fn with_this_one(network: &NetworkName) -> Calls {
    let mut calls = so_far();
    calls.push(this_one(network));
    calls.push("\n");
    calls
}

/// Refuses a call that another one for the same attachment or network led to.
///
/// # Errors
/// Code 7.
pub(crate) fn refuse_repeated(network: &NetworkName) -> Result<()> {
    let so_far = so_far();
    if so_far.is_empty() {
        return Ok(());
    }
    refuse(&so_far, &this_one(network)).map_err(|why| {
        Error::new(Code::InvalidConfig, why).hint(
            "\"ipam\" names a plugin that runs pausenet again: name host-local or static, which are \
             built in, or a plugin that gives addresses itself",
        )
    })
}

fn refuse(so_far: &OsStr, this_one: &OsStr) -> std::result::Result<(), String> {
    let calls = so_far.as_bytes().split(|byte| *byte == b'\n');
    let calls: Vec<_> = calls.filter(|call| !call.is_empty()).collect();
    if calls.contains(&this_one.as_bytes()) {
        return Err("this call is part of another one for the same network and container".into());
    }
    if calls.len() >= MAX_DEPTH {
        return Err(format!("{} calls of pausenet led to this one", calls.len()));
    }
    Ok(())
}

fn so_far() -> Calls {
    std::env::var_os(VARIABLE).unwrap_or_default()
}

fn this_one(network: &NetworkName) -> Calls {
    let variable = |name| std::env::var_os(name).unwrap_or_default();
    line(
        network.as_str(),
        &variable("CNI_CONTAINERID"),
        &variable("CNI_IFNAME"),
    )
}

/// No valid name contains a space or a line's end; those of an invalid one must not make another line.
fn line(network: &str, container: &OsStr, ifname: &OsStr) -> Calls {
    let mut line = network.as_bytes().to_vec();
    for word in [container, ifname] {
        line.push(b' ');
        line.extend(word.as_bytes().iter().filter(|byte| **byte != b'\n'));
    }
    OsString::from_vec(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(network: &str, container: &str) -> Calls {
        line(network, container.as_ref(), "eth0".as_ref())
    }

    fn chain(calls: &[Calls]) -> Calls {
        calls.join(OsStr::new("\n"))
    }

    #[test]
    fn a_call_for_the_same_attachment_is_a_repetition_and_others_are_not() {
        let so_far = chain(&[call("podnet", "a"), call("other", "b")]);
        assert!(refuse(&so_far, &call("podnet", "a")).is_err());
        assert!(refuse(&so_far, &call("other", "b")).is_err());
        assert!(refuse(&so_far, &call("other", "a")).is_ok());
        assert!(refuse(OsStr::new(""), &call("podnet", "a")).is_ok());
    }

    #[test]
    fn a_chain_ends_though_each_call_is_for_another_container() {
        let calls = |count| chain(&vec![call("podnet", "x"); count]);
        assert!(refuse(&calls(MAX_DEPTH - 1), &call("podnet", "a")).is_ok());
        assert!(refuse(&calls(MAX_DEPTH), &call("podnet", "a")).is_err());
    }

    #[test]
    fn a_line_s_end_in_a_name_makes_no_second_call() {
        let hostile = line("podnet", "x\nother".as_ref(), "eth0".as_ref());
        assert_eq!(hostile, "podnet xother eth0");
    }
}
