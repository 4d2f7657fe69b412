//! Names and numbers as people read them.

use crate::figure::rounded;

use super::document::{Cell, Row};

/// Suffixes of names, and how the unit is written.
const UNITS: [(&str, &str); 7] = [
    ("_ms", "ms"),
    ("_us", "µs"),
    ("_s", "s"),
    ("_gib", "GiB"),
    ("_mib", "MiB"),
    ("_kib", "KiB"),
    ("_percent", "%"),
];

/// `p50_ms` as `p50, ms`; `tasks_per_s` as `tasks/s`.
pub(super) fn title(name: &str) -> String {
    let name = name.replace("_per_s", "/s");
    match UNITS.iter().find(|(suffix, _)| name.ends_with(suffix)) {
        Some((suffix, unit)) => {
            let name = &name[..name.len() - suffix.len()];
            format!("{}, {unit}", name.replace('_', " "))
        }
        None => name.replace('_', " "),
    }
}

/// What a column is measured in, so that columns of one unit can share an axis.
pub(super) fn unit(name: &str) -> String {
    let title = title(name);
    match title.rsplit_once(", ") {
        Some((_, unit)) => unit.to_owned(),
        None => title.rsplit(' ').next().unwrap_or_default().to_owned(),
    }
}

/// A number with its digits in groups of three from 10 000 on.
pub(super) fn number(value: f64) -> String {
    let plain = if value.fract() == 0.0 || value.abs() >= 1e4 {
        format!("{value:.0}")
    } else {
        rounded(value).to_string()
    };
    if value.abs() < 1e4 {
        return plain;
    }
    let mut grouped = String::new();
    for (place, digit) in plain.char_indices() {
        if place > 0 && (plain.len() - place).is_multiple_of(3) {
            grouped.push('\u{a0}');
        }
        grouped.push(digit);
    }
    grouped
}

/// The value of a cell.
pub(super) fn cell(cell: Option<&Cell>) -> String {
    match cell {
        None => "–".to_owned(),
        Some(Cell::Text(text)) => text.replace('|', "\\|"),
        Some(Cell::Number(value)) => number(*value),
        Some(Cell::Figure(figure)) if figure.min == figure.max => number(figure.median),
        Some(Cell::Figure(figure)) => format!(
            "{} ({}–{})",
            number(figure.median),
            number(figure.min),
            number(figure.max)
        ),
    }
}

/// `name value` of each cell.
pub(super) fn list(row: &Row) -> String {
    let parts: Vec<String> = row
        .iter()
        .map(|(name, value)| format!("{} {}", title(name), cell(Some(value))))
        .collect();
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::super::document::Figure;
    use super::*;

    #[test]
    fn names_have_units() {
        assert_eq!(title("p50_ms"), "p50, ms");
        assert_eq!(title("levelflow tasks_per_s"), "levelflow tasks/s");
        assert_eq!(title("in_flight"), "in flight");
        assert_eq!(unit("total_ms"), "ms");
        assert_eq!(unit("levelflow tasks_per_s"), "tasks/s");
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(number(123.5), "123.5");
        assert_eq!(number(12_345.0), "12\u{a0}345");
        assert_eq!(number(1_234_567.0), "1\u{a0}234\u{a0}567");
        assert_eq!(number(0.012), "0.012");
        assert_eq!(number(2.0 / 3.0), "0.6667");
    }

    #[test]
    fn figures_say_between_what_they_lay() {
        let figure = |min, max| {
            cell(Some(&Cell::Figure(Figure {
                median: 2.0,
                min,
                max,
            })))
        };
        assert_eq!(figure(1.0, 3.0), "2 (1–3)");
        assert_eq!(figure(2.0, 2.0), "2");
        assert_eq!(cell(None), "–");
    }
}
