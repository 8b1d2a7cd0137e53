//! What only a kernel that lacks nothing can carry. It runs in emulation where this machine's own is not
//! one, so daemons start here without the gate and without lanes, whose programs take the emulated kernel
//! ten seconds and more to verify; the one case about the gate loads them.

use anyhow::Result;

use super::{gate::devices, interfaces};
use crate::{
    netns::Namespace,
    site::{Setting, Site},
    suite::{Case, Lab},
};

/// In the order in which they run.
pub const CASES: &[Case] = &[
    devices::TUNNEL,
    interfaces::OURS,
    interfaces::ROUTED,
    interfaces::AROUND,
];

/// A daemon with real ESP that leaves the gate alone.
pub(super) fn bare<'a>(
    lab: &Lab,
    namespace: &'a Namespace,
    node: u8,
    connections: &str,
) -> Result<Site<'a>> {
    let setting = Setting {
        gate: "off",
        dataplane: "xfrm",
        node,
    };
    let site = Site::prepare(lab, namespace, setting, connections)?;
    site.without_objects()?;
    Ok(site)
}
