//! What a repair is.

use std::fmt::Debug;

use pausenet_host::Result;

/// A repair that is provably safe. It takes the lock of what it changes and looks again before
/// it changes anything: the finding may be out of date.
pub(super) trait Repair: Debug + Send {
    /// Carries it out. False if there was nothing left to repair.
    ///
    /// # Errors
    /// What kept it from being carried out.
    fn carry_out(&self) -> Result<bool>;

    /// What the repair has changed, for the report.
    fn done(&self) -> String;
}
