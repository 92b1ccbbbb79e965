//! Suggests the intended name for a misspelt one.

/// Returns the candidate that is most similar to `word`, if one is similar enough to be a typing
/// error.
pub(super) fn nearest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    const MAX_CHARS: usize = 64;
    let word: Vec<char> = word.chars().take(MAX_CHARS + 1).collect();
    if word.len() > MAX_CHARS {
        return None;
    }
    candidates
        .into_iter()
        .map(|candidate| (distance(&word, candidate), candidate))
        .filter(|(distance, candidate)| {
            *distance <= 1 + candidate.chars().count().min(word.len()) / 4
        })
        // The result must not depend on the order of the candidates.
        .min()
        .map(|(_, candidate)| candidate)
}

/// Returns `; did you mean ...?` for the nearest candidate, or an empty text.
pub(super) fn hint<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    nearest(word, candidates)
        .map(|name| format!("; did you mean `{name}`?"))
        .unwrap_or_default()
}

/// Returns the edit distance: the number of insertions, deletions, replacements and swapped
/// neighbours, ignoring case.
fn distance(word: &[char], candidate: &str) -> usize {
    let other: Vec<char> = candidate.chars().collect();
    let same = |i: usize, j: usize| word[i].eq_ignore_ascii_case(&other[j]);
    let mut rows = vec![vec![0; other.len() + 1]; word.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    rows[0] = (0..=other.len()).collect();
    for i in 1..=word.len() {
        for j in 1..=other.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(!same(i - 1, j - 1));
            let mut best = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && same(i - 1, j - 2) && same(i - 2, j - 1) {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[word.len()][other.len()]
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn similar_words_are_found_and_dissimilar_ones_are_not() {
        let names = ["interval", "continuous_fill", "NotFound", "TooManyRequests"];
        assert_eq!(nearest("intervall", names), Some("interval"));
        assert_eq!(nearest("inetrval", names), Some("interval"));
        assert_eq!(nearest("continuousfill", names), Some("continuous_fill"));
        assert_eq!(nearest("toomanyrequest", names), Some("TooManyRequests"));
        assert_eq!(nearest("Teapot", names), None);
        assert_eq!(nearest(&"i".repeat(10_000), names), None);
    }
}
