//! The IKEv2 protocol core of Rekindle: both roles, session resumption (RFC 5723) included, without
//! sockets, clocks or randomness of its own.

pub mod crypto;
pub mod defence;
pub mod io;
pub mod kernel;
pub mod peer;
pub mod sa;
pub mod ticket;
pub mod view;
pub mod wire;
