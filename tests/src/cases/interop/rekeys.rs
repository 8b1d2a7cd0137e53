//! strongSwan replaces the keys of a tunnel with Rekindle: first those of the Child SA, then those of
//! the IKE SA, and traffic flows all the while.

use anyhow::{Context as _, Result, ensure};

use super::sides::{Auth, NAME, Role, Sides};
use crate::{
    suite::{Case, Lab},
    until::until,
};

/// Both kinds of rekey, begun by strongSwan.
pub(super) const THEIRS: Case = Case {
    name: "strongswan_rekeys_child_and_ike_sa_and_pings_go_on",
    run: theirs,
};

/// The same, begun by us, in both roles.
pub(super) const OURS_AS_GATEWAY: Case = Case {
    name: "rekindle_as_gateway_rekeys_child_and_ike_sa_of_strongswan",
    run: |lab| ours(lab, Role::Gateway),
};
/// We are the client.
pub(super) const OURS_AS_CLIENT: Case = Case {
    name: "rekindle_as_client_rekeys_child_and_ike_sa_of_strongswan",
    run: |lab| ours(lab, Role::Client),
};

fn ours(lab: &mut Lab, role: Role) -> Result<()> {
    let sides = Sides::on_one_cable(Auth::Psk)?;
    let (site, swan) = match role {
        Role::Gateway => {
            let site = sides.rekindle(lab, role, "")?;
            let swan = sides.strongswan(lab, Role::Client, "", "")?;
            swan.swanctl("--initiate --child net --timeout 20")?;
            (site, swan)
        }
        Role::Client => {
            let swan = sides.strongswan(lab, Role::Gateway, "", "")?;
            let site = sides.rekindle(lab, role, "")?;
            site.ikectl(&format!("up {NAME}"))?;
            (site, swan)
        }
    };
    sides.ping()?;
    let first = site.established()?;
    for kind in ["--child", "", "--child"] {
        site.ikectl(&format!("rekey {NAME} {kind}"))?;
        sides.ping()?;
        until("two ESP states are left at both ends", PATIENCE, || {
            let of = |role| sides.namespace(role).ip("xfrm state");
            let two = |states: String| states.matches("proto esp").count() == 2;
            Ok(two(of(Role::Client)?) && two(of(Role::Gateway)?))
        })?;
        sides.has_states(&site)?;
    }
    let last = site.established()?;
    ensure!(last["spi_i"] != first["spi_i"], "{last}");
    site.ikectl(&format!("down {NAME}"))?;
    sides.is_clean(&site, &swan)
}

fn theirs(lab: &mut Lab) -> Result<()> {
    let sides = Sides::on_one_cable(Auth::Psk)?;
    let site = sides.rekindle(lab, Role::Gateway, "")?;
    let swan = sides.strongswan(lab, Role::Client, "", "")?;
    swan.swanctl("--initiate --child net --timeout 20")?;
    sides.ping()?;
    let first = site.established()?;
    let spi_in = |sa: &serde_json::Value| sa["children"][0]["spi_in"].clone();

    swan.swanctl("--rekey --child net")?;
    until("the Child SA has new keys", PATIENCE, || {
        Ok(site
            .established()
            .is_ok_and(|sa| spi_in(&sa) != spi_in(&first)))
    })?;
    sides.ping()?;
    let second = site.established()?;
    ensure!(
        second["spi_i"] == first["spi_i"],
        "the IKE SA is the same: {second}"
    );
    let old = spi_in(&first);
    let old = old.as_str().context("an SPI")?;
    until("the old states are gone at both ends", PATIENCE, || {
        let of = |role| sides.namespace(role).ip("xfrm state");
        Ok(!of(Role::Client)?.contains(old) && !of(Role::Gateway)?.contains(old))
    })?;

    swan.swanctl(&format!("--rekey --ike {NAME}"))?;
    until("the IKE SA has new keys", PATIENCE, || {
        Ok(site
            .established()
            .is_ok_and(|sa| sa["spi_i"] != second["spi_i"]))
    })?;
    sides.ping()?;
    let third = site.established()?;
    ensure!(
        spi_in(&third) == spi_in(&second),
        "the Child SA has moved over: {third}"
    );
    swan.swanctl(&format!("--terminate --ike {NAME} --timeout 10"))?;
    sides.is_clean(&site, &swan)
}

const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);
