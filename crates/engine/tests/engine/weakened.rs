//! The properties of `guarantees.rs` are lost when a protection is off that they rest on.

use levelflow_common::Protection;
use levelflow_common::protection::weakened;
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};

use crate::guarantees::{live_through, story};

/// Protections of the engine, and what the audit may say without each.
const NOTICED: [(Protection, &[&str]); 8] = [
    (Protection::DurableSubmit, &["a submit is not durable"]),
    (
        Protection::KnownKey,
        &["one key stands for two runs", "a known key"],
    ),
    (
        Protection::GrowingTokens,
        &[
            "a result from before the crash was accepted",
            "a token was given twice",
        ],
    ),
    (Protection::CountedLoss, &["a lost attempt does not count"]),
    (
        Protection::DurableNeeds,
        &["a need is not durable", "the list is not durable"],
    ),
    (
        Protection::EmptiedQueue,
        &["a cancelled run goes on", "an attempt of a run that ends"],
    ),
    (
        Protection::DurableBackoff,
        &["an attempt started before its backoff was over"],
    ),
    (
        Protection::WrittenChange,
        &[
            "a gap in the journal",
            "an outcome was acknowledged before it was durable",
        ],
    ),
];

/// Always the same stories: what is missed is missed each time.
fn first_failure() -> Option<String> {
    let config = Config {
        failure_persistence: None,
        max_shrink_iters: 0,
        cases: 4096,
        ..Config::default()
    };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let failed = TestRunner::new_with_rng(config, rng).run(&story(), |story| {
        live_through(story);
        Ok(())
    });
    match failed {
        Ok(()) => None,
        Err(TestError::Fail(reason, _) | TestError::Abort(reason)) => Some(reason.to_string()),
    }
}

#[test]
fn the_audit_notices_each_protection_that_is_off() {
    let mut missed = Vec::new();
    for (protection, said) in NOTICED {
        weakened::switch_off(Some(protection));
        let failure = first_failure();
        let is_noticed = |failure: &String| said.iter().any(|said| failure.contains(said));
        if !failure.as_ref().is_some_and(is_noticed) {
            missed.push((protection, failure));
        }
    }
    assert!(missed.is_empty(), "{missed:#?}");
}
