//! What needs a kernel that lacks nothing, most often that of a virtual machine.

use std::process::ExitCode;

fn main() -> ExitCode {
    tests::suite::main("machine", tests::cases::machine::CASES)
}
