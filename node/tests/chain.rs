//! The chain side of the node against a real EVM (anvil) with our contracts: reads, transactions, answers, and what
//! happens when the network misbehaves.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use alloy::{
    node_bindings::{Anvil, AnvilInstance},
    primitives::{Address, B256, U64, U256},
    providers::ProviderBuilder,
    signers::local::PrivateKeySigner,
    sol_types::SolCall,
};
use serde_json::{Value, json};
use zgpu_core::{
    H256,
    digest::parent,
    file::{FileShape, FileTree},
    flow::{FlowNodes, RESERVED_LEAF, root_at, siblings_at},
    tree::zero_root,
};
use zgpu_miner::{
    answer::{Answer, Hit},
    plain,
    puzzle::{Puzzle, Shard},
};
use zgpu_node::chain::{
    anvil::find_anvil,
    client::{ChainClient, ChainOptions, IdleReason, MinerConfig, MiningTask},
    contracts::{DeployParams, Deployment, Flow, Market, PoraMine, deploy},
    error::{ChainError, WrongContracts},
    flow_log::PageSize,
    keys::Key,
    miner_id::{MinerIdError, ensure_miner_id, request_miner_id, verify_miner_id},
    rewards::withdraw,
    rpc::{Rpc, RpcOptions},
    submit::{SubmitOptions, SubmitOutcome, Submitter},
    tx::{FeeKind, TxCall, TxError, TxManager, TxOutcome, TxPolicy},
    upload::{FileSubmission, UploadError, submit_batch, submit_file, submit_files, zero_submission},
    watch::{ContextWatcher, MiningState, WatchOptions},
};

const TICK: Duration = Duration::from_millis(50);

/// A chain of its own with contracts on it.
struct Net {
    anvil: AnvilInstance,
    contracts: Deployment,
    rpc: Rpc,
}

fn params() -> DeployParams {
    DeployParams {
        blocks_per_epoch: 40,
        target_mine_blocks: 30,
        target_submissions: 6,
        n_subtasks: 1,
        subtask_interval: 1,
        initial_difficulty: U256::from(1),
        price_per_sector: U256::from(1000),
        base_reward: U256::from(7_000_000),
        donation: U256::from(1_000_000_000_000u64),
        ..DeployParams::default()
    }
}

/// Tests share two cores: the limits are long, and nothing waits for them when all is well.
fn rpc_options() -> RpcOptions {
    RpcOptions { timeout: Duration::from_secs(20), requests_per_second: None, ..RpcOptions::default() }
}

fn policy() -> TxPolicy {
    TxPolicy { poll: TICK, resend_after: TICK, deadline: Duration::from_secs(60), ..TxPolicy::default() }
}

impl Net {
    /// A chain with a block per transaction; [`Net::hold_blocks`] changes that.
    async fn start(params: &DeployParams) -> Net {
        let anvil = Anvil::at(find_anvil().unwrap()).host("127.0.0.1").timeout(60_000).try_spawn().unwrap();
        let provider = ProviderBuilder::new().disable_recommended_fillers().connect_http(anvil.endpoint_url());
        let contracts = deploy(&provider, anvil.addresses()[0], params).await.unwrap();
        let rpc = Rpc::new(&anvil.endpoint(), rpc_options()).unwrap();
        Net { anvil, contracts, rpc }
    }

    fn options(&self, url: &str) -> ChainOptions {
        let Deployment { flow, mine, .. } = self.contracts;
        ChainOptions { urls: vec![url.to_owned()], chain_id: None, flow, mine, rpc: rpc_options() }
    }

    async fn client(&self) -> ChainClient {
        ChainClient::connect(&self.options(&self.anvil.endpoint())).await.unwrap()
    }

    fn key(&self, index: usize) -> Key {
        Key::from(PrivateKeySigner::from(self.anvil.keys()[index].clone()))
    }

    fn txs(&self, index: usize, policy: TxPolicy) -> TxManager {
        TxManager::new(self.rpc.clone(), self.anvil.chain_id(), self.key(index), policy)
    }

    async fn ask(&self, method: &'static str, params: Value) -> Value {
        self.rpc.call(method, "", params).await.unwrap()
    }

    async fn mine_blocks(&self, count: u64) {
        self.ask("anvil_mine", json!([U64::from(count)])).await;
    }

    /// From now on blocks come only from [`Net::mine_blocks`].
    async fn hold_blocks(&self) {
        self.ask("evm_setAutomine", json!([false])).await;
    }

    async fn count(&self, index: usize, at: &str) -> u64 {
        let count: U64 =
            self.rpc.call("eth_getTransactionCount", at, (self.anvil.addresses()[index], at)).await.unwrap();
        count.to()
    }

    /// A call that always succeeds: a miner id for `seed`.
    fn registration(&self, seed: u64) -> TxCall {
        let beneficiary = self.anvil.addresses()[9];
        let data = PoraMine::requestMinerIdCall { beneficiary, seed }.abi_encode().into();
        TxCall { what: "a registration", to: self.contracts.mine, data, value: U256::ZERO }
    }

    /// A plain transaction of account `index`, sent behind the node's back.
    async fn send_elsewhere(&self, index: usize, nonce: u64, gas_price: u128) -> Value {
        let tx = json!([{
            "from": self.anvil.addresses()[index], "to": Address::repeat_byte(1), "gas": "0x5208",
            "nonce": U64::from(nonce), "gasPrice": alloy::primitives::U128::from(gas_price),
        }]);
        self.ask("eth_sendTransaction", tx).await
    }

    /// Waits until the pool holds `count` transactions.
    async fn wait_for_pool(&self, count: usize) -> Vec<Value> {
        let started = Instant::now();
        loop {
            let pool = self.ask("txpool_content", json!([])).await;
            let held: Vec<Value> = ["pending", "queued"]
                .iter()
                .flat_map(|kind| pool[kind].as_object().unwrap().values())
                .flat_map(|of_account| of_account.as_object().unwrap().values().cloned())
                .collect();
            if held.len() >= count {
                return held;
            }
            assert!(started.elapsed() < Duration::from_secs(30), "the pool holds {} of {count}", held.len());
            tokio::time::sleep(TICK).await;
        }
    }
}

fn mined(outcome: TxOutcome) -> zgpu_node::chain::tx::MinedTx {
    match outcome {
        TxOutcome::Mined(tx) => tx,
        other => panic!("{other:?}"),
    }
}

fn file(bytes: usize, seed: u8) -> FileTree {
    let data: Vec<u8> = (0..bytes).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed)).collect();
    FileTree::read(FileShape::new(bytes as u64).unwrap(), &data[..], |_| ()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connecting_says_what_is_wrong() {
    let net = Net::start(&params()).await;
    let client = net.client().await;
    assert_eq!(client.chain_id(), net.anvil.chain_id());
    let found = client.contracts();
    let Deployment { flow, market, reward, mine, .. } = net.contracts;
    assert_eq!((found.flow, found.market, found.reward, found.mine), (flow, market, reward, mine));

    let refused = async |change: &dyn Fn(&mut ChainOptions)| {
        let mut options = net.options(&net.anvil.endpoint());
        change(&mut options);
        ChainClient::connect(&options).await.unwrap_err()
    };
    let error = refused(&|options| options.chain_id = Some(16661)).await;
    assert!(matches!(error, ChainError::WrongChain { got: 31337, expected: 16661, .. }), "{error}");

    let reason = |error| match error {
        ChainError::WrongContracts { reason, .. } => reason,
        other => panic!("{other}"),
    };
    let error = reason(refused(&|options| options.flow = Address::repeat_byte(5)).await);
    assert!(matches!(error, WrongContracts::NoCode { role: "flow", .. }), "{error}");
    let error = reason(refused(&|options| (options.flow, options.mine) = (options.mine, options.flow)).await);
    assert!(matches!(error, WrongContracts::NoAnswer { role: "mine", call: "poraVersion()", .. }), "{error}");
    let error = reason(refused(&|options| options.flow = market).await);
    assert!(matches!(error, WrongContracts::Link { from: "mine", role: "flow", .. }), "{error}");

    let port = free_port();
    let error = refused(&|options| {
        options.urls = vec![format!("http://user:hunter22@127.0.0.1:{port}/secretpath")];
        options.rpc.attempts = 2;
    })
    .await;
    let text = format!("{error} {error:?}");
    assert!(matches!(error, ChainError::Unreachable { .. }), "{text}");
    assert!(text.contains(&format!("http://127.0.0.1:{port}")) && text.contains("check that its node runs"), "{text}");
    assert!(!text.contains("hunter22") && !text.contains("secretpath"), "{text}");
    let options = ChainOptions { urls: vec!["http://user:hunter22@127.0.0.1:1/secretpath".into()], ..net.options("") };
    let shown = format!("{options:?} {:?}", net.txs(0, policy()));
    let secret = alloy::hex::encode(net.anvil.keys()[0].to_bytes());
    assert!(!shown.contains("hunter22") && !shown.contains("secretpath") && !shown.contains(&secret[..16]), "{shown}");
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_transactions_in_flight_are_mined_in_order() {
    let net = Net::start(&params()).await;
    net.hold_blocks().await;
    net.ask("evm_setIntervalMining", json!([1])).await;
    for (fee_kind, seeds) in [(FeeKind::Auto, 0), (FeeKind::Legacy, 1000)] {
        let txs = net.txs(1, TxPolicy { fee_kind, ..policy() });
        let first = net.count(1, "latest").await;
        let started = Instant::now();
        const COUNT: u64 = 30;
        let sent: Vec<_> = (0..COUNT)
            .map(|seed| {
                let (txs, call) = (txs.clone(), net.registration(seeds + seed));
                tokio::spawn(async move { mined(txs.send(call).await) })
            })
            .collect();
        let mut places = Vec::new();
        for task in sent {
            let tx = task.await.unwrap();
            let found = net.ask("eth_getTransactionByHash", json!([tx.hash])).await;
            let number = |field: &str| serde_json::from_value::<U64>(found[field].clone()).unwrap().to::<u64>();
            assert_eq!(number("type"), if fee_kind == FeeKind::Auto { 2 } else { 0 });
            places.push((number("nonce"), number("blockNumber"), number("transactionIndex")));
        }
        places.sort_unstable();
        assert!(places.iter().map(|place| place.0).eq(first..first + COUNT), "no nonce is missing or doubled");
        assert!(places.windows(2).all(|pair| (pair[0].1, pair[0].2) < (pair[1].1, pair[1].2)), "{places:?}");
        let blocks: std::collections::BTreeSet<u64> = places.iter().map(|place| place.1).collect();
        assert!(blocks.len() < COUNT as usize / 2, "blocks are shared: {blocks:?}");
        assert_eq!(txs.in_flight().await, 0);
        println!("{fee_kind:?}: {COUNT} transactions in {} blocks, {:?}", blocks.len(), started.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stuck_lost_and_stolen_nonces_heal() {
    let net = Net::start(&params()).await;
    net.hold_blocks().await;
    let policy = TxPolicy { bump_after_blocks: 3, receipt_grace: Duration::from_millis(500), ..policy() };
    let txs = net.txs(1, policy);
    let send = |seed| {
        let (txs, call) = (txs.clone(), net.registration(seed));
        tokio::spawn(async move { mined(txs.send(call).await) })
    };
    let number = |tx: &Value, field: &str| serde_json::from_value::<U256>(tx[field].clone()).unwrap();

    // Lost: the chain forgets a transaction that others wait behind. It is handed over again.
    let tasks = [send(1), send(2), send(3)];
    let held = net.wait_for_pool(3).await;
    let lowest = held.iter().min_by_key(|tx| number(tx, "nonce")).unwrap();
    net.ask("anvil_dropTransaction", json!([lowest["hash"]])).await;
    net.mine_blocks(1).await;
    net.wait_for_pool(3).await;
    net.mine_blocks(1).await;
    let mut hashes = Vec::new();
    for task in tasks {
        hashes.push(json!(task.await.unwrap().hash));
    }
    assert!(hashes.contains(&lowest["hash"]), "the same bytes were sent again");

    // Stuck: the base fee rises above what was offered. A replacement pays more.
    let task = send(4);
    let before = net.wait_for_pool(1).await.remove(0);
    for _ in 0..3 {
        net.ask("anvil_setNextBlockBaseFeePerGas", json!([U64::from(50_000_000_000u64)])).await;
        net.mine_blocks(1).await;
    }
    let started = Instant::now();
    let after = loop {
        let after = net.wait_for_pool(1).await.remove(0);
        if after["hash"] != before["hash"] {
            break after;
        }
        assert!(started.elapsed() < Duration::from_secs(30), "no replacement");
        tokio::time::sleep(TICK).await;
    };
    assert_eq!(after["nonce"], before["nonce"]);
    assert!(number(&after, "maxFeePerGas") >= number(&before, "maxFeePerGas") * U256::from(115) / U256::from(100));
    net.mine_blocks(1).await;
    let tx = task.await.unwrap();
    assert_eq!(json!(tx.hash), after["hash"]);
    assert!(tx.effective_gas_price >= 40_000_000_000, "{tx:?}");

    // Stolen before sending: another program with the same key used the next nonce.
    let next = net.count(1, "latest").await;
    net.send_elsewhere(1, next, 100_000_000_000).await;
    net.mine_blocks(1).await;
    let task = send(5);
    net.wait_for_pool(1).await;
    net.mine_blocks(1).await;
    task.await.unwrap();
    assert_eq!(net.count(1, "latest").await, next + 2);

    // Pushed out after sending: the other program replaces the transaction. It is sent again with a new nonce, once.
    let task = send(6);
    let ours = net.wait_for_pool(1).await.remove(0);
    net.send_elsewhere(1, next + 2, 900_000_000_000).await;
    net.mine_blocks(1).await;
    let again = net.wait_for_pool(1).await.remove(0);
    assert_eq!((number(&ours, "nonce"), number(&again, "nonce")), (U256::from(next + 2), U256::from(next + 3)));
    net.mine_blocks(1).await;
    assert_eq!(json!(task.await.unwrap().hash), again["hash"]);
    assert_eq!(net.count(1, "latest").await, next + 4);

    // A gap: the chain took a nonce back, as a reorganisation does. It is filled, and what waits behind it is mined.
    net.ask("anvil_setNonce", json!([net.anvil.addresses()[1], U64::from(next + 3)])).await;
    let task = send(7);
    let waiting = net.wait_for_pool(1).await.remove(0);
    assert_eq!(number(&waiting, "nonce"), U256::from(next + 4));
    let started = Instant::now();
    while !task.is_finished() {
        assert!(started.elapsed() < Duration::from_secs(30), "the gap stays");
        net.mine_blocks(1).await;
        tokio::time::sleep(TICK * 2).await;
    }
    assert_eq!(json!(task.await.unwrap().hash), waiting["hash"]);
    assert_eq!(net.count(1, "latest").await, next + 5);
    assert_eq!(txs.in_flight().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_come_with_the_contracts_reason() {
    let net = Net::start(&params()).await;
    let client = net.client().await;
    let txs = net.txs(1, policy());
    let before = net.count(1, "pending").await;

    // A custom error, and a revert string: both are found by the simulation, nothing is sent.
    let file = FileSubmission::of(&file(1000, 1));
    let nodes = file.nodes.iter().map(|node| zgpu_node::chain::contracts::SubmissionNode {
        root: node.root.0.into(),
        height: U256::from(node.height),
    });
    let submission = zgpu_node::chain::contracts::Submission {
        data: zgpu_node::chain::contracts::SubmissionData {
            length: U256::from(file.size),
            tags: Default::default(),
            nodes: nodes.collect(),
        },
        submitter: txs.address(),
    };
    let data = Flow::submitCall { submission }.abi_encode().into();
    let call = TxCall { what: "a file", to: net.contracts.flow, data, value: U256::from(3) };
    match txs.send(call.clone()).await {
        TxOutcome::Refused { reason } => {
            assert_eq!(reason.text(), "the fee is too small: 4 sectors at 1000 wei each, 3 wei paid");
        }
        other => panic!("{other:?}"),
    }
    let wrong = FileSubmission { size: file.size * 9, ..file };
    let error = submit_file(&client, &txs, &wrong).await.unwrap_err();
    assert!(matches!(&error, UploadError::Refused(reason) if reason.text() == "Invalid submission"), "{error}");
    assert_eq!(net.count(1, "pending").await, before, "nothing was sent");

    // Refused in the block: the simulation passes, and a dearer price comes before it in the same block.
    net.hold_blocks().await;
    let paid = TxCall { value: U256::from(4000), ..call };
    let task = tokio::spawn({
        let txs = txs.clone();
        async move { txs.send(paid).await }
    });
    net.wait_for_pool(1).await;
    let price = Market::setPricePerSectorCall { pricePerSector: U256::from(1001) }.abi_encode();
    let tx = json!([{
        "from": net.anvil.addresses()[0], "to": net.contracts.market, "input": format!("0x{}", alloy::hex::encode(price)),
        "gas": "0x186a0", "gasPrice": U64::from(400_000_000_000u64),
    }]);
    net.ask("eth_sendTransaction", tx).await;
    net.wait_for_pool(2).await;
    net.mine_blocks(1).await;
    match task.await.unwrap() {
        TxOutcome::Reverted { tx, reason } => {
            assert!(tx.gas_used > 21_000 && tx.cost() > U256::ZERO, "{tx:?}");
            assert_eq!(reason.text(), "the fee is too small: 4 sectors at 1001 wei each, 4000 wei paid");
        }
        other => panic!("{other:?}"),
    }

    // Limits of the configuration hold before anything is signed.
    let refused = async |policy| match net.txs(1, policy).send(net.registration(77)).await {
        TxOutcome::Failed(error) => error,
        other => panic!("{other:?}"),
    };
    let error = refused(TxPolicy { max_gas: 30_000, ..policy() }).await;
    assert!(matches!(error, TxError::Gas { limit: 30_000, .. }), "{error}");
    let poor = TxManager::new(net.rpc.clone(), net.anvil.chain_id(), PrivateKeySigner::random().into(), policy());
    match poor.send(net.registration(78)).await {
        TxOutcome::Failed(error @ TxError::Funds { .. }) => {
            assert!(error.to_string().contains(&poor.address().to_string()), "{error}");
        }
        other => panic!("{other:?}"),
    }
    let error = refused(TxPolicy { max_fee_per_gas: 1, ..policy() }).await;
    assert!(matches!(error, TxError::Fee { limit: 1, .. }), "{error}");
}

/// What the proxy does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mishap {
    Forward,
    /// The request never arrives.
    DropRequest,
    /// The request arrives, the reply gets lost.
    DropReply,
    /// The endpoint is busy: an HTTP status.
    Status(u16),
    /// The endpoint answers with this JSON-RPC error.
    Error(&'static str),
}

type Rule = Box<dyn FnMut(&Value) -> Mishap + Send>;

/// A proxy before the chain that does with each request what a rule says. Keeps the methods it saw.
struct Proxy {
    url: String,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    fn start(net: &Net, rule: Rule) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (behind, rule, log) = (net.anvil.port(), Arc::new(Mutex::new(rule)), seen.clone());
        // The threads end with the test's process.
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let (rule, log) = (rule.clone(), log.clone());
                thread::spawn(move || pass_on(client, behind, &rule, &log));
            }
        });
        Proxy { url, seen }
    }

    fn times(&self, method: &str) -> usize {
        self.seen.lock().unwrap().iter().filter(|seen| *seen == method).count()
    }
}

/// Handles one connection: one request, one reply.
fn pass_on(mut client: TcpStream, behind: u16, rule: &Mutex<Rule>, log: &Mutex<Vec<String>>) -> Option<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        client.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).ok()?.to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"))?.trim().parse().ok()?;
    let mut body = vec![0; length];
    client.read_exact(&mut body).ok()?;
    let request: Value = serde_json::from_slice(&body).ok()?;
    log.lock().unwrap().push(request["method"].as_str()?.to_owned());
    let mishap = rule.lock().unwrap()(&request);
    let answer = |status: u16, body: &str| {
        let length = body.len();
        format!(
            "HTTP/1.1 {status} x\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
        )
    };
    let reply = match mishap {
        Mishap::Forward | Mishap::DropReply => {
            let mut chain = TcpStream::connect(("127.0.0.1", behind)).ok()?;
            write!(chain, "POST / HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n").ok()?;
            chain.write_all(&body).ok()?;
            let mut reply = Vec::new();
            chain.read_to_end(&mut reply).ok()?;
            let text = String::from_utf8(reply).ok()?;
            let (_, body) = text.split_once("\r\n\r\n")?;
            answer(200, body)
        }
        Mishap::DropRequest => String::new(),
        Mishap::Status(status) => answer(status, "busy"),
        Mishap::Error(message) => {
            let error =
                json!({ "jsonrpc": "2.0", "id": request["id"], "error": { "code": -32000, "message": message } });
            answer(200, &error.to_string())
        }
    };
    if mishap != Mishap::DropReply {
        client.write_all(reply.as_bytes()).ok()?;
    }
    client.shutdown(Shutdown::Both).ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_fails_in_passing_is_sent_once_more_and_mined_once() {
    let net = Net::start(&params()).await;
    const SEND: &str = "eth_sendRawTransaction";
    for (seed, mishap, sends) in [
        (1, Mishap::DropRequest, 2),
        // The chain has it: the second attempt is not even needed.
        (2, Mishap::DropReply, 1),
        (3, Mishap::Status(503), 2),
        (4, Mishap::Error("mempool is full"), 2),
        (5, Mishap::Error("request timeout"), 2),
    ] {
        let mut failed = false;
        let rule = move |request: &Value| {
            let fails = request["method"] == SEND && !failed;
            failed |= fails;
            if fails { mishap } else { Mishap::Forward }
        };
        let proxy = Proxy::start(&net, Box::new(rule));
        let rpc = Rpc::new(&proxy.url, rpc_options()).unwrap();
        let txs = TxManager::new(rpc, net.anvil.chain_id(), net.key(1), policy());
        let before = net.count(1, "latest").await;
        mined(txs.send(net.registration(seed)).await);
        assert_eq!(proxy.times(SEND), sends, "{mishap:?}");
        assert_eq!(net.count(1, "latest").await, before + 1, "{mishap:?}");
    }

    // One endpoint fails for good: the same bytes go to another one, and are taken once.
    for (seed, mishap) in [
        (10, Mishap::DropRequest),
        (11, Mishap::DropReply),
        (12, Mishap::Status(503)),
        (13, Mishap::Error("mempool is full")),
    ] {
        let rule = move |request: &Value| if request["method"] == SEND { mishap } else { Mishap::Forward };
        let (failing, good) = (Proxy::start(&net, Box::new(rule)), Proxy::start(&net, Box::new(|_| Mishap::Forward)));
        let rpc = Rpc::over(&[&failing.url, &good.url], rpc_options()).unwrap();
        let txs = TxManager::new(rpc, net.anvil.chain_id(), net.key(1), policy());
        let before = net.count(1, "latest").await;
        mined(txs.send(net.registration(seed)).await);
        assert!(failing.times(SEND) == 1 && good.times(SEND) <= 1, "{mishap:?}");
        assert_eq!(net.count(1, "latest").await, before + 1, "{mishap:?}");
    }

    // A failure that stays is reported after the second attempt, a refusal that is none after the first.
    for (mishap, sends) in [(Mishap::Error("mempool is full"), 2), (Mishap::Error("exceeds block gas limit"), 1)] {
        let rule = move |request: &Value| if request["method"] == SEND { mishap } else { Mishap::Forward };
        let proxy = Proxy::start(&net, Box::new(rule));
        let rpc = Rpc::new(&proxy.url, rpc_options()).unwrap();
        let txs = TxManager::new(rpc, net.anvil.chain_id(), net.key(1), policy());
        let before = net.count(1, "pending").await;
        let outcome = txs.send(net.registration(90)).await;
        assert!(matches!(outcome, TxOutcome::Failed(TxError::Chain { .. } | TxError::Rejected { .. })), "{outcome:?}");
        assert_eq!(proxy.times(SEND), sends, "{mishap:?}");
        assert_eq!(net.count(1, "pending").await, before);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_are_tried_again_and_give_up_in_time() {
    let net = Net::start(&params()).await;
    let mut calls = 0;
    let rule = move |_: &Value| {
        calls += 1;
        [Mishap::Forward, Mishap::DropRequest, Mishap::Status(429), Mishap::DropReply][calls % 4]
    };
    let proxy = Proxy::start(&net, Box::new(rule));
    let client = ChainClient::connect(&net.options(&proxy.url)).await.unwrap();
    assert_eq!(client.flow_state().await.unwrap().length, 1);

    let proxy = Proxy::start(&net, Box::new(|_| Mishap::Status(503)));
    let rpc = Rpc::new(&proxy.url, RpcOptions { attempts: 3, ..rpc_options() }).unwrap();
    let error = rpc.call::<_, U64>("eth_chainId", "", ()).await.unwrap_err();
    assert!(matches!(error, ChainError::Http { status: 503, .. }), "{error}");
    assert_eq!(proxy.times("eth_chainId"), 3);

    // An endpoint that takes the request and never answers.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let options = RpcOptions { timeout: Duration::from_millis(200), attempts: 2, ..rpc_options() };
    let started = Instant::now();
    let error = Rpc::new(&url, options).unwrap().call::<_, U64>("eth_chainId", "", ()).await.unwrap_err();
    assert!(matches!(error, ChainError::Timeout { .. }), "{error}");
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_are_submitted_for_their_exact_fee_and_read_back_in_pages() {
    let net = Net::start(&params()).await;
    let client = net.client().await;
    let txs = net.txs(1, policy());
    let trees: Vec<FileTree> = [1, 257, 5000, 300_000, 70_000].map(|bytes| file(bytes, bytes as u8)).into();
    let files: Vec<FileSubmission> = trees.iter().map(FileSubmission::of).collect();
    let first = submit_file(&client, &txs, &files[0]).await.unwrap();
    assert_eq!((first.seq, first.start, first.size, first.data_root), (0, 1, 1, trees[0].root()));
    let uploaded = submit_batch(&client, &txs, &files[1..4]).await.unwrap();
    let sectors: U256 = files[1..4].iter().map(FileSubmission::sectors).sum();
    assert_eq!(uploaded.fee, sectors * U256::from(1000));
    let last = submit_files(&client, &txs, &files[4..]).await.unwrap();
    assert_eq!(client.balance(net.contracts.flow).await.unwrap(), U256::ZERO, "nothing was overpaid");
    let records: Vec<_> = [vec![first], uploaded.transactions, last].concat();
    for (seq, (record, tree)) in (0..).zip(records.iter().zip(&trees)) {
        assert_eq!((record.seq, record.data_root), (seq, tree.root()));
        assert_eq!(record.sender, txs.address());
    }
    let state = client.flow_state().await.unwrap();
    assert_eq!((state.submissions, state.length), (5, records[4].start + records[4].sectors()));
    assert!(client.flow_root_after(4).await.unwrap().is_some());

    // In pages, through an endpoint that answers for three blocks at most.
    net.mine_blocks(20).await;
    let rule = |request: &Value| {
        let number =
            |field: &str| serde_json::from_value::<U64>(request["params"][0][field].clone()).unwrap().to::<u64>();
        let is_long = request["method"] == "eth_getLogs" && number("toBlock") - number("fromBlock") >= 3;
        if is_long { Mishap::Error("query exceeds max block range 3") } else { Mishap::Forward }
    };
    let proxy = Proxy::start(&net, Box::new(rule));
    let limited = ChainClient::connect(&net.options(&proxy.url)).await.unwrap();
    let end = limited.block_number().await.unwrap();
    let (mut next, mut page, mut read) = (net.contracts.start_block, PageSize::up_to(16), Vec::new());
    while next <= end {
        let got = limited.submissions(next, end, &mut page).await.unwrap();
        assert!(got.next_block > next && got.next_block <= next + 3, "{got:?}");
        read.extend(got.transactions);
        next = got.next_block;
    }
    assert_eq!(read, records);
}

/// The flow tree where all but sector 0 is zeros.
struct ZeroFlow;

impl FlowNodes for ZeroFlow {
    type Error = std::convert::Infallible;
    fn node(&self, height: u32, index: u64) -> Result<Option<H256>, Self::Error> {
        let first = || (0..height).fold(RESERVED_LEAF, |node, level| parent(&node, &zero_root(level)));
        Ok(Some(if index == 0 { first() } else { zero_root(height) }))
    }
}

/// An answer of the plain twin, in a flow of zeros.
fn answer(puzzle: &Puzzle, nonce: u64, seal: u32, seal_context: H256) -> Answer {
    let mut nonce_bytes = [0x5a; 32];
    nonce_bytes[24..].copy_from_slice(&nonce.to_be_bytes());
    let pad = plain::draw(&puzzle.miner_id.0, &nonce_bytes, &puzzle.subtask_digest.0, &puzzle.range.digest().0);
    let load = puzzle.range.recall(&pad.recall_seed).unwrap();
    let mut hit = Hit { generation: puzzle.generation, nonce: H256(nonce_bytes), load, seal, quality: H256::ZERO };
    let mut sealed = [0; 4096];
    plain::seal(&plain::first_mask(&puzzle.miner_id, &seal_context, hit.recall_position()), &mut sealed);
    hit.quality = H256(plain::quality(&pad, seal as usize, &sealed));
    assert!(hit.quality.0 <= puzzle.target().unwrap(), "with difficulty 1 nearly every ticket wins");
    let proof = siblings_at(&ZeroFlow, puzzle.flow_length, 4, hit.recall_position() / 16).unwrap();
    Answer::new(puzzle, &hit, seal_context, sealed, proof)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_accepted_paid_and_their_refusals_counted() {
    let net = Net::start(&params()).await;
    let client = net.client().await;
    let txs = net.txs(1, policy());
    let miner_id = ensure_miner_id(&client, &txs, None, txs.address()).await.unwrap();

    // Two pricing chunks of zeros; the first is full with them. Then the epoch that covers them.
    let chunk = submit_file(&client, &txs, &zero_submission(25).unwrap()).await.unwrap();
    assert_eq!(chunk.start, 1 << 25);
    net.mine_blocks(41).await;
    let miner = MinerConfig { miner_id, shard: Shard::WHOLE, start_position: 0 };
    let watcher = ContextWatcher::start(client.clone(), miner, WatchOptions { poll: TICK, ..WatchOptions::default() });
    let mut state = watcher.state();
    let puzzle = state.wait_for(|state| state.puzzle().is_some()).await.unwrap().puzzle().unwrap().clone();
    assert_eq!(puzzle.flow_length, 1 << 26);
    assert_eq!(root_at(&ZeroFlow, puzzle.flow_length).unwrap(), puzzle.flow_root);
    let seal_context = client.query_context_at_position(1 << 20).await.unwrap().unwrap();
    assert!(seal_context.covers_seal_at(1 << 20) && !seal_context.covers_seal_at(1 << 26));
    assert_eq!(client.epoch_range(seal_context.digest).await.unwrap(), None, "the epoch is due, and not made yet");
    assert_eq!(client.query_context_at_position(1 << 26).await.unwrap(), None);
    assert_eq!(client.epoch_range(H256([9; 32])).await.unwrap(), None);

    let submitter = Submitter::start(client.clone(), txs.clone(), state.clone(), SubmitOptions::default());
    let mut outcomes = submitter.outcomes();
    let good: Vec<Answer> = (0..4).map(|nonce| answer(&puzzle, nonce, 5, seal_context.digest)).collect();
    for answer in &good {
        submitter.submit(answer.clone()).await.unwrap();
    }
    // The same again; another context; bytes that do not belong to the flow; a context that seals nothing.
    submitter.submit(good[0].clone()).await.unwrap();
    submitter.submit(Answer { context_digest: H256([1; 32]), ..good[0].clone() }).await.unwrap();
    let mut tampered = answer(&puzzle, 10, 5, seal_context.digest);
    tampered.sealed_data[0] ^= 1;
    submitter.submit(tampered).await.unwrap();
    submitter.submit(answer(&puzzle, 11, 5, H256([9; 32]))).await.unwrap();
    let counters = submitter.finish().await;
    assert_eq!((counters.submitted, counters.open()), (8, 0));
    assert_eq!(
        (counters.accepted, counters.duplicate, counters.stale, counters.rejected),
        (4, 1, 1, 2),
        "{counters:?}"
    );
    assert_eq!((counters.reverted, counters.failed), (0, 0));
    assert_eq!(client.epoch_range(seal_context.digest).await.unwrap(), Some(seal_context));
    for reason in ["Inconsistent merkle root", "Invalid sealed context digest", "the mining context is over"] {
        assert_eq!(counters.reasons.get(reason), Some(&1), "{counters:?}");
    }

    let mut rewarded = U256::ZERO;
    while let Ok(submitted) = outcomes.try_recv() {
        if let SubmitOutcome::Accepted { reward, tx } = submitted.outcome {
            rewarded += reward;
            assert!(tx.gas_used > 100_000 && tx.gas_used < 3_000_000, "{tx:?}");
            println!("answer at {}: {} gas, {reward} wei", submitted.answer.recall_position, tx.gas_used);
        }
    }
    assert_eq!(rewarded, counters.reward);
    assert!(rewarded >= U256::from(4 * 7_000_000u64), "each has the base reward: {rewarded}");
    assert_eq!(client.payments(txs.address()).await.unwrap(), rewarded);
    let worth = client.chunk_reward(0).await.unwrap().worth(&client.reward_state().await.unwrap(), u64::MAX / 2);
    assert!(worth > U256::ZERO);

    // What was earned is paid out, by anybody, and only once.
    let other = net.txs(2, policy());
    let withdrawal = withdraw(&client, &other, txs.address()).await.unwrap().unwrap();
    assert_eq!(withdrawal.amount, rewarded);
    assert!(withdraw(&client, &other, txs.address()).await.unwrap().is_none());
    assert!(client.payments(txs.address()).await.unwrap().is_zero());

    // An endpoint whose pool is full for both attempts to hand an answer over: the whole is tried once more.
    let mut busy = 2;
    let rule = move |request: &Value| {
        let fails = request["method"] == "eth_sendRawTransaction" && busy > 0;
        busy -= usize::from(fails);
        if fails { Mishap::Error("mempool is full") } else { Mishap::Forward }
    };
    let proxy = Proxy::start(&net, Box::new(rule));
    let rpc = Rpc::new(&proxy.url, rpc_options()).unwrap();
    let flaky = TxManager::new(rpc, net.anvil.chain_id(), net.key(3), policy());
    let options = SubmitOptions { retry_after: TICK, ..SubmitOptions::default() };
    let submitter = Submitter::start(client.clone(), flaky, state.clone(), options);
    submitter.submit(answer(&puzzle, 12, 5, seal_context.digest)).await.unwrap();
    assert_eq!(submitter.finish().await.accepted, 1);
    assert_eq!((proxy.times("eth_sendRawTransaction"), net.count(3, "latest").await), (3, 1));

    // The epoch takes twice its target; then it is full, and the watcher says so.
    let submitter = Submitter::start(client.clone(), txs.clone(), state.clone(), SubmitOptions::default());
    for nonce in 20..27 {
        submitter.submit(answer(&puzzle, nonce, 6, seal_context.digest)).await.unwrap();
    }
    assert_eq!(submitter.finish().await.accepted, 7);
    net.mine_blocks(1).await;
    let idle = state.wait_for(|state| state.puzzle().is_none()).await.unwrap().clone();
    let full = IdleReason::EpochFull { epoch: 1, submissions: 12, limit: 12 };
    assert_eq!(idle, MiningState::Idle { reason: full });
    let submitter = Submitter::start(client.clone(), txs, state, SubmitOptions::default());
    submitter.submit(answer(&puzzle, 30, 6, seal_context.digest)).await.unwrap();
    let counters = submitter.finish().await;
    assert_eq!(counters.reasons.get("Epoch has enough submissions"), Some(&1), "{counters:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_watcher_follows_epochs_and_says_why_it_idles() {
    let net = Net::start(&params()).await;
    let client = net.client().await;
    let txs = net.txs(1, policy());
    let miner = |miner_id| MinerConfig { miner_id, shard: Shard::WHOLE, start_position: 0 };
    let task = async |miner_id| match client.mining_task(&miner(miner_id)).await.unwrap() {
        MiningTask::Idle(reason) => reason,
        MiningTask::Ready(puzzle) => panic!("{puzzle:?}"),
    };
    let nobody = H256([3; 32]);
    assert_eq!(task(nobody).await, IdleReason::NotRegistered { miner_id: nobody });
    let miner_id = request_miner_id(&client, &txs, txs.address(), 0).await.unwrap();
    assert_eq!(task(miner_id).await, IdleReason::EmptyContext { epoch: 0 });
    net.mine_blocks(41).await;
    assert!(matches!(task(miner_id).await, IdleReason::Range(_)));
    submit_file(&client, &txs, &zero_submission(12).unwrap()).await.unwrap();

    let options = WatchOptions { poll: TICK, ..WatchOptions::default() };
    let watcher = ContextWatcher::start(client.clone(), miner(miner_id), options);
    let mut state = watcher.state();
    let mut generations = Vec::new();
    let mut contexts = Vec::new();
    for round in 0..3u64 {
        // To the first block in which epoch 2 + round can be mined.
        let flow = client.flow_state().await.unwrap();
        let start = flow.epoch_block(2 + round);
        net.mine_blocks(start + 2 - client.block_number().await.unwrap()).await;
        let digest = client.context_preview().await.unwrap().digest;
        let ready = state
            .wait_for(|state| state.puzzle().is_some_and(|puzzle| puzzle.context_digest == digest))
            .await
            .unwrap()
            .clone();
        let puzzle = ready.puzzle().unwrap().clone();
        generations.push(puzzle.generation);
        contexts.push(puzzle.context_digest);
        // Behind the window there is nothing to mine until the next epoch.
        if round == 1 {
            net.mine_blocks(31).await;
            let idle = state.wait_for(|state| state.puzzle().is_none()).await.unwrap().clone();
            let reason =
                IdleReason::AfterWindow { epoch: 3, closed_with: start + 30, next_epoch_block: flow.epoch_block(4) };
            assert_eq!(idle, MiningState::Idle { reason });
        }
    }
    assert!(generations.windows(2).all(|pair| pair[0] < pair[1]), "{generations:?}");
    contexts.dedup();
    assert_eq!(contexts.len(), 3, "each epoch has its own context");
    // The same context in further blocks is the same puzzle.
    net.mine_blocks(1).await;
    tokio::time::sleep(TICK * 6).await;
    assert_eq!(state.borrow().puzzle().map(|puzzle| puzzle.generation), generations.last().copied());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn miner_ids_are_checked_before_they_are_used() {
    let net = Net::start(&params()).await;
    let client = net.client().await;
    let txs = net.txs(1, policy());
    let (ours, theirs) = (txs.address(), net.anvil.addresses()[2]);
    let miner_id = ensure_miner_id(&client, &txs, None, ours).await.unwrap();
    assert_eq!(client.beneficiary(miner_id).await.unwrap(), Some(ours));
    assert_eq!(ensure_miner_id(&client, &txs, Some(miner_id), ours).await.unwrap(), miner_id);
    let error = verify_miner_id(&client, miner_id, theirs).await.unwrap_err();
    assert!(matches!(error, MinerIdError::NotOurs { beneficiary, .. } if beneficiary == ours), "{error}");
    let unknown = H256(B256::repeat_byte(4).0);
    let error = verify_miner_id(&client, unknown, ours).await.unwrap_err();
    assert!(matches!(error, MinerIdError::NotRegistered { .. }), "{error}");
}
