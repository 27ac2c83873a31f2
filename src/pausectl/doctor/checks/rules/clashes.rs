//! Ports of pods that another program maps too, before ours are looked up.

use crate::doctor::finding::Finding;
use pausenet::apply::{ObservedElements, OtherMapping, nft_elements};
use pausenet::cni::Family;
use pausenet::kernel::nft::Element;
use pausenet::plan::element_owner;

/// A finding for each port of ours that is also another program's.
pub(super) fn clashes(present: &ObservedElements, others: &[OtherMapping]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut ports: Vec<_> = present
        .elements
        .iter()
        .filter(|((_, set, _), _)| set.starts_with("ports"))
        .collect();
    ports.sort_by(|((_, one, key), _), ((_, other, other_key), _)| {
        (one, key).cmp(&(other, other_key))
    });
    for ((_, set, _), element) in ports {
        let family = if set.starts_with("ports6") {
            Family::Ipv6
        } else {
            Family::Ipv4
        };
        let Some(other) = others.iter().find(|other| is_same(other, family, element)) else {
            continue;
        };
        let Some((_, owner)) = element_owner(&element.owner) else {
            continue;
        };
        let port = nft_elements::port_of(element);
        findings.push(
            Finding::problem(
                &owner,
                format!("host port {port} ({family}) is also {}", other.whose),
            )
            .means("that one wins, always: connections to the port do not reach the pod")
            .how("give one of the two another port"),
        );
    }
    findings
}

/// Whether both are the same port. The key of ours ends with protocol and port, four bytes each.
fn is_same(other: &OtherMapping, family: Family, ours: &Element) -> bool {
    let key = ours.key.len().checked_sub(8).map(|at| &ours.key[at..]);
    let Some([protocol, _, _, _, high, low, ..]) = key else {
        return false;
    };
    other.family == family
        && other.port == u16::from_be_bytes([*high, *low])
        && other.protocol.is_none_or(|other| other == *protocol)
}
