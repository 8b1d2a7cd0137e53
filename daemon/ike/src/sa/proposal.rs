//! What a configuration offers, and which offer of a peer we take (RFC 7296, 2.7).

use crate::crypto::{Encryption, Group, Prf};

/// One complete set of transforms of an IKE SA.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct IkeSuite {
    /// Cipher.
    pub encryption: Encryption,
    /// Pseudo-random function.
    pub prf: Prf,
    /// Key exchange.
    pub group: Group,
}
