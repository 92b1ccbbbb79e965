//! In which order parts are computed.

use crate::policy::ports::Outlet;

/// The parts with what feeds them first; those that feed each other in a group of their own.
///
/// Tarjan's components, without recursion: a chain may be as long as the text.
pub(super) fn in_order(wires: &[Vec<Option<Outlet>>]) -> Vec<Vec<usize>> {
    const NEW: usize = usize::MAX;
    let mut numbers = vec![NEW; wires.len()];
    let mut lowest = vec![0; wires.len()];
    let mut open = vec![false; wires.len()];
    let mut stack = Vec::new();
    let mut groups = Vec::new();
    let mut count = 0;
    for start in 0..wires.len() {
        if numbers[start] != NEW {
            continue;
        }
        let mut path = vec![(start, 0)];
        while let Some((index, edge)) = path.pop() {
            if edge == 0 {
                (numbers[index], lowest[index]) = (count, count);
                count += 1;
                stack.push(index);
                open[index] = true;
            }
            match wires[index].get(edge) {
                Some(wire) => {
                    path.push((index, edge + 1));
                    match wire {
                        Some((from, _)) if numbers[*from] == NEW => path.push((*from, 0)),
                        Some((from, _)) if open[*from] => {
                            lowest[index] = lowest[index].min(numbers[*from]);
                        }
                        _ => {}
                    }
                }
                None => {
                    if lowest[index] == numbers[index] {
                        let from = stack.iter().rposition(|other| *other == index);
                        let group = stack.split_off(from.unwrap_or_default());
                        for &member in &group {
                            open[member] = false;
                        }
                        groups.push(group);
                    }
                    if let Some((parent, _)) = path.last() {
                        lowest[*parent] = lowest[*parent].min(lowest[index]);
                    }
                }
            }
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::in_order;

    #[test]
    fn what_feeds_comes_before_what_it_feeds_and_loops_stay_together() {
        let from = |parts: &[usize]| {
            parts
                .iter()
                .map(|part| Some((*part, 0)))
                .collect::<Vec<_>>()
        };
        // 0 <- 1 <-> 2, 1 <- 3, 4 alone, 5 <- 0
        let wires = [
            from(&[1]),
            from(&[2, 3]),
            from(&[1]),
            from(&[]),
            vec![None],
            from(&[0]),
        ];
        let mut groups = in_order(&wires);
        for group in &mut groups {
            group.sort_unstable();
        }
        assert_eq!(groups, [vec![3], vec![1, 2], vec![0], vec![4], vec![5]]);
    }

    #[test]
    fn a_long_chain_needs_no_stack() {
        const LENGTH: usize = 200_000;
        let mut wires: Vec<Vec<_>> = (1..LENGTH).map(|next| vec![Some((next, 0))]).collect();
        wires.push(Vec::new());
        assert_eq!(in_order(&wires).len(), wires.len());
    }
}
