//! Which files are to be fetched without being told to: ready ones, and ones to try again later. Pure.

use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, Instant},
};

use rand::Rng;

/// Longest time before a file that nobody had is looked for again.
const MAX_BACK_OFF: Duration = Duration::from_secs(3600);

/// Sequence numbers of files that wait. A number is in one of the sets at most.
pub(super) struct Queue {
    capacity: usize,
    back_off: Duration,
    ready: Vec<u64>,
    /// Where in `ready` a number is.
    ready_at: HashMap<u64, usize>,
    pending: HashMap<u64, Pending>,
    pending_order: BTreeSet<(Instant, u64)>,
}

#[derive(Clone, Copy)]
struct Pending {
    due: Instant,
    attempts: u32,
}

impl Queue {
    /// Holds `capacity` numbers in each set; a file is tried again after `back_off`, then twice that, and so on.
    pub(super) fn new(capacity: usize, back_off: Duration) -> Self {
        Queue {
            capacity,
            back_off,
            ready: Vec::new(),
            ready_at: HashMap::new(),
            pending: HashMap::new(),
            pending_order: BTreeSet::new(),
        }
    }

    pub(super) fn ready_count(&self) -> usize {
        self.ready.len()
    }

    pub(super) fn pending_count(&self) -> usize {
        self.pending.len()
    }

    /// Somebody has the file now. False when there is no room, or it is ready already.
    pub(super) fn add_ready(&mut self, seq: u64) -> bool {
        if self.ready.len() >= self.capacity || self.ready_at.contains_key(&seq) {
            return false;
        }
        self.remove(seq);
        self.ready_at.insert(seq, self.ready.len());
        self.ready.push(seq);
        true
    }

    /// The file could not be fetched, for the `attempts`-th time. Without room it is forgotten: the walk through all files
    /// comes by it again.
    pub(super) fn add_pending(&mut self, seq: u64, attempts: u32, now: Instant) {
        self.remove(seq);
        if self.pending.len() < self.capacity {
            let factor = 1u32.checked_shl(attempts.saturating_sub(1)).unwrap_or(u32::MAX);
            let due = now + self.back_off.saturating_mul(factor).min(MAX_BACK_OFF);
            self.pending.insert(seq, Pending { due, attempts });
            self.pending_order.insert((due, seq));
        }
    }

    /// The file is here, or gone.
    pub(super) fn remove(&mut self, seq: u64) {
        if let Some(at) = self.ready_at.remove(&seq) {
            self.ready.swap_remove(at);
            if let Some(moved) = self.ready.get(at) {
                self.ready_at.insert(*moved, at);
            }
        }
        if let Some(pending) = self.pending.remove(&seq) {
            self.pending_order.remove(&(pending.due, seq));
        }
    }

    /// Takes out a ready file, any of them, or else a pending one that is due. Tells how often it failed.
    pub(super) fn take_any(&mut self, random: &mut impl Rng, now: Instant) -> Option<(u64, u32)> {
        if self.ready.is_empty() {
            return self.take_pending(now);
        }
        let seq = self.ready[random.random_range(0..self.ready.len())];
        self.remove(seq);
        Some((seq, 0))
    }

    /// The same, and of the ready files the first one in the log. Looks at all of them.
    pub(super) fn take_first(&mut self, now: Instant) -> Option<(u64, u32)> {
        let Some(seq) = self.ready.iter().min().copied() else { return self.take_pending(now) };
        self.remove(seq);
        Some((seq, 0))
    }

    fn take_pending(&mut self, now: Instant) -> Option<(u64, u32)> {
        let (_, seq) = *self.pending_order.first().filter(|(due, _)| *due <= now)?;
        let attempts = self.pending.get(&seq).map_or(0, |pending| pending.attempts);
        self.remove(seq);
        Some((seq, attempts))
    }

    /// Takes out a file by its number, wherever it is. False, and nothing changes, when it is to be tried again later.
    pub(super) fn claim(&mut self, seq: u64) -> bool {
        if self.pending.contains_key(&seq) {
            return false;
        }
        self.remove(seq);
        true
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    #[test]
    fn each_file_is_in_one_set_and_comes_out_once() {
        let (now, mut random) = (Instant::now(), StdRng::seed_from_u64(1));
        let mut queue = Queue::new(5, Duration::from_secs(10));
        assert_eq!((0..7).filter(|seq| queue.add_ready(*seq)).count(), 5);
        assert!(!queue.add_ready(3));
        queue.add_pending(3, 1, now);
        assert_eq!((queue.ready_count(), queue.pending_count()), (4, 1));
        queue.remove(0);
        let mut taken: Vec<u64> = (0..3).map(|_| queue.take_any(&mut random, now).unwrap().0).collect();
        taken.sort();
        assert_eq!(taken, [1, 2, 4]);
        assert_eq!(queue.take_any(&mut random, now), None);
        assert_eq!(queue.take_any(&mut random, now + Duration::from_secs(10)), Some((3, 1)));
        assert!(queue.pending.is_empty() && queue.pending_order.is_empty());
    }

    #[test]
    fn in_order_the_first_comes_first_and_what_waits_is_not_claimed() {
        let now = Instant::now();
        let mut queue = Queue::new(9, Duration::from_secs(10));
        assert!([5, 2, 8, 3].into_iter().all(|seq| queue.add_ready(seq)));
        queue.add_pending(1, 4, now);
        assert!(queue.claim(3) && queue.claim(100) && !queue.claim(1));
        let order: Vec<_> = (0..4).map(|_| queue.take_first(now)).collect();
        assert_eq!(order, [Some((2, 0)), Some((5, 0)), Some((8, 0)), None]);
        let due = now + Duration::from_secs(80);
        assert!(!queue.claim(1), "one that is due is still taken with its number of attempts");
        assert_eq!((queue.take_first(due), queue.take_first(due)), (Some((1, 4)), None));
    }

    #[test]
    fn failures_wait_longer_each_time() {
        let (now, mut random) = (Instant::now(), StdRng::seed_from_u64(1));
        let mut queue = Queue::new(5, Duration::from_secs(10));
        for (attempts, seconds) in [(1, 10), (2, 20), (4, 80), (30, 3600), (100, 3600)] {
            queue.add_pending(1, attempts, now);
            assert_eq!(queue.take_any(&mut random, now + Duration::from_secs(seconds - 1)), None);
            assert_eq!(queue.take_any(&mut random, now + Duration::from_secs(seconds)), Some((1, attempts)));
        }
        (0..9).for_each(|seq| queue.add_pending(seq, 1, now));
        assert_eq!(queue.pending_count(), 5);
    }
}
