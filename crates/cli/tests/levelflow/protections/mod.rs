//! The protections that the guarantees rest on, one by one.
//!
//! For each there is a small scenario in which it matters. With all protections on, the checks of the chaos suite
//! find nothing in it. A build with the feature `weakened` plays it once more with a program whose protection is
//! switched off, and the check of the guarantee has to find that.

mod attempts;
mod cached;
mod held;
mod journal;
mod scene;
mod scripted_worker;
mod submits;

use levelflow_common::Protection;
use serde_json::{Value, json};

use crate::cluster::chaos::guarantees::Violation;
use crate::harness::Home;

/// Plays a scenario with all protections and, where this build can, without one.
async fn show(
    protection: Protection,
    guarantee: u8,
    scenario: impl AsyncFn(Option<Protection>) -> Vec<Violation>,
) {
    assert_eq!(scenario(None).await, []);
    if cfg!(feature = "weakened") {
        let found = scenario(Some(protection)).await;
        let is_found = found.iter().any(|it| it.guarantee == guarantee);
        assert!(is_found, "without {protection} only: {found:#?}");
    }
}

#[tokio::test]
async fn only_a_weakened_build_can_switch_protections_off_and_it_says_so() {
    let is_weakened = cfg!(feature = "weakened");
    let home = Home::new();
    let version = home.levelflow(&["--version"]).await;
    assert_eq!(version.stdout.contains("WEAKENED"), is_weakened);
    let ended = home.levelflow(&["list", "--without", "lease-end"]).await;
    let said = match is_weakened {
        true => "a protection is off, guarantees do not hold",
        false => "unexpected argument '--without'",
    };
    assert!(ended.stderr.contains(said), "{}", ended.stderr);
}

fn flow(name: &str, tasks: &[Value]) -> Value {
    json!({ "name": name, "tasks": tasks })
}

/// A task for a scripted worker. Nobody makes the call.
fn task(id: &str) -> Value {
    json!({
        "id": id,
        "type": "http",
        "with": { "url": "http://scripted.test/input" },
        "retry": { "max_attempts": 50, "initial": "1ms", "jitter": false },
    })
}

/// The same, after another.
fn task_after(id: &str, need: &str) -> Value {
    let mut task = task(id);
    task["needs"] = json!([need]);
    task
}
