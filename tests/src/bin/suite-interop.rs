//! Rekindle against foreign IKE daemons.

use std::process::ExitCode;

fn main() -> ExitCode {
    tests::suite::main("interop", tests::cases::interop::CASES)
}
