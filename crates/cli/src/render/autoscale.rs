//! How many workers there should be, as people see it.

use std::time::Duration;

use levelflow_proto::v1;

use super::counted;
use super::style::Styling;
use super::table::{Align, Table};
use super::time::duration;

/// The number in a sentence, then what each rule says, one a line; the one that decided is marked.
pub(crate) fn explanation(decided: &v1::GetAutoscaleResponse, styling: Styling) -> String {
    let wanted = counted(decided.wanted as usize, "worker");
    let of = match decided.queue.as_str() {
        "" => String::new(),
        queue => format!(" for queue `{queue}`"),
    };
    let (are, current) = (
        if decided.wanted == 1 { "is" } else { "are" },
        decided.current,
    );
    let mut text = format!(
        "{wanted} {are} wanted{of}, {current} of them there: {}\n",
        decided.decided_by
    );
    if decided.next_change_at_us > 0 {
        let wait = decided.next_change_at_us.saturating_sub(decided.at_us);
        let wait = duration(Duration::from_micros(wait));
        text.push_str(&format!(
            "with the same load the number may change in {wait}\n"
        ));
    }
    text.push('\n');
    let mut table = Table::new(&[
        ("", Align::Left),
        ("rule", Align::Left),
        ("wants", Align::Right),
        ("because", Align::Left),
    ]);
    for reason in &decided.reasons {
        let decides = reason.rule == decided.decided_by;
        let wants = reason.wants.map(|wants| wants.to_string());
        table.row([
            if decides { ">" } else { "" }.into(),
            reason.rule.as_str().into(),
            wants.unwrap_or_default().into(),
            reason.text.as_str().into(),
        ]);
    }
    text.push_str(&table.render(styling));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_that_decided_is_marked() {
        let reason = |rule: &str, wants, text: &str| v1::AutoscaleReason {
            rule: rule.to_owned(),
            wants,
            text: text.to_owned(),
        };
        let decided = v1::GetAutoscaleResponse {
            wanted: 4,
            current: 2,
            decided_by: "queue_depth".to_owned(),
            reasons: vec![
                reason("queue_depth", Some(4), "25 tasks wait"),
                reason("oldest_ready", None, "no task waits for long"),
            ],
            at_us: 1_000_000,
            next_change_at_us: 6_000_000,
            ..Default::default()
        };
        let text = explanation(&decided, Styling::Plain);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines[0],
            "4 workers are wanted, 2 of them there: queue_depth"
        );
        assert_eq!(
            lines[1],
            "with the same load the number may change in 5.00s"
        );
        assert_eq!(
            lines[4].split_whitespace().collect::<Vec<_>>(),
            [">", "queue_depth", "4", "25", "tasks", "wait"]
        );
        assert!(lines[5].trim_start().starts_with("oldest_ready"), "{text}");
    }
}
