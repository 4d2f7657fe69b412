//! Taking the values of secrets out of what leaves a worker.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use aho_corasick::{AhoCorasick, MatchKind};
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use levelflow_common::Failure;
use levelflow_common::limits::MAX_ERROR_BYTES;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value};
use url::{Url, form_urlencoded};

/// Shorter values would be found everywhere.
const SHORTEST: usize = 4;
/// What stands in the place of a value.
const MASK: &str = "***";

/// Knows the values of some secrets in the forms in which they may turn up.
pub(crate) struct Redactor {
    /// None without a value that is long enough.
    search: Option<AhoCorasick>,
    forms: Vec<String>,
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redactor").finish_non_exhaustive()
    }
}

impl Redactor {
    pub(crate) fn new<'a>(values: impl IntoIterator<Item = &'a str>) -> Self {
        let mut forms = BTreeSet::new();
        for value in values {
            add_forms(value, &mut forms);
            // A key in several lines may turn up line by line.
            for line in value.lines().map(str::trim).filter(|line| *line != value) {
                add_forms(line, &mut forms);
            }
        }
        let forms: Vec<String> = forms.into_iter().collect();
        let search = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(&forms)
            .ok()
            .filter(|_| !forms.is_empty());
        Self { search, forms }
    }

    /// The text without values.
    pub(crate) fn redact<'t>(&self, text: &'t str) -> Cow<'t, str> {
        match &self.search {
            Some(search) if search.is_match(text) => {
                let masks = vec![MASK; self.forms.len()];
                search.replace_all(text, &masks).into()
            }
            _ => text.into(),
        }
    }

    /// The same for a text that was cut out of a longer one, perhaps in the midst of a value.
    pub(crate) fn redact_cut(&self, text: &str) -> String {
        let text = self.redact(text);
        let (mut start, mut end) = (0, text.len());
        for form in &self.forms {
            for at in form.char_indices().map(|(at, _)| at) {
                let (head, tail) = form.split_at(at);
                if tail.len() >= SHORTEST && text.starts_with(tail) {
                    start = start.max(tail.len());
                }
                if head.len() >= SHORTEST && text.ends_with(head) {
                    end = end.min(text.len() - head.len());
                }
            }
        }
        match (start, end) {
            (0, end) if end == text.len() => text.into_owned(),
            (start, end) if start >= end => MASK.to_owned(),
            (start, end) => {
                let before = if start > 0 { MASK } else { "" };
                let after = if end < text.len() { MASK } else { "" };
                format!("{before}{}{after}", &text[start..end])
            }
        }
    }

    /// How much of a text can be given on while more of it comes: what follows may belong to a value.
    pub(crate) fn settled(&self, text: &str) -> usize {
        let mut settled = text.len();
        for form in &self.forms {
            let mut heads = form.char_indices().rev().map(|(at, _)| &form[..at]);
            let longest = heads.find(|head| text.ends_with(head));
            settled = settled.min(text.len() - longest.map_or(0, str::len));
        }
        // A value that is there already may go on, as another that begins with it.
        let matches = self.search.iter().flat_map(|search| search.find_iter(text));
        let across = matches
            .filter(|found| found.start() < settled && settled < found.end())
            .map(|found| found.start());
        across.min().unwrap_or(settled)
    }

    /// A failure without values.
    pub(crate) fn failure(&self, mut failure: Failure) -> Failure {
        failure.message = if failure.message.len() + SHORTEST >= MAX_ERROR_BYTES {
            self.redact_cut(&failure.message)
        } else {
            self.redact(&failure.message).into_owned()
        };
        failure
    }

    /// A JSON value without values of secrets.
    pub(crate) fn output(&self, output: Bytes) -> Bytes {
        let Some(search) = &self.search else {
            return output;
        };
        if !search.is_match(&output[..]) {
            return output;
        }
        match serde_json::from_slice(&output) {
            Ok(value) => self.value(value).to_string().into(),
            // A number that only its writer understands is no reason to let a value through.
            Err(_) => self
                .redact(&String::from_utf8_lossy(&output))
                .into_owned()
                .into(),
        }
    }

    fn value(&self, value: Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.redact(&text).into_owned()),
            Value::Number(number) => {
                let text = number.to_string();
                match self.redact(&text) {
                    Cow::Borrowed(_) => Value::Number(number),
                    Cow::Owned(masked) => Value::String(masked),
                }
            }
            Value::Array(items) => items.into_iter().map(|item| self.value(item)).collect(),
            Value::Object(entries) => {
                let masked = entries.into_iter().map(|(key, item)| {
                    let key = self.redact(&key).into_owned();
                    (key, self.value(item))
                });
                Value::Object(masked.collect::<Map<_, _>>())
            }
            other => other,
        }
    }
}

/// Adds a value as it is, and as it stands in JSON, in addresses, in forms and inside of base64.
fn add_forms(value: &str, forms: &mut BTreeSet<String>) {
    if value.len() < SHORTEST {
        return;
    }
    let mut add = |form: String| {
        if form.len() >= SHORTEST {
            forms.insert(form);
        }
    };
    add(value.to_owned());
    let quoted = Value::from(value).to_string();
    add(quoted[1..quoted.len() - 1].to_owned());
    let encoded = utf8_percent_encode(value, NON_ALPHANUMERIC).to_string();
    add(encoded.to_ascii_lowercase());
    add(encoded);
    add(form_urlencoded::byte_serialize(value.as_bytes()).collect());
    if let Ok(mut url) = Url::parse("http://h/") {
        url.set_path(value);
        add(url.path().trim_start_matches('/').to_owned());
        url.set_query(Some(value));
        add(url.query().unwrap_or_default().to_owned());
    }
    for engine in [&BASE64_STANDARD_NO_PAD, &BASE64_URL_SAFE_NO_PAD] {
        // What stands before the value decides how it falls into groups of three bytes.
        for before in 0..3 {
            let bytes = [&[0; 3][..before], value.as_bytes()].concat();
            let text = engine.encode(&bytes);
            // Characters that also hold bits of what stands before or after are left out.
            let start = (before * 8).div_ceil(6);
            let end = bytes.len() * 8 / 6;
            add(text[start..end].to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE};
    use levelflow_common::Code;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const VALUE: &str = "p@ss \"wörd\"/?&x";

    fn redactor() -> Redactor {
        Redactor::new([VALUE, "abc", "12345678"])
    }

    #[test]
    fn values_are_found_in_every_form() {
        let url = Url::parse(&format!("http://h/{VALUE}?q={VALUE}")).unwrap();
        let form: String = form_urlencoded::Serializer::new(String::new())
            .append_pair("k", VALUE)
            .finish();
        let texts = [
            format!("before {VALUE} after"),
            json!({ "k": VALUE }).to_string(),
            Url::parse("http://h/")
                .map(|mut url| {
                    url.set_path(VALUE);
                    url.to_string()
                })
                .unwrap(),
            url.query().unwrap().to_owned(),
            utf8_percent_encode(VALUE, NON_ALPHANUMERIC).to_string(),
            form,
            BASE64_STANDARD.encode(VALUE),
            BASE64_STANDARD.encode(format!("user:{VALUE}")),
            BASE64_URL_SAFE.encode(format!("me:{VALUE}:x")),
            BASE64_STANDARD.encode(format!("a:{VALUE}")),
        ];
        for text in texts {
            let redacted = redactor().redact(&text).into_owned();
            assert!(redacted.contains(MASK), "{text} became {redacted}");
            assert!(
                !redacted.contains("rd%22") && !redacted.contains("wörd"),
                "{redacted}"
            );
        }
        assert_eq!(
            redactor().redact(&format!("a {VALUE}{VALUE}b")),
            "a ******b"
        );
    }

    #[test]
    fn everything_else_stays() {
        let text = "abc p@ss wörd 1234567";
        assert_eq!(redactor().redact(text), text);
        let empty = Redactor::new(["", "abc"]);
        assert_eq!(empty.redact(text), text);
        let output = Bytes::from_static(b"{\"a\": \"abc\"}");
        assert_eq!(empty.output(output.clone()), output);
    }

    #[test]
    fn outputs_stay_json() {
        let output = json!({
            "text": format!("is {VALUE}"), VALUE: [1, 12345678, 3123456789_u64], "n": null,
        });
        let redacted = redactor().output(output.to_string().into());
        assert_eq!(
            serde_json::from_slice::<Value>(&redacted).unwrap(),
            json!({ "text": "is ***", MASK: [1, "***", "3***9"], "n": null })
        );
        let unreadable = Bytes::from_static(br#"{"n": 1e999, "k": "12345678"}"#);
        let redacted = redactor().output(unreadable);
        assert_eq!(&redacted[..], br#"{"n": 1e999, "k": "***"}"#);
    }

    #[test]
    fn a_value_that_was_cut_is_found_at_the_ends() {
        let redactor = Redactor::new(["hunter2hunter2"]);
        assert_eq!(redactor.redact_cut("2hunter2: no"), "***: no");
        assert_eq!(redactor.redact_cut("no: hunter2h"), "no: ***");
        assert_eq!(redactor.redact_cut("ter2hunter2"), "***");
        assert_eq!(
            redactor.redact_cut("er2: hunter2hunter2: hun"),
            "er2: ***: hun"
        );
        let long = format!("{}hunter2", "x".repeat(MAX_ERROR_BYTES - 7));
        let failure = Failure::permanent(Code::HttpStatus, long);
        assert!(redactor.failure(failure).message.ends_with("xx***"));
    }

    proptest! {
        /// However a text is cut, nothing of a value is given on before it is known to be one.
        #[test]
        fn a_text_in_pieces_is_redacted_as_the_whole(
            pieces in proptest::collection::vec("(abc|abcabd|b|ab| |hunter|2|hun)", 0..20),
        ) {
            let redactor = Redactor::new(["abcabd", "hunter2hunter2", "bbabc"]);
            let (mut given, mut held) = (String::new(), String::new());
            for piece in &pieces {
                held.push_str(piece);
                let rest = held.split_off(redactor.settled(&held));
                given.push_str(&redactor.redact(&std::mem::replace(&mut held, rest)));
                prop_assert!(held.len() <= 60, "{held}");
            }
            given.push_str(&redactor.redact(&held));
            prop_assert_eq!(given, redactor.redact(&pieces.concat()).into_owned());
        }
    }

    #[test]
    fn each_line_of_a_key_is_a_value() {
        let redactor = Redactor::new(["-----BEGIN KEY-----\nMIIEpA\nIBAAKC\n-----END KEY-----\n"]);
        assert_eq!(
            redactor.redact("line MIIEpA, line IBAAKC"),
            "line ***, line ***"
        );
        assert!(!format!("{redactor:?}").contains("MIIEpA"));
    }
}
