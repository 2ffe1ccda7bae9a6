//! Parts of the node as supervised tasks: each has a name, a state that can be read, and a limited time to end.
//!
//! A part is an async function that runs until it is told to stop. One that fails is named with its reason; it is
//! started again after a pause that grows, or, when the node is nothing without it, it ends the node.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};

/// Pause before a part is started again: the first, and the longest that doubling leads to.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// Longest time for all parts to end, but for the least time that each is given.
const MAX_END: Duration = Duration::from_secs(8);
const LEAST_END: Duration = Duration::from_millis(100);
/// A part that ran this long before it failed is started again after the first pause.
const GOOD_RUN: Duration = Duration::from_secs(120);

/// Why the node ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Somebody wanted it.
    Wanted(&'static str),
    /// A part without which there is no node has failed.
    Failed {
        /// Its name.
        part: &'static str,
        /// What went wrong.
        reason: String,
    },
}

/// Tells a part when to stop.
#[derive(Clone)]
pub(super) struct Stop(watch::Receiver<bool>);

impl Stop {
    /// Returns when the part has to stop.
    pub(super) async fn wanted(&mut self) {
        // An error says that the supervisor is gone: a reason to stop as well.
        let _ = self.0.wait_for(|stop| *stop).await;
    }
}

/// What a part is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PartState {
    Running,
    /// It failed, and is started again.
    Restarting {
        reason: String,
        pause: Duration,
    },
    /// It failed for good.
    Failed {
        reason: String,
    },
    Stopped,
}

/// A part as others see it.
#[derive(Clone, Debug)]
pub(super) struct PartReport {
    pub(super) name: &'static str,
    pub(super) state: PartState,
    pub(super) since: Instant,
    pub(super) restarts: u64,
}

/// All parts as others see them.
#[derive(Clone, Default)]
pub(super) struct Board(Arc<Mutex<Vec<PartReport>>>);

impl Board {
    fn lock(&self) -> MutexGuard<'_, Vec<PartReport>> {
        // A panic leaves no half-written report: each is one assignment.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn reports(&self) -> Vec<PartReport> {
        self.lock().clone()
    }

    fn set(&self, name: &'static str, state: PartState) {
        let mut reports = self.lock();
        let restarts = u64::from(matches!(state, PartState::Restarting { .. }));
        match reports.iter_mut().find(|report| report.name == name) {
            Some(report) => {
                (report.state, report.since) = (state, Instant::now());
                report.restarts += restarts;
            }
            None => reports.push(PartReport { name, state, since: Instant::now(), restarts }),
        }
    }
}

type Work = Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send>>;

struct Part {
    name: &'static str,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
    /// Longest time to end.
    limit: Duration,
}

/// Starts parts, and ends them in reverse order. When it is dropped, all of them are cut off.
pub(super) struct Supervisor {
    parts: Vec<Part>,
    board: Board,
    ended: watch::Sender<Option<Ended>>,
}

impl Supervisor {
    pub(super) fn new() -> Self {
        Supervisor { parts: Vec::new(), board: Board::default(), ended: watch::Sender::new(None) }
    }

    pub(super) fn board(&self) -> Board {
        self.board.clone()
    }

    /// Says that the node should end; the first reason counts.
    pub(super) fn ender(&self) -> Ender {
        Ender(self.ended.clone())
    }

    /// Returns when somebody wants the node to end, or a part without which there is none has failed.
    pub(super) async fn ended(&self) -> Ended {
        let mut ended = self.ended.subscribe();
        let why = ended.wait_for(Option::is_some).await.expect("the sender is ours");
        why.clone().expect("it was waited for")
    }

    /// Runs a part once; when it ends without being told to, so does the node.
    pub(super) fn run<F>(&mut self, name: &'static str, limit: Duration, work: impl FnOnce(Stop) -> F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let (stop, wanted) = watch::channel(false);
        let work: Work = Box::pin(work(Stop(wanted.clone())));
        let (board, ender) = (self.board(), self.ender());
        board.set(name, PartState::Running);
        let task = tokio::spawn(async move {
            let reason = run_once(work).await;
            if *wanted.borrow() {
                return board.set(name, PartState::Stopped);
            }
            tracing::error!(part = name, %reason, "a part of the node has failed; the node ends");
            board.set(name, PartState::Failed { reason: reason.clone() });
            ender.end(Ended::Failed { part: name, reason });
        });
        self.parts.push(Part { name, stop, task, limit });
    }

    /// Runs a part; when it ends without being told to, it is started again after a pause.
    pub(super) fn keep_running<F>(
        &mut self,
        name: &'static str,
        limit: Duration,
        mut work: impl FnMut(Stop) -> F + Send + 'static,
    ) where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let (stop, wanted) = watch::channel(false);
        let board = self.board();
        board.set(name, PartState::Running);
        let task = tokio::spawn(async move {
            let mut pause = FIRST_PAUSE;
            let mut stopping = Stop(wanted.clone());
            loop {
                let started = Instant::now();
                let reason = run_once(Box::pin(work(Stop(wanted.clone())))).await;
                if *wanted.borrow() {
                    return board.set(name, PartState::Stopped);
                }
                if started.elapsed() >= GOOD_RUN {
                    pause = FIRST_PAUSE;
                }
                tracing::warn!(part = name, %reason, "a part of the node has failed; it starts again in {pause:?}");
                board.set(name, PartState::Restarting { reason, pause });
                tokio::select! {
                    () = sleep(pause) => {}
                    () = stopping.wanted() => return board.set(name, PartState::Stopped),
                }
                pause = (pause * 2).min(MAX_PAUSE);
                board.set(name, PartState::Running);
            }
        });
        self.parts.push(Part { name, stop, task, limit });
    }

    /// Ends all parts, the last one first, within [`MAX_END`] together. One that takes longer than it may is cut off, and
    /// said so.
    pub(super) async fn stop(mut self) {
        let started = Instant::now();
        while let Some(mut part) = self.parts.pop() {
            part.stop.send_replace(true);
            let left = MAX_END.saturating_sub(started.elapsed());
            let limit = part.limit.min(left).max(LEAST_END);
            if timeout(limit, &mut part.task).await.is_err() {
                tracing::warn!(part = part.name, "it has not ended within {limit:?} and is cut off");
                part.task.abort();
            }
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        for part in self.parts.iter().rev() {
            part.task.abort();
        }
    }
}

/// Says that the node should end.
#[derive(Clone)]
pub(super) struct Ender(watch::Sender<Option<Ended>>);

impl Ender {
    pub(super) fn end(&self, why: Ended) {
        self.0.send_if_modified(|ended| {
            let is_first = ended.is_none();
            ended.get_or_insert(why);
            is_first
        });
    }
}

/// Cuts a task off when it is dropped.
struct CutOff(tokio::task::AbortHandle);

impl Drop for CutOff {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Runs a part to its end, and says why it ended. A panic is a reason as well.
async fn run_once(work: Work) -> String {
    let task = tokio::spawn(work);
    let _cut_off = CutOff(task.abort_handle());
    match task.await {
        Ok(Ok(())) => "it ended by itself".to_owned(),
        Ok(Err(error)) => format!("{error:#}"),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => {
                let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
                let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
                format!("a fault of this program: {}", text.unwrap_or_else(|| "a panic".to_owned()))
            }
            Err(_) => "it was cut off".to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    const LIMIT: Duration = Duration::from_millis(500);

    fn state(board: &Board, name: &str) -> PartState {
        board.reports().into_iter().find(|report| report.name == name).expect("the part is known").state
    }

    #[tokio::test]
    async fn a_part_that_fails_is_named_and_started_again() {
        let mut supervisor = Supervisor::new();
        let board = supervisor.board();
        let runs = Arc::new(AtomicU32::new(0));
        let counting = runs.clone();
        supervisor.keep_running("sync", LIMIT, move |mut stop| {
            let run = counting.fetch_add(1, Ordering::SeqCst);
            async move {
                match run {
                    0 => anyhow::bail!("the chain is gone"),
                    1 => panic!("a bug"),
                    _ => stop.wanted().await,
                }
                Ok(())
            }
        });
        let until = async |is_so: &dyn Fn() -> bool| {
            while !is_so() {
                sleep(Duration::from_millis(10)).await;
            }
        };
        let failed = |reason: &str, seconds| PartState::Restarting {
            reason: reason.to_owned(),
            pause: Duration::from_secs(seconds),
        };
        until(&|| state(&board, "sync") == failed("the chain is gone", 1)).await;
        until(&|| state(&board, "sync") == failed("a fault of this program: a bug", 2)).await;
        until(&|| runs.load(Ordering::SeqCst) == 3).await;
        assert_eq!((state(&board, "sync"), board.reports()[0].restarts), (PartState::Running, 2));
        supervisor.stop().await;
        assert_eq!(state(&board, "sync"), PartState::Stopped);
    }

    #[tokio::test]
    async fn a_part_that_the_node_needs_ends_it_and_the_first_reason_counts() {
        let mut supervisor = Supervisor::new();
        let ender = supervisor.ender();
        supervisor.run("rpc", LIMIT, |_| async { anyhow::bail!("the listener is gone") });
        let why = Ended::Failed { part: "rpc", reason: "the listener is gone".into() };
        assert_eq!(supervisor.ended().await, why);
        ender.end(Ended::Wanted("ctrl-c"));
        assert_eq!(supervisor.ended().await, why);
    }

    #[tokio::test]
    async fn parts_end_in_reverse_order_and_a_stubborn_one_is_cut_off() {
        let mut supervisor = Supervisor::new();
        let order = Arc::new(Mutex::new(Vec::new()));
        for name in ["store", "rpc"] {
            let order = order.clone();
            supervisor.run(name, LIMIT, move |mut stop| async move {
                stop.wanted().await;
                order.lock().unwrap().push(name);
                Ok(())
            });
        }
        supervisor.run("stubborn", LIMIT, |_| std::future::pending());
        let board = supervisor.board();
        supervisor.stop().await;
        assert_eq!(*order.lock().unwrap(), ["rpc", "store"]);
        assert_eq!((state(&board, "rpc"), state(&board, "stubborn")), (PartState::Stopped, PartState::Running));
    }
}
