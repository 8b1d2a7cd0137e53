//! Daemons talking in namespaces of a kernel that need not have ESP.

use super::dataplane;
use crate::suite::Case;

/// In the order in which they run.
pub const CASES: &[Case] = &[dataplane::BLOCKS, dataplane::UNDO];
