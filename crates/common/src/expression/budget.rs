//! What one evaluation may produce, also on the way to its result.

use minijinja::value::{Value, ValueKind};
use minijinja::{Error, ErrorKind, State};

use crate::limits::MAX_EXPRESSION_OUTPUT_BYTES;

/// Bytes that the steps of one evaluation may produce in all.
const MAX_PRODUCED_BYTES: usize = 8 * MAX_EXPRESSION_OUTPUT_BYTES;
/// What an item of a list or map costs beside its content.
const ITEM_BYTES: usize = 32;
/// Nesting of values.
const MAX_DEPTH: usize = 128;
/// By what an error is known as the end of the budget.
const SPENT: &str = "the expression makes too much data";

struct Budget {
    left: usize,
}

/// The error of a spent budget.
pub(super) fn spent() -> Error {
    Error::new(ErrorKind::InvalidOperation, SPENT)
}

/// Whether the budget was spent.
pub(super) fn is_spent(error: &Error) -> bool {
    causes(error).any(|error| error.detail() == Some(SPENT))
}

/// An engine error and the engine errors that it comes from.
pub(super) fn causes(error: &Error) -> impl Iterator<Item = &Error> {
    std::iter::successors(Some(error), |&error| {
        std::error::Error::source(error)?.downcast_ref::<Error>()
    })
}

/// Takes `bytes` off the budget of the evaluation.
pub(super) fn charge(state: &mut State<'_, '_>, bytes: usize) -> Result<(), Error> {
    let budget = state.get_or_insert_extension_with(|| Budget {
        left: MAX_PRODUCED_BYTES,
    });
    budget.left = budget.left.checked_sub(bytes).ok_or_else(spent)?;
    Ok(())
}

/// Takes what a value would be when written out off the budget, `times` over.
///
/// Lists are shared, so that a list of lists of lists can stand for more than any memory holds; what
/// counts is therefore the size that a reader of the value would see.
pub(super) fn charge_value(
    state: &mut State<'_, '_>,
    value: &Value,
    times: usize,
) -> Result<(), Error> {
    let mut left = MAX_PRODUCED_BYTES / times.max(1);
    take(value, &mut left, MAX_DEPTH)?;
    let size = MAX_PRODUCED_BYTES / times.max(1) - left;
    charge(state, size.saturating_mul(times))
}

fn take(value: &Value, left: &mut usize, depth: usize) -> Result<(), Error> {
    if depth == 0 {
        return Err(Error::new(
            ErrorKind::InvalidOperation,
            "the value is nested too deeply",
        ));
    }
    let mut subtract = |bytes: usize| {
        *left = left.checked_sub(bytes).ok_or_else(spent)?;
        Ok::<_, Error>(())
    };
    match value.kind() {
        ValueKind::String => subtract(value.as_str().map_or(0, str::len))?,
        ValueKind::Seq | ValueKind::Iterable => {
            for item in value.try_iter()? {
                *left = left.checked_sub(ITEM_BYTES).ok_or_else(spent)?;
                take(&item, left, depth - 1)?;
            }
        }
        ValueKind::Map => {
            for key in value.try_iter()? {
                *left = left.checked_sub(ITEM_BYTES).ok_or_else(spent)?;
                take(&key, left, depth - 1)?;
                take(&value.get_item(&key)?, left, depth - 1)?;
            }
        }
        _ => {}
    }
    Ok(())
}
