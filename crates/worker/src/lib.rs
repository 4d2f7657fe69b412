//! The Levelflow worker, and the library with which you write your own.
//!
//! A worker connects to a coordinator, asks for as many attempts as it has slots, runs them, and keeps
//! each outcome until the coordinator has it on disk. Your own code is a *handler*: a name and a
//! function from any `serde` input to any `serde` output. A task of type `handler` calls it:
//!
//! ```yaml
//! - id: thumbnail
//!   type: handler
//!   with: { name: resize, input: { width: 800, height: 600, fit: 128 } }
//! ```
//!
//! ```no_run
//! use levelflow_worker::{CancellationToken, HandlerError, Worker};
//!
//! #[derive(serde::Deserialize)]
//! struct Resize { width: u32, height: u32, fit: u32 }
//!
//! # async fn start() -> Result<levelflow_worker::WorkerEnd, levelflow_worker::WorkerError> {
//! Worker::builder()
//!     .address("http://127.0.0.1:7400")
//!     .handler("resize", async |_ctx, image: Resize| {
//!         let longest = image.width.max(image.height);
//!         if longest == 0 {
//!             return Err(HandlerError::permanent("the image is empty"));
//!         }
//!         Ok([image.width * image.fit / longest, image.height * image.fit / longest])
//!     })
//!     .build()?
//!     .run(CancellationToken::new())
//!     .await
//! # }
//! ```

mod attempt;
mod builder;
mod cache;
mod chunk_log;
mod chunk_spool;
mod config;
mod connection;
mod context;
mod division;
mod end;
mod error;
mod executor;
mod handler_error;
mod link;
mod links;
mod memory;
mod nats;
mod near_hit;
mod pace;
mod secrets;
mod session;
mod shutdown;
mod slots;
mod spool;
mod upstream;
mod usage;
mod worker;

use levelflow_runtime::secret;

pub use builder::WorkerBuilder;
pub use cache::HandlerCache;
pub use config::{MAX_SLOTS, MAX_WEIGHT, WorkerConfig};
pub use context::Context;
pub use end::WorkerEnd;
pub use error::WorkerError;
pub use executor::{
    BatchOptions, ChatModel, HttpConfig, HttpPool, HttpPoolStatistics, IsolationOptions,
    SqlConnection, SqlDatabases, SqlPoolStatistics, serve_as_guard,
};
pub use handler_error::HandlerError;
pub use levelflow_cache::CacheConfig;
pub use levelflow_runtime::secret::Secret;
pub use levelflow_runtime::shutdown::on_signal;
pub use levelflow_runtime::tls::install_tls_provider;
pub use levelflow_transport::nats::{NatsConfig, NatsTls};
pub use memory::MemoryConfig;
pub use near_hit::NearHit;
pub use secrets::SecretsConfig;
pub use tokio_util::sync::CancellationToken;
pub use upstream::{BreakerOpen, OpenCall};
pub use worker::Worker;
