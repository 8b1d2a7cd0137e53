//! Daemons talking in namespaces of a kernel that need not have ESP.

use crate::suite::Case;

/// In the order in which they run.
pub const CASES: &[Case] = &[];
