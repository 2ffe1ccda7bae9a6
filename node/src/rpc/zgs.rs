//! The public methods: files in and out, and what the node knows about them.

use std::ops::Range;

use zgpu_core::{
    H256,
    units::{BYTES_PER_SECTOR, LG_SECTORS_PER_LOAD, SECTORS_PER_LOAD},
};

use super::{
    Api, Methods,
    error::RpcError,
    types::{Base64, FileInfo, Proof, SegmentWithProof, SeqOrRoot, ShardConfig, Status, TransactionRecord},
};
use crate::store::{StoreError, Transaction};

/// Adds the methods to a server.
pub(super) fn register(methods: &mut Methods) {
    methods.read("zgs_getStatus", |api, _| api.status());
    methods.read("zgs_getShardConfig", |api, _| Ok(ShardConfig::from(api.store.shard())) as Result<_, RpcError>);
    methods.read("zgs_getFileInfo", |api, params| {
        let (root, need_available): (H256, bool) = params.parse()?;
        api.find(&root, need_available)?.map(|transaction| api.file_info(&transaction)).transpose()
    });
    methods.read("zgs_getFileInfoByTxSeq", |api, params| {
        let (seq,): (u64,) = params.parse()?;
        api.store.transaction(seq)?.map(|transaction| api.file_info(&transaction)).transpose()
    });
    methods.read("zgs_checkFileFinalized", |api, params| {
        let (which,): (SeqOrRoot,) = params.parse()?;
        let transaction = match which {
            SeqOrRoot::Seq(seq) => api.store.transaction(seq)?,
            SeqOrRoot::Root(root) => api.find(&root, false)?,
        };
        Ok(transaction.map(|transaction| api.store.is_finalised(transaction.seq)).transpose()?)
    });

    methods.write("zgs_uploadSegment", |api, params| {
        let (segment,): (SegmentWithProof,) = params.parse()?;
        api.upload(segment)
    });
    methods.write("zgs_uploadSegments", |api, params| {
        let (segments,): (Vec<SegmentWithProof>,) = params.parse()?;
        segments.into_iter().try_for_each(|segment| api.upload(segment))
    });
    methods.write("zgs_uploadSegmentByTxSeq", |api, params| {
        let (segment, seq): (SegmentWithProof, u64) = params.parse()?;
        api.pool.take(api.store.transaction(seq)?, segment)
    });
    methods.write("zgs_uploadSegmentsByTxSeq", |api, params| {
        let (segments, seq): (Vec<SegmentWithProof>, u64) = params.parse()?;
        let transaction = api.store.transaction(seq)?;
        for segment in segments {
            match api.pool.take(transaction.clone(), segment) {
                Err(error) if error.is_duplicate() => {}
                result => result?,
            }
        }
        Ok(())
    });

    methods.read("zgs_downloadSegment", |api, params| {
        let (root, start, end): (H256, u64, u64) = params.parse()?;
        check_sectors(&(start..end))?;
        api.find(&root, true)?.map_or(Ok(None), |transaction| api.sectors(&transaction, start..end))
    });
    methods.read("zgs_downloadSegmentByTxSeq", |api, params| {
        let (seq, start, end): (u64, u64, u64) = params.parse()?;
        check_sectors(&(start..end))?;
        api.store.transaction(seq)?.map_or(Ok(None), |transaction| api.sectors(&transaction, start..end))
    });
    methods.read("zgs_downloadSegmentWithProof", |api, params| {
        let (root, index): (H256, u64) = params.parse()?;
        api.find(&root, true)?.map_or(Ok(None), |transaction| api.segment(&transaction, index))
    });
    methods.read("zgs_downloadSegmentWithProofByTxSeq", |api, params| {
        let (seq, index): (u64, u64) = params.parse()?;
        api.store.transaction(seq)?.map_or(Ok(None), |transaction| api.segment(&transaction, index))
    });

    methods.read("zgs_getSectorProof", |api, params| {
        let mut params = params.sequence();
        let (sector, root) = (params.next()?, params.optional_next()?);
        api.sector_proof(sector, root)
    });
    methods.read("zgs_getHashAtNodeIndex", |api, params| {
        let (index,): (u64,) = params.parse()?;
        api.store.node(LG_SECTORS_PER_LOAD, index).map_err(|error| match error {
            StoreError::Flow(_) => RpcError::param("node_index", error.to_string()),
            error => error.into(),
        })
    });
    methods.read("zgs_getDataByNodeIndex", |api, params| {
        let (index,): (u64,) = params.parse()?;
        Ok(api.store.load(index)?.map(|load| {
            let ranges = load.known_ranges().into_iter();
            let bytes =
                |range: Range<usize>| load.bytes[range.start * BYTES_PER_SECTOR..range.end * BYTES_PER_SECTOR].to_vec();
            ranges.map(bytes).collect::<Vec<Vec<u8>>>()
        }))
    });
    methods.read("zgs_getMetaDataByNodeIndex", |api, params| {
        let (index,): (u64,) = params.parse()?;
        Ok(api.store.load(index)?.map(|load| {
            format!("load {index}: known sectors {:?}, known seals {:#018x}", load.known_ranges(), load.known)
        }))
    });
    methods.read("zgs_getFlowContext", |api, _| {
        let length = api.store.flow_length();
        Ok((api.store.root_at(length)?, length))
    });
}

/// Ranges of sectors have at least one and at most those of a segment.
fn check_sectors(sectors: &Range<u64>) -> Result<(), RpcError> {
    if sectors.start >= sectors.end {
        return Err(RpcError::param("end_index", "invalid chunk index"));
    }
    if sectors.end - sectors.start > SECTORS_PER_LOAD as u64 {
        return Err(RpcError::param("end_index", format!("exceeds maximum chunks {SECTORS_PER_LOAD}")));
    }
    Ok(())
}

impl Api {
    fn status(&self) -> Result<Status, RpcError> {
        let node = *self.node.borrow();
        Ok(Status {
            connected_peers: node.connected_peers,
            log_sync_height: node.log_sync_height,
            log_sync_block: node.log_sync_block,
            next_tx_seq: self.store.next_seq(),
            network_identity: self.network.clone(),
        })
    }

    /// The transaction that speaks for a file root: the first finalised one, else the first that is not pruned, else, unless
    /// its data is needed, the first.
    fn find(&self, root: &H256, need_available: bool) -> Result<Option<Transaction>, RpcError> {
        let seqs = self.store.transactions_by_root(root)?;
        let mut found = seqs.first().copied().filter(|_| !need_available);
        let mut is_available = false;
        for seq in seqs {
            if self.store.is_finalised(seq)? {
                found = Some(seq);
                break;
            }
            if !is_available && !self.store.is_pruned(seq)? {
                (found, is_available) = (Some(seq), true);
            }
        }
        Ok(found.map(|seq| self.store.transaction(seq)).transpose()?.flatten())
    }

    fn file_info(&self, transaction: &Transaction) -> Result<FileInfo, RpcError> {
        let status = self.store.status(transaction.seq)?;
        let is_done = status.is_some_and(|status| status.finalised || status.pruned);
        let pending = self.pool.pending_segments(&transaction.data_root).filter(|_| !is_done);
        let uploaded = match is_done {
            true => transaction.shape().map_or(0, |shape| shape.segments()),
            false => pending.or(status.map(|status| status.stored)).unwrap_or(0),
        };
        Ok(FileInfo {
            tx: TransactionRecord::from(transaction),
            finalized: status.is_some_and(|status| status.finalised),
            is_cached: pending.is_some(),
            uploaded_seg_num: uploaded,
            pruned: status.is_some_and(|status| status.pruned),
        })
    }

    /// Takes a segment for the transaction of its root that wants it, else for the one that speaks for the root.
    fn upload(&self, segment: SegmentWithProof) -> Result<(), RpcError> {
        let transaction = match self.pool.target(&segment.root, segment.file_size, segment.index)? {
            Some(transaction) => Some(transaction),
            None => self.find(&segment.root, false)?,
        };
        self.pool.take(transaction, segment)
    }

    fn sectors(&self, transaction: &Transaction, sectors: Range<u64>) -> Result<Option<Base64>, RpcError> {
        let bytes = self.store.read_sectors(transaction.seq, sectors).map_err(|error| match error {
            StoreError::NoSuchSectors { .. } => RpcError::param("end_index", "invalid chunk index"),
            error => error.into(),
        })?;
        self.metrics.bytes_given.add(bytes.as_ref().map_or(0, Vec::len) as u64);
        Ok(bytes.map(Base64))
    }

    fn segment(&self, transaction: &Transaction, index: u64) -> Result<Option<SegmentWithProof>, RpcError> {
        let segments = transaction.shape()?.segments();
        if index >= segments {
            return Err(RpcError::param("segment_index", "index out of bound"));
        }
        let first = index * SECTORS_PER_LOAD as u64;
        let end = transaction.shape()?.sectors().min(first + SECTORS_PER_LOAD as u64);
        let Some(data) = self.sectors(transaction, first..end)? else { return Ok(None) };
        let Some(proof) = self.store.segment_proof(transaction.seq, index)? else { return Ok(None) };
        Ok(Some(SegmentWithProof {
            root: transaction.data_root,
            data,
            index,
            proof: Proof::from(proof),
            file_size: transaction.size_bytes,
        }))
    }

    fn sector_proof(&self, sector: u64, root: Option<H256>) -> Result<Proof, RpcError> {
        let length = match &root {
            None => self.store.flow_length(),
            Some(root) => self
                .store
                .length_with_root(root)?
                .ok_or_else(|| RpcError::param("flow_root", format!("no transaction led to the flow root {root}")))?,
        };
        let proof = self.store.sector_proof(length, sector).map_err(|error| match error {
            StoreError::NoProof { .. } => RpcError::param("sector_index", error.to_string()),
            error => error.into(),
        })?;
        let root = root.map_or_else(|| self.store.root_at(length), Ok)?;
        Ok(Proof::of_sector(proof, sector, root))
    }
}
