//! Exchanges between two cores in one thread under a virtual clock.

mod bed;
mod certificates;
mod chains;
mod child_rekey;
mod collisions;
mod conformance;
mod demanding;
mod env;
mod fragments;
mod handshake;
mod hostile;
mod kinds;
mod lifetime;
mod operator;
mod pki;
mod recovery;
mod rekey;
mod resume;
mod seedbed;
mod seeds;
mod shuffle;
mod stored;
mod suspend;
mod tap;
mod workers;
