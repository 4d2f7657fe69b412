//! Bounds of what is accepted. Each is checked where the thing enters and refused with a typed error.

use std::time::Duration;

/// Bytes of a workflow file.
pub const MAX_FILE_BYTES: usize = 32 * 1024 * 1024;
/// Values in a workflow file: scalars, lists and maps, with those that aliases repeat.
pub const MAX_FILE_VALUES: usize = 4_000_000;
/// Tasks in a workflow.
pub const MAX_TASKS: usize = 200_000;
/// Edges in a workflow.
pub const MAX_EDGES: usize = 1_000_000;
/// Bytes of a task id.
pub const MAX_TASK_ID_BYTES: usize = 128;
/// Bytes of a workflow's name.
pub const MAX_NAME_BYTES: usize = 256;
/// Nesting of lists and maps in a file.
pub const MAX_NESTING: usize = 64;
/// Bytes of one expression.
pub const MAX_EXPRESSION_BYTES: usize = 16 * 1024;
/// Steps that one expression may take.
pub const MAX_EXPRESSION_FUEL: u64 = 1_000_000;
/// Bytes of the value of one expression, or of one rendered text template.
pub const MAX_EXPRESSION_OUTPUT_BYTES: usize = 4 * 1024 * 1024;
/// Bytes of a run's inputs, as JSON.
pub const MAX_INPUT_BYTES: usize = 1024 * 1024;
/// Bytes of a task's output, as JSON.
pub const MAX_OUTPUT_BYTES: usize = 1024 * 1024;
/// Bytes of the outputs that one run keeps in all, with the chunks that are recorded with them.
pub const MAX_RUN_OUTPUT_BYTES: usize = 64 * 1024 * 1024;
/// Bytes of an output that is told again at the end of its level; of longer ones only their size is told.
pub const MAX_LEVEL_OUTPUT_BYTES: usize = 64 * 1024;
/// Bytes of the outputs that are told again when one record ends levels.
pub const MAX_LEVEL_OUTPUTS_BYTES: usize = 1024 * 1024;
/// Tasks with an output that are named when one record ends levels.
pub const MAX_LEVEL_OUTPUTS: usize = 1000;
/// Bytes of one chunk of a task's streamed output, as JSON.
pub const MAX_CHUNK_BYTES: usize = 64 * 1024;
/// Chunks that one attempt may give.
pub const MAX_STREAM_CHUNKS: usize = 65_536;
/// Bytes of the chunks that one attempt may give.
pub const MAX_STREAM_BYTES: usize = 4 * 1024 * 1024;
/// Bytes of the chunks of one run that are kept for watchers while its attempts go on.
pub const MAX_RUN_STREAM_BYTES: usize = 64 * 1024 * 1024;
/// Bytes of an error message that is recorded; longer ones are cut.
pub const MAX_ERROR_BYTES: usize = 8 * 1024;
/// Items of one `for_each`.
pub const MAX_FOR_EACH_ITEMS: usize = 10_000;
/// Labels of a run, task or worker.
pub const MAX_LABELS: usize = 64;
/// Bytes of what a worker says of itself when it opens a session: names, queues, labels, handlers and so on.
pub const MAX_HELLO_BYTES: usize = 512 * 1024;
/// Pools of a worker that are shown.
pub const MAX_POOLS: usize = 256;
/// Queues that an overview lists.
pub const MAX_QUEUES_LISTED: usize = 1000;
/// Bytes of an idempotency key.
pub const MAX_KEY_BYTES: usize = 256;
/// Bytes of the key of a concurrency or rate limit.
pub const MAX_LIMIT_KEY_BYTES: usize = 256;
/// Runs whose results one run has computed ahead.
pub const MAX_PREFETCH: usize = 16;
/// Tags of the results of one task.
pub const MAX_CACHE_TAGS: usize = 16;
/// Bytes of a tag or of the version of cached results.
pub const MAX_CACHE_TAG_BYTES: usize = 256;
/// The shortest time in which a rate limit counts.
pub const MIN_RATE_PERIOD: Duration = Duration::from_millis(1);
/// Bytes of one gRPC message.
pub const MAX_MESSAGE_BYTES: usize = 40 * 1024 * 1024;
/// Bytes of the name of an upstream.
pub const MAX_UPSTREAM_BYTES: usize = 256;
/// Upstreams that the outcome of one attempt tells of.
pub const MAX_UPSTREAMS_PER_ATTEMPT: usize = 64;
/// The longest wait that an upstream can ask for before the next attempt.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);
/// One attempt of a task that sets no timeout.
pub const DEFAULT_RUN_TIMEOUT: Duration = Duration::from_secs(300);
/// How long identical submits are taken for one, when they ask for it.
pub const DEDUP_WINDOW: Duration = Duration::from_secs(60);
