//! Road warriors: Rekindle leases inner addresses to strongSwan, and gets some from it. Packets flow from
//! the leased addresses of both families and from nowhere else.

use anyhow::{Context as _, Result, ensure};

use super::super::{
    leases::{
        INNER4, INNER6, PSK, ROUTED, client_connection, gateway_connection, has_address, ping_both,
        remote_site,
    },
    tunnel::{CLIENT, REAL},
};
use crate::{
    capture::{Capture, Tally},
    netns::Namespace,
    peer::Strongswan,
    site::{Setting, Site},
    suite::{Case, Lab},
};

/// strongSwan asks us.
pub(super) const CALLED: Case = Case {
    name: "strongswan_gets_its_inner_addresses_from_rekindle_and_the_same_ones_again",
    run: called,
};
/// We ask strongSwan.
pub(super) const CALLING: Case = Case {
    name: "rekindle_gets_its_inner_addresses_from_strongswan_and_the_same_ones_again",
    run: calling,
};
/// strongSwan does not ask.
pub(super) const REFUSED: Case = Case {
    name: "strongswan_without_a_request_for_addresses_is_refused_by_rekindle",
    run: refused,
};

const GATEWAY: &str = "192.0.2.1";
/// ESP packets of one round of [`ping_both`].
const ROUND: u64 = 8;

fn called(lab: &mut Lab) -> Result<()> {
    let (client_ns, gateway_ns) = remote_site()?;
    let mut gateway = Site::prepare(lab, &gateway_ns, REAL, &gateway_connection())?;
    gateway.start(lab)?;
    let swan = strongswan_client(lab, &client_ns, "vips = 0.0.0.0,::")?;
    let captures = [Capture::start(&client_ns)?, Capture::start(&gateway_ns)?];
    let mut rounds = 0;
    // strongSwan forgets what it had: the second time it is the identity that finds it again.
    for _ in 0..2 {
        swan.swanctl("--initiate --child net --timeout 20")?;
        let sa = gateway.established()?;
        let vips = &sa["remote"]["vips"];
        ensure!(vips[0] == INNER4 && vips[1] == INNER6, "{sa}");
        ensure!(
            sa["children"][0]["remote_ts"][0] == format!("{INNER4}/32"),
            "{sa}"
        );
        ensure!(
            has_address(&client_ns, "eth0", INNER4)?,
            "strongSwan has not taken {INNER4}"
        );
        ping_both(&client_ns)?;
        rounds += 1;
        let leases = gateway.ikectl("pool leases")?;
        ensure!(
            leases[0]["online"] == true && leases[0]["peer"] == "client.example",
            "{leases}"
        );
        swan.swanctl("--terminate --ike lab --timeout 10")?;
        let leases = gateway.ikectl("pool leases")?;
        ensure!(
            leases[0]["online"] == false && leases[0]["addr"] == INNER4,
            "{leases}"
        );
    }
    only_esp(captures, rounds)
}

fn calling(lab: &mut Lab) -> Result<()> {
    let (client_ns, gateway_ns) = remote_site()?;
    let swan = Strongswan::start(lab, &gateway_ns, "")?;
    swan.load(&format!(
        "connections {{ lab {{
            version = 2\n local_addrs = {GATEWAY}\n remote_addrs = %any\n pools = rw4, rw6
            local {{ auth = psk\n id = gw.example }}
            remote {{ auth = psk\n id = client.example }}
            children {{ net {{
                local_ts = {}\n esp_proposals = aes128gcm16\n mode = tunnel }} }}
        }} }}
        pools {{
            rw4 {{ addrs = 10.3.0.0/24\n dns = 10.1.0.53 }}
            rw6 {{ addrs = 2001:db8:3::/120 }}
        }}
        secrets {{ ike-peer {{ id = client.example\n secret = \"{PSK}\" }} }}\n",
        ROUTED.join(",")
    ))?;
    let own = Setting { node: 2, ..REAL };
    let mut client = Site::prepare(lab, &client_ns, own, &client_connection())?;
    client.start(lab)?;
    let captures = [Capture::start(&client_ns)?, Capture::start(&gateway_ns)?];
    let mut before = None;
    for _ in 0..2 {
        let up = client.ikectl("up home")?;
        ensure!(up["resumed"] == false, "{up}");
        let sa = client.established()?;
        let vips = sa["local"]["vips"].clone();
        ensure!(
            vips[0].as_str().is_some_and(|v4| v4.starts_with("10.3.0.")),
            "{sa}"
        );
        ensure!(
            vips[1]
                .as_str()
                .is_some_and(|v6| v6.starts_with("2001:db8:3:")),
            "{sa}"
        );
        ensure!(sa["dns"][0] == "10.1.0.53", "{sa}");
        ensure!(
            before
                .replace(vips.clone())
                .is_none_or(|before| before == vips),
            "{sa}"
        );
        let v4 = vips[0].as_str().context("an address")?;
        ensure!(has_address(&client_ns, "lo", v4)?, "{v4} is not on lo");
        ping_both(&client_ns)?;
        let theirs = swan.swanctl("--list-pools")?;
        ensure!(
            theirs.contains("rw4") && theirs.contains(" 1 / "),
            "{theirs}"
        );
        client.ikectl("down home")?;
        ensure!(!has_address(&client_ns, "lo", v4)?, "{v4} is still on lo");
    }
    only_esp(captures, 2)
}

fn refused(lab: &mut Lab) -> Result<()> {
    let (client_ns, gateway_ns) = remote_site()?;
    let mut gateway = Site::prepare(lab, &gateway_ns, REAL, &gateway_connection())?;
    gateway.start(lab)?;
    let swan = strongswan_client(lab, &client_ns, "")?;
    let told = swan.swanctl("--initiate --child net --timeout 20");
    ensure!(
        told.as_ref()
            .is_err_and(|error| error.to_string().contains("CP_REQ")),
        "{told:?}"
    );
    let pools = gateway.ikectl("pool")?;
    ensure!(
        pools[0]["leases"] == 0 && pools[1]["leases"] == 0,
        "{pools}"
    );
    // The IKE SA stands, and carries nothing (RFC 7296, 3.15.4).
    let sa = gateway.established()?;
    let carries_nothing = sa["children"].as_array().is_some_and(Vec::is_empty);
    let states = gateway_ns.ip("xfrm state")?;
    ensure!(
        carries_nothing && !states.contains("proto esp"),
        "{sa}: {states}"
    );
    Ok(())
}

fn strongswan_client<'a>(
    lab: &Lab,
    namespace: &'a Namespace,
    settings: &str,
) -> Result<Strongswan<'a>> {
    let swan = Strongswan::start(lab, namespace, "")?;
    swan.load(&format!(
        "connections {{ lab {{
            version = 2\n local_addrs = {CLIENT}\n remote_addrs = {GATEWAY}\n {settings}
            local {{ auth = psk\n id = client.example }}
            remote {{ auth = psk\n id = gw.example }}
            children {{ net {{
                remote_ts = {}\n esp_proposals = aes128gcm16\n mode = tunnel }} }}
        }} }}
        secrets {{ ike-peer {{ id = gw.example\n secret = \"{PSK}\" }} }}\n",
        ROUTED.join(",")
    ))?;
    Ok(swan)
}

fn only_esp(captures: [Capture; 2], rounds: u64) -> Result<()> {
    let mut tally = Tally::default();
    for capture in captures {
        tally.add_sent(&capture.stop()?);
    }
    let right = (rounds * ROUND, 0);
    ensure!((tally.esp, tally.clear) == right, "{tally:?}");
    Ok(())
}
