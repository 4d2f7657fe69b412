//! JSON values as parameters of the types that a statement asks for.
//!
//! Parameters travel in PostgreSQL's text form, so that every type of the server can be one; what JSON
//! alone shows to be wrong is refused here, and the server judges the rest.

use std::error::Error;
use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::{BufMut as _, BytesMut};
use levelflow_common::Failure;
use serde_json::{Number, Value};
use tokio_postgres::types::{Format, IsNull, Kind, ToSql, Type};

use crate::executor::sql::work::invalid;

/// A parameter in its text form; none is null.
pub(super) struct Parameter(Option<String>);

/// Parameters are what the data of a workflow is in: nothing of them is logged.
impl fmt::Debug for Parameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("_")
    }
}

impl ToSql for Parameter {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        let Some(text) = &self.0 else {
            return Ok(IsNull::Yes);
        };
        out.put_slice(text.as_bytes());
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn to_sql_checked(
        &self,
        ty: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        self.to_sql(ty, out)
    }

    fn encode_format(&self, _: &Type) -> Format {
        Format::Text
    }
}

/// The parameters of a statement that asks for these types.
pub(super) fn parameters(
    what: &str,
    types: &[Type],
    values: &[Value],
) -> Result<Vec<Parameter>, Failure> {
    if types.len() != values.len() {
        return Err(invalid(format!(
            "{what}the statement has {} parameters, `params` has {}",
            types.len(),
            values.len()
        )));
    }
    types
        .iter()
        .zip(values)
        .enumerate()
        .map(|(place, (ty, value))| {
            let text = match value {
                Value::Null => None,
                value => Some(text_of(ty, value).map_err(|problem| {
                    invalid(format!(
                        "{what}`params[{place}]` is ${} of type `{ty}`: {problem}",
                        place + 1
                    ))
                })?),
            };
            Ok(Parameter(text))
        })
        .collect()
}

fn text_of(ty: &Type, value: &Value) -> Result<String, String> {
    match ty.kind() {
        Kind::Domain(inner) => return text_of(inner, value),
        Kind::Array(inner) => {
            let mut text = String::new();
            array(inner, value, &mut text)?;
            return Ok(text);
        }
        _ => {}
    }
    match (ty, value) {
        (&Type::JSON | &Type::JSONB, value) => Ok(value.to_string()),
        (&Type::BOOL, &Value::Bool(value)) => Ok(value.to_string()),
        (&Type::BOOL, _) => Err(expected("true or false", value)),
        (&Type::INT2, _) => whole(value, i16::MIN.into(), i16::MAX.into()),
        (&Type::INT4, _) => whole(value, i32::MIN.into(), i32::MAX.into()),
        (&Type::INT8, _) => whole(value, i64::MIN.into(), i64::MAX.into()),
        (&Type::OID, _) => whole(value, 0, u32::MAX.into()),
        (&Type::FLOAT4 | &Type::FLOAT8 | &Type::NUMERIC, Value::Number(number)) => {
            Ok(number.to_string())
        }
        (&Type::FLOAT4 | &Type::FLOAT8 | &Type::NUMERIC, Value::String(text)) => Ok(text.clone()),
        (&Type::FLOAT4 | &Type::FLOAT8 | &Type::NUMERIC, _) => Err(expected("a number", value)),
        (&Type::BYTEA, Value::String(text)) => {
            let bytes = BASE64_STANDARD
                .decode(text)
                .map_err(|error| format!("it is not base64: {error}"))?;
            Ok(hexadecimal(&bytes))
        }
        (_, Value::String(text)) => Ok(text.clone()),
        (&Type::TEXT | &Type::VARCHAR | &Type::BPCHAR | &Type::NAME, _) => Err(format!(
            "{}; quote it, or name its type in the statement, for example `$1::int8`",
            expected("text", value)
        )),
        _ => Err(expected("text", value)),
    }
}

fn whole(value: &Value, least: i128, most: i128) -> Result<String, String> {
    let number = match value {
        Value::Number(number) => integer(number),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    match number {
        Some(number) if (least..=most).contains(&number) => Ok(number.to_string()),
        Some(number) => Err(format!("{number} is not between {least} and {most}")),
        None => Err(expected("a whole number", value)),
    }
}

fn integer(number: &Number) -> Option<i128> {
    let signed = number.as_i64().map(i128::from);
    signed.or_else(|| number.as_u64().map(i128::from))
}

fn expected(wanted: &str, value: &Value) -> String {
    let given = match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a map",
    };
    format!("it must be {wanted}, not {given}")
}

fn hexadecimal(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(2 + 2 * bytes.len());
    text.push_str("\\x");
    for byte in bytes {
        text.push(DIGITS[usize::from(byte >> 4)].into());
        text.push(DIGITS[usize::from(byte & 15)].into());
    }
    text
}

/// Writes an array; lists in it are further dimensions.
fn array(ty: &Type, value: &Value, text: &mut String) -> Result<(), String> {
    let Value::Array(items) = value else {
        return Err(expected("a list", value));
    };
    let is_json = matches!(*ty, Type::JSON | Type::JSONB);
    text.push('{');
    for (place, item) in items.iter().enumerate() {
        if place > 0 {
            text.push(',');
        }
        match item {
            Value::Null => text.push_str("NULL"),
            Value::Array(_) if !is_json => array(ty, item, text)?,
            item => {
                let item = text_of(ty, item).map_err(|problem| format!("[{place}]: {problem}"))?;
                text.push('"');
                for c in item.chars() {
                    if matches!(c, '"' | '\\') {
                        text.push('\\');
                    }
                    text.push(c);
                }
                text.push('"');
            }
        }
    }
    text.push('}');
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn text(ty: &Type, value: Value) -> Result<String, String> {
        let mut parameters = parameters("", std::slice::from_ref(ty), &[value])
            .map_err(|failure| failure.message)?;
        Ok(parameters.remove(0).0.unwrap())
    }

    #[test]
    fn values_take_the_form_of_their_type() {
        for (ty, value, form) in [
            (Type::BOOL, json!(true), "true"),
            (Type::INT8, json!(i64::MIN), "-9223372036854775808"),
            (Type::INT4, json!("7"), "7"),
            (Type::NUMERIC, json!("0.10"), "0.10"),
            (Type::FLOAT8, json!(2.5), "2.5"),
            (Type::TEXT, json!("a'b"), "a'b"),
            (Type::JSONB, json!({ "a": [1] }), r#"{"a":[1]}"#),
            (Type::BYTEA, json!("AP8="), "\\x00ff"),
            (Type::UUID, json!("x"), "x"),
            (Type::INT4_ARRAY, json!([1, null, 3]), r#"{"1",NULL,"3"}"#),
            (Type::INT4_ARRAY, json!([[1], [2]]), r#"{{"1"},{"2"}}"#),
            (Type::TEXT_ARRAY, json!(["a\"b\\", ""]), r#"{"a\"b\\",""}"#),
            (Type::JSONB_ARRAY, json!([[1, 2]]), r#"{"[1,2]"}"#),
        ] {
            assert_eq!(text(&ty, value).as_deref(), Ok(form), "{ty}");
        }
        let null = parameters("", &[Type::INT4], &[Value::Null]).unwrap();
        assert!(null[0].0.is_none());
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (ty, value, problem) in [
            (
                Type::INT4,
                json!(1.5),
                "it must be a whole number, not a number",
            ),
            (
                Type::INT2,
                json!(40_000),
                "40000 is not between -32768 and 32767",
            ),
            (
                Type::BOOL,
                json!(1),
                "it must be true or false, not a number",
            ),
            (
                Type::INT4_ARRAY,
                json!(1),
                "it must be a list, not a number",
            ),
            (
                Type::INT4_ARRAY,
                json!([1, "x"]),
                "[1]: it must be a whole number, not text",
            ),
            (Type::UUID, json!({}), "it must be text, not a map"),
            (
                Type::TEXT,
                json!(1),
                "it must be text, not a number; quote it, or name its type in the statement, for \
                 example `$1::int8`",
            ),
        ] {
            let expected = format!("`params[0]` is $1 of type `{ty}`: {problem}");
            assert_eq!(text(&ty, value), Err(expected));
        }
        let failure = parameters("statement 2: ", &[Type::INT4], &[]).unwrap_err();
        assert_eq!(
            failure.message,
            "statement 2: the statement has 1 parameters, `params` has 0"
        );
    }

    #[test]
    fn values_are_not_shown() {
        let shown = format!("{:?}", parameters("", &[Type::TEXT], &[json!("hunter2")]));
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
