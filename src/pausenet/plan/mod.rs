//! The plan: the desired state of the kernel for a complete attachment.
//!
//! A pure function of the request and the allocation. ADD applies it, CHECK compares it with the
//! kernel's state. Nothing here reads the kernel, the disk, the clock or the environment.
//!
//! [`attachment`](plan) puts the parts together: the host end and what it is connected to
//! ([`LinkPlan`], one variant for each mode), the container's side, elements of nftables
//! ([`elements`]) and the traffic that other firewalls should accept ([`firewall`]). Names and marks
//! are in the file `names`.

mod attachment;
mod bridge;
mod container;
pub mod elements;
mod families;
pub mod firewall;
mod names;
mod ptp;
pub mod reference;

pub(crate) use attachment::{LinkPlan, Plan, plan, plan_links};
pub(crate) use bridge::{AddressChange, BridgePlan, PortPlan, bridge_addresses};
pub(crate) use container::{KnownMacs, PlannedRoute};
pub use families::Families;
pub use names::{
    BATCH_DELETE_GROUP, HOST_END_START, LINK_GROUP, Mapper, NEW_GROUP, Ownership, STEADY_GROUP,
    abbreviated_owner, alias, attachment_of_host_end, element_owner, host_end_name, ifb_name,
    is_half_made, lock_name, mac_of,
};
pub(crate) use names::{closed_network, network_owner};
pub(crate) use ptp::PtpPlan;

#[cfg(test)]
mod tests;
