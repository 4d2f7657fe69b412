//! The canonical form of JSON values: equal values have equal bytes.

use serde_json::{Number, Value};

/// Whole numbers up to this size are the same as integers and as floating point numbers.
const LARGEST_EXACT: f64 = 9_007_199_254_740_992.0;

/// A JSON value without white space, with the keys of its objects in order and one way to write each
/// number: 1.0 is 1, and -0.0 is 0.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CanonicalJson(Vec<u8>);

/// The text is not JSON.
#[derive(Debug, thiserror::Error)]
#[error("the text is not JSON")]
pub struct InvalidJson(#[from] serde_json::Error);

impl CanonicalJson {
    /// The canonical form of a value.
    pub fn of(value: &Value) -> Self {
        let mut bytes = Vec::new();
        write(value, &mut bytes);
        Self(bytes)
    }

    /// The canonical form of a JSON text.
    ///
    /// # Errors
    /// When it is not JSON.
    pub fn parse(text: &[u8]) -> Result<Self, InvalidJson> {
        Ok(Self::of(&serde_json::from_slice(text)?))
    }

    /// The bytes of the canonical form.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

fn write(value: &Value, bytes: &mut Vec<u8>) {
    match value {
        Value::Null => bytes.extend_from_slice(b"null"),
        Value::Bool(true) => bytes.extend_from_slice(b"true"),
        Value::Bool(false) => bytes.extend_from_slice(b"false"),
        Value::Number(number) => write_number(number, bytes),
        Value::String(text) => write_text(text, bytes),
        Value::Array(items) => {
            bytes.push(b'[');
            for (place, item) in items.iter().enumerate() {
                if place > 0 {
                    bytes.push(b',');
                }
                write(item, bytes);
            }
            bytes.push(b']');
        }
        Value::Object(fields) => {
            // The map of serde_json is in order only as long as no crate asks it to keep that of the text.
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_unstable_by_key(|(key, _)| *key);
            bytes.push(b'{');
            for (place, (key, item)) in fields.into_iter().enumerate() {
                if place > 0 {
                    bytes.push(b',');
                }
                write_text(key, bytes);
                bytes.push(b':');
                write(item, bytes);
            }
            bytes.push(b'}');
        }
    }
}

fn write_number(number: &Number, bytes: &mut Vec<u8>) {
    let text = match number.as_f64() {
        Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() < LARGEST_EXACT => {
            (float as i64).to_string()
        }
        _ => number.to_string(),
    };
    bytes.extend_from_slice(text.as_bytes());
}

fn write_text(text: &str, bytes: &mut Vec<u8>) {
    serde_json::to_writer(bytes, text).expect("text can always be written to memory");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn canonical(text: &str) -> String {
        String::from_utf8(CanonicalJson::parse(text.as_bytes()).unwrap().0).unwrap()
    }

    #[test]
    fn there_is_one_way_to_write_a_value() {
        let one =
            canonical(r#"{ "b": [1.0, -0.0, 2e2, 0.10], "a": {"y": null, "x": "\u00e9\n"} }"#);
        assert_eq!(one, r#"{"a":{"x":"é\n","y":null},"b":[1,0,200,0.1]}"#);
        assert_eq!(canonical("18446744073709551615"), "18446744073709551615");
        assert_ne!(canonical("9007199254740993"), canonical("9007199254740992"));
        assert!(CanonicalJson::parse(b"{").is_err());
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            (-1e15..1e15f64).prop_map(Value::from),
            "[a-c\"\\\\é ]{0,4}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-c]{0,2}", inner, 0..4)
                    .prop_map(|fields| fields.into_iter().collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_canonical_form_is_json_and_its_own_canonical_form(value in values()) {
            let form = CanonicalJson::of(&value);
            prop_assert_eq!(&CanonicalJson::parse(form.as_bytes()).unwrap(), &form);
        }

        #[test]
        fn different_values_have_different_forms(one in values(), other in values()) {
            let same = CanonicalJson::of(&one) == CanonicalJson::of(&other);
            // Numbers are compared as numbers: JSON does not tell 1 from 1.0.
            prop_assert_eq!(same, json_equal(&one, &other));
        }
    }

    fn json_equal(one: &Value, other: &Value) -> bool {
        match (one, other) {
            (Value::Number(one), Value::Number(other)) => {
                one == other || (one.as_f64() == other.as_f64() && (one.is_f64() != other.is_f64()))
            }
            (Value::Array(one), Value::Array(other)) => {
                one.len() == other.len()
                    && one
                        .iter()
                        .zip(other)
                        .all(|(one, other)| json_equal(one, other))
            }
            (Value::Object(one), Value::Object(other)) => {
                one.len() == other.len()
                    && one.iter().all(|(key, item)| {
                        other.get(key).is_some_and(|there| json_equal(item, there))
                    })
            }
            _ => one == other,
        }
    }

    #[test]
    fn objects_are_compared_without_their_order() {
        let one = CanonicalJson::of(&json!({"a": 1, "b": 2}));
        assert_eq!(CanonicalJson::parse(br#"{"b":2,"a":1}"#).unwrap(), one);
    }
}
