//! The cryptography IKEv2 needs, behind narrow types of our own. Everything but AES-CBC
//! comes from `ring`, so that another provider means a change in this folder only. Keys that enter here are wiped on
//! drop; what `ring` keeps inside its own contexts is not, and the threat model says so.

pub mod aead;
mod cbc;
pub mod cipher;
pub mod dh;
pub mod keymat;
pub mod prf;
pub mod secret;
pub mod sign;
pub mod suite;

pub use dh::{KeyShare, KeyShareError};
pub use secret::Secret;
pub use sign::{
    CertificateChain, KeyKind, NotAnAuthority, RsaPadding, SignError, SignatureScheme, TrustAnchors,
};
pub use suite::{Encryption, Group, Integrity, Prf};
