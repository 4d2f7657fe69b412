//! Finds the expressions in a text.

use super::error::ExpressionError;
use crate::limits::MAX_EXPRESSION_BYTES;
use crate::secret;

const OPEN: &str = "${{";

/// A piece of a text.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// Taken as it is.
    Literal(&'a str),
    /// What stands between `${{` and `}}`.
    Expression(&'a str),
    /// The name of a secret, which stands there alone.
    Secret(&'a str),
}

/// Whether the text holds an expression.
pub fn has_expression(text: &str) -> bool {
    text.contains(OPEN)
}

/// Whether the text is one expression and nothing else.
pub(crate) fn is_whole_expression(text: &str) -> bool {
    matches!(pieces(text).as_deref(), Ok([Piece::Expression(_)]))
}

/// Cuts a text into literals and expressions. Strings and braces inside an expression do not end it.
pub(super) fn pieces(text: &str) -> Result<Vec<Piece<'_>>, ExpressionError> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find(OPEN) {
        if start > 0 {
            pieces.push(Piece::Literal(&rest[..start]));
        }
        let inner = &rest[start + OPEN.len()..];
        let end = end_of_expression(inner).ok_or(ExpressionError::Unclosed)?;
        let expression = inner[..end].trim();
        if expression.is_empty() {
            return Err(ExpressionError::Empty);
        }
        if expression.len() > MAX_EXPRESSION_BYTES {
            return Err(ExpressionError::TooLong {
                bytes: expression.len(),
            });
        }
        pieces.push(match secret::referred(expression) {
            Some(name) => Piece::Secret(name),
            None => Piece::Expression(expression),
        });
        rest = &inner[end + 2..];
    }
    if !rest.is_empty() {
        pieces.push(Piece::Literal(rest));
    }
    Ok(pieces)
}

/// The place of the `}}` that ends the expression at the start of `text`.
fn end_of_expression(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut depth = 0_usize;
    let mut quote = None;
    let mut at = 0;
    while at < bytes.len() {
        let byte = bytes[at];
        match (quote, byte) {
            (Some(_), b'\\') => at += 1,
            (Some(open), _) if byte == open => quote = None,
            (Some(_), _) => {}
            (None, b'"' | b'\'') => quote = Some(byte),
            (None, b'{') => depth += 1,
            (None, b'}') if depth > 0 => depth -= 1,
            (None, b'}') if bytes.get(at + 1) == Some(&b'}') => return Some(at),
            _ => {}
        }
        at += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(text: &str) -> Vec<Piece<'_>> {
        pieces(text).unwrap()
    }

    #[test]
    fn cuts_literals_and_expressions() {
        assert_eq!(
            cut("a ${{ b }} c${{d}}"),
            [
                Piece::Literal("a "),
                Piece::Expression("b"),
                Piece::Literal(" c"),
                Piece::Expression("d"),
            ]
        );
    }

    #[test]
    fn leaves_other_braces_alone() {
        for text in [
            "{{ x }}",
            "{% if x %}",
            "${x}",
            "$",
            "}}",
            "{# c #}",
            "${ { x } }",
        ] {
            assert_eq!(cut(text), [Piece::Literal(text)]);
        }
    }

    #[test]
    fn strings_and_maps_do_not_end_an_expression() {
        assert_eq!(cut("${{ '}}' }}"), [Piece::Expression("'}}'")]);
        assert_eq!(cut(r#"${{ "\"}}" }}"#), [Piece::Expression(r#""\"}}""#)]);
        assert_eq!(cut("${{ {'a': {}}}}"), [Piece::Expression("{'a': {}}")]);
        assert_eq!(cut("${{ '${{' }}"), [Piece::Expression("'${{'")]);
    }

    #[test]
    fn a_secret_is_a_name_alone() {
        assert_eq!(
            cut("a ${{ secrets.TOKEN_2 }}"),
            [Piece::Literal("a "), Piece::Secret("TOKEN_2")]
        );
        for other in [
            "secrets.a.b",
            "secrets.a | upper",
            "secrets.2a",
            "secrets.a-b",
            "secrets['a']",
            "secrets",
            "secretsa",
            "xsecrets.a",
        ] {
            assert_eq!(
                cut(&format!("${{{{ {other} }}}}")),
                [Piece::Expression(other)]
            );
        }
    }

    #[test]
    fn says_what_is_wrong() {
        assert_eq!(pieces("a ${{ b"), Err(ExpressionError::Unclosed));
        assert_eq!(pieces("${{ '}}"), Err(ExpressionError::Unclosed));
        assert_eq!(pieces("${{ }}"), Err(ExpressionError::Empty));
        let long = format!("${{{{ {} }}}}", "a".repeat(MAX_EXPRESSION_BYTES + 1));
        assert_eq!(
            pieces(&long).unwrap_err().to_string(),
            "the expression is 16385 bytes long; the most is 16384"
        );
    }
}
