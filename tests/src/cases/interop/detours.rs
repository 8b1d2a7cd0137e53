//! What a first message may meet before it is answered: another group wanted, a cookie, a NAT; and a
//! gateway that has no tickets to give.

use std::{net::UdpSocket, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use ike::wire::{header::Exchange, notify::NotifyKind};

use super::super::mangled::throw;
use super::sides::{Auth, GATEWAY, NAME, Role, Sides, Traffic};
use crate::{
    datagram::Datagram,
    suite::{Case, Lab},
    until::until,
};

/// INVALID_KE_PAYLOAD towards us.
pub(super) const OTHER_GROUP: Case = Case {
    name: "rekindle_comes_again_with_the_group_that_strongswan_wants",
    run: other_group,
};
/// INVALID_KE_PAYLOAD from us.
pub(super) const OTHER_GROUP_FOR_THEM: Case = Case {
    name: "strongswan_comes_again_with_the_group_that_rekindle_wants",
    run: other_group_for_them,
};
/// COOKIE towards us.
pub(super) const COOKIE: Case = Case {
    name: "rekindle_brings_the_cookie_that_strongswan_asks_for",
    run: cookie,
};
/// COOKIE from us.
pub(super) const COOKIE_FOR_THEM: Case = Case {
    name: "strongswan_brings_the_cookie_that_rekindle_asks_for",
    run: cookie_for_them,
};
/// NAT, strongSwan calling.
pub(super) const NAT_CALLED: Case = Case {
    name: "strongswan_calls_rekindle_through_nat_and_esp_goes_in_udp",
    run: nat_called,
};
/// NAT, Rekindle calling.
pub(super) const NAT_CALLING: Case = Case {
    name: "rekindle_calls_strongswan_through_nat_and_esp_goes_in_udp",
    run: nat_calling,
};
/// A client that would like a ticket.
pub(super) const NO_TICKET: Case = Case {
    name: "without_a_ticket_suspend_is_refused_and_the_tunnel_stands",
    run: no_ticket,
};
/// Noise.
pub(super) const MANGLED: Case = Case {
    name: "mangled_messages_do_not_disturb_a_tunnel_with_strongswan",
    run: mangled,
};

const INITIATE: &str = "--initiate --child net --timeout 20";
/// As many half-open SAs of one address as Rekindle lets be before it asks for cookies.
const FREE_HALF_OPEN: u64 = 32;
const PATIENCE: Duration = Duration::from_secs(5);

fn other_group(lab: &mut Lab) -> Result<()> {
    let sides = Sides::on_one_cable(Auth::Psk)?;
    let wants = "proposals = aes256gcm16-prfsha256-ecp256";
    let swan = sides.strongswan(lab, Role::Gateway, "", wants)?;
    let site = sides.rekindle(lab, Role::Client, "")?;
    let watch = sides.watch()?;
    site.ikectl(&format!("up {NAME}"))?;
    sides.ping()?;
    let traffic = watch.stop()?;
    traffic.is_esp(1)?;
    let told = |one: &&Datagram| one.notifies(NotifyKind::INVALID_KE_PAYLOAD);
    ensure!(
        traffic.gateway.iter().filter(told).count() == 1,
        "no word of the group"
    );
    ensure!(traffic.count(Role::Client, Exchange::IkeSaInit) == [2, 0]);
    site.ikectl(&format!("down {NAME}"))?;
    sides.is_clean(&site, &swan)
}

fn other_group_for_them(lab: &mut Lab) -> Result<()> {
    let sides = Sides::on_one_cable(Auth::Psk)?;
    let wants = "proposals = [\"aes256gcm16-prfsha256-ecp256\"]";
    let site = sides.rekindle(lab, Role::Gateway, wants)?;
    let offers = "proposals = aes256gcm16-prfsha256-x25519-ecp256";
    let swan = sides.strongswan(lab, Role::Client, "", offers)?;
    let watch = sides.watch()?;
    swan.swanctl(INITIATE)?;
    sides.ping()?;
    let traffic = watch.stop()?;
    traffic.is_esp(1)?;
    ensure!(traffic.count(Role::Client, Exchange::IkeSaInit) == [2, 0]);
    swan.swanctl(&format!("--terminate --ike {NAME} --timeout 10"))?;
    sides.is_clean(&site, &swan)
}

fn cookie(lab: &mut Lab) -> Result<()> {
    let sides = Sides::on_one_cable(Auth::Psk)?;
    // One half-open SA of a stranger, and everybody needs a cookie.
    let swan = sides.strongswan(lab, Role::Gateway, "cookie_threshold = 1", "")?;
    let site = sides.rekindle(lab, Role::Client, "")?;
    let watch = sides.watch()?;
    site.ikectl(&format!("up {NAME}"))?;
    site.ikectl(&format!("down {NAME}"))?;
    let first = watch.stop()?;
    strangers(&sides, &first.client[0].message, 1)?;
    until("strongSwan has a half-open SA", PATIENCE, || {
        Ok(swan.swanctl("--stats")?.contains("1 half-open"))
    })?;

    let watch = sides.watch()?;
    site.ikectl(&format!("up {NAME}"))?;
    sides.ping()?;
    let traffic = watch.stop()?;
    traffic.is_esp(1)?;
    asked_and_brought(&traffic)?;
    Ok(())
}

fn cookie_for_them(lab: &mut Lab) -> Result<()> {
    let sides = Sides::on_one_cable(Auth::Psk)?;
    let site = sides.rekindle(lab, Role::Gateway, "")?;
    let swan = sides.strongswan(lab, Role::Client, "", "")?;
    let watch = sides.watch()?;
    swan.swanctl(INITIATE)?;
    swan.swanctl(&format!("--terminate --ike {NAME} --timeout 10"))?;
    let first = watch.stop()?;
    strangers(&sides, &first.client[0].message, FREE_HALF_OPEN)?;
    until("Rekindle has so many half-open SAs", PATIENCE, || {
        Ok(site.ikectl("status")?["ike_sas_half_open"] == FREE_HALF_OPEN)
    })?;

    let watch = sides.watch()?;
    swan.swanctl(INITIATE)?;
    sides.ping()?;
    let traffic = watch.stop()?;
    traffic.is_esp(1)?;
    asked_and_brought(&traffic)?;
    Ok(())
}

/// Whether the gateway asked for a cookie and the client came with one. A slow gateway is asked twice,
/// and may ask for two.
fn asked_and_brought(traffic: &Traffic) -> Result<()> {
    let has_cookie = |one: &Datagram| one.notifies(NotifyKind::COOKIE);
    ensure!(
        traffic.gateway.iter().any(has_cookie),
        "no cookie asked for"
    );
    ensure!(traffic.client.iter().any(has_cookie), "no cookie brought");
    Ok(())
}

/// Sends a recorded first message to the gateway again, each time with another SPIi, so that each
/// leaves a half-open SA there.
fn strangers(sides: &Sides, message: &[u8], count: u64) -> Result<()> {
    let socket = sides
        .namespace(Role::Client)
        .within(|| UdpSocket::bind(("0.0.0.0", 0)))??;
    let mut message = message.to_vec();
    for number in 1..=count {
        let spi = message.first_chunk_mut::<8>().context("a header")?;
        *spi = (0x5a5a_0000_0000_0000 | number).to_be_bytes();
        socket.send_to(&message, (GATEWAY, 500))?;
        // strongSwan turns away a burst of one address.
        thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

fn nat_called(lab: &mut Lab) -> Result<()> {
    let sides = Sides::behind_nat(Auth::Psk)?;
    let site = sides.rekindle(lab, Role::Gateway, "")?;
    let swan = sides.strongswan(lab, Role::Client, "", "")?;
    let watch = sides.watch()?;
    swan.swanctl(INITIATE)?;
    sides.ping()?;
    let sa = site.established()?;
    ensure!(sa["children"][0]["encap"] == "udp", "{sa}");
    watch.stop()?.is_esp_in_udp(1)?;
    swan.swanctl(&format!("--terminate --ike {NAME} --timeout 10"))?;
    sides.is_clean(&site, &swan)
}

fn nat_calling(lab: &mut Lab) -> Result<()> {
    let sides = Sides::behind_nat(Auth::Certificate)?;
    let swan = sides.strongswan(lab, Role::Gateway, "", "")?;
    let site = sides.rekindle(lab, Role::Client, "")?;
    let watch = sides.watch()?;
    site.ikectl(&format!("up {NAME}"))?;
    sides.ping()?;
    let sa = site.established()?;
    ensure!(sa["children"][0]["encap"] == "udp", "{sa}");
    watch.stop()?.is_esp_in_udp(1)?;
    site.ikectl(&format!("down {NAME}"))?;
    sides.is_clean(&site, &swan)
}

fn no_ticket(lab: &mut Lab) -> Result<()> {
    let sides = Sides::on_one_cable(Auth::Psk)?;
    let swan = sides.strongswan(lab, Role::Gateway, "", "")?;
    let site = sides.rekindle(lab, Role::Client, "resume = true")?;
    site.ikectl(&format!("up {NAME}"))?;
    let before = site.established()?;
    ensure!(before["ticket"].is_null(), "{before}");
    let Err(refused) = site.ikectl(&format!("suspend {NAME}")) else {
        anyhow::bail!("suspended without a ticket")
    };
    ensure!(format!("{refused:#}").contains("ticket"), "{refused:#}");
    let after = site.established()?;
    ensure!(before["spi_i"] == after["spi_i"], "{after}");
    sides.ping()?;
    site.ikectl(&format!("down {NAME}"))?;
    sides.is_clean(&site, &swan)
}

fn mangled(lab: &mut Lab) -> Result<()> {
    let sides = Sides::on_one_cable(Auth::Certificate)?;
    let site = sides.rekindle_alone(lab, Role::Gateway)?;
    let swan = sides.strongswan(lab, Role::Client, "", "")?;
    let watch = sides.watch()?;
    swan.swanctl(INITIATE)?;
    sides.ping()?;
    let traffic = watch.stop()?;
    let (engine, standing) = (site.engine()?, site.established()?);
    let recorded: Vec<_> = traffic.client.into_iter().chain(traffic.gateway).collect();
    let (client, gateway) = (
        sides.namespace(Role::Client),
        sides.namespace(Role::Gateway),
    );
    let read = gateway.udp_count("InDatagrams")?;
    let thrown = throw(client, &recorded, GATEWAY, [500, 4500])?;
    until("all of them were read", 2 * PATIENCE, || {
        Ok(gateway.udp_count("InDatagrams")? >= read + thrown)
    })?;
    ensure!(site.engine()? == engine, "the engine died");
    let sa = site.established()?;
    ensure!(sa["spi_r"] == standing["spi_r"], "{sa}");
    sides.ping()?;
    swan.swanctl(&format!("--terminate --ike {NAME} --timeout 10"))?;
    let left = site.ikectl("status")?;
    ensure!(left["ike_sas_established"] == 0, "{left}");
    Ok(())
}
