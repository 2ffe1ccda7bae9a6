//! How often a peer may do something: a bucket for each peer and kind, filled at a steady rate.

use std::{
    collections::HashMap,
    hash::Hash,
    time::{Duration, Instant},
};

use libp2p::PeerId;

use super::wire::{Method, Topic};

/// Time in which an empty bucket of gossip fills up.
const GOSSIP_PERIOD: Duration = Duration::from_secs(10);
/// Messages of a peer on all topics together in [`GOSSIP_PERIOD`].
const GOSSIP_TOTAL: u32 = 100;

/// A number of events in a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// How many at most.
    pub count: u32,
    /// In which time.
    pub period: Duration,
}

/// The quota of requests that the network grants a peer.
pub fn request_quota(method: Method) -> Quota {
    let (count, seconds) = match method {
        Method::Status => (5, 15),
        Method::Goodbye => (1, 10),
        Method::Ping => (2, 10),
        Method::DataByHash => (128, 10),
        Method::AnswerFile => (256, 10),
        Method::GetChunks => (4096, 10),
    };
    Quota { count, period: Duration::from_secs(seconds) }
}

/// The quota of messages on a topic that the network grants a peer.
pub fn gossip_quota(topic: Topic) -> Quota {
    let count = match topic {
        Topic::NewFile | Topic::AskFile | Topic::AnnounceShardConfig => 50,
        Topic::FindFile | Topic::AnnounceFile | Topic::FindChunks | Topic::AnnounceChunks => 10,
    };
    Quota { count, period: GOSSIP_PERIOD }
}

#[derive(Clone, Copy)]
struct Bucket {
    quota: Quota,
    /// When the bucket is, or was, full.
    full_at: Instant,
}

impl Bucket {
    /// Time until one can be taken out.
    fn wait(&self, now: Instant) -> Duration {
        let step = self.quota.period / self.quota.count.max(1);
        (self.full_at.max(now) + step).saturating_duration_since(now).saturating_sub(self.quota.period)
    }

    /// Takes one out, unless the bucket is empty.
    fn take(&mut self, now: Instant) -> bool {
        let step = self.quota.period / self.quota.count.max(1);
        let full_at = self.full_at.max(now) + step;
        let is_allowed = full_at.saturating_duration_since(now) <= self.quota.period;
        if is_allowed {
            self.full_at = full_at;
        }
        is_allowed
    }
}

/// Keeps what this node sends within the quotas that others grant it, with room for what it passes on for others.
#[derive(Default)]
pub struct Pace {
    buckets: HashMap<Option<Topic>, Bucket>,
}

impl Pace {
    /// Time until a message of this topic may go out. When that is none, the message counts as sent.
    pub fn wait(&mut self, topic: Topic, now: Instant) -> Duration {
        let total = Quota { count: GOSSIP_TOTAL, period: GOSSIP_PERIOD };
        let mut wait = Duration::ZERO;
        for (kind, quota) in [(None, total), (Some(topic), gossip_quota(topic))] {
            let quota = Quota { count: quota.count * 4 / 5, ..quota };
            let bucket = self.buckets.entry(kind).or_insert(Bucket { quota, full_at: now });
            wait = wait.max(bucket.wait(now));
        }
        if wait.is_zero() {
            self.buckets.iter_mut().filter(|(kind, _)| kind.is_none_or(|kind| kind == topic)).for_each(
                |(_, bucket)| {
                    bucket.take(now);
                },
            );
        }
        wait
    }
}

/// Buckets of all peers. What is full again is the same as what never was, and is forgotten.
struct Buckets<K> {
    buckets: HashMap<(PeerId, K), Bucket>,
}

impl<K: Eq + Hash> Buckets<K> {
    fn take(&mut self, peer: PeerId, kind: K, quota: Quota, now: Instant) -> bool {
        self.buckets.entry((peer, kind)).or_insert(Bucket { quota, full_at: now }).take(now)
    }

    fn forget_full(&mut self, now: Instant) {
        self.buckets.retain(|_, bucket| bucket.full_at > now);
    }
}

/// Limits of requests and of gossip, for every peer.
pub struct Limiter {
    requests: Buckets<Method>,
    gossip: Buckets<Option<Topic>>,
}

impl Default for Limiter {
    fn default() -> Self {
        Limiter { requests: Buckets { buckets: HashMap::new() }, gossip: Buckets { buckets: HashMap::new() } }
    }
}

impl Limiter {
    /// True when the peer may send this request now.
    pub fn allows_request(&mut self, peer: PeerId, method: Method, now: Instant) -> bool {
        self.requests.take(peer, method, request_quota(method), now)
    }

    /// True when the peer may pass on a message of this topic now.
    pub fn allows_gossip(&mut self, peer: PeerId, topic: Topic, now: Instant) -> bool {
        let total = Quota { count: GOSSIP_TOTAL, period: GOSSIP_PERIOD };
        self.gossip.take(peer, None, total, now) && self.gossip.take(peer, Some(topic), gossip_quota(topic), now)
    }

    /// Frees memory; to be called now and then.
    pub fn tidy(&mut self, now: Instant) {
        self.requests.forget_full(now);
        self.gossip.forget_full(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_is_granted_at_once_and_then_step_by_step() {
        let (mut limiter, peer, start) = (Limiter::default(), PeerId::random(), Instant::now());
        let mut allowed = |at: u64| limiter.allows_request(peer, Method::Status, start + Duration::from_secs(at));
        assert_eq!((0..7).map(|_| allowed(0)).collect::<Vec<_>>(), [true, true, true, true, true, false, false]);
        assert!(!allowed(2));
        assert!(allowed(3) && !allowed(3));
        assert_eq!((0..9).filter(|_| allowed(100)).count(), 5);
        assert!(limiter.allows_request(PeerId::random(), Method::Status, start));
    }

    #[test]
    fn who_keeps_the_pace_is_never_too_fast() {
        let (mut pace, mut limiter, peer, start) =
            (Pace::default(), Limiter::default(), PeerId::random(), Instant::now());
        let mut sent = 0;
        for step in 0..2000 {
            let now = start + Duration::from_millis(25) * step;
            for topic in [Topic::NewFile, Topic::AskFile, Topic::FindFile, Topic::AnnounceFile] {
                if pace.wait(topic, now).is_zero() {
                    assert!(limiter.allows_gossip(peer, topic, now));
                    sent += 1;
                }
            }
        }
        // 50 s at 8 messages a second, after the first 80.
        assert!((450..=480).contains(&sent), "{sent}");
        let later = start + Duration::from_secs(50);
        let wait = pace.wait(Topic::NewFile, later);
        assert!(wait.is_zero() || pace.wait(Topic::NewFile, later + wait).is_zero());
    }

    #[test]
    fn gossip_is_limited_by_topic_and_in_total() {
        let (mut limiter, peer, now) = (Limiter::default(), PeerId::random(), Instant::now());
        assert_eq!((0..99).filter(|_| limiter.allows_gossip(peer, Topic::FindFile, now)).count(), 10);
        assert_eq!((0..99).filter(|_| limiter.allows_gossip(peer, Topic::NewFile, now)).count(), 1);
        let later = now + GOSSIP_PERIOD;
        limiter.tidy(later);
        assert!(limiter.gossip.buckets.is_empty());
        assert_eq!((0..99).filter(|_| limiter.allows_gossip(peer, Topic::NewFile, later)).count(), 50);
    }
}
