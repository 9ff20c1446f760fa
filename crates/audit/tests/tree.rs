//! The tree and its proofs: the vectors that implementations of RFC 6962 share, and an independent tree, the recursive
//! definition of the RFC over whole lists.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use fetchml_audit::{
    Frontier, Hash, Plan, Subtree, leaf_hash, node_hash, subtree_root, verify_consistency, verify_inclusion,
};
use proptest::prelude::*;
use std::convert::Infallible;

/// Leaves of the shared vectors.
const LEAVES: [&str; 8] =
    ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
/// Roots over the first 0, 1, ... of them.
const ROOTS: [&str; 9] = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
];

fn hash(hex: &str) -> Hash {
    hex::decode(hex).unwrap().try_into().unwrap()
}

fn leaves(size: u64) -> Vec<Hash> {
    (0..size).map(|n| leaf_hash(&n.to_be_bytes())).collect()
}

fn shared_leaves() -> Vec<Hash> {
    LEAVES.iter().map(|leaf| leaf_hash(&hex::decode(leaf).unwrap())).collect()
}

fn frontier(leaves: &[Hash]) -> Frontier {
    let mut frontier = Frontier::new();
    for leaf in leaves {
        frontier.push(*leaf);
    }
    frontier
}

/// MTH of RFC 6962, over at least one leaf.
fn definition(leaves: &[Hash]) -> Hash {
    if let [leaf] = leaves {
        return *leaf;
    }
    let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
    node_hash(&definition(left), &definition(right))
}

fn prove(plan: &Plan, leaves: &[Hash]) -> Vec<Hash> {
    let of = |subtree: Subtree| {
        let range = subtree.leaves();
        Ok::<_, Infallible>(subtree_root(&leaves[range.start as usize..range.end as usize]).unwrap())
    };
    let Ok(proof) = plan.prove(of);
    proof
}

#[test]
fn the_shared_vectors_hold() {
    let leaves = shared_leaves();
    for (size, root) in ROOTS.iter().enumerate() {
        assert_eq!(hex::encode(frontier(&leaves[..size]).root()), *root, "{size}");
    }
    let inclusion = |index, size: u64| prove(&Plan::inclusion(index, size).unwrap(), &leaves);
    assert_eq!(
        inclusion(5, 8).map_hex(),
        [
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7"
        ]
    );
    assert_eq!(inclusion(2, 3).map_hex(), ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"]);
    assert!(inclusion(0, 1).is_empty());
    let consistency = |old, new| prove(&Plan::consistency(old, new).unwrap(), &leaves);
    assert_eq!(
        consistency(1, 8).map_hex(),
        [
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"
        ]
    );
    assert_eq!(
        consistency(6, 8).map_hex(),
        [
            "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7"
        ]
    );
    assert_eq!(
        consistency(2, 5).map_hex(),
        [
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"
        ]
    );
    assert!(verify_consistency(6, &hash(ROOTS[6]), 8, &hash(ROOTS[8]), &consistency(6, 8)));
    assert!(!verify_consistency(6, &hash(ROOTS[5]), 8, &hash(ROOTS[8]), &consistency(6, 8)));
}

trait MapHex {
    fn map_hex(&self) -> Vec<String>;
}

impl MapHex for Vec<Hash> {
    fn map_hex(&self) -> Vec<String> {
        self.iter().map(hex::encode).collect()
    }
}

#[test]
fn every_leaf_of_every_small_tree_is_proven_and_nothing_else() {
    let leaves = leaves(70);
    for size in 1..=70_u64 {
        let root = definition(&leaves[..size as usize]);
        assert_eq!(frontier(&leaves[..size as usize]).root(), root);
        for index in 0..size {
            let proof = prove(&Plan::inclusion(index, size).unwrap(), &leaves);
            let leaf = leaves[index as usize];
            assert!(verify_inclusion(&leaf, index, size, &proof, &root), "{index} of {size}");
            assert!(!verify_inclusion(&leaf, index + 1, size, &proof, &root));
            assert!(!verify_inclusion(&leaf_hash(b"other"), index, size, &proof, &root));
            assert!(!verify_inclusion(&leaf, index, size, &[proof.as_slice(), &[leaf]].concat(), &root));
            if let Some((_, shorter)) = proof.split_last() {
                assert!(!verify_inclusion(&leaf, index, size, shorter, &root));
            }
            for step in 0..proof.len() {
                let mut wrong = proof.clone();
                wrong[step][31] ^= 1;
                assert!(!verify_inclusion(&leaf, index, size, &wrong, &root));
            }
        }
        assert_eq!(Plan::inclusion(size, size), None);
    }
}

#[test]
fn every_small_tree_is_proven_to_begin_every_longer_one() {
    let leaves = leaves(70);
    let roots: Vec<_> = (0..=70).map(|size| frontier(&leaves[..size]).root()).collect();
    for new in 1..=70_u64 {
        for old in 1..=new {
            let proof = prove(&Plan::consistency(old, new).unwrap(), &leaves);
            let (old_root, new_root) = (roots[old as usize], roots[new as usize]);
            assert!(verify_consistency(old, &old_root, new, &new_root, &proof), "{old} of {new}");
            assert!(!verify_consistency(old, &new_root, new, &old_root, &proof) || old == new);
            assert!(!verify_consistency(old, &leaf_hash(b"other"), new, &new_root, &proof));
            assert!(!verify_consistency(old, &old_root, new, &leaf_hash(b"other"), &proof));
            assert!(!verify_consistency(old, &old_root, new, &new_root, &[proof.as_slice(), &[old_root]].concat()));
            for step in 0..proof.len() {
                let mut wrong = proof.clone();
                wrong[step][0] ^= 0x80;
                assert!(!verify_consistency(old, &old_root, new, &new_root, &wrong));
                assert!(!verify_consistency(old, &old_root, new, &new_root, &proof[..step]));
            }
        }
        assert_eq!(Plan::consistency(new + 1, new), None);
        assert_eq!(Plan::consistency(0, new), None);
    }
}

#[test]
fn a_tree_is_rebuilt_from_the_subtrees_that_it_completed() {
    let leaves = leaves(300);
    let mut stored = std::collections::BTreeMap::new();
    let mut grown = Frontier::new();
    for (size, leaf) in (1..).zip(&leaves) {
        grown.push_with(*leaf, |subtree, hash| assert!(stored.insert(subtree, hash).is_none()));
        let nodes = Frontier::subtrees(size).iter().map(|subtree| stored[subtree]).collect();
        assert_eq!(Frontier::from_parts(size, nodes), Some(grown.clone()));
    }
    for (subtree, hash) in stored {
        let range = subtree.leaves();
        assert_eq!(subtree_root(&leaves[range.start as usize..range.end as usize]), Some(hash), "{subtree:?}");
    }
    assert_eq!(Frontier::from_parts(3, vec![leaves[0]]), None);
    assert_eq!(subtree_root(&leaves[..3]), None);
    assert_eq!(subtree_root(&[]), None);
}

proptest! {
    /// Proofs of great trees need few hashes, all inside of the tree.
    #[test]
    fn plans_of_great_trees_are_small(size in 2_u64..1 << 52, part in 0.0..1.0_f64) {
        let index = ((size - 1) as f64 * part) as u64;
        for plan in [Plan::inclusion(index, size).unwrap(), Plan::consistency(index + 1, size).unwrap()] {
            prop_assert!(plan.subtrees().count() <= 2 * 53);
            for subtree in plan.subtrees() {
                prop_assert!(subtree.leaves().end <= size);
                prop_assert!(!subtree.leaves().is_empty());
            }
        }
    }

    #[test]
    fn verifiers_take_any_input(
        index in any::<u64>(), size in any::<u64>(), proof in proptest::collection::vec(any::<Hash>(), 0..70),
        hash in any::<Hash>(),
    ) {
        prop_assert!(!verify_inclusion(&hash, index, size, &proof, &[7; 32]));
        prop_assert!(!verify_consistency(index, &hash, size, &[7; 32], &proof));
    }
}
