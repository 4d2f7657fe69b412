use serde_json::{Value, json};

use super::*;
use crate::limits::MAX_EXPRESSION_BYTES;
use crate::outcome::TaskStatus;
use crate::secret::SecretPart;
use crate::workflow::TaskKind;

fn scope() -> Scope {
    let inputs = json!({ "since": "2024-01-01", "count": 3, "flags": { "dry_run": true } });
    let mut scope = Scope::new("run-1", "digest", &serde_json::to_vec(&inputs).unwrap()).unwrap();
    let output = json!({ "body": [{ "id": 1, "name": "a" }, { "id": 2, "name": "b" }] });
    scope
        .add_task(
            "fetch",
            TaskStatus::Succeeded,
            Some(&serde_json::to_vec(&output).unwrap()),
        )
        .unwrap();
    scope.add_task("my-task", TaskStatus::Failed, None).unwrap();
    scope.set_item("ticket", &json!({ "text": "hello" }), 4);
    scope
}

fn render(template: &Value) -> Result<Value, ExpressionError> {
    Template::compile(template)?.render(&scope())
}

fn error(text: &str) -> String {
    render(&json!(text)).unwrap_err().to_string()
}

fn condition(text: &str) -> Result<bool, ExpressionError> {
    Condition::compile(text)?.evaluate(&scope())
}

#[test]
fn a_whole_expression_keeps_its_type() {
    for (text, value) in [
        ("${{ inputs.count }}", json!(3)),
        ("${{ inputs.count / 2 }}", json!(1.5)),
        ("${{ inputs.flags }}", json!({ "dry_run": true })),
        ("${{ inputs.flags.dry_run and 1 < 2 }}", json!(true)),
        ("${{ tasks.fetch.output.body[1].name }}", json!("b")),
        (
            "${{ tasks.fetch.output.body | map(attribute='id') | list }}",
            json!([1, 2]),
        ),
        ("${{ tasks['my-task'].output }}", Value::Null),
        ("${{ tasks['my-task'].status }}", json!("failed")),
        ("${{ ticket.text }}", json!("hello")),
        ("${{ index }}", json!(4)),
        ("${{ run.id }}", json!("run-1")),
        (
            "${{ run.name ~ '/' ~ workflow.name }}",
            json!("digest/digest"),
        ),
        ("${{ 'x' * 3 + 'y' }}", json!("xxxy")),
        ("${{ [1] * 2 + [3] }}", json!([1, 1, 3])),
        ("${{ range(3) }}", json!([0, 1, 2])),
        ("${{ range(5, 0, -2) }}", json!([5, 3, 1])),
        (
            "${{ {'a': [1, {'b': none}]} }}",
            json!({ "a": [1, { "b": null }] }),
        ),
        ("${{ inputs.nothing | default('x') }}", json!("x")),
        ("${{ inputs.nothing is defined }}", json!(false)),
        (
            "${{ 18446744073709551615 }}",
            json!(18_446_744_073_709_551_615_u64),
        ),
        ("${{ '[1, 2]' | fromjson }}", json!([1, 2])),
        ("${{ [1, {'a': 'b'}] | tojson }}", json!(r#"[1,{"a":"b"}]"#)),
        ("${{ ['a', 1, [2]] | join(', ') }}", json!("a, 1, [2]")),
        ("${{ '%05.1f' | format(3.14159) }}", json!("003.1")),
        ("${{ 'a\nb' | indent(2) }}", json!("a\n  b")),
    ] {
        assert_eq!(render(&json!(text)), Ok(value), "{text}");
    }
}

#[test]
fn an_expression_in_text_is_written_into_it() {
    assert_eq!(
        render(&json!(
            "n=${{ inputs.count }}, ${{ inputs.flags }} ${{ none }} ${{ 'x' }}!"
        )),
        Ok(json!("n=3, {\"dry_run\":true} null x!"))
    );
    assert_eq!(
        render(&json!({ "a": ["${{ index }}", 1], "b": { "c": "${{ ticket }}" } })),
        Ok(json!({ "a": [4, 1], "b": { "c": { "text": "hello" } } }))
    );
}

#[test]
fn other_braces_are_literal() {
    for text in [
        "{{ x }}",
        "{% for x in y %}",
        "${HOME} {# c #}",
        "$ { { }}",
        "a }} b",
    ] {
        let template = Template::compile(&json!(text)).unwrap();
        assert!(template.is_static());
        assert_eq!(template.render(&scope()), Ok(json!(text)));
    }
    assert_eq!(render(&json!("${{ '${{ x }}' }}")), Ok(json!("${{ x }}")));
}

#[test]
fn undefined_names_are_named() {
    assert_eq!(
        error("${{ tasks.fetc.output }}"),
        "`tasks.fetc` is not defined; did you mean `fetch`?"
    );
    assert_eq!(
        error("${{ tasks.fetch.output.bdy | length }}"),
        "`tasks.fetch.output.bdy` is not defined; did you mean `body`?"
    );
    assert_eq!(
        error("${{ inputs.count + inputs.sinec }}"),
        "`inputs.sinec` is not defined; did you mean `since`?"
    );
    assert_eq!(
        error("${{ tasks.fetch.output.body[7].name }}"),
        "`tasks.fetch.output.body[7]` is not defined"
    );
    assert_eq!(error("${{ nothing }}"), "`nothing` is not defined");
    assert_eq!(
        error("${{ tasks.fetch.result }}"),
        "`tasks.fetch.result` is not defined; a task has `output` and `status`"
    );
    assert_eq!(
        error("a ${{ inputs.flags.dry_rn }}"),
        "`inputs.flags.dry_rn` is not defined; did you mean `dry_run`?"
    );
}

#[test]
fn malformed_expressions_are_refused() {
    assert_eq!(
        error("${{ 1 + }}"),
        "`1 +` is not an expression: unexpected end of input, expected expression"
    );
    assert_eq!(
        error("${{ a | lenght }}"),
        "`lenght` is not a filter; did you mean `length`?"
    );
    assert_eq!(
        error("${{ a is defnied }}"),
        "`defnied` is not a test; did you mean `defined`?"
    );
    assert_eq!(
        error("${{ rang(3) }}"),
        "`rang` is not a function; did you mean `range`?"
    );
    for text in [
        "${{ secrets.TOKEN }}",
        "${{ secrets.TOKEN | upper }}",
        "${{ secrets }}",
        "${{ secrets['TOKEN'] }}",
    ] {
        assert_eq!(error(text), ExpressionError::Secrets.to_string());
    }
    let whole = "`tasks` must be followed by the id of a task, as in `tasks.fetch.output`";
    assert_eq!(error("${{ tasks }}"), whole);
    assert_eq!(error("${{ tasks[inputs.since] }}"), whole);
    assert_eq!(error("${{ x"), "`${{` is not closed by `}}`");
    let long = format!("${{{{ '{}' }}}}", "a".repeat(MAX_EXPRESSION_BYTES));
    assert_eq!(
        error(&long),
        "the expression is 16386 bytes long; the most is 16384"
    );
    assert_eq!(
        render(&json!({ "${{ x }}": 1 })).unwrap_err().to_string(),
        "the key `${{ x }}` holds an expression; only values can"
    );
}

#[test]
fn data_is_bounded() {
    for text in [
        "'x' * 10 ** 9",
        "'x' * 5000000",
        "[1] * 10 ** 9",
        "[[1] * 10000] * 10000",
        "([[[1] * 100] * 100] * 100) * 100",
        "range(10000) | map('string') | join('x' * 1000)",
        "('x' * 1000000) | replace('', 'y' * 1000000)",
        "('x' * 1000000) ~ ('x' * 4000000)",
        "([range(10000)] * 1000) | list",
        "(['x' * 100000] * 200) | map('upper') | list",
        "('\n' * 1000000) | indent(900)",
    ] {
        let text = format!("${{{{ {text} }}}}");
        let error = error(&text);
        let expected = format!(
            "`{}` makes more than 4194304 bytes",
            &text[4..text.len() - 3].replace('\n', " ")
        );
        assert_eq!(error, expected.replace("('  '", "(' '"), "{text}");
    }
    assert_eq!(
        error("${{ range(10 ** 9) }}"),
        "`range(10 ** 9)` failed: a range of 1000000000 items is too long; the most is 10000"
    );
    assert_eq!(
        error("${{ '%99999d' | format(1) }}"),
        "`'%99999d' | format(1)` failed: a width or precision is too much; the most is 999"
    );
    assert_eq!(
        error("${{ [1] | batch(10 ** 9, 0) }}"),
        "`[1] | batch(10 ** 9, 0)` failed: a batch of 1000000000 is too much; the most is 10000"
    );
}

#[test]
fn doubling_is_bounded_in_text_templates() {
    let mut doubling = "{% set x = 'xxxxxxxxxxxxxxxx' %}".to_owned();
    for _ in 0..60 {
        doubling.push_str("{% set x = x ~ x %}");
    }
    let line = "y".repeat(1000);
    let capture = format!(
        "{{% set x %}}{{% for a in range(10000) %}}{{% for b in range(9) %}}{line}{{% endfor %}}\
         {{% endfor %}}{{% endset %}}"
    );
    for template in [&doubling, &capture] {
        let error = render_text(template, &json!({})).unwrap_err();
        assert!(matches!(error, ExpressionError::TooLarge { .. }), "{error}");
    }
}

#[test]
fn steps_are_bounded() {
    let template = "{% for a in range(10000) %}{% for b in range(1000) %}{% endfor %}{% endfor %}";
    assert_eq!(
        render_text(template, &json!({})).unwrap_err().to_string(),
        format!("`{template}` takes more than 1000000 steps")
    );
}

#[test]
fn operators_say_what_they_cannot_do() {
    assert_eq!(
        error("${{ 1 + 'a' }}"),
        "`1 + 'a'` failed: a number and text cannot be added"
    );
    assert_eq!(
        error("${{ [1] * 'a' }}"),
        "`[1] * 'a'` failed: a list and text cannot be multiplied"
    );
    assert_eq!(
        error("${{ 2 ** 100 * 2 ** 100 }}"),
        "`2 ** 100 * 2 ** 100` failed: the result needs more than 128 bits"
    );
    assert_eq!(
        error("${{ 2 ** 100 }}"),
        "`2 ** 100` failed: a number needs more than 64 bits"
    );
    assert_eq!(
        error("${{ 1 if false }}"),
        "`1 if false` failed: it gives no value; `if` needs an `else`"
    );
}

#[test]
fn references_are_found() {
    let template = Template::compile(&json!({
        "a": "${{ tasks.fetch.output.x[tasks.other.output] | default(inputs.since) }}",
        "b": ["${{ tasks['my-task'] }} ${{ item.x + index }}", "${{ inputs }}"],
        "c": "${{ [x for_ever] | list if false else {'k': tasks.last.status} }}".replace(" for_ever", ""),
    }))
    .unwrap();
    let references = template.references();
    let names = |set: &std::collections::BTreeSet<String>| {
        set.iter().cloned().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(names(&references.tasks), "fetch last my-task other");
    assert_eq!(names(&references.inputs), "since");
    assert_eq!(names(&references.variables), "index item x");
    assert!(!template.is_static());
}

#[test]
fn conditions_need_true_or_false() {
    assert_eq!(condition("${{ inputs.count > 2 }}"), Ok(true));
    assert_eq!(condition("inputs.count > 3"), Ok(false));
    assert_eq!(condition(" tasks.fetch.status == 'succeeded' "), Ok(true));
    let error = |text: &str| condition(text).unwrap_err().to_string();
    assert_eq!(
        error("inputs.since"),
        "`inputs.since` must give true or false, not text"
    );
    assert_eq!(
        error("${{ inputs.count }}"),
        "`inputs.count` must give true or false, not a number"
    );
    assert_eq!(
        error("${{ true }} and ${{ false }}"),
        "`${{ true }} and ${{ false }}` is not an expression: a condition is one expression, \
         without other text"
    );
    assert_eq!(error(""), "the expression is empty");
}

#[test]
fn templates_can_be_shared_between_threads() {
    fn shared<T: Send + Sync + Clone + 'static>(_: &T) {}
    shared(&Template::compile(&json!("${{ index }}")).unwrap());
    shared(&Condition::compile("true").unwrap());
    shared(&scope());
}

#[test]
fn text_templates_have_the_whole_language() {
    let values = json!({ "rows": [{ "n": "a", "v": 1.5 }, { "n": "b", "v": [1] }], "t": "<&>" });
    let template = "# {{ t | upper }}\n{% for row in rows -%}\n| {{ row.n }} | {{ row.v }} |\n\
                    {% endfor %}{# c #}{% if rows | length > 1 %}many{% endif %}";
    assert_eq!(
        render_text(template, &values).unwrap(),
        "# <&>\n| a | 1.5 |\n| b | [1] |\nmany"
    );
    assert_eq!(render_text("a\n", &values).unwrap(), "a\n");
    assert_eq!(render_text("a", &values).unwrap(), "a");
    let error = |template: &str| render_text(template, &values).unwrap_err().to_string();
    assert_eq!(
        error("a\n{{ rowz }}"),
        "`a {{ rowz }}` failed: line 2: `rowz` is undefined"
    );
    assert_eq!(
        error("{% for x %}"),
        "`{% for x %}` is not an expression: line 1: unexpected end of block, expected in"
    );
    assert_eq!(
        error("{% include 'x' %}"),
        "`{% include 'x' %}` is not an expression: line 1: unknown statement include"
    );
    assert!(check_text("{% if %}").is_err());
    assert_eq!(check_text(template), Ok(()));
}

#[test]
fn a_text_template_is_left_to_the_worker() {
    let with = json!({ "template": "${{ theirs, }} {{ n }}", "values": { "n": "${{ index }}" } });
    let template = Template::compile_input(TaskKind::Transform, &with).unwrap();
    assert_eq!(
        template.render(&scope()),
        Ok(json!({ "template": "${{ theirs, }} {{ n }}", "values": { "n": 4 } }))
    );
    let only = json!({ "template": "${{ theirs, }}" });
    let template = Template::compile_input(TaskKind::Transform, &only).unwrap();
    assert!(template.is_static());
    assert_eq!(template.render(&scope()), Ok(only.clone()));
    assert!(Template::compile_input(TaskKind::Handler, &only).is_err());
}

#[test]
fn what_is_not_json_is_named() {
    let error = Scope::new("r", "w", b"{").unwrap_err();
    assert!(error.to_string().starts_with("`inputs` is not JSON: EOF"));
    let error = scope().add_task("a", TaskStatus::Succeeded, Some(b"x"));
    let message = error.unwrap_err().to_string();
    assert!(message.starts_with("the output of task `a` is not JSON: expected value"));
}

#[test]
fn secrets_are_left_out_and_their_places_told() {
    let with = json!({
        "url": "http://h/${{ inputs.since }}",
        "headers": { "a/b~c": "Bearer ${{ secrets.TOKEN }}" },
        "list": [1, "${{ secrets.A }}${{ inputs.since }}${{ secrets.B }}"],
    });
    let template = Template::compile_input(TaskKind::Http, &with).unwrap();
    let part = |pointer: &str, part, name: &str| SecretPart {
        pointer: pointer.to_owned(),
        part,
        name: name.to_owned(),
    };
    assert_eq!(
        template.secrets()[..],
        [
            part("/headers/a~1b~0c", 1, "TOKEN"),
            part("/list/1", 0, "A"),
            part("/list/1", 2, "B"),
        ]
    );
    // What a run is given can look like a reference, and stays text.
    let forged = "${{ secrets.TOKEN }}";
    let inputs = json!({ "since": forged }).to_string();
    let scope = Scope::new("run", "flow", inputs.as_bytes()).unwrap();
    let rendered = template.render(&scope).unwrap();
    assert_eq!(
        rendered,
        json!({
            "url": format!("http://h/{forged}"),
            "headers": { "a/b~c": ["Bearer ", null] },
            "list": [1, [null, forged, null]],
        })
    );
    for place in template.secrets().iter() {
        let list = rendered.pointer(&place.pointer).unwrap();
        assert_eq!(list[place.part as usize], json!(null));
    }
    assert_eq!(
        Template::compile_input(TaskKind::Transform, &json!({ "value": forged })).unwrap_err(),
        ExpressionError::Secrets
    );
}
