//! Finds the known word that was probably meant.

/// How many edits away a word may be, exclusive.
const DISTANCE_MAX: usize = 3;

/// Returns the nearest option; an exact match means that the word was not the mistake.
pub fn nearest<'a>(word: &str, options: &[&'a str]) -> Option<&'a str> {
    if word.chars().count() > 64 || options.contains(&word) {
        return None;
    }
    options
        .iter()
        .map(|option| (distance(word, option), *option))
        .filter(|(distance, _)| *distance < DISTANCE_MAX)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, option)| option)
}

/// Like [`nearest`] without regard to case; the options are in upper case, the answer follows the word.
pub(crate) fn nearest_in_any_case(word: &str, options: &[&str]) -> Option<String> {
    let option = nearest(&word.to_uppercase(), options)?;
    Some(if word == word.to_lowercase() { option.to_lowercase() } else { option.to_owned() })
}

/// Counts insertions, removals, changes and swaps of neighbours.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=right.len()).collect();
    let mut previous = None;
    for (row, ch) in left.chars().enumerate() {
        let mut current = vec![row + 1];
        for (column, other) in right.iter().enumerate() {
            let at = |line: &[usize], index: usize| line.get(index).copied().unwrap_or(usize::MAX);
            let change = at(&above, column) + usize::from(ch != *other);
            let mut best = change.min(at(&above, column + 1) + 1).min(at(&current, column) + 1);
            let left_neighbour = column.checked_sub(1).and_then(|index| right.get(index));
            if previous == Some(*other) && left_neighbour == Some(&ch) {
                best = best.min(at(&before, column - 1) + 1);
            }
            current.push(best);
        }
        before = std::mem::replace(&mut above, current);
        previous = Some(ch);
    }
    above.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_offered() {
        let options = ["ENV", "RUN", "FROM", "ENTRYPOINT"];
        assert_eq!(nearest_in_any_case("RNU", &options).as_deref(), Some("RUN"));
        assert_eq!(nearest_in_any_case("entrypont", &options).as_deref(), Some("entrypoint"));
        assert_eq!(nearest_in_any_case("FOO", &options).as_deref(), Some("FROM"));
        assert_eq!(nearest_in_any_case("zzzzz", &options), None);
        assert_eq!(nearest("", &["ENV"]), None);
    }
}
