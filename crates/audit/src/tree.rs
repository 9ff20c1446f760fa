//! The Merkle tree of RFC 6962 over the bodies of a log, as its right edge only: what is needed to append and to
//! tell the root is one hash for each binary digit of the size.

use crate::chain::Hash;
use sha2::{Digest, Sha256};

/// Marks a leaf, so that no inner node can be taken for one.
const LEAF_PREFIX: [u8; 1] = [0x00];
/// Marks an inner node.
const NODE_PREFIX: [u8; 1] = [0x01];

/// The leaf of an event's body.
pub fn leaf_hash(body: &[u8]) -> Hash {
    Sha256::new().chain_update(LEAF_PREFIX).chain_update(body).finalize().into()
}

/// The node above two others.
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    Sha256::new().chain_update(NODE_PREFIX).chain_update(left).chain_update(right).finalize().into()
}

/// A subtree whose leaves are all there: `2^level` of them, from leaf `index * 2^level` on, counted from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Subtree {
    /// Height: 0 is a leaf.
    pub level: u8,
    /// Position among the subtrees of its height, from 0.
    pub index: u64,
}

impl Subtree {
    /// The numbers of its leaves, counted from 0. The event with sequence number `n` is leaf `n - 1`.
    pub const fn leaves(self) -> std::ops::Range<u64> {
        (self.index << self.level)..((self.index + 1) << self.level)
    }
}

/// The right edge of a tree that grows: the roots of its full subtrees, the greatest first.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Frontier {
    size: u64,
    nodes: Vec<Hash>,
}

impl Frontier {
    /// The tree of no leaves.
    pub fn new() -> Self {
        Self::default()
    }

    /// A tree that was stored as [`Frontier::size`] and [`Frontier::nodes`]. None when they do not fit each other.
    pub fn from_parts(size: u64, nodes: Vec<Hash>) -> Option<Self> {
        (nodes.len() == size.count_ones() as usize).then_some(Self { size, nodes })
    }

    /// The subtrees whose roots [`Frontier::from_parts`] takes for a tree of `size` leaves, in that order.
    pub fn subtrees(size: u64) -> Vec<Subtree> {
        full_subtrees(0, size)
    }

    /// Number of leaves.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Roots of the full subtrees, from the left, which is from the greatest.
    pub fn nodes(&self) -> &[Hash] {
        &self.nodes
    }

    /// Takes the next leaf.
    pub fn push(&mut self, leaf: Hash) {
        self.push_with(leaf, |_, _| ());
    }

    /// Takes the next leaf and tells each subtree that it completes, itself first.
    pub fn push_with(&mut self, leaf: Hash, mut completed: impl FnMut(Subtree, Hash)) {
        let mut node = leaf;
        let mut place = Subtree { level: 0, index: self.size };
        completed(place, node);
        for _ in 0..self.size.trailing_ones() {
            let left = self.nodes.pop().expect("one node for each digit of the size");
            node = node_hash(&left, &node);
            place = Subtree { level: place.level + 1, index: place.index >> 1 };
            completed(place, node);
        }
        self.nodes.push(node);
        self.size += 1;
    }

    /// The root: that of RFC 6962, `SHA256("")` without leaves.
    pub fn root(&self) -> Hash {
        fold(&self.nodes).unwrap_or_else(|| Sha256::digest([]).into())
    }
}

/// The root over full subtrees that stand side by side, the greatest first. None: there are none.
pub(crate) fn fold(nodes: &[Hash]) -> Option<Hash> {
    let (last, rest) = nodes.split_last()?;
    Some(rest.iter().rev().fold(*last, |right, left| node_hash(left, &right)))
}

/// The full subtrees that make up the leaves `start..end`, where `start` is a multiple of a power of two that is not
/// smaller than their number, as all ranges of RFC 6962 are.
pub(crate) fn full_subtrees(start: u64, end: u64) -> Vec<Subtree> {
    let mut subtrees = Vec::new();
    let mut from = start;
    while from < end {
        let level = (end - from).ilog2() as u8;
        subtrees.push(Subtree { level, index: from >> level });
        from += 1 << level;
    }
    subtrees
}
