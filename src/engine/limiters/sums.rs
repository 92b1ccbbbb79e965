//! A sum of numbers that come and go, without what rounding would leave behind.

/// A number for each place, and their sum.
///
/// Each node of a binary tree holds the sum of the two below it and is computed anew when one of
/// them changes. So a change takes as many steps as the number of places has digits, and a huge
/// number that goes takes no digits of the others along.
#[derive(Debug)]
pub(crate) struct Sums {
    /// The root is at 1, the children of `at` are at `2 * at` and `2 * at + 1`, and the second half
    /// are the places.
    nodes: Vec<f64>,
}

impl Sums {
    pub(crate) fn new(numbers: impl ExactSizeIterator<Item = f64>) -> Self {
        let places = numbers.len().next_power_of_two();
        let mut nodes = vec![0.0; places];
        nodes.extend(numbers);
        nodes.resize(2 * places, 0.0);
        let mut sums = Self { nodes };
        for at in (1..places).rev() {
            sums.add_up(at);
        }
        sums
    }

    /// Puts a number in a place, in the stead of the one that was there.
    pub(crate) fn set(&mut self, place: usize, number: f64) {
        if place >= self.places() {
            let numbers = self.nodes.split_off(self.places());
            let longer = numbers.len().max(place + 1);
            let more = longer - numbers.len();
            let all: Vec<f64> = numbers.into_iter().chain(vec![0.0; more]).collect();
            *self = Self::new(all.into_iter());
        }
        let mut at = self.places() + place;
        self.nodes[at] = number;
        while at > 1 {
            at /= 2;
            self.add_up(at);
        }
    }

    /// The sum of all, at most the largest number there is.
    pub(crate) fn total(&self) -> f64 {
        self.nodes[1]
    }

    fn places(&self) -> usize {
        self.nodes.len() / 2
    }

    /// Infinities would cancel to NaN further up.
    fn add_up(&mut self, at: usize) {
        let sum = self.nodes[2 * at] + self.nodes[2 * at + 1];
        self.nodes[at] = sum.clamp(f64::MIN, f64::MAX);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_huge_number_that_goes_takes_nothing_along() {
        let mut sums = Sums::new([0.1, 0.2].into_iter());
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
    fn one_number_and_none_have_a_sum() {
        assert_eq!(Sums::new([].into_iter()).total(), 0.0);
        let mut sums = Sums::new([7.0].into_iter());
        assert_eq!(sums.total(), 7.0);
        sums.set(0, 0.0);
        sums.set(5, 3.0);
        assert_eq!(sums.total(), 3.0);
    }

    proptest! {
        #[test]
        fn the_sum_is_that_of_what_is_there(
            changes in prop::collection::vec((0..40_usize, -1000..1000_i32), 0..200),
        ) {
            let mut sums = Sums::new([].into_iter());
            let mut numbers = vec![0.0; 40];
            for (place, number) in changes {
                numbers[place] = f64::from(number);
                sums.set(place, f64::from(number));
                prop_assert_eq!(sums.total(), numbers.iter().sum::<f64>());
            }
        }
    }
}
