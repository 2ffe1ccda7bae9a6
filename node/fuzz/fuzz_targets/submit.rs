//! Submit events of the flow contract, as an endpoint reports them: what is taken follows the contract's rules, nothing
//! else happens, whatever comes in. The bytes are the event's data, as they are and as changes to one that is right.
#![no_main]

use std::sync::LazyLock;

use alloy::{
    primitives::{Address, B256, Bytes, LogData, U256},
    rpc::types::Log,
    sol_types::SolEvent,
};
use libfuzzer_sys::fuzz_target;
use zgpu_core::{file::submission_root, flow::MAX_FLOW_LENGTH};
use zgpu_node::chain::{
    contracts::{Flow, SubmissionData, SubmissionNode},
    flow_log::decode_submit,
};

static RIGHT: LazyLock<LogData> = LazyLock::new(|| {
    let node = |height: u64| SubmissionNode { root: B256::repeat_byte(height as u8), height: U256::from(height) };
    let submission =
        SubmissionData { length: U256::from(9000), tags: Bytes::new(), nodes: vec![node(5), node(2)] };
    let event = Flow::Submit {
        sender: Address::repeat_byte(7),
        identity: B256::repeat_byte(9),
        submissionIndex: U256::from(3),
        startPos: U256::from(64),
        length: U256::from(36),
        submission,
    };
    event.encode_log_data()
});

fn read(data: Vec<u8>) {
    let inner = alloy::primitives::Log {
        address: Address::ZERO,
        data: LogData::new_unchecked(RIGHT.topics().to_vec(), data.into()),
    };
    let log = Log {
        inner,
        block_hash: Some(B256::ZERO),
        block_number: Some(1),
        transaction_hash: Some(B256::ZERO),
        ..Log::default()
    };
    let Ok(read) = decode_submit(&log) else { return };
    assert!((1..=4).contains(&read.nodes.len()));
    assert_eq!(submission_root(&read.nodes), Some(read.data_root));
    let sectors: u64 = read.nodes.iter().map(|node| 1u64 << node.height).sum();
    assert_eq!(read.sectors(), sectors);
    assert!(read.size > 0 && read.size.div_ceil(256) <= sectors && sectors <= MAX_FLOW_LENGTH);
    assert!(read.start.checked_add(sectors).is_some());
}

fuzz_target!(|input: &[u8]| {
    read(input.to_vec());
    let right = &RIGHT.data;
    read(right.iter().zip(input.iter().chain(std::iter::repeat(&0))).map(|(right, change)| right ^ change).collect());
});
