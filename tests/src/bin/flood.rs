//! What floods do to a gateway; `cargo xtask flood` starts it.

use std::process::ExitCode;

fn main() -> ExitCode {
    tests::attacks::main()
}
