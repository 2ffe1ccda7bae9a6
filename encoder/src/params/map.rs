//! Files mapped into memory, read-only.
//!
//! The files are written under another name and renamed when they are complete, so a new version replaces the name and
//! not the bytes: a map keeps the old ones. Somebody who writes into a mapped file all the same changes the points
//! that are read, which makes proofs wrong (the engine verifies a slice of every blob); who cuts it short ends the process
//! with a bus error. The remedy is the operating system's: nobody but the owner may write to the file.

use std::{fs::File, io, ops::Deref};

use memmap2::Mmap;

/// A file's bytes.
pub(crate) struct Map(Mmap);

impl Map {
    /// Maps a whole file.
    pub(crate) fn new(file: &File) -> io::Result<Self> {
        // SAFETY: nothing here writes to the file while the map lives: files of parameters are made under another name
        // and then renamed. Bytes are all that is read from it, and every value of a byte is allowed.
        let map = unsafe { Mmap::map(file)? };
        Ok(Map(map))
    }
}

impl Deref for Map {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}
