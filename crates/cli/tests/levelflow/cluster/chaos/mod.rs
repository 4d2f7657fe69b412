//! Faults under load, and the guarantees held against what is left.

mod evidence;
mod faults;
mod guarantees;
mod kills;
mod load;
mod one_server;
mod postgres_server;
mod proxy;
mod rig;
mod seeds;
mod starts;
