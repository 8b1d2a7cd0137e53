//! Mangled messages against running daemons: recorded from real exchanges, so that each has the
//! shape of something that is taken seriously, and sent by UDP like anybody could.

use std::{
    net::{SocketAddr, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use super::tunnel::{client_connection, gateway_connection, two_sites};
use crate::{
    capture::Capture,
    chance::Chance,
    datagram::{self, Datagram},
    mangle::variants,
    netns::Namespace,
    site::{Setting, Site},
    suite::{Case, Lab},
};

/// Between two Rekindles, without a gate in front.
pub const SURVIVES: Case = Case {
    name: "mangled_messages_leave_no_state_and_a_tunnel_that_stands_keeps_standing",
    run: survives,
};

/// A half-open SA lives for 30 s; bent first messages that are still right may leave some.
const FORGOTTEN_WITHIN: Duration = Duration::from_secs(40);
const READ_WITHIN: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(100);
/// Datagrams sent in one go, and the pause after them, so that none is lost in a queue.
const BURST: usize = 32;
const PAUSE: Duration = Duration::from_millis(2);
/// The same run after run.
const SEED: u64 = 5723;

fn survives(lab: &mut Lab) -> Result<()> {
    let (client_ns, gateway_ns) = two_sites()?;
    let setting = Setting {
        gate: "off",
        dataplane: "none",
        node: 1,
    };
    let mut gateway = Site::prepare(lab, &gateway_ns, setting, &gateway_connection())?;
    let own = Setting { node: 2, ..setting };
    let mut client = Site::prepare(lab, &client_ns, own, &client_connection())?;
    // In lanes most of them would come to the socket that nobody reads.
    gateway.without_objects()?;
    client.without_objects()?;
    gateway.start(lab)?;
    client.start(lab)?;

    // One exchange of each kind, and the handshake of the tunnel that is to stand.
    let captures = [Capture::start(&client_ns)?, Capture::start(&gateway_ns)?];
    client.ikectl("up home")?;
    client.ikectl("suspend home")?;
    let up = client.ikectl("up home")?;
    ensure!(up["resumed"] == true, "{up}");
    client.ikectl("down home")?;
    client.ikectl("up home")?;
    let mut recorded = Vec::new();
    for capture in captures {
        recorded.extend(datagram::sent(&capture.stop()?));
    }
    ensure!(recorded.len() == 14, "{} messages", recorded.len());
    let engines = [client.engine()?, gateway.engine()?];
    let standing = [client.established()?, gateway.established()?];

    let read = [read(&client_ns)?, read(&gateway_ns)?];
    let to_gateway = throw(&client_ns, &recorded, "192.0.2.1", [500, 4500])?;
    let to_client = throw(&gateway_ns, &recorded, "192.0.2.10", [500, 4500])?;
    let deadline = Instant::now() + READ_WITHIN;
    // Answers to them count too, so there may be more.
    while self::read(&client_ns)? < read[0] + to_client
        || self::read(&gateway_ns)? < read[1] + to_gateway
    {
        ensure!(Instant::now() < deadline, "not all of them were read");
        thread::sleep(POLL);
    }
    for site in [&client, &gateway] {
        let counters = site.ikectl("status")?["counters"].clone();
        for reason in ["bad_header", "bad_payloads", "unknown_spi", "stray"] {
            ensure!(
                counters[reason].as_u64().is_some_and(|count| count > 0),
                "{reason} of {counters}"
            );
        }
    }
    let left = gateway.ikectl("status")?["ike_sas_half_open"].clone();
    println!("      {to_gateway} to the gateway, {to_client} to the client; {left} half-open then");

    ensure!(
        engines == [client.engine()?, gateway.engine()?],
        "an engine died"
    );
    let deadline = Instant::now() + FORGOTTEN_WITHIN;
    for (site, before) in [&client, &gateway].into_iter().zip(&standing) {
        while site.ikectl("status")?["ike_sas_half_open"] != 0 {
            ensure!(Instant::now() < deadline, "half-open SAs stay");
            thread::sleep(POLL);
        }
        let all = site.ikectl("sa")?;
        ensure!(all.as_array().is_some_and(|all| all.len() == 1), "{all}");
        let now = site.established()?;
        for key in ["id", "spi_i", "spi_r"] {
            ensure!(now[key] == before[key], "{now}");
        }
    }
    // A DELETE that is answered shows that both ends' windows and keys are where they were.
    client.ikectl("down home")?;
    for site in [&client, &gateway] {
        let left = site.ikectl("sa")?;
        ensure!(left.as_array().is_some_and(Vec::is_empty), "{left}");
    }
    Ok(())
}

/// Sends what can be made of recorded messages to all `ports` of an address in turn, out of a
/// namespace, and returns how many datagrams that were.
pub fn throw(
    namespace: &Namespace,
    recorded: &[Datagram],
    to: &str,
    ports: [u16; 2],
) -> Result<u64> {
    let socket = namespace.within(|| UdpSocket::bind(("0.0.0.0", 0)))??;
    let mut chance = Chance::seeded(SEED);
    let mut thrown = 0_usize;
    for message in recorded {
        for variant in variants(&message.message, &mut chance) {
            let port = ports[thrown % ports.len()];
            let mut payload = Vec::new();
            if port == 4500 {
                payload.extend([0; 4]);
            }
            payload.extend(&variant);
            socket.send_to(&payload, SocketAddr::new(to.parse()?, port))?;
            thrown += 1;
            if thrown.is_multiple_of(BURST) {
                thread::sleep(PAUSE);
            }
        }
    }
    Ok(thrown as u64)
}

/// Datagrams that the UDP sockets of a namespace have been read of.
fn read(namespace: &Namespace) -> Result<u64> {
    namespace.udp_count("InDatagrams")
}
