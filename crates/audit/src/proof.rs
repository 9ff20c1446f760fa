//! Proofs of RFC 6962: that an event is in the tree of a checkpoint, and that one tree continues another.
//!
//! A [`Plan`] names the subtrees whose hashes a proof needs, at most about `2 log2(size)`, so that whoever stores
//! hashes fetches just those. With the roots of all subtrees of 256, 256^2, ... leaves stored (one row for 255 events),
//! a proof reads at most two blocks of 256 bodies and two of 256 hashes for each further level of eight.

use crate::{
    chain::Hash,
    tree::{Subtree, fold, full_subtrees, node_hash},
};

/// What a proof is made of: each hash of it is the root over some full subtrees.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    steps: Vec<Vec<Subtree>>,
}

impl Plan {
    /// Proof that leaf `index`, counted from 0, is in the tree of `size` leaves. None when it is not.
    pub fn inclusion(index: u64, size: u64) -> Option<Self> {
        if index >= size {
            return None;
        }
        let mut steps = Vec::new();
        let (mut start, mut end) = (0, size);
        while end - start > 1 {
            let middle = start + split(end - start);
            if index < middle {
                steps.push(full_subtrees(middle, end));
                end = middle;
            } else {
                steps.push(full_subtrees(start, middle));
                start = middle;
            }
        }
        steps.reverse();
        Some(Self { steps })
    }

    /// Proof that the tree of `new` leaves begins with the tree of `old` leaves. None when `old` is 0 or greater
    /// than `new`: every tree continues the empty one, and none a longer one.
    pub fn consistency(old: u64, new: u64) -> Option<Self> {
        if old == 0 || old > new {
            return None;
        }
        let mut steps = Vec::new();
        let (mut start, mut end) = (0, new);
        while end != old {
            let middle = start + split(end - start);
            if old <= middle {
                steps.push(full_subtrees(middle, end));
                end = middle;
            } else {
                steps.push(full_subtrees(start, middle));
                start = middle;
            }
        }
        if start > 0 {
            // The old tree is not the whole left side: its last part has to be told.
            steps.push(full_subtrees(start, end));
        }
        steps.reverse();
        Some(Self { steps })
    }

    /// The subtrees whose hashes [`Plan::prove`] asks for, in its order.
    pub fn subtrees(&self) -> impl Iterator<Item = Subtree> {
        self.steps.iter().flatten().copied()
    }

    /// The proof. `hash_of` gives the root of each of [`Plan::subtrees`].
    ///
    /// # Errors
    /// That of `hash_of`.
    pub fn prove<E>(&self, mut hash_of: impl FnMut(Subtree) -> Result<Hash, E>) -> Result<Vec<Hash>, E> {
        self.steps
            .iter()
            .map(|step| {
                let nodes = step.iter().map(|subtree| hash_of(*subtree)).collect::<Result<Vec<_>, _>>()?;
                Ok(fold(&nodes).expect("no range of a proof is empty"))
            })
            .collect()
    }
}

/// The root of a full subtree from the roots of the full subtrees of one height below it. None unless their number is
/// a power of two.
pub fn subtree_root(below: &[Hash]) -> Option<Hash> {
    if !below.len().is_power_of_two() {
        return None;
    }
    let mut row = below.to_vec();
    while row.len() > 1 {
        row = row.chunks_exact(2).map(|pair| node_hash(&pair[0], &pair[1])).collect();
    }
    row.pop()
}

/// Whether `proof` shows that leaf `index`, counted from 0, hashes to `leaf` in the tree of `size` leaves with `root`.
pub fn verify_inclusion(leaf: &Hash, index: u64, size: u64, proof: &[Hash], root: &Hash) -> bool {
    if index >= size {
        return false;
    }
    let (mut node, mut last) = (index, size - 1);
    let mut hash = *leaf;
    for step in proof {
        if last == 0 {
            return false;
        }
        if node & 1 == 1 || node == last {
            hash = node_hash(step, &hash);
            // Where the right edge has no sibling, the node is its own parent.
            let lone = node.trailing_zeros();
            (node, last) = (node >> lone, last >> lone);
        } else {
            hash = node_hash(&hash, step);
        }
        (node, last) = (node >> 1, last >> 1);
    }
    last == 0 && hash == *root
}

/// Whether `proof` shows that the tree of `new` leaves with `new_root` begins with the tree of `old` leaves with
/// `old_root`. An `old` of 0 or greater than `new` is never shown.
pub fn verify_consistency(old: u64, old_root: &Hash, new: u64, new_root: &Hash, proof: &[Hash]) -> bool {
    if old == 0 || old > new {
        return false;
    }
    if old == new {
        return proof.is_empty() && old_root == new_root;
    }
    // A full left side is proven by its root, which the verifier knows.
    let (first, rest) = match proof.split_first() {
        _ if old.is_power_of_two() => (old_root, proof),
        Some(split) => split,
        None => return false,
    };
    let below = (old - 1).trailing_ones();
    let (mut node, mut last) = ((old - 1) >> below, (new - 1) >> below);
    let (mut old_hash, mut new_hash) = (*first, *first);
    for step in rest {
        if last == 0 {
            return false;
        }
        if node & 1 == 1 || node == last {
            old_hash = node_hash(step, &old_hash);
            new_hash = node_hash(step, &new_hash);
            let lone = node.trailing_zeros();
            (node, last) = (node >> lone, last >> lone);
        } else {
            new_hash = node_hash(&new_hash, step);
        }
        (node, last) = (node >> 1, last >> 1);
    }
    last == 0 && old_hash == *old_root && new_hash == *new_root
}

/// The greatest power of two below `leaves`, which is at least 2.
const fn split(leaves: u64) -> u64 {
    1 << (leaves - 1).ilog2()
}
