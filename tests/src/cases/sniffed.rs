//! ESP packets with a live SPI off the wire and a tag that is wrong (attack 17): the kernel drops each, and
//! neither the tunnel nor the daemon notices.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::AsRawFd as _,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket,
};
use serde_json::Value;

use super::tunnel::{CLIENT, OFFICE, REAL, client_connection, gateway_connection, two_sites};
use crate::{
    netns::Namespace,
    ping::ping,
    site::{Setting, Site},
    suite::{Case, Lab},
};

/// On a kernel with ESP.
pub const ESP: Case = Case {
    name: "esp_with_a_live_spi_and_a_wrong_tag_changes_nothing",
    run: sniffed,
};

const GATEWAY: &str = "192.0.2.1";
const FORGERIES: u32 = 1000;
const PATIENCE: Duration = Duration::from_secs(5);
const PROTOCOL_ESP: u8 = 50;
/// IPv4 header, then SPI and sequence number.
const ESP_AT: usize = 20;

fn sniffed(lab: &mut Lab) -> Result<()> {
    let (client_ns, gateway_ns) = two_sites()?;
    let mut gateway = Site::prepare(lab, &gateway_ns, REAL, &gateway_connection())?;
    let own = Setting { node: 2, ..REAL };
    let mut client = Site::prepare(lab, &client_ns, own, &client_connection())?;
    gateway.start(lab)?;
    client.start(lab)?;
    client.ikectl("up home")?;
    let reply = ping(&client_ns, OFFICE, 3, PATIENCE)?;
    ensure!(reply.all(), "before: {reply:?}");

    let child = |sa: &Value| {
        let mut child = sa["children"][0].clone();
        if let Some(told) = child.as_object_mut() {
            // How long something still takes is another time each time.
            told.retain(|key, _| !key.ends_with("_in_seconds"));
        }
        child
    };
    let before = gateway.established()?;
    let counters = gateway.ikectl("status")?["counters"].clone();
    let dropped = tag_errors(&gateway_ns)?;
    let spi = child(&before)["spi_in"]
        .as_str()
        .context("an SPI")?
        .to_owned();
    let spi = u32::from_str_radix(&spi, 16)?;
    client_ns.within(|| forge(spi))??;

    let more = tag_errors(&gateway_ns)? - dropped;
    ensure!(more == u64::from(FORGERIES), "{more} dropped for their tag");
    let after = gateway.established()?;
    ensure!(child(&after) == child(&before), "{after}\nwas {before}");
    let now = gateway.ikectl("status")?["counters"].clone();
    ensure!(now == counters, "the daemon saw some: {now}");
    // Their sequence numbers were beyond any that the client has used.
    let reply = ping(&client_ns, OFFICE, 3, PATIENCE)?;
    ensure!(reply.all(), "after: {reply:?}");
    let told = gateway.ikectl("why")?;
    ensure!(told.as_array().is_some_and(Vec::is_empty), "{told}");
    Ok(())
}

/// Packets that the kernel has dropped for their tag, over all states.
fn tag_errors(namespace: &Namespace) -> Result<u64> {
    let text = namespace.ip("-s xfrm state")?;
    let words: Vec<_> = text.split_whitespace().collect();
    let mut errors = 0;
    for pair in words.windows(2) {
        if let ["failed", count] = pair {
            errors += count.parse::<u64>().context("a number")?;
        }
    }
    Ok(errors)
}

/// Packets as the client would send them, but for what they hold.
fn forge(spi: u32) -> Result<()> {
    let raw = socket(
        AddressFamily::Inet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::Raw,
    )?;
    let (from, to): (Ipv4Addr, Ipv4Addr) = (CLIENT.parse()?, GATEWAY.parse()?);
    let mut packet = vec![0x5a; ESP_AT + 8 + 8 + 84 + 16];
    packet[..ESP_AT].fill(0);
    // Version, header length, lifetime; the kernel fills in length and checksum.
    (packet[0], packet[8], packet[9]) = (0x45, 64, PROTOCOL_ESP);
    packet[12..16].copy_from_slice(&from.octets());
    packet[16..20].copy_from_slice(&to.octets());
    packet[ESP_AT..ESP_AT + 4].copy_from_slice(&spi.to_be_bytes());
    let address = SockaddrIn::from(SocketAddrV4::new(to, 0));
    for sequence in 0..FORGERIES {
        let sequence = (1_000_000 + sequence).to_be_bytes();
        packet[ESP_AT + 4..ESP_AT + 8].copy_from_slice(&sequence);
        sendto(raw.as_raw_fd(), &packet, &address, MsgFlags::empty())?;
    }
    Ok(())
}
