//! Which crate may use which.

use anyhow::{Result, ensure};

use crate::workspace::{Kind, Package, Workspace};

/// A crate of the workspace, and the crates of the workspace that it may use.
struct Layer {
    name: &'static str,
    may_use: &'static [&'static str],
}

const LAYERS: &[Layer] = &[
    Layer {
        name: "levelflow-common",
        may_use: &[],
    },
    Layer {
        name: "levelflow-proto",
        may_use: &["levelflow-common"],
    },
    Layer {
        name: "levelflow-runtime",
        may_use: &["levelflow-common"],
    },
    Layer {
        name: "levelflow-cache",
        may_use: &["levelflow-common", "levelflow-runtime"],
    },
    Layer {
        name: "levelflow-embedding",
        may_use: &["levelflow-common", "levelflow-runtime"],
    },
    Layer {
        name: "levelflow-engine",
        may_use: &["levelflow-common"],
    },
    Layer {
        name: "levelflow-store",
        may_use: &["levelflow-common", "levelflow-engine", "levelflow-runtime"],
    },
    Layer {
        name: "levelflow-transport",
        may_use: &["levelflow-common", "levelflow-proto", "levelflow-runtime"],
    },
    Layer {
        name: "levelflow-worker",
        may_use: &[
            "levelflow-cache",
            "levelflow-common",
            "levelflow-proto",
            "levelflow-runtime",
            "levelflow-transport",
        ],
    },
    Layer {
        name: "levelflow-coordinator",
        may_use: &[
            "levelflow-cache",
            "levelflow-common",
            "levelflow-embedding",
            "levelflow-engine",
            "levelflow-proto",
            "levelflow-runtime",
            "levelflow-store",
            "levelflow-transport",
        ],
    },
    Layer {
        name: "levelflow",
        may_use: ALL_LIBRARIES,
    },
    Layer {
        name: "levelflow-bench",
        may_use: ALL_LIBRARIES,
    },
    Layer {
        name: "custom-worker",
        may_use: &["levelflow-worker"],
    },
    Layer {
        name: "xtask",
        may_use: &[],
    },
];

const ALL_LIBRARIES: &[&str] = &[
    "levelflow-cache",
    "levelflow-common",
    "levelflow-coordinator",
    "levelflow-embedding",
    "levelflow-engine",
    "levelflow-proto",
    "levelflow-runtime",
    "levelflow-store",
    "levelflow-transport",
    "levelflow-worker",
];

/// Crates that take time, randomness and data as arguments and do nothing but compute.
const PURE: &[&str] = &["levelflow-common", "levelflow-engine"];

/// What a pure crate must not use: runtimes and async, clocks, randomness, the wire, databases.
const IMPURE: &[&str] = &[
    "async-trait",
    "chrono",
    "fastrand",
    "futures",
    "futures-util",
    "getrandom",
    "hyper",
    "jiff",
    "prost",
    "prost-types",
    "rand",
    "reqwest",
    "rusqlite",
    "time",
    "tokio",
    "tokio-stream",
    "tokio-util",
    "tonic",
];

/// External crates whose types stop at the crates that are named with them.
const KEPT_IN: &[(&str, &[&str])] = &[
    ("async-nats", &["levelflow-transport"]),
    ("granit-parser", &["levelflow-common"]),
    ("minijinja", &["levelflow-common"]),
    ("petgraph", &["levelflow-engine"]),
    // A worker and its child processes speak the messages of a session over a socket of their own.
    (
        "prost",
        &[
            "levelflow-proto",
            "levelflow-store",
            "levelflow-transport",
            "levelflow-worker",
        ],
    ),
    // The harness measures the bare database as the limit of the store; workers ask the files of users.
    (
        "rusqlite",
        &["levelflow-store", "levelflow-bench", "levelflow-worker"],
    ),
];

/// Fails with every arrow that the layers do not allow.
pub(crate) fn check() -> Result<()> {
    let violations = violations(&Workspace::read()?.packages);
    for violation in &violations {
        eprintln!("{violation}");
    }
    ensure!(
        violations.is_empty(),
        "{} of the crates' dependencies break the layers (see ARCHITECTURE.md)",
        violations.len()
    );
    println!("the layers hold");
    Ok(())
}

fn violations(packages: &[Package]) -> Vec<String> {
    let mut violations = Vec::new();
    for package in packages {
        let name = package.name.as_str();
        let Some(layer) = LAYERS.iter().find(|layer| layer.name == name) else {
            violations.push(format!(
                "crate `{name}` has no place in the table of layers"
            ));
            continue;
        };
        for dependency in &package.dependencies {
            // Tests may reach across layers.
            if dependency.kind == Some(Kind::Dev) {
                continue;
            }
            let used = dependency.name.as_str();
            let is_ours = packages.iter().any(|package| package.name == used);
            let allowed = if is_ours {
                layer.may_use.contains(&used)
            } else {
                allows_external(name, used)
            };
            if !allowed {
                violations.push(format!("crate `{name}` must not use `{used}`"));
            }
        }
    }
    violations
}

fn allows_external(name: &str, used: &str) -> bool {
    let pure = !PURE.contains(&name) || !IMPURE.contains(&used);
    let kept = KEPT_IN
        .iter()
        .filter(|(external, _)| *external == used)
        .all(|(_, owners)| owners.contains(&name));
    pure && kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Dependency;

    fn package(name: &str, uses: &[(&str, Option<Kind>)]) -> Package {
        Package {
            name: name.to_owned(),
            dependencies: uses
                .iter()
                .map(|(name, kind)| Dependency {
                    name: (*name).to_owned(),
                    kind: *kind,
                })
                .collect(),
        }
    }

    #[test]
    fn this_workspace_keeps_to_its_layers() {
        let workspace = Workspace::read().unwrap();
        assert_eq!(violations(&workspace.packages), Vec::<String>::new());
    }

    #[test]
    fn arrows_against_the_layers_are_named() {
        let graph = [
            package("levelflow-common", &[("rand", None), ("serde", None)]),
            package(
                "levelflow-engine",
                &[("levelflow-common", None), ("tokio", None)],
            ),
            package(
                "levelflow-store",
                &[("levelflow-engine", None), ("rusqlite", None)],
            ),
            package(
                "levelflow-worker",
                &[("levelflow-engine", None), ("levelflow-store", None)],
            ),
            package("levelflow-coordinator", &[("rusqlite", None)]),
            package("levelflow-secret", &[]),
        ];
        assert_eq!(
            violations(&graph),
            [
                "crate `levelflow-common` must not use `rand`",
                "crate `levelflow-engine` must not use `tokio`",
                "crate `levelflow-worker` must not use `levelflow-engine`",
                "crate `levelflow-worker` must not use `levelflow-store`",
                "crate `levelflow-coordinator` must not use `rusqlite`",
                "crate `levelflow-secret` has no place in the table of layers",
            ]
        );
    }

    #[test]
    fn only_dev_dependencies_are_free() {
        let graph = [
            package("levelflow-common", &[]),
            package(
                "levelflow-worker",
                &[("levelflow-coordinator", Some(Kind::Dev))],
            ),
            package(
                "levelflow-coordinator",
                &[("levelflow-worker", Some(Kind::Build))],
            ),
        ];
        assert_eq!(
            violations(&graph),
            ["crate `levelflow-coordinator` must not use `levelflow-worker`"]
        );
    }
}
