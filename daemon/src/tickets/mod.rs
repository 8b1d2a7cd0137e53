//! What tickets need to outlive the daemon: the ring of epochs with its roots, the used bits, the
//! keys behind our SPIs. The keeper owns the files; the engine works on a [`Ledger`].

mod durable;
mod ledger;
mod node;
mod ring;
mod used;

pub use durable::DurableError;
pub use ledger::{Epochs, IndexSource, Ledger};
pub use node::Node;
pub use ring::{EpochTimes, IndexRange, MAX_EPOCHS, Notice, Ring, RingError, RingOptions};
pub use used::{INDEXES, UsedBits};
