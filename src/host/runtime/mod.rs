//! The runtime's side of CNI: what a runtime does with a network configuration (specification,
//! section 3), for the pods of `pausectl`.
//!
//! * [`conflist`] reads a configuration; `plugin` runs one of its plugins; `run` runs all of them, in
//!   order.
//! * `attach` makes an attachment completely or not at all.
//! * [`cache`] is the result cache, in libcni's folder and format: it keeps what an attachment was
//!   made with, so that its DEL gets the same.
//! * [`add_calls`] reconstructs from it the ADD call of each of our plugins.

pub mod add_calls;
mod attach;
pub mod cache;
pub mod conflist;
mod interrupt;
mod parameters;
mod plugin;
mod plugin_folder;
mod run;

pub use attach::NotAttached;
pub use interrupt::Interrupt;
pub use parameters::{Parameters, Stop};
pub use plugin::find as find_plugin;
pub use run::{Runtime, execution_config};
