//! What every Levelflow process needs.

pub mod shutdown;
pub mod task;
