//! Exchanges between two cores in one thread under a virtual clock.

mod bed;
mod handshake;
mod hostile;
mod resume;
mod seeds;
