//! The main job on one machine: a chain of its own, the contracts, and a file that is stored, sealed, mined and paid for.

pub mod fill;
mod open;
mod progress;
pub mod report;

use std::{
    fs::File,
    io::{self, BufReader, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    ops::Range,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use alloy::{
    node_bindings::{Anvil, AnvilInstance},
    primitives::U256,
    providers::ProviderBuilder,
    signers::local::PrivateKeySigner,
};
use anyhow::{Context, bail, ensure};
use rand::RngCore;
use tokio::{
    sync::{broadcast, watch},
    time::timeout,
};
use zgpu_core::{
    device::BackendChoice,
    file::{FileShape, FileTree},
    units::{
        BYTES_PER_LOAD, BYTES_PER_SEAL, BYTES_PER_SECTOR, LOADS_PER_PRICING, SEALS_PER_LOAD, SECTORS_PER_LOAD,
        SECTORS_PER_PRICING,
    },
};

use self::{
    fill::heights_to_chunk_end,
    open::OpenDevnet,
    progress::{Bar, Steps},
    report::{DevnetReport, Rejection, bytes, rate, token},
};
use crate::{
    chain::{
        anvil::find_anvil,
        client::{ChainClient, ChainOptions},
        contracts::{DeployParams, Deployment, deploy},
        keys::{Key, KeySource},
        rewards::withdraw,
        rpc::RpcOptions,
        submit::{SubmitCounters, SubmitOutcome, Submitted},
        tx::{TxManager, TxPolicy},
        upload::{FileSubmission, submit_file, submit_files, zero_submission},
        watch::WatchOptions,
    },
    duties::{
        blocking,
        mining::{Mining, MiningConfig, MiningPhase, MiningStatus},
        sync::catch_up,
        upload::store_file,
    },
    rpc::MinerCommand,
    store::Store,
};

/// Bytes of the file that is generated when none is given: several segments, the last one not full.
const GENERATED_BYTES: u64 = 4 * 1024 * 1024 + 4321;
/// Blocks of a mining epoch, and of the window in it.
const BLOCKS_PER_EPOCH: u64 = 32;
const WINDOW_BLOCKS: u64 = BLOCKS_PER_EPOCH - 2;
/// Nonces that a hit takes on average: the first difficulty is set so, whatever the size of the file.
const NONCES_PER_HIT: u64 = 16 * 1024;
/// Wei in a token.
const TOKEN: u128 = 1_000_000_000_000_000_000;
/// Tokens that each account of the devnet starts with.
const FUNDS: u64 = 10_000;

/// What to do.
#[derive(Debug)]
pub struct DevnetOptions {
    /// File to store; one is generated when there is none.
    pub file: Option<PathBuf>,
    /// Proofs that have to be accepted.
    pub proofs: u32,
    /// Device to seal and mine on.
    pub backend: BackendChoice,
    /// Folder for the store; a temporary one when there is none.
    pub dir: Option<PathBuf>,
    /// Port of the chain; any free one when there is none.
    pub port: Option<u16>,
    /// Time between blocks.
    pub block_time: Duration,
    /// Longest time that mining may take.
    pub timeout: Duration,
    /// Where the miner's key comes from; one is made when there is none.
    pub miner_key: Option<KeySource>,
    /// Where the node's interface opens for clients when the main job is done; the devnet then stays until it is stopped.
    pub rpc: Option<SocketAddr>,
}

/// Runs the main job to its end, and stays open for clients if it is told to. The chain stops with it.
pub async fn run(options: DevnetOptions) -> anyhow::Result<DevnetReport> {
    let (report, open) = tokio::select! {
        done = run_to_end(&options) => done?,
        signal = tokio::signal::ctrl_c() => {
            signal.context("signals cannot be received")?;
            bail!("interrupted; the chain was stopped, and a store in --dir is complete as far as it was acknowledged");
        }
    };
    if let Some(open) = open {
        open.until_stopped().await?;
    }
    Ok(report)
}

async fn run_to_end(options: &DevnetOptions) -> anyhow::Result<(DevnetReport, Option<OpenDevnet>)> {
    let started = Instant::now();
    let steps = Steps::new();
    // Everything that a person may have got wrong is looked at before anything is started.
    let key = options.miner_key.as_ref().map(Key::load).transpose()?;
    let input = Input::open(options.file.as_deref())?;
    let engine = zgpu_miner::open(options.backend)?;
    let device = engine.info().clone();
    let software = if device.software { " (software: a CPU emulates it)" } else { "" };
    steps.done(&format!("device {}: {}{software}", device.backend, device.name));
    let folder = Folder::new(options.dir.as_deref())?;
    let store = Store::open(folder.path())?;
    ensure!(
        store.next_seq() == 0,
        "{} holds the log of another chain; a devnet starts with an empty folder",
        folder.path().display()
    );

    let shape = *input.tree.shape();
    let devnet = Devnet::start(options, &shape).await?;
    steps.done(&format!("chain {} at {}, contracts deployed", devnet.chain.chain_id(), devnet.anvil.endpoint()));
    let key = key.unwrap_or_else(|| Key::from(PrivateKeySigner::random()));
    let miner = devnet.fund_miner(key.clone()).await?;

    // The client's part: submit, fill up the pricing chunk, hand in the segments.
    let submitted = devnet.submit(&input.tree).await?;
    catch_up(&devnet.chain, &store, devnet.deployment.start_block).await?;
    let bar = steps.bar("storing", shape.size(), Bar::Bytes);
    {
        let (store, tree, file, bar) = (store.clone(), input.tree.clone(), input.file.try_clone()?, bar.clone());
        blocking(move || store_file(&store, submitted.seq, &tree, &file, &|count| bar.inc(count as u64))).await?;
    }
    bar.finish_and_clear();
    steps.done(&format!("stored {} ({}), root {}", input.name, bytes(shape.size()), input.tree.root()));

    // The node's part: register, wait for the context, seal, mine.
    let loads = submitted.first_load..submitted.first_load + shape.proof_segments();
    let config = MiningConfig {
        loads: loads.clone(),
        mine: false,
        min_profit: None,
        wanted: Some(u64::from(options.proofs)),
        tx: devnet.policy.clone(),
        watch: WatchOptions { poll: (options.block_time / 2).min(Duration::from_millis(200)), ..Default::default() },
        ..MiningConfig::default()
    };
    let mining = Mining::start(devnet.chain.clone(), store.clone(), engine, key, config, watch::channel(true).1);
    let mut outcomes = mining.outcomes();
    let flow_length = store.flow_length();
    let spinner = steps.spinner("waiting for the epoch that covers the file");
    reach(&mining, options.timeout, |status| status.flow_length == flow_length)
        .await?
        .with_context(|| format!("no epoch covered the file within {} s", options.timeout.as_secs()))?;
    spinner.finish_and_clear();
    seal_with_bar(&steps, options, &mining, &loads).await?;
    let status = mine_with_bar(&steps, options, &mining).await?;
    mining.stop().await;
    let withdrawal = withdraw(&devnet.chain, &miner, miner.address()).await?;
    let reward = withdrawal.map_or(U256::ZERO, |withdrawal| withdrawal.amount);
    steps.done(&format!("withdrew {}", token(&reward.to_string())));

    let (counts, answers, seconds) = (status.counts, status.answers, status.mining_seconds);
    let report = DevnetReport {
        file: input.name,
        file_bytes: shape.size(),
        data_root: input.tree.root(),
        flow_length,
        miner_id: status.miner_id.context("mining without a miner id")?,
        beneficiary: miner.address().to_string(),
        backend: device.backend.to_string(),
        device: device.name,
        software_device: device.software,
        loads_held: status.loads_held,
        loads_in_range: status.loads_in_range,
        sealed_bytes: status.sealed_bytes,
        nonces: counts.nonces,
        loads_scanned: counts.loads,
        mining_seconds: seconds,
        nonces_per_second: if seconds > 0.0 { counts.nonces as f64 / seconds } else { 0.0 },
        hits: counts.hits,
        submitted: answers.submitted,
        accepted: answers.accepted,
        rejected: refused(&answers),
        stale: answers.stale,
        rejections: answers
            .reasons
            .iter()
            .map(|(reason, count)| Rejection { reason: reason.clone(), count: *count })
            .collect(),
        reward_wei: reward.to_string(),
        gas_used: answers.gas_accepted,
        gas_per_answer: answers.gas_accepted / answers.accepted.max(1),
        total_seconds: started.elapsed().as_secs_f64(),
        transactions: accepted_transactions(&mut outcomes),
    };
    let open = match options.rpc {
        Some(address) => Some(OpenDevnet::start(devnet, store, folder, address, &steps).await?),
        None => None,
    };
    Ok((report, open))
}

/// Waits for a status; `None` when it does not come in time. Fails when mining cannot go on.
async fn reach(
    mining: &Mining,
    limit: Duration,
    is: impl Fn(&MiningStatus) -> bool,
) -> anyhow::Result<Option<MiningStatus>> {
    let mut status = mining.status();
    let is_over = |status: &MiningStatus| is(status) || matches!(status.phase, MiningPhase::Failed { .. });
    match timeout(limit, status.wait_for(is_over)).await {
        Err(_) => Ok(None),
        Ok(reached) => {
            let status = reached.context("mining has stopped")?.clone();
            ensure!(!matches!(status.phase, MiningPhase::Failed { .. }), "{}", status.phase);
            Ok(Some(status))
        }
    }
}

/// Waits until the loads are sealed, with a bar.
async fn seal_with_bar(
    steps: &Steps,
    options: &DevnetOptions,
    mining: &Mining,
    loads: &Range<u64>,
) -> anyhow::Result<()> {
    let seals = (loads.end - loads.start) * SEALS_PER_LOAD as u64;
    let bar = steps.bar("sealing", seals * BYTES_PER_SEAL as u64, Bar::Bytes);
    let started = Instant::now();
    let sealed = reach(mining, options.timeout, |status| {
        bar.set_position(status.sealed_bytes);
        status.seals_held == seals || status.trouble.is_some()
    });
    let sealed = sealed.await?;
    bar.finish_and_clear();
    let status = sealed.with_context(|| format!("the file was not sealed within {} s", options.timeout.as_secs()))?;
    if let Some(trouble) = status.trouble {
        bail!(trouble);
    }
    steps.done(&format!("sealed {} in {:.2} s", bytes(status.sealed_bytes), started.elapsed().as_secs_f64()));
    Ok(())
}

/// Mines with a bar that shows what is accepted and how fast it goes; fails when the time is up.
async fn mine_with_bar(steps: &Steps, options: &DevnetOptions, mining: &Mining) -> anyhow::Result<MiningStatus> {
    let wanted = u64::from(options.proofs);
    let bar = steps.bar("mining", wanted, Bar::Count);
    mining.commands().send(MinerCommand::Start).await.context("mining has stopped")?;
    let mined = reach(mining, options.timeout, |status| {
        bar.set_position(status.answers.accepted);
        bar.set_message(match &status.phase {
            MiningPhase::Waiting { reason } => reason.clone(),
            _ => {
                let speed = rate(status.counts.nonces as f64 / status.mining_seconds.max(f64::MIN_POSITIVE));
                format!("{speed} nonces/s, {} hits, {} refused", status.counts.hits, refused(&status.answers))
            }
        });
        status.answers.accepted >= wanted
    });
    let mined = mined.await?;
    bar.finish_and_clear();
    let Some(status) = mined else {
        let status = mining.status().borrow().clone();
        let mut reasons: Vec<String> = status.answers.reasons.keys().cloned().collect();
        reasons.extend(status.trouble);
        if let MiningPhase::Waiting { reason } = status.phase {
            reasons.push(reason);
        }
        bail!(
            "{} of {wanted} proofs accepted in {} s: {} nonces, {} hits, {} answers refused ({}); \
             give it more time with --timeout, or a faster device",
            status.answers.accepted,
            options.timeout.as_secs(),
            status.counts.nonces,
            status.counts.hits,
            refused(&status.answers),
            if reasons.is_empty() { "none".to_owned() } else { reasons.join("; ") },
        );
    };
    steps.done(&format!("{} proofs accepted in {:.1} s", status.answers.accepted, status.mining_seconds));
    Ok(status)
}

/// Answers that the contracts did not take, in a simulation or in a block, and those that never got there.
fn refused(answers: &SubmitCounters) -> u64 {
    answers.rejected + answers.reverted + answers.failed
}

/// Hashes of the transactions whose answers were accepted, as far as the channel still has them.
fn accepted_transactions(outcomes: &mut broadcast::Receiver<Submitted>) -> Vec<String> {
    let mut transactions = Vec::new();
    loop {
        match outcomes.try_recv() {
            Ok(Submitted { outcome: SubmitOutcome::Accepted { tx, .. }, .. }) => transactions.push(tx.hash.to_string()),
            Ok(_) | Err(broadcast::error::TryRecvError::Lagged(_)) => {}
            Err(_) => return transactions,
        }
    }
}

/// A chain with the contracts on it, and the accounts that use them.
struct Devnet {
    anvil: AnvilInstance,
    chain: ChainClient,
    deployment: Deployment,
    client: TxManager,
    policy: TxPolicy,
}

/// Where a submitted file came to lie.
struct SubmittedFile {
    seq: u64,
    first_load: u64,
}

impl Devnet {
    async fn start(options: &DevnetOptions, shape: &FileShape) -> anyhow::Result<Self> {
        let anvil = start_anvil(options)?;
        let provider = ProviderBuilder::new().connect_http(anvil.endpoint_url());
        // Loads held over loads in range is the chance that a nonce falls on the file; each such load has 64 tickets.
        let loads = shape.proof_segments();
        let difficulty = NONCES_PER_HIT * loads * 64 / LOADS_PER_PRICING;
        let params = DeployParams {
            blocks_per_epoch: BLOCKS_PER_EPOCH,
            initial_difficulty: U256::from(difficulty.max(1)),
            target_mine_blocks: WINDOW_BLOCKS,
            target_submissions: u64::from(options.proofs).max(100),
            n_subtasks: 1,
            subtask_interval: BLOCKS_PER_EPOCH,
            base_reward: U256::from(TOKEN / 10),
            donation: U256::from(u128::from(options.proofs) * 2 * TOKEN),
            ..DeployParams::default()
        };
        let deployment =
            deploy(&provider, anvil.addresses()[0], &params).await.context("the contracts cannot be deployed")?;
        // The chain is this program's own: no rate to keep to.
        let rpc = RpcOptions { requests_per_second: None, ..RpcOptions::default() };
        let chain_options = ChainOptions {
            urls: vec![anvil.endpoint()],
            chain_id: Some(anvil.chain_id()),
            flow: deployment.flow,
            mine: deployment.mine,
            rpc,
        };
        let chain = ChainClient::connect(&chain_options).await?;
        let policy = TxPolicy { poll: (options.block_time / 2).min(Duration::from_millis(200)), ..TxPolicy::default() };
        let account = Key::from(PrivateKeySigner::from(anvil.keys()[1].clone()));
        let client = TxManager::new(chain.rpc().clone(), chain.chain_id(), account, policy.clone());
        Ok(Devnet { anvil, chain, deployment, client, policy })
    }

    /// The miner's account, with something to pay gas from.
    async fn fund_miner(&self, key: Key) -> anyhow::Result<TxManager> {
        let wei = U256::from(FUNDS) * U256::from(TOKEN);
        let () = self.chain.rpc().call("anvil_setBalance", "", (key.address(), wei)).await?;
        Ok(TxManager::new(self.chain.rpc().clone(), self.chain.chain_id(), key, self.policy.clone()))
    }

    /// Submits the file, and zeros before and behind it.
    ///
    /// Before: the flow's first load holds the reserved sector, so its first seal can never be proven; a small file would
    /// lie in it. Behind: zeros up to the end of the pricing chunk, which pays from then on.
    async fn submit(&self, tree: &FileTree) -> anyhow::Result<SubmittedFile> {
        let zeros = |height| zero_submission(height).context("a height beyond the flow");
        submit_file(&self.chain, &self.client, &zeros(SECTORS_PER_LOAD.ilog2())?).await?;
        let file = submit_file(&self.chain, &self.client, &FileSubmission::of(tree)).await?;
        let length = self.chain.flow_state().await?.length;
        let fill = heights_to_chunk_end(length).into_iter().map(zeros).collect::<anyhow::Result<Vec<_>>>()?;
        submit_files(&self.chain, &self.client, &fill).await?;
        Ok(SubmittedFile { seq: file.seq, first_load: file.start / SECTORS_PER_LOAD as u64 })
    }
}

fn start_anvil(options: &DevnetOptions) -> anyhow::Result<AnvilInstance> {
    let program = find_anvil()?;
    if let Some(port) = options.port {
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(|error| {
            anyhow::anyhow!("port {port} cannot be used for the chain ({error}); choose another with --port")
        })?;
    }
    Anvil::at(program)
        // A number, since a bare machine may not know the name localhost.
        .host(Ipv4Addr::LOCALHOST.to_string())
        .port(options.port.unwrap_or(0))
        .block_time_f64(options.block_time.as_secs_f64())
        .args(["--hardfork", "prague", "--gas-limit", "60000000"])
        .try_spawn()
        .context("anvil does not start")
}

/// The file to store, and its tree.
struct Input {
    name: String,
    file: File,
    tree: FileTree,
}

impl Input {
    fn open(path: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = path else {
            return Input::read("generated".into(), generated_file().context("no temporary file can be written")?);
        };
        let name = path.display().to_string();
        let file = File::open(path).with_context(|| format!("{name} cannot be opened"))?;
        ensure!(file.metadata()?.is_file(), "{name} is not a file");
        Input::read(name, file)
    }

    fn read(name: String, file: File) -> anyhow::Result<Self> {
        let size = file.metadata()?.len();
        let shape = FileShape::new(size).with_context(|| format!("{name} cannot be stored"))?;
        // A load of zeros stands in front of it, so a file of up to half a chunk is aligned to the second half at most.
        let limit = SECTORS_PER_PRICING / 2;
        ensure!(
            shape.padded_sectors() <= limit,
            "{name} has {size} bytes; the devnet mines one pricing chunk of 8 GiB and takes files up to {} bytes",
            limit * BYTES_PER_SECTOR as u64
        );
        let tree = FileTree::read(shape, BufReader::with_capacity(BYTES_PER_LOAD, &file), |_| ())
            .with_context(|| format!("{name} cannot be read"))?;
        Ok(Input { name, file, tree })
    }
}

/// A file of random bytes that is gone when it is closed.
fn generated_file() -> io::Result<File> {
    let mut file = tempfile::tempfile()?;
    let mut data = vec![0u8; GENERATED_BYTES as usize];
    rand::rng().fill_bytes(&mut data);
    file.write_all(&data)?;
    io::Seek::rewind(&mut file)?;
    Ok(file)
}

/// The store's folder: the user's, or one that goes with the run.
enum Folder {
    Given(PathBuf),
    Temporary(tempfile::TempDir),
}

impl Folder {
    fn new(dir: Option<&Path>) -> anyhow::Result<Self> {
        Ok(match dir {
            Some(dir) => Folder::Given(dir.to_path_buf()),
            None => {
                Folder::Temporary(tempfile::TempDir::with_prefix("zgpu-").context("no temporary folder can be made")?)
            }
        })
    }

    fn path(&self) -> &Path {
        match self {
            Folder::Given(path) => path,
            Folder::Temporary(folder) => folder.path(),
        }
    }
}
