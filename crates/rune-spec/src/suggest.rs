//! "Did you mean": the nearest known word.

/// Longer words get no suggestion; comparing takes time and memory in proportion to the length.
const MAX_WORD: usize = 64;

/// The candidate nearest to `word`, if it is near enough to be a likely slip of the pen.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > MAX_WORD {
        return None;
    }
    let wanted = word.to_lowercase();
    let limit = (wanted.chars().count() / 3).clamp(1, 4);
    candidates
        .into_iter()
        .map(|candidate| {
            (
                strsim::damerau_levenshtein(&wanted, &candidate.to_lowercase()),
                candidate,
            )
        })
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Help text for an unknown word: the near name, else what there is.
pub(crate) fn help_for<'a>(
    word: &str,
    known: impl IntoIterator<Item = &'a str> + Clone,
) -> Option<String> {
    if let Some(near) = nearest(word, known.clone()) {
        return Some(format!("did you mean `{near}`?"));
    }
    let list = known
        .into_iter()
        .map(|name| format!("`{name}`"))
        .collect::<Vec<_>>();
    (!list.is_empty()).then(|| format!("expected one of {}", list.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggests_a_near_name_only() {
        assert_eq!(nearest("toolst", ["name", "toolset"]), Some("toolset"));
        assert_eq!(nearest("Toolset", ["toolset"]), Some("toolset"));
        assert_eq!(nearest("colour", ["name", "toolset"]), None);
    }
}
