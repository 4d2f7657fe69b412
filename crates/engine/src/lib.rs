//! The core of Levelflow as a pure state machine: events and time in, journal records and commands out.
//!
//! No clock, no randomness, no async, no I/O, no hash-ordered iteration.
//!
//! Start reading at [`run::RunState::apply`], the fold that says what each journal record means, then
//! [`Engine::handle`], which decides what is recorded and what is asked of the world.

mod advance;
pub mod autoscale;
mod breaker;
mod cache_spec;
pub mod chunk;
pub mod command;
mod compile;
mod config;
mod counters;
mod deadline;
pub mod definition;
mod dispatch;
mod end;
mod engine;
pub mod event;
mod explain;
mod flight;
mod handler_version;
mod invariants;
mod lane;
mod lease;
mod level;
pub mod limit;
mod live;
mod measured;
mod mix;
mod outcome;
mod overview;
mod placement;
pub mod plan;
mod prefetch;
mod quarantine;
mod ready;
pub mod record;
mod recovery;
mod rejection;
pub mod run;
mod session;
mod shards;
mod submit;
pub mod task;
mod timer;
mod update;
mod upstream;
mod view;
mod worker;

pub use breaker::{BreakerPolicy, BreakerState};
pub use cache_spec::CacheSpec;
pub use command::{BatchNumber, Command, Effect};
pub use config::Config;
pub use counters::Counters;
pub use definition::Definition;
pub use engine::{Engine, Gathered, Load};
pub use event::Event;
pub use explain::{Explanation, Reason};
pub use flight::{Found, Lookup, NearHit, Output};
pub use handler_version::HandlerVersion;
pub use prefetch::{PREFETCH_LABEL, Prefetch};
pub use record::{Entry, Fact, Progress, Record, RunNumber, Submitted, TaskIndex};
pub use rejection::Rejection;
pub use run::{ReplayError, RunState};
