//! Rekindle and strongSwan both begin to replace the keys of their IKE SA while neither hears the other.
//! When they can again, each has a request that crosses the other's; one SA is left and carries the
//! traffic, whoever is heard first (RFC 7296, 2.8.2).

use std::{thread, time::Duration};

use anyhow::{Result, anyhow, ensure};

use super::sides::{Auth, GATEWAY, NAME, Role, Sides};
use crate::{
    suite::{Case, Lab},
    until::until,
};

/// We repeat our request first.
pub(super) const OURS_FIRST: Case = Case {
    name: "rekindle_and_strongswan_rekey_at_once_and_ours_is_heard_first",
    run: ours_first,
};
/// strongSwan does.
pub(super) const THEIRS_FIRST: Case = Case {
    name: "rekindle_and_strongswan_rekey_at_once_and_theirs_is_heard_first",
    run: theirs_first,
};

/// strongSwan repeats itself after four seconds, as it comes, or all the time.
const PATIENT: &str = "";
const HASTY: &str = "retransmit_timeout = 0.2\nretransmit_base = 1.0\nretransmit_tries = 100";
/// Long enough for both to have said it once.
const CUT: Duration = Duration::from_millis(300);
const PATIENCE: Duration = Duration::from_secs(45);
const CLIENT: &str = "192.0.2.10";

fn ours_first(lab: &mut Lab) -> Result<()> {
    collide(lab, PATIENT)
}

fn theirs_first(lab: &mut Lab) -> Result<()> {
    collide(lab, HASTY)
}

fn collide(lab: &mut Lab, options: &str) -> Result<()> {
    let sides = Sides::on_one_cable(Auth::Psk)?;
    let site = sides.rekindle(lab, Role::Gateway, "")?;
    let swan = sides.strongswan(lab, Role::Client, options, "")?;
    swan.swanctl("--initiate --child net --timeout 20")?;
    sides.ping()?;
    let before = site.established()?;

    let cut = |verb: &str| -> Result<()> {
        for (role, other) in [(Role::Client, GATEWAY), (Role::Gateway, CLIENT)] {
            let namespace = sides.namespace(role);
            namespace.ip(&format!("route {verb} blackhole {other}/32"))?;
        }
        Ok(())
    };
    cut("add")?;
    swan.swanctl(&format!("--rekey --ike {NAME}"))?;
    thread::scope(|scope| {
        let ours = scope.spawn(|| site.ikectl(&format!("rekey {NAME}")));
        thread::sleep(CUT);
        cut("del")?;
        ours.join().map_err(|_| anyhow!("ikectl panicked"))?
    })?;
    until(
        "one IKE SA is left, and it is another one",
        PATIENCE,
        || {
            let established = |sa: serde_json::Value| sa["spi_i"] != before["spi_i"];
            Ok(site.established().is_ok_and(established)
                && swan.swanctl("--list-sas")?.matches("ESTABLISHED").count() == 1)
        },
    )?;
    sides.ping()?;
    sides.has_states(&site)?;
    for role in [Role::Client, Role::Gateway] {
        let states = sides.namespace(role).ip("xfrm state")?;
        ensure!(
            states.matches("proto esp").count() == 2,
            "{role:?}: {states}"
        );
    }
    swan.swanctl(&format!("--terminate --ike {NAME} --timeout 10"))?;
    sides.is_clean(&site, &swan)
}
