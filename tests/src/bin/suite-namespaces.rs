//! Daemons in namespaces, without ESP.

use std::process::ExitCode;

fn main() -> ExitCode {
    tests::suite::main("namespaces", tests::cases::namespaces::CASES)
}
