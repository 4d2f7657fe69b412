//! The way to a PostgreSQL database: its address, and connections that are kept open.

mod address;
mod pool;

pub use address::{Address, is_postgres};
pub use pool::{Connection, Pool, PoolError};
