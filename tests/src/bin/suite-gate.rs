//! The gate's programs on a real kernel.

use std::process::ExitCode;

fn main() -> ExitCode {
    tests::suite::main("gate", tests::cases::gate::CASES)
}
