//! The chain: what the node reads from the storage network's contracts, and the transactions it sends to them.
//!
//! [`rpc`] calls one of several endpoints, [`heads`] hears of new blocks, [`client`] reads, [`flow_log`] reads the record of submissions, [`blocks`] tells
//! whether the chain still has what was read, [`watch`] follows the mining context, [`tx`] sends transactions, [`submit`] sends
//! answers, [`upload`] submits files, [`miner_id`] registers, [`rewards`] withdraws.

pub mod anvil;
pub mod blocks;
mod budget;
pub mod client;
pub mod contracts;
mod endpoints;
pub mod error;
pub mod flow_log;
pub mod heads;
pub(crate) mod http;
pub mod keys;
pub mod miner_id;
pub mod revert;
pub mod rewards;
pub mod rpc;
pub mod submit;
pub mod tx;
pub mod upload;
pub mod watch;
mod wire;
mod ws;
