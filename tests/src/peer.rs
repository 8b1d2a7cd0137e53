//! Foreign IKE daemons in a namespace. The lab has laid their packages over `/usr`.

mod libreswan;
mod strongswan;

pub use self::{
    libreswan::{Libreswan, Nss},
    strongswan::Strongswan,
};
