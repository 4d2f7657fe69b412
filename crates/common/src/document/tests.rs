use serde_json::json;

use super::*;
use crate::limits::{MAX_NESTING, MAX_TASKS};
use crate::workflow::TaskKind;

pub(super) const GOOD: &str = r#"
name: ticket-digest
inputs:
  since: { type: string, required: true }
priority: high
tasks:
  - id: fetch
    type: http
    with: { method: GET, url: "https://example.com", query: { since: "${{ inputs.since }}" } }
    retry: { max_attempts: 5, initial: 1s, factor: 2, max: 16s, jitter: true }
    timeout: 20s
  - id: summarize
    type: handler
    for_each: { items: "${{ tasks.fetch.output.body }}", as: ticket, max_parallel: 8 }
    with: { name: summarize, input: "${{ ticket.text }} ${{ index }}" }
  - id: report
    type: process
    depends_on: [fetch]
    when: tasks.summarize.output | length > 0
    with: { command: [python3, report.py], stdin: "${{ tasks.summarize.output }}", output: json }
    timeout: { run: 5m, queue: 90 }
  - id: text
    type: transform
    with: { template: "{% for x in y %}${{ not ours }}{% endfor %}", values: { y: "${{ tasks.report.output }}" } }
  - id: pause
    type: sleep
    needs: [text]
    with: { duration: "${{ inputs.since }}" }
edges: [{ from: fetch, to: pause }]
outputs: { url: "${{ tasks.pause.output }}" }
"#;

/// The problems of a file as people read them.
fn problems(text: &str) -> String {
    read("flow.yaml", text.as_bytes()).problems.to_string()
}

/// The messages of a file's problems, with line, column, and help.
fn messages(text: &str) -> Vec<String> {
    let draft = read("flow.yaml", text.as_bytes());
    let messages = draft.problems.iter().map(|problem| {
        let place = problem
            .position
            .map_or_else(String::new, |at| format!("{}:{}: ", at.line, at.column));
        let help = problem.help.as_ref();
        let help = help.map_or_else(String::new, |help| format!(" ({help})"));
        format!("{place}{}{help}", problem.message)
    });
    messages.collect()
}

/// A workflow of one `transform` task with more keys in it.
fn task(keys: &str) -> String {
    format!(
        "name: w\ninputs: {{ since: {{}} }}\ntasks:\n- id: a\n  type: transform\n  \
         with: {{ value: 1 }}\n{keys}"
    )
}

/// A workflow of one task with that type and `with`.
pub(super) fn with(kind: &str, with: &str) -> Vec<String> {
    messages(&format!(
        "name: w\ntasks:\n- {{ id: a, type: {kind} }}\n- id: b\n  type: {kind}\n  with: {with}\n"
    ))
}

#[test]
fn reads_a_workflow() {
    let draft = read("flow.yaml", GOOD.as_bytes());
    assert_eq!(draft.problems.to_string(), "");
    assert_eq!(
        draft.edges,
        [(0, 1), (0, 2), (0, 4), (1, 2), (2, 3), (3, 4)]
    );
    let workflow = draft.workflow.unwrap();
    assert_eq!(workflow.tasks[2].needs, ["fetch"]);
    let timeout = |index: usize| serde_json::to_value(&workflow.tasks[index].timeout).unwrap();
    assert_eq!(timeout(0), json!({ "run": "20s" }));
    assert_eq!(timeout(2), json!({ "run": "5m", "queue": "1m30s" }));
}

#[test]
fn reads_its_own_canonical_form() {
    let workflow = read("flow.yaml", GOOD.as_bytes()).workflow.unwrap();
    let json = workflow.canonical_json();
    let draft = read("flow.json", &json);
    assert_eq!(draft.problems.to_string(), "");
    assert_eq!(draft.workflow.as_ref(), Some(&workflow));
    let pretty = serde_json::to_vec_pretty(&workflow).unwrap();
    assert_eq!(
        read("flow.json", &pretty).workflow.as_ref(),
        Some(&workflow)
    );
    let tabs = String::from_utf8(pretty).unwrap().replace("  ", "\t");
    let draft_of_tabs = read("flow.json", tabs.as_bytes());
    assert_eq!(draft_of_tabs.problems.to_string(), "");
    assert_eq!(draft_of_tabs.workflow.as_ref(), Some(&workflow));
    let structured = Draft::from_workflow(&workflow);
    assert_eq!(structured.problems.to_string(), "");
    assert_eq!(structured.workflow.as_ref(), Some(&workflow));
    assert_eq!(structured.edges, draft.edges);
}

#[test]
fn an_unknown_key_reads_like_rustc() {
    assert_eq!(
        problems(&task("  timout: 20s\n")),
        "\
error: unknown key `timout`
 --> flow.yaml:7:3
  |
7 |   timout: 20s
  |   ^^^^^^
  = help: did you mean `timeout`?
"
    );
}

#[test]
fn keys_are_strict_everywhere() {
    assert_eq!(
        messages("nam: w\ntasks: []\n"),
        [
            "1:1: unknown key `nam` (did you mean `name`?)",
            "1:1: `name` is missing",
            "2:1: the workflow has no tasks",
        ]
    );
    assert_eq!(
        messages(&task("  retry: { attempts: 3 }\n")),
        [
            "7:12: unknown key `attempts` (the keys here are `factor`, `initial`, `jitter`, `max`, \
          `max_attempts`, `non_retryable`, `retryable`)"
        ]
    );
    assert_eq!(
        messages(&task("  worker: { label: { a: b } }\n")),
        ["7:13: unknown key `label` (did you mean `labels`?)"]
    );
}

#[test]
fn every_problem_is_reported_at_once() {
    let text = "\
name: 5
tasks:
- id: a
  type: proces
  needs: b
- id: a
  type: transform
  with: { valu: 1 }
  retry: { max_attempts: 0, initial: -1s }
  needs: [c]
- type: sleep
  timeout: 3s 4
  with: { duration: \"${{ tasks.q.output + x }}\" }
";
    assert_eq!(
        messages(text),
        [
            "1:7: `name` must be text, not a number (put it in quotes)",
            "4:9: unknown task type `proces` (did you mean `process`?)",
            "5:10: `needs` must be a list, not text",
            "6:7: the task id `a` is used twice (the first one is in line 3)",
            "8:9: `value` or `template` is missing",
            "8:11: unknown key `valu` (did you mean `value`?)",
            "9:26: `max_attempts` must be between 1 and 1000",
            "9:38: `-1s` is negative; a duration is zero or more",
            "10:11: there is no task `c`",
            "11:3: `id` is missing",
            "12:12: `3s 4` is not a duration; write for example 250ms, 10s, 1m30s, 2h or 7d",
            "13:21: `tasks.q` is not defined",
            "13:21: `x` is not defined (the names here are `inputs`, `run`, `tasks`, `workflow`)",
        ]
    );
}

#[test]
fn codes_of_retries_are_known_and_not_in_both_lists() {
    let lists =
        "  retry: { retryable: [http_statu, http_failed], non_retryable: [queue_timeout] }\n";
    let found = messages(&task(lists));
    assert_eq!(
        found[0],
        "7:24: `retryable[0]` cannot be `http_statu` (did you mean `http_status`?)"
    );
    let start = "7:66: `non_retryable[0]` cannot be `queue_timeout` (";
    assert!(found.len() == 2 && found[1].starts_with(start), "{found:?}");
    let both = "  retry: { retryable: [http_failed], non_retryable: [run_timeout, http_failed] }\n";
    assert_eq!(
        messages(&task(both)),
        ["7:67: `http_failed` is both in `retryable` and in `non_retryable`"]
    );
}

#[test]
fn wrong_types_are_named() {
    assert_eq!(
        messages(&task("  continue_on_error: yes\n")),
        ["7:22: `continue_on_error` must be true or false, not text"]
    );
    assert_eq!(
        messages(&task("  needs: [a, 1]\n")),
        ["7:14: `needs[1]` must be text, not a number (put it in quotes)"]
    );
    assert_eq!(
        messages(&task("  timeout: [1]\n")),
        ["7:12: `timeout` must be a duration such as 30s or 1m30s or a map, not a list"]
    );
    assert_eq!(
        messages(&task("  priority: urgent\n")),
        [
            "7:13: `priority` cannot be `urgent` (it must be one of `critical`, `high`, `normal`, \
          `low`)"
        ]
    );
    assert_eq!(
        messages("name: w\ntasks: { a: 1 }\n"),
        ["2:8: `tasks` must be a list, not a map"]
    );
    assert_eq!(
        messages("- a\n"),
        ["1:1: the workflow must be a map, not a list"]
    );
    assert_eq!(
        messages(&task("max_parallel: 0\n")),
        ["7:15: `max_parallel` must be between 1 and 4294967295"]
    );
    assert_eq!(
        messages(
            "name: w\ninputs: { n: { type: integer, default: x } }\ntasks: [{ id: a, type: \
                  transform, with: { value: 1 } }]\n"
        ),
        ["2:40: `default` must be a whole number, not text"]
    );
}

#[test]
fn durations_are_bounded() {
    let timeout = |text: &str| messages(&task(&format!("  timeout: {text}\n")));
    assert_eq!(
        timeout("-5s"),
        ["7:12: `-5s` is negative; a duration is zero or more"]
    );
    assert_eq!(
        timeout("-5"),
        ["7:12: `-5` is negative; a duration is zero or more"]
    );
    let long = "is too long; the longest duration is 3660d";
    assert_eq!(timeout("99999999d"), [format!("7:12: `99999999d` {long}")]);
    assert_eq!(timeout("1e300"), [format!("7:12: `{}` {long}", 1e300)]);
    assert_eq!(
        timeout("{ total: 5x }"),
        ["7:21: `5x` is not a duration; write for example 250ms, 10s, 1m30s, 2h or 7d"]
    );
    assert_eq!(timeout(".inf"), ["7:12: a number must be finite"]);
    assert_eq!(timeout("1.5"), [""; 0]);
}

#[test]
fn unknown_task_types_are_named() {
    assert_eq!(
        messages("name: w\ntasks: [{ id: a, type: email }]\n"),
        [
            "2:24: unknown task type `email` (it must be one of `http`, `sql`, `chat`, `process`, \
             `transform`, `sleep`, `handler`)"
        ]
    );
}

#[test]
fn ids_are_checked() {
    assert_eq!(
        messages("name: w\ntasks:\n- { id: 1st, type: sleep, with: { duration: 1 } }\n"),
        [
            "3:9: `1st` is not a task id (an id has letters, digits, `_` and `-`, does not start with \
          a digit or `-`, and is at most 128 bytes long)"
        ]
    );
    assert_eq!(
        messages("name: w\ntasks:\n- { type: sleep, with: { duration: 1 } }\n"),
        ["3:3: `id` is missing"]
    );
    assert_eq!(
        messages(&task(
            "edges: [{ from: b, to: a }, { from: a, to: aa }, { from: a }]\n"
        )),
        [
            "7:17: there is no task `b`",
            "7:44: there is no task `aa`",
            "7:50: `to` is missing",
        ]
    );
    assert_eq!(
        messages(&task("  needs: [a]\n  depends_on: [a]\n")),
        ["8:3: `depends_on` is the same as `needs`; give one of them"]
    );
}

#[test]
fn self_edges_are_kept_for_the_plan() {
    assert_eq!(read("f", task("  needs: [a]\n").as_bytes()).edges, [(0, 0)]);
    let own = task("  when: tasks.a.status == 'x'\n");
    assert_eq!(read("f", own.as_bytes()).edges, [(0, 0)]);
}

#[test]
fn expressions_are_checked() {
    let value = |text: &str| {
        messages(&format!(
            "name: w\ninputs: {{ since: {{}} }}\ntasks:\n- id: fetch-all\n  type: transform\n  \
             with:\n    value: \"{text}\"\n"
        ))
    };
    assert_eq!(
        value("${{ tasks.fetc.output }}"),
        ["7:12: `tasks.fetc` is not defined"]
    );
    assert_eq!(
        value("${{ tasks.fetch_all.output }}"),
        ["7:12: `tasks.fetch_all` is not defined (did you mean `fetch-all`?)"]
    );
    assert_eq!(
        value("${{ tasks.fetch-all.output }}")[0],
        "7:12: `tasks.fetch` is not defined (an id with `-` is written `tasks['fetch-all']`)"
    );
    assert_eq!(
        value("a ${{ inputs.sinc }}"),
        ["7:12: `inputs.sinc` is not defined (did you mean `since`?)"]
    );
    assert_eq!(
        value("${{ imputs.since }}"),
        ["7:12: `imputs` is not defined (did you mean `inputs`?)"]
    );
    assert_eq!(
        value("${{ item }}"),
        ["7:12: `item` is not defined (the names here are `inputs`, `run`, `tasks`, `workflow`)"]
    );
    assert_eq!(
        value("${{ 1 + }}"),
        ["7:12: `1 +` is not an expression: unexpected end of input, expected expression"]
    );
    assert_eq!(
        value("${{ secrets.TOKEN }}"),
        [
            "7:12: a secret stands by itself, as in `${{ secrets.NAME }}`, and in the `with` of tasks that \
          workers run, other than `transform`"
        ]
    );
    assert_eq!(
        value(&format!("${{{{ {} }}}}", "a".repeat(20_000))),
        ["7:12: the expression is 20000 bytes long; the most is 16384"]
    );
    assert_eq!(value("${{ x"), ["7:12: `${{` is not closed by `}}`"]);
    assert_eq!(
        messages(&task(
            "  when: \"${{ tasks.b.output }}\"\noutputs: { x: \"${{ tasks.c }}\" }\n"
        )),
        [
            "7:9: `tasks.b` is not defined",
            "8:15: `tasks.c` is not defined",
        ]
    );
}

#[test]
fn for_each_is_checked() {
    let each = |text: &str| messages(&task(&format!("  for_each: {text}\n")));
    assert_eq!(each("{ items: [1, 2] }"), [""; 0]);
    assert_eq!(
        each("{ items: \"a ${{ inputs.since }}\" }"),
        ["7:22: `items` must be a list or one expression, not text"]
    );
    assert_eq!(
        each("{ items: [\"${{ item }}\"], as: index }"),
        [
            "7:23: `item` is not defined (the names here are `inputs`, `run`, `tasks`, `workflow`)",
            "7:43: an item cannot be called `index`; expressions use that name",
        ]
    );
    assert_eq!(
        each("{ items: [], as: a-b }"),
        [
            "7:30: `a-b` is not a name (a name has letters, digits and `_`, and does not start with a \
          digit)"
        ]
    );
}

#[test]
fn broken_files_are_refused() {
    assert_eq!(messages(""), ["the file is empty"]);
    assert_eq!(messages("# nothing\n"), ["the file is empty"]);
    assert_eq!(
        messages("name: w\n---\nname: v\n"),
        ["2:1: another document starts here; a file holds one workflow",]
    );
    assert_eq!(
        messages("name: [w\ntasks: 1\n"),
        ["2:6: the file cannot be read: illegal placement of ':' indicator"]
    );
    let draft = read("f", b"name: w\nta\xffsks: []\n");
    assert_eq!(
        draft.problems.to_string(),
        "\
error: the file is not UTF-8: byte 0xff at offset 10
 --> f:2:3
  |
2 | ta
  |   ^
"
    );
    let draft = read("f", &vec![b'a'; 100 * 1024 * 1024]);
    assert_eq!(
        draft.problems.to_string(),
        "error: the file is 104857600 bytes long; the most is 33554432\n--> f\n"
    );
    assert_eq!(
        messages(&task("  needs: []\n  needs: []\n")),
        ["8:3: the key `needs` is given twice (it is first given in line 7)"]
    );
    assert_eq!(
        messages(&task("  description: !thing x\n")),
        ["7:16: the tag `!thing` is not known here"]
    );
}

#[test]
fn deep_nesting_is_refused() {
    let message = format!("lists and maps are nested more than {MAX_NESTING} deep");
    let flow = format!("name: {}", "[".repeat(100_000));
    let block = (0..200).map(|depth| format!("{}a:\n", " ".repeat(depth)));
    for text in [flow, block.collect()] {
        let draft = read("f", text.as_bytes());
        let found: Vec<_> = draft.problems.iter().map(|p| p.message.as_str()).collect();
        assert_eq!(found, [message.as_str()]);
    }
    let deep = |depth: usize| {
        let value = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        messages(&format!(
            "name: w\ntasks: [{{ id: a, type: transform, with: {{ value: {value} }} }}]\n"
        ))
    };
    assert_eq!(deep(MAX_NESTING - 4), [""; 0]);
    assert_eq!(
        deep(MAX_NESTING - 3),
        [format!("2:{}: {message}", 46 + MAX_NESTING)]
    );
}

#[test]
fn alias_bombs_are_refused() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
        text.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
    }
    assert_eq!(
        messages(&text),
        ["7:20: the aliases of the file stand for too much data"]
    );
    let long = format!(
        "a: &a {}\nb: [{}]\n",
        "x".repeat(1_000_000),
        "*a, ".repeat(100)
    );
    assert_eq!(
        messages(&long),
        ["2:137: the aliases of the file stand for too much data"]
    );
    assert_eq!(
        messages("a: &a [*a]\n"),
        ["1:8: an alias is used inside its own value"]
    );
}

#[test]
fn aliases_and_merges_are_followed() {
    let text = "\
name: w
tasks:
- &base
  id: a
  type: transform
  with: &with { value: 1 }
  timeout: 5s
- <<: *base
  id: b
  timeout: 6s
- id: c
  type: transform
  with: *with
";
    let draft = read("f", text.as_bytes());
    assert_eq!(draft.problems.to_string(), "");
    let tasks = draft.workflow.unwrap().tasks;
    assert_eq!(tasks[1].id, "b");
    assert_eq!(tasks[1].with, json!({ "value": 1 }));
    assert_eq!(tasks[2].with, tasks[0].with);
    assert_ne!(tasks[1].timeout, tasks[0].timeout);
}

#[test]
fn sizes_are_bounded() {
    let tasks = "- {}\n".repeat(MAX_TASKS + 1);
    let draft = read("f", format!("name: w\ntasks:\n{tasks}").as_bytes());
    assert_eq!(
        draft.problems.to_string(),
        "\
error: the workflow has 200001 tasks; the most is 200000
 --> f:2:1
  |
2 | tasks:
  | ^^^^^
"
    );
    let wrong = read("f", format!("tasks:\n{}", "- {}\n".repeat(1000)).as_bytes());
    assert_eq!(
        (wrong.problems.len(), wrong.problems.iter().len()),
        (2001, 200)
    );
    assert!(
        wrong
            .problems
            .to_string()
            .ends_with("error: and 1801 more problems\n")
    );
    let (root, flaws) = tree::parse_within("a: [1, 2, 3]", 5);
    assert_eq!(root, None);
    assert_eq!(flaws[0].message, "the file holds more than 5 values");
    assert_eq!(flaws[0].position.map(|at| at.column), Some(11));
    let (root, flaws) = tree::parse_within("a: [1, 2, 3]", 6);
    assert!(root.is_some() && flaws.is_empty());
}

#[test]
fn other_problems_can_be_added() {
    let text = task("  needs: [a]\n");
    let mut draft = read("flow.yaml", text.as_bytes());
    let path = draft.edge_path(0, 0);
    assert_eq!(path, "tasks[0].needs[0]");
    draft.add_problem(path, "task `a` needs itself", Some("remove it".to_owned()));
    assert_eq!(
        draft.problems.to_string(),
        "\
error: task `a` needs itself
 --> flow.yaml:7:11
  |
7 |   needs: [a]
  |           ^
  = help: remove it
"
    );
    let workflow = draft.workflow.unwrap();
    let mut draft = Draft::from_workflow(&workflow);
    draft.add_problem("tasks[0]", "m", None);
    assert_eq!(draft.problems.to_string(), "error: m\n--> tasks[0]\n");
    assert_eq!((draft.task_count(), draft.task_id(0)), (1, "a"));
}

#[test]
fn structures_are_checked_too() {
    let mut workflow = read("f", GOOD.as_bytes()).workflow.unwrap();
    workflow.tasks[3].needs.push("nothing".to_owned());
    workflow.tasks[1].id = "fetch".to_owned();
    assert_eq!(
        Draft::from_workflow(&workflow).problems.to_string(),
        "\
error: the task id `fetch` is used twice
--> tasks[1].id

error: `tasks.summarize` is not defined
--> tasks[2].when

error: `tasks.summarize` is not defined
--> tasks[2].with.stdin

error: there is no task `nothing`
--> tasks[3].needs[0]
"
    );
}

/// The decoder and the schema cannot drift apart: every key of the schema is taken, and no other.
#[test]
fn the_shape_has_exactly_the_keys_of_the_schema() {
    let schema = crate::schema::workflow_schema();
    let properties = |schema: &serde_json::Value| {
        let properties = schema["properties"].as_object().unwrap();
        properties.keys().cloned().collect::<Vec<_>>()
    };
    assert_eq!(WORKFLOW_SHAPE.keys(), properties(&schema));
    for kind in TaskKind::ALL {
        let rules = schema["$defs"]["Task"]["allOf"].as_array().unwrap();
        let rule = rules
            .iter()
            .find(|rule| rule["if"]["properties"]["type"]["const"] == kind.as_str());
        let reference = &rule.unwrap()["then"]["properties"]["with"]["$ref"];
        let name = reference.as_str().unwrap().rsplit('/').next().unwrap();
        let shape = Shape::of_schema(&crate::schema::input_schema(kind));
        assert_eq!(shape.keys(), properties(&schema["$defs"][name]), "{name}");
    }
}

#[test]
fn maps_of_any_values_are_read() {
    let map = read_map(
        "inputs.yaml",
        b"since: 2024-01-01\ncount: 3\nnames: [a, b]\n",
    )
    .unwrap();
    assert_eq!(
        serde_json::Value::Object(map),
        serde_json::json!({ "since": "2024-01-01", "count": 3, "names": ["a", "b"] })
    );
    let problems = read_map("inputs.yaml", b"- a\n").unwrap_err();
    assert_eq!(problems.len(), 1);
    let problems = read_map("inputs.yaml", b"a: [\n").unwrap_err();
    assert_eq!(problems.source_name(), "inputs.yaml");
}

#[test]
fn limits_by_key_are_checked() {
    let concurrency = |value: &str| messages(&task(&format!("  concurrency: {value}\n")));
    let none: [&str; 0] = [];
    assert_eq!(
        concurrency("{ key: \"${{ inputs.since }}\", limit: 3 }"),
        none
    );
    assert_eq!(
        concurrency("{ key: \"${{ inputs.sinc }}\", limit: 0, on_full: drop }"),
        [
            "7:23: `inputs.sinc` is not defined (did you mean `since`?)",
            "7:52: `limit` must be between 1 and 1000000",
            "7:64: `on_full` cannot be `drop` (it must be one of `queue`, `fail`, `cancel_oldest`)",
        ]
    );
    assert_eq!(
        concurrency("{ key: 7, per: 1s }"),
        [
            "7:16: `limit` is missing",
            "7:23: `key` must be text, not a number (put it in quotes)",
            "7:26: unknown key `per` (did you mean `key`?)",
        ]
    );
    let rate = |value: &str| messages(&task(&format!("  rate_limit: {value}\n")));
    assert_eq!(rate("{ key: k, limit: 10, per: 1m }"), none);
    assert_eq!(
        rate("{ key: '', limit: 10, per: 0s }"),
        ["7:22: `key` is empty", "7:42: `per` must be at least 1ms"]
    );
    let long = format!("{{ key: {}, limit: 1, per: 1s }}", "k".repeat(257));
    assert_eq!(
        rate(&long),
        ["7:22: `key` is 257 bytes long; the most is 256"]
    );
    assert_eq!(
        messages(
            "name: w\ntasks:\n- id: a\n  type: sleep\n  with: { duration: 1s }\n  \
             rate_limit: { key: k, limit: 1, per: 1s }\n"
        ),
        ["6:3: `rate_limit` is not for `sleep` (a `sleep` takes no worker and runs nothing)"]
    );
}

#[test]
fn the_key_of_a_limit_is_an_edge_and_knows_the_item() {
    let text = "name: w\ntasks:\n- { id: a, type: transform, with: { value: 1 } }\n- id: b\n  \
                type: transform\n  with: { value: 1 }\n  for_each: { items: [1], as: host }\n  \
                concurrency: { key: \"${{ host }}-${{ tasks.a.output }}\", limit: 1 }\n";
    let draft = read("flow.yaml", text.as_bytes());
    assert_eq!(draft.problems.to_string(), "");
    assert_eq!(draft.edges, [(0, 1)]);
}

#[test]
fn semantic_reuse_is_checked() {
    let text = |with: &str, semantic: &str| {
        format!(
            "name: a\ninputs: {{ q: {{ type: string }} }}\ntasks:\n  - {{ id: b, type: transform, with: {{ \
             value: '{with}' }}, cache: {{ semantic: {semantic} }} }}\n"
        )
    };
    let good = "{ text: '${{ inputs.q }}', reuse: 0.9, near: 0.5, model: small }";
    let shown = "${{ near_hit.output }}";
    assert_eq!(messages(&text(shown, good)), Vec::<String>::new());
    let ends_with = |text: String, end: &str| {
        let messages = messages(&text);
        assert!(
            messages.len() == 1 && messages[0].ends_with(end),
            "{messages:?}"
        );
    };
    ends_with(text("", "{ reuse: 0.9 }"), "`text` is missing");
    ends_with(
        text("", "{ text: same }"),
        "`text` is the same in every run (write what differs from run to run, such as `${{ \
         inputs.question }}`)",
    );
    ends_with(
        text("", "{ text: '${{ inputs.q }}', near: 0.96 }"),
        "`near` is 0.96, above `reuse`, 0.95 (what is at least as near as `reuse` is reused, what is \
         nearer than `near` is shown)",
    );
    ends_with(
        text("", "{ text: '${{ inputs.q }}', reus: 1 }"),
        "(did you mean `reuse`?)",
    );
    ends_with(
        text("${{ near_hit.outputs }}", good),
        "(did you mean `output`?)",
    );
    ends_with(
        task("  when: near_hit.similarity > 0.9\n"),
        "`near_hit` is not defined here (`near_hit` is for `with` of a task with `cache.semantic`)",
    );
}
