//! The identity that a miner's answers are paid under.

use alloy::{
    primitives::{Address, U256},
    sol_types::{SolCall, SolEvent},
};
use zgpu_core::H256;

use super::{
    client::ChainClient,
    contracts::PoraMine,
    error::ChainError,
    revert::Revert,
    tx::{TxCall, TxError, TxManager, TxOutcome},
};

/// Why there is no miner id.
#[derive(Clone, Debug, thiserror::Error)]
pub enum MinerIdError {
    /// The chain could not be asked.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The configured id is not known to the mine contract.
    #[error(
        "miner id {miner_id} is not registered with the mine contract; remove it from the configuration to get a new one"
    )]
    NotRegistered {
        /// The id.
        miner_id: H256,
    },
    /// The configured id pays somebody else.
    #[error("miner id {miner_id} pays {beneficiary}, not {expected}; mining with it would earn for others")]
    NotOurs {
        /// The id.
        miner_id: H256,
        /// Who is paid.
        beneficiary: Address,
        /// Who should be.
        expected: Address,
    },
    /// The contract refused to register one.
    #[error("the mine contract refuses to register a miner: {0}")]
    Refused(Revert),
    /// The registration was not mined.
    #[error(transparent)]
    Tx(#[from] TxError),
    /// The registration was mined and names no id.
    #[error("the registration is in block {block} and has no NewMinerId event")]
    NoEvent {
        /// Its block.
        block: u64,
    },
}

/// The id to mine with: the configured one, after a check that it pays `beneficiary`, or a new one.
pub async fn ensure_miner_id(
    client: &ChainClient,
    txs: &TxManager,
    configured: Option<H256>,
    beneficiary: Address,
) -> Result<H256, MinerIdError> {
    match configured {
        Some(miner_id) => verify_miner_id(client, miner_id, beneficiary).await.map(|()| miner_id),
        None => request_miner_id(client, txs, beneficiary, 0).await,
    }
}

/// Checks that a miner id is registered and pays `expected`.
pub async fn verify_miner_id(client: &ChainClient, miner_id: H256, expected: Address) -> Result<(), MinerIdError> {
    match client.beneficiary(miner_id).await? {
        None => Err(MinerIdError::NotRegistered { miner_id }),
        Some(beneficiary) if beneficiary != expected => Err(MinerIdError::NotOurs { miner_id, beneficiary, expected }),
        Some(_) => Ok(()),
    }
}

/// Registers a new miner id that pays `beneficiary`. `seed` tells apart ids of one account that are asked for in the
/// same block.
pub async fn request_miner_id(
    client: &ChainClient,
    txs: &TxManager,
    beneficiary: Address,
    seed: u64,
) -> Result<H256, MinerIdError> {
    let mine = client.contracts().mine;
    let data = PoraMine::requestMinerIdCall { beneficiary, seed }.abi_encode().into();
    let call = TxCall { what: "the registration of a miner", to: mine, data, value: U256::ZERO };
    let tx = match txs.send(call).await {
        TxOutcome::Mined(tx) => tx,
        TxOutcome::Refused { reason } | TxOutcome::Reverted { reason, .. } => {
            return Err(MinerIdError::Refused(reason));
        }
        TxOutcome::Failed(error) => return Err(error.into()),
    };
    // The id depends on the block, so only the event of the block that has it tells.
    tx.logs
        .iter()
        .filter(|log| log.address() == mine)
        .find_map(|log| PoraMine::NewMinerId::decode_log_data(log.data()).ok())
        .map(|event| H256(event.minerId.0))
        .ok_or(MinerIdError::NoEvent { block: tx.block })
}
