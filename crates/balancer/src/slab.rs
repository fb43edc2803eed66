//! Slots with generation-tagged ids, so that an event about a socket that has gone cannot reach the one that took its slot.

/// Bits of an id that hold the slot; the generation sits above them and one bit is left to the caller.
const SLOT_BITS: u32 = 31;
const SLOT_MASK: u64 = (1 << SLOT_BITS) - 1;
const TAG_MASK: u32 = (1 << 30) - 1;

/// Id of an occupied slot. Fits in 61 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key(pub(crate) u64);

struct Slot<T> {
    tag: u32,
    value: Option<T>,
}

/// A growable set of slots.
pub(crate) struct Slab<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    len: usize,
}

impl<T> Slab<T> {
    pub(crate) fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new(), len: 0 }
    }

    /// Occupied slots, those whose value is taken out for the moment included.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Reserves a slot; it holds nothing until `put`.
    pub(crate) fn reserve(&mut self) -> Key {
        self.len += 1;
        let at = match self.free.pop() {
            Some(at) => at,
            None => {
                self.slots.push(Slot { tag: 0, value: None });
                (self.slots.len() - 1) as u32
            }
        };
        Key(u64::from(self.slots[at as usize].tag) << SLOT_BITS | u64::from(at))
    }

    /// Takes the value out and leaves the slot reserved.
    pub(crate) fn take(&mut self, key: Key) -> Option<T> {
        self.slot(key)?.value.take()
    }

    /// Puts a value into a reserved slot; a stale key drops it.
    pub(crate) fn put(&mut self, key: Key, value: T) {
        if let Some(slot) = self.slot(key) {
            slot.value = Some(value);
        }
    }

    /// Looks at a value in place.
    pub(crate) fn at(&mut self, key: Key) -> Option<&mut T> {
        self.slot(key)?.value.as_mut()
    }

    /// Frees the slot and makes its key stale.
    pub(crate) fn free(&mut self, key: Key) -> Option<T> {
        let slot = self.slot(key)?;
        slot.tag = (slot.tag + 1) & TAG_MASK;
        let value = slot.value.take();
        self.free.push((key.0 & SLOT_MASK) as u32);
        self.len -= 1;
        value
    }

    /// Keys of all slots that hold a value.
    pub(crate) fn keys(&self) -> Vec<Key> {
        self.slots
            .iter()
            .enumerate()
            .filter(|(_, slot)| slot.value.is_some())
            .map(|(at, slot)| Key(u64::from(slot.tag) << SLOT_BITS | at as u64))
            .collect()
    }

    fn slot(&mut self, key: Key) -> Option<&mut Slot<T>> {
        let tag = (key.0 >> SLOT_BITS) as u32;
        self.slots.get_mut((key.0 & SLOT_MASK) as usize).filter(|slot| slot.tag == tag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_key_reaches_nothing() {
        let mut slab = Slab::new();
        let old = slab.reserve();
        slab.put(old, "old");
        assert_eq!(slab.free(old), Some("old"));
        let new = slab.reserve();
        slab.put(new, "new");
        assert_ne!(old, new);
        assert_eq!(slab.take(old), None);
        assert_eq!(slab.free(old), None);
        assert_eq!(slab.at(new).copied(), Some("new"));
        assert_eq!(slab.len(), 1);
        assert_eq!(slab.keys(), vec![new]);
    }
}
