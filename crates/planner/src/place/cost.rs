//! What a placement costs: several numbers, each of which matters only where all before it are equal.

use std::ops::{Add, AddAssign, Neg, Sub};

/// Lower is better, field by field in this order.
///
/// Sums and differences are field by field too, so that the order is kept when the same is added to both sides: all
/// that greedy choice and shortest paths ask of a cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Cost {
    /// −1 for each instance that the load itself needs.
    pub(super) load: i32,
    /// −1 for each instance that counts for the model.
    pub(super) apart: i32,
    /// −1 for each instance.
    pub(super) placed: i32,
    /// 1 for each instance on a node that takes one only when there is no other.
    pub(super) reluctant: i32,
    /// Less for instances on nodes that the service should be on before all others.
    pub(super) pull: i32,
    /// More for each further instance in a domain that has more than count.
    pub(super) crowding: i32,
    /// 1 for each instance that has to start where none is now.
    pub(super) moves: i32,
    /// The place of each instance's node among the preferred ones.
    pub(super) prefer: i32,
}

/// So many pulled nodes are told apart: each is worth more than all after it together. Further ones count alike.
const PULLS_TOLD_APART: usize = 16;

impl Cost {
    /// The worth of the pulled node at this place of the list.
    pub(super) fn of_pull(at: usize) -> i32 {
        -(1 << (PULLS_TOLD_APART - 1).saturating_sub(at))
    }

    fn each(self, other: Self, of: fn(i32, i32) -> i32) -> Self {
        Self {
            load: of(self.load, other.load),
            apart: of(self.apart, other.apart),
            placed: of(self.placed, other.placed),
            reluctant: of(self.reluctant, other.reluctant),
            pull: of(self.pull, other.pull),
            crowding: of(self.crowding, other.crowding),
            moves: of(self.moves, other.moves),
            prefer: of(self.prefer, other.prefer),
        }
    }
}

impl Add for Cost {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        self.each(other, i32::saturating_add)
    }
}

impl AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sub for Cost {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        self.each(other, i32::saturating_sub)
    }
}

impl Neg for Cost {
    type Output = Self;

    fn neg(self) -> Self {
        Self::default() - self
    }
}
