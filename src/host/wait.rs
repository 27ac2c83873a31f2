//! Runs the asynchronous part of a command.

use crate::error::Error;

/// Runs a future to its end on the calling thread. One thread is enough to wait for one program.
///
/// # Errors
/// The async runtime cannot be started, or `work` fails.
pub fn block_on<T, E: From<Error>>(work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|err| Error::new(format!("cannot start waiting: {err}")))?
        .block_on(work)
}
