//! The IKEv2 protocol core of Rekindle: both roles, session resumption (RFC 5723) included, without
//! sockets, clocks or randomness of its own.
//!
//! The loop around it is short. Feed an [`io::Input`] to [`Endpoint::handle`] with the time and a
//! source of randomness, carry out each [`io::Output`] that [`Endpoint::poll_output`] returns, and
//! come back at [`Endpoint::next_deadline`]. Operators speak through [`Endpoint::command`].
//!
//! To read on: [`io`] for what goes in and out, `exchange/resume.rs` for what this project is about.

mod attempt;
pub mod counters;
pub mod crypto;
pub mod defence;
mod demand;
mod endpoint;
mod exchange;
pub mod failure;
mod flows;
pub mod io;
pub mod kernel;
pub mod lease;
mod look_up;
pub mod peer;
mod reload;
pub mod sa;
mod session;
pub mod ticket;
pub mod trust;
pub mod view;
pub mod watch;
mod whose;
pub mod wire;

pub use endpoint::{CommandRefused, Context, Endpoint, MAX_WORKERS, NodeKeys, Settings};
pub use exchange::Told;
pub use look_up::Way;
pub use reload::Reloaded;
pub use session::SessionRefused;
pub use whose::Whose;
