//! Rekindle against foreign IKE daemons, feature by feature; `cargo xtask interop` starts it.

use std::process::ExitCode;

fn main() -> ExitCode {
    tests::matrix::main()
}
