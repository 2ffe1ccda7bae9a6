//! Segments that a client handed in before the chain showed their transaction. They survive a kill like everything else.

use zgpu_core::{H256, file::FileProof};

use super::{
    Column, Store, StoreError,
    columns::{Fields, KEY_END, decode_pending, digest_key, encode_pending, key_number},
};

/// A segment without a transaction. The store checks nothing about it; [`Store::put_segment`] does once there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingSegment {
    /// Length of its file in bytes, as the client says.
    pub file_size: u64,
    /// Its data.
    pub data: Vec<u8>,
    /// Its proof.
    pub proof: FileProof,
}

impl Store {
    /// Keeps segment `index` of the file with this root until its transaction comes. Durable on return.
    pub fn put_pending(&self, root: &H256, index: u64, segment: &PendingSegment) -> Result<(), StoreError> {
        let value = encode_pending(segment).ok_or(StoreError::ProofLength { index })?;
        let mut batch = self.inner.batch()?;
        batch.put(Column::Pending, &digest_key(root, index), &value);
        batch.commit()
    }

    /// A pending segment.
    pub fn pending(&self, root: &H256, index: u64) -> Result<Option<PendingSegment>, StoreError> {
        self.inner.get(Column::Pending, &digest_key(root, index))?.map(|value| decode_pending(&value)).transpose()
    }

    /// Tells every pending segment: root and size of its file, and its index.
    pub fn each_pending(&self, mut each: impl FnMut(H256, u64, u64)) -> Result<(), StoreError> {
        let mut iterator = self.inner.iterator(Column::Pending);
        iterator.seek_to_first();
        while let Some((key, value)) = iterator.item() {
            let index = key_number(key)?;
            let root = key.first_chunk().ok_or(StoreError::Corrupt { what: "key" })?;
            each(H256(*root), Fields::new("pending segment", value).u64()?, index);
            iterator.next();
        }
        iterator.status().map_err(|source| self.inner.failed(source))
    }

    /// Drops pending segment `index` of a file, or all of them. Durable on return.
    pub fn drop_pending(&self, root: &H256, index: Option<u64>) -> Result<(), StoreError> {
        let mut batch = self.inner.batch()?;
        match index {
            Some(index) => batch.delete(Column::Pending, &digest_key(root, index)),
            None => batch.delete_range(Column::Pending, &digest_key(root, 0), &[&root.0[..], &KEY_END[..9]].concat()),
        }
        batch.commit()
    }
}
