//! Plain scalars by the core schema of YAML 1.2, which is also how JSON reads them.

use std::borrow::Cow;

use super::tree::Value;

/// What a plain scalar means.
pub(super) fn resolve(text: Cow<'_, str>) -> Value<'_> {
    match &*text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    // Most scalars are words: a number starts like one.
    match text.as_bytes()[0] {
        b'0'..=b'9' | b'+' | b'-' | b'.' => {}
        _ => return Value::Text(text),
    }
    if let Some(whole) = integer(&text) {
        return Value::Integer(whole);
    }
    match float(&text) {
        Some(number) => Value::Float(number),
        None => Value::Text(text),
    }
}

/// Whole numbers that fit in 64 bits, signed or not; larger ones are read as floating.
fn integer(text: &str) -> Option<i128> {
    let (digits, radix) = match text.get(..2) {
        Some("0o") => (&text[2..], 8),
        Some("0x") => (&text[2..], 16),
        _ => (text, 10),
    };
    let unsigned = match radix {
        10 => digits.strip_prefix(['+', '-']).unwrap_or(digits),
        _ => digits,
    };
    if unsigned.is_empty() || !unsigned.chars().all(|c| c.is_digit(radix)) {
        return None;
    }
    let number = i128::from_str_radix(digits, radix).ok()?;
    (i128::from(i64::MIN)..=i128::from(u64::MAX))
        .contains(&number)
        .then_some(number)
}

fn float(text: &str) -> Option<f64> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    match unsigned {
        ".inf" | ".Inf" | ".INF" => {
            return Some(if text.starts_with('-') {
                f64::NEG_INFINITY
            } else {
                f64::INFINITY
            });
        }
        ".nan" | ".NaN" | ".NAN" => return Some(f64::NAN),
        _ => {}
    }
    // Rust reads also `inf`, `nan` and `infinity`, which are words in YAML.
    let shape = |c: char| c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '+' | '-');
    if !unsigned.chars().all(shape) || !unsigned.contains(|c: char| c.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_core_schema() {
        for (text, value) in [
            ("null", Value::Null),
            ("~", Value::Null),
            ("", Value::Null),
            ("true", Value::Bool(true)),
            ("12", Value::Integer(12)),
            ("-7", Value::Integer(-7)),
            ("+7", Value::Integer(7)),
            ("0o17", Value::Integer(15)),
            ("0xff", Value::Integer(255)),
            ("18446744073709551615", Value::Integer(u64::MAX.into())),
            ("1e3", Value::Float(1000.0)),
            (".5", Value::Float(0.5)),
            ("-1.5", Value::Float(-1.5)),
            (
                "18446744073709551616",
                Value::Float(18_446_744_073_709_551_616.0),
            ),
            (".inf", Value::Float(f64::INFINITY)),
        ] {
            assert_eq!(resolve(text.into()), value, "{text}");
        }
        for text in [
            "yes", "no", "on", "1s", "0x", "-", "+", ".", "e5", "1.2.3", "inf", "12:30", "0b1",
        ] {
            assert_eq!(resolve(text.into()), Value::Text(text.into()), "{text}");
        }
    }
}
