//! A Child SA that may carry so many packets and no more: new keys come in time, and none of the traffic is
//! lost over it.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::tunnel::{BRANCH, OFFICE, REAL, client_connection, gateway_connection, two_sites};
use crate::{
    capture::{Capture, Tally},
    site::{Setting, Site},
    stream::Stream,
    suite::{Case, Lab},
    until::until,
};

/// On a kernel with ESP.
pub const LIMITED: Case = Case {
    name: "traffic_beyond_a_limit_of_packets_gets_new_keys_and_loses_nothing",
    run: limited,
};

/// Each Child SA may carry so many; the client asks for new keys after 80 to 90 % of that.
const PACKETS: u32 = 1000;
const BYTES: u32 = 5_000_000;
const RATE: u32 = 400;
const PATIENCE: Duration = Duration::from_secs(20);

fn limited(lab: &mut Lab) -> Result<()> {
    let (client_ns, gateway_ns) = two_sites()?;
    let mut gateway = Site::prepare(lab, &gateway_ns, REAL, &gateway_connection())?;
    let own = Setting { node: 2, ..REAL };
    let connection = client_connection()
        + &format!(
            "rekey_packets = {PACKETS}\nlife_packets = {}\nrekey_bytes = {BYTES}\n",
            4 * PACKETS
        );
    let mut client = Site::prepare(lab, &client_ns, own, &connection)?;
    gateway.start(lab)?;
    client.start(lab)?;
    let captures = [Capture::start(&client_ns)?, Capture::start(&gateway_ns)?];
    client.ikectl("up home")?;

    let states = client_ns.ip("-s xfrm state")?;
    let soft = |unit: &str| {
        let shown = states.lines().find(|line| line.contains(unit));
        let number = shown.and_then(|line| line.split("soft ").nth(1)?.split('(').next());
        number.and_then(|number| number.parse::<u32>().ok())
    };
    for (unit, limit, end) in [
        ("(packets), hard", PACKETS, 4 * PACKETS),
        ("(bytes), hard", BYTES, BYTES / 10 * 11),
    ] {
        let wanted = limit / 10 * 8..=limit / 10 * 9;
        ensure!(
            soft(unit).is_some_and(|soft| wanted.contains(&soft)),
            "{states}"
        );
        ensure!(states.contains(&format!("hard {end}(")), "{states}");
    }

    let mut spis = vec![spi_out(&client)?];
    let stream = Stream::start((&client_ns, BRANCH), (&gateway_ns, OFFICE), RATE)?;
    let changed = until("keys have changed twice", PATIENCE, || {
        let now = spi_out(&client)?;
        if !spis.contains(&now) {
            spis.push(now);
        }
        Ok(spis.len() > 2)
    });
    let flow = stream.stop()?;
    changed?;
    ensure!(flow.lost == 0 && flow.doubled == 0, "{flow:?}");
    ensure!(flow.sent > PACKETS / 10 * 8 * 2, "too early: {flow:?}");
    ensure!(flow.sent < 4 * PACKETS, "too late: {flow:?}");
    let mut tally = Tally::default();
    for capture in captures {
        tally.add_sent(&capture.stop()?);
    }
    ensure!(tally.clear == 0, "clear text on the wire: {tally:?}");
    ensure!(tally.esp >= u64::from(flow.sent), "{tally:?} {flow:?}");
    Ok(())
}

fn spi_out(client: &Site<'_>) -> Result<String> {
    Ok(client.established()?["children"][0]["spi_out"].to_string())
}
