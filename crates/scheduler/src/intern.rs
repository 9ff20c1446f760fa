//! Values shared by many tasks, kept once and named by a small number. Counted, so that a value
//! leaves with its last user: nobody can grow the core by inventing shapes or names.

use std::collections::BTreeMap;

/// Values of `K`, each with data `V`, by number. Numbers are reused and carry no order.
#[derive(Debug)]
pub(crate) struct Interner<K, V> {
    ids: BTreeMap<K, u32>,
    entries: Vec<Option<Entry<K, V>>>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Entry<K, V> {
    key: K,
    value: V,
    uses: u32,
}

impl<K: Ord + Clone, V> Interner<K, V> {
    pub(crate) const fn new() -> Self {
        Self { ids: BTreeMap::new(), entries: Vec::new(), free: Vec::new() }
    }

    /// The number of `key`, with one use more.
    pub(crate) fn take(&mut self, key: K, make: impl FnOnce(&K) -> V) -> u32 {
        if let Some(&id) = self.ids.get(&key) {
            self.entry_mut(id).uses += 1;
            return id;
        }
        let entry = Entry { value: make(&key), key: key.clone(), uses: 1 };
        let id = if let Some(id) = self.free.pop() {
            self.entries[id as usize] = Some(entry);
            id
        } else {
            self.entries.push(Some(entry));
            u32::try_from(self.entries.len() - 1).expect("fewer than 2^32 distinct values fit into memory")
        };
        self.ids.insert(key, id);
        id
    }

    /// The number of `key`, if it is in use.
    pub(crate) fn find<Q: Ord + ?Sized>(&self, key: &Q) -> Option<u32>
    where
        K: std::borrow::Borrow<Q>,
    {
        self.ids.get(key).copied()
    }

    /// One use more of a number that is counted already.
    pub(crate) fn retain(&mut self, id: u32) {
        self.entry_mut(id).uses += 1;
    }

    /// One use less; the value leaves with its last.
    pub(crate) fn release(&mut self, id: u32) -> Option<V> {
        let entry = self.entry_mut(id);
        entry.uses -= 1;
        if entry.uses == 0 {
            let entry = self.entries[id as usize].take().expect("the entry was just read");
            self.ids.remove(&entry.key);
            self.free.push(id);
            return Some(entry.value);
        }
        None
    }

    pub(crate) fn key(&self, id: u32) -> &K {
        &self.entry(id).key
    }

    pub(crate) fn value(&self, id: u32) -> &V {
        &self.entry(id).value
    }

    pub(crate) fn value_mut(&mut self, id: u32) -> &mut V {
        &mut self.entry_mut(id).value
    }

    /// All values with their uses, in order of their keys.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &K, &V, u32)> {
        self.ids.iter().map(|(key, &id)| {
            let entry = self.entry(id);
            (id, key, &entry.value, entry.uses)
        })
    }

    fn entry(&self, id: u32) -> &Entry<K, V> {
        self.entries[id as usize].as_ref().expect("a number is used only while it is counted")
    }

    fn entry_mut(&mut self, id: u32) -> &mut Entry<K, V> {
        self.entries[id as usize].as_mut().expect("a number is used only while it is counted")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_leaves_with_its_last_use_and_its_number_is_reused() {
        let mut names: Interner<String, ()> = Interner::new();
        let ada = names.take("ada".into(), |_| ());
        assert_eq!(names.take("ada".into(), |_| ()), ada);
        let bob = names.take("bob".into(), |_| ());
        names.release(ada);
        assert_eq!(names.key(ada), "ada");
        names.release(ada);
        assert_eq!(names.iter().count(), 1);
        assert_eq!(names.take("cy".into(), |_| ()), ada);
        assert_eq!(names.key(bob), "bob");
    }
}
