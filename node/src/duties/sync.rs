//! Following the log: submissions of the chain become transactions of the store, in their order.

use std::time::Duration;

use anyhow::Context;
use tokio::sync::watch;

use crate::{
    chain::{client::ChainClient, flow_log::PageSize},
    duties::blocking,
    rpc::NodeStatus,
    store::{Store, Transaction},
};

/// Note of the store that holds the next block to read, a big-endian u64.
const NEXT_BLOCK: &str = "sync.next_block";

/// Reads the log from where it was left (`start_block` at first) up to the chain's last block.
/// Returns the number of transactions added.
///
/// A block counts as read only after its transactions are stored; the store takes a transaction again that it has.
pub async fn catch_up(chain: &ChainClient, store: &Store, start_block: u64) -> anyhow::Result<u64> {
    let reading = store.clone();
    let note = blocking(move || reading.note(NEXT_BLOCK)).await?;
    let mut next = match note {
        Some(bytes) => {
            u64::from_be_bytes(bytes.try_into().ok().context("the store's note of the next block is damaged")?)
        }
        None => start_block,
    };
    let head = chain.block_number().await?;
    let before = store.next_seq();
    let mut page = PageSize::default();
    while next <= head {
        let log = chain.submissions(next, head, &mut page).await?;
        next = log.next_block;
        let writing = store.clone();
        blocking(move || -> anyhow::Result<()> {
            for record in log.transactions {
                writing.append(&Transaction {
                    seq: record.seq,
                    data_root: record.data_root,
                    start: record.start,
                    size_bytes: record.size,
                    nodes: record.nodes,
                })?;
            }
            Ok(writing.put_note(NEXT_BLOCK, &next.to_be_bytes())?)
        })
        .await?;
    }
    Ok(store.next_seq().saturating_sub(before))
}

/// Follows the log for ever, looking every `poll`, and tells in `status` up to which block it is read. What fails is
/// logged and tried again.
pub async fn follow(
    chain: &ChainClient,
    store: &Store,
    start_block: u64,
    poll: Duration,
    status: &watch::Sender<NodeStatus>,
) {
    let mut ticks = tokio::time::interval(poll);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = follow_once(chain, store, start_block, status).await {
            tracing::warn!(error = format!("{error:#}"), "the log cannot be followed");
        }
    }
}

/// Reads what is new, and tells so.
async fn follow_once(
    chain: &ChainClient,
    store: &Store,
    start_block: u64,
    status: &watch::Sender<NodeStatus>,
) -> anyhow::Result<()> {
    // Asked for first: what is read then goes at least so far.
    let height = chain.block_number().await?;
    if status.borrow().log_sync_height == height {
        return Ok(());
    }
    catch_up(chain, store, start_block).await?;
    let block = chain.block_hash(height).await?.with_context(|| format!("block {height} is gone"))?;
    status.send_modify(|status| (status.log_sync_height, status.log_sync_block) = (height, block));
    Ok(())
}
