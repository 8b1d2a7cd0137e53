//! The story of one resumption, told step by step; `cargo xtask demo` starts it.

use std::process::ExitCode;

fn main() -> ExitCode {
    tests::demo::main()
}
