//! IKEv2 gateway daemon.

fn main() {}
