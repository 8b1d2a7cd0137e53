//! Daemons talking in namespaces of a kernel that need not have ESP.

use super::{dataplane, flood, mangled, storm};
use crate::suite::Case;

/// In the order in which they run.
pub const CASES: &[Case] = &[
    dataplane::BLOCKS,
    dataplane::UNDO,
    flood::TURNED_AWAY,
    flood::CONTROL,
    mangled::SURVIVES,
    storm::HUNDRED,
    storm::THOUSAND,
];
