//! Applies a plan to the kernel, undoes it, and compares it with the kernel's state.
//!
//! What attachments share (the bridge, forwarding) is created when missing and never removed; what
//! belongs to one attachment is removed together with its veth pair.

mod attach;
pub(crate) mod bandwidth;
mod bridge;
mod claim;
mod container;
mod dead_containers;
pub(crate) mod earlier_holder;
pub(crate) mod element_record;
pub mod firewall;
pub(crate) mod forward_chain;
mod host;
mod host_end;
pub(crate) mod ingress_policy;
mod leftovers;
mod mapped_ports;
pub mod nft_elements;
mod observed;
mod other_mappings;
mod ports;
mod ptp;
mod reclaim;
pub(crate) mod reference;
mod settings;
pub(crate) mod tuning;
mod uplink;
mod verify;
mod veth;
mod vlan;

pub(crate) use attach::{Attached, attach, attach_links, create_links, remove_links};
pub(crate) use bridge::forget_known_macs;
pub use claim::Extent;
pub(crate) use container::open as open_in_container;
pub(crate) use dead_containers::Deaths;
pub use host::{Host, LOCKS, is_locked, try_lock};
pub use host_end::host_end;
pub(crate) use host_end::host_end_in;
pub use leftovers::{
    empty_tables, networks_in_firewalls, remove_empty_tables, remove_unused_bridge, unused_bridges,
};
pub use mapped_ports::{MappedPort, mapped_ports};
pub use observed::{ElementKey, ObservedElements, restore_elements};
pub use other_mappings::{OtherMapping, other_mappings};
pub use ports::{publish, unpublish};
pub(crate) use reclaim::reclaim_empty;
pub use reclaim::{GRACE_PERIOD, ProcessSnapshot, ReclaimEvidence, reclaim, reclaim_damaged};
pub use settings::keep_router_advertisements;
pub(crate) use uplink::Uplink;
pub(crate) use verify::{WiredBy, verify};
pub(crate) use veth::remove_early;
pub use veth::{clear_debris, ensure_name_is_free, is_debris, remove, remove_debris};
pub(crate) use vlan::gateway_name;
