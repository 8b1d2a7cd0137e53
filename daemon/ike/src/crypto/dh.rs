//! Key exchange as a value the environment makes: `ring` creates private keys only from its own
//! randomness and uses them once, so tests need a double and the core needs a trait.

use thiserror::Error;

use super::{Secret, suite::Group};

/// One ephemeral key pair, good for one agreement.
pub trait KeyShare: Send {
    /// The group it belongs to.
    fn group(&self) -> Group;

    /// The public value as the KE payload carries it, [`Group::public_len`] octets.
    fn public(&self) -> &[u8];

    /// The shared secret with the peer's public value; the pair is gone afterwards.
    fn agree(self: Box<Self>, peer: &[u8]) -> Result<Secret, KeyShareError>;
}

/// The peer's public value is not on the curve, has the wrong length, or gives the zero secret.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[error("the peer's public value is not acceptable")]
pub struct KeyShareError;

impl std::fmt::Debug for dyn KeyShare {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KeyShare({:?})", self.group())
    }
}
