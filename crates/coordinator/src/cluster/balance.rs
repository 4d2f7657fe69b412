//! Which shards a coordinator takes, and which it gives away. Pure: everyone decides for itself, from the
//! same view, and all end up with the same even spread.

use std::collections::BTreeSet;

use levelflow_common::ShardId;
use levelflow_store::{ClusterView, MemberId};

/// What a coordinator does next.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Shards that nobody has, to be taken.
    pub(crate) claim: Vec<ShardId>,
    /// Own shards that are others' to have.
    pub(crate) give: Vec<ShardId>,
}

/// What `me` does about the shards, as the view has them.
///
/// Those that stay have as many shards as they have ranks by id: the remainder goes to the first of them.
/// A coordinator that has too many gives the surplus away, and one that has too few takes what is free.
/// Nobody takes from anyone.
pub(crate) fn plan(view: &ClusterView, me: MemberId) -> Plan {
    let mine = view.shards.iter().filter(|it| it.owner == Some(me));
    let mine: Vec<ShardId> = mine.map(|it| it.shard).collect();
    let staying = view.members.iter().filter(|it| !it.is_leaving);
    let staying: BTreeSet<MemberId> = staying.map(|it| it.id).collect();
    let Some(rank) = staying.iter().position(|&id| id == me) else {
        let give = if staying.is_empty() { Vec::new() } else { mine };
        return Plan {
            claim: Vec::new(),
            give,
        };
    };
    let (each, left) = (
        view.shards.len() / staying.len(),
        view.shards.len() % staying.len(),
    );
    let quota = each + usize::from(rank < left);
    let free = view.shards.iter().filter(|it| it.owner.is_none());
    let mut free: Vec<ShardId> = free.map(|it| it.shard).collect();
    // Each begins elsewhere, so that two seldom want the same.
    let begin = free.len() * rank / staying.len();
    free.rotate_left(begin);
    free.truncate(quota.saturating_sub(mine.len()));
    Plan {
        claim: free,
        give: mine.into_iter().skip(quota).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use levelflow_store::{Member, ShardState};
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn id(number: u8) -> MemberId {
        MemberId(Uuid::from_u128(number.into()))
    }

    fn view(shards: u16) -> ClusterView {
        let free = |shard| ShardState {
            shard: ShardId(shard),
            epoch: 0,
            owner: None,
            expires_in: Duration::ZERO,
        };
        ClusterView {
            members: Vec::new(),
            shards: (0..shards).map(free).collect(),
        }
    }

    fn member(number: u8) -> Member {
        Member {
            id: id(number),
            address: format!("host{number}:7400"),
            http_address: None,
            version: "1".to_owned(),
            is_leaving: false,
        }
    }

    fn owned(view: &ClusterView, by: u8) -> usize {
        let mine = view.shards.iter().filter(|it| it.owner == Some(id(by)));
        mine.count()
    }

    /// One coordinator acts.
    fn act(view: &mut ClusterView, number: u8) -> Plan {
        let plan = plan(view, id(number));
        for shard in &plan.claim {
            let it = &mut view.shards[shard.0 as usize];
            assert_eq!(it.owner, None, "it took what another has");
            it.owner = Some(id(number));
        }
        for shard in &plan.give {
            let it = &mut view.shards[shard.0 as usize];
            assert_eq!(it.owner, Some(id(number)), "it gave what it has not");
            it.owner = None;
        }
        plan
    }

    #[derive(Clone, Debug)]
    enum Step {
        Join(u8),
        Die(u8),
        Leave(u8),
        Act(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            1 => (0..5_u8).prop_map(Step::Join),
            1 => (0..5_u8).prop_map(Step::Die),
            1 => (0..5_u8).prop_map(Step::Leave),
            6 => (0..5_u8).prop_map(Step::Act),
        ]
    }

    proptest! {
        #[test]
        fn everyone_ends_with_an_even_share(shards in 1..70_u16, steps in proptest::collection::vec(step(), 0..80)) {
            let mut view = view(shards);
            let place = |view: &ClusterView, number| view.members.iter().position(|it| it.id == id(number));
            for step in steps {
                match step {
                    Step::Join(number) if place(&view, number).is_none() => {
                        view.members.push(member(number));
                        view.members.sort_by_key(|it| it.id);
                    }
                    Step::Die(number) => {
                        view.members.retain(|it| it.id != id(number));
                        for shard in &mut view.shards {
                            shard.owner = shard.owner.filter(|&owner| owner != id(number));
                        }
                    }
                    Step::Leave(number) => {
                        if let Some(place) = place(&view, number) {
                            view.members[place].is_leaving = true;
                        }
                    }
                    Step::Act(number) if place(&view, number).is_some() => drop(act(&mut view, number)),
                    _ => {}
                }
            }
            let staying: Vec<u8> = (0..5)
                .filter(|&number| place(&view, number).is_some_and(|it| !view.members[it].is_leaving))
                .collect();
            prop_assume!(!staying.is_empty());
            // Two rounds: what is given in the first is taken in the second.
            for _ in 0..2 {
                for number in 0..5 {
                    if place(&view, number).is_some() {
                        act(&mut view, number);
                    }
                }
            }
            let counts: Vec<usize> = staying.iter().map(|&number| owned(&view, number)).collect();
            prop_assert_eq!(counts.iter().sum::<usize>(), shards as usize);
            prop_assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1);
            // And then all is quiet.
            for number in 0..5 {
                if place(&view, number).is_some() {
                    prop_assert_eq!(act(&mut view, number), Plan::default());
                }
            }
        }
    }

    #[test]
    fn the_last_one_keeps_what_nobody_would_take() {
        let mut view = view(4);
        view.members.push(member(1));
        act(&mut view, 1);
        view.members[0].is_leaving = true;
        assert_eq!(plan(&view, id(1)), Plan::default());
        view.members.push(member(2));
        assert_eq!(plan(&view, id(1)).give.len(), 4);
    }
}
