//! [`Few`]: a queue whose only element is kept in place.

use std::{collections::VecDeque, mem, slice};

/// A queue; most streams have one entry, and room of its own for that is more than the entry.
#[derive(Debug)]
pub(crate) enum Few<T> {
    One(T),
    Many(VecDeque<T>),
}

impl<T> Default for Few<T> {
    fn default() -> Self {
        Self::Many(VecDeque::new())
    }
}

impl<T> Few<T> {
    pub(crate) fn push_back(&mut self, last: T) {
        match self {
            Self::Many(many) if many.capacity() > 0 => many.push_back(last),
            _ => {
                *self = match mem::take(self) {
                    Self::One(first) => Self::Many([first, last].into()),
                    Self::Many(_) => Self::One(last),
                };
            }
        }
    }

    pub(crate) fn pop_front(&mut self) -> Option<T> {
        if let Self::Many(many) = self {
            return many.pop_front();
        }
        if let Self::One(one) = mem::take(self) { Some(one) } else { None }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Many(many) => many.len(),
        }
    }

    pub(crate) fn get(&self, index: usize) -> Option<&T> {
        match self {
            Self::One(one) => Some(one).filter(|_| index == 0),
            Self::Many(many) => many.get(index),
        }
    }

    /// The elements from `start` on.
    pub(crate) fn from(&self, start: usize) -> impl DoubleEndedIterator<Item = &T> {
        let (front, back) = match self {
            Self::One(one) => (slice::from_ref(one), &[][..]),
            Self::Many(many) => many.as_slices(),
        };
        let behind = start.saturating_sub(front.len());
        front.get(start..).unwrap_or_default().iter().chain(back.get(behind..).unwrap_or_default())
    }

    pub(crate) fn iter_mut(&mut self) -> impl DoubleEndedIterator<Item = &mut T> {
        let (front, back) = match self {
            Self::One(one) => (slice::from_mut(one), &mut [][..]),
            Self::Many(many) => many.as_mut_slices(),
        };
        front.iter_mut().chain(back)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_a_queue_of_any_length() {
        let (mut few, mut queue) = (Few::default(), VecDeque::new());
        for (number, pops) in [0, 1, 0, 0, 1, 0, 0, 0, 2, 2, 1, 0, 1, 0, 0, 0, 0, 5, 0].into_iter().enumerate() {
            few.push_back(number);
            queue.push_back(number);
            for _ in 0..pops {
                assert_eq!(few.pop_front(), queue.pop_front());
            }
            assert_eq!(few.len(), queue.len());
            few.iter_mut().chain(queue.iter_mut()).for_each(|number| *number += 100);
            for start in 0..queue.len() + 2 {
                assert!(few.from(start).eq(queue.iter().skip(start)), "from {start} after {number}");
                assert_eq!(few.get(start), queue.get(start));
            }
            assert!(few.from(0).rev().eq(queue.iter().rev()));
        }
    }
}
