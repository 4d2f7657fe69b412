//! Runs of many tasks, one after the other.

use serde_json::{Value, json};

use crate::harness::Home;

const LENGTH: usize = 1_000;

#[tokio::test]
async fn a_long_chain_runs_to_its_end() {
    let home = Home::new();
    let tasks: Vec<Value> = (0..LENGTH)
        .map(|index| {
            let value = match index {
                0 => "${{ 1 }}".to_owned(),
                _ => format!("${{{{ tasks.t{}.output + 1 }}}}", index - 1),
            };
            json!({ "id": format!("t{index}"), "type": "transform", "with": { "value": value } })
        })
        .collect();
    let last = format!("${{{{ tasks.t{}.output }}}}", LENGTH - 1);
    let workflow = json!({ "name": "chain", "tasks": tasks, "outputs": { "length": last } });
    home.file("chain.json", workflow.to_string());

    let (code, run) = home.json(&["run", "chain.json"]).await;
    assert_eq!(code, Some(0), "{}", run["failure"]);
    assert_eq!(run["outputs"]["length"], LENGTH);
    assert_eq!(run["counts"]["succeeded"], LENGTH);
    assert_eq!(run["tasks"][LENGTH - 1]["level"], LENGTH - 1);
    assert_eq!(run["critical_path"].as_array().unwrap().len(), LENGTH);
}
