//! A sum of numbers that come and go, without leftover rounding errors.

/// A number per leaf, and the sum of all leaves.
///
/// Each node of a binary tree holds the sum of its two children and is computed again when one of
/// them changes. So a change takes a number of steps logarithmic in the number of leaves, and
/// removing a huge number does not cost the others any digits.
#[derive(Debug)]
pub(crate) struct SumTree {
    /// The root is at index 1, the children of `at` are at `2 * at` and `2 * at + 1`, and the
    /// second half of the vector holds the leaves.
    nodes: Vec<f64>,
}

impl SumTree {
    pub(crate) fn new(numbers: impl ExactSizeIterator<Item = f64>) -> Self {
        let leaves = numbers.len().next_power_of_two();
        let mut nodes = vec![0.0; leaves];
        nodes.extend(numbers);
        nodes.resize(2 * leaves, 0.0);
        let mut sums = Self { nodes };
        for at in (1..leaves).rev() {
            sums.recompute(at);
        }
        sums
    }

    /// Sets the number of a leaf and grows the tree if it has no such leaf yet.
    pub(crate) fn set(&mut self, leaf: usize, number: f64) {
        if leaf >= self.leaves() {
            let numbers = self.nodes.split_off(self.leaves());
            let longer = numbers.len().max(leaf + 1);
            let more = longer - numbers.len();
            let all: Vec<f64> = numbers.into_iter().chain(vec![0.0; more]).collect();
            *self = Self::new(all.into_iter());
        }
        let mut at = self.leaves() + leaf;
        self.nodes[at] = number;
        while at > 1 {
            at /= 2;
            self.recompute(at);
        }
    }

    /// Returns the sum of all leaves, saturated at the largest finite number.
    pub(crate) fn total(&self) -> f64 {
        self.nodes[1]
    }

    fn leaves(&self) -> usize {
        self.nodes.len() / 2
    }

    /// Computes a node from its children. Clamped, because infinities would cancel to NaN further
    /// up.
    fn recompute(&mut self, at: usize) {
        let sum = self.nodes[2 * at] + self.nodes[2 * at + 1];
        self.nodes[at] = sum.clamp(f64::MIN, f64::MAX);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn removing_a_huge_number_keeps_the_exact_sum_of_the_others() {
        let mut sums = SumTree::new([0.1, 0.2].into_iter());
        for huge in [1e17, -1e300, f64::MAX] {
            sums.set(2, huge);
            sums.set(3, huge);
            assert!(sums.total().is_finite());
            sums.set(3, 0.0);
            sums.set(2, 0.0);
            assert_eq!(sums.total(), 0.1 + 0.2);
        }
    }

    #[test]
    fn empty_and_single_trees_have_a_sum() {
        assert_eq!(SumTree::new([].into_iter()).total(), 0.0);
        let mut sums = SumTree::new([7.0].into_iter());
        assert_eq!(sums.total(), 7.0);
        sums.set(0, 0.0);
        sums.set(5, 3.0);
        assert_eq!(sums.total(), 3.0);
    }

    proptest! {
        #[test]
        fn the_total_is_the_sum_of_all_leaves(
            changes in prop::collection::vec((0..40_usize, -1000..1000_i32), 0..200),
        ) {
            let mut sums = SumTree::new([].into_iter());
            let mut numbers = vec![0.0; 40];
            for (leaf, number) in changes {
                numbers[leaf] = f64::from(number);
                sums.set(leaf, f64::from(number));
                prop_assert_eq!(sums.total(), numbers.iter().sum::<f64>());
            }
        }
    }
}
