//! What each task type takes under `with`.

use super::tests::with;

#[test]
fn inputs_of_tasks_are_checked() {
    let missing = |kind: &str, key: &str| {
        let messages = with(kind, "{}");
        assert_eq!(
            messages,
            [
                format!("3:3: `{key}` is missing"),
                format!("6:9: `{key}` is missing")
            ]
        );
    };
    missing("http", "url");
    missing("process", "command");
    missing("sleep", "duration");
    missing("handler", "name");
    let second = |kind: &str, text: &str| with(kind, text)[1..].to_vec();
    assert_eq!(
        second("http", "{ url: x, header: {} }"),
        ["6:19: unknown key `header` (did you mean `headers`?)"]
    );
    assert_eq!(
        second("http", "{ url: 5, expect_status: [\"${{ 200 }}\", x] }"),
        [
            "6:16: `url` must be text, not a number (put it in quotes)",
            "6:49: `expect_status[1]` must be a whole number, not text",
        ]
    );
    assert_eq!(
        second("http", "{ url: x, json: 1, form: { a: 1 }, redirects: 21 }"),
        [
            "6:9: `json` and `form` exclude each other",
            "6:55: `redirects` must be between 0 and 20",
        ]
    );
    assert_eq!(
        second("http", "{ url: x, response: xml }"),
        ["6:29: `response` cannot be `xml` (it must be one of `auto`, `json`, `text`, `base64`)"]
    );
    assert_eq!(
        second("process", "{ command: [] }"),
        ["6:20: `command` is empty"]
    );
    assert_eq!(
        second("process", "{ command: ls }"),
        ["6:20: `command` must be a list, not text"]
    );
    assert_eq!(
        second("process", "{ command: [ls], output: yaml }"),
        ["6:34: `output` cannot be `yaml` (it must be one of `json`, `text`, `lines`)"]
    );
    assert_eq!(
        second("handler", "{ name: \"${{ 'x' }}\" }"),
        [
            "6:17: `name` cannot hold an expression (the name of a handler must be known before the \
          run)"
        ]
    );
    assert_eq!(
        second("transform", "{ value: 1, template: x }"),
        ["6:9: `value` and `template` exclude each other"]
    );
    assert_eq!(
        second("transform", "{ value: 1, values: {} }"),
        ["6:9: `values` are for a `template`"]
    );
    assert_eq!(
        second("transform", "{ template: \"{% for %}\" }"),
        ["6:21: `{% for %}` is not an expression: line 1: unexpected end of block, expected in"]
    );
    assert_eq!(
        second("sleep", "\"${{ 1 }}\""),
        ["6:9: `with` must be a map, not text"]
    );
    assert_eq!(
        second("transform", "{ value: { \"${{ x }}\": 1 } }"),
        ["6:20: the key `${{ x }}` holds an expression; only values can"]
    );
}

#[test]
fn statements_hold_no_expressions() {
    let sql = |text: &str| with("sql", text)[2..].to_vec();
    let params = "(write a parameter, such as `$1` or `?1`, and give its value in `params`)";
    assert_eq!(
        sql("{ connection: c, query: a, params: [\"${{ 1 }}\", 2] }"),
        [""; 0]
    );
    assert_eq!(
        sql("{ connection: \"${{ 'c' }}\", query: \"a ${{ 1 }}\" }"),
        [
            "6:23: `connection` cannot hold an expression (the name of a connection must be known \
             before the run)",
            &format!("6:44: `query` cannot hold an expression {params}"),
        ]
    );
    let statements = "{ connection: c, statements: [{ execute: \"${{ 'a' }}\", params: [\"${{ 1 }}\"] }, \"${{ 2 }}\", { params: [] }] }";
    assert_eq!(
        sql(statements),
        [
            format!("6:50: `execute` cannot hold an expression {params}"),
            format!("6:88: `statements[1]` cannot hold an expression {params}"),
            "6:100: `query` or `execute` is missing".to_owned(),
        ]
    );
    assert_eq!(
        sql("{ connection: c, query: a, execute: b }"),
        ["6:9: only one of `query`, `execute` or `statements` can be given"]
    );
    assert_eq!(
        sql("{ connection: c, query: a, isolation: serializable }"),
        ["6:9: `isolation` is for `statements`"]
    );
    assert_eq!(
        sql("{ connection: c, statements: [{ query: a }], params: [1] }"),
        ["6:9: each of the `statements` has `params` of its own"]
    );
}

#[test]
fn a_chat_says_whom_and_what_to_ask() {
    let chat = |text: &str| with("chat", text)[2..].to_vec();
    assert_eq!(chat("{ prefer: cheapest, prompt: hello }"), [""; 0]);
    assert_eq!(
        chat("{}"),
        [
            "6:9: `model`, `models`, `prefer` or `require` is missing",
            "6:9: `messages` or `prompt` is missing",
        ]
    );
    assert_eq!(
        chat("{ model: a, models: [b], prompt: hello }"),
        ["6:9: `model` and `models` exclude each other"]
    );
    assert_eq!(
        chat("{ models: [b], fallbacks: [a], prompt: hello, api_key: k }"),
        [
            "6:9: `fallbacks` are for a `model`",
            "6:9: `api_key` is for a `base_url`",
        ]
    );
}
