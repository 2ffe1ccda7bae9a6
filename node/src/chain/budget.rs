//! How many requests an endpoint gets: a rate that is configured, and less for a while after it said that it was too much.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Longest time between two requests that an endpoint's complaints lead to.
const SLOWEST: Duration = Duration::from_millis(500);
/// Time between two requests after the first complaint of an endpoint that had no limit.
const FIRST_SLOW: Duration = Duration::from_millis(20);

/// A token bucket of one endpoint. A burst of one second's requests is free.
#[derive(Debug)]
pub(super) struct Budget {
    /// Time between two requests by the configuration; zero without a limit.
    interval: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Time between two requests now: longer after a complaint, and back to the configured one while all is well.
    interval: Duration,
    /// When the bucket is full again.
    full_at: Instant,
    /// No request before this.
    paused_until: Instant,
}

impl Budget {
    /// A full bucket; `None` means no limit.
    pub(super) fn new(requests_per_second: Option<u32>) -> Self {
        let interval = requests_per_second.map_or(Duration::ZERO, |rate| Duration::from_secs(1) / rate.max(1));
        let now = Instant::now();
        Budget { interval, state: Mutex::new(State { interval, full_at: now, paused_until: now }) }
    }

    /// Takes a request out of the bucket and returns how long to wait before it is sent; `Err` with that time, and
    /// nothing taken, if it is longer than `limit`.
    pub(super) fn take(&self, limit: Duration) -> Result<Duration, Duration> {
        let mut state = self.state();
        let now = Instant::now();
        let wait = state.wait(now);
        if wait > limit {
            return Err(wait);
        }
        state.full_at = state.full_at.max(now) + state.interval;
        Ok(wait)
    }

    /// How long a request would have to wait now.
    pub(super) fn wait(&self) -> Duration {
        self.state().wait(Instant::now())
    }

    /// The endpoint says that it was too much, and perhaps when to come again: half as many requests from now on.
    pub(super) fn complaint(&self, retry_after: Option<Duration>, longest: Duration) {
        let mut state = self.state();
        state.interval = (state.interval * 2).clamp(FIRST_SLOW, SLOWEST.max(self.interval));
        let pause = retry_after.unwrap_or(state.interval * 2).min(longest);
        state.paused_until = state.paused_until.max(Instant::now() + pause);
    }

    /// A request was answered: back to the configured rate, by a little.
    pub(super) fn answered(&self) {
        let mut state = self.state();
        if state.interval > self.interval {
            let excess = state.interval - self.interval;
            let left = excess.mul_f64(0.9);
            state.interval = self.interval + if left < Duration::from_micros(100) { Duration::ZERO } else { left };
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn wait(&self, now: Instant) -> Duration {
        // The bucket holds one second's requests, at least one: it may be that far from full.
        let depth = Duration::from_secs(1).saturating_sub(self.interval);
        let turn = self.full_at.checked_sub(depth).unwrap_or(now);
        turn.max(self.paused_until).saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_burst_is_free_and_then_requests_wait_their_turn() {
        let budget = Budget::new(Some(10));
        let waits: Vec<Duration> = (0..30).map(|_| budget.take(MINUTE).unwrap()).collect();
        assert!(waits[..10].iter().all(Duration::is_zero), "{waits:?}");
        assert!(waits[29] > Duration::from_millis(1500) && waits[29] < Duration::from_secs(2), "{waits:?}");
        let refused = budget.take(Duration::from_millis(100)).unwrap_err();
        assert!(refused > Duration::from_secs(1), "{refused:?}");
        let free = Budget::new(None);
        assert!((0..10_000).all(|_| free.take(Duration::ZERO).unwrap().is_zero()));
    }

    #[test]
    fn complaints_pause_and_slow_down_and_are_forgotten() {
        let budget = Budget::new(None);
        budget.complaint(Some(Duration::from_secs(3)), MINUTE);
        let wait = budget.take(MINUTE).unwrap();
        assert!(wait > Duration::from_secs(2) && wait <= Duration::from_secs(3), "{wait:?}");
        budget.complaint(Some(Duration::from_secs(100_000)), MINUTE);
        assert!(budget.wait() <= MINUTE, "no endpoint stops the node for longer than the limit");
        (0..20).for_each(|_| budget.complaint(None, MINUTE));
        assert_eq!(budget.state().interval, SLOWEST);
        (0..1000).for_each(|_| budget.answered());
        assert_eq!(budget.state().interval, Duration::ZERO);
    }
}
