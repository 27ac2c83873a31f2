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

/// Whether this check, which is the first, waits for the kernel more than it works, and touches nothing that
/// others look at.
pub(super) fn waits(check: &Check) -> bool {
    check.name == kernel::CHECK.name
}

/// Whether a note of this check may follow from the files that are installed. Other notes are of the host as
/// it was.
pub(super) fn depends_on_files(check: &Check) -> bool {
    let those = [
        firewall::CHECK.name,
        networks::CHECK.name,
        plugins::CHECK.name,
    ];
    those.contains(&check.name)
}

/// Whether a check can be made by anybody. The kernel shows root alone what the others look at.
pub(super) fn needs_no_root(check: &Check) -> bool {
    [networks::CHECK.name, plugins::CHECK.name].contains(&check.name)
}
