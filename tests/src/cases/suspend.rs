//! What outlives both processes of one side: a client's session on disk, and the gateway's records
//! behind tickets by reference.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, ensure};

use super::tunnel::{OFFICE, REAL, client_connection, gateway_connection, two_sites};
use crate::{
    netns::Namespace,
    ping::ping,
    site::{Setting, Site},
    suite::{Case, Lab},
};

/// The client's machine goes down, roughly and politely.
pub const ON_DISK: Case = Case {
    name: "a_session_on_disk_outlives_sigkill_and_a_stop_of_the_client",
    run: on_disk,
};

/// The gateway goes down with what its tickets name.
pub const BY_REFERENCE: Case = Case {
    name: "a_ticket_by_reference_outlives_sigkill_of_the_gateway",
    run: by_reference,
};

const PATIENCE: Duration = Duration::from_secs(5);
/// Where `client_connection` and `gateway_connection` take another setting.
const PLACE: &str = "dpd_delay = \"30s\"\n";

fn on_disk(lab: &mut Lab) -> Result<()> {
    let (client_ns, gateway_ns) = two_sites()?;
    let mut gateway = Site::prepare(lab, &gateway_ns, REAL, &gateway_connection())?;
    let own = Setting { node: 2, ..REAL };
    let connection = client_connection().replace(PLACE, &format!("{PLACE}suspend = \"disk\"\n"));
    let mut client = Site::prepare(lab, &client_ns, own, &connection)?;
    gateway.start(lab)?;
    client.start(lab)?;
    let up = client.ikectl("up home")?;
    ensure!(up["resumed"] == false, "{up}");

    let file = client.folder().join("state/sessions/home.session");
    for polite in [false, true] {
        client.ikectl("suspend home")?;
        let asleep = fs::read(&file).context("the session is on disk")?;
        if polite {
            client.stop()?;
        } else {
            client.kill()?;
        }
        client.start(lab)?;
        let all = client.ikectl("sa")?;
        ensure!(all[0]["state"] == "suspended", "{all}");
        ensure!(all[0]["held_in"] == "disk", "{all}");
        let left = all[0]["ticket"]["expires_in_seconds"].as_u64();
        ensure!(left.is_some_and(|left| left > 0), "{all}");
        // The block policy stands again; ping gives up at its EPERM.
        let refused = ping(&client_ns, OFFICE, 1, Duration::from_secs(1));
        ensure!(
            refused.map_or(0, |reply| reply.received) == 0,
            "not blocked"
        );
        resumed(&client, &client_ns)?;
        let awake = fs::read(&file).context("the next ticket's session is on disk")?;
        ensure!(asleep != awake, "the used session is still there");
    }
    client.ikectl("down home")?;
    ensure!(!file.exists(), "a log-out leaves no session");
    Ok(())
}

fn by_reference(lab: &mut Lab) -> Result<()> {
    let (client_ns, gateway_ns) = two_sites()?;
    let connection =
        gateway_connection().replace(PLACE, &format!("{PLACE}tickets = \"reference\"\n"));
    let mut gateway = Site::prepare(lab, &gateway_ns, REAL, &connection)?;
    let own = Setting { node: 2, ..REAL };
    let mut client = Site::prepare(lab, &client_ns, own, &client_connection())?;
    gateway.start(lab)?;
    client.start(lab)?;
    client.ikectl("up home")?;

    client.ikectl("suspend home")?;
    gateway.kill()?;
    gateway.start(lab)?;
    resumed(&client, &client_ns)?;

    // The same without the records: the ticket names nothing any more.
    client.ikectl("suspend home")?;
    gateway.kill()?;
    fs::remove_file(gateway.folder().join("state/references"))?;
    gateway.start(lab)?;
    let up = client.ikectl("up home")?;
    ensure!(up["resumed"] == false, "{up}");
    ensure!(
        ping(&client_ns, OFFICE, 3, PATIENCE)?.all(),
        "a full exchange"
    );
    Ok(())
}

fn resumed(client: &Site<'_>, namespace: &Namespace) -> Result<()> {
    let up = client.ikectl("up home")?;
    ensure!(up["resumed"] == true, "{up}");
    let reply = ping(namespace, OFFICE, 3, PATIENCE)?;
    ensure!(reply.all(), "through the resumed SA: {reply:?}");
    Ok(())
}
