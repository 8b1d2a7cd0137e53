//! Daemons talking in namespaces of a kernel that need not have ESP.

use super::{
    behind, challenge, connections, dataplane, denied, flood, lanes, mangled, names, reload, soak,
    storm, transit, why, workers,
};
use crate::suite::Case;

/// In the order in which they run.
pub const CASES: &[Case] = &[
    dataplane::BLOCKS,
    dataplane::UNDO,
    flood::TURNED_AWAY,
    flood::CONTROL,
    lanes::APART,
    lanes::TOGETHER,
    flood::SILENT,
    connections::SHOWN,
    challenge::COOKIE,
    challenge::COOKIE_IPV6,
    challenge::LEVEL,
    challenge::SET,
    denied::BY_THE_GATE,
    denied::BY_THE_ENGINE,
    denied::ALLOWED,
    denied::ALLOWED_BY_THE_ENGINE,
    denied::DETACHED,
    transit::SERVICE,
    transit::THROUGH,
    mangled::SURVIVES,
    why::TOLD,
    why::CONSTRAINED,
    why::REVOKED,
    names::LOOKED_UP,
    behind::REBOOTS,
    workers::AS_ONE,
    workers::ONE_QUEUE,
    workers::MOVES,
    reload::BY_BOTH,
    soak::CHURN,
    storm::HUNDRED,
    storm::HUNDRED_OF_TWO,
    storm::THOUSAND,
];
