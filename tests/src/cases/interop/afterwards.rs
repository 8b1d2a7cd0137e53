//! What Rekindle leaves behind on a host: after a stop nothing, so that another IKE daemon serves there.

use anyhow::{Result, ensure};

use super::sides::{Auth, NAME, Role, Sides};
use crate::suite::{Case, Lab};

/// strongSwan comes after us.
pub(super) const SERVED_BY_ANOTHER: Case = Case {
    name: "strongswan_serves_where_rekindle_and_its_gate_stood",
    run: served_by_another,
};

fn served_by_another(lab: &mut Lab) -> Result<()> {
    let sides = Sides::on_one_cable(Auth::Psk)?;
    let mut site = sides.rekindle(lab, Role::Gateway, "")?;
    let client = sides.strongswan(lab, Role::Client, "", "")?;
    let call = || client.swanctl("--initiate --child net --timeout 20");
    call()?;
    sides.ping()?;
    let gate = site.ikectl("gate")?;
    ensure!(gate["attachments"][0]["mode"] == "native", "{gate}");

    // The gate stood in front of eth0; the stop deletes the SA too.
    site.stop()?;
    let gateway = sides.namespace(Role::Gateway);
    let link = gateway.ip("-details link show eth0")?;
    ensure!(!link.contains("xdp"), "{link}");
    let policies = gateway.ip("xfrm policy")?;
    ensure!(!policies.contains("tmpl"), "{policies}");
    let server = sides.strongswan(lab, Role::Gateway, "", "")?;
    call()?;
    sides.ping()?;
    let said = server.swanctl("--list-sas")?;
    ensure!(said.contains("ESTABLISHED"), "{said}");
    client.swanctl(&format!("--terminate --ike {NAME} --timeout 10"))?;
    Ok(())
}
