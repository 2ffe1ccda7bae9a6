//! Several endpoints of one chain: which of them is asked, by how they did so far.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use alloy::transports::http::reqwest::Url;
use tokio::{sync::watch, task::JoinHandle};

use super::{
    budget::Budget,
    error::ChainError,
    http::{self, HTTP_OR_WS},
    revert::clip,
    rpc::RpcOptions,
    wire::Wire,
};

/// Which endpoint, by its place in the configuration: the first is preferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointId(pub usize);

/// How an endpoint does, for people.
#[derive(Clone, Debug)]
pub struct EndpointStatus {
    /// Scheme, host and port.
    pub url: String,
    /// Whether it is asked when its turn comes.
    pub usable: bool,
    /// Last block that it told of.
    pub head: Option<u64>,
    /// Whether it was behind the others when they were last compared.
    pub lags: bool,
    /// Requests that it was sent.
    pub requests: u64,
    /// Those that failed.
    pub failures: u64,
    /// Why it failed last.
    pub last_error: Option<String>,
}

/// One endpoint.
pub(super) struct Endpoint {
    url: Url,
    pub(super) wire: Wire,
    pub(super) shown: String,
    pub(super) budget: Budget,
    health: Mutex<Health>,
}

/// What an endpoint is asked for. Many answer everything but logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    Logs,
    Other,
}

impl Work {
    pub(super) fn of(method: &str) -> Self {
        if method == "eth_getLogs" { Work::Logs } else { Work::Other }
    }
}

/// Failures in a row, and until when others are asked because of them.
#[derive(Clone, Copy, Debug, Default)]
struct Rest {
    failures: u32,
    until: Option<Instant>,
}

impl Rest {
    fn left(&self) -> Duration {
        self.until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()))
    }
}

#[derive(Debug, Default)]
struct Health {
    /// After failures of the endpoint as a whole.
    rest: Rest,
    /// After failures that have to do with logs alone.
    rest_from_logs: Rest,
    chain: ChainCheck,
    head: Option<u64>,
    lags: bool,
    requests: u64,
    failures: u64,
    last_error: Option<String>,
}

/// Whether the endpoint is one of the chain that is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum ChainCheck {
    #[default]
    Unchecked,
    Right,
    Wrong(u64),
}

/// All endpoints, and the parts of their URLs that may not be shown.
pub(super) struct Endpoints {
    all: Vec<Endpoint>,
    secrets: Vec<String>,
    /// The one that answered last.
    current: AtomicUsize,
    cool_down: Duration,
    max_cool_down: Duration,
    max_lag: u64,
    /// Counts announcements of new blocks.
    pub(super) news: Arc<watch::Sender<u64>>,
    /// Sees to it that blocks are announced, while somebody wants to hear of them.
    pub(super) keeper: Mutex<Option<JoinHandle<()>>>,
}

/// Shortest part of a path or query that is looked for in texts; shorter ones occur in any text.
const SHORTEST_SECRET: usize = 4;

impl fmt::Debug for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.all.iter().map(|endpoint| &endpoint.shown)).finish()
    }
}

impl Endpoints {
    /// Reads the URLs; nothing is sent yet.
    pub(super) fn new<U: AsRef<str>>(urls: &[U], options: &RpcOptions) -> Result<Self, ChainError> {
        let news = Arc::new(watch::Sender::new(0));
        let endpoint = |url: &U| Endpoint::new(url.as_ref(), options, news.clone());
        let all = urls.iter().map(endpoint).collect::<Result<Vec<_>, _>>()?;
        if all.is_empty() {
            return Err(ChainError::Url { reason: "none is given".to_owned() });
        }
        let mut secrets: Vec<String> = all.iter().flat_map(|endpoint| secrets_of(&endpoint.url)).collect();
        // Longer ones first: a secret that is part of another must not break it up.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        secrets.dedup();
        Ok(Endpoints {
            all,
            secrets,
            current: AtomicUsize::new(0),
            cool_down: options.cool_down,
            max_cool_down: options.max_cool_down,
            max_lag: options.max_lag,
            news,
            keeper: Mutex::default(),
        })
    }

    /// `text` on one line, cut, and without the secret parts of any URL.
    pub(super) fn scrub(&self, text: &str) -> String {
        clip(&self.secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret, "***")), 300)
    }

    pub(super) fn get(&self, id: EndpointId) -> &Endpoint {
        &self.all[id.0]
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = EndpointId> {
        (0..self.all.len()).map(EndpointId)
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// The one that answered last; the preferred one at first.
    pub(super) fn current(&self) -> &Endpoint {
        &self.all[self.current.load(Ordering::Relaxed)]
    }

    /// Which endpoint to ask: the first that does well, that is up with the others and that was not `tried` just now.
    /// Where none is, the one that is ready first. One whose rest is over is tried by this caller alone: to others it
    /// rests until it has answered.
    pub(super) fn choose(&self, work: Work, tried: &[EndpointId]) -> EndpointId {
        let rank = |id: &EndpointId| {
            let endpoint = self.get(*id);
            let health = endpoint.health();
            let rest = health.rest(work).max(endpoint.budget.wait());
            let is_wrong = matches!(health.chain, ChainCheck::Wrong(_));
            (is_wrong, tried.contains(id), !rest.is_zero(), health.lags, rest, id.0)
        };
        let id = self.ids().min_by_key(rank).expect("there is an endpoint");
        let mut health = self.get(id).health();
        for rest in health.rests(work) {
            if rest.failures > 0 && rest.left().is_zero() {
                rest.until = Some(Instant::now() + self.rest_after(rest.failures));
            }
        }
        id
    }

    /// Whether an endpoint that was not `tried` just now can be asked at once.
    pub(super) fn has_ready(&self, work: Work, tried: &[EndpointId]) -> bool {
        self.ids().any(|id| {
            let endpoint = self.get(id);
            let health = endpoint.health();
            !tried.contains(&id)
                && health.rest(work).is_zero()
                && endpoint.budget.wait().is_zero()
                && !matches!(health.chain, ChainCheck::Wrong(_))
        })
    }

    /// Whether an endpoint can announce new blocks.
    pub(super) fn may_announce(&self) -> bool {
        self.all.iter().any(|endpoint| endpoint.wire.socket().is_some())
    }

    /// Which endpoint to ask for announcements of new blocks, if one can be asked at once: the first, and not the one
    /// that was asked in vain just now where there is another.
    pub(super) fn announcer(&self, in_vain: Option<EndpointId>) -> Option<EndpointId> {
        let can_be_asked = |id: &EndpointId| {
            let endpoint = self.get(*id);
            let health = endpoint.health();
            endpoint.wire.socket().is_some()
                && health.rest(Work::Other).is_zero()
                && endpoint.budget.wait().is_zero()
                && !matches!(health.chain, ChainCheck::Wrong(_))
        };
        self.ids().filter(can_be_asked).min_by_key(|id| (Some(*id) == in_vain, id.0))
    }

    /// Has everybody look who follows the chain.
    pub(super) fn announce(&self) {
        announce(&self.news);
    }

    /// The highest block that an endpoint told of.
    pub(super) fn highest_head(&self) -> Option<u64> {
        self.all.iter().filter_map(|endpoint| endpoint.health().head).max()
    }

    /// Notes an answer; a refusal of the question is one too.
    pub(super) fn answered(&self, id: EndpointId, work: Work) {
        let endpoint = self.get(id);
        endpoint.budget.answered();
        let mut health = endpoint.health();
        health.requests += 1;
        let has_failed = health.rests(work).any(|rest| rest.failures > 0);
        if has_failed {
            tracing::info!(url = endpoint.shown, "the endpoint answers again");
        }
        health.rests(work).for_each(|rest| *rest = Rest::default());
        self.current.store(id.0, Ordering::Relaxed);
    }

    /// Notes a failure of the endpoint itself: others are asked for a while, longer with each failure in a row.
    pub(super) fn failed(&self, id: EndpointId, reason: &str) {
        self.get(id).health().requests += 1;
        self.distrust(id, Work::Other, reason);
    }

    /// Has others asked for a while, for everything or for logs alone.
    pub(super) fn distrust(&self, id: EndpointId, work: Work, reason: &str) {
        let endpoint = self.get(id);
        let mut health = endpoint.health();
        health.failures += 1;
        health.last_error = Some(reason.to_owned());
        let rest = if work == Work::Logs { &mut health.rest_from_logs } else { &mut health.rest };
        rest.failures = rest.failures.saturating_add(1);
        let time = self.rest_after(rest.failures);
        rest.until = Some(Instant::now() + time);
        if self.all.len() > 1 {
            tracing::warn!(url = endpoint.shown, reason, rest = ?time, "an endpoint fails, others are asked meanwhile");
        }
    }

    /// Notes that the endpoint got too many requests.
    pub(super) fn complained(&self, id: EndpointId, retry_after: Option<Duration>, reason: &str) {
        let endpoint = self.get(id);
        endpoint.budget.complaint(retry_after, self.max_cool_down);
        let mut health = endpoint.health();
        health.requests += 1;
        health.failures += 1;
        health.last_error = Some(reason.to_owned());
    }

    fn rest_after(&self, failures: u32) -> Duration {
        self.cool_down.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(self.max_cool_down)
    }

    pub(super) fn chain_check(&self, id: EndpointId) -> ChainCheck {
        self.get(id).health().chain
    }

    pub(super) fn set_chain_check(&self, id: EndpointId, check: ChainCheck) {
        self.get(id).health().chain = check;
    }

    /// Notes the last block that an endpoint tells of. False when it is far behind what another one told of.
    pub(super) fn set_head(&self, id: EndpointId, head: u64) -> bool {
        let highest = self.ids().filter(|other| *other != id).filter_map(|other| self.get(other).health().head).max();
        let lags = highest.is_some_and(|highest| head.saturating_add(self.max_lag) < highest);
        let endpoint = self.get(id);
        let mut health = endpoint.health();
        if lags && !health.lags {
            let (url, highest) = (&endpoint.shown, highest.unwrap_or_default());
            tracing::warn!(url, head, highest, "an endpoint lags behind, others are asked first");
        }
        health.head = Some(head);
        health.lags = lags;
        !lags
    }

    /// Forgets heads that were told before: after a reorganisation of the chain they may be too high for ever.
    pub(super) fn forget_heads(&self) {
        for endpoint in &self.all {
            let mut health = endpoint.health();
            health.head = None;
            health.lags = false;
        }
    }

    /// Has endpoints of another chain asked again which chain they are of: they may have been set right.
    pub(super) fn forget_wrong_chains(&self) {
        for endpoint in &self.all {
            let mut health = endpoint.health();
            if matches!(health.chain, ChainCheck::Wrong(_)) {
                health.chain = ChainCheck::Unchecked;
            }
        }
    }

    pub(super) fn status(&self) -> Vec<EndpointStatus> {
        let status = |endpoint: &Endpoint| {
            let health = endpoint.health();
            EndpointStatus {
                url: endpoint.shown.clone(),
                usable: health.rest(Work::Logs).is_zero() && !matches!(health.chain, ChainCheck::Wrong(_)),
                head: health.head,
                lags: health.lags,
                requests: health.requests,
                failures: health.failures,
                last_error: health.last_error.clone(),
            }
        };
        self.all.iter().map(status).collect()
    }
}

impl Endpoint {
    fn new(url: &str, options: &RpcOptions, news: Arc<watch::Sender<u64>>) -> Result<Self, ChainError> {
        let found = http::server(url, HTTP_OR_WS, options.timeout, options.timeout);
        let server = found.map_err(|reason| ChainError::Url { reason })?;
        let (url, shown) = (server.url.clone(), server.shown.clone());
        let wire = Wire::new(server, options, move || announce(&news));
        let budget = Budget::new(options.requests_per_second);
        Ok(Endpoint { url, wire, shown, budget, health: Mutex::new(Health::default()) })
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Health {
    /// How long others are still asked for this.
    fn rest(&self, work: Work) -> Duration {
        let from_logs = if work == Work::Logs { self.rest_from_logs.left() } else { Duration::ZERO };
        self.rest.left().max(from_logs)
    }

    fn rests(&mut self, work: Work) -> impl Iterator<Item = &mut Rest> {
        [&mut self.rest].into_iter().chain((work == Work::Logs).then_some(&mut self.rest_from_logs))
    }
}

fn announce(news: &watch::Sender<u64>) {
    news.send_modify(|count| *count = count.wrapping_add(1));
}

fn secrets_of(url: &Url) -> Vec<String> {
    let mut secrets: Vec<String> = Vec::new();
    secrets.extend(url.path().split('/').map(str::to_owned));
    secrets.extend(url.query_pairs().map(|(_, value)| value.into_owned()));
    secrets.extend(url.query().map(str::to_owned));
    secrets.push(url.username().to_owned());
    secrets.extend(url.password().map(str::to_owned));
    secrets.retain(|secret| secret.len() >= SHORTEST_SECRET);
    secrets
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Endpoints {
        let options = RpcOptions { cool_down: Duration::from_millis(30), ..RpcOptions::default() };
        Endpoints::new(&["http://a", "http://b", "http://c"], &options).unwrap()
    }

    #[test]
    fn the_first_that_does_well_is_asked_and_the_preferred_one_comes_back() {
        let set = three();
        assert_eq!(set.choose(Work::Other, &[]), EndpointId(0));
        assert_eq!(set.choose(Work::Other, &[EndpointId(0)]), EndpointId(1));
        set.failed(EndpointId(0), "test");
        assert_eq!(set.choose(Work::Other, &[]), EndpointId(1));
        set.set_chain_check(EndpointId(1), ChainCheck::Wrong(5));
        assert_eq!(set.choose(Work::Other, &[]), EndpointId(2));
        while !set.get(EndpointId(0)).health().rest(Work::Other).is_zero() {
            std::thread::yield_now();
        }
        assert_eq!(set.choose(Work::Other, &[]), EndpointId(0), "its rest is over");
        assert_eq!(set.choose(Work::Other, &[]), EndpointId(2), "one caller tries it, the others wait for the outcome");
        set.answered(EndpointId(0), Work::Other);
        assert_eq!(set.choose(Work::Other, &[]), EndpointId(0));
        assert!(
            set.has_ready(Work::Other, &[EndpointId(0)])
                && !set.has_ready(Work::Other, &[EndpointId(0), EndpointId(2)])
        );
    }

    #[test]
    fn when_all_fail_the_one_that_failed_least_is_asked() {
        let set = three();
        for (id, failures) in [(0, 5), (1, 4), (2, 6)] {
            (0..failures).for_each(|_| set.failed(EndpointId(id), "test"));
        }
        assert_eq!(set.choose(Work::Other, &[]), EndpointId(1));
        assert!(!set.has_ready(Work::Other, &[]));
        assert_eq!(set.rest_after(u32::MAX), RpcOptions::default().max_cool_down);
    }

    #[test]
    fn one_that_does_not_answer_for_logs_is_asked_for_the_rest() {
        let set = three();
        set.distrust(EndpointId(0), Work::Logs, "test");
        set.answered(EndpointId(0), Work::Other);
        assert_eq!((set.choose(Work::Other, &[]), set.choose(Work::Logs, &[])), (EndpointId(0), EndpointId(1)));
        set.answered(EndpointId(0), Work::Logs);
        assert_eq!(set.choose(Work::Logs, &[]), EndpointId(0));
    }

    #[test]
    fn one_that_lags_is_asked_last() {
        let set = three();
        assert!(set.set_head(EndpointId(1), 1000));
        assert!(set.set_head(EndpointId(0), 995));
        assert!(!set.set_head(EndpointId(0), 980));
        assert_eq!(set.choose(Work::Other, &[]), EndpointId(1));
        assert!(set.status()[0].lags);
        set.forget_heads();
        assert_eq!(set.choose(Work::Other, &[]), EndpointId(0));
    }
}
