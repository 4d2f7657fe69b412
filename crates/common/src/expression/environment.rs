//! The operators, filters, tests and functions of expressions and text templates.

#![allow(
    clippy::needless_pass_by_value,
    reason = "the engine hands arguments over by value"
)]

use std::sync::LazyLock;

use minijinja::value::{Kwargs, Rest, Value, ValueKind, ValueOrKwargs};
use minijinja::{
    Environment, Error, ErrorKind, State, UndefinedBehavior, filters, functions, tests,
};

use super::budget::{charge, charge_value, spent};
use super::guard::{ADD, CHARGE, CONCATENATE, MULTIPLY};
use super::value::{not_json, to_json, to_text_or_fail};
use crate::limits::{MAX_EXPRESSION_FUEL, MAX_EXPRESSION_OUTPUT_BYTES, MAX_FOR_EACH_ITEMS};

/// The most that a width, an indent or a precision can be.
const MAX_WIDTH: usize = 999;

/// The functions that a template can call.
pub(super) const FUNCTIONS: [&str; 2] = ["range", "namespace"];

macro_rules! table {
    ($name:ident, $doc:literal, $module:ident: $($key:literal => $function:ident,)*) => {
        #[doc = $doc]
        fn $name() -> Vec<(&'static str, Value)> {
            vec![$(($key, Value::from_function($module::$function)),)*]
        }
    };
}

table! { standard_filters, "Filters of the engine, taken as they are.", filters:
    "abs" => abs, "bool" => bool, "capitalize" => capitalize, "chain" => chain, "count" => length,
    "d" => default, "default" => default, "dictsort" => dictsort, "first" => first,
    "float" => float, "groupby" => groupby, "int" => int, "items" => items, "last" => last,
    "length" => length, "lines" => lines, "list" => list, "lower" => lower, "map" => map,
    "max" => max, "min" => min, "reject" => reject, "rejectattr" => rejectattr,
    "reverse" => reverse, "round" => round, "select" => select, "selectattr" => selectattr,
    "sort" => sort, "split" => split, "sum" => sum, "title" => title, "trim" => trim,
    "unique" => unique, "upper" => upper, "zip" => zip,
}

table! { standard_tests, "Tests of the engine, taken as they are.", tests:
    "boolean" => is_boolean, "defined" => is_defined, "divisibleby" => is_divisibleby,
    "endingwith" => is_endingwith, "eq" => is_eq, "equalto" => is_eq, "==" => is_eq,
    "even" => is_even, "false" => is_false, "float" => is_float, "ge" => is_ge, ">=" => is_ge,
    "gt" => is_gt, "greaterthan" => is_gt, ">" => is_gt, "in" => is_in, "integer" => is_integer,
    "iterable" => is_iterable, "le" => is_le, "<=" => is_le, "lessthan" => is_lt, "lt" => is_lt,
    "<" => is_lt, "mapping" => is_mapping, "ne" => is_ne, "!=" => is_ne, "none" => is_none,
    "number" => is_number, "odd" => is_odd, "sequence" => is_sequence,
    "startingwith" => is_startingwith, "string" => is_string, "true" => is_true,
    "undefined" => is_undefined,
}

/// Filters whose result can be much larger than what they are given; these check before they work.
fn bounded_filters() -> Vec<(&'static str, Value)> {
    vec![
        ("batch", Value::from_function(batch)),
        ("format", Value::from_function(format)),
        ("fromjson", Value::from_function(from_json)),
        ("indent", Value::from_function(indent)),
        ("join", Value::from_function(join)),
        ("replace", Value::from_function(replace)),
        ("slice", Value::from_function(slice)),
        ("string", Value::from_function(string)),
        ("tojson", Value::from_function(to_json_text)),
    ]
}

/// Every filter by name.
pub(super) static FILTERS: LazyLock<Vec<&'static str>> = LazyLock::new(|| {
    let tables = standard_filters().into_iter().chain(bounded_filters());
    tables.map(|(name, _)| name).collect()
});

/// Every test by name.
pub(super) static TESTS: LazyLock<Vec<&'static str>> =
    LazyLock::new(|| standard_tests().into_iter().map(|(name, _)| name).collect());

/// The one environment. It holds no templates.
pub(super) static ENVIRONMENT: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut environment = Environment::empty();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_fuel(Some(MAX_EXPRESSION_FUEL));
    environment.set_debug(true);
    environment.set_recursion_limit(100);
    environment.set_formatter(|output, state, value| {
        let text = to_text_or_fail(value)?;
        charge(state, text.len())?;
        output.write_str(&text).map_err(Error::from)
    });
    for (name, filter) in standard_filters().into_iter().chain(bounded_filters()) {
        // Also the filters that `map` and `select` call go through here.
        environment.add_filter(
            name,
            move |state: &mut State<'_, '_>, arguments: Rest<ValueOrKwargs>| {
                let arguments = arguments.into_values();
                if !matches!(name, "default" | "d") {
                    defined(&arguments)?;
                }
                let result = filter.call(state, &arguments)?;
                charge_value(state, &result, 1)?;
                Ok::<_, Error>(result)
            },
        );
    }
    for (name, test) in standard_tests() {
        environment.add_test(
            name,
            move |state: &mut State<'_, '_>, arguments: Rest<ValueOrKwargs>| {
                test.call(state, &arguments.into_values())
            },
        );
    }
    environment.add_function("range", range);
    environment.add_function("namespace", functions::namespace);
    environment.add_function(ADD, add);
    environment.add_function(MULTIPLY, multiply);
    environment.add_function(CONCATENATE, concatenate);
    environment.add_function(CHARGE, |state: &mut State<'_, '_>, value: Value| {
        charge_value(state, &value, 1)?;
        Ok::<_, Error>(value)
    });
    environment
});

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

/// What an operand is, in the words of messages.
fn kind(value: &Value) -> &'static str {
    match value.kind() {
        ValueKind::Undefined => "an undefined value",
        ValueKind::None => "null",
        ValueKind::Bool => "true or false",
        ValueKind::Number => "a number",
        ValueKind::String => "text",
        ValueKind::Seq | ValueKind::Iterable => "a list",
        ValueKind::Map => "a map",
        _ => "something else",
    }
}

fn defined(values: &[Value]) -> Result<(), Error> {
    if values.iter().any(Value::is_undefined) {
        return Err(Error::from(ErrorKind::UndefinedError));
    }
    Ok(())
}

enum Numbers {
    Whole(i128, i128),
    Floating(f64, f64),
}

fn numbers(left: &Value, right: &Value) -> Option<Numbers> {
    if !left.is_number() || !right.is_number() {
        return None;
    }
    if left.is_integer() && right.is_integer() {
        let whole = |value: &Value| i128::try_from(value.clone()).ok();
        return Some(Numbers::Whole(whole(left)?, whole(right)?));
    }
    let floating = |value: &Value| f64::try_from(value.clone()).ok();
    Some(Numbers::Floating(floating(left)?, floating(right)?))
}

fn is_list(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable)
}

fn overflow() -> Error {
    invalid("the result needs more than 128 bits")
}

fn add(state: &mut State<'_, '_>, left: Value, right: Value) -> Result<Value, Error> {
    defined(&[left.clone(), right.clone()])?;
    match numbers(&left, &right) {
        Some(Numbers::Whole(a, b)) => {
            return a.checked_add(b).map(Value::from).ok_or_else(overflow);
        }
        Some(Numbers::Floating(a, b)) => return Ok(Value::from(a + b)),
        None => {}
    }
    if let (Some(a), Some(b)) = (left.as_str(), right.as_str()) {
        charge(state, a.len() + b.len())?;
        return Ok(Value::from([a, b].concat()));
    }
    if is_list(&left) && is_list(&right) {
        charge_value(state, &left, 1)?;
        charge_value(state, &right, 1)?;
        let items = left.try_iter()?.chain(right.try_iter()?);
        return Ok(Value::from(items.collect::<Vec<_>>()));
    }
    Err(invalid(format!(
        "{} and {} cannot be added",
        kind(&left),
        kind(&right)
    )))
}

fn multiply(state: &mut State<'_, '_>, left: Value, right: Value) -> Result<Value, Error> {
    defined(&[left.clone(), right.clone()])?;
    match numbers(&left, &right) {
        Some(Numbers::Whole(a, b)) => {
            return a.checked_mul(b).map(Value::from).ok_or_else(overflow);
        }
        Some(Numbers::Floating(a, b)) => return Ok(Value::from(a * b)),
        None => {}
    }
    for (repeated, times) in [(&left, &right), (&right, &left)] {
        let Some(times) = times.as_usize().filter(|_| times.is_number()) else {
            continue;
        };
        if let Some(text) = repeated.as_str() {
            charge(state, text.len().saturating_mul(times))?;
            return Ok(Value::from(text.repeat(times)));
        }
        if is_list(repeated) {
            charge_value(state, repeated, times)?;
            let items = repeated.try_iter()?.collect::<Vec<_>>();
            // An empty list costs nothing however often it is repeated.
            let times = if items.is_empty() { 0 } else { times };
            let repeated = std::iter::repeat_n(items, times).flatten();
            return Ok(Value::from(repeated.collect::<Vec<_>>()));
        }
    }
    Err(invalid(format!(
        "{} and {} cannot be multiplied",
        kind(&left),
        kind(&right)
    )))
}

fn concatenate(state: &mut State<'_, '_>, left: Value, right: Value) -> Result<Value, Error> {
    let mut text = to_text_or_fail(&left)?;
    text.push_str(&to_text_or_fail(&right)?);
    charge(state, text.len())?;
    Ok(Value::from(text))
}

fn range(lower: i64, upper: Option<i64>, step: Option<i64>) -> Result<Value, Error> {
    let (start, end) = match upper {
        Some(upper) => (lower, upper),
        None => (0, lower),
    };
    let step = step.unwrap_or(1);
    if step == 0 {
        return Err(invalid("the step of a range cannot be 0"));
    }
    let distance = if step > 0 {
        i128::from(end) - i128::from(start)
    } else {
        i128::from(start) - i128::from(end)
    };
    let stride = i128::from(step).abs();
    let length = (distance.max(0) + stride - 1) / stride;
    let length = usize::try_from(length)
        .ok()
        .filter(|&length| length <= MAX_FOR_EACH_ITEMS)
        .ok_or_else(|| {
            invalid(format!(
                "a range of {length} items is too long; the most is {MAX_FOR_EACH_ITEMS}"
            ))
        })?;
    let items = (0..length).scan(start, |next, _| {
        let item = *next;
        *next = next.saturating_add(step);
        Some(Value::from(item))
    });
    Ok(Value::from(items.collect::<Vec<_>>()))
}

fn bounded(count: usize, what: &str, most: usize) -> Result<usize, Error> {
    if count > most {
        return Err(invalid(format!(
            "{what} of {count} is too much; the most is {most}"
        )));
    }
    Ok(count)
}

fn batch(
    state: &State<'_, '_>,
    value: Value,
    count: usize,
    fill_with: Option<Value>,
) -> Result<Value, Error> {
    let count = bounded(count, "a batch", MAX_FOR_EACH_ITEMS)?;
    filters::batch(state, value, count, fill_with)
}

fn slice(
    state: &State<'_, '_>,
    value: Value,
    count: usize,
    fill_with: Option<Value>,
) -> Result<Value, Error> {
    let count = bounded(count, "a number of slices", MAX_FOR_EACH_ITEMS)?;
    filters::slice(state, value, count, fill_with)
}

fn format(
    state: &mut State<'_, '_>,
    format: Value,
    arguments: Rest<ValueOrKwargs>,
) -> Result<Value, Error> {
    let text = format
        .as_str()
        .ok_or_else(|| invalid("`format` needs a text before the `|`"))?;
    let longest = text
        .split(|c: char| !c.is_ascii_digit())
        .map(|digits| digits.trim_start_matches('0').len())
        .max();
    // A width that comes from an argument cannot be checked here.
    if longest.unwrap_or(0) > 3 || text.contains('*') {
        return Err(invalid(format!(
            "a width or precision is too much; the most is {MAX_WIDTH}"
        )));
    }
    filters::format(state, &format, arguments)
}

fn from_json(text: &str) -> Result<Value, Error> {
    serde_json::from_str(text).map_err(|error| invalid(format!("the text is not JSON: {error}")))
}

fn indent(state: &mut State<'_, '_>, text: &str, width: usize) -> Result<Value, Error> {
    let width = bounded(width, "an indent", MAX_WIDTH)?;
    let lines = text.matches('\n').count();
    charge(state, text.len() + lines * width)?;
    let newline = format!("\n{}", " ".repeat(width));
    Ok(Value::from(text.replace('\n', &newline)))
}

fn join(value: Value, joiner: Option<&str>, options: Kwargs) -> Result<Value, Error> {
    let attribute = options.get::<Option<&str>>("attribute")?;
    options.assert_all_used()?;
    let mut joined = String::new();
    for (place, item) in value.try_iter()?.enumerate() {
        if place > 0 {
            joined.push_str(joiner.unwrap_or_default());
        }
        let item = match attribute {
            Some(name) => item.get_attr(name)?,
            None => item,
        };
        joined.push_str(&to_text_or_fail(&item)?);
        if joined.len() > MAX_EXPRESSION_OUTPUT_BYTES {
            return Err(spent());
        }
    }
    Ok(Value::from(joined))
}

fn replace(text: &str, from: &str, to: &str) -> Result<Value, Error> {
    let matches = text.matches(from).count();
    let size = text.len().saturating_add(matches.saturating_mul(to.len()));
    if size > text.len() && size > MAX_EXPRESSION_OUTPUT_BYTES {
        return Err(spent());
    }
    Ok(Value::from(text.replace(from, to)))
}

fn string(value: Value) -> Result<Value, Error> {
    to_text_or_fail(&value).map(Value::from)
}

fn to_json_text(value: Value, options: Kwargs) -> Result<Value, Error> {
    let pretty = options.get::<Option<bool>>("pretty")?.unwrap_or(false);
    options.assert_all_used()?;
    let json = to_json(&value, &mut 0).map_err(not_json)?;
    Ok(Value::from(if pretty {
        format!("{json:#}")
    } else {
        json.to_string()
    }))
}
