//! A link that goes down and comes back: the kernel has dropped the routes that led over it, and what is to go
//! through the tunnel goes through it again all the same.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{
    leases::{INNER4, INNER6, client_connection, gateway_connection, ping_both, remote_site},
    tunnel::REAL,
};
use crate::{
    capture::{Capture, Tally},
    netns::Namespace,
    site::{Setting, Site},
    suite::{Case, Lab},
    until::until,
};

/// On a kernel with ESP.
pub const OUTAGE: Case = Case {
    name: "routes_to_the_tunnel_come_back_with_the_link_that_took_them",
    run: outage,
};

const PATIENCE: Duration = Duration::from_secs(10);

fn outage(lab: &mut Lab) -> Result<()> {
    let (client_ns, gateway_ns) = remote_site()?;
    let mut gateway = Site::prepare(lab, &gateway_ns, REAL, &gateway_connection())?;
    let own = Setting { node: 2, ..REAL };
    let mut client = Site::prepare(lab, &client_ns, own, &client_connection())?;
    gateway.start(lab)?;
    client.start(lab)?;
    let captures = [Capture::start(&client_ns)?, Capture::start(&gateway_ns)?];
    client.ikectl("up home")?;
    ping_both(&client_ns)?;
    let first = client.established()?;
    let before = routes(&client_ns);
    for source in [INNER4, INNER6] {
        ensure!(before.contains(source), "{before}");
    }

    client_ns.ip("link set eth0 down")?;
    let without = routes(&client_ns);
    ensure!(!without.contains(INNER4), "{without}");
    client_ns.ip("link set eth0 up")?;
    until(&before, PATIENCE, || Ok(routes(&client_ns) == before))?;
    ping_both(&client_ns)?;
    let now = client.established()?;
    ensure!(now["spi_i"] == first["spi_i"], "another SA: {now}");

    let mut tally = Tally::default();
    for capture in captures {
        tally.add_sent(&capture.stop()?);
    }
    ensure!(tally.clear == 0 && tally.esp == 16, "{tally:?}");
    client.ikectl("down home")?;
    let gone = routes(&client_ns);
    ensure!(gone.is_empty(), "{gone}");
    client.stop()?;
    gateway.stop()
}

/// Those of both families that lead into the tunnel.
fn routes(client: &Namespace) -> String {
    let of = |family: &str| {
        // Without any there is no table.
        let shown = client.ip(&format!("{family} route show table 5723"));
        shown.unwrap_or_default().trim().to_owned()
    };
    [of("-4"), of("-6")].concat()
}
