//! The layout of a DAG: levels, remaining path, critical path.

use std::collections::VecDeque;

use petgraph::algo::{kosaraju_scc, toposort};
use petgraph::graph::{DiGraph, NodeIndex};

use crate::record::TaskIndex;

/// A checked DAG of tasks, laid out for planning and for running.
#[derive(Clone, Debug)]
pub struct Plan {
    needs: Adjacency,
    dependents: Adjacency,
    order: Vec<u32>,
    level_of: Vec<u32>,
    levels: Vec<Vec<TaskIndex>>,
}

/// Why edges do not make a DAG.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotADag {
    /// A task needs itself.
    SelfLoop(TaskIndex),
    /// Tasks need each other: each needs the one before it, and the first needs the last.
    Cycle(Vec<TaskIndex>),
}

impl Plan {
    /// Lays out `tasks` tasks with `edges` from a task to one that needs it, each edge once.
    ///
    /// # Errors
    /// Every self-loop, and one shortest cycle of each group of tasks that need each other.
    pub fn new(tasks: usize, edges: &[(u32, u32)]) -> Result<Self, Vec<NotADag>> {
        let mut graph = DiGraph::<(), (), u32>::with_capacity(tasks, edges.len());
        for _ in 0..tasks {
            graph.add_node(());
        }
        for &(from, to) in edges {
            graph.add_edge(NodeIndex::from(from), NodeIndex::from(to), ());
        }
        let Ok(order) = toposort(&graph, None) else {
            return Err(name_cycles(&graph));
        };
        let order: Vec<u32> = order.into_iter().map(|node| node.index() as u32).collect();
        let needs = Adjacency::new(tasks, edges.iter().map(|&(from, to)| (to, from)));
        let dependents = Adjacency::new(tasks, edges.iter().copied());

        let mut level_of = vec![0; tasks];
        for &task in &order {
            let next = level_of[task as usize] + 1;
            for &dependent in dependents.of(task) {
                let level = &mut level_of[dependent as usize];
                *level = next.max(*level);
            }
        }
        let height = level_of.iter().max().map_or(0, |&level| level as usize + 1);
        let mut levels = vec![Vec::new(); height];
        for (task, &level) in level_of.iter().enumerate() {
            levels[level as usize].push(TaskIndex(task as u32));
        }
        Ok(Self {
            needs,
            dependents,
            order,
            level_of,
            levels,
        })
    }

    /// How many tasks there are.
    pub fn len(&self) -> usize {
        self.level_of.len()
    }

    /// Whether there are no tasks.
    pub fn is_empty(&self) -> bool {
        self.level_of.is_empty()
    }

    /// How many edges there are.
    pub fn edges(&self) -> usize {
        self.needs.targets.len()
    }

    /// The tasks that a task waits for.
    pub fn needs(&self, task: TaskIndex) -> &[u32] {
        self.needs.of(task.0)
    }

    /// The tasks that wait for a task.
    pub fn dependents(&self, task: TaskIndex) -> &[u32] {
        self.dependents.of(task.0)
    }

    /// The level of a task, from 0: the length of the longest path from a root to it.
    pub fn level_of(&self, task: TaskIndex) -> u32 {
        self.level_of[task.0 as usize]
    }

    /// The tasks by level.
    pub fn levels(&self) -> &[Vec<TaskIndex>] {
        &self.levels
    }

    /// For each task the weight of the heaviest path from it to the end, its own weight included.
    pub fn remaining(&self, weight: impl Fn(TaskIndex) -> u64) -> Vec<u64> {
        let mut remaining = vec![0_u64; self.len()];
        for &task in self.order.iter().rev() {
            let after = self
                .dependents
                .of(task)
                .iter()
                .map(|&dependent| remaining[dependent as usize])
                .max()
                .unwrap_or(0);
            remaining[task as usize] = weight(TaskIndex(task)).saturating_add(after);
        }
        remaining
    }

    /// The heaviest path, where `remaining` came from [`Plan::remaining`]. Of equal ones, the one whose
    /// tasks come first in the definition.
    pub fn critical_path(&self, remaining: &[u64]) -> Vec<TaskIndex> {
        let heaviest = |tasks: &mut dyn Iterator<Item = u32>| {
            tasks.max_by_key(|&task| (remaining[task as usize], std::cmp::Reverse(task)))
        };
        let roots = self.levels.first().into_iter().flatten();
        let mut next = heaviest(&mut roots.map(|root| root.0));
        let mut path = Vec::new();
        while let Some(task) = next {
            path.push(TaskIndex(task));
            next = heaviest(&mut self.dependents.of(task).iter().copied());
        }
        path
    }
}

/// For each task a list of tasks, in one block of memory.
#[derive(Clone, Debug)]
struct Adjacency {
    starts: Vec<u32>,
    targets: Vec<u32>,
}

impl Adjacency {
    fn new(tasks: usize, pairs: impl Iterator<Item = (u32, u32)> + Clone) -> Self {
        let mut starts = vec![0_u32; tasks + 1];
        for (task, _) in pairs.clone() {
            starts[task as usize + 1] += 1;
        }
        for task in 0..tasks {
            starts[task + 1] += starts[task];
        }
        let mut place = starts.clone();
        let mut targets = vec![0; starts[tasks] as usize];
        for (task, target) in pairs {
            let at = &mut place[task as usize];
            targets[*at as usize] = target;
            *at += 1;
        }
        Self { starts, targets }
    }

    fn of(&self, task: u32) -> &[u32] {
        let task = task as usize;
        &self.targets[self.starts[task] as usize..self.starts[task + 1] as usize]
    }
}

fn name_cycles(graph: &DiGraph<(), (), u32>) -> Vec<NotADag> {
    let mut found: Vec<NotADag> = graph
        .node_indices()
        .filter(|&node| graph.contains_edge(node, node))
        .map(|node| NotADag::SelfLoop(TaskIndex(node.index() as u32)))
        .collect();
    // Kosaraju's algorithm rather than Tarjan's: petgraph's Tarjan recurses, and a long chain in a
    // cycle would overflow the stack.
    let mut groups = kosaraju_scc(graph);
    groups.retain(|group| group.len() > 1);
    for group in &mut groups {
        group.sort_unstable();
    }
    groups.sort_unstable();
    found.extend(
        groups
            .iter()
            .map(|group| NotADag::Cycle(shortest_cycle(graph, group))),
    );
    found
}

/// A shortest cycle through the first task of a strongly connected group, in the direction of the edges.
fn shortest_cycle(graph: &DiGraph<(), (), u32>, group: &[NodeIndex<u32>]) -> Vec<TaskIndex> {
    let start = group[0];
    let mut came_from = vec![None; graph.node_count()];
    let mut frontier = VecDeque::from([start]);
    while let Some(node) = frontier.pop_front() {
        for next in graph.neighbors(node) {
            if next == start && node != start {
                let mut path = vec![TaskIndex(node.index() as u32)];
                let mut at: NodeIndex<u32> = node;
                while let Some(previous) = came_from[at.index()] {
                    at = previous;
                    path.push(TaskIndex(at.index() as u32));
                }
                path.reverse();
                return path;
            }
            if next != start
                && came_from[next.index()].is_none()
                && group.binary_search(&next).is_ok()
            {
                came_from[next.index()] = Some(node);
                frontier.push_back(next);
            }
        }
    }
    group
        .iter()
        .map(|node| TaskIndex(node.index() as u32))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn indexes(tasks: &[u32]) -> Vec<TaskIndex> {
        tasks.iter().copied().map(TaskIndex).collect()
    }

    #[test]
    fn lays_out_a_diamond() {
        let plan = Plan::new(4, &[(0, 1), (0, 2), (1, 3), (2, 3)]).unwrap();
        assert_eq!(
            plan.levels(),
            [indexes(&[0]), indexes(&[1, 2]), indexes(&[3])]
        );
        let weights = [1, 5, 2, 1];
        let remaining = plan.remaining(|task| weights[task.0 as usize]);
        assert_eq!(remaining, [7, 6, 3, 1]);
        assert_eq!(plan.critical_path(&remaining), indexes(&[0, 1, 3]));
        assert_eq!(plan.needs(TaskIndex(3)), [1, 2]);
    }

    #[test]
    fn a_level_is_the_longest_path_from_a_root() {
        let plan = Plan::new(4, &[(0, 3), (0, 1), (1, 2), (2, 3)]).unwrap();
        assert_eq!(plan.level_of(TaskIndex(3)), 3);
    }

    #[test]
    fn names_self_loops_and_each_cycle() {
        let edges = [(0, 0), (1, 2), (2, 3), (3, 1), (2, 1), (5, 6), (6, 5)];
        assert_eq!(
            Plan::new(7, &edges).unwrap_err(),
            [
                NotADag::SelfLoop(TaskIndex(0)),
                NotADag::Cycle(indexes(&[1, 2])),
                NotADag::Cycle(indexes(&[5, 6])),
            ]
        );
    }

    #[test]
    fn long_chains_and_rings_do_not_grow_the_stack() {
        let count = 100_000;
        let mut edges: Vec<_> = (1..count).map(|task| (task - 1, task)).collect();
        let plan = Plan::new(count as usize, &edges).unwrap();
        assert_eq!(plan.levels().len(), count as usize);
        edges.push((count - 1, 0));
        let problems = Plan::new(count as usize, &edges).unwrap_err();
        assert!(matches!(&problems[..], [NotADag::Cycle(path)] if path.len() == count as usize));
    }
}
