//! An IKE SA and what is negotiated for it.

pub mod nat;
pub mod proposal;
pub mod window;
