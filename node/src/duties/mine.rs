//! Mining: puzzles to an engine, its hits to answers, answers to the submitter.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context;
use tokio::sync::{mpsc, watch};
use zgpu_core::{
    digest::H256,
    units::{BYTES_PER_LOAD, BYTES_PER_SEAL},
};
use zgpu_miner::{Answer, ChainRules, Engine, Hit, LoadSource, MineCounters, Puzzle, check_answer};

use crate::{
    chain::{
        client::ChainClient,
        contracts::PoraMine,
        submit::{SubmitCounters, Submitter},
        watch::MiningState,
    },
    duties::{blocking, seal::Contexts, source::StoreSource},
    store::Store,
};

/// Hits that wait to become answers. An engine that finds more waits, so memory stays bounded.
const HITS_WAITING: usize = 1024;

/// What to mine, and until when.
pub struct MineJob {
    /// The chain.
    pub chain: ChainClient,
    /// Where the sealed loads are.
    pub store: Store,
    /// Whom to mine for.
    pub miner_id: H256,
    /// Loads of the flow to mine, as far as they are sealed.
    pub loads: Range<u64>,
    /// What there is to mine, as the context watcher sees it.
    pub state: watch::Receiver<MiningState>,
    /// Accepted answers after which to stop. No more answers than that are on their way at any time.
    pub wanted: u64,
}

/// How mining went.
pub struct Mined {
    /// The engine, for further work.
    pub engine: Box<dyn Engine>,
    /// Time that the engine spent on puzzles.
    pub mining_time: Duration,
    /// What became of the answers.
    pub submitted: SubmitCounters,
}

/// Mines until `job.wanted` answers were accepted. `counters` can be watched meanwhile.
///
/// A puzzle that is replaced stops the engine within a batch; hits of older puzzles are dropped.
pub async fn mine(
    mut job: MineJob,
    mut engine: Box<dyn Engine>,
    submitter: Submitter,
    counters: Arc<MineCounters>,
) -> anyhow::Result<Mined> {
    let submitter = Arc::new(submitter);
    let (found, hits) = mpsc::channel::<(Arc<Puzzle>, Hit)>(HITS_WAITING);
    let answering = tokio::spawn(answer_hits(Answering::new(&job, submitter.clone()).await?, hits));
    // A failure of the answering task closes the channel, which ends mining below with the task's own error.
    let mut answers = submitter.counters();
    let mut mining_time = Duration::ZERO;

    while answers.borrow().accepted < job.wanted && !found.is_closed() {
        let state = job.state.borrow_and_update().clone();
        let puzzle = match state {
            MiningState::Ready(puzzle) => puzzle,
            MiningState::Idle { reason } => {
                tracing::info!(%reason, "nothing to mine");
                tokio::select! {
                    changed = job.state.changed() => changed.context("the context watcher has stopped")?,
                    _ = answers.changed() => {}
                    () = found.closed() => {}
                }
                continue;
            }
        };
        let started = Instant::now();
        let source = StoreSource::new(job.store.clone(), job.miner_id, job.loads.clone());
        let over = Over(Arc::new(AtomicBool::new(false)));
        let run =
            spawn_engine(engine, puzzle, source, job.state.clone(), over.0.clone(), found.clone(), counters.clone());
        tokio::pin!(run);
        let result;
        (engine, result) = tokio::select! {
            done = &mut run => done,
            _ = answers.wait_for(|answers| answers.accepted >= job.wanted) => { over.set(); run.await }
            () = found.closed() => { over.set(); run.await }
        };
        mining_time += started.elapsed();
        result?;
    }

    drop(found);
    answering.await.context("the answering task panicked")??;
    let submitter = Arc::into_inner(submitter).context("a submitter that is still in use")?;
    Ok(Mined { engine, mining_time, submitted: submitter.finish().await })
}

/// Tells an engine to stop, also when the future that waits for it is dropped.
struct Over(Arc<AtomicBool>);

impl Over {
    fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Drop for Over {
    fn drop(&mut self) {
        self.set();
    }
}

/// Runs the engine on a blocking thread until the puzzle is replaced or `over` is set.
async fn spawn_engine(
    mut engine: Box<dyn Engine>,
    puzzle: Arc<Puzzle>,
    source: StoreSource,
    state: watch::Receiver<MiningState>,
    over: Arc<AtomicBool>,
    found: mpsc::Sender<(Arc<Puzzle>, Hit)>,
    counters: Arc<MineCounters>,
) -> (Box<dyn Engine>, anyhow::Result<()>) {
    blocking(move || {
        let generation = puzzle.generation;
        let is_over = || {
            over.load(Ordering::Relaxed) || state.borrow().puzzle().is_none_or(|puzzle| puzzle.generation != generation)
        };
        // A full channel makes the engine wait here; a closed one means that nobody wants hits any more.
        let mut on_hit = |hit| drop(found.blocking_send((puzzle.clone(), hit)));
        let source: &dyn LoadSource = &source;
        let result = engine.mine(&puzzle, source, &is_over, &mut on_hit, &counters);
        (engine, result.map_err(anyhow::Error::from))
    })
    .await
}

/// What turns hits into answers.
struct Answering {
    chain: ChainClient,
    store: Store,
    state: watch::Receiver<MiningState>,
    counters: watch::Receiver<SubmitCounters>,
    submitter: Arc<Submitter>,
    wanted: u64,
    max_shards: u64,
    contexts: Contexts,
}

impl Answering {
    async fn new(job: &MineJob, submitter: Arc<Submitter>) -> anyhow::Result<Self> {
        Ok(Answering {
            max_shards: job.chain.read(job.chain.contracts().mine, PoraMine::maxShardsCall {}).await?,
            chain: job.chain.clone(),
            store: job.store.clone(),
            state: job.state.clone(),
            counters: submitter.counters(),
            submitter,
            wanted: job.wanted,
            contexts: Contexts::default(),
        })
    }

    /// Waits until another answer is wanted; false once enough were accepted.
    async fn is_wanted(&mut self) -> anyhow::Result<bool> {
        let wanted = self.wanted;
        let counters = self
            .counters
            .wait_for(|counters| counters.accepted >= wanted || counters.accepted + counters.open() < wanted)
            .await
            .context("the submitter has stopped")?;
        Ok(counters.accepted < wanted)
    }
}

async fn answer_hits(mut answering: Answering, mut hits: mpsc::Receiver<(Arc<Puzzle>, Hit)>) -> anyhow::Result<()> {
    while let Some((puzzle, hit)) = hits.recv().await {
        if !answering.is_wanted().await? {
            return Ok(());
        }
        let is_stale = |state: &MiningState| state.puzzle().is_none_or(|now| now.generation != puzzle.generation);
        if is_stale(&answering.state.borrow()) {
            continue;
        }
        let range = answering.contexts.of_seal(&answering.chain, hit.recall_position()).await?;
        let Some(range) = range else { continue };
        let rules =
            ChainRules { max_shards: answering.max_shards, seal_epoch_start: range.start, seal_epoch_end: range.end };
        let store = answering.store.clone();
        match blocking(move || prove(&store, &puzzle, &hit, range.digest, &rules)).await? {
            Proof::Answer(answer) => answering.submitter.submit(*answer).await?,
            Proof::OtherContext { .. } | Proof::Gone => continue,
        }
    }
    Ok(())
}

/// What became of a hit that was to be proven.
pub(crate) enum Proof {
    /// The answer, checked as the contract will check it.
    Answer(Box<Answer>),
    /// The seal was made with this context, not with the one that the chain is said to have.
    OtherContext {
        /// The seal's context.
        sealed_with: H256,
    },
    /// The seal is not there any more, or the chain would refuse the answer; a warning says why.
    Gone,
}

/// The answer that a hit makes. `context` is the chain's context of the seal. Blocks.
pub(crate) fn prove(
    store: &Store,
    puzzle: &Puzzle,
    hit: &Hit,
    context: H256,
    rules: &ChainRules,
) -> anyhow::Result<Proof> {
    match store.seal_context(hit.load, hit.seal)? {
        Some(sealed_with) if sealed_with == context => {}
        Some(sealed_with) => return Ok(Proof::OtherContext { sealed_with }),
        None => {
            tracing::warn!(load = hit.load, seal = hit.seal, "the seal is not there any more");
            return Ok(Proof::Gone);
        }
    }
    let mut load = vec![0u8; BYTES_PER_LOAD];
    let available = store.read_sealed(&puzzle.miner_id, hit.load, &mut load)?;
    if available >> hit.seal & 1 == 0 {
        tracing::warn!(load = hit.load, seal = hit.seal, "the seal is not there any more");
        return Ok(Proof::Gone);
    }
    let at = hit.seal as usize * BYTES_PER_SEAL;
    let sealed: [u8; BYTES_PER_SEAL] = load[at..at + BYTES_PER_SEAL].try_into().expect("a seal has 4096 bytes");
    let proof = store.seal_proof(puzzle.flow_length, hit.recall_position())?;
    let answer = Answer::new(puzzle, hit, context, sealed, proof);
    match check_answer(&answer, puzzle, rules) {
        Ok(_) => Ok(Proof::Answer(Box::new(answer))),
        Err(refusal) => {
            tracing::warn!(load = hit.load, seal = hit.seal, %refusal, "the chain would refuse this answer");
            Ok(Proof::Gone)
        }
    }
}
