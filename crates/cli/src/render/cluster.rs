//! Coordinators and shards as people see them.

use std::time::Duration;

use levelflow_proto::v1;

use super::style::Styling;
use super::table::{Align, Table};
use super::time::duration;

/// Coordinators, one a line.
pub(crate) fn coordinators(cluster: &v1::GetClusterResponse, styling: Styling) -> String {
    let mut table = Table::new(&[
        ("coordinator", Align::Left),
        ("address", Align::Left),
        ("version", Align::Left),
        ("shards", Align::Right),
        ("lag", Align::Right),
        ("runs", Align::Right),
        ("running", Align::Right),
        ("ready", Align::Right),
        ("parked", Align::Right),
        ("", Align::Left),
    ]);
    for it in &cluster.coordinators {
        let count = |of: fn(&v1::CoordinatorLoad) -> u64| match &it.load {
            Some(load) => of(load).to_string(),
            None => "?".to_owned(),
        };
        let owned = cluster.shards.iter().filter(|shard| shard.owner == it.id);
        let lag = owned.map(|shard| shard.lag_us).max();
        let remark = match (it.is_leaving, it.is_asked) {
            (true, _) => "leaves",
            (false, true) => "asked",
            (false, false) => "",
        };
        table.row([
            it.id.as_str().into(),
            it.address.as_str().into(),
            it.version.as_str().into(),
            it.shards.to_string().into(),
            lag.map(micros).unwrap_or_default().into(),
            count(|load| load.open_runs).into(),
            count(|load| load.attempts).into(),
            count(|load| load.ready).into(),
            count(|load| load.parked).into(),
            remark.into(),
        ]);
    }
    table.render(styling)
}

/// Shards, one a line.
pub(crate) fn shards(cluster: &v1::GetClusterResponse, styling: Styling) -> String {
    let mut table = Table::new(&[
        ("shard", Align::Right),
        ("owner", Align::Left),
        ("epoch", Align::Right),
        ("lag", Align::Right),
    ]);
    for it in &cluster.shards {
        let (owner, lag) = match it.owner.as_str() {
            "" => ("nobody", String::new()),
            owner => (owner, micros(it.lag_us)),
        };
        table.row([
            it.shard.to_string().into(),
            owner.into(),
            it.epoch.to_string().into(),
            lag.into(),
        ]);
    }
    table.render(styling)
}

fn micros(span: u64) -> String {
    duration(Duration::from_micros(span))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coordinators_and_shards_have_a_line_each() {
        let asked = v1::Coordinator {
            id: "a".to_owned(),
            address: "host1:7400".to_owned(),
            version: "1.0".to_owned(),
            is_asked: true,
            shards: 1,
            load: Some(v1::CoordinatorLoad {
                open_runs: 5,
                attempts: 4,
                ready: 3,
                parked: 2,
            }),
            ..Default::default()
        };
        let silent = v1::Coordinator {
            id: "b".to_owned(),
            is_leaving: true,
            ..Default::default()
        };
        let owned = v1::Shard {
            owner: "a".to_owned(),
            epoch: 7,
            lag_us: 250_000,
            ..Default::default()
        };
        let free = v1::Shard {
            shard: 1,
            ..Default::default()
        };
        let cluster = v1::GetClusterResponse {
            coordinators: vec![asked, silent],
            shards: vec![owned, free],
        };
        let text = coordinators(&cluster, Styling::Plain);
        let lines: Vec<_> = text
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .collect();
        assert_eq!(
            lines[1],
            [
                "a",
                "host1:7400",
                "1.0",
                "1",
                "250ms",
                "5",
                "4",
                "3",
                "2",
                "asked"
            ]
        );
        assert_eq!(lines[2], ["b", "0", "?", "?", "?", "?", "leaves"]);
        let text = shards(&cluster, Styling::Plain);
        let lines: Vec<_> = text
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .collect();
        assert_eq!(lines[1], ["0", "a", "7", "250ms"]);
        assert_eq!(lines[2], ["1", "nobody", "0"]);
    }
}
