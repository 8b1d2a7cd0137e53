//! One of many clients of a gateway; the suites start them.

use std::process::ExitCode;

fn main() -> ExitCode {
    tests::storm::client::main()
}
