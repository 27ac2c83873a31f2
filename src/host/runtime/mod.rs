//! The runtime's side of the protocol: what a runtime does with a network configuration
//! (specification, section 3), for the pods of `pausectl`.
//!
//! * [`conflist`] reads a configuration; `plugin` runs one of its plugins; `run` runs all of them, in
//!   order.
//! * `attach` makes an attachment whole or not at all.
//! * [`cache`] remembers what an attachment was made with, where and as libcni does, so that its DEL
//!   gets the same.
//! * [`add_calls`] reads from that what each plugin of ours was asked to do at ADD.

pub mod add_calls;
mod attach;
pub mod cache;
pub mod conflist;
mod interrupt;
mod parameters;
mod plugin;
mod run;

pub use attach::NotAttached;
pub use interrupt::Interrupt;
pub use parameters::{Parameters, Stop};
pub use plugin::find as find_plugin;
pub use run::{Runtime, execution_config};
