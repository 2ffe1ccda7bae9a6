//! Submits files to the flow: their roots and the fee. The bytes themselves never go on chain.

use alloy::{
    primitives::{Address, B256, Bytes, U256},
    sol_types::SolCall,
};
use zgpu_core::{
    file::{FileTree, SubmissionNode},
    tree::zero_root,
    units::BYTES_PER_SECTOR,
};

use super::{
    client::ChainClient,
    contracts::{self, Flow},
    error::ChainError,
    flow_log::{EventError, FlowTransaction, decode_submit},
    revert::Revert,
    tx::{MinedTx, TxCall, TxError, TxManager, TxOutcome},
};

/// Files that one transaction submits at most.
pub const FILES_PER_BATCH: usize = 32;

/// Largest height of a submission of zeros: 2^62 bytes.
pub const MAX_ZERO_HEIGHT: u32 = 54;

/// A file as it is submitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSubmission {
    /// Bytes of the file.
    pub size: u64,
    /// Its subtrees, largest first.
    pub nodes: Vec<SubmissionNode>,
}

impl FileSubmission {
    /// The submission of a file.
    pub fn of(tree: &FileTree) -> Self {
        FileSubmission { size: tree.shape().size(), nodes: tree.submission_nodes() }
    }

    /// Sectors that are paid for, padding included.
    pub fn sectors(&self) -> U256 {
        self.nodes.iter().fold(U256::ZERO, |sum, node| sum.saturating_add(U256::ONE << node.height as usize))
    }

    fn abi(&self, submitter: Address) -> contracts::Submission {
        let nodes = self
            .nodes
            .iter()
            .map(|node| contracts::SubmissionNode { root: B256::from(node.root.0), height: U256::from(node.height) })
            .collect();
        contracts::Submission {
            data: contracts::SubmissionData { length: U256::from(self.size), tags: Bytes::new(), nodes },
            submitter,
        }
    }
}

/// A submission of 2^`height` zero sectors, whose root is known without any data: 25 fills a pricing chunk of 8 GiB.
/// `None` above [`MAX_ZERO_HEIGHT`].
pub fn zero_submission(height: u32) -> Option<FileSubmission> {
    (height <= MAX_ZERO_HEIGHT).then(|| FileSubmission {
        size: (BYTES_PER_SECTOR as u64) << height,
        nodes: vec![SubmissionNode { root: zero_root(height), height }],
    })
}

/// Why files are not submitted.
#[derive(Clone, Debug, thiserror::Error)]
pub enum UploadError {
    /// The chain could not be asked.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The fee does not fit 256 bits.
    #[error("{sectors} sectors at {price} wei each cost more than there can be")]
    Fee {
        /// Sectors to pay for.
        sectors: U256,
        /// Wei that each costs.
        price: U256,
    },
    /// The flow contract refused.
    #[error("the flow contract refuses the submission: {0}")]
    Refused(Revert),
    /// It was not mined.
    #[error(transparent)]
    Tx(#[from] TxError),
    /// It was mined and its event is wrong.
    #[error("the submission is in block {block}, its event is not understood: {error}")]
    Event {
        /// Its block.
        block: u64,
        /// What is wrong with the event.
        error: EventError,
    },
    /// It was mined and the events are not of these files.
    #[error("the submission is in block {block} with {got} events for {expected} files, or of other files")]
    OtherEvents {
        /// Its block.
        block: u64,
        /// Files submitted.
        expected: usize,
        /// Events found.
        got: usize,
    },
}

/// Files that are in the flow now.
#[derive(Clone, Debug)]
pub struct Uploaded {
    /// Their records, in the order in which they were given.
    pub transactions: Vec<FlowTransaction>,
    /// Wei paid to the market.
    pub fee: U256,
    /// The chain's transaction.
    pub tx: MinedTx,
}

/// Submits one file for the account of `txs`, and pays its fee exactly.
pub async fn submit_file(
    client: &ChainClient,
    txs: &TxManager,
    file: &FileSubmission,
) -> Result<FlowTransaction, UploadError> {
    let uploaded = submit_batch(client, txs, std::slice::from_ref(file)).await?;
    let block = uploaded.tx.block;
    uploaded.transactions.into_iter().next().ok_or(UploadError::OtherEvents { block, expected: 1, got: 0 })
}

/// Submits files in batches of [`FILES_PER_BATCH`]; the records come in the order of the files.
pub async fn submit_files(
    client: &ChainClient,
    txs: &TxManager,
    files: &[FileSubmission],
) -> Result<Vec<FlowTransaction>, UploadError> {
    let mut transactions = Vec::with_capacity(files.len());
    for batch in files.chunks(FILES_PER_BATCH) {
        transactions.extend(submit_batch(client, txs, batch).await?.transactions);
    }
    Ok(transactions)
}

/// Submits files in one transaction, and pays their fees exactly: what is paid too much would be a gift to the next.
pub async fn submit_batch(
    client: &ChainClient,
    txs: &TxManager,
    files: &[FileSubmission],
) -> Result<Uploaded, UploadError> {
    let flow = client.contracts().flow;
    let price = client.price_per_sector().await?;
    let sectors = files.iter().fold(U256::ZERO, |sum, file| sum.saturating_add(file.sectors()));
    let fee = sectors.checked_mul(price).ok_or(UploadError::Fee { sectors, price })?;
    let mut submissions: Vec<_> = files.iter().map(|file| file.abi(txs.address())).collect();
    let data = match (submissions.len(), submissions.pop()) {
        (1, Some(submission)) => Flow::submitCall { submission }.abi_encode(),
        (_, last) => {
            submissions.extend(last);
            Flow::batchSubmitCall { submissions }.abi_encode()
        }
    };
    let call = TxCall { what: "the submission", to: flow, data: data.into(), value: fee };
    let tx = match txs.send(call).await {
        TxOutcome::Mined(tx) => tx,
        TxOutcome::Refused { reason } | TxOutcome::Reverted { reason, .. } => return Err(UploadError::Refused(reason)),
        TxOutcome::Failed(error) => return Err(error.into()),
    };
    let transactions = records(client, &tx)?;
    let is_ours = transactions.len() == files.len()
        && transactions.iter().zip(files).all(|(record, file)| record.nodes == file.nodes && record.size == file.size);
    if !is_ours {
        let (block, expected, got) = (tx.block, files.len(), transactions.len());
        return Err(UploadError::OtherEvents { block, expected, got });
    }
    Ok(Uploaded { transactions, fee, tx })
}

/// The Submit events of a transaction.
fn records(client: &ChainClient, tx: &MinedTx) -> Result<Vec<FlowTransaction>, UploadError> {
    use alloy::sol_types::SolEvent;
    tx.logs
        .iter()
        .filter(|log| log.address() == client.contracts().flow && log.topic0() == Some(&Flow::Submit::SIGNATURE_HASH))
        .map(|log| decode_submit(log).map_err(|error| UploadError::Event { block: tx.block, error }))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_submissions_have_the_ladders_roots() {
        let chunk = zero_submission(25).unwrap();
        assert_eq!((chunk.size, chunk.sectors()), (8 << 30, U256::from(1u64 << 25)));
        assert_eq!(chunk.nodes, [SubmissionNode { root: zero_root(25), height: 25 }]);
        assert_eq!(zero_submission(MAX_ZERO_HEIGHT).unwrap().size, 1 << 62);
        assert_eq!(zero_submission(MAX_ZERO_HEIGHT + 1), None);
    }
}
