//! The chain: what the node reads from the storage network's contracts, and the transactions it sends to them.
//!
//! [`client`] reads, [`flow_log`] reads the record of submissions, [`watch`] follows the mining context, [`tx`] sends
//! transactions, [`submit`] sends answers, [`upload`] submits files, [`miner_id`] registers, [`rewards`] withdraws.

pub mod anvil;
pub mod client;
pub mod contracts;
pub mod error;
pub mod flow_log;
pub mod keys;
pub mod miner_id;
pub mod revert;
pub mod rewards;
pub mod rpc;
pub mod submit;
pub mod tx;
pub mod upload;
pub mod watch;
