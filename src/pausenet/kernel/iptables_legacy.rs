//! Reads the tables of iptables-legacy, which nf_tables does not show
//! (linux/netfilter_ipv4/ip_tables.h and its IPv6 counterpart). It does not write them: changing
//! one rule means replacing the whole table.

mod rules;

use std::fs;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};

pub(crate) use self::rules::LegacyTable;
use super::error::KernelError;
use super::syscalls::socket_option;
use crate::cni::Family;

/// IPT_SO_GET_INFO and IPT_SO_GET_ENTRIES; IPv6 has the same numbers.
const GET_INFO: i32 = 64;
const GET_ENTRIES: i32 = 65;

/// struct ipt_getinfo: the table's name (32 bytes) and thirteen 32-bit numbers, among them the
/// offset of the FORWARD chain's policy and, last, the size of the rules in bytes.
const INFO_LENGTH: usize = 84;
const INFO_FORWARD_POLICY_AT: usize = 64;
const INFO_SIZE_AT: usize = 80;

/// struct ipt_get_entries: the table's name, the size, padding, the rules.
const NAME_LENGTH: usize = 32;
const RULES_AT: usize = 40;

/// struct xt_standard_target: struct xt_entry_target, then the verdict.
const VERDICT_AT: usize = 32;

/// struct xt_error_target, which starts a chain: its size, "ERROR", the chain's name.
const TARGET_NAME_AT: usize = 2;
const CHAIN_NAME_AT: usize = 32;
const CHAIN_NAME_LENGTH: usize = 30;

/// The program that lists and changes these tables.
pub fn program(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "iptables-legacy",
        Family::Ipv6 => "ip6tables-legacy",
    }
}

/// The file that lists the tables in use.
fn names_in_use(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "/proc/thread-self/net/ip_tables_names",
        Family::Ipv6 => "/proc/thread-self/net/ip6_tables_names",
    }
}

/// Any socket of the family works: it only selects the family's tables.
fn open_socket(family: Family) -> io::Result<UdpSocket> {
    match family {
        Family::Ipv4 => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)),
        Family::Ipv6 => UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)),
    }
}

/// SOL_IP and SOL_IPV6.
fn option_level(family: Family) -> i32 {
    match family {
        Family::Ipv4 => 0,
        Family::Ipv6 => 41,
    }
}

/// Where a rule (struct ipt_entry, ip6t_entry) stores the offset of its target, followed by that of
/// the next rule.
fn target_offset_at(family: Family) -> usize {
    match family {
        Family::Ipv4 => 88,
        Family::Ipv6 => 140,
    }
}

/// The user-defined chains of a table, in the calling thread's network namespace; none if
/// the table is not in use.
///
/// # Errors
/// The kernel's: EPERM without CAP_NET_ADMIN.
pub fn chains(family: Family, table: &str) -> Result<Vec<String>, KernelError> {
    let rules = read(family, table)?.map(|(_, rules)| rules);
    Ok(chain_names(
        &rules.unwrap_or_default(),
        target_offset_at(family),
    ))
}

/// Whether the policy of the chain FORWARD is DROP, in the calling thread's network namespace.
/// False if the table `filter` is not in use.
///
/// # Errors
/// The kernel's: EPERM without CAP_NET_ADMIN.
pub(crate) fn forward_drops(family: Family) -> Result<bool, KernelError> {
    const VERDICT_DROP: usize = -1_i32 as u32 as usize;
    let Some((info, rules)) = read(family, "filter")? else {
        return Ok(false);
    };
    // The last rule of a built-in chain is its policy; the table says where it is.
    let verdict = number(&info, INFO_FORWARD_POLICY_AT).and_then(|at| {
        let target = short(rules.get(at..)?, target_offset_at(family))?;
        number(&rules, at + target + VERDICT_AT)
    });
    Ok(verdict == Some(VERDICT_DROP))
}

/// A table, read as far as its rules can be. None if it is not in use.
///
/// # Errors
/// The kernel's: EPERM without CAP_NET_ADMIN.
pub(crate) fn table(family: Family, table: &str) -> Result<Option<LegacyTable>, KernelError> {
    let found = read(family, table)?;
    Ok(found.map(|(info, rules)| LegacyTable::read(family, &info, &rules)))
}

/// A table's info and its rules. None if it is not in use.
fn read(family: Family, table: &str) -> io::Result<Option<([u8; INFO_LENGTH], Vec<u8>)>> {
    // Asking for a table creates it, so ask only for tables in use.
    let names = match fs::read_to_string(names_in_use(family)) {
        Err(err) if err.kind() == ErrorKind::NotFound => return Ok(None),
        names => names?,
    };
    if !names.lines().any(|name| name == table) {
        return Ok(None);
    }
    let socket = open_socket(family)?;
    loop {
        match ask(&socket, family, table) {
            // Another program replaced the table in between.
            Err(err) if err.kind() == ErrorKind::WouldBlock => {}
            answer => return answer.map(Some),
        }
    }
}

fn ask(
    socket: &UdpSocket,
    family: Family,
    table: &str,
) -> io::Result<([u8; INFO_LENGTH], Vec<u8>)> {
    let mut info = [0; INFO_LENGTH];
    info[..table.len()].copy_from_slice(table.as_bytes());
    socket_option(socket, option_level(family), GET_INFO, &mut info)?;
    let size = &info[INFO_SIZE_AT..];
    let mut answer = vec![0; RULES_AT];
    answer[..table.len()].copy_from_slice(table.as_bytes());
    answer[NAME_LENGTH..NAME_LENGTH + size.len()].copy_from_slice(size);
    answer.resize(RULES_AT + number(size, 0).unwrap_or(0), 0);
    socket_option(socket, option_level(family), GET_ENTRIES, &mut answer)?;
    Ok((info, answer.split_off(RULES_AT)))
}

/// The names of user-defined chains. Built-in chains have none; the end of a table looks like the
/// start of a chain.
fn chain_names(mut rules: &[u8], target_offset_at: usize) -> Vec<String> {
    let mut names = Vec::new();
    while let Some(target) = short(rules, target_offset_at)
        && let Some(next) = short(rules, target_offset_at + 2)
        && next > 0
    {
        let text = |at: usize, length| text(rules, target + at, length);
        if text(TARGET_NAME_AT, CHAIN_NAME_AT - TARGET_NAME_AT) == Some("ERROR") {
            names.extend(text(CHAIN_NAME_AT, CHAIN_NAME_LENGTH).map(str::to_owned));
        }
        rules = rules.get(next..).unwrap_or_default();
    }
    names.pop();
    names
}

fn short(bytes: &[u8], at: usize) -> Option<usize> {
    let bytes = bytes.get(at..at + 2)?;
    Some(u16::from_ne_bytes(bytes.try_into().ok()?).into())
}

fn number(bytes: &[u8], at: usize) -> Option<usize> {
    let bytes = bytes.get(at..at + 4)?;
    usize::try_from(u32::from_ne_bytes(bytes.try_into().ok()?)).ok()
}

/// NUL-terminated text.
fn text(bytes: &[u8], at: usize, length: usize) -> Option<&str> {
    let text = bytes
        .get(at..at + length)?
        .split(|&byte| byte == 0)
        .next()?;
    std::str::from_utf8(text).ok()
}
