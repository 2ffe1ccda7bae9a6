//! A file as the network sees it: its padding, the nodes it is submitted as, its root, and proofs of its segments.
//!
//! Source: `spec` of the network, files and merkle trees. A segment is a load that belongs to a file.

use std::io::Read;

use crate::{
    digest::{H256, keccak256, parent},
    tree::{sector_hashes, unbalanced_levels, unbalanced_root, zero_root},
    units::{BYTES_PER_LOAD, BYTES_PER_SECTOR, LG_SECTORS_PER_LOAD, SECTORS_PER_LOAD},
};

/// Longest file that can be described: 2^62 bytes, far beyond what a flow holds, so that sums of sectors never wrap.
pub const MAX_FILE_BYTES: u64 = 1 << 62;

/// Why a file, or a proof of a part of it, is refused.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// A file without bytes cannot be submitted.
    #[error("the file is empty; the network stores files of at least 1 byte")]
    Empty,
    /// The file is longer than any flow.
    #[error("the file has {size} bytes, the limit is {limit}", limit = MAX_FILE_BYTES)]
    TooLong {
        /// Its length in bytes.
        size: u64,
    },
    /// The file had another length when it was read than when it was opened.
    #[error("the file had {expected} bytes when it was opened and {got} when it was read")]
    LengthChanged {
        /// Length at first.
        expected: u64,
        /// Length later.
        got: u64,
    },
    /// Reading failed.
    #[error("the file cannot be read: {0}")]
    Read(#[from] std::io::Error),
    /// The index names no segment of the file.
    #[error("segment {index} asked for, the file has {segments}")]
    NoSuchSegment {
        /// Index asked for.
        index: u64,
        /// Number of segments.
        segments: u64,
    },
    /// A segment has the wrong number of bytes.
    #[error("segment {index} has {got} bytes, expected {expected}")]
    SegmentLength {
        /// Which segment.
        index: u64,
        /// Bytes it must have.
        expected: u64,
        /// Bytes it has.
        got: u64,
    },
    /// A segment's proof does not lead to the file's root.
    #[error("the proof of segment {index} is wrong: {reason}")]
    Proof {
        /// Which segment.
        index: u64,
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// Lengths of a file in every unit that the protocol counts it in, all derived from its length in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileShape {
    size: u64,
}

impl FileShape {
    /// Shape of a file of `size` bytes; fails for 0 and for more than [`MAX_FILE_BYTES`].
    pub fn new(size: u64) -> Result<Self, FileError> {
        match size {
            0 => Err(FileError::Empty),
            size if size > MAX_FILE_BYTES => Err(FileError::TooLong { size }),
            size => Ok(FileShape { size }),
        }
    }

    /// Length in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Sectors that hold data.
    pub fn sectors(&self) -> u64 {
        self.size.div_ceil(BYTES_PER_SECTOR as u64)
    }

    /// Sectors after padding: a multiple of a sixteenth of the next power of two, so that at most 4 nodes are needed.
    pub fn padded_sectors(&self) -> u64 {
        let sectors = self.sectors();
        let power = sectors.next_power_of_two();
        sectors.next_multiple_of((power / 16).max(1))
    }

    /// Heights of the nodes it is submitted as: strictly decreasing, at most 4.
    pub fn node_heights(&self) -> Vec<u32> {
        let padded = self.padded_sectors();
        (0..u64::BITS).rev().filter(|height| padded >> height & 1 == 1).collect()
    }

    /// Segments that hold data: the ones a client uploads.
    pub fn segments(&self) -> u64 {
        self.sectors().div_ceil(SECTORS_PER_LOAD as u64)
    }

    /// Segments after padding: the leaves of the segment tree.
    pub fn proof_segments(&self) -> u64 {
        self.padded_sectors().div_ceil(SECTORS_PER_LOAD as u64)
    }

    /// Bytes of data in segment `index`; 0 for a segment that is padding alone.
    pub fn segment_bytes(&self, index: u64) -> usize {
        let start = index.saturating_mul(BYTES_PER_LOAD as u64).min(self.size);
        (self.size - start).min(BYTES_PER_LOAD as u64) as usize
    }

    /// Sectors of segment `index` after padding; 0 beyond the last.
    pub fn segment_sectors(&self, index: u64) -> usize {
        let start = index.saturating_mul(SECTORS_PER_LOAD as u64).min(self.padded_sectors());
        (self.padded_sectors() - start).min(SECTORS_PER_LOAD as u64) as usize
    }
}

/// A node of a submission: the root of a balanced tree of 2^`height` sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubmissionNode {
    /// Root of the subtree.
    pub root: H256,
    /// Edges between the root and its leaves.
    pub height: u32,
}

/// Identity digest of a submission: keccak256 of its node roots laid end to end.
pub fn submission_identity(nodes: &[SubmissionNode]) -> H256 {
    keccak256(&nodes.iter().map(|node| &node.root.0[..]).collect::<Vec<_>>())
}

/// File root of a submission: its node roots folded from the right. `None` for no nodes.
pub fn submission_root(nodes: &[SubmissionNode]) -> Option<H256> {
    nodes.iter().map(|node| node.root).rev().reduce(|right, left| parent(&left, &right))
}

/// Proof that a segment belongs to a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileProof {
    /// The segment's root, its siblings from bottom to top, the file root. One entry when the file is one segment.
    pub lemma: Vec<H256>,
    /// For each sibling: true when the running node is the left child.
    pub path: Vec<bool>,
}

/// The merkle tree of a file down to its segments, and to sectors in the last segment.
#[derive(Clone, Debug)]
pub struct FileTree {
    shape: FileShape,
    /// Roots of all padded segments, then every level above them up to the root; see [`unbalanced_levels`].
    levels: Vec<Vec<H256>>,
    /// Sector hashes of the last padded segment.
    tail: Vec<H256>,
}

/// Sector hashes of a segment, padded with zero sectors to `sectors`.
fn padded_leaves(data: &[u8], sectors: usize) -> Vec<H256> {
    let mut leaves = sector_hashes(data);
    leaves.resize(sectors, zero_root(0));
    leaves
}

/// Root of segment `index` of a file from its data, without padding.
pub fn segment_root(shape: &FileShape, index: u64, data: &[u8]) -> Result<H256, FileError> {
    let expected = shape.segment_bytes(index);
    if data.len() != expected {
        return Err(FileError::SegmentLength { index, expected: expected as u64, got: data.len() as u64 });
    }
    unbalanced_root(&padded_leaves(data, shape.segment_sectors(index)))
        .ok_or(FileError::NoSuchSegment { index, segments: shape.proof_segments() })
}

impl FileTree {
    /// Reads a file of `shape.size()` bytes from `data` and builds its tree; `progress` is told the bytes of each segment read.
    pub fn read(shape: FileShape, mut data: impl Read, mut progress: impl FnMut(usize)) -> Result<Self, FileError> {
        let mut segment_roots = Vec::new();
        let mut tail = Vec::new();
        let mut buffer = vec![0u8; BYTES_PER_LOAD];
        let mut read = 0u64;
        for index in 0..shape.proof_segments() {
            let segment = &mut buffer[..shape.segment_bytes(index)];
            data.read_exact(segment).map_err(|error| match error.kind() {
                std::io::ErrorKind::UnexpectedEof => FileError::LengthChanged { expected: shape.size, got: read },
                _ => FileError::Read(error),
            })?;
            read += segment.len() as u64;
            tail = padded_leaves(segment, shape.segment_sectors(index));
            segment_roots.push(unbalanced_root(&tail).expect("a padded segment has a sector"));
            progress(segment.len());
        }
        if data.read(&mut [0u8])? != 0 {
            return Err(FileError::LengthChanged { expected: shape.size, got: shape.size + 1 });
        }
        Ok(FileTree { shape, levels: unbalanced_levels(segment_roots), tail })
    }

    /// Lengths of the file.
    pub fn shape(&self) -> &FileShape {
        &self.shape
    }

    /// Roots of its padded segments.
    pub fn segment_roots(&self) -> &[H256] {
        &self.levels[0]
    }

    /// The file root, called data root by the network.
    pub fn root(&self) -> H256 {
        self.levels[self.levels.len() - 1][0]
    }

    /// The nodes it is submitted as, largest first.
    pub fn submission_nodes(&self) -> Vec<SubmissionNode> {
        let mut segment = 0;
        let mut sector = 0;
        let mut nodes = Vec::new();
        for height in self.shape.node_heights() {
            let (leaves, next) = if height >= LG_SECTORS_PER_LOAD {
                (&self.levels[0], (&mut segment, 1usize << (height - LG_SECTORS_PER_LOAD)))
            } else {
                (&self.tail, (&mut sector, 1usize << height))
            };
            let (start, count) = next;
            let root = unbalanced_root(&leaves[*start..*start + count]).expect("a node has a leaf");
            *start += count;
            nodes.push(SubmissionNode { root, height });
        }
        nodes
    }

    /// Proof of segment `index`.
    pub fn proof(&self, index: u64) -> Result<FileProof, FileError> {
        let segments = self.levels[0].len();
        let mut at = usize::try_from(index)
            .ok()
            .filter(|index| *index < segments)
            .ok_or(FileError::NoSuchSegment { index, segments: segments as u64 })?;
        let mut lemma = vec![self.levels[0][at]];
        let mut path = Vec::new();
        for level in &self.levels[..self.levels.len() - 1] {
            // The last node of an odd level has no sibling: it moves up as it is.
            if let Some(sibling) = level.get(at ^ 1) {
                lemma.push(*sibling);
                path.push(at % 2 == 0);
            }
            at /= 2;
        }
        if segments > 1 {
            lemma.push(self.root());
        }
        Ok(FileProof { lemma, path })
    }
}

impl FileProof {
    /// Checks that `data` is segment `index` of the file with this shape and root.
    ///
    /// The claimed position, the length, the leaf, each step and the values in the padding are all checked.
    pub fn verify(&self, shape: &FileShape, root: &H256, index: u64, data: &[u8]) -> Result<(), FileError> {
        if index >= shape.segments() {
            return Err(FileError::NoSuchSegment { index, segments: shape.segments() });
        }
        let refuse = |reason| Err(FileError::Proof { index, reason });
        let expected_lemma = if shape.proof_segments() == 1 { 1 } else { self.path.len() + 2 };
        if self.lemma.len() != expected_lemma || (self.lemma.len() == 1 && !self.path.is_empty()) {
            return refuse("lemma and path do not fit together");
        }
        if self.lemma[0] != segment_root(shape, index, data)? {
            return refuse("its leaf is not the root of the data");
        }
        if self.lemma[self.lemma.len() - 1] != *root {
            return refuse("it leads to another file root");
        }
        // Walk from the top: the tree is unbalanced, so the position follows from the sizes of the subtrees.
        let (mut start, mut count) = (0u64, shape.proof_segments());
        for (step, is_left) in self.path.iter().enumerate().rev() {
            if count <= 1 {
                return refuse("its path is too long");
            }
            let half = count.next_power_of_two() / 2;
            if *is_left {
                // The right sibling covers [start + half, start + count): all padding, its value is known.
                if start + half >= shape.segments()
                    && (count - half).is_power_of_two()
                    && self.lemma[step + 1] != zero_root((count - half).ilog2() + LG_SECTORS_PER_LOAD)
                {
                    return refuse("a sibling in the padding is not the root of zeros");
                }
                count = half;
            } else {
                (start, count) = (start + half, count - half);
            }
        }
        if count != 1 {
            return refuse("its path is too short");
        }
        if start != index {
            return refuse("its path leads to another segment");
        }
        let folded = self.path.iter().zip(&self.lemma[1..]).fold(self.lemma[0], |node, (is_left, sibling)| {
            if *is_left { parent(&node, sibling) } else { parent(sibling, &node) }
        });
        if folded != *root {
            return refuse("its hashes do not lead to the root");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(size: usize) -> (FileTree, Vec<u8>) {
        let data: Vec<u8> = (0..size).map(|i| i as u8).collect();
        let shape = FileShape::new(size as u64).unwrap();
        (FileTree::read(shape, &data[..], |_| ()).unwrap(), data)
    }

    #[test]
    fn padding_gives_at_most_four_nodes() {
        let heights = |sectors: u64| FileShape::new(sectors * 256).unwrap().node_heights();
        assert_eq!(heights(1), [0]);
        assert_eq!(heights(5), [2, 0]);
        assert_eq!(heights(17), [4, 1]);
        assert_eq!(heights(1025), [10, 7]);
        assert_eq!(heights(960), [9, 8, 7, 6]);
        for sectors in 1..5000 {
            let shape = FileShape::new(sectors * 256 - 255).unwrap();
            assert!(shape.node_heights().len() <= 4 && shape.padded_sectors() >= sectors);
            assert_eq!(shape.sectors(), sectors);
        }
        assert!(matches!(FileShape::new(0), Err(FileError::Empty)));
        assert!(matches!(FileShape::new(u64::MAX), Err(FileError::TooLong { .. })));
    }

    /// Appendix A.3 of the protocol sheet: content byte i is i mod 256.
    #[test]
    fn roots_of_the_sheet() {
        let rows: [(usize, &[u32], &str, &str); 6] = [
            (
                256,
                &[0],
                "dc924469b334aed2a19fac7252e9961aea41f8d91996366029dbe0884229bf36",
                "4fdc7f06abe65799b346ea580eb897f5d6333f54f498eea8da678267d8df67a5",
            ),
            (
                257,
                &[1],
                "04473d35bbe932a074046f571ee33f20ecb27cb3b8587cc3b48825c764c882d7",
                "53b1cfc10f9a6357980901f445722de42c9b736e3fda73a73110965471c85d8a",
            ),
            (
                1023,
                &[2],
                "b63422c1d11eb5981af9b8ebfe35a55b18e7ce7d54528727417b845fd517634f",
                "574e71900c6d84031dfd9f9c68b5a2777e45d430c6be92cd38cd7ef5b61815ad",
            ),
            (
                4352,
                &[4, 1],
                "51a7447034b868706ef348a0ae88ace21ad40b38b40cecced96e7cc4e3bb3717",
                "51a7447034b868706ef348a0ae88ace21ad40b38b40cecced96e7cc4e3bb3717",
            ),
            (
                262144,
                &[10],
                "d37eec890048ff5f2e3b33665811d40e7d0970e2d286c34e818fd5fb65ee03bf",
                "58e7c6acf5cfd2fc9e8e5c80aca2279255f0562ecbc1bb13c68fc633252e4780",
            ),
            (
                262400,
                &[10, 7],
                "d9c86ee12a66e3c7b3913d8f27b78b7be6ba1a3b693ed0f56b838c5440608569",
                "d9c86ee12a66e3c7b3913d8f27b78b7be6ba1a3b693ed0f56b838c5440608569",
            ),
        ];
        for (size, heights, root, identity) in rows {
            let (tree, _) = tree(size);
            let nodes = tree.submission_nodes();
            assert_eq!(nodes.iter().map(|node| node.height).collect::<Vec<_>>(), heights, "{size}");
            assert_eq!(tree.root(), root.parse().unwrap(), "{size}");
            assert_eq!(submission_root(&nodes), Some(tree.root()), "{size}");
            assert_eq!(submission_identity(&nodes), identity.parse().unwrap(), "{size}");
        }
    }

    #[test]
    fn every_segment_is_proven_and_every_change_refused() {
        for size in [1, 262_144, 262_145, 262_144 * 3, 262_144 * 5 + 77, 262_144 * 17 + 1] {
            let (tree, data) = tree(size);
            let (shape, root) = (*tree.shape(), tree.root());
            assert_eq!(submission_root(&tree.submission_nodes()), Some(root));
            for (index, segment) in (0..).zip(data.chunks(BYTES_PER_LOAD)) {
                let proof = tree.proof(index).unwrap();
                proof.verify(&shape, &root, index, segment).unwrap();
                let mut other = segment.to_vec();
                other[0] ^= 1;
                assert!(proof.verify(&shape, &root, index, &other).is_err());
                assert!(proof.verify(&shape, &root, index, &segment[1..]).is_err());
                assert!(proof.verify(&shape, &root, index + 1, segment).is_err());
                assert!(proof.verify(&shape, &H256::ZERO, index, segment).is_err());
                for at in 0..proof.lemma.len() {
                    let mut wrong = proof.clone();
                    wrong.lemma[at].0[5] ^= 1;
                    assert!(wrong.verify(&shape, &root, index, segment).is_err());
                }
                for at in 0..proof.path.len() {
                    let mut wrong = proof.clone();
                    wrong.path[at] = !wrong.path[at];
                    assert!(wrong.verify(&shape, &root, index, segment).is_err());
                }
                let empty = FileProof { lemma: vec![], path: vec![] };
                assert!(empty.verify(&shape, &root, index, segment).is_err());
            }
            assert!(tree.proof(shape.proof_segments()).is_err());
        }
    }

    #[test]
    fn a_file_that_changes_while_it_is_read_is_refused() {
        let shape = FileShape::new(1000).unwrap();
        assert!(matches!(FileTree::read(shape, &[0u8; 999][..], |_| ()), Err(FileError::LengthChanged { .. })));
        assert!(matches!(FileTree::read(shape, &[0u8; 1001][..], |_| ()), Err(FileError::LengthChanged { .. })));
    }
}
