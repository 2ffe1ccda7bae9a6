//! The flow: one global array of sectors that submissions are appended to, and its merkle tree.
//!
//! A node of the tree whose sectors all lie below the flow's length never changes again, whatever is appended later.
//! So only such complete nodes are stored; the right edge at any length, past or present, is computed from them
//! and the zero ladder. That gives roots and proofs at every length without versions.

use crate::{
    digest::{H256, parent},
    file::SubmissionNode,
    tree::zero_root,
    units::{MAX_FLOW_HEIGHT, SECTORS_PER_LOAD},
};

/// Length of an empty flow: sector 0 is reserved.
pub const EMPTY_FLOW_LENGTH: u64 = 1;
/// Hash of the reserved sector 0: 32 zero bytes, which no data hashes to.
pub const RESERVED_LEAF: H256 = H256::ZERO;
/// Longest flow: far beyond the chain's reach, so that sums of positions never wrap.
pub const MAX_FLOW_LENGTH: u64 = 1 << 62;

/// Why a submission, or a question about the flow, is refused.
#[derive(Debug, thiserror::Error)]
pub enum FlowError<E> {
    /// The submission's nodes break a rule of the flow contract.
    #[error("invalid submission: {0}")]
    InvalidSubmission(&'static str),
    /// The flow would grow beyond [`MAX_FLOW_LENGTH`].
    #[error("the flow has {length} sectors and cannot take {sectors} more")]
    TooLong {
        /// Length before.
        length: u64,
        /// Sectors to add.
        sectors: u64,
    },
    /// A node that is needed is not known yet.
    #[error("node {index} at height {height} of the flow tree is not known yet")]
    Unknown {
        /// Height of the node.
        height: u32,
        /// Position among the nodes of that height.
        index: u64,
    },
    /// The node lies outside the flow of that length.
    #[error("node {index} at height {height} lies outside a flow of {length} sectors")]
    OutOfFlow {
        /// Height of the node.
        height: u32,
        /// Position among the nodes of that height.
        index: u64,
        /// Length of the flow.
        length: u64,
    },
    /// The place where nodes are kept failed.
    #[error(transparent)]
    Source(E),
}

/// Complete nodes of the flow tree, wherever they are kept.
pub trait FlowNodes {
    /// What can go wrong when a node is looked up.
    type Error;
    /// Hash of node `index` at `height` (0 is a sector), if it is known.
    fn node(&self, height: u32, index: u64) -> Result<Option<H256>, Self::Error>;
}

/// Where a submission comes to lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// First sector of the submission.
    pub start: u64,
    /// First sector of each node.
    pub node_starts: Vec<u64>,
    /// Length of the flow afterwards.
    pub end: u64,
}

/// Places a submission with nodes of these heights behind `length` sectors.
///
/// Each node is aligned to its size; a submission that would cross a load boundary starts on one.
pub fn place<E>(length: u64, heights: &[u32]) -> Result<Placement, FlowError<E>> {
    let first = *heights.first().ok_or(FlowError::InvalidSubmission("it has no nodes"))?;
    if heights.windows(2).any(|pair| pair[0] <= pair[1]) {
        return Err(FlowError::InvalidSubmission("its heights do not decrease"));
    }
    if first >= MAX_FLOW_HEIGHT || first - heights[heights.len() - 1] >= 4 {
        return Err(FlowError::InvalidSubmission("its heights are too far apart or too large"));
    }
    let sectors = heights.iter().fold(0u64, |sum, height| sum | 1 << height);
    let per_load = SECTORS_PER_LOAD as u64;
    if length > MAX_FLOW_LENGTH || sectors > MAX_FLOW_LENGTH / 4 {
        return Err(FlowError::TooLong { length, sectors });
    }
    let mut start = length.next_multiple_of(1 << first);
    if !start.is_multiple_of(per_load) && start / per_load != (start + sectors - 1) / per_load {
        start = start.next_multiple_of(per_load).next_multiple_of(1 << first);
    }
    let mut at = start;
    let mut node_starts = Vec::with_capacity(heights.len());
    for height in heights {
        at = at.next_multiple_of(1 << height);
        node_starts.push(at);
        at += 1 << height;
    }
    if at > MAX_FLOW_LENGTH {
        return Err(FlowError::TooLong { length, sectors });
    }
    Ok(Placement { start, node_starts, end: at })
}

/// A complete node of the flow tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowNode {
    /// 0 is a sector.
    pub height: u32,
    /// Position among the nodes of that height.
    pub index: u64,
    /// Its hash.
    pub hash: H256,
}

/// The complete nodes that an empty flow has: the reserved sector.
pub fn genesis_nodes() -> [FlowNode; 1] {
    [FlowNode { height: 0, index: 0, hash: RESERVED_LEAF }]
}

/// The complete nodes that come to be when a submission is placed behind `length` sectors: zeros in the gap, its own
/// nodes, and every parent that becomes complete. `tree` holds the complete nodes so far.
pub fn append<S: FlowNodes>(
    tree: &S,
    length: u64,
    placement: &Placement,
    nodes: &[SubmissionNode],
) -> Result<Vec<FlowNode>, FlowError<S::Error>> {
    let mut added = Added { tree, nodes: Vec::new() };
    let mut at = length;
    let gaps_and_nodes = placement.node_starts.iter().zip(nodes);
    for (start, node) in gaps_and_nodes {
        while at < *start {
            let height = at.trailing_zeros().min((start - at).ilog2());
            added.push(height, at >> height, zero_root(height))?;
            at += 1 << height;
        }
        added.push(node.height, at >> node.height, node.root)?;
        at += 1 << node.height;
    }
    Ok(added.nodes)
}

/// Nodes added by one submission, in front of those that were there.
struct Added<'a, S> {
    tree: &'a S,
    nodes: Vec<FlowNode>,
}

impl<S: FlowNodes> Added<'_, S> {
    fn push(&mut self, mut height: u32, mut index: u64, mut hash: H256) -> Result<(), FlowError<S::Error>> {
        self.nodes.push(FlowNode { height, index, hash });
        // A right child completes its parent: everything to its left is complete already.
        while index % 2 == 1 {
            let left = self.left_sibling(height, index - 1)?;
            (height, index, hash) = (height + 1, index / 2, parent(&left, &hash));
            self.nodes.push(FlowNode { height, index, hash });
        }
        Ok(())
    }

    fn left_sibling(&self, height: u32, index: u64) -> Result<H256, FlowError<S::Error>> {
        if let Some(node) = self.nodes.iter().rev().find(|node| (node.height, node.index) == (height, index)) {
            return Ok(node.hash);
        }
        self.tree.node(height, index).map_err(FlowError::Source)?.ok_or(FlowError::Unknown { height, index })
    }
}

/// Height of the tree over `length` sectors: the smallest k with 2^k >= `length`.
pub fn tree_height(length: u64) -> u32 {
    length.max(1).next_power_of_two().ilog2()
}

/// Flow root at `length` sectors.
pub fn root_at<S: FlowNodes>(tree: &S, length: u64) -> Result<H256, FlowError<S::Error>> {
    node_at(tree, length, tree_height(length), 0)
}

/// Node `index` at `height` of the tree over `length` sectors, zeros behind them.
pub fn node_at<S: FlowNodes>(tree: &S, length: u64, height: u32, index: u64) -> Result<H256, FlowError<S::Error>> {
    let start = index << height;
    if start >= length {
        return Ok(zero_root(height));
    }
    let complete = start + (1 << height) <= length;
    if complete && let Some(hash) = tree.node(height, index).map_err(FlowError::Source)? {
        return Ok(hash);
    }
    // An unknown node below a load is not searched for among its leaves: the data is not there.
    if height == 0 || (complete && height <= crate::units::LG_SECTORS_PER_LOAD) {
        return Err(FlowError::Unknown { height, index });
    }
    let left = node_at(tree, length, height - 1, 2 * index)?;
    let right = node_at(tree, length, height - 1, 2 * index + 1)?;
    Ok(parent(&left, &right))
}

/// Siblings from node `index` at `height` up to the root of the flow at `length` sectors, the root left out.
/// Step i goes to the right when bit i of `index` is 0.
pub fn siblings_at<S: FlowNodes>(
    tree: &S,
    length: u64,
    height: u32,
    index: u64,
) -> Result<Vec<H256>, FlowError<S::Error>> {
    let top = tree_height(length);
    if height > top || index.checked_shl(height).is_none_or(|start| start >= length || start >> height != index) {
        return Err(FlowError::OutOfFlow { height, index, length });
    }
    (height..top).map(|level| node_at(tree, length, level, index >> (level - height) ^ 1)).collect()
}

/// Root that `siblings` lead to from node `index` with this hash.
pub fn fold_siblings(hash: H256, index: u64, siblings: &[H256]) -> H256 {
    siblings.iter().enumerate().fold(hash, |node, (step, sibling)| {
        if index.checked_shr(step as u32).unwrap_or(0) & 1 == 0 {
            parent(&node, sibling)
        } else {
            parent(sibling, &node)
        }
    })
}

/// Proof that a sector belongs to the flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SectorProof {
    /// Hash of the sector.
    pub leaf: H256,
    /// Its siblings from bottom to top, the root left out; step i goes to the right when bit i of the sector is 0.
    pub siblings: Vec<H256>,
}

impl SectorProof {
    /// Root that it leads to from sector `sector`.
    pub fn root(&self, sector: u64) -> H256 {
        fold_siblings(self.leaf, sector, &self.siblings)
    }
}

/// What a range of sectors with proofs of its two ends shows about the flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProvenRange {
    /// Root of the tree that it belongs to.
    pub root: H256,
    /// Every node below the root, from the height that was asked for, whose hash follows: those over the range, and their
    /// siblings. Some may lie behind the end of the flow, where all is zeros.
    pub nodes: Vec<FlowNode>,
}

/// Checks that sectors with the hashes `leaves`, the first of them being sector `first`, belong to one tree, given the proofs
/// of the first and of the last. Every node over the range is computed anew: siblings left of the range come from `left`,
/// those right of it from `right`. Nodes from `from_height` on are returned.
///
/// Which root the tree should have, and how high it should be, is for the caller to check.
pub fn check_range(
    first: u64,
    leaves: Vec<H256>,
    left: &SectorProof,
    right: &SectorProof,
    from_height: u32,
) -> Result<ProvenRange, &'static str> {
    let (Some(first_leaf), Some(last_leaf)) = (leaves.first(), leaves.last()) else {
        return Err("there are no sectors");
    };
    let height = left.siblings.len();
    if right.siblings.len() != height {
        return Err("its two ends have different heights");
    }
    let last = first.checked_add(leaves.len() as u64 - 1).filter(|last| height < 64 && last >> height == 0);
    let Some(last) = last else { return Err("it lies outside the tree") };
    if left.leaf != *first_leaf || right.leaf != *last_leaf {
        return Err("its leaf is not the hash of the sector");
    }
    let root = left.root(first);
    if right.root(last) != root {
        return Err("its two ends lead to different roots");
    }
    let mut nodes = leaves;
    let mut index = first;
    let mut shown = Vec::new();
    for (level, (left, right)) in (0..).zip(left.siblings.iter().zip(&right.siblings)) {
        if index % 2 == 1 {
            nodes.insert(0, *left);
            index -= 1;
        }
        if nodes.len() % 2 == 1 {
            nodes.push(*right);
        }
        if level >= from_height {
            shown.extend((index..).zip(&nodes).map(|(index, hash)| FlowNode { height: level, index, hash: *hash }));
        }
        nodes = nodes.chunks(2).map(|pair| parent(&pair[0], &pair[1])).collect();
        index /= 2;
    }
    match nodes[0] == root {
        true => Ok(ProvenRange { root, nodes: shown }),
        false => Err("the sectors do not lead to the root"),
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, convert::Infallible};

    use super::*;
    use crate::{digest::keccak256, tree::unbalanced_root};

    #[derive(Default)]
    struct Memory(HashMap<(u32, u64), H256>);

    impl FlowNodes for Memory {
        type Error = Infallible;
        fn node(&self, height: u32, index: u64) -> Result<Option<H256>, Infallible> {
            Ok(self.0.get(&(height, index)).copied())
        }
    }

    impl Memory {
        fn new() -> Self {
            let mut memory = Memory::default();
            memory.add(genesis_nodes().to_vec());
            memory
        }
        fn add(&mut self, nodes: Vec<FlowNode>) {
            self.0.extend(nodes.into_iter().map(|node| ((node.height, node.index), node.hash)));
        }
        fn submit(&mut self, length: u64, nodes: &[SubmissionNode]) -> Placement {
            let heights: Vec<u32> = nodes.iter().map(|node| node.height).collect();
            let placement = place::<Infallible>(length, &heights).unwrap();
            let added = append(self, length, &placement, nodes).unwrap();
            self.add(added);
            placement
        }
    }

    fn known(text: &str) -> H256 {
        text.parse().unwrap()
    }

    /// Appendix A.4 of the protocol sheet.
    #[test]
    fn flow_roots_of_the_sheet() {
        let r0 = known("dc924469b334aed2a19fac7252e9961aea41f8d91996366029dbe0884229bf36");
        let r1 = known("04473d35bbe932a074046f571ee33f20ecb27cb3b8587cc3b48825c764c882d7");
        let mut tree = Memory::new();
        assert_eq!(root_at(&tree, 1).unwrap(), H256::ZERO);
        assert_eq!(tree.submit(1, &[SubmissionNode { root: r0, height: 0 }]).end, 2);
        assert_eq!(
            root_at(&tree, 2).unwrap(),
            known("e0c046404115b2ee309f989bc0bc0c6b092f5787adb82ff9df17f6ce861bf01b")
        );
        assert_eq!(tree.submit(2, &[SubmissionNode { root: r1, height: 1 }]).end, 4);
        assert_eq!(
            root_at(&tree, 4).unwrap(),
            known("3d8e99c8ad9c0accc65ebb22bca3be02d10f49a1950b995f7e9b926a6d79b2f4")
        );
        assert_eq!(tree.submit(4, &[SubmissionNode { root: r0, height: 0 }]).end, 5);
        assert_eq!(
            root_at(&tree, 5).unwrap(),
            known("fafcc02de023b1913ce921b8ef86cb1c38d65ffd1772890b3ea85e99dce3254f")
        );
        // Earlier lengths keep their roots.
        assert_eq!(
            root_at(&tree, 2).unwrap(),
            known("e0c046404115b2ee309f989bc0bc0c6b092f5787adb82ff9df17f6ce861bf01b")
        );
    }

    #[test]
    fn submissions_come_to_lie_where_the_contract_puts_them() {
        let lengths = |steps: &[&[u32]]| {
            steps
                .iter()
                .scan(1, |length, heights| {
                    let placement = place::<Infallible>(*length, heights).unwrap();
                    *length = placement.end;
                    Some((placement.start, placement.end))
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(lengths(&[&[0], &[3, 2, 1], &[7, 6], &[9, 8]]), [(1, 2), (8, 22), (128, 320), (1024, 1792)]);
        assert_eq!(lengths(&[&[8], &[9, 8, 7, 6], &[9, 8, 7, 6]]), [(256, 512), (1024, 1984), (2048, 3008)]);
        for wrong in [&[][..], &[1, 1], &[0, 1], &[64], &[8, 4], &[63]] {
            assert!(place::<Infallible>(1, wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn proofs_at_every_length_lead_to_the_root_over_all_leaves() {
        let mut tree = Memory::new();
        let mut leaves = vec![RESERVED_LEAF];
        let mut lengths = vec![1u64];
        for (step, sectors) in [1usize, 3, 8, 5, 1, 16, 2, 30].into_iter().enumerate() {
            let shape = crate::file::FileShape::new(sectors as u64 * 256).unwrap();
            let heights = shape.node_heights();
            let placement = place::<Infallible>(leaves.len() as u64, &heights).unwrap();
            leaves.resize(placement.start as usize, zero_root(0));
            let data: Vec<H256> = (0..shape.padded_sectors()).map(|i| keccak256(&[&[step as u8, i as u8]])).collect();
            let nodes: Vec<SubmissionNode> = heights
                .iter()
                .zip(&placement.node_starts)
                .map(|(height, start)| {
                    let from = (start - placement.start) as usize;
                    SubmissionNode {
                        root: unbalanced_root(&data[from..from + (1 << height)]).unwrap(),
                        height: *height,
                    }
                })
                .collect();
            tree.submit(*lengths.last().unwrap(), &nodes);
            leaves.extend(&data);
            lengths.push(placement.end);
            // Leaves of what was submitted become known with the data.
            tree.add((0u64..).zip(&leaves).map(|(index, hash)| FlowNode { height: 0, index, hash: *hash }).collect());
            for levels in 1..4 {
                let known: Vec<FlowNode> = (0..leaves.len() as u64 >> levels)
                    .map(|index| FlowNode {
                        height: levels,
                        index,
                        hash: unbalanced_root(&leaves[(index << levels) as usize..((index + 1) << levels) as usize])
                            .unwrap(),
                    })
                    .collect();
                tree.add(known);
            }
        }
        for length in lengths {
            let mut all = leaves[..length as usize].to_vec();
            all.resize(1 << tree_height(length), zero_root(0));
            let root = unbalanced_root(&all).unwrap();
            assert_eq!(root_at(&tree, length).unwrap(), root);
            for index in 0..length {
                let siblings = siblings_at(&tree, length, 0, index).unwrap();
                assert_eq!(fold_siblings(leaves[index as usize], index, &siblings), root);
            }
            assert!(siblings_at(&tree, length, 0, length).is_err());
            assert!(siblings_at(&tree, length, 0, u64::MAX).is_err());
        }
    }

    /// A tree of which every node over `leaves` is known.
    fn whole(leaves: &[H256]) -> Memory {
        let mut tree = Memory::default();
        for height in 0..=tree_height(leaves.len() as u64) {
            let nodes = leaves.chunks_exact(1 << height).enumerate().map(|(index, leaves)| FlowNode {
                height,
                index: index as u64,
                hash: unbalanced_root(leaves).unwrap(),
            });
            tree.add(nodes.collect());
        }
        tree
    }

    #[test]
    fn ranges_show_their_nodes_and_lies_are_found_out() {
        let leaves: Vec<H256> = (0..21u8).map(|sector| keccak256(&[&[sector]])).collect();
        let tree = whole(&leaves);
        let proof = |length: u64, sector: u64| SectorProof {
            leaf: leaves[sector as usize],
            siblings: siblings_at(&tree, length, 0, sector).unwrap(),
        };
        for length in [1, 2, 3, 8, 9, 16, 21] {
            let root = root_at(&tree, length).unwrap();
            for first in 0..length {
                for last in first..length {
                    let inside = leaves[first as usize..=last as usize].to_vec();
                    let (left, right) = (proof(length, first), proof(length, last));
                    let range = check_range(first, inside.clone(), &left, &right, 1).unwrap();
                    assert_eq!(range.root, root);
                    for node in &range.nodes {
                        assert!(node.height >= 1);
                        assert_eq!(node_at(&tree, length, node.height, node.index).unwrap(), node.hash, "{node:?}");
                    }
                    let mut wrong = inside.clone();
                    for at in 0..inside.len() {
                        wrong[at].0[3] ^= 1;
                        assert!(check_range(first, wrong.clone(), &left, &right, 0).is_err());
                        wrong[at].0[3] ^= 1;
                    }
                    for at in 0..left.siblings.len() {
                        let mut wrong = left.clone();
                        wrong.siblings[at].0[0] ^= 1;
                        assert!(check_range(first, inside.clone(), &wrong, &right, 0).is_err());
                        let mut wrong = right.clone();
                        wrong.siblings[at].0[0] ^= 1;
                        assert!(check_range(first, inside.clone(), &left, &wrong, 0).is_err());
                    }
                    let mut short = left.clone();
                    assert!(
                        short.siblings.pop().is_none()
                            || check_range(first, inside.clone(), &short, &right, 0).is_err()
                    );
                    assert!(check_range(first + 32, inside.clone(), &left, &right, 0).is_err());
                    assert!(check_range(u64::MAX, inside, &left, &right, 0).is_err());
                }
            }
        }
        let empty = SectorProof { leaf: H256::ZERO, siblings: Vec::new() };
        assert!(check_range(0, Vec::new(), &empty, &empty, 0).is_err());
        let high = SectorProof { leaf: H256::ZERO, siblings: vec![H256::ZERO; 64] };
        assert!(check_range(0, vec![H256::ZERO], &high, &high, 0).is_err());
    }

    #[test]
    fn unknown_nodes_are_named() {
        let mut tree = Memory::new();
        tree.submit(1, &[SubmissionNode { root: H256([7; 32]), height: 12 }]);
        let error = siblings_at(&tree, 8192, 10, 5).unwrap_err();
        assert!(matches!(error, FlowError::Unknown { height: 10, .. }), "{error}");
    }
}
