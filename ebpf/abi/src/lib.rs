//! What the gate in the kernel and the daemon in user space must agree on: keyed hashes, ticket
//! envelope, SPI, cookie, the packet classifier, and the layout of the maps.
//!
//! One source serves both sides of the kernel line, so whatever the gate decides, the daemon can
//! decide again. Everything here is `no_std`, depends on nothing, and has no panic path: in the
//! kernel a panic path does not even load.

#![no_std]
#![forbid(unsafe_code)]
#![expect(
    clippy::inline_always,
    reason = "a call in a BPF program costs a frame of its 512 octets of stack"
)]

pub mod barrage;
pub mod bench;
pub mod board;
pub mod classify;
pub mod cookie;
pub mod cpus;
pub mod defence;
#[cfg(any(test, feature = "frames"))]
pub mod frames;
pub mod ike;
pub mod lane;
pub mod maps;
pub mod networks;
pub mod reply;
pub mod sample;
pub mod sip;
pub mod spi;
pub mod ticket;

#[cfg(any(test, feature = "frames"))]
extern crate alloc;
#[cfg(test)]
extern crate std;
