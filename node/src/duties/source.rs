//! Sealed loads of the store, as an engine reads them.

use std::{io, ops::Range};

use zgpu_core::digest::H256;
use zgpu_miner::{HeldLoad, LoadSource};

use crate::store::Store;

/// The sealed loads of one miner, or of a part of the flow.
#[derive(Clone)]
pub struct StoreSource {
    store: Store,
    miner_id: H256,
    loads: Range<u64>,
}

impl StoreSource {
    /// Loads `loads` of the flow, as far as they are sealed for `miner_id`.
    pub fn new(store: Store, miner_id: H256, loads: Range<u64>) -> Self {
        StoreSource { store, miner_id, loads }
    }
}

impl LoadSource for StoreSource {
    fn held(&self) -> Vec<HeldLoad> {
        match self.store.sealed_loads(&self.miner_id, self.loads.clone()) {
            Ok(loads) => loads.into_iter().map(|(load, available)| HeldLoad { load, available }).collect(),
            Err(error) => {
                tracing::error!(%error, "the list of sealed loads cannot be read");
                Vec::new()
            }
        }
    }

    fn read(&self, load: u64, into: &mut [u8]) -> io::Result<u64> {
        self.store.read_sealed(&self.miner_id, load, into).map_err(io::Error::other)
    }

    /// Seals go under an engine only when the flow is cut back or less of it is kept.
    fn version(&self) -> u64 {
        self.store.revision()
    }
}
