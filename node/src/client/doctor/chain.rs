//! What the doctor looks at on the chain: endpoints, contracts, the account, the epoch, the reward.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use alloy::{
    primitives::{Address, U64, U256},
    rpc::types::Filter,
    sol_types::SolEvent,
};
use zgpu_core::{H256, units::SECTORS_PER_PRICING};

use super::{DoctorOptions, Report, machine::Held};
use crate::{
    chain::{
        client::{ChainClient, ChainOptions, FlowState, IdleReason, MinerConfig, MiningTask, find_mine},
        contracts::Flow,
        error::ChainError,
        keys::{KeySource, open_to_others},
        rpc::{Rpc, RpcOptions},
        tx::TxPolicy,
    },
    config::{Config, MinerKey},
    devnet::report::token,
};

/// Gas of an answer: a devnet with one pricing chunk measures 468 487; longer flows have longer proofs.
const GAS_PER_ANSWER: u64 = 500_000;
/// Answers that an account should be able to pay for.
const ANSWERS_IN_HAND: u64 = 100;
/// Blocks that an endpoint may be behind the best one.
const MAX_ENDPOINT_LAG: u64 = 10;
/// Seconds that the clock may be off the chain's.
const MAX_SKEW: i64 = 30;
/// Full pricing chunks whose worth is looked at.
const CHUNKS_LOOKED_AT: u64 = 16;

/// What is known of the chain.
pub(super) struct Chain {
    pub(super) client: ChainClient,
    pub(super) flow: FlowState,
    /// Number of its last block.
    pub(super) head: u64,
    /// Its clock, in seconds.
    now: u64,
}

#[derive(Clone, Debug, serde::Deserialize)]
struct Block {
    number: U64,
    timestamp: U64,
}

async fn last_block(rpc: &Rpc) -> Result<Block, ChainError> {
    let block: Option<Block> = rpc.call("eth_getBlockByNumber", "", ("latest", false)).await?;
    block.ok_or_else(|| rpc.bad_reply("eth_getBlockByNumber", "there is no last block"))
}

/// Looks at the endpoints, at the chain's head, at the clock and at the contracts.
pub(super) async fn check_chain(report: &mut Report, config: &Config, options: &DoctorOptions) -> Option<Chain> {
    let patience = RpcOptions {
        timeout: options.timeout,
        attempts: 2,
        requests_per_second: config.chain.calls_per_second,
        ..RpcOptions::default()
    };
    let mut good: Vec<String> = Vec::new();
    let mut heads: Vec<(String, u64)> = Vec::new();
    let count = config.chain.endpoints.0.len();
    let one_of_many = |text: String| if count > 1 { format!("{text}; others are used in its place") } else { text };
    for url in &config.chain.endpoints.0 {
        let answer = async {
            let rpc = Rpc::new(url, patience.clone())?;
            let chain_id: U64 = rpc.call("eth_chainId", "", ()).await?;
            Ok::<_, ChainError>((last_block(&rpc).await?, chain_id.to::<u64>(), rpc))
        };
        let (block, chain_id, rpc) = match answer.await {
            Ok(answer) => answer,
            Err(error) => {
                let remedy = "check the URL and the network, or name another endpoint (blockchain_rpc_endpoint)";
                match count {
                    1 => report.fail("endpoint", error.to_string(), remedy),
                    _ => report.warn("endpoint", one_of_many(error.to_string()), remedy),
                }
                continue;
            }
        };
        if let Some(expected) = config.chain.chain_id.filter(|expected| *expected != chain_id) {
            let found = format!("{} is of chain {chain_id}, expected {expected}", rpc.url());
            report.fail("endpoint", found, "name an endpoint of the right chain, or the right network");
            continue;
        }
        let head = block.number.to::<u64>();
        let pages = config.chain.page_blocks.max(1);
        let filter = Filter::new()
            .address(config.chain.flow)
            .event_signature(Flow::Submit::SIGNATURE_HASH)
            .from_block(head.saturating_sub(pages - 1))
            .to_block(head);
        let logs: Result<Vec<serde_json::Value>, _> = rpc.call("eth_getLogs", "Submit", (filter,)).await;
        match logs {
            Ok(_) => check_news(report, &rpc, format!("{}: chain {chain_id}, block {head}", rpc.url())).await,
            Err(error) => report.warn(
                "endpoint",
                format!("{pages} blocks of the log at a time are refused: {error}"),
                "the log is read in smaller pieces, so the first sync takes longer; set log_page_size, or use an \
                 endpoint that allows more",
            ),
        }
        heads.push((rpc.url().to_owned(), head));
        good.push(url.clone());
    }
    if good.is_empty() {
        if count > 1 {
            report.fail("endpoint", format!("none of {count} endpoints can be used"), "see above");
        }
        for name in ["head", "contracts"] {
            report.skip(name, "no endpoint answers");
        }
        return None;
    }
    let best = heads.iter().map(|(_, head)| *head).max().unwrap_or_default();
    for (url, head) in heads.iter().filter(|(_, head)| best - head > MAX_ENDPOINT_LAG) {
        let found = format!("{url} is at block {head}, another one at {best}");
        report.warn("endpoint", found, "an endpoint that lags shows old contexts; leave it out");
    }
    let rpc = Rpc::over(&good, patience.clone()).ok()?;
    let now = check_head(report, &rpc, best, options).await;
    let client = check_contracts(report, config, good, patience).await?;
    match client.flow_state().await {
        Ok(flow) => Some(Chain { client, flow, head: best, now }),
        Err(error) => {
            report.fail("contracts", error.to_string(), "see whether it passes");
            None
        }
    }
}

/// Tells of an endpoint that does well, and whether it announces new blocks.
async fn check_news(report: &mut Report, rpc: &Rpc, found: String) {
    if !rpc.url().starts_with("ws") {
        return report.ok("endpoint", found);
    }
    match rpc.call::<_, serde_json::Value>("eth_subscribe", "newHeads", ("newHeads",)).await {
        Ok(_) => report.ok("endpoint", format!("{found}; it announces new blocks")),
        Err(error) => report.warn(
            "endpoint",
            format!("{found}; it does not announce new blocks: {error}"),
            "new blocks are looked for at intervals; an endpoint that announces them shows them at once",
        ),
    }
}

/// Waits for the next block, and compares the clock with it. Returns the chain's clock.
async fn check_head(report: &mut Report, rpc: &Rpc, seen: u64, options: &DoctorOptions) -> u64 {
    let started = Instant::now();
    let mut last = None;
    while started.elapsed() < options.block_within {
        match last_block(rpc).await {
            Ok(block) if block.number.to::<u64>() > seen => {
                let (number, time) = (block.number.to::<u64>(), block.timestamp.to::<u64>());
                report.ok("head", format!("block {number} came within {:.1} s", started.elapsed().as_secs_f64()));
                let skew = unix_seconds() as i64 - time as i64;
                let found =
                    format!("it is {} s {} the last block", skew.abs(), if skew < 0 { "behind" } else { "past" });
                match skew.abs() <= MAX_SKEW {
                    true => report.ok("clock", found),
                    false => report.warn("clock", found, "set the clock of this machine, with NTP for example"),
                }
                return time;
            }
            Ok(block) => last = Some(block),
            Err(error) => tracing::debug!(%error, "the last block is not known"),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let time = last.map_or(0, |block| block.timestamp.to::<u64>());
    let age = unix_seconds().saturating_sub(time);
    report.fail(
        "head",
        format!("no block came behind block {seen} within {:?}; it is {age} s old", options.block_within),
        "the endpoint lags or the chain stands still: use another endpoint, or wait for the chain",
    );
    report.skip("clock", "there is no new block to compare it with");
    time
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

async fn check_contracts(
    report: &mut Report,
    config: &Config,
    urls: Vec<String>,
    rpc: RpcOptions,
) -> Option<ChainClient> {
    let flow = config.chain.flow;
    let connect = async {
        let mine = match config.chain.mine {
            Some(mine) => mine,
            None => find_mine(&Rpc::over(&urls, rpc.clone())?, flow).await?,
        };
        ChainClient::connect(&ChainOptions { urls, chain_id: config.chain.chain_id, flow, mine, rpc }).await
    };
    let remedy = "set log_contract_address, mine_contract_address and reward_contract_address to those of the \
                  network, or name the network (--network)";
    match connect.await {
        Ok(client) => {
            let contracts = *client.contracts();
            if let Some(expected) = config.chain.reward.filter(|expected| *expected != contracts.reward) {
                let found = format!("the mine contract pays through {}, configured is {expected}", contracts.reward);
                report.fail("contracts", found, remedy);
                return None;
            }
            let found = format!("flow {}, mine {}, reward {}", contracts.flow, contracts.mine, contracts.reward);
            report.ok("contracts", found);
            Some(client)
        }
        Err(error) => {
            report.fail("contracts", error.to_string(), remedy);
            None
        }
    }
}

/// Looks at the key and its account.
pub(super) async fn check_key(report: &mut Report, config: &Config, chain: Option<&Chain>) -> Option<Address> {
    let Some(source) = &config.miner.key else {
        let remedy = "put the key in a file that only you can read and name it with miner_key_file, or use a keystore \
                      (miner_keystore), or set ZGPU_MINER_KEY";
        report.fail("key", "none is configured: the node does not mine", remedy);
        report.skip("balance", "there is no account");
        return None;
    };
    let address = match source.load() {
        Ok(key) => key.address(),
        Err(error) => {
            report.fail("key", error.to_string(), "put it right; a key has 64 hex digits");
            report.skip("balance", "there is no account");
            return None;
        }
    };
    let file = match source {
        MinerKey::From(KeySource::HexFile(path) | KeySource::Keystore { path, .. }) => Some(path),
        _ => None,
    };
    match file.and_then(|path| Some((path, open_to_others(path).ok()??))) {
        Some((path, mode)) => {
            let path = path.display();
            let found = format!("{path} can be read by others (mode {mode:03o})");
            report.warn("key", found, &format!("run chmod 600 {path}"));
        }
        None => report.ok("key", format!("it can be read; account {address}")),
    }
    let Some(chain) = chain else {
        report.skip("balance", "the chain cannot be asked");
        return Some(address);
    };
    let answers =
        async { Ok::<_, ChainError>((chain.client.balance(address).await?, chain.client.gas_price().await?)) };
    let (balance, price) = match answers.await {
        Ok(answers) => answers,
        Err(error) => {
            report.fail("balance", error.to_string(), "see whether it passes");
            return Some(address);
        }
    };
    let limit = config.miner.max_gas_price.map_or(TxPolicy::default().max_fee_per_gas, u128::from);
    if price > U256::from(limit) {
        let found = format!("gas costs {price} wei now, the limit is {limit}: nothing is sent");
        report.fail("balance", found, "raise submission_config.max_gas_price, or wait until gas is cheaper");
        return Some(address);
    }
    let cost = price.saturating_mul(U256::from(GAS_PER_ANSWER));
    let affordable = balance.checked_div(cost).unwrap_or(U256::MAX);
    let found = format!(
        "{} pays for {} answers of about {} each",
        token(&balance.to_string()),
        if affordable > U256::from(1_000_000) { "more than a million".to_owned() } else { affordable.to_string() },
        token(&cost.to_string())
    );
    let remedy = format!("send tokens to {address}");
    if affordable.is_zero() {
        report.fail("balance", found, &remedy);
    } else if affordable < U256::from(ANSWERS_IN_HAND) {
        report.warn("balance", found, &remedy);
    } else {
        report.ok("balance", found);
    }
    Some(address)
}

/// Looks at the miner's id, the epoch and what an answer earns.
pub(super) async fn check_mining(
    report: &mut Report,
    config: &Config,
    chain: Option<&Chain>,
    account: Option<Address>,
    held: &Held,
) {
    let Some(chain) = chain else {
        for name in ["miner id", "epoch", "reward"] {
            report.skip(name, "the chain cannot be asked");
        }
        return;
    };
    let miner_id = check_miner_id(report, config, chain, account, held).await;
    match miner_id {
        Some(miner_id) => check_epoch(report, chain, miner_id, held).await,
        None => report.skip("epoch", "there is no miner id to ask for"),
    }
    if let Err(error) = check_reward(report, chain).await {
        report.fail("reward", error.to_string(), "see whether it passes");
    }
}

async fn check_miner_id(
    report: &mut Report,
    config: &Config,
    chain: &Chain,
    account: Option<Address>,
    held: &Held,
) -> Option<H256> {
    if let (Some(configured), Some(stored)) = (config.miner.miner_id, held.miner_id)
        && configured != stored
    {
        let found = format!("{configured} is configured, the data is sealed for {stored}");
        let remedy = "remove miner_id from the configuration, or use another folder (db_dir)";
        report.fail("miner id", found, remedy);
        return None;
    }
    let Some(miner_id) = config.miner.miner_id.or(held.miner_id) else {
        match account {
            Some(_) => report.ok("miner id", "none yet; the node registers one when it starts, which costs gas"),
            None => report.skip("miner id", "there is no key to register one with"),
        }
        return None;
    };
    match (chain.client.beneficiary(miner_id).await, account) {
        (Err(error), _) => report.fail("miner id", error.to_string(), "see whether it passes"),
        (Ok(None), _) => {
            let found = format!("{miner_id} is not registered at {}", chain.client.contracts().mine);
            report.fail("miner id", found, "remove miner_id from the configuration, and the node registers one");
            return None;
        }
        (Ok(Some(beneficiary)), Some(account)) if beneficiary != account => {
            let found = format!("{miner_id} pays {beneficiary}, the key is of {account}");
            report.fail("miner id", found, "use the key of that account, or another miner id");
        }
        (Ok(Some(beneficiary)), _) => report.ok("miner id", format!("{miner_id} is registered and pays {beneficiary}")),
    }
    Some(miner_id)
}

async fn check_epoch(report: &mut Report, chain: &Chain, miner_id: H256, held: &Held) {
    let miner = MinerConfig { miner_id, shard: held.shard, start_position: 0 };
    let task = match chain.client.mining_task(&miner).await {
        Ok(task) => task,
        Err(error) => {
            report.fail("epoch", error.to_string(), "see whether it passes");
            return;
        }
    };
    let reason = match task {
        MiningTask::Ready(puzzle) => {
            let loads = puzzle.range.loads();
            report.ok("epoch", format!("the window is open: {loads} loads of the flow can be mined"));
            return;
        }
        MiningTask::Idle(reason) => reason,
    };
    let found = reason.to_string();
    match reason {
        IdleReason::BeforeWindow { .. } | IdleReason::AfterWindow { .. } => report.ok("epoch", found),
        IdleReason::EpochFull { .. } => {
            report.warn("epoch", found, "wait for the next epoch; answers count in the order in which they come")
        }
        IdleReason::EmptyContext { .. } => report.warn(
            "epoch",
            found,
            "wait for the next epoch; one begins with the next upload, or when somebody calls makeContext",
        ),
        IdleReason::TooManyShards { limit, .. } => report.fail(
            "epoch",
            found,
            &format!("keep a larger share of the flow: shard_position with at most {limit}"),
        ),
        IdleReason::NotRegistered { .. } => report.fail("epoch", found, "register the miner id"),
        IdleReason::Range(_) => report.warn("epoch", found, "wait until more is stored on the network"),
        IdleReason::Starting | IdleReason::Chain(_) => report.fail("epoch", found, "see whether it passes"),
    }
}

/// Compares what answers earn with what they cost.
async fn check_reward(report: &mut Report, chain: &Chain) -> Result<(), ChainError> {
    let state = chain.client.reward_state().await?;
    let full = chain.flow.length / SECTORS_PER_PRICING;
    let base = state.base_reward.min(state.total_base_reward);
    if full == 0 {
        let found = format!(
            "no pricing chunk is full yet, and only full ones pay: the flow has {} of {SECTORS_PER_PRICING} sectors",
            chain.flow.length
        );
        report.warn("reward", found, "wait until more is stored on the network");
        return Ok(());
    }
    let cost = chain.client.gas_price().await?.saturating_mul(U256::from(GAS_PER_ANSWER));
    let looked_at = full.min(CHUNKS_LOOKED_AT);
    let mut best = U256::ZERO;
    // Spread over all, the newest among them.
    for step in 0..looked_at {
        let index = full - 1 - step * full / looked_at;
        best = best.max(chain.client.chunk_reward(index).await?.worth(&state, chain.now));
    }
    let words = |wei: U256| token(&wei.to_string());
    let found = format!(
        "the best of {looked_at} of {full} full pricing chunks pays {} for an answer (base reward {}, {} left for it); \
         gas costs about {}",
        words(best),
        words(base),
        words(state.total_base_reward),
        words(cost)
    );
    match best > cost {
        true => report.ok("reward", found),
        false => {
            report.warn("reward", found, "an answer costs more than it earns: wait for cheaper gas or higher rewards")
        }
    }
    Ok(())
}
