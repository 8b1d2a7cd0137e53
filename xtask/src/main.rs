//! Set-up, build, demo, tests and benchmarks.

fn main() {}
