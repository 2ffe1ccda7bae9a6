//! The flow contract's record of submissions, read from its events in pages of a bounded number of blocks.

use std::{
    ops::RangeInclusive,
    time::{Duration, Instant},
};

use alloy::{
    primitives::{Address, B256, U256},
    rpc::types::{Filter, Log},
    sol_types::SolEvent,
};
use zgpu_core::{
    H256,
    file::{SubmissionNode, submission_root},
    units::{BYTES_PER_SECTOR, MAX_FLOW_HEIGHT},
};

use super::{
    blocks::Header,
    client::ChainClient,
    contracts::{self, Flow},
    error::ChainError,
    rpc::EndpointId,
};

/// A submission as the chain recorded it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowTransaction {
    /// Its number, from 0.
    pub seq: u64,
    /// Root of its file: the node roots folded from the right.
    pub data_root: H256,
    /// First sector in the flow.
    pub start: u64,
    /// Bytes of the file.
    pub size: u64,
    /// Its subtrees, largest first.
    pub nodes: Vec<SubmissionNode>,
    /// Account it was submitted for.
    pub sender: Address,
    /// Block that holds it.
    pub block: u64,
    /// Hash of that block, to notice when the chain drops it.
    pub block_hash: H256,
    /// Hash of the chain's transaction.
    pub tx_hash: H256,
}

impl FlowTransaction {
    /// Sectors that it takes, padding included.
    pub fn sectors(&self) -> u64 {
        self.nodes.iter().fold(0, |sum, node| sum | 1 << node.height)
    }
}

/// Why an event is no submission that the flow contract's rules allow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// It does not decode.
    #[error("it does not decode: {0}")]
    Abi(String),
    /// It is not in a block yet.
    #[error("it is in no block")]
    NotInBlock,
    /// A number is larger than the flow can be.
    #[error("its {what} {number} is too large")]
    TooLarge {
        /// Which number.
        what: &'static str,
        /// The number.
        number: U256,
    },
    /// Heights must decrease, span less than four levels, and stay below 64.
    #[error("its nodes have heights {heights:?}")]
    Heights {
        /// The heights, at most the first eight.
        heights: Vec<U256>,
    },
    /// The nodes do not make the length that the event names.
    #[error("its nodes make {nodes} sectors, it names {named}")]
    Sectors {
        /// Sectors of the nodes.
        nodes: u64,
        /// Sectors by the event.
        named: u64,
    },
    /// More bytes than sectors, or none.
    #[error("it has {size} bytes in {sectors} sectors")]
    Size {
        /// Bytes of the file.
        size: u64,
        /// Sectors of the submission.
        sectors: u64,
    },
}

/// How many blocks to ask for at a time: fewer when an endpoint refuses or is slow, more while it is fast.
#[derive(Clone, Copy, Debug)]
pub struct PageSize {
    blocks: u64,
    max: u64,
    /// The smallest page that was refused, forgotten after a while: what an endpoint refuses may depend on what is in
    /// the blocks, or on which of its machines answers.
    refused: Option<u64>,
    /// Pages that worked since then.
    worked: u32,
}

/// Pages that have to work before a size that was refused is tried again.
const PAGES_BEFORE_RETRY: u32 = 32;
/// A page that takes longer is not made larger.
const FAST: Duration = Duration::from_secs(2);
/// A page with more submissions is not made larger: its reply may have a megabyte.
const MANY: usize = 1000;

impl PageSize {
    /// Pages of at most `max` blocks, and `first` at first.
    pub fn new(first: u64, max: u64) -> Self {
        let max = max.max(1);
        PageSize { blocks: first.clamp(1, max), max, refused: None, worked: 0 }
    }

    /// Pages of at most `max` blocks.
    pub fn up_to(max: u64) -> Self {
        PageSize::new(max, max)
    }

    /// Blocks in the next page.
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// A page of this size was answered, this fast, with so many submissions.
    fn works(&mut self, blocks: u64, time: Duration, submissions: usize) {
        self.worked = self.worked.saturating_add(1);
        if self.worked >= PAGES_BEFORE_RETRY {
            self.refused = None;
        }
        // A page that was cut short by the head of the chain says nothing about longer ones.
        if blocks < self.blocks || time > FAST || submissions > MANY {
            return;
        }
        let double = self.blocks.saturating_mul(2).min(self.max);
        self.blocks = match self.refused {
            Some(refused) if double >= refused => {
                // Half-way between what works and what does not, while that is much.
                let gap = refused.saturating_sub(self.blocks) / 2;
                if gap > self.blocks / 4 { self.blocks + gap } else { self.blocks }
            }
            _ => double,
        };
    }

    /// Makes pages smaller after one of this size was refused. False if there is no smaller one to try.
    pub fn shrink(&mut self, refused: u64) -> bool {
        self.refused = Some(refused.max(1));
        self.worked = 0;
        self.blocks = (refused.min(self.blocks) / 2).max(1);
        refused > 1
    }
}

impl Default for PageSize {
    /// What most public endpoints allow at first; local ones allow much more.
    fn default() -> Self {
        PageSize::new(1000, 20_000)
    }
}

/// Submissions of consecutive blocks.
#[derive(Clone, Debug)]
pub struct LogPage {
    /// The submissions, by rising number.
    pub transactions: Vec<FlowTransaction>,
    /// First block behind the page.
    pub next_block: u64,
    /// Who told them.
    pub from: EndpointId,
}

impl ChainClient {
    /// Submissions of the blocks from `from` on, at most up to `to` inclusive and at most a page of them.
    ///
    /// # Errors
    /// What the endpoint says when even a page of one block fails, or an event that breaks the contract's rules: other
    /// endpoints are asked first for a while then.
    pub async fn submissions(&self, from: u64, to: u64, page: &mut PageSize) -> Result<LogPage, ChainError> {
        let mut timeouts = 0;
        loop {
            let last = from.saturating_add(page.blocks() - 1).min(to);
            let blocks = last.saturating_sub(from).saturating_add(1);
            let filter = self.submit_filter().from_block(from).to_block(last);
            let asked = Instant::now();
            let logs: Result<(Vec<Log>, _), _> = self.rpc().try_each("eth_getLogs", "Submit", (filter,)).await;
            let (error, endpoint) = match logs {
                Ok((logs, endpoint)) => {
                    page.works(blocks, asked.elapsed(), logs.len());
                    let transactions = self.decode(logs, from..=last).inspect_err(|error| {
                        self.rpc().distrust_logs(endpoint, &error.to_string());
                    })?;
                    return Ok(LogPage { transactions, next_block: last.saturating_add(1), from: endpoint });
                }
                Err(failed) => failed,
            };
            if !error.may_be_range() {
                return Err(error);
            }
            let is_timeout = matches!(error, ChainError::Timeout { .. });
            timeouts += u32::from(is_timeout);
            // A wait is dear: after one the page is much smaller.
            let is_smaller = page.shrink(if is_timeout { blocks.div_ceil(4) } else { blocks });
            if !is_smaller || timeouts >= 2 {
                // It may be the endpoint and not the question.
                self.rpc().distrust_logs(endpoint, &error.to_string());
            }
            if blocks == 1 {
                return Err(error);
            }
            tracing::debug!(from, last, %error, "asking for fewer blocks at a time");
        }
    }

    /// Submissions of the block with this hash; unlike a range of numbers it is refused where the block is not known.
    pub async fn submissions_in(&self, block: &Header) -> Result<Vec<FlowTransaction>, ChainError> {
        let filter = self.submit_filter().at_block_hash(B256::from(block.hash.0));
        let logs: Vec<Log> = self.rpc().call("eth_getLogs", "Submit", (filter,)).await?;
        self.decode(logs, block.number..=block.number)
    }

    fn submit_filter(&self) -> Filter {
        Filter::new().address(self.contracts().flow).event_signature(Flow::Submit::SIGNATURE_HASH)
    }

    fn decode(&self, logs: Vec<Log>, blocks: RangeInclusive<u64>) -> Result<Vec<FlowTransaction>, ChainError> {
        let wrong = |reason: String| self.rpc().bad_reply("eth_getLogs Submit", reason);
        let mut transactions = Vec::with_capacity(logs.len());
        for log in logs.iter().filter(|log| !log.removed && log.address() == self.contracts().flow) {
            let place = log.block_number.unwrap_or_default();
            let transaction =
                decode_submit(log).map_err(|error| wrong(format!("Submit event of block {place}: {error}")))?;
            if !blocks.contains(&transaction.block) {
                let (first, last) = (blocks.start(), blocks.end());
                return Err(wrong(format!("an event of block {place} came for blocks {first} to {last}")));
            }
            transactions.push(transaction);
        }
        transactions.sort_by_key(|transaction| transaction.seq);
        Ok(transactions)
    }
}

/// Reads one Submit event, and checks it against the rules of the flow contract.
pub fn decode_submit(log: &Log) -> Result<FlowTransaction, EventError> {
    let event = Flow::Submit::decode_log_data(log.data()).map_err(|error| EventError::Abi(error.to_string()))?;
    let (Some(block), Some(block_hash), Some(tx_hash)) = (log.block_number, log.block_hash, log.transaction_hash)
    else {
        return Err(EventError::NotInBlock);
    };
    let small = |what, number: U256| u64::try_from(number).map_err(|_| EventError::TooLarge { what, number });
    let nodes = nodes(&event.submission.nodes)?;
    let size = small("length in bytes", event.submission.length)?;
    let named = small("length in sectors", event.length)?;
    let start = small("position", event.startPos)?;
    let sectors = nodes.iter().fold(0u64, |sum, node| sum | 1 << node.height);
    if sectors != named {
        return Err(EventError::Sectors { nodes: sectors, named });
    }
    if size == 0 || size.div_ceil(BYTES_PER_SECTOR as u64) > sectors {
        return Err(EventError::Size { size, sectors });
    }
    if start.checked_add(sectors).is_none() {
        return Err(EventError::TooLarge { what: "position", number: event.startPos });
    }
    Ok(FlowTransaction {
        seq: small("number", event.submissionIndex)?,
        data_root: submission_root(&nodes).expect("a submission has a node"),
        start,
        size,
        nodes,
        sender: event.sender,
        block,
        block_hash: H256(block_hash.0),
        tx_hash: H256(tx_hash.0),
    })
}

fn nodes(nodes: &[contracts::SubmissionNode]) -> Result<Vec<SubmissionNode>, EventError> {
    let wrong = || EventError::Heights { heights: nodes.iter().take(8).map(|node| node.height).collect() };
    let checked: Vec<SubmissionNode> = nodes
        .iter()
        .take(5)
        .map(|node| {
            let height = u32::try_from(node.height).ok().filter(|height| *height < MAX_FLOW_HEIGHT);
            Ok(SubmissionNode { root: H256(B256::from(node.root).0), height: height.ok_or_else(wrong)? })
        })
        .collect::<Result<_, _>>()?;
    let decreasing = checked.windows(2).all(|pair| pair[0].height > pair[1].height);
    let (Some(first), Some(last)) = (checked.first(), checked.last()) else { return Err(wrong()) };
    if !decreasing || first.height - last.height >= 4 {
        return Err(wrong());
    }
    Ok(checked)
}

#[cfg(test)]
mod tests {
    use alloy::primitives::{Bytes, LogData};

    use super::*;

    fn log(heights: &[u64], sectors: u64, size: u64) -> Log {
        let nodes = heights
            .iter()
            .map(|height| contracts::SubmissionNode { root: B256::repeat_byte(7), height: U256::from(*height) })
            .collect();
        let event = Flow::Submit {
            sender: Address::ZERO,
            identity: B256::ZERO,
            submissionIndex: U256::from(3),
            startPos: U256::from(16),
            length: U256::from(sectors),
            submission: contracts::SubmissionData { length: U256::from(size), tags: Bytes::new(), nodes },
        };
        let inner = alloy::primitives::Log { address: Address::ZERO, data: event.encode_log_data() };
        Log {
            inner,
            block_number: Some(9),
            block_hash: Some(B256::ZERO),
            transaction_hash: Some(B256::ZERO),
            ..Log::default()
        }
    }

    #[test]
    fn reads_a_submission_and_refuses_what_the_contract_never_emits() {
        let transaction = decode_submit(&log(&[4, 2], 20, 5000)).unwrap();
        assert_eq!((transaction.seq, transaction.start, transaction.size, transaction.block), (3, 16, 5000, 9));
        assert_eq!(transaction.sectors(), 20);
        assert_eq!(
            transaction.data_root,
            zgpu_core::digest::parent(&H256([7; 32]), &H256([7; 32])),
            "two nodes fold into one parent"
        );
        for (heights, sectors, size) in [
            (&[4, 4][..], 32, 100),
            (&[2, 4], 20, 100),
            (&[], 0, 0),
            (&[64], 1, 1),
            (&[8, 4], 272, 272 * 256),
            (&[4], 17, 100),
            (&[4], 16, 16 * 256 + 1),
            (&[4], 16, 0),
        ] {
            assert!(decode_submit(&log(heights, sectors, size)).is_err(), "{heights:?} {sectors} {size}");
        }
        let mut cut = log(&[4], 16, 100);
        cut.inner.data = LogData::new_unchecked(cut.topics().to_vec(), Bytes::from_static(&[0; 31]));
        assert!(matches!(decode_submit(&cut), Err(EventError::Abi(_))));
    }

    #[test]
    fn pages_find_what_an_endpoint_allows() {
        for allowed in [1, 3, 100, 999, 1000, 2000, 5000, 9_999, 10_000, 100_000] {
            let mut page = PageSize::default();
            let (mut refused, mut answered) = (0, 0);
            for _ in 0..300 {
                let blocks = page.blocks();
                if blocks > allowed {
                    assert!(page.shrink(blocks));
                    refused += 1;
                } else {
                    page.works(blocks, Duration::ZERO, 0);
                    answered += blocks;
                }
            }
            let best = allowed.min(20_000);
            assert!(page.blocks() * 2 >= best, "{} of {allowed}", page.blocks());
            assert!(answered >= 300 * best / 2, "{answered} blocks where {allowed} are allowed");
            assert!(refused < 60, "{refused} refused where {allowed} are allowed");
        }
    }

    #[test]
    fn pages_shrink_to_one_block_and_do_not_grow_when_slow() {
        let mut page = PageSize::up_to(100);
        while page.shrink(page.blocks()) {}
        assert_eq!(page.blocks(), 1);
        for (time, submissions) in [(Duration::from_secs(5), 0), (Duration::ZERO, 5000)] {
            page.works(1, time, submissions);
            assert_eq!(page.blocks(), 1);
        }
        (0..100).for_each(|_| page.works(page.blocks(), Duration::ZERO, 0));
        assert_eq!(page.blocks(), 100);
        page.works(7, Duration::ZERO, 0);
        assert_eq!(PageSize::up_to(0).blocks(), 1);
    }
}
