//! What resumptions cost a gateway; `cargo xtask bench` starts it.

use std::process::ExitCode;

fn main() -> ExitCode {
    tests::bench::main()
}
