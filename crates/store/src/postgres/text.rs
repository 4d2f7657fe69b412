//! Texts as PostgreSQL can hold them: all but NUL, for which a replacement character is kept.
//!
//! The journal has every text as it is; these are for lists, and for the search in them.

use std::collections::BTreeMap;

const NUL: char = '\0';
const IN_PLACE: &str = "\u{fffd}";

/// A text as it is kept.
pub(super) fn of(text: &str) -> String {
    text.replace(NUL, IN_PLACE)
}

/// Labels as they are kept, a JSON object.
pub(super) fn of_labels(labels: &BTreeMap<String, String>) -> String {
    let kept: BTreeMap<_, _> = labels
        .iter()
        .map(|(name, value)| (of(name), of(value)))
        .collect();
    serde_json::to_string(&kept).expect("labels are a map of texts by text")
}
