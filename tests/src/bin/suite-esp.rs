//! ESP in the kernel, driven by hand and by the daemon.

use std::process::ExitCode;

fn main() -> ExitCode {
    tests::suite::main("esp", tests::cases::esp::CASES)
}
