//! The vocabulary of Levelflow: what every crate means by a run, a task, an attempt, a failure.
//!
//! Pure: no async, no clock, no randomness, no I/O.

pub mod alert;
pub mod cache;
pub mod chunk;
pub mod code;
pub mod document;
pub mod duration;
pub mod event;
pub mod expression;
pub mod id;
pub mod inputs;
pub mod limits;
pub mod outcome;
pub mod overview;
pub mod placement;
pub mod protection;
pub mod retry;
pub mod schema;
pub mod secret;
pub mod shard;
pub mod similar;
pub mod suggest;
pub mod task_input;
pub mod time;
pub mod upstream;
pub mod view;
pub mod workflow;

pub use cache::{CacheKey, CacheTier, CacheUse, CachedFrom};
pub use chunk::{ChunkCursor, ChunkEvent};
pub use code::{Code, Fault};
pub use document::{Draft, Problems};
pub use duration::HumanDuration;
pub use id::{FencingToken, RunId, WorkerId, WorkflowDigest};
pub use outcome::{AttemptResult, Failure, RunStatus, TaskStatus};
pub use placement::Placement;
pub use protection::Protection;
pub use secret::SecretPart;
pub use shard::{ShardCount, ShardId};
pub use similar::{Similar, Similarity};
pub use time::Timestamp;
pub use upstream::{UpstreamCall, UpstreamReport};
pub use workflow::{Priority, Task, TaskKind, Workflow};
