//! The order in which the components of a circuit are evaluated.

use crate::policy::ports::OutPortIndex;

/// Returns the components in groups: each group comes after those that feed it, and components that
/// feed each other in a loop form one group.
///
/// This is Tarjan's algorithm for strongly connected components, without recursion, because a chain
/// may be as long as the text.
pub(super) fn evaluation_order(sources: &[Vec<Option<OutPortIndex>>]) -> Vec<Vec<usize>> {
    const NEW: usize = usize::MAX;
    let mut numbers = vec![NEW; sources.len()];
    let mut lowest = vec![0; sources.len()];
    let mut on_stack = vec![false; sources.len()];
    let mut stack = Vec::new();
    let mut groups = Vec::new();
    let mut count = 0;
    for start in 0..sources.len() {
        if numbers[start] != NEW {
            continue;
        }
        let mut path = vec![(start, 0)];
        while let Some((index, next_input)) = path.pop() {
            if next_input == 0 {
                (numbers[index], lowest[index]) = (count, count);
                count += 1;
                stack.push(index);
                on_stack[index] = true;
            }
            match sources[index].get(next_input) {
                Some(source) => {
                    path.push((index, next_input + 1));
                    match source {
                        Some((from, _)) if numbers[*from] == NEW => path.push((*from, 0)),
                        Some((from, _)) if on_stack[*from] => {
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
                            on_stack[member] = false;
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
    use super::evaluation_order;

    #[test]
    fn inputs_come_first_and_loops_form_one_group() {
        let from = |components: &[usize]| {
            components
                .iter()
                .map(|component| Some((*component, 0)))
                .collect::<Vec<_>>()
        };
        // 0 <- 1 <-> 2, 1 <- 3, 4 alone, 5 <- 0
        let sources = [
            from(&[1]),
            from(&[2, 3]),
            from(&[1]),
            from(&[]),
            vec![None],
            from(&[0]),
        ];
        let mut groups = evaluation_order(&sources);
        for group in &mut groups {
            group.sort_unstable();
        }
        assert_eq!(groups, [vec![3], vec![1, 2], vec![0], vec![4], vec![5]]);
    }

    #[test]
    fn long_chains_do_not_overflow_the_stack() {
        const LENGTH: usize = 200_000;
        let mut sources: Vec<Vec<_>> = (1..LENGTH).map(|next| vec![Some((next, 0))]).collect();
        sources.push(Vec::new());
        assert_eq!(evaluation_order(&sources).len(), sources.len());
    }
}
