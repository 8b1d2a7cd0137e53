//! An IKE SA and what is negotiated for it.

pub mod proposal;
