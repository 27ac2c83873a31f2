//! The list of checks; each has a file or folder of its name.

mod firewall;
mod kernel;
mod leftovers;
mod legacy;
mod links;
mod networks;
mod plugins;
mod rules;
mod store;
mod sysctls;

use super::check::Check;

/// All checks, in the order in which they run.
pub(super) const CHECKS: [&Check; 9] = [
    &kernel::CHECK,
    &sysctls::CHECK,
    &firewall::CHECK,
    &plugins::CHECK,
    &networks::CHECK,
    &store::CHECK,
    &rules::CHECK,
    &links::CHECK,
    &legacy::CHECK,
];
