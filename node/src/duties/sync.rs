//! Following the log: submissions of the chain become transactions of the store, in their order, also where the chain
//! is reorganised, an endpoint tells wrong things, or the process is killed at any moment.
//!
//! What was read is a [`Trail`] of blocks with their hashes and the number of submissions up to each, kept in a note of
//! the store. Transactions are stored before the trail names their blocks, so after a crash some are read again and
//! found to be there. When the chain left the trail, the trail is cut back to the last block that the chain still has,
//! and the log is read again from there: a transaction that comes back as it was stays with all its data, and only from
//! the first one that differs the store is cut.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::{Mutex, watch},
    task::{JoinHandle, JoinSet},
};
use zgpu_core::H256;

use crate::{
    chain::{
        blocks::{Header, Mark, Trail},
        client::ChainClient,
        error::ChainError,
        flow_log::{FlowTransaction, PageSize},
        rpc::EndpointId,
    },
    duties::blocking,
    rpc::NodeStatus,
    store::{Store, StoreError, Transaction},
};

/// Note of the store with the [`Trail`].
const TRAIL: &str = "sync.trail";
/// Note of the store with the chain and the contract that its log is of.
const ORIGIN: &str = "sync.origin";

/// Latest blocks that are read with all their headers, which show that logs and blocks belong together.
const BLOCKS_WITH_HEADERS: u64 = 64;
/// Headers that are asked for at once.
const HEADERS_AT_ONCE: usize = 8;
/// Blocks without logs, but with a header that speaks of some, that are asked for one by one in a step.
const DOUBTS_PER_STEP: usize = 16;
/// Transactions that are stored before the runtime gets a turn.
const TRANSACTIONS_AT_ONCE: usize = 64;
/// Times that the log is read again around a gap before the whole trail is doubted.
const TRIES_AT_A_GAP: u32 = 6;
/// Measurements that the rate is made of.
const SAMPLES: usize = 32;

/// How the log is followed.
#[derive(Clone, Debug)]
pub struct SyncOptions {
    /// First block that may have a submission: where the flow contract was deployed. Default 0.
    pub start_block: u64,
    /// Blocks that have to follow one before it is read. Default 3.
    pub confirmations: u64,
    /// How often the chain is asked for new blocks, besides when one is announced. Default 1 s.
    pub poll: Duration,
    /// Blocks that are asked for at a time at first. Default 1000.
    pub first_page: u64,
    /// Most blocks that are asked for at a time. Default 20 000.
    pub max_page: u64,
    /// Transactions after which the root of the flow is compared with the chain's. Default 500.
    pub check_transactions: u64,
    /// Time after which the root is compared with the chain's once the log is caught up. Default 60 s.
    pub check_interval: Duration,
    /// How often several endpoints are compared with each other. Default 30 s.
    pub compare_interval: Duration,
    /// Longest wait before something that failed is tried again. Default 30 s.
    pub max_backoff: Duration,
}

impl Default for SyncOptions {
    fn default() -> Self {
        SyncOptions {
            start_block: 0,
            confirmations: 3,
            poll: Duration::from_secs(1),
            first_page: 1000,
            max_page: 20_000,
            check_transactions: 500,
            check_interval: Duration::from_secs(60),
            compare_interval: Duration::from_secs(30),
            max_backoff: Duration::from_secs(30),
        }
    }
}

/// What the log sync is at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SyncPhase {
    /// It has not asked the chain yet.
    Starting,
    /// It reads what is old.
    CatchingUp,
    /// It reads blocks as they come.
    Following,
    /// It cannot go on, and tries again.
    Waiting {
        /// What is in the way.
        reason: String,
    },
}

/// How far the log is read.
#[derive(Clone, Debug)]
pub struct SyncStatus {
    /// What it is at.
    pub phase: SyncPhase,
    /// Last block that was read; 0 before the first.
    pub synced_block: u64,
    /// Hash of that block.
    pub synced_hash: H256,
    /// The chain's last block.
    pub head_block: u64,
    /// Number that the next transaction of the store gets.
    pub next_seq: u64,
    /// Whether everything was read once since the start. Never false again.
    pub caught_up: bool,
    /// Times that the chain left the blocks that were read, whether or not that took a transaction back. Whatever was
    /// learnt from the chain before, such as epoch ranges, may be wrong when this rises.
    pub reorgs: u64,
    /// Transactions that were taken back since the start.
    pub reverted: u64,
    /// Times that the flow's root was not the chain's, and the log was read again.
    pub repairs: u64,
    /// When a block was last read.
    pub last_progress: Instant,
    /// What failed last.
    pub last_error: Option<String>,
    /// Blocks per second that were read lately; 0 when not known.
    pub blocks_per_second: f64,
    /// Time until everything is read, at that rate.
    pub time_left: Option<Duration>,
    /// Blocks that are asked for at a time.
    pub page_blocks: u64,
}

impl SyncStatus {
    /// Blocks of the chain that were not read, those without confirmations included.
    pub fn lag_blocks(&self) -> u64 {
        self.head_block.saturating_sub(self.synced_block)
    }

    fn new(next_seq: u64) -> Self {
        SyncStatus {
            phase: SyncPhase::Starting,
            synced_block: 0,
            synced_hash: H256::ZERO,
            head_block: 0,
            next_seq,
            caught_up: false,
            reorgs: 0,
            reverted: 0,
            repairs: 0,
            last_progress: Instant::now(),
            last_error: None,
            blocks_per_second: 0.0,
            time_left: None,
            page_blocks: 0,
        }
    }
}

/// Why the log sync cannot go on for now. It tries again after each.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// The chain does not answer.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The store refuses.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store's log is of another contract.
    #[error(
        "the store holds the log of flow contract {stored}, the configuration says {configured}; \
         correct the configuration or choose another data folder"
    )]
    OtherOrigin {
        /// Chain and contract of the store.
        stored: String,
        /// Chain and contract of the configuration.
        configured: String,
    },
    /// The log begins before the first block that is read.
    #[error(
        "the first submission found is number {got}, in block {block}: the log begins before block {start}; \
         configure an earlier start block"
    )]
    StartsLate {
        /// First number that was found.
        got: u64,
        /// Its block.
        block: u64,
        /// Block that is read first.
        start: u64,
    },
    /// A submission is missing in what the endpoint tells.
    #[error("submission {expected} is missing: after it comes {got}, in block {block}, says {url}; attempt {attempt}")]
    Gap {
        /// Number that comes next.
        expected: u64,
        /// The one that came.
        got: u64,
        /// Its block.
        block: u64,
        /// Who says so.
        url: String,
        /// How often it was tried.
        attempt: u32,
    },
    /// The contract counts more submissions than the endpoint told.
    #[error("the flow contract has {expected} submissions up to block {block}, the log tells {got}; attempt {attempt}")]
    Missing {
        /// Submissions by the contract.
        expected: u64,
        /// Submissions by the log.
        got: u64,
        /// Block up to which they are counted.
        block: u64,
        /// How often it was tried.
        attempt: u32,
    },
    /// A log is of a block that is not the chain's.
    #[error(
        "submission {seq} is said to be in block {block} with hash {got}, the chain has {expected} there, says {url}"
    )]
    OtherBlock {
        /// Its number.
        seq: u64,
        /// Number of the block.
        block: u64,
        /// Hash by the log.
        got: H256,
        /// Hash by the header.
        expected: H256,
        /// Who says so.
        url: String,
    },
    /// A submission cannot be what the contract recorded.
    #[error("submission {seq} of block {block}, as {url} tells it, does not fit: {error}")]
    Misfit {
        /// Its number.
        seq: u64,
        /// Its block.
        block: u64,
        /// Who says so.
        url: String,
        /// Why the store refuses it.
        error: StoreError,
    },
    /// An endpoint does not have a block that another one, or itself before, told of.
    #[error("{url} does not have block {block} yet, though the chain's last block is {head}")]
    NoBlock {
        /// Number of the block.
        block: u64,
        /// The chain's last block.
        head: u64,
        /// Who says so.
        url: String,
    },
    /// The headers of the last blocks do not belong together.
    #[error("block {block} does not follow the one before; the chain may be changing at this moment")]
    Torn {
        /// Number of the block.
        block: u64,
    },
    /// The flow's root stays different after everything was read again.
    #[error(
        "after submission {seq} the root of the flow is {got}, the contract says {expected}, and reading the log again \
         did not help; check that the endpoints are of the right chain"
    )]
    Root {
        /// Number of the submission.
        seq: u64,
        /// Root of the store.
        got: H256,
        /// Root of the chain.
        expected: H256,
    },
}

/// Follows the log until it is stopped or dropped.
#[derive(Debug)]
pub struct LogSync {
    task: JoinHandle<()>,
    status: watch::Receiver<SyncStatus>,
    writing: Arc<Mutex<()>>,
}

impl Drop for LogSync {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl LogSync {
    /// Starts to follow the log of `chain` into `store`, from where it was left or from the start block.
    pub fn start(chain: ChainClient, store: Store, options: SyncOptions) -> LogSync {
        let syncer = Syncer::new(chain, store, options);
        let (status, writing) = (syncer.status.subscribe(), syncer.writing.clone());
        LogSync { task: tokio::spawn(syncer.run()), status, writing }
    }

    /// How far it is, now and whenever that changes.
    pub fn status(&self) -> watch::Receiver<SyncStatus> {
        self.status.clone()
    }

    /// Whether everything was read once since the start.
    pub fn caught_up(&self) -> watch::Receiver<bool> {
        let (sender, receiver) = watch::channel(self.status.borrow().caught_up);
        let mut status = self.status.clone();
        tokio::spawn(async move {
            if status.wait_for(|status| status.caught_up).await.is_ok() {
                sender.send_replace(true);
            }
            // A watcher of a sender that is gone could not tell an end from a change.
            sender.closed().await;
        });
        receiver
    }

    /// Tells `node` up to which block the log is read, until this ends.
    pub fn publish(&self, node: watch::Sender<NodeStatus>) {
        let mut status = self.status.clone();
        tokio::spawn(async move {
            while status.changed().await.is_ok() {
                let (block, hash) = {
                    let status = status.borrow_and_update();
                    (status.synced_block, status.synced_hash)
                };
                node.send_modify(|node| (node.log_sync_height, node.log_sync_block) = (block, hash));
            }
        });
    }

    /// Ends it. When this returns, nothing of it writes to the store any more.
    pub async fn stop(mut self) {
        self.task.abort();
        // An error says that it was aborted, which is what is wanted.
        let _ = (&mut self.task).await;
        drop(self.writing.lock().await);
    }
}

/// Reads the log from where it was left (`start_block` at first) up to the chain's last block, once.
/// Returns the number of transactions added.
///
/// # Errors
/// The first thing that is in the way; [`LogSync`] tries again instead.
pub async fn catch_up(chain: &ChainClient, store: &Store, start_block: u64) -> Result<u64, SyncError> {
    let options = SyncOptions { start_block, confirmations: 0, ..SyncOptions::default() };
    let mut syncer = Syncer::new(chain.clone(), store.clone(), options);
    let before = store.next_seq();
    while syncer.step().await? == Step::Progress {}
    Ok(store.next_seq().saturating_sub(before))
}

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// There may be more to do at once.
    Progress,
    /// Everything was read.
    AtHead,
    /// The chain is shorter than what was read.
    Behind,
}

struct Syncer {
    chain: ChainClient,
    store: Store,
    options: SyncOptions,
    status: watch::Sender<SyncStatus>,
    /// Held while something is written: a task that is aborted leaves its last write to a thread.
    writing: Arc<Mutex<()>>,
    /// As it is in the note; `None` until it was read.
    trail: Option<Trail>,
    page: PageSize,
    /// Submission that is missing, and how often that was so.
    gap: Option<(u64, u32)>,
    /// When the flow's root was last compared with the chain's, and after how many submissions.
    checked: Option<(Instant, u64)>,
    /// First submission whose root differed, and how often the log was read again from there.
    repaired: Option<(u64, u32)>,
    /// When endpoints were last compared.
    compared: Instant,
    /// That comparison; it ends with this.
    comparing: JoinSet<()>,
    /// Times and blocks that were read, for the rate.
    samples: VecDeque<(Instant, u64)>,
}

impl Syncer {
    fn new(chain: ChainClient, store: Store, options: SyncOptions) -> Self {
        Syncer {
            page: PageSize::new(options.first_page, options.max_page),
            status: watch::Sender::new(SyncStatus::new(store.next_seq())),
            writing: Arc::default(),
            trail: None,
            gap: None,
            checked: None,
            repaired: None,
            compared: Instant::now(),
            comparing: JoinSet::new(),
            samples: VecDeque::new(),
            chain,
            store,
            options,
        }
    }

    /// Follows the log for ever. What fails is told and tried again.
    async fn run(mut self) {
        let mut failures = 0u32;
        let mut heads = self.chain.rpc().heads();
        let mut seen = self.seen();
        loop {
            let wait = match self.step().await {
                Ok(Step::Progress) => {
                    failures = 0;
                    continue;
                }
                Ok(Step::AtHead | Step::Behind) => {
                    failures = 0;
                    self.options.poll
                }
                Err(error) => {
                    failures = failures.saturating_add(1);
                    let reason = error.to_string();
                    // A failure that stays is told less and less often.
                    if failures.is_power_of_two() {
                        tracing::warn!(%error, failures, "the log cannot be followed, trying again");
                    }
                    self.status.send_modify(|status| {
                        status.last_error = Some(reason.clone());
                        status.phase = SyncPhase::Waiting { reason };
                    });
                    let doubled = self.options.poll.saturating_mul(1 << (failures - 1).min(10));
                    doubled.min(self.options.max_backoff)
                }
            };
            let before = std::mem::replace(&mut seen, self.seen());
            heads.looked(seen != before);
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = heads.announced() => {}
            }
        }
    }

    /// The chain's last block, and the last that was read.
    fn seen(&self) -> (u64, H256) {
        let status = self.status.borrow();
        (status.head_block, status.synced_hash)
    }

    /// One page of old blocks, a few new ones, or a look whether there are any.
    async fn step(&mut self) -> Result<Step, SyncError> {
        self.load().await?;
        if self.compared.elapsed() >= self.options.compare_interval {
            self.compared = Instant::now();
            self.compare_endpoints();
        }
        let head = self.chain.block_number().await?;
        self.status.send_if_modified(|status| std::mem::replace(&mut status.head_block, head) != head);
        let next = self.next_block();
        let target = head.checked_sub(self.options.confirmations);
        let Some(target) = target.filter(|target| *target >= next) else { return self.look_back(head).await };
        if target - next >= BLOCKS_WITH_HEADERS {
            self.set_phase(SyncPhase::CatchingUp);
            self.read_old(next, target - BLOCKS_WITH_HEADERS).await?;
        } else if self.read_new(next, target, head).await? && self.next_block() > target {
            return self.at_head().await;
        }
        self.check_now_and_then().await?;
        Ok(Step::Progress)
    }

    /// Has several endpoints compared with each other, without waiting for the slowest.
    fn compare_endpoints(&mut self) {
        while self.comparing.try_join_next().is_some() {}
        let rpc = self.chain.rpc().clone();
        if self.comparing.is_empty() && rpc.endpoints().len() > 1 {
            self.comparing.spawn(async move { rpc.compare_heads().await });
        }
    }

    /// Reads the trail, and makes sure that it is of this chain and not ahead of the store.
    async fn load(&mut self) -> Result<(), SyncError> {
        if self.trail.is_none() {
            let store = self.store.clone();
            let (trail, origin) =
                blocking(move || Ok::<_, StoreError>((store.note(TRAIL)?, store.note(ORIGIN)?))).await?;
            let configured = self.origin();
            match origin {
                Some(stored) if stored != configured.as_bytes() => {
                    let stored = String::from_utf8_lossy(&stored).into_owned();
                    return Err(SyncError::OtherOrigin { stored, configured });
                }
                Some(_) => {}
                None => self.write(move |store| store.put_note(ORIGIN, configured.as_bytes())).await?,
            }
            let trail = match trail.as_deref().map(Trail::decode) {
                None => Trail::default(),
                Some(Some(trail)) => trail,
                Some(None) => {
                    tracing::warn!("the record of the blocks that were read is damaged; the log is read again");
                    Trail::default()
                }
            };
            self.trail = Some(trail);
        }
        // The store is cut before the trail when a transaction differs: a crash in between leaves the trail ahead.
        let stored = self.store.next_seq();
        self.trail_mut().back_to(|mark| mark.next_seq <= stored);
        self.tell_tip();
        Ok(())
    }

    fn origin(&self) -> String {
        format!("{} on chain {}", self.chain.contracts().flow, self.chain.chain_id())
    }

    fn trail(&self) -> &Trail {
        self.trail.as_ref().expect("every step begins with reading it")
    }

    fn trail_mut(&mut self) -> &mut Trail {
        self.trail.as_mut().expect("every step begins with reading it")
    }

    /// First block that was not read.
    fn next_block(&self) -> u64 {
        self.trail().tip().map_or(self.options.start_block, |tip| tip.block.saturating_add(1))
    }

    fn url_of(&self, endpoint: EndpointId) -> String {
        self.chain.rpc().endpoints().get(endpoint.0).map(|endpoint| endpoint.url.clone()).unwrap_or_default()
    }

    // Where the chain is ----------------------------------------------------------------------------------------------

    /// Nothing new to read: sees whether what was read is still there.
    async fn look_back(&mut self, head: u64) -> Result<Step, SyncError> {
        if !self.check_trail(head).await? {
            return Ok(Step::Progress);
        }
        let reason = match self.trail().tip() {
            Some(tip) if tip.block <= head => return self.at_head().await,
            // An endpoint that lags, or a chain that was cut: in that case it grows again, and differs then.
            Some(tip) => format!("the chain's last block is {head}, block {} was read before", tip.block),
            None => format!(
                "the chain's last block is {head}; the first block of the log, {}, is read with {} more behind it",
                self.options.start_block, self.options.confirmations
            ),
        };
        self.set_phase(SyncPhase::Waiting { reason });
        Ok(Step::Behind)
    }

    /// Everything was read: makes sure that it is what the contract has.
    async fn at_head(&mut self) -> Result<Step, SyncError> {
        self.drop_excess().await?;
        if self.is_check_due() && !self.check().await? {
            return Ok(Step::Progress);
        }
        self.status.send_if_modified(|status| {
            let is_new = !status.caught_up || status.phase != SyncPhase::Following;
            if !status.caught_up {
                let (block, transactions) = (status.synced_block, status.next_seq);
                tracing::info!(block, transactions, "the log is read up to the chain's head");
            }
            (status.caught_up, status.time_left, status.phase) = (true, Some(Duration::ZERO), SyncPhase::Following);
            is_new
        });
        Ok(Step::AtHead)
    }

    /// Whether the chain has the last block that was read, as far as it is long enough to tell. If it has not, the trail
    /// is cut back to the last block that it has.
    async fn check_trail(&mut self, head: u64) -> Result<bool, SyncError> {
        let within = self.trail().marks().partition_point(|mark| mark.block <= head);
        let Some(mark) = within.checked_sub(1).map(|last| self.trail().marks()[last]) else { return Ok(true) };
        if self.has(&mark, head).await? {
            return Ok(true);
        }
        self.walk_back(within - 1, head).await?;
        Ok(false)
    }

    async fn has(&self, mark: &Mark, head: u64) -> Result<bool, SyncError> {
        let (header, from) = self.chain.header(mark.block).await?;
        match header {
            Some(header) => Ok(header.hash == mark.hash),
            None => Err(self.no_block(mark.block, head, from)),
        }
    }

    fn no_block(&self, block: u64, head: u64, endpoint: EndpointId) -> SyncError {
        let error = SyncError::NoBlock { block, head, url: self.url_of(endpoint) };
        self.chain.rpc().distrust(endpoint, &error.to_string());
        error
    }

    /// The chain does not have mark `orphan`: cuts the trail back to the last mark that it has.
    async fn walk_back(&mut self, orphan: usize, head: u64) -> Result<(), SyncError> {
        // Every mark before one that the chain has is the chain's too.
        let (mut kept, mut gone) = (0, orphan);
        while kept < gone {
            let middle = kept + (gone - kept) / 2;
            let mark = self.trail().marks()[middle];
            if self.has(&mark, head).await? { kept = middle + 1 } else { gone = middle }
        }
        let orphan = self.trail().marks()[orphan];
        let common = kept.checked_sub(1).map(|last| self.trail().marks()[last].block);
        tracing::warn!(
            block = orphan.block,
            hash = %orphan.hash,
            common = common.map_or_else(|| "none".to_owned(), |block| block.to_string()),
            "the chain was reorganised, the log is read again behind the last common block"
        );
        self.change_trail(|trail| trail.keep(kept)).await?;
        self.chain.rpc().forget_heads();
        self.checked = None;
        self.status.send_modify(|status| {
            status.reorgs += 1;
            status.phase = SyncPhase::CatchingUp;
        });
        self.tell_tip();
        Ok(())
    }

    // Reading ---------------------------------------------------------------------------------------------------------

    /// A page of blocks that are deep in the chain. False if the log has to be read again first.
    async fn read_old(&mut self, from: u64, to: u64) -> Result<bool, SyncError> {
        let page = self.chain.submissions(from, to, &mut self.page).await?;
        let last = page.next_block - 1;
        // The same endpoint has the page's last block: its answer was not short for lack of blocks.
        let header = self.chain.header_at(page.from, last).await?;
        let Some(header) = header else { return Err(self.no_block(last, to, page.from)) };
        // Asked for after the page: if the chain still has what was read before, both are of one chain.
        if !self.check_trail(last).await? {
            return Ok(false);
        }
        let mut marks = Vec::new();
        if let Some(record) = page.transactions.last()
            && record.block < last
        {
            marks.push(Mark { block: record.block, hash: record.block_hash, next_seq: 0 });
        }
        marks.push(Mark { block: last, hash: header.hash, next_seq: 0 });
        self.take(page.transactions, marks, page.from).await
    }

    /// A few blocks near the head of the chain, with their headers. False if the chain left the trail meanwhile.
    async fn read_new(&mut self, from: u64, to: u64, head: u64) -> Result<bool, SyncError> {
        let to = to.min(from.saturating_add(self.page.blocks() - 1));
        // Headers come first: logs of a chain that has left them since will not fit, or the next headers will not.
        let mut headers: Vec<Header> = Vec::new();
        let mut last_from = None;
        let numbers: Vec<u64> = (from..=to).collect();
        for numbers in numbers.chunks(HEADERS_AT_ONCE) {
            let asked = numbers.iter().map(|number| self.chain.header(*number));
            for (number, told) in numbers.iter().zip(futures::future::join_all(asked).await) {
                let (header, endpoint) = told?;
                headers.push(header.ok_or_else(|| self.no_block(*number, head, endpoint))?);
                last_from = Some(endpoint);
            }
        }
        let before = self.trail().tip().filter(|tip| tip.block.checked_add(1) == Some(from)).map(|tip| tip.hash);
        let parents = before.into_iter().chain(headers.iter().map(|header| header.hash));
        let with_parent = &headers[usize::from(before.is_none())..];
        if let Some((_, torn)) = parents.zip(with_parent).find(|(parent, header)| header.parent != *parent) {
            if !self.check_trail(head).await? {
                return Ok(false);
            }
            return Err(SyncError::Torn { block: torn.number });
        }
        let mut page = self.chain.submissions(from, to, &mut self.page).await?;
        headers.retain(|header| header.number < page.next_block);
        if last_from != Some(page.from)
            && let Some(last) = headers.last()
        {
            let same = self.chain.header_at(page.from, last.number).await?;
            if same.is_none_or(|same| same.hash != last.hash) {
                return Err(self.no_block(last.number, head, page.from));
            }
        }
        self.check_blocks(&headers, &mut page.transactions, page.from).await?;
        let marks = headers.iter().map(|header| Mark { block: header.number, hash: header.hash, next_seq: 0 });
        self.take(page.transactions, marks.collect(), page.from).await
    }

    /// Whether the logs are of the blocks that the headers are of. Those of blocks that came without any, though the
    /// header speaks of some, are asked for by the block's hash.
    async fn check_blocks(
        &self,
        headers: &[Header],
        records: &mut Vec<FlowTransaction>,
        endpoint: EndpointId,
    ) -> Result<(), SyncError> {
        let doubtful = headers.iter().filter(|header| {
            self.chain.may_have_submissions(header) && records.iter().all(|record| record.block != header.number)
        });
        let mut left_out = Vec::new();
        for header in doubtful.take(DOUBTS_PER_STEP) {
            match self.chain.submissions_in(header).await {
                Ok(found) => left_out.extend(found),
                // It does not take that question: gaps show with the next submission, or by the contract's count.
                Err(error @ (ChainError::Rpc { .. } | ChainError::Reply { .. })) => {
                    tracing::debug!(%error, block = header.number, "a block cannot be asked for by its hash");
                }
                Err(error) => return Err(error.into()),
            }
        }
        if let Some(first) = left_out.first() {
            let reason = format!("it left out submission {} of block {}", first.seq, first.block);
            self.chain.rpc().distrust_logs(endpoint, &reason);
            records.append(&mut left_out);
            records.sort_by_key(|record| record.seq);
        }
        for record in records {
            let header = headers.iter().find(|header| header.number == record.block);
            let expected = header.map_or(H256::ZERO, |header| header.hash);
            if expected != record.block_hash {
                let (seq, block, got, url) = (record.seq, record.block, record.block_hash, self.url_of(endpoint));
                return Err(SyncError::OtherBlock { seq, block, got, expected, url });
            }
        }
        Ok(())
    }

    /// Stores what a range of blocks has, and then that it was read. The marks get their numbers here. False if the log
    /// has to be read again first.
    async fn take(
        &mut self,
        records: Vec<FlowTransaction>,
        mut marks: Vec<Mark>,
        endpoint: EndpointId,
    ) -> Result<bool, SyncError> {
        self.check_sequence(&records, endpoint).await?;
        let mut next_seq = self.trail().next_seq();
        let mut behind = records.iter().peekable();
        for mark in &mut marks {
            while behind.next_if(|record| record.block <= mark.block).is_some() {
                next_seq += 1;
            }
            mark.next_seq = next_seq;
        }
        for some in records.chunks(TRANSACTIONS_AT_ONCE) {
            if !self.store_transactions(some, endpoint).await? {
                return Ok(false);
            }
        }
        let tip = *marks.last().expect("a page has a block");
        self.change_trail(|trail| marks.iter().for_each(|mark| trail.push(*mark))).await?;
        self.progress(&tip);
        Ok(true)
    }

    /// Whether the submissions follow those that were read before, without a gap.
    async fn check_sequence(&mut self, records: &[FlowTransaction], endpoint: EndpointId) -> Result<(), SyncError> {
        let first = self.trail().next_seq();
        let broken = (first..).zip(records).find(|(expected, record)| record.seq != *expected);
        let out_of_order = records.windows(2).find(|pair| pair[0].block > pair[1].block).map(|pair| &pair[1]);
        let (expected, record) = match (broken, out_of_order) {
            (Some(broken), _) => broken,
            (None, Some(record)) => (record.seq, record),
            (None, None) => {
                if self.gap.is_some_and(|(missing, _)| missing < first + records.len() as u64) {
                    self.gap = None;
                }
                return Ok(());
            }
        };
        let (got, block) = (record.seq, record.block);
        let attempt = self.note_gap(expected);
        let error = if expected == 0 && attempt > 2 {
            SyncError::StartsLate { got, block, start: self.options.start_block }
        } else {
            SyncError::Gap { expected, got, block, url: self.url_of(endpoint), attempt }
        };
        self.read_again(expected, attempt, Some(endpoint), &error).await?;
        Err(error)
    }

    fn note_gap(&mut self, missing: u64) -> u32 {
        let attempt = self.gap.filter(|(seq, _)| *seq == missing).map_or(1, |(_, attempt)| attempt.saturating_add(1));
        self.gap = Some((missing, attempt));
        attempt
    }

    /// Prepares to read the log around submission `missing` again: in smaller pages, from other endpoints first, from the
    /// same place once and then from before the submission; after many attempts from the start.
    async fn read_again(
        &mut self,
        missing: u64,
        attempt: u32,
        endpoint: Option<EndpointId>,
        error: &SyncError,
    ) -> Result<(), SyncError> {
        self.page.shrink((self.page.blocks() / 2).max(2));
        if let Some(endpoint) = endpoint {
            self.chain.rpc().distrust_logs(endpoint, &error.to_string());
        }
        match attempt {
            0 | 1 => Ok(()),
            TRIES_AT_A_GAP => self.change_trail(|trail| trail.keep(0)).await,
            _ => self.change_trail(|trail| trail.back_to(|mark| mark.next_seq < missing)).await,
        }
    }

    /// Stores transactions; those that are stored already are compared, and the store is cut from the first that differs.
    /// False if the log has to be read again first.
    async fn store_transactions(
        &mut self,
        records: &[FlowTransaction],
        endpoint: EndpointId,
    ) -> Result<bool, SyncError> {
        let mut records = records;
        while let Some(first) = records.first() {
            let transactions: Vec<Transaction> = records.iter().map(transaction).collect();
            let (count, outcome) = self.write(move |store| Ok(put_all(store, &transactions))).await?;
            records = &records[count..];
            let next = records.first().unwrap_or(first);
            let misfit = match outcome {
                Ok(Put::All) => return Ok(true),
                Ok(Put::Differs) => {
                    let (root, ours) = (self.chain.flow_root_after(next.seq).await?, self.root_after(next.seq).await?);
                    if root.is_none() || root != ours {
                        let seq = next.seq;
                        let reverted = self.write(move |store| cut(store, seq)).await?;
                        self.count_reverted(reverted);
                        continue;
                    }
                    // The contract says that the one that is stored is right.
                    StoreError::Conflict { seq: next.seq }
                }
                Err(error) if error.is_callers_fault() => error,
                Err(error) => return Err(error.into()),
            };
            // Either this one is told wrongly, or one before was: the contract's roots say which.
            let (seq, block) = (next.seq, next.block);
            if seq > 0 && !self.check_root(seq - 1).await? {
                return Ok(false);
            }
            let error = SyncError::Misfit { seq, block, url: self.url_of(endpoint), error: misfit };
            let attempt = self.note_gap(seq);
            self.read_again(seq, attempt, Some(endpoint), &error).await?;
            return Err(error);
        }
        Ok(true)
    }

    // Comparing with the contract -------------------------------------------------------------------------------------

    /// The store may hold transactions behind what was read: the chain took them back, they are in blocks without
    /// confirmations, or a crash came before they were noted. Those that the contract does not have are dropped.
    async fn drop_excess(&mut self) -> Result<(), SyncError> {
        let seq = self.trail().next_seq();
        if self.store.next_seq() <= seq {
            return Ok(());
        }
        let root = self.chain.flow_root_after(seq).await?;
        if root.is_some() && root == self.root_after(seq).await? {
            return Ok(());
        }
        let reverted = self.write(move |store| cut(store, seq)).await?;
        self.count_reverted(reverted);
        Ok(())
    }

    fn is_check_due(&self) -> bool {
        self.checked.is_none_or(|(at, seq)| {
            at.elapsed() >= self.options.check_interval
                || self.trail().next_seq() >= seq.saturating_add(self.options.check_transactions)
        })
    }

    /// While catching up, the root is compared whenever many transactions came.
    async fn check_now_and_then(&mut self) -> Result<(), SyncError> {
        let next_seq = self.trail().next_seq();
        let since = self.checked.map_or(0, |(_, seq)| seq);
        if next_seq > 0
            && next_seq >= since.saturating_add(self.options.check_transactions)
            && self.check_root(next_seq - 1).await?
        {
            self.checked = Some((Instant::now(), next_seq));
        }
        Ok(())
    }

    /// Whether the contract counts as many submissions as were read, and the flow's root is its root. If not, the log is
    /// to be read again.
    async fn check(&mut self) -> Result<bool, SyncError> {
        let Some(tip) = self.trail().tip() else { return Ok(true) };
        match self.chain.submissions_until(tip.block).await {
            Ok(expected) if expected > tip.next_seq => {
                if !self.check_trail(tip.block).await? {
                    return Ok(false);
                }
                let (got, block, attempt) = (tip.next_seq, tip.block, self.note_gap(tip.next_seq));
                let error = SyncError::Missing { expected, got, block, attempt };
                // At once from before the submission: the place where it was left out was passed already.
                self.read_again(got, attempt.max(2), None, &error).await?;
                return Err(error);
            }
            Ok(_) => {}
            // An endpoint that does not keep the state of past blocks cannot say.
            Err(error @ (ChainError::Rpc { .. } | ChainError::Reply { .. } | ChainError::Reverted { .. })) => {
                tracing::debug!(%error, "the submissions up to a block cannot be counted");
            }
            Err(error) => return Err(error.into()),
        }
        if tip.next_seq > 0 && !self.check_root(tip.next_seq - 1).await? {
            return Ok(false);
        }
        self.checked = Some((Instant::now(), tip.next_seq));
        Ok(true)
    }

    /// Root of the store's flow right after transaction `seq`, if it is there.
    async fn root_after(&self, seq: u64) -> Result<Option<H256>, SyncError> {
        let store = self.store.clone();
        let root = move || match store.length_after(seq)? {
            Some(length) => store.root_at(length).map(Some),
            None => Ok(None),
        };
        Ok(blocking(root).await?)
    }

    /// Whether the root of the flow after `seq` is the contract's. If not, the log is to be read again from where they
    /// agree; a second time, with those transactions taken out of the store first.
    async fn check_root(&mut self, seq: u64) -> Result<bool, SyncError> {
        let Some((got, expected)) = self.other_root(seq).await? else {
            if self.repaired.is_some_and(|(first, _)| first <= seq) {
                self.repaired = None;
            }
            return Ok(true);
        };
        // A chain that is just being reorganised has other roots too.
        let head = self.chain.block_number().await?;
        if !self.check_trail(head).await? {
            return Ok(false);
        }
        if self.other_root(seq).await?.is_none() {
            return Ok(true);
        }
        let (mut agreed, mut differs) = (0, seq);
        while agreed < differs {
            let middle = agreed + (differs - agreed) / 2;
            if self.other_root(middle).await?.is_some() { differs = middle } else { agreed = middle + 1 }
        }
        let times = self.repaired.filter(|(first, _)| *first == agreed).map_or(1, |(_, times)| times.saturating_add(1));
        self.repaired = Some((agreed, times));
        // Where the contract did not keep a root, agreement says nothing: the log is read from its start.
        let is_known = agreed > 0 && self.chain.flow_root_after(agreed - 1).await?.is_some();
        let keep = if is_known { agreed } else { 0 };
        self.change_trail(|trail| trail.back_to(|mark| mark.next_seq <= keep)).await?;
        self.checked = None;
        self.tell_tip();
        if times > 2 {
            return Err(SyncError::Root { seq, got, expected });
        }
        tracing::error!(
            seq, %got, %expected, first_wrong = agreed, keep,
            "the root of the flow is not the contract's; the log is read again from where they agree"
        );
        if times == 2 {
            let reverted = self.write(move |store| cut(store, agreed)).await?;
            self.count_reverted(reverted);
        }
        self.status.send_modify(|status| status.repairs += 1);
        Ok(false)
    }

    /// Our root and the contract's after `seq`, if both are known and differ.
    async fn other_root(&self, seq: u64) -> Result<Option<(H256, H256)>, SyncError> {
        let (got, expected) = (self.root_after(seq).await?, self.chain.flow_root_after(seq).await?);
        Ok(got.zip(expected).filter(|(got, expected)| got != expected))
    }

    // Writing ---------------------------------------------------------------------------------------------------------

    /// Runs a write to the end, also when this task is aborted meanwhile.
    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, SyncError> {
        let store = self.store.clone();
        let writing = self.writing.clone().lock_owned().await;
        let result = blocking(move || {
            let _writing = writing;
            work(&store)
        });
        Ok(result.await?)
    }

    /// Changes the trail and notes that.
    async fn change_trail(&mut self, change: impl FnOnce(&mut Trail)) -> Result<(), SyncError> {
        let mut trail = self.trail().clone();
        change(&mut trail);
        let bytes = trail.encode();
        self.write(move |store| store.put_note(TRAIL, &bytes)).await?;
        self.trail = Some(trail);
        Ok(())
    }

    /// Says how far the log is read, where that is not further than before.
    fn tell_tip(&self) {
        let (block, hash) = self.trail().tip().map_or((0, H256::ZERO), |tip| (tip.block, tip.hash));
        self.status.send_if_modified(|status| {
            let is_new = status.synced_hash != hash;
            (status.synced_block, status.synced_hash) = (block, hash);
            is_new
        });
    }

    // Telling ---------------------------------------------------------------------------------------------------------

    fn set_phase(&self, phase: SyncPhase) {
        self.status.send_if_modified(|status| {
            let is_new = status.phase != phase;
            status.phase = phase;
            is_new
        });
    }

    fn count_reverted(&self, count: u64) {
        if count > 0 {
            tracing::warn!(count, next = self.store.next_seq(), "transactions were taken back");
            let next_seq = self.store.next_seq();
            self.status.send_modify(|status| (status.reverted, status.next_seq) = (status.reverted + count, next_seq));
        }
    }

    /// Blocks up to `tip` were read.
    fn progress(&mut self, tip: &Mark) {
        let now = Instant::now();
        if self.samples.back().is_some_and(|(_, block)| *block > tip.block) {
            self.samples.clear();
        }
        self.samples.push_back((now, tip.block));
        if self.samples.len() > SAMPLES {
            self.samples.pop_front();
        }
        let (since, from) = self.samples[0];
        let seconds = now.duration_since(since).as_secs_f64();
        let rate = if seconds > 0.0 { (tip.block - from) as f64 / seconds } else { 0.0 };
        let (page_blocks, next_seq, confirmations) =
            (self.page.blocks(), self.store.next_seq(), self.options.confirmations);
        self.status.send_modify(|status| {
            (status.synced_block, status.synced_hash, status.next_seq) = (tip.block, tip.hash, next_seq);
            (status.last_progress, status.blocks_per_second, status.page_blocks) = (now, rate, page_blocks);
            let left = status.lag_blocks().saturating_sub(confirmations);
            status.time_left = (rate > 0.0).then(|| Duration::from_secs_f64(left as f64 / rate));
            // Only when nothing is left to do, it says that it follows.
            if left >= BLOCKS_WITH_HEADERS || status.phase != SyncPhase::Following {
                status.phase = SyncPhase::CatchingUp;
            }
        });
    }
}

fn transaction(record: &FlowTransaction) -> Transaction {
    Transaction {
        seq: record.seq,
        data_root: record.data_root,
        start: record.start,
        size_bytes: record.size,
        nodes: record.nodes.clone(),
    }
}

/// What became of some transactions.
enum Put {
    /// All are stored.
    All,
    /// The store has another one with a number.
    Differs,
}

/// Stores transactions up to the first that cannot be. Returns how many are stored.
fn put_all(store: &Store, transactions: &[Transaction]) -> (usize, Result<Put, StoreError>) {
    for (index, transaction) in transactions.iter().enumerate() {
        match store.append(transaction) {
            Ok(()) => {}
            Err(StoreError::Conflict { .. }) => return (index, Ok(Put::Differs)),
            Err(error) => return (index, Err(error)),
        }
    }
    (transactions.len(), Ok(Put::All))
}

/// Takes back the transactions from `seq` on. Returns how many there were.
fn cut(store: &Store, seq: u64) -> Result<u64, StoreError> {
    let reverted = store.next_seq().saturating_sub(seq);
    store.truncate(seq)?;
    Ok(reverted)
}
