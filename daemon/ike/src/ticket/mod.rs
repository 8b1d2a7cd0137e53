//! Session tickets (RFC 5723): what they carry, how the gateway seals and opens them, and what the
//! client keeps beside the octets it cannot read.

pub mod record;
pub mod seal;
pub mod state;

pub use record::SessionRecord;
pub use seal::{Kept, Keyring, Label, Opened, Reference, Refused};
pub use state::TicketState;

/// What names a ticket.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct TicketName {
    /// Epoch.
    pub key_id: u8,
    /// Index within it.
    pub index: u32,
}
