//! Loads of the flow: which sectors are known, what is left to seal, and proofs of seals.

use std::{
    cell::OnceCell,
    ops::Range,
    sync::{Mutex, PoisonError},
};

use rocksdb::DBRawIterator;
use zgpu_core::{
    H256,
    digest::parent,
    flow::{self, FlowNodes, SectorProof},
    tree::sector_hash,
    units::{
        BYTES_PER_LOAD, BYTES_PER_SECTOR, LG_SECTORS_PER_LOAD, LG_SECTORS_PER_SEAL, SEALS_PER_LOAD, SECTORS_PER_LOAD,
        SECTORS_PER_SEAL,
    },
};

use super::{
    Batch, Column, Inner, Store, StoreError,
    columns::{Fields, key_number},
    lock,
};

const PER_LOAD: u64 = SECTORS_PER_LOAD as u64;

/// A load as the flow has it, unsealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadData {
    /// Its 256 KiB; sectors that are not known are zeros.
    pub bytes: Vec<u8>,
    /// Mask of the seals whose 16 sectors are all known, bit i for seal i.
    pub known: u64,
    /// [`Store::revision`] at which it was read.
    pub revision: u64,
    sectors: KnownSectors,
}

/// Seals that can be sealed and are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealTask {
    /// Which load.
    pub load: u64,
    /// Mask of its seals, bit i for seal i.
    pub seals: u64,
}

/// A range of sectors that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) kind: ExtentKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ExtentKind {
    Zeros,
    Data,
}

/// One bit per sector of a load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct KnownSectors([u64; SECTORS_PER_LOAD / 64]);

impl KnownSectors {
    fn add(&mut self, sectors: Range<usize>) {
        if sectors == (0..SECTORS_PER_LOAD) {
            self.0 = [u64::MAX; SECTORS_PER_LOAD / 64];
            return;
        }
        sectors.for_each(|sector| self.0[sector / 64] |= 1 << (sector % 64));
    }

    fn has_all(&self, mut sectors: Range<usize>) -> bool {
        sectors.all(|sector| self.0[sector / 64] >> (sector % 64) & 1 == 1)
    }

    /// Ranges of known sectors, ascending, as long as they go.
    fn ranges(&self) -> Vec<Range<usize>> {
        let mut ranges: Vec<Range<usize>> = Vec::new();
        for sector in (0..SECTORS_PER_LOAD).filter(|sector| self.0[sector / 64] >> (sector % 64) & 1 == 1) {
            match ranges.last_mut() {
                Some(range) if range.end == sector => range.end += 1,
                _ => ranges.push(sector..sector + 1),
            }
        }
        ranges
    }

    fn seals(&self) -> u64 {
        (0..SEALS_PER_LOAD)
            .filter(|seal| self.0[seal / 4] >> (seal % 4 * SECTORS_PER_SEAL) & 0xffff == 0xffff)
            .fold(0, |mask, seal| mask | 1 << seal)
    }
}

impl LoadData {
    /// Ranges of sectors that are known, counted from the start of the load, ascending.
    pub fn known_ranges(&self) -> Vec<Range<usize>> {
        self.sectors.ranges()
    }
}

/// From which load on there may be something to seal, so that a search does not start at 0 each time.
#[derive(Default)]
pub(super) struct Scan {
    /// One search at a time.
    searching: Mutex<()>,
    clean: Mutex<Clean>,
}

#[derive(Clone, Copy, Default)]
struct Clean {
    /// Every known seal in front of this load is sealed.
    below: u64,
    /// Lowest load that got something to seal since the search in progress began.
    lowered: u64,
}

impl Scan {
    /// Something in this load is to be sealed now.
    pub(super) fn lower(&self, load: u64) {
        let mut clean = lock(&self.clean);
        clean.below = clean.below.min(load);
        clean.lowered = clean.lowered.min(load);
    }
}

/// Walks extents from the one that holds, or the first behind, a sector.
pub(super) struct Extents<'a> {
    inner: &'a Inner,
    iterator: DBRawIterator<'a>,
}

impl Extents<'_> {
    pub(super) fn current(&self) -> Result<Option<Extent>, StoreError> {
        match self.iterator.item() {
            Some((key, value)) => decode_extent(key, value).map(Some),
            None => self.iterator.status().map(|()| None).map_err(|source| self.inner.failed(source)),
        }
    }

    pub(super) fn next(&mut self) {
        if self.iterator.valid() {
            self.iterator.next();
        }
    }
}

fn decode_extent(key: &[u8], value: &[u8]) -> Result<Extent, StoreError> {
    let corrupt = StoreError::Corrupt { what: "extent" };
    let start = key_number(key)?;
    let mut fields = Fields::new("extent", value);
    let end = start.checked_add(fields.u64()?).filter(|end| *end > start);
    let kind = match fields.u8()? {
        0 => ExtentKind::Zeros,
        1 => ExtentKind::Data,
        _ => return Err(corrupt),
    };
    fields.end()?;
    match end {
        Some(end) if kind == ExtentKind::Zeros || end - start <= PER_LOAD - start % PER_LOAD => {
            Ok(Extent { start, end, kind })
        }
        _ => Err(corrupt),
    }
}

impl Batch<'_> {
    pub(super) fn extent(&mut self, extent: Extent) {
        let mut value = (extent.end - extent.start).to_be_bytes().to_vec();
        value.push((extent.kind == ExtentKind::Data) as u8);
        self.put(Column::Extent, &extent.start.to_be_bytes(), &value);
    }
}

impl Inner {
    pub(super) fn extents(&self, from: u64) -> Result<Extents<'_>, StoreError> {
        let mut extents = Extents { inner: self, iterator: self.iterator(Column::Extent) };
        extents.iterator.seek_for_prev(from.to_be_bytes());
        match extents.current()? {
            Some(extent) if extent.end <= from => extents.next(),
            Some(_) => {}
            None => extents.iterator.seek(from.to_be_bytes()),
        }
        Ok(extents)
    }

    /// The extent that holds this sector.
    pub(super) fn extent_at(&self, sector: u64) -> Result<Option<Extent>, StoreError> {
        Ok(self.extents(sector)?.current()?.filter(|extent| extent.start <= sector))
    }

    /// True when every sector is known.
    pub(super) fn is_known(&self, sectors: Range<u64>) -> Result<bool, StoreError> {
        let mut extents = self.extents(sectors.start)?;
        let mut at = sectors.start;
        while at < sectors.end {
            match extents.current()? {
                Some(extent) if extent.start <= at => at = extent.end,
                _ => return Ok(false),
            }
            extents.next();
        }
        Ok(true)
    }

    /// Known sectors of a load; `each` is told every extent that overlaps it.
    fn known_sectors(
        &self,
        load: u64,
        mut each: impl FnMut(Extent) -> Result<(), StoreError>,
    ) -> Result<KnownSectors, StoreError> {
        let mut known = KnownSectors::default();
        let mut extents = self.extents(load * PER_LOAD)?;
        while let Some(extent) = extents.current()?.filter(|extent| extent.start < (load + 1) * PER_LOAD) {
            known.add(within(&extent, load));
            each(extent)?;
            extents.next();
        }
        Ok(known)
    }

    /// Mask of the seals of a load whose data is known.
    pub(super) fn known_seals(&self, load: u64) -> Result<u64, StoreError> {
        if load >= flow::MAX_FLOW_LENGTH / PER_LOAD {
            return Ok(0);
        }
        Ok(self.known_sectors(load, |_| Ok(()))?.seals())
    }

    /// Bytes of a load and its known sectors.
    fn read_load(&self, load: u64) -> Result<(Vec<u8>, KnownSectors), StoreError> {
        let mut bytes = vec![0; BYTES_PER_LOAD];
        if load >= flow::MAX_FLOW_LENGTH / PER_LOAD {
            return Ok((bytes, KnownSectors::default()));
        }
        let known = self.known_sectors(load, |extent| {
            let sectors = within(&extent, load);
            match extent.kind {
                ExtentKind::Zeros => Ok(()),
                ExtentKind::Data => {
                    self.read_data(extent, &mut bytes[sectors.start * BYTES_PER_SECTOR..sectors.end * BYTES_PER_SECTOR])
                }
            }
        })?;
        Ok((bytes, known))
    }

    /// Reads the data of an extent to the front of `into`, which holds zeros.
    pub(super) fn read_data(&self, extent: Extent, into: &mut [u8]) -> Result<(), StoreError> {
        let corrupt = || StoreError::Corrupt { what: "range of data" };
        let value = self
            .db
            .get_pinned_cf(self.column(Column::Data), extent.start.to_be_bytes())
            .map_err(|source| self.failed(source))?
            .ok_or_else(corrupt)?;
        into.get_mut(..value.len()).ok_or_else(corrupt)?.copy_from_slice(&value);
        Ok(())
    }
}

/// Sectors of `load` that the extent covers, counted from the load's start.
fn within(extent: &Extent, load: u64) -> Range<usize> {
    let first = load * PER_LOAD;
    let start = extent.start.clamp(first, first + PER_LOAD) - first;
    let end = extent.end.clamp(first, first + PER_LOAD) - first;
    start as usize..end as usize
}

/// Mask of the seals of `load` that lie wholly below sector `end`.
fn seals_below(load: u64, end: u64) -> u64 {
    match end.saturating_sub(load * PER_LOAD) / SECTORS_PER_SEAL as u64 {
        count if count >= SEALS_PER_LOAD as u64 => u64::MAX,
        count => (1 << count) - 1,
    }
}

impl Store {
    /// Load number `load` of the flow, or `None` when no sector of it is known.
    pub fn load(&self, load: u64) -> Result<Option<LoadData>, StoreError> {
        let _chain = self.inner.chain.read().unwrap_or_else(PoisonError::into_inner);
        let revision = self.revision();
        let (bytes, sectors) = self.inner.read_load(load)?;
        let known = sectors.seals();
        Ok((sectors != KnownSectors::default()).then_some(LoadData { bytes, known, revision, sectors }))
    }

    /// Seals of loads of the shard from `from_load` on, at most `limit` loads, whose data is known, that lie wholly below sector
    /// `up_to_sector` (the flow length of the latest context), and that are not sealed. Ascending.
    ///
    /// The search remembers in front of which load everything is sealed, and starts there.
    pub fn unsealed(
        &self,
        miner_id: &H256,
        from_load: u64,
        up_to_sector: u64,
        limit: usize,
    ) -> Result<Vec<SealTask>, StoreError> {
        let inner = &*self.inner;
        inner.check_miner(miner_id)?;
        let end = up_to_sector.min(self.flow_length());
        let _searching = lock(&inner.scan.searching);
        let clean_below = {
            let mut clean = lock(&inner.scan.clean);
            clean.lowered = u64::MAX;
            clean.below
        };
        let mut load = from_load.max(clean_below);
        // Loads between the remembered one and `from_load` are not looked at, so nothing can be said about them.
        let mut all_sealed = from_load <= clean_below;
        let mut clean = clean_below;
        let mut tasks = Vec::new();

        let share = inner.share();
        let mut extents = inner.extents(load.saturating_mul(PER_LOAD))?;
        let mut sealed = inner.iterator(Column::Sealed);
        while tasks.len() < limit {
            let Some(extent) = extents.current()? else { break };
            let Some(next) = share.next(load.max(extent.start / PER_LOAD)) else { break };
            load = next;
            if load.saturating_mul(PER_LOAD) >= end {
                break;
            }
            if extent.end <= load * PER_LOAD {
                extents.next();
                continue;
            }
            let mut known = KnownSectors::default();
            while let Some(extent) = extents.current()?.filter(|extent| extent.start < (load + 1) * PER_LOAD) {
                known.add(within(&extent, load));
                if extent.end > (load + 1) * PER_LOAD {
                    break;
                }
                extents.next();
            }
            let missing = known.seals() & !inner.sealed_at(&mut sealed, load)?;
            let seals = missing & seals_below(load, end);
            if seals != 0 {
                tasks.push(SealTask { load, seals });
            }
            all_sealed &= missing == 0;
            load += 1;
            if all_sealed {
                clean = load;
            }
        }
        let mut state = lock(&inner.scan.clean);
        state.below = clean.min(state.lowered);
        Ok(tasks)
    }

    /// Siblings from the seal that starts at sector `recall_position` (its node has height 4) up to the root of the
    /// flow when it had `flow_length` sectors, the root left out. Step i goes to the right when bit i of
    /// `recall_position` / 16 is 0.
    pub fn seal_proof(&self, flow_length: u64, recall_position: u64) -> Result<Vec<H256>, StoreError> {
        let refuse = |reason| Err(StoreError::NoProof { position: recall_position, length: flow_length, reason });
        if flow_length > self.flow_length() {
            return refuse("the flow is shorter than that");
        }
        if !recall_position.is_multiple_of(SECTORS_PER_SEAL as u64) {
            return refuse("no seal starts there");
        }
        if recall_position.checked_add(SECTORS_PER_SEAL as u64).is_none_or(|end| end > flow_length) {
            return refuse("the seal does not lie wholly in the flow");
        }
        let _chain = self.inner.chain.read().unwrap_or_else(PoisonError::into_inner);
        let tree = self.inner.load_nodes(recall_position / PER_LOAD)?;
        Ok(flow::siblings_at(&tree, flow_length, LG_SECTORS_PER_SEAL, recall_position >> LG_SECTORS_PER_SEAL)?)
    }

    /// Proof that sector `sector` belongs to the flow as it was when it had `flow_length` sectors.
    pub fn sector_proof(&self, flow_length: u64, sector: u64) -> Result<SectorProof, StoreError> {
        let refuse = |reason| Err(StoreError::NoProof { position: sector, length: flow_length, reason });
        if flow_length > self.flow_length() {
            return refuse("the flow is shorter than that");
        }
        if sector >= flow_length {
            return refuse("the sector does not lie in the flow");
        }
        let _chain = self.inner.chain.read().unwrap_or_else(PoisonError::into_inner);
        self.inner.load_nodes(sector / PER_LOAD)?.sector_proof(flow_length, sector)
    }
}

impl Inner {
    /// Mask of the sealed seals of `load`; `iterator` walks on, so that loads asked for in order cost a step each.
    fn sealed_at(&self, iterator: &mut DBRawIterator<'_>, load: u64) -> Result<u64, StoreError> {
        let key = load.to_be_bytes();
        if iterator.key().is_some_and(|at| *at < key[..]) {
            iterator.next();
        }
        if iterator.key().is_none_or(|at| *at < key[..]) {
            iterator.seek(key);
        }
        match iterator.item() {
            Some((at, value)) if *at == key[..] => Fields::new("mask of sealed seals", value).u64(),
            _ => iterator.status().map(|()| 0).map_err(|source| self.failed(source)),
        }
    }
}

impl Inner {
    pub(super) fn load_nodes(&self, load: u64) -> Result<LoadNodes<'_>, StoreError> {
        let (bytes, known) = self.read_load(load)?;
        Ok(LoadNodes { inner: self, load, bytes, known, levels: OnceCell::new() })
    }
}

/// The flow tree, with nodes inside one load computed from its data.
pub(super) struct LoadNodes<'a> {
    inner: &'a Inner,
    load: u64,
    bytes: Vec<u8>,
    known: KnownSectors,
    /// By height: nodes over known sectors. Made when the first of them is asked for.
    levels: OnceCell<Vec<Vec<Option<H256>>>>,
}

impl LoadNodes<'_> {
    /// Proof of a sector of the load in the flow when it had `length` sectors.
    pub(super) fn sector_proof(&self, length: u64, sector: u64) -> Result<SectorProof, StoreError> {
        let leaf = flow::node_at(self, length, 0, sector)?;
        Ok(SectorProof { leaf, siblings: flow::siblings_at(self, length, 0, sector)? })
    }

    fn make_levels(&self) -> Vec<Vec<Option<H256>>> {
        let hash = |(sector, bytes)| self.known.has_all(sector..sector + 1).then(|| sector_hash(bytes));
        let mut levels = vec![self.bytes.chunks(BYTES_PER_SECTOR).enumerate().map(hash).collect::<Vec<_>>()];
        for height in 0..LG_SECTORS_PER_LOAD as usize {
            let pairs = levels[height].chunks(2);
            levels.push(pairs.map(|pair| Some(parent(pair[0].as_ref()?, pair[1].as_ref()?))).collect());
        }
        levels
    }
}

impl FlowNodes for LoadNodes<'_> {
    type Error = StoreError;

    fn node(&self, height: u32, index: u64) -> Result<Option<H256>, StoreError> {
        if let Some(hash) = self.inner.node(height, index)? {
            return Ok(Some(hash));
        }
        if height > LG_SECTORS_PER_LOAD || (index << height) / PER_LOAD != self.load {
            return Ok(None);
        }
        let levels = self.levels.get_or_init(|| self.make_levels());
        Ok(levels[height as usize][(((index << height) % PER_LOAD) >> height) as usize])
    }
}
