//! An IKE SA and what is negotiated for it.

pub(crate) mod children;
pub(crate) mod first;
pub mod ike_sa;
pub(crate) mod mobike;
pub mod nat;
pub(crate) mod offered;
pub(crate) mod origin;
pub mod presence;
pub mod proposal;
pub(crate) mod protection;
pub(crate) mod reassembly;
pub(crate) mod table;
pub mod window;
