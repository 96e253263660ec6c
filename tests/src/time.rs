//! Deadlines: a test that waits for what never comes must fail, not hang.

use std::{future::Future, time::Duration};

use anyhow::{Result, anyhow};

/// How long any single thing may take. Far longer than it should on the
/// slowest machine: only a hang reaches it.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// How often [`eventually`] looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Awaits `future` until [`DEADLINE`]; `what` names it in the error.
///
/// # Errors
/// The deadline has passed.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> Result<T> {
    within_time(DEADLINE, what, future).await
}

/// [`within`] with a deadline of its own.
pub(crate) async fn within_time<T>(
    limit: Duration,
    what: &str,
    future: impl Future<Output = T>,
) -> Result<T> {
    tokio::time::timeout(limit, future)
        .await
        .map_err(|_| anyhow!("{what}: nothing happened for {} s", limit.as_secs()))
}

/// Looks until `look` finds nothing wrong any more. For states of the system
/// that tell nobody when they change, such as a file or a process that goes.
///
/// # Errors
/// What `look` found last, once the deadline has passed.
pub async fn eventually<T>(look: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    until(DEADLINE, look).await
}

/// [`eventually`] with a deadline of its own.
pub(crate) async fn until<T>(
    deadline: Duration,
    mut look: impl AsyncFnMut() -> Result<T>,
) -> Result<T> {
    let end = tokio::time::Instant::now() + deadline;
    loop {
        match look().await {
            Ok(value) => return Ok(value),
            Err(error) if tokio::time::Instant::now() >= end => return Err(error),
            Err(_) => tokio::time::sleep(LOOK_AGAIN).await,
        }
    }
}
