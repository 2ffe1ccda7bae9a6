//! The part of SSZ that the network uses, strict: exact lengths, canonical offsets, nothing left over.
//!
//! A container is its fixed fields in order, a variable field standing there as a little-endian u32 offset from the
//! start of the container, then the variable fields in order. The first offset is the length of the fixed part and
//! offsets do not decrease, so each byte belongs to one field. Nothing is allocated before the lengths are checked.

use zgpu_core::H256;

/// Bytes of an offset.
pub const BYTES_PER_OFFSET: usize = 4;

/// Why bytes are no encoding of what they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SszError {
    /// A part is too short or too long.
    #[error("{what} has {got} bytes, expected {expected}")]
    Length {
        /// Which part.
        what: &'static str,
        /// Bytes it must have.
        expected: usize,
        /// Bytes it has.
        got: usize,
    },
    /// A part is longer than allowed.
    #[error("{what} has {got} bytes, the limit is {limit}")]
    TooLong {
        /// Which part.
        what: &'static str,
        /// Bytes it may have.
        limit: usize,
        /// Bytes it has.
        got: usize,
    },
    /// An offset leaves a gap, goes back, or points behind the end.
    #[error("offset {index} of {what} is {got}, expected {expected}")]
    Offset {
        /// Which container or list.
        what: &'static str,
        /// Which of its offsets.
        index: usize,
        /// Value that it must have, or its bound.
        expected: usize,
        /// Value that it has.
        got: usize,
    },
    /// A list is no whole number of items.
    #[error("{what} has {got} bytes, which is no multiple of {item}")]
    Items {
        /// Which list.
        what: &'static str,
        /// Bytes of one item.
        item: usize,
        /// Bytes of the list.
        got: usize,
    },
    /// A list has more items than allowed.
    #[error("{what} has {got} items, the limit is {limit}")]
    TooMany {
        /// Which list.
        what: &'static str,
        /// Items it may have.
        limit: usize,
        /// Items it has.
        got: usize,
    },
    /// A flag or selector is neither 0 nor 1.
    #[error("a flag of {what} is {got}, expected 0 or 1")]
    Flag {
        /// Where.
        what: &'static str,
        /// Its value.
        got: u8,
    },
}

/// Reads the fixed part of a container field by field, then hands out its variable fields.
pub(super) struct Reader<'a> {
    what: &'static str,
    bytes: &'a [u8],
    fixed_length: usize,
    at: usize,
}

impl<'a> Reader<'a> {
    /// Container `what` in `bytes`, whose fixed part has `fixed_length` bytes.
    pub(super) fn new(what: &'static str, bytes: &'a [u8], fixed_length: usize) -> Result<Self, SszError> {
        if bytes.len() < fixed_length {
            return Err(SszError::Length { what, expected: fixed_length, got: bytes.len() });
        }
        Ok(Reader { what, bytes, fixed_length, at: 0 })
    }

    /// The next `N` bytes of the fixed part.
    ///
    /// # Panics
    /// When the fields together are longer than the fixed part; each layout is a constant, exercised by a test.
    pub(super) fn array<const N: usize>(&mut self) -> [u8; N] {
        let field = &self.bytes[..self.fixed_length][self.at..self.at + N];
        self.at += N;
        field.try_into().expect("the slice has N bytes")
    }

    pub(super) fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    pub(super) fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    pub(super) fn h256(&mut self) -> H256 {
        H256(self.array())
    }

    pub(super) fn offset(&mut self) -> usize {
        self.u32() as usize
    }

    /// Ends a container without variable fields.
    pub(super) fn end(self) -> Result<(), SszError> {
        match self.bytes.len() == self.fixed_length {
            true => Ok(()),
            false => Err(SszError::Length { what: self.what, expected: self.fixed_length, got: self.bytes.len() }),
        }
    }

    /// Ends a container with variable fields: their bytes, from the offsets read before.
    pub(super) fn fields<const N: usize>(self, offsets: [usize; N]) -> Result<[&'a [u8]; N], SszError> {
        check_offsets(self.what, &offsets, self.fixed_length, self.bytes.len())?;
        Ok(std::array::from_fn(|index| {
            &self.bytes[offsets[index]..*offsets.get(index + 1).unwrap_or(&self.bytes.len())]
        }))
    }
}

/// Offsets must start at `first`, not decrease, and end within `length`.
fn check_offsets(what: &'static str, offsets: &[usize], first: usize, length: usize) -> Result<(), SszError> {
    let mut lowest = first;
    for (index, &got) in offsets.iter().enumerate() {
        let is_right = if index == 0 { got == first } else { got >= lowest };
        if !is_right {
            return Err(SszError::Offset { what, index, expected: lowest, got });
        }
        if got > length {
            return Err(SszError::Offset { what, index, expected: length, got });
        }
        lowest = got;
    }
    Ok(())
}

/// Items of a list whose items have no fixed length; at most `limit`.
pub(super) fn variable_items<'a>(
    what: &'static str,
    bytes: &'a [u8],
    limit: usize,
) -> Result<impl ExactSizeIterator<Item = &'a [u8]> + use<'a>, SszError> {
    let first = match bytes.first_chunk::<BYTES_PER_OFFSET>() {
        Some(first) => u32::from_le_bytes(*first) as usize,
        None if bytes.is_empty() => 0,
        None => return Err(SszError::Length { what, expected: BYTES_PER_OFFSET, got: bytes.len() }),
    };
    if !bytes.is_empty() && (first == 0 || !first.is_multiple_of(BYTES_PER_OFFSET) || first > bytes.len()) {
        return Err(SszError::Offset {
            what,
            index: 0,
            expected: bytes.len() / BYTES_PER_OFFSET * BYTES_PER_OFFSET,
            got: first,
        });
    }
    let count = first / BYTES_PER_OFFSET;
    if count > limit {
        return Err(SszError::TooMany { what, limit, got: count });
    }
    let offset = |at: &[u8]| u32::from_le_bytes(at.try_into().expect("4 bytes")) as usize;
    let offsets: Vec<usize> = bytes[..first].chunks_exact(BYTES_PER_OFFSET).map(offset).collect();
    check_offsets(what, &offsets, first, bytes.len())?;
    Ok((0..count).map(move |index| &bytes[offsets[index]..*offsets.get(index + 1).unwrap_or(&bytes.len())]))
}

/// Items of a list whose items have `N` bytes each; at most `limit`.
pub(super) fn fixed_items<'a, const N: usize>(
    what: &'static str,
    bytes: &'a [u8],
    limit: usize,
) -> Result<impl ExactSizeIterator<Item = [u8; N]> + use<'a, N>, SszError> {
    if !bytes.len().is_multiple_of(N) {
        return Err(SszError::Items { what, item: N, got: bytes.len() });
    }
    if bytes.len() / N > limit {
        return Err(SszError::TooMany { what, limit, got: bytes.len() / N });
    }
    Ok(bytes.chunks_exact(N).map(|item| item.try_into().expect("chunks have N bytes")))
}

/// Flags, one byte each.
pub(super) fn flags(what: &'static str, bytes: &[u8], limit: usize) -> Result<Vec<bool>, SszError> {
    fixed_items::<1>(what, bytes, limit)?
        .map(|[byte]| match byte {
            0 => Ok(false),
            1 => Ok(true),
            got => Err(SszError::Flag { what, got }),
        })
        .collect()
}

/// A field of free bytes, at most `limit`.
pub(super) fn bytes_up_to(what: &'static str, bytes: &[u8], limit: usize) -> Result<Vec<u8>, SszError> {
    match bytes.len() <= limit {
        true => Ok(bytes.to_vec()),
        false => Err(SszError::TooLong { what, limit, got: bytes.len() }),
    }
}

/// Writes a container: fixed fields in order, and for each variable field its offset, its bytes behind.
pub(super) struct Writer {
    fixed: Vec<u8>,
    fixed_length: usize,
    variable: Vec<u8>,
}

impl Writer {
    pub(super) fn new(fixed_length: usize) -> Self {
        Writer { fixed: Vec::with_capacity(fixed_length), fixed_length, variable: Vec::new() }
    }

    pub(super) fn fixed(mut self, field: &[u8]) -> Self {
        self.fixed.extend_from_slice(field);
        self
    }

    /// # Panics
    /// When the container is longer than 4 GiB; every message has a limit far below.
    pub(super) fn variable(mut self, field: &[u8]) -> Self {
        let offset = u32::try_from(self.fixed_length + self.variable.len()).expect("containers are shorter than 4 GiB");
        self.fixed.extend_from_slice(&offset.to_le_bytes());
        self.variable.extend_from_slice(field);
        self
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        debug_assert_eq!(self.fixed.len(), self.fixed_length);
        self.fixed.append(&mut self.variable);
        self.fixed
    }
}

/// A list whose items have no fixed length.
pub(super) fn write_variable_items(items: &[Vec<u8>]) -> Vec<u8> {
    let writer = Writer::new(items.len() * BYTES_PER_OFFSET);
    items.iter().fold(writer, |writer, item| writer.variable(item)).finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(bytes: &[u8]) -> Result<[Vec<u8>; 2], SszError> {
        let mut reader = Reader::new("pair", bytes, 9)?;
        let (first, _, second) = (reader.offset(), reader.array::<1>(), reader.offset());
        Ok(reader.fields([first, second])?.map(<[u8]>::to_vec))
    }

    #[test]
    fn containers_are_read_back_and_every_wrong_offset_is_refused() {
        let bytes = Writer::new(9).variable(b"ab").fixed(&[7]).variable(b"").finish();
        assert_eq!(bytes, [9, 0, 0, 0, 7, 11, 0, 0, 0, b'a', b'b']);
        assert_eq!(pair(&bytes).unwrap(), [b"ab".to_vec(), vec![]]);
        for (at, value) in [(0, 8), (0, 10), (0, 255), (3, 1), (5, 8), (5, 12), (8, 1)] {
            let mut wrong = bytes.clone();
            wrong[at] = value;
            assert!(matches!(pair(&wrong), Err(SszError::Offset { .. })), "{at} {value}");
        }
        for length in 0..9 {
            assert!(matches!(pair(&bytes[..length]), Err(SszError::Length { .. })));
        }
    }

    #[test]
    fn lists_have_whole_items_and_no_more_than_allowed() {
        let items = |bytes: &[u8], limit| variable_items("list", bytes, limit).map(|items| items.count());
        let list = write_variable_items(&[vec![1], vec![], vec![2, 3]]);
        assert_eq!(items(&list, 3), Ok(3));
        assert_eq!(items(&list, 2), Err(SszError::TooMany { what: "list", limit: 2, got: 3 }));
        assert_eq!(items(&[], 0), Ok(0));
        for wrong in
            [&[4, 0, 0][..], &[0, 0, 0, 0], &[5, 0, 0, 0, 1], &[8, 0, 0, 0], &[8, 0, 0, 0, 7, 0, 0, 0], &[255; 8]]
        {
            assert!(items(wrong, 9).is_err(), "{wrong:?}");
        }
        assert!(fixed_items::<8>("list", &[0; 15], 9).is_err());
        assert!(fixed_items::<8>("list", &[0; 16], 1).is_err());
        assert_eq!(flags("flags", &[0, 1], 2), Ok(vec![false, true]));
        assert_eq!(flags("flags", &[0, 2], 2), Err(SszError::Flag { what: "flags", got: 2 }));
        assert!(bytes_up_to("text", &[0; 3], 2).is_err());
    }
}
