//! The gate's programs on a real kernel: loading, verdicts, links and pins.

use crate::suite::Case;

/// In the order in which they run.
pub const CASES: &[Case] = &[];
