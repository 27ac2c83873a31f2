//! The checks of `pausectl doctor`, a file or folder for each.

pub(super) mod firewall;
pub(super) mod kernel;
pub(super) mod legacy;
pub(super) mod links;
pub(super) mod networks;
pub(super) mod plugins;
pub(super) mod rules;
pub(super) mod store;
pub(super) mod sysctls;
