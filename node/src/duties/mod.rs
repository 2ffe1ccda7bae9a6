//! What the node does: follow the log, take files, seal, mine. Each duty joins the chain, the store and an engine.

pub mod mining;
pub mod prune;
pub mod sync;
pub mod upload;

/// Runs what blocks (disk, devices) on a thread of its own kind; a panic in it comes out here.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Blocking work is never cancelled once it runs, and nothing else cancels it.
            Err(error) => panic!("blocking work was cancelled: {error}"),
        },
    }
}
