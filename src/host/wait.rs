//! The asynchronous part of a command.

use crate::error::Error;

/// Runs the asynchronous part of a command. One thread is enough: it waits for one program.
///
/// # Errors
/// When the kernel gives no event queue; `work`'s own.
pub fn block_on<T, E: From<Error>>(work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|err| Error::new(format!("cannot start waiting: {err}")))?
        .block_on(work)
}
