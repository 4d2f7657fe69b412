//! Faults under load, and the guarantees held against what is left.

pub(crate) mod evidence;
mod faults;
pub(crate) mod guarantees;
mod kills;
mod load;
mod one_server;
mod postgres_server;
mod proxy;
mod rig;
mod seeds;
pub(crate) mod starts;
