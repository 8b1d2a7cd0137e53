//! Rekindle and strongSwan log in to each other, in both roles and by both kinds of proof; traffic
//! flows, signs of life are answered, and whoever says goodbye leaves nothing behind at either end.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use ike::wire::header::Exchange;

use super::sides::{Auth, NAME, Role, Sides, Traffic};
use crate::{
    site::Site,
    suite::{Case, Lab},
    until::until,
};

/// strongSwan calls with a key.
pub(super) const CALLED_PSK: Case = Case {
    name: "strongswan_calls_rekindle_by_key_and_deletes",
    run: called_psk,
};
/// strongSwan calls with a certificate.
pub(super) const CALLED_CERTIFICATE: Case = Case {
    name: "strongswan_calls_rekindle_by_certificate_and_is_deleted",
    run: called_certificate,
};
/// We call with a key.
pub(super) const CALLING_PSK: Case = Case {
    name: "rekindle_calls_strongswan_by_key_from_behind_its_gate_and_deletes",
    run: calling_psk,
};
/// We call with a certificate.
pub(super) const CALLING_CERTIFICATE: Case = Case {
    name: "rekindle_calls_strongswan_by_certificate_and_comes_back_when_deleted",
    run: calling_certificate,
};
/// strongSwan has another key.
pub(super) const CALLED_BY_STRANGER: Case = Case {
    name: "strongswan_with_another_key_is_refused_and_leaves_nothing",
    run: called_by_stranger,
};
/// strongSwan has a certificate of another authority.
pub(super) const CALLING_STRANGER: Case = Case {
    name: "rekindle_gets_no_further_than_a_certificate_of_another_authority",
    run: calling_stranger,
};

/// Both daemons' silence before they ask for a sign of life.
const OURS_ASKS: &str = "dpd_delay = \"1s\"";
const THEIRS_ASKS: &str = "dpd_delay = 1s";
const OURS_IS_SILENT: &str = "dpd_delay = 0";
/// Long enough for one question and its answer.
const SILENCE: Duration = Duration::from_millis(2500);
/// A lost client waits two seconds and a bit before it calls again.
const COMES_BACK_WITHIN: Duration = Duration::from_secs(10);

fn called_psk(lab: &mut Lab) -> Result<()> {
    let sides = Sides::on_one_cable(Auth::Psk)?;
    let site = sides.rekindle(lab, Role::Gateway, OURS_ASKS)?;
    let swan = sides.strongswan(lab, Role::Client, "", "")?;
    let traffic = talk(&sides, &site, || {
        swan.swanctl("--initiate --child net --timeout 20")
            .map(drop)
    })?;
    asked_and_answered(&traffic, Role::Gateway)?;
    swan.swanctl(&format!("--terminate --ike {NAME} --timeout 10"))?;
    sides.is_clean(&site, &swan)
}

fn called_certificate(lab: &mut Lab) -> Result<()> {
    let sides = Sides::on_one_cable(Auth::Certificate)?;
    let site = sides.rekindle(lab, Role::Gateway, OURS_IS_SILENT)?;
    let swan = sides.strongswan(lab, Role::Client, "", THEIRS_ASKS)?;
    let traffic = talk(&sides, &site, || {
        swan.swanctl("--initiate --child net --timeout 20")
            .map(drop)
    })?;
    asked_and_answered(&traffic, Role::Client)?;
    site.ikectl(&format!("down {NAME}"))?;
    sides.is_clean(&site, &swan)
}

fn calling_psk(lab: &mut Lab) -> Result<()> {
    let sides = Sides::on_one_cable(Auth::Psk)?;
    let swan = sides.strongswan(lab, Role::Gateway, "", "")?;
    let site = sides.rekindle(lab, Role::Client, OURS_ASKS)?;
    let gate = site.ikectl("gate")?;
    ensure!(gate["mode"] == "native", "{gate}");
    let traffic = talk(&sides, &site, || call(&site))?;
    asked_and_answered(&traffic, Role::Client)?;
    let judged = site.gate_count("own_spi")? + site.gate_count("own_spi_unchecked")?;
    ensure!(judged >= 2, "the gate saw {judged} answers");
    site.ikectl(&format!("down {NAME}"))?;
    sides.is_clean(&site, &swan)
}

fn calling_certificate(lab: &mut Lab) -> Result<()> {
    let sides = Sides::on_one_cable(Auth::Certificate)?;
    let swan = sides.strongswan(lab, Role::Gateway, "", THEIRS_ASKS)?;
    let site = sides.rekindle(lab, Role::Client, OURS_IS_SILENT)?;
    let traffic = talk(&sides, &site, || call(&site))?;
    asked_and_answered(&traffic, Role::Gateway)?;

    let first = site.established()?;
    swan.swanctl(&format!("--terminate --ike {NAME} --timeout 10"))?;
    until("the deleted client calls again", COMES_BACK_WITHIN, || {
        Ok(site
            .established()
            .is_ok_and(|sa| sa["spi_i"] != first["spi_i"]))
    })?;
    let spi = first["children"][0]["spi_in"].as_str().context("an SPI")?;
    for role in [Role::Client, Role::Gateway] {
        let states = sides.namespace(role).ip("xfrm state")?;
        ensure!(!states.contains(spi), "{role:?} still has {spi}:\n{states}");
    }
    sides.ping()?;
    site.ikectl(&format!("down {NAME}"))?;
    sides.is_clean(&site, &swan)
}

fn called_by_stranger(lab: &mut Lab) -> Result<()> {
    let sides = Sides::on_one_cable(Auth::Psk)?.with_a_stranger()?;
    let site = sides.rekindle(lab, Role::Gateway, "")?;
    let swan = sides.strongswan(lab, Role::Client, "", "")?;
    let told = swan.swanctl("--initiate --child net --timeout 20");
    ensure!(told.is_err_and(|error| error.to_string().contains("AUTH_FAILED")));
    sides.is_clean(&site, &swan)
}

fn calling_stranger(lab: &mut Lab) -> Result<()> {
    let sides = Sides::on_one_cable(Auth::Certificate)?.with_a_stranger()?;
    let swan = sides.strongswan(lab, Role::Gateway, "", "")?;
    let site = sides.rekindle(lab, Role::Client, "")?;
    let told = site.ikectl(&format!("up {NAME}"));
    let told = told.err().context("up with a stranger")?.to_string();
    ensure!(told.contains("auth_failed"), "{told}");
    sides.is_clean(&site, &swan)
}

fn call(site: &Site<'_>) -> Result<()> {
    let up = site.ikectl(&format!("up {NAME}"))?;
    ensure!(up["resumed"] == false, "{up}");
    Ok(())
}

/// Logs in, pings, keeps silent for a while; nothing but ESP and IKE may have been on the wire.
fn talk(sides: &Sides, site: &Site<'_>, log_in: impl FnOnce() -> Result<()>) -> Result<Traffic> {
    let watch = sides.watch()?;
    log_in()?;
    sides.ping()?;
    sides.has_states(site)?;
    thread::sleep(SILENCE);
    let traffic = watch.stop()?;
    traffic.is_esp(1)?;
    for exchange in [Exchange::IkeSaInit, Exchange::IkeAuth] {
        ensure!(
            traffic.count(Role::Client, exchange) == [1, 0]
                && traffic.count(Role::Gateway, exchange) == [0, 1],
            "{exchange:?} took more than one round trip"
        );
    }
    Ok(traffic)
}

/// Whether one end asked for a sign of life and the other gave as many.
fn asked_and_answered(traffic: &Traffic, asking: Role) -> Result<()> {
    let answering = match asking {
        Role::Client => Role::Gateway,
        Role::Gateway => Role::Client,
    };
    let [asked, _] = traffic.count(asking, Exchange::Informational);
    let [_, answered] = traffic.count(answering, Exchange::Informational);
    // The captures do not end at one moment, which may lie between a question and its answer.
    ensure!(
        asked > 0 && answered > 0 && asked.abs_diff(answered) <= 1,
        "{asking:?} asked {asked} times, {answering:?} answered {answered}"
    );
    Ok(())
}
