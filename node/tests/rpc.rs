//! The JSON-RPC interface over real sockets: every method, every refusal, and the network's TypeScript SDK as a client.

#[path = "support/sample.rs"]
mod sample;

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use alloy::{
    node_bindings::Anvil,
    primitives::{Address, U256},
    providers::ProviderBuilder,
    signers::local::PrivateKeySigner,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use zgpu_core::{
    H256,
    digest::parent,
    file::SubmissionNode,
    flow::fold_siblings,
    shard::Shard,
    tree::{sector_hash, unbalanced_root, zero_root},
    units::{BYTES_PER_LOAD, SECTORS_PER_LOAD},
};
use zgpu_node::{
    chain::{
        anvil::find_anvil,
        client::{ChainClient, ChainOptions},
        contracts::{DeployParams, deploy},
        rpc::RpcOptions,
    },
    duties::sync::{LogSync, SyncOptions},
    rpc::{
        Connections, MinerCommand, NetworkIdentity, NodeStatus, ProtocolVersion, RpcConfig, RpcHandle, any_local_port,
        serve,
    },
    store::{Settings, Store},
};

use sample::{Sample, append};

const FLOW: &str = "0x62d4144db0f0a6fbbaeb6296c785c71b3d57c526";

/// Segment `index` of a file, as clients send it.
fn wire(sample: &Sample, index: u64) -> Value {
    let proof = sample.tree.proof(index).unwrap();
    json!({
        "root": sample.root(), "data": STANDARD.encode(sample.whole_sectors(index)), "index": index,
        "proof": {"lemma": proof.lemma, "path": proof.path}, "fileSize": sample.data.len(),
    })
}

fn identity(chain_id: u64, flow: &str) -> NetworkIdentity {
    let p2p_protocol_version = ProtocolVersion { major: 0, minor: 4, build: 0 };
    NetworkIdentity { chain_id, flow_address: flow.to_owned(), p2p_protocol_version }
}

/// A node's store and its interface.
struct Node {
    store: Store,
    rpc: RpcHandle,
    status: watch::Sender<NodeStatus>,
    commands: mpsc::Receiver<MinerCommand>,
    dir: TempDir,
}

fn open_store(dir: &Path) -> Store {
    let settings = Settings { reserve_bytes: 1 << 20, write_buffer_bytes: 16 << 20, ..Settings::default() };
    Store::open_with(dir, settings).unwrap()
}

impl Node {
    async fn start() -> Node {
        Node::start_with(|_| ()).await
    }

    async fn start_with(change: impl FnOnce(&mut RpcConfig)) -> Node {
        let dir = tempfile::tempdir().unwrap();
        let store = open_store(dir.path());
        let mut config = RpcConfig::new(any_local_port(), identity(16661, FLOW));
        change(&mut config);
        let (status, node) = watch::channel(NodeStatus::default());
        let (miner, commands) = mpsc::channel(1);
        let rpc = serve(config, Connections { store: store.clone(), status: node, miner: Some(miner), files: None })
            .await
            .unwrap();
        Node { store, rpc, status, commands, dir }
    }

    async fn call(&self, method: &str, params: Value) -> Result<Value, Value> {
        call(self.rpc.address(), method, params).await
    }

    /// The result of a call that must succeed.
    async fn ask(&self, method: &str, params: Value) -> Value {
        self.call(method, params).await.unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    async fn upload(&self, sample: &Sample) {
        for index in 0..sample.segments() {
            assert_eq!(self.ask("zgs_uploadSegment", json!([wire(sample, index)])).await, Value::Null);
        }
    }

    /// Waits for what the background task does.
    async fn until(&self, what: &str, is_so: impl Fn(&Store) -> bool) {
        let started = Instant::now();
        while !is_so(&self.store) {
            assert!(started.elapsed() < Duration::from_secs(60), "never: {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn until_finalised(&self, seq: u64) {
        self.until(&format!("{seq} is finalised"), |store| store.status(seq).unwrap().unwrap().finalised).await;
    }
}

/// One HTTP exchange: status, head and body of the answer.
async fn exchange(address: SocketAddr, head: String, body: Vec<u8>) -> (u16, String, String) {
    tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        // A server that refuses by the head alone may close before it has read the body.
        let _ = stream.write_all(&body);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head.to_lowercase(), body.to_owned())
    })
    .await
    .unwrap()
}

async fn post(address: SocketAddr, host: &str, body: String) -> (u16, String, String) {
    let head = format!(
        "POST / HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    exchange(address, head, body.into_bytes()).await
}

/// A JSON-RPC call: its result, or its error.
async fn call(address: SocketAddr, method: &str, params: Value) -> Result<Value, Value> {
    let request = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
    let (status, _, body) = post(address, "127.0.0.1", request.to_string()).await;
    assert_eq!(status, 200, "{body}");
    let mut answer: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&answer["jsonrpc"], &answer["id"]), (&json!("2.0"), &json!(1)));
    if answer.get("error").is_some() { Err(answer["error"].take()) } else { Ok(answer["result"].take()) }
}

fn wrong_param(name: &str, text: &str) -> Value {
    json!({"code": -32602, "message": format!("Invalid params: {name}"), "data": text})
}

fn failed(text: &str) -> Value {
    json!({"code": -32000, "message": text})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_have_the_networks_shapes() {
    let node = Node::start().await;
    let status = json!({
        "connectedPeers": 0, "logSyncHeight": 0, "logSyncBlock": H256::ZERO, "nextTxSeq": 0,
        "networkIdentity": {
            "chainId": 16661, "flowAddress": FLOW, "p2pProtocolVersion": {"major": 0, "minor": 4, "build": 0},
        },
    });
    assert_eq!(node.ask("zgs_getStatus", json!([])).await, status);
    assert_eq!(node.ask("zgs_getShardConfig", json!([])).await, json!({"shardId": 0, "numShard": 1}));
    node.status.send_replace(NodeStatus { connected_peers: 5, log_sync_height: 123, log_sync_block: H256([7; 32]) });
    let status = node.ask("zgs_getStatus", json!([])).await;
    assert_eq!(
        (&status["connectedPeers"], &status["logSyncHeight"], &status["logSyncBlock"]),
        (&json!(5), &json!(123), &json!(H256([7; 32])))
    );

    // The sheet's file of 1023 bytes at sector 4.
    let first = Sample::new(256, 1);
    first.append(&node.store);
    let sample = Sample::of((0..1023u32).map(|i| i as u8).collect());
    let seq = sample.append(&node.store);
    let root = "0xb63422c1d11eb5981af9b8ebfe35a55b18e7ce7d54528727417b845fd517634f";
    let mut info = json!({
        "tx": {
            "streamIds": [], "data": [], "dataMerkleRoot": root, "merkleNodes": [[3, root]], "startEntryIndex": 4,
            "size": 1023, "seq": 1,
        },
        "finalized": false, "isCached": false, "uploadedSegNum": 0, "pruned": false,
    });
    assert_eq!(node.ask("zgs_getFileInfo", json!([root, true])).await, info);
    assert_eq!(node.ask("zgs_getFileInfoByTxSeq", json!([seq])).await, info);
    for which in [json!(root), json!(seq)] {
        assert_eq!(node.ask("zgs_checkFileFinalized", json!([which])).await, json!(false));
    }
    assert_eq!(node.ask("zgs_downloadSegment", json!([root, 0, 4])).await, Value::Null, "nothing is stored");
    assert_eq!(node.ask("zgs_downloadSegmentWithProof", json!([root, 0])).await, Value::Null);

    node.upload(&sample).await;
    info["finalized"] = json!(true);
    info["uploadedSegNum"] = json!(1);
    assert_eq!(node.ask("zgs_getFileInfo", json!([root, false])).await, info);
    for which in [json!(root), json!(seq)] {
        assert_eq!(node.ask("zgs_checkFileFinalized", json!([which])).await, json!(true));
    }
    let segment = json!({
        "root": root, "data": STANDARD.encode(sample.whole_sectors(0)), "index": 0,
        "proof": {"lemma": [root], "path": []}, "fileSize": 1023,
    });
    assert_eq!(node.ask("zgs_downloadSegmentWithProof", json!([root, 0])).await, segment);
    assert_eq!(node.ask("zgs_downloadSegmentWithProofByTxSeq", json!([seq, 0])).await, segment);
    let sectors = |from: usize, to: usize| json!(STANDARD.encode(&sample.whole_sectors(0)[from * 256..to * 256]));
    assert_eq!(node.ask("zgs_downloadSegment", json!([root, 0, 4])).await, sectors(0, 4));
    assert_eq!(node.ask("zgs_downloadSegmentByTxSeq", json!([seq, 1, 3])).await, sectors(1, 3));

    // What is not there is null.
    let unknown = H256([9; 32]);
    for (method, params) in [
        ("zgs_getFileInfo", json!([unknown, true])),
        ("zgs_getFileInfoByTxSeq", json!([2])),
        ("zgs_checkFileFinalized", json!([2])),
        ("zgs_checkFileFinalized", json!([unknown])),
        ("zgs_downloadSegment", json!([unknown, 0, 1])),
        ("zgs_downloadSegmentByTxSeq", json!([2, 0, 1])),
        ("zgs_downloadSegmentWithProof", json!([unknown, 0])),
        ("zgs_downloadSegmentWithProofByTxSeq", json!([2, 0])),
        ("zgs_getDataByNodeIndex", json!([1])),
        ("zgs_getMetaDataByNodeIndex", json!([1])),
    ] {
        assert_eq!(node.ask(method, params).await, Value::Null, "{method}");
    }
    let end = |text| Err(wrong_param("end_index", text));
    let download = |from: u64, to: u64| node.call("zgs_downloadSegment", json!([root, from, to]));
    assert_eq!(download(1, 1).await, end("invalid chunk index"));
    assert_eq!(download(0, 1025).await, end("exceeds maximum chunks 1024"));
    assert_eq!(download(3, 5).await, end("invalid chunk index"));
    assert_eq!(node.call("zgs_downloadSegmentByTxSeq", json!([seq, 9, 3])).await, end("invalid chunk index"));
    assert_eq!(
        node.call("zgs_downloadSegmentWithProof", json!([root, 1])).await,
        Err(wrong_param("segment_index", "index out of bound"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_flow_is_told_and_proven() {
    let node = Node::start().await;
    let empty = node.ask("zgs_getFlowContext", json!([])).await;
    assert_eq!(empty, json!([H256::ZERO, 1]));
    assert_eq!(
        node.ask("zgs_getSectorProof", json!([0, null])).await,
        json!({"lemma": [H256::ZERO, H256::ZERO], "path": []})
    );

    let samples = [Sample::new(256, 1), Sample::new(1100 * 256, 2), Sample::new(20 * 256, 3)];
    let mut roots = Vec::new();
    for sample in &samples {
        let seq = sample.append(&node.store);
        let length = node.store.length_after(seq).unwrap().unwrap();
        roots.push((node.store.root_at(length).unwrap(), length));
    }
    for sample in &samples {
        node.upload(sample).await;
    }
    let context = node.ask("zgs_getFlowContext", json!([])).await;
    assert_eq!(context, json!([roots[2].0, roots[2].1]));

    // Sectors of files, of a gap, of padding, and the reserved one; under the roots of then and now.
    let start = node.store.transaction(1).unwrap().unwrap().start;
    let leaf = |sector: u64| match sector {
        0 => H256::ZERO,
        1 => sector_hash(&samples[0].data),
        sector if (start..start + 1100).contains(&sector) => {
            sector_hash(&samples[1].data[(sector - start) as usize * 256..][..256])
        }
        _ => zero_root(0),
    };
    for (root, length) in &roots {
        for sector in [0, 1, 2, 500, start, start + 1023, start + 1024, start + 1099, start + 1100] {
            let proof = node.call("zgs_getSectorProof", json!([sector, root])).await;
            if sector >= *length {
                let error = proof.unwrap_err();
                assert_eq!(
                    (&error["code"], &error["message"]),
                    (&json!(-32602), &json!("Invalid params: sector_index"))
                );
                continue;
            }
            let proof = proof.unwrap();
            let lemma: Vec<H256> = serde_json::from_value(proof["lemma"].clone()).unwrap();
            let path: Vec<bool> = serde_json::from_value(proof["path"].clone()).unwrap();
            assert_eq!(lemma.len(), path.len() + 2);
            assert_eq!((lemma[0], lemma[lemma.len() - 1]), (leaf(sector), *root), "sector {sector} of {length}");
            assert_eq!(fold_siblings(lemma[0], sector, &lemma[1..lemma.len() - 1]), *root);
            let position = path.iter().enumerate().map(|(step, is_left)| u64::from(!is_left) << step).sum::<u64>();
            assert_eq!(position, sector);
        }
    }
    let now = node.ask("zgs_getSectorProof", json!([1])).await;
    assert_eq!(now, node.ask("zgs_getSectorProof", json!([1, roots[2].0])).await);
    let error = node.call("zgs_getSectorProof", json!([1, H256([5; 32])])).await.unwrap_err();
    assert_eq!(error["message"], "Invalid params: flow_root");

    let load = start / SECTORS_PER_LOAD as u64;
    assert_eq!(
        node.ask("zgs_getHashAtNodeIndex", json!([load])).await,
        json!(samples[1].tree.segment_roots()[0]),
        "a load of an aligned file has the root of its segment"
    );
    let error = node.call("zgs_getHashAtNodeIndex", json!([1u64 << 40])).await.unwrap_err();
    assert_eq!(error["message"], "Invalid params: node_index");
    assert_eq!(node.ask("zgs_getDataByNodeIndex", json!([load])).await, json!([samples[1].whole_sectors(0)]));
    let first: Vec<Vec<u8>> = serde_json::from_value(node.ask("zgs_getDataByNodeIndex", json!([0])).await).unwrap();
    assert_eq!(first.len(), 1, "all but the reserved sector");
    assert_eq!((first[0].len(), &first[0][..256]), ((SECTORS_PER_LOAD - 1) * 256, &samples[0].data[..]));
    let text = node.ask("zgs_getMetaDataByNodeIndex", json!([0])).await;
    assert_eq!(text, json!("load 0: known sectors [1..1024], known seals 0xfffffffffffffffe"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn segments_that_are_wrong_are_refused_in_the_networks_words() {
    let node = Node::start().await;
    let sample = Sample::new(BYTES_PER_LOAD * 33 + 300, 4);
    assert_eq!((sample.segments(), sample.tree.shape().proof_segments()), (34, 36));
    let seq = sample.append(&node.store);
    let other = Sample::new(700, 5);
    let other_seq = other.append(&node.store);

    let change = |key: &str, value: Value| {
        let mut wire = wire(&sample, 2);
        wire[key] = value;
        wire
    };
    let lemma = |at: usize| {
        let mut wire = wire(&sample, 2);
        wire["proof"]["lemma"][at] = json!(H256([3; 32]));
        wire
    };
    let path = |path: &[bool], extra: usize| {
        let mut wire = wire(&sample, 2);
        let lemma: Vec<H256> = std::iter::repeat_n(sample.root(), path.len() + extra).collect();
        wire["proof"] = json!({"lemma": lemma, "path": path});
        wire
    };
    let mut padding = wire(&sample, 33);
    let steps = padding["proof"]["path"].as_array().unwrap().clone();
    // The last segment of data has all of the padding to its right.
    let sibling = steps.iter().position(|is_left| *is_left == json!(true)).unwrap();
    padding["proof"]["lemma"][1 + sibling] = json!(H256([3; 32]));
    let mut filled = wire(&sample, 33);
    let mut bytes = sample.whole_sectors(33);
    *bytes.last_mut().unwrap() = 1;
    filled["data"] = json!(STANDARD.encode(bytes));
    let mut other_data = sample.whole_sectors(2);
    other_data[7] ^= 1;
    let own_leaf = sample.tree.proof(2).unwrap().lemma[0];
    let other_leaf = zgpu_core::file::segment_root(sample.tree.shape(), 2, &other_data).unwrap();
    let ones = H256([3; 32]);

    let cases = [
        (change("data", json!("")), failed("data is empty")),
        (change("data", json!(STANDARD.encode([0; 255]))), failed("invalid data length")),
        (change("data", json!(STANDARD.encode([0; 256]))), wrong_param("data", "invalid data length")),
        (change("index", json!(34)), wrong_param("index", "index out of bound")),
        (change("index", json!(u64::MAX)), wrong_param("index", "index out of bound")),
        (change("fileSize", json!(5)), wrong_param("file_size", "segment file size not matched with tx file size")),
        (
            change("data", json!(STANDARD.encode(&other_data))),
            failed(&format!("data hash mismatch: proof_leaf={own_leaf} provided={other_leaf}")),
        ),
        (change("index", json!(3)), failed("wrong position: proof_pos=2 provided=3")),
        (change("proof", json!({"lemma": [], "path": []})), wrong_param("proof", "invalid proof")),
        (path(&[true, true], 1), wrong_param("proof", "invalid proof")),
        (path(&[true; 20], 2), failed("Proof path too long for 36 segments")),
        (path(&[true], 2), failed("Proof path too short for 36 segments")),
        (lemma(1), wrong_param("proof", "validation failed")),
        (
            lemma(sample.tree.proof(2).unwrap().lemma.len() - 1),
            failed(&format!("root mismatch: proof_root={ones} provided={}", sample.root())),
        ),
        (padding, wrong_param("proof", "validation failed")),
    ];
    for (wire, error) in cases {
        assert_eq!(node.call("zgs_uploadSegmentByTxSeq", json!([wire, seq])).await, Err(error.clone()));
        assert_eq!(node.call("zgs_uploadSegmentsByTxSeq", json!([[wire], seq])).await, Err(error.clone()));
        assert_eq!(node.call("zgs_uploadSegment", json!([wire])).await, Err(error.clone()));
        assert_eq!(node.call("zgs_uploadSegments", json!([[wire]])).await, Err(error));
    }
    let error = node.call("zgs_uploadSegment", json!([filled])).await.unwrap_err();
    assert!(error["message"].as_str().unwrap().starts_with("data hash mismatch"), "{error}");
    assert_eq!(
        node.call("zgs_uploadSegmentByTxSeq", json!([wire(&sample, 2), other_seq])).await,
        Err(json!({"code": -32603, "message": "Internal error", "data": "data root and tx seq not match"}))
    );
    for wire in [change("data", json!("?")), change("proof", json!(1)), change("root", json!("0x12")), json!(3)] {
        let error = node.call("zgs_uploadSegment", json!([wire])).await.unwrap_err();
        assert_eq!(error["code"], -32602, "{error}");
    }
    assert_eq!(node.store.status(seq).unwrap().unwrap().stored, 0, "nothing of it was kept");

    // A segment is taken once; lists by transaction skip what is there, others stop at it.
    let twice = failed("segment has already been uploaded or is being uploaded");
    assert_eq!(node.ask("zgs_uploadSegments", json!([[]])).await, Value::Null);
    assert_eq!(node.ask("zgs_uploadSegmentByTxSeq", json!([wire(&sample, 2), seq])).await, Value::Null);
    assert_eq!(node.call("zgs_uploadSegment", json!([wire(&sample, 2)])).await, Err(twice.clone()));
    assert_eq!(node.call("zgs_uploadSegmentByTxSeq", json!([wire(&sample, 2), seq])).await, Err(twice.clone()));
    let list = [wire(&sample, 0), wire(&sample, 2), wire(&sample, 33)];
    assert_eq!(node.call("zgs_uploadSegments", json!([list])).await, Err(twice));
    assert_eq!(node.ask("zgs_uploadSegmentsByTxSeq", json!([list, seq])).await, Value::Null);
    let info = node.ask("zgs_getFileInfoByTxSeq", json!([seq])).await;
    assert_eq!((&info["uploadedSegNum"], &info["finalized"]), (&json!(3), &json!(false)));

    // A part can be had before the whole is there.
    let part = node.ask("zgs_downloadSegmentWithProof", json!([sample.root(), 33])).await;
    assert_eq!(part, wire(&sample, 33));
    assert_eq!(node.ask("zgs_downloadSegment", json!([sample.root(), 1024, 2048])).await, Value::Null);

    node.upload(&other).await;
    let finalised = wrong_param("root", "already uploaded and finalized");
    assert_eq!(node.call("zgs_uploadSegment", json!([wire(&other, 0)])).await, Err(finalised.clone()));
    assert_eq!(node.call("zgs_uploadSegmentsByTxSeq", json!([[wire(&other, 0)], other_seq])).await, Err(finalised));
}

/// The chain takes any roots: a file whose padding is not zeros can be submitted, and never be uploaded.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn padding_that_is_not_zeros_is_refused() {
    let node = Node::start().await;
    let sample = Sample::new(BYTES_PER_LOAD * 33 + 300, 4);
    let mut leaves = sample.tree.segment_roots().to_vec();
    assert_eq!((sample.segments(), leaves.len()), (34, 36));
    leaves[35] = H256([3; 32]);
    let [head, tail] = [&leaves[..32], &leaves[32..]].map(|part| unbalanced_root(part).unwrap());
    let nodes = [head, tail].into_iter().zip(sample.tree.shape().node_heights());
    let nodes: Vec<_> = nodes.map(|(root, height)| SubmissionNode { root, height }).collect();
    let seq = append(&node.store, sample.data.len() as u64, nodes);
    let root = parent(&head, &tail);

    let mut wire = wire(&sample, 33);
    wire["root"] = json!(root);
    let lemma = [leaves[33], leaves[32], parent(&leaves[34], &leaves[35]), head, root];
    wire["proof"] = json!({"lemma": lemma, "path": [false, true, false]});
    let padding = wrong_param("proof", "invalid proof node value in the padding range");
    assert_eq!(node.call("zgs_uploadSegmentByTxSeq", json!([wire, seq])).await, Err(padding));
    assert_eq!(node.store.status(seq).unwrap().unwrap().stored, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_of_all_sizes_come_back_as_they_went() {
    let node = Node::start().await;
    let sizes = [1, 255, 256, 257, 262_143, 262_144, 262_145, 3 << 20, (5 << 20) + 77];
    for (seed, size) in sizes.into_iter().enumerate() {
        let sample = Sample::new(size, 100 + seed as u64);
        let seq = sample.append(&node.store);
        // Backwards, all at once.
        let uploads = (0..sample.segments()).rev().map(|index| {
            let (address, wire) = (node.rpc.address(), wire(&sample, index));
            tokio::spawn(async move { call(address, "zgs_uploadSegmentByTxSeq", json!([wire, seq])).await.unwrap() })
        });
        for upload in uploads.collect::<Vec<_>>() {
            upload.await.unwrap();
        }
        assert!(node.store.status(seq).unwrap().unwrap().finalised, "with the answer to its last segment");
        let mut read = Vec::new();
        let sectors = sample.tree.shape().sectors();
        for start in (0..sectors).step_by(SECTORS_PER_LOAD) {
            let end = sectors.min(start + SECTORS_PER_LOAD as u64);
            let data = node.ask("zgs_downloadSegmentByTxSeq", json!([seq, start, end])).await;
            read.extend(STANDARD.decode(data.as_str().unwrap()).unwrap());
            let index = start / SECTORS_PER_LOAD as u64;
            assert_eq!(
                node.ask("zgs_downloadSegmentWithProof", json!([sample.root(), index])).await,
                wire(&sample, index)
            );
        }
        assert!(read[size..].iter().all(|byte| *byte == 0));
        read.truncate(size);
        assert!(read == sample.data, "{size}");
        if sectors > 1024 {
            let across = node.ask("zgs_downloadSegmentByTxSeq", json!([seq, 1000, 1025])).await;
            let across = STANDARD.decode(across.as_str().unwrap()).unwrap();
            let (from, to) = (1000 * 256, sample.data.len().min(1025 * 256));
            assert!(across[..to - from] == sample.data[from..to]);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn segments_may_come_before_their_transaction() {
    let node = Node::start_with(|config| config.pool.max_pending_sectors = 2500).await;
    let sample = Sample::new(1025 * 256, 6);
    let root = sample.root();
    assert_eq!(node.ask("zgs_uploadSegmentByTxSeq", json!([wire(&sample, 0), 0])).await, Value::Null);
    assert_eq!(node.ask("zgs_uploadSegment", json!([wire(&sample, 0)])).await, Value::Null, "again is fine");
    assert_eq!(node.ask("zgs_getFileInfo", json!([root, true])).await, Value::Null);

    // Verified against its own root, bounded, and of one size.
    let mut wrong = wire(&sample, 1);
    wrong["index"] = json!(0);
    wrong["data"] = wire(&sample, 0)["data"].clone();
    let error = node.call("zgs_uploadSegment", json!([wrong])).await.unwrap_err();
    assert_eq!(error, failed("wrong position: proof_pos=1 provided=0"));
    let mut large = wire(&sample, 0);
    large["fileSize"] = json!((10 << 20) + 1);
    let text = "caching of large file when tx is unavailable is not supported";
    assert_eq!(node.call("zgs_uploadSegment", json!([large])).await, Err(wrong_param("file_size", text)));
    let mut empty = wire(&sample, 0);
    empty["fileSize"] = json!(0);
    assert_eq!(node.call("zgs_uploadSegment", json!([empty])).await, Err(wrong_param("file_size", "file is empty")));
    let zeros = [Sample::of(vec![0; 300 * 1024]), Sample::of(vec![0; 300 * 1024 - 255])];
    assert_eq!(zeros[0].root(), zeros[1].root());
    assert_eq!(node.ask("zgs_uploadSegment", json!([wire(&zeros[0], 0)])).await, Value::Null);
    let text = "file size in segment doesn't match with file size declared in previous segment. \
                Previous total segments:2, current total segments:2";
    assert_eq!(node.call("zgs_uploadSegment", json!([wire(&zeros[1], 0)])).await, Err(failed(text)));
    let third = Sample::new(1000 * 256, 7);
    let text = "exceeds the maximum cached chunks of whole pool: 2500";
    assert_eq!(node.call("zgs_uploadSegment", json!([wire(&third, 0)])).await, Err(failed(text)));

    // The transaction comes: the segment is written, the file goes on as any other.
    let seq = sample.append(&node.store);
    node.until("the pending segment is written", |store| store.has_segment(seq, 0).unwrap()).await;
    let started = Instant::now();
    loop {
        let info = node.ask("zgs_getFileInfo", json!([root, true])).await;
        if info["isCached"] == json!(false) {
            assert_eq!((&info["uploadedSegNum"], &info["finalized"]), (&json!(1), &json!(false)));
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(60));
    }
    assert_eq!(node.ask("zgs_uploadSegment", json!([wire(&sample, 1)])).await, Value::Null);
    assert_eq!(node.ask("zgs_checkFileFinalized", json!([seq])).await, json!(true));
    // There is room again.
    assert_eq!(node.ask("zgs_uploadSegment", json!([wire(&third, 0)])).await, Value::Null);
    let third_seq = third.append(&node.store);
    node.until_finalised(third_seq).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pending_segments_expire() {
    let node = Node::start_with(|config| config.pool.pending_for = Duration::ZERO).await;
    let sample = Sample::new(300, 8);
    node.upload(&sample).await;
    let gone = |store: &Store| {
        let mut count = 0;
        store.each_pending(|_, _, _| count += 1).unwrap();
        count == 0
    };
    node.until("the segment expires", gone).await;
    let seq = sample.append(&node.store);
    assert!(!node.store.status(seq).unwrap().unwrap().finalised);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_of_one_file_share_its_data() {
    let node = Node::start().await;
    for (seed, size) in [2, 256, 256 * 1023 + 1, BYTES_PER_LOAD * 5 + 1000].into_iter().enumerate() {
        let sample = Sample::new(size, 200 + seed as u64);
        // Two before the upload, of which one gets it, and two after.
        let mut seqs = vec![sample.append(&node.store), sample.append(&node.store)];
        node.upload(&sample).await;
        seqs.extend([sample.append(&node.store), sample.append(&node.store)]);
        for seq in &seqs {
            node.until_finalised(*seq).await;
            for index in 0..sample.segments() {
                let segment = node.ask("zgs_downloadSegmentWithProofByTxSeq", json!([seq, index])).await;
                assert_eq!(segment, wire(&sample, index), "{size} bytes, transaction {seq}, segment {index}");
            }
            // All of its sectors can be mined, the padding too.
            let transaction = node.store.transaction(*seq).unwrap().unwrap();
            let length = node.store.flow_length();
            for sector in [transaction.start, transaction.end() - 1] {
                let proof = node.store.sector_proof(length, sector).unwrap();
                let root = fold_siblings(proof.leaf, sector, &proof.siblings);
                assert_eq!(root, node.store.root_at(length).unwrap());
            }
        }
        let info = node.ask("zgs_getFileInfo", json!([sample.root(), true])).await;
        assert_eq!(info["tx"]["seq"], json!(seqs[0]), "the first finalised one speaks for the root");
    }

    // Files that differ only in how many zeros they end with have one root, and share their data too.
    let mut data = Sample::new(3 * BYTES_PER_LOAD, 210).data;
    data[3 * BYTES_PER_LOAD - 5000..].fill(0);
    let long = Sample::of(data.clone());
    data.truncate(3 * BYTES_PER_LOAD - 700);
    let short = Sample::of(data);
    assert_eq!(long.root(), short.root());
    let seqs = [long.append(&node.store), short.append(&node.store)];
    for index in 0..3 {
        let upload = json!([wire(&short, index), seqs[1]]);
        assert_eq!(node.ask("zgs_uploadSegmentByTxSeq", upload).await, Value::Null);
    }
    for (seq, sample) in seqs.into_iter().zip([&long, &short]) {
        node.until_finalised(seq).await;
        for index in 0..3 {
            let segment = node.ask("zgs_downloadSegmentWithProofByTxSeq", json!([seq, index])).await;
            assert_eq!(segment, wire(sample, index));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reverted_file_needs_only_what_was_missing() {
    let node = Node::start().await;
    let sample = Sample::new(BYTES_PER_LOAD * 2, 9);
    let seq = sample.append(&node.store);
    assert_eq!(node.ask("zgs_uploadSegment", json!([wire(&sample, 0)])).await, Value::Null);
    let before = node.store.root_at(node.store.flow_length()).unwrap();
    node.store.truncate(seq).unwrap();
    assert_eq!(node.ask("zgs_getFileInfoByTxSeq", json!([seq])).await, Value::Null);
    assert!(
        node.call("zgs_getSectorProof", json!([1, before])).await.is_err(),
        "the root is no longer one of the flow"
    );
    let other = Sample::new(BYTES_PER_LOAD, 10);
    assert_eq!(other.append(&node.store), seq);
    let again = sample.append(&node.store);
    // What was uploaded before came back with the file; what was counted before the revert does not count.
    let info = node.ask("zgs_getFileInfoByTxSeq", json!([again])).await;
    assert_eq!((&info["uploadedSegNum"], &info["finalized"]), (&json!(1), &json!(false)));
    assert_eq!(node.ask("zgs_uploadSegment", json!([wire(&sample, 1)])).await, Value::Null);
    node.upload(&other).await;
    for seq in [seq, again] {
        assert!(node.store.status(seq).unwrap().unwrap().finalised);
    }
}

/// A segment that the node does not keep is acknowledged, and is not there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_takes_every_segment_and_has_its_own() {
    let mut ids = Vec::new();
    for id in 0..4 {
        let node = Node::start().await;
        let shard = Shard::new(id, 4).unwrap();
        node.store.set_shard(shard).unwrap();
        let config = node.ask("zgs_getShardConfig", json!([])).await;
        assert_eq!(config, json!({"shardId": id, "numShard": 4}));
        let sample = Sample::new(8 * BYTES_PER_LOAD + 700, 1);
        let seq = sample.append(&node.store);
        let first = node.store.transaction(seq).unwrap().unwrap().start / SECTORS_PER_LOAD as u64;
        let kept: Vec<u64> = (0..9).filter(|index| shard.contains(first + index)).collect();
        for index in (0..9).rev() {
            let info = node.ask("zgs_getFileInfoByTxSeq", json!([seq])).await;
            let stored = kept.iter().filter(|kept| **kept > index).count();
            let is_complete = stored == kept.len();
            assert_eq!(info["finalized"], json!(is_complete));
            assert_eq!(info["uploadedSegNum"], if is_complete { json!(9) } else { json!(stored) });
            let upload = node.call("zgs_uploadSegmentByTxSeq", json!([wire(&sample, index), seq])).await;
            match is_complete {
                false => assert_eq!(upload, Ok(Value::Null)),
                true => assert_eq!(upload, Err(wrong_param("root", "already uploaded and finalized"))),
            }
        }
        assert_eq!(node.ask("zgs_checkFileFinalized", json!([seq])).await, json!(true));
        for index in 0..9u64 {
            let range = (index * 1024, (index * 1024 + 1024).min(sample.tree.shape().sectors()));
            let data = node.ask("zgs_downloadSegmentByTxSeq", json!([seq, range.0, range.1])).await;
            let proven = node.ask("zgs_downloadSegmentWithProof", json!([sample.root(), index])).await;
            if kept.contains(&index) {
                assert_eq!((data, proven), (json!(STANDARD.encode(sample.whole_sectors(index))), wire(&sample, index)));
            } else {
                assert_eq!((data, proven), (Value::Null, Value::Null));
            }
        }
        ids.extend(kept);

        // The same small file again and again: each transaction that wants the data gets it, by root.
        let small = Sample::new(500, 2);
        let seqs: Vec<u64> = (0..8)
            .map(|_| {
                // Two loads of zeros each time: the starts leave every rest.
                let zeros = SubmissionNode { root: zero_root(10), height: 10 };
                (0..2).for_each(|_| _ = append(&node.store, BYTES_PER_LOAD as u64, vec![zeros]));
                small.append(&node.store)
            })
            .collect();
        let wants = |seq: &u64| shard.contains(node.store.transaction(*seq).unwrap().unwrap().start / 1024);
        assert_eq!(seqs.iter().filter(|seq| wants(seq)).count(), 2);
        assert_eq!(node.ask("zgs_uploadSegment", json!([wire(&small, 0)])).await, Value::Null);
        for seq in seqs {
            node.until_finalised(seq).await;
            let data = node.ask("zgs_downloadSegmentByTxSeq", json!([seq, 0, 2])).await;
            assert_eq!(data, if wants(&seq) { json!(STANDARD.encode(small.whole_sectors(0))) } else { Value::Null });
        }
    }
    ids.sort_unstable();
    assert_eq!(ids, (0..9).collect::<Vec<u64>>(), "each segment is in one of the four");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pruned_files_are_told_and_take_no_data() {
    let node = Node::start().await;
    let (old, waiting, new) = (Sample::new(5000, 1), Sample::new(6000, 2), Sample::new(7000, 3));
    let seqs = [old.append(&node.store), waiting.append(&node.store)];
    node.upload(&old).await;
    append(&node.store, BYTES_PER_LOAD as u64, vec![SubmissionNode { root: zero_root(10), height: 10 }]);
    let new_seq = new.append(&node.store);
    let start = node.store.transaction(new_seq).unwrap().unwrap().start / 1024 * 1024;
    while node.store.prune_below(start, 10).unwrap() > 0 {}
    for (seq, sample) in seqs.into_iter().zip([&old, &waiting]) {
        let info = node.ask("zgs_getFileInfoByTxSeq", json!([seq])).await;
        let told = [&info["finalized"], &info["pruned"], &info["isCached"], &info["uploadedSegNum"]];
        assert_eq!(told, [&json!(false), &json!(true), &json!(false), &json!(1)]);
        // By root, it is told to who does not need its data.
        assert_eq!(node.ask("zgs_getFileInfo", json!([sample.root(), false])).await, info);
        assert_eq!(node.ask("zgs_getFileInfo", json!([sample.root(), true])).await, Value::Null);
        assert_eq!(node.ask("zgs_checkFileFinalized", json!([seq])).await, json!(false));
        let pruned = Err(wrong_param("root", "already pruned"));
        assert_eq!(node.call("zgs_uploadSegmentByTxSeq", json!([wire(sample, 0), seq])).await, pruned);
        assert_eq!(node.call("zgs_uploadSegment", json!([wire(sample, 0)])).await, pruned);
        assert_eq!(node.ask("zgs_downloadSegment", json!([sample.root(), 0, 1])).await, Value::Null);
        assert_eq!(node.ask("zgs_downloadSegmentByTxSeq", json!([seq, 0, 1])).await, Value::Null);
        assert_eq!(node.ask("zgs_downloadSegmentWithProofByTxSeq", json!([seq, 0])).await, Value::Null);
    }
    node.upload(&new).await;
    assert_eq!(node.ask("zgs_checkFileFinalized", json!([new_seq])).await, json!(true));
    // Submitted anew, an old file is a new one: its root speaks for that.
    let again = old.append(&node.store);
    let info = node.ask("zgs_getFileInfo", json!([old.root(), true])).await;
    assert_eq!((&info["tx"]["seq"], &info["pruned"]), (&json!(again), &json!(false)));
    node.upload(&old).await;
    node.until_finalised(again).await;
    assert_eq!(node.ask("zgs_getFileInfo", json!([old.root(), false])).await["tx"]["seq"], json!(again));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_operator_has_an_address_of_its_own() {
    let mut node = Node::start_with(|config| config.listen_admin = Some(any_local_port())).await;
    // Both have port 0 here, which is one address.
    assert_eq!(node.rpc.admin_address(), Some(node.rpc.address()));
    node = Node::start_with(|config| {
        config.listen_admin = Some("127.0.0.1:0".parse().unwrap());
        config.listen = "0.0.0.0:0".parse().unwrap();
    })
    .await;
    let admin = node.rpc.admin_address().unwrap();
    let public = SocketAddr::new(admin.ip(), node.rpc.address().port());
    assert_ne!(admin.port(), public.port());
    let unknown = json!({"code": -32601, "message": "Method not found"});
    assert_eq!(call(public, "admin_shutdown", json!([])).await, Err(unknown.clone()));
    assert_eq!(call(public, "miner_stop", json!([])).await, Err(unknown.clone()));
    assert_eq!(call(admin, "zgs_getStatus", json!([])).await, Err(unknown));

    let seq = Sample::new(300, 11).append(&node.store);
    let ask = async |method, params| call(admin, method, params).await;
    assert_eq!(ask("admin_getSyncStatus", json!([seq])).await, Ok(json!("unknown")));
    assert_eq!(ask("admin_getSyncInfo", json!([null])).await, Ok(json!({})));
    assert_eq!(ask("admin_getSyncInfo", json!([seq])).await, Ok(json!({})));
    let idle = json!({"numSyncing": 0, "catchedUp": null, "autoSyncSerial": null, "autoSyncRandom": null});
    assert_eq!(ask("admin_getSyncServiceState", json!([])).await, Ok(idle));
    assert_eq!(ask("admin_terminateSync", json!([seq])).await, Ok(json!(false)));
    assert_eq!(ask("admin_startSyncFile", json!([seq])).await, Err(failed("Disabled to sync file")));
    assert_eq!(ask("admin_startSyncChunks", json!([seq, 0, 1])).await, Err(failed("Disabled to sync file")));
    assert_eq!(ask("admin_startSyncFile", json!([seq + 1])).await, Err(failed("Transaction not found")));
    assert_eq!(ask("admin_getPeers", json!([])).await, Ok(json!({})));
    assert_eq!(ask("admin_getFileLocation", json!([seq, false])).await, Ok(json!([])));
    assert_eq!(ask("admin_getFileLocation", json!([seq, true])).await, Ok(Value::Null));
    assert_eq!(ask("admin_getFileLocation", json!([seq + 1, true])).await, Err(failed("tx not found")));
    let no = Err(json!({"code": -32601, "message": "Not supported"}));
    assert_eq!(ask("admin_getNetworkInfo", json!([])).await, no);
    assert_eq!(ask("admin_findFile", json!([seq])).await, no);
    let metrics = ask("admin_getMetrics", json!([null])).await.unwrap();
    assert_eq!(metrics["rpc.segments_taken"], "counter 0");
    let some = ask("admin_getMetrics", json!(["rpc.files"])).await.unwrap();
    assert_eq!(some, json!({"rpc.files_copied": "counter 0", "rpc.files_finalised": "counter 0"}));

    // The miner gets each command, or the caller is told that it did not.
    assert_eq!(ask("miner_stop", json!([])).await, Ok(json!(true)));
    assert_eq!(ask("miner_start", json!([])).await, Ok(json!(false)), "the first one waits still");
    assert_eq!(node.commands.recv().await, Some(MinerCommand::Stop));
    assert_eq!(ask("miner_start", json!([])).await, Ok(json!(true)));
    assert_eq!(node.commands.recv().await, Some(MinerCommand::Start));
    assert_eq!(ask("miner_setStartPosition", json!([4096])).await, Ok(json!(true)));
    assert_eq!(node.commands.recv().await, Some(MinerCommand::SetStartPosition(4096)));

    // A web page reaches the public methods, and not the operator's.
    let request = json!({"jsonrpc": "2.0", "id": 1, "method": "admin_shutdown", "params": []}).to_string();
    let (status, _, _) = post(admin, "evil.example", request.clone()).await;
    assert_eq!(status, 403);
    let preflight = "OPTIONS / HTTP/1.1\r\nhost: localhost\r\norigin: http://a.example\r\n\
                     access-control-request-method: POST\r\naccess-control-request-headers: content-type\r\n\
                     connection: close\r\n\r\n";
    let (_, head, _) = exchange(admin, preflight.into(), Vec::new()).await;
    assert!(!head.contains("access-control-allow"), "{head}");
    let (status, head, _) = exchange(public, preflight.into(), Vec::new()).await;
    assert_eq!(status, 200);
    for header in
        ["access-control-allow-origin: *", "access-control-allow-methods: *", "access-control-allow-headers: *"]
    {
        assert!(head.contains(header), "{head}");
    }

    assert_eq!(ask("admin_shutdown", json!([])).await, Ok(Value::Null));
    tokio::time::timeout(Duration::from_secs(10), node.rpc.shutdown_requested()).await.unwrap();
    node.rpc.stop().await;
    assert!(TcpStream::connect(admin).is_err() && TcpStream::connect(public).is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_cannot_ask_for_too_much() {
    let node = Node::start_with(|config| {
        config.max_request_bytes = 1 << 20;
        config.max_request_bytes_together = 2 << 20;
        config.max_batch = 3;
        config.request_timeout = Duration::from_millis(1500);
    })
    .await;
    let address = node.rpc.address();
    let one = json!({"jsonrpc": "2.0", "id": 1, "method": "zgs_getShardConfig"});
    let (_, _, body) = post(address, "a.example", json!([one, one, one]).to_string()).await;
    let answers: Vec<Value> = serde_json::from_str(&body).unwrap();
    assert_eq!(answers.len(), 3);
    assert!(answers.iter().all(|answer| answer["result"]["numShard"] == 1), "{body}");
    let (_, _, body) = post(address, "a.example", json!([one, one, one, one]).to_string()).await;
    assert!(body.contains("-32010") && body.contains("batch"), "{body}");
    let (status, _, _) = post(address, "a.example", "x".repeat(2 << 20)).await;
    assert_eq!(status, 413);
    let (_, _, body) = post(address, "a.example", "{".into()).await;
    assert!(body.contains("-32700"), "{body}");

    // Two clients that say much and send nothing take all of the budget, until their time is up.
    let head = format!(
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        1 << 20
    );
    let stalled: Vec<_> = (0..2).map(|_| tokio::spawn(exchange(address, head.clone(), Vec::new()))).collect();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let started = Instant::now();
    assert_eq!(node.ask("zgs_getShardConfig", json!([])).await["numShard"], 1);
    assert!(started.elapsed() > Duration::from_millis(300), "there was no room before the stalled ones ended");
    for stalled in stalled {
        assert_eq!(stalled.await.unwrap().0, 408);
    }
}

/// Content of file number `seed` as the child of the kill test uploads it.
fn kill_sample(seed: u64) -> Sample {
    Sample::new(1 + (seed as usize * 77_777) % (3 * BYTES_PER_LOAD), 1000 + seed)
}

const KILL_DIR: &str = "ZGPU_TEST_RPC_DIR";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the child of what_was_acknowledged_survives_a_kill"]
async fn upload_until_killed() {
    let store = open_store(Path::new(&std::env::var(KILL_DIR).unwrap()));
    let (_status, node) = watch::channel(NodeStatus::default());
    let config = RpcConfig::new(any_local_port(), identity(1, FLOW));
    let rpc =
        serve(config, Connections { store: store.clone(), status: node, miner: None, files: None }).await.unwrap();
    for seed in 0.. {
        // Even ones are pending: their transaction never comes in this life.
        let sample = kill_sample(seed);
        if seed % 2 == 1 {
            sample.append(&store);
        }
        for index in 0..sample.segments() {
            call(rpc.address(), "zgs_uploadSegment", json!([wire(&sample, index)])).await.unwrap();
            println!("acknowledged {seed} {index}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["upload_until_killed", "--exact", "--ignored", "--nocapture"])
        .env(KILL_DIR, dir.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(child.stdout.take().unwrap()));
    let mut acknowledged = Vec::new();
    while acknowledged.len() < 25 {
        let line = lines.next_line().await.unwrap().expect("the child runs until it is killed");
        if let Some((seed, index)) = line.split_once("acknowledged ").and_then(|(_, rest)| rest.split_once(' ')) {
            acknowledged.push((seed.parse::<u64>().unwrap(), index.parse::<u64>().unwrap()));
        }
    }
    child.kill().await.unwrap();

    let store = open_store(dir.path());
    let (_status, node) = watch::channel(NodeStatus::default());
    let config = RpcConfig::new(any_local_port(), identity(1, FLOW));
    let rpc =
        serve(config, Connections { store: store.clone(), status: node, miner: None, files: None }).await.unwrap();
    let node = Node { store, rpc, status: watch::Sender::default(), commands: mpsc::channel(1).1, dir };
    let last = acknowledged.last().unwrap().0;
    for seed in 0..=last {
        let sample = kill_sample(seed);
        let stored: Vec<u64> = acknowledged.iter().filter(|(of, _)| *of == seed).map(|(_, segment)| *segment).collect();
        let seq = match node.store.transactions_by_root(&sample.root()).unwrap().first() {
            Some(seq) => *seq,
            None => sample.append(&node.store),
        };
        for index in &stored {
            node.until(&format!("segment {index} of file {seed}"), |store| store.has_segment(seq, *index).unwrap())
                .await;
            assert_eq!(
                node.ask("zgs_downloadSegmentWithProofByTxSeq", json!([seq, index])).await,
                wire(&sample, *index)
            );
        }
        if stored.len() as u64 == sample.segments() {
            node.until_finalised(seq).await;
        }
    }
    assert!(node.dir.path().exists());
}

/// The SDK's folder, with what scripts/setup installs in it.
fn sdk_folder() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sdk");
    assert!(
        folder.join("node_modules/@0gfoundation/0g-ts-sdk/package.json").is_file(),
        "the TypeScript SDK is not installed in {}; run scripts/setup --test in the source tree",
        folder.display()
    );
    folder
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_typescript_sdk_uploads_and_downloads() {
    let folder = sdk_folder();
    let anvil = Anvil::at(find_anvil().unwrap()).host("127.0.0.1").timeout(60_000).try_spawn().unwrap();
    let provider = ProviderBuilder::new().disable_recommended_fillers().connect_http(anvil.endpoint_url());
    let params = DeployParams { price_per_sector: U256::from(1000), ..DeployParams::default() };
    let contracts = deploy(&provider, anvil.addresses()[0], &params).await.unwrap();
    let rpc = RpcOptions { timeout: Duration::from_secs(20), ..RpcOptions::default() };
    let options =
        ChainOptions { urls: vec![anvil.endpoint()], chain_id: None, flow: contracts.flow, mine: contracts.mine, rpc };
    let chain = ChainClient::connect(&options).await.unwrap();

    let dir = tempfile::tempdir().unwrap();
    let store = open_store(dir.path());
    let (status, node) = watch::channel(NodeStatus::default());
    let config = RpcConfig::new(any_local_port(), identity(anvil.chain_id(), &address_text(contracts.flow)));
    let rpc =
        serve(config, Connections { store: store.clone(), status: node, miner: None, files: None }).await.unwrap();
    let options = SyncOptions {
        start_block: contracts.start_block,
        confirmations: 0,
        poll: Duration::from_millis(100),
        ..SyncOptions::default()
    };
    let sync = LogSync::start(chain.clone(), store.clone(), options);
    sync.publish(status);

    let key = PrivateKeySigner::from(anvil.keys()[1].clone()).to_bytes();
    let run = tokio::process::Command::new("node")
        .arg("drive.mjs")
        .current_dir(&folder)
        .env("CHAIN_URL", anvil.endpoint())
        .env("NODE_URL", format!("http://{}", rpc.address()))
        .env("ACCOUNT_KEY", key.to_string())
        .env("FLOW_ADDRESS", contracts.flow.to_string())
        .env("WORK_DIR", dir.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("node (Node.js 18 or newer) cannot be started; run scripts/setup")
        .wait_with_output();
    let output = tokio::time::timeout(Duration::from_secs(600), run).await.expect("the SDK does not end").unwrap();
    sync.stop().await;
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}\n{errors}");
    let passed: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("passed: ")).collect();
    println!("{}", passed.join("\n"));
    assert_eq!(text.lines().last(), Some(&*format!("{} scenarios passed", passed.len())), "{text}");
    assert!(passed.len() >= 14, "{passed:?}");
    // What the SDK left behind is what the chain has.
    assert_eq!(store.next_seq(), chain.flow_state().await.unwrap().submissions);
    assert_eq!(
        Some(store.root_at(store.flow_length()).unwrap()),
        chain.flow_root_after(store.next_seq() - 1).await.unwrap()
    );
    for seq in 0..store.next_seq() {
        assert!(store.status(seq).unwrap().unwrap().finalised, "{seq}");
    }
}

fn address_text(address: Address) -> String {
    address.to_string().to_lowercase()
}

/// `zgpu devnet --rpc` does its job, takes a file from a client, and ends when the operator says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_devnet_stays_open_for_clients() {
    let arguments = ["devnet", "--json", "--backend", "cpu", "--proofs", "1", "--rpc", "127.0.0.1:0"];
    let mut devnet = tokio::process::Command::new(env!("CARGO_BIN_EXE_zgpu"))
        .args(arguments)
        .env_remove("ZGPU_MINER_KEY")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(devnet.stderr.take().unwrap()));
    let mut text = String::new();
    let address: SocketAddr = loop {
        let line = lines.next_line().await.unwrap().unwrap_or_else(|| panic!("it ended: {text}"));
        if let Some((_, rest)) = line.split_once("node for clients at http://") {
            break rest.split(';').next().unwrap().parse().unwrap();
        }
        text.push_str(&line);
        text.push('\n');
    };
    // The main job has submitted a load of zeros, its file, and zeros behind it; pending segments are taken.
    let status = call(address, "zgs_getStatus", json!([])).await.unwrap();
    assert!(status["nextTxSeq"].as_u64() > Some(2), "{status}");
    assert_eq!(call(address, "zgs_checkFileFinalized", json!([1])).await, Ok(json!(true)));
    assert_eq!(call(address, "zgs_uploadSegment", json!([wire(&Sample::new(300, 1), 0)])).await, Ok(Value::Null));
    let started = Instant::now();
    while call(address, "zgs_getStatus", json!([])).await.unwrap()["logSyncHeight"] == json!(0) {
        assert!(started.elapsed() < Duration::from_secs(60), "the log is not followed");
    }
    assert_eq!(call(address, "admin_shutdown", json!([])).await, Ok(Value::Null));
    let output = tokio::time::timeout(Duration::from_secs(60), devnet.wait_with_output()).await.unwrap().unwrap();
    assert!(output.status.success());
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["accepted"], 1);
}
