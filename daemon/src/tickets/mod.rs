//! What tickets need to outlive the daemon: the ring of epochs with its roots, the used bits, the
//! keys behind our SPIs, the records behind tickets by reference, the peers whose tickets are revoked,
//! and a client's sleeping sessions. The keeper owns ring and bits, of which the engine has a
//! [`Ledger`]; the last three are the engine's own.

mod database;
pub(crate) mod durable;
mod ledger;
mod node;
#[cfg(test)]
mod power_cut;
mod references;
mod revocations;
mod ring;
mod sessions;
mod used;

pub use database::MovedAside;
pub(crate) use database::{Unopened, open as open_database};
pub use durable::DurableError;
pub use ledger::{Epochs, IndexSource, Ledger};
pub use node::Node;
pub use references::{
    MAX_REFERENCE_OCTETS, MAX_REFERENCES, ReferenceError, ReferenceLimits, ReferenceQueue,
    References,
};
pub use revocations::{MAX_REVOCATIONS, Revocation, RevocationError, Revocations};
pub use ring::{
    EpochTimes, IndexRange, MAX_EPOCHS, Notice, Ring, RingError, RingOptions, UnixTime,
};
pub use sessions::{SessionError, Sessions};
pub use used::{INDEXES, UsedBits};

/// Unix time in seconds.
fn wall_clock() -> u64 {
    crate::wall::since_epoch().as_secs()
}
