//! What the suites are made of: namespaces, captures, daemons, peers and the cases themselves.
//!
//! `cargo xtask test` starts the suite binaries inside a lab, so nothing here touches the machine's
//! own network. The library's unit tests need no privilege and run under plain `cargo test`.

pub mod attacks;
pub mod barrage;
pub mod bench;
pub mod capture;
pub mod cases;
pub mod chance;
pub mod datagram;
pub mod demo;
pub mod flood;
pub mod mangle;
pub mod matrix;
pub mod netns;
pub mod packet;
pub mod peer;
pub mod ping;
pub mod pki;
pub mod process;
pub mod site;
pub mod storm;
pub mod stream;
pub mod suite;
pub mod until;
