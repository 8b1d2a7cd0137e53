//! The parts of `rekindled`, as a library so that tests can reach them.

pub mod config;
pub mod control;
pub mod engine;
pub mod gate;
pub mod keeper;
pub mod kernel;
pub mod leases;
pub mod log;
pub mod tickets;
pub mod udp;
mod wall;
