//! What a client keeps of a session besides the ticket it cannot read (RFC 5723, 4.2): the same items
//! the gateway has in the ticket, and where and when the ticket came from.

use std::time::Duration;

use super::state::AuthMethod;
use crate::{
    crypto::Secret,
    io::{Path, Stamp},
    sa::proposal::IkeSuite,
    wire::id::Identity,
};

// RFC 5723: N11, N52
/// One resumable session. Replaced by a newer ticket, gone with its use, its expiry, a DELETE, a
/// rekey or a log-out (RFC 5723, 6.2).
#[derive(Debug)]
pub struct SessionRecord {
    /// The ticket's octets.
    pub ticket: Vec<u8>,
    /// When it came.
    pub received: Stamp,
    /// How long it may be presented, from then on.
    pub lifetime: Duration,
    /// Digest of the connection's settings then; under others the ticket is not presented.
    pub digest: [u8; 32],
    /// Our identity then.
    pub id_i: Identity,
    /// The gateway's identity, which it must show again.
    pub id_r: Identity,
    /// How the gateway proved itself when it last did so in full.
    pub auth: AuthMethod,
    /// Suite of the SA, inherited.
    pub suite: IkeSuite,
    /// SK_d of the SA that got the ticket.
    pub sk_d: Secret,
    /// Where the gateway was reached.
    pub path: Path,
    /// Last full authentication.
    pub full_auth: Stamp,
    /// Resumptions since.
    pub resume_count: u16,
}

impl SessionRecord {
    // RFC 5723: N13, A16
    /// What is left of the lifetime, by the boot clock, which no step of the wall clock moves.
    #[must_use]
    pub fn left(&self, now: Stamp) -> Option<Duration> {
        let age = now.boot.checked_sub(self.received.boot)?;
        self.lifetime
            .checked_sub(age)
            .filter(|left| !left.is_zero())
    }
}
