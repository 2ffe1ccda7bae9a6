//! Sealed loads of the store, as an engine reads them.

use std::{
    collections::HashSet,
    io,
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::watch;
use zgpu_core::{digest::H256, units::LOADS_PER_PRICING};
use zgpu_miner::{HeldLoad, LoadSource};

use crate::store::{Store, StoreError};

/// The sealed loads of one miner, or of a part of the flow. Clones share what they know.
///
/// The list of loads is read from the store once and then kept up with what is added, since an engine asks for it each
/// time that it starts on a puzzle.
#[derive(Clone)]
pub(super) struct StoreSource {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    miner_id: H256,
    loads: Range<u64>,
    list: Mutex<List>,
    /// Times that seals were dropped while the flow stayed as it is.
    drops: AtomicU64,
    /// Counts changes of what there is to mine.
    changes: watch::Sender<u64>,
}

#[derive(Default)]
struct List {
    /// By load, ascending; `None` when it has to be read from the store.
    held: Option<Vec<HeldLoad>>,
    /// [`LoadSource::version`] that it was read at.
    version: u64,
    /// Pricing chunks that are left out.
    worthless: HashSet<u64>,
}

impl StoreSource {
    /// Loads `loads` of the flow, as far as they are sealed for `miner_id`.
    pub(super) fn new(store: Store, miner_id: H256, loads: Range<u64>) -> Self {
        let (list, drops, changes) = (Mutex::default(), AtomicU64::new(0), watch::Sender::new(0));
        StoreSource { inner: Arc::new(Inner { store, miner_id, loads, list, drops, changes }) }
    }

    fn list(&self) -> MutexGuard<'_, List> {
        self.inner.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.inner.changes.send_modify(|changes| *changes += 1);
    }

    /// Counts changes of what there is to mine: seals that came or went, chunks that are left out.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changes.subscribe()
    }

    /// The seals in `sealed` (load, mask) are in the store now.
    pub(super) fn add(&self, sealed: &[(u64, u64)]) {
        let mut list = self.list();
        if let Some(held) = &mut list.held {
            for (load, available) in sealed.iter().filter(|(load, _)| self.inner.loads.contains(load)) {
                match held.binary_search_by_key(load, |held| held.load) {
                    Ok(at) => held[at].available |= available,
                    Err(at) => held.insert(at, HeldLoad { load: *load, available: *available }),
                }
            }
        }
        drop(list);
        self.changed();
    }

    /// Some seals are not in the store any more, and others may take their place.
    pub(super) fn seals_dropped(&self) {
        self.inner.drops.fetch_add(1, Ordering::SeqCst);
        self.changed();
    }

    /// The store keeps another part of the flow now.
    pub(super) fn reload(&self) {
        self.list().held = None;
        self.changed();
    }

    /// Leaves out the loads of these pricing chunks, instead of those that were left out before.
    pub(super) fn leave_out(&self, worthless: HashSet<u64>) {
        let mut list = self.list();
        if list.worthless != worthless {
            list.worthless = worthless;
            drop(list);
            self.changed();
        }
    }

    /// Loads and seals that are sealed, whether they are left out or not. Blocks.
    pub(super) fn count(&self) -> Result<(u64, u64), StoreError> {
        let mut list = self.list();
        let held = self.read_list(&mut list)?;
        Ok((held.len() as u64, held.iter().map(|held| u64::from(held.available.count_ones())).sum()))
    }

    fn read_list<'a>(&self, list: &'a mut List) -> Result<&'a [HeldLoad], StoreError> {
        let version = self.version();
        if list.held.is_none() || list.version != version {
            let loads = self.inner.store.sealed_loads(&self.inner.miner_id, self.inner.loads.clone())?;
            list.held = Some(loads.into_iter().map(|(load, available)| HeldLoad { load, available }).collect());
            list.version = version;
        }
        Ok(list.held.as_deref().unwrap_or_default())
    }
}

impl LoadSource for StoreSource {
    fn held(&self) -> Vec<HeldLoad> {
        let mut list = self.list();
        let worthless = list.worthless.clone();
        match self.read_list(&mut list) {
            Ok(held) if worthless.is_empty() => held.to_vec(),
            Ok(held) => {
                held.iter().filter(|held| !worthless.contains(&(held.load / LOADS_PER_PRICING))).copied().collect()
            }
            Err(error) => {
                tracing::error!(%error, "the list of sealed loads cannot be read");
                Vec::new()
            }
        }
    }

    fn read(&self, load: u64, into: &mut [u8]) -> io::Result<u64> {
        self.inner.store.read_sealed(&self.inner.miner_id, load, into).map_err(io::Error::other)
    }

    /// Seals change under an engine only when the flow is cut back, or when their context vanishes.
    fn version(&self) -> u64 {
        self.inner.store.revision() + self.inner.drops.load(Ordering::SeqCst)
    }
}
