//! Whom a node mines for: one miner id for good, since sealed data is of use to one miner only.

use alloy::primitives::Address;
use zgpu_core::digest::H256;

use crate::{
    chain::{
        client::ChainClient,
        error::ChainError,
        miner_id::{MinerIdError, request_miner_id, verify_miner_id},
        tx::TxManager,
    },
    duties::blocking,
    store::{Store, StoreError},
};

/// Note of the store that holds the miner id, 32 bytes, from before the first seal.
const MINER_ID: &str = "mining.miner_id";

/// Why there is no miner id to mine with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityError {
    #[error(
        "miner id {configured} is configured, and the data in this folder is sealed for {stored}; remove miner_id from \
         the configuration to go on with {stored}, or use another folder"
    )]
    Other { configured: H256, stored: H256 },
    #[error("no miner id is configured, and none may be registered; set miner_id")]
    None,
    #[error("the store's note of the miner id has {got} bytes, a miner id has 32; set miner_id in the configuration")]
    Note { got: usize },
    #[error(transparent)]
    Miner(#[from] MinerIdError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl IdentityError {
    /// Whether it may pass without anybody changing the configuration.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            IdentityError::Miner(MinerIdError::Chain(ChainError::WrongContracts { .. })) => false,
            IdentityError::Miner(MinerIdError::Chain(_) | MinerIdError::Tx(_)) => true,
            _ => false,
        }
    }
}

/// Finds the miner id: the configured or the stored one, which have to agree, registered and paying `beneficiary`; or a
/// new one, where that is allowed. It is written down before it is used.
pub(super) async fn find_miner_id(
    chain: &ChainClient,
    store: &Store,
    txs: &TxManager,
    configured: Option<H256>,
    beneficiary: Address,
    may_register: bool,
) -> Result<H256, IdentityError> {
    let reading = store.clone();
    let stored = blocking(move || stored_miner_id(&reading)).await?;
    let miner_id = match (configured, stored) {
        (Some(configured), Some(stored)) if configured != stored => {
            return Err(IdentityError::Other { configured, stored });
        }
        (Some(miner_id), _) | (None, Some(miner_id)) => {
            verify_miner_id(chain, miner_id, beneficiary).await?;
            miner_id
        }
        (None, None) if may_register => request_miner_id(chain, txs, beneficiary, 0).await?,
        (None, None) => return Err(IdentityError::None),
    };
    if stored.is_none() {
        let writing = store.clone();
        blocking(move || writing.put_note(MINER_ID, &miner_id.0)).await?;
        tracing::info!(%miner_id, %beneficiary, "this folder is for one miner id from now on");
    }
    Ok(miner_id)
}

/// The miner id that seals were made for, or that was written down before.
pub(crate) fn stored_miner_id(store: &Store) -> Result<Option<H256>, IdentityError> {
    if let Some(miner_id) = store.miner_id()? {
        return Ok(Some(miner_id));
    }
    let Some(note) = store.note(MINER_ID)? else { return Ok(None) };
    let got = note.len();
    note.try_into().map(|bytes| Some(H256(bytes))).map_err(|_| IdentityError::Note { got })
}
