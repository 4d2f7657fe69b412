//! References to secrets: where in the input of a task which secret belongs.
//!
//! The value of a secret is known to workers only. A text with `${{ secrets.NAME }}` in it is therefore
//! evaluated to the list of its parts, with null in the place of each secret, and beside the input goes
//! what belongs there. Both follow from the workflow alone, so that nothing that a run is given, and
//! nothing that a task puts out, can ask for a secret.

/// Bytes of the name of a secret.
pub const MAX_NAME_BYTES: usize = 128;

/// A place in the input of a task where the value of a secret belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretPart {
    /// The JSON pointer (RFC 6901) of the list of parts that stands for a text.
    pub pointer: String,
    /// Which of the parts.
    pub part: u32,
    /// The secret.
    pub name: String,
}

/// Whether a text can be the name of a secret: letters, digits and `_`, not starting with a digit.
pub fn is_name(text: &str) -> bool {
    text.len() <= MAX_NAME_BYTES
        && text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// The secret that an expression refers to, if that is all it does.
pub(crate) fn referred(expression: &str) -> Option<&str> {
    let name = expression.strip_prefix("secrets")?.trim_start();
    let name = name.strip_prefix('.')?.trim_start();
    is_name(name).then_some(name)
}

/// A step of a JSON pointer.
pub(crate) fn pointer_step(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}
