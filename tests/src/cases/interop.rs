//! Rekindle against foreign IKE daemons, in both roles.

use anyhow::{Result, ensure};

use crate::netns::Namespace;
use crate::peer::Strongswan;
use crate::suite::{Case, Lab};

/// In the order in which they run.
pub const CASES: &[Case] = &[Case {
    name: "strongswan_starts_and_answers_its_socket",
    run: strongswan_starts,
}];

fn strongswan_starts(lab: &mut Lab) -> Result<()> {
    let peer = Namespace::new("peer")?;
    let strongswan = Strongswan::start(lab, &peer, "")?;
    let said = strongswan.swanctl("--stats")?;
    ensure!(said.contains("plugins: "), "swanctl --stats said: {said}");
    for plugin in ["openssl", "kernel-netlink", "vici"] {
        ensure!(said.contains(plugin), "{plugin} is not loaded: {said}");
    }
    Ok(())
}
