//! COOKIE from the gate, live: clients that go along with it get in, by resumption and by login, and
//! the daemon takes the gate's cookies for its own; a flood raises the level by itself.

use std::{
    net::UdpSocket,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use gate_abi::ike::IKE_SA_INIT;

use super::tunnel::{client_connection, gateway_connection, two_sites};
use crate::{
    capture::{Capture, Frame},
    chance::Chance,
    netns::{Namespace, connect},
    packet::{Content, Packet},
    site::{Setting, Site},
    suite::{Case, Lab},
    until::until,
};

/// Over IPv4.
pub const COOKIE: Case = Case {
    name: "under_attack_a_client_logs_in_and_resumes_through_cookies_of_the_gate",
    run: over_ipv4,
};
/// Over IPv6.
pub const COOKIE_IPV6: Case = Case {
    name: "over_ipv6_a_client_resumes_through_a_cookie_of_the_gate",
    run: over_ipv6,
};
/// An operator chooses the level.
pub const SET: Case = Case {
    name: "an_operator_chooses_the_level_for_a_while",
    run: set,
};
/// The level follows the flood.
pub const LEVEL: Case = Case {
    name: "a_flood_of_first_messages_raises_the_level_and_a_client_still_gets_in",
    run: level,
};

const NATIVE: Setting<'static> = Setting {
    gate: "native",
    dataplane: "none",
    node: 1,
};
const ATTACK: &str = "[flood]\nmode = \"attack\"\n";
const PER_SECOND: u32 = 4000;
const FLOOD_FOR: Duration = Duration::from_secs(6);
/// Two samples, and what a busy machine adds.
const RAISED_WITHIN: Duration = Duration::from_secs(4);

fn over_ipv4(lab: &mut Lab) -> Result<()> {
    let (client_ns, gateway_ns) = two_sites()?;
    through_cookies(
        lab,
        [&client_ns, &gateway_ns],
        &client_connection(),
        &gateway_connection(),
    )
}

fn over_ipv6(lab: &mut Lab) -> Result<()> {
    let (client_ns, gateway_ns) = (Namespace::new("client")?, Namespace::new("gateway")?);
    connect(
        (&client_ns, "eth0", &["2001:db8::a/64"]),
        (&gateway_ns, "eth0", &["2001:db8::1/64"]),
    )?;
    let six = client_connection()
        .replace("192.0.2.10", "2001:db8::a")
        .replace("192.0.2.1", "2001:db8::1");
    through_cookies(lab, [&client_ns, &gateway_ns], &six, &gateway_connection())
}

fn through_cookies(
    lab: &Lab,
    [client_ns, gateway_ns]: [&Namespace; 2],
    client: &str,
    gateway: &str,
) -> Result<()> {
    let gateway = format!("{ATTACK}{gateway}");
    let mut gateway = Site::prepare(lab, gateway_ns, NATIVE, &gateway)?;
    // XDP_TX over veth needs a program at the other end, which is the client's own gate.
    let own = Setting { node: 2, ..NATIVE };
    let mut client = Site::prepare(lab, client_ns, own, client)?;
    gateway.start(lab)?;
    client.start(lab)?;

    let up = client.ikectl("up home")?;
    ensure!(up["resumed"] == false, "{up}");
    let count = |reason| gateway.gate_count(reason);
    ensure!(count("cookie_sa_init")? == 1, "{}", gateway.ikectl("gate")?);
    ensure!(count("sa_init_with_cookie")? == 1);
    client.ikectl("suspend home")?;
    let up = client.ikectl("up home")?;
    ensure!(up["resumed"] == true, "{up}");
    ensure!(count("cookie_resume")? == 1, "{}", gateway.ikectl("gate")?);
    ensure!(count("resume_with_cookie")? == 1);

    // At this level the daemon asks for cookies too, so it has verified those of the gate.
    let flood = gateway.ikectl("flood")?;
    ensure!(flood["cookies_sent"] == 0, "{flood}");
    ensure!(flood["cookies_wrong"] == 0, "{flood}");
    ensure!(flood["gate"]["level"] == "attack", "{flood}");
    ensure!(flood["gate"]["mode"] == "attack", "{flood}");
    Ok(())
}

fn set(lab: &mut Lab) -> Result<()> {
    let (client_ns, gateway_ns) = two_sites()?;
    let mut gateway = Site::prepare(lab, &gateway_ns, NATIVE, &gateway_connection())?;
    let own = Setting { node: 2, ..NATIVE };
    let mut client = Site::prepare(lab, &client_ns, own, &client_connection())?;
    gateway.start(lab)?;
    client.start(lab)?;
    let count = |reason| gateway.gate_count(reason);
    client.ikectl("up home")?;
    client.ikectl("down home")?;
    ensure!(count("cookie_sa_init")? == 0, "{}", gateway.ikectl("gate")?);

    gateway.ikectl("flood level attack --for 1h")?;
    let flood = gateway.ikectl("flood")?["gate"].clone();
    ensure!(
        flood["level"] == "attack" && flood["mode"] == "attack",
        "{flood}"
    );
    ensure!(flood["set_for_seconds"].as_u64() > Some(3500), "{flood}");
    client.ikectl("up home")?;
    client.ikectl("down home")?;
    ensure!(count("cookie_sa_init")? == 1, "{}", gateway.ikectl("gate")?);

    // Set anew, for so long only that it can be waited for.
    gateway.ikectl("flood level calm --for 1s")?;
    let flood = gateway.ikectl("flood")?["gate"].clone();
    ensure!(flood["level"] == "calm", "{flood}");
    until("the configuration counts again", RAISED_WITHIN, || {
        Ok(gateway.ikectl("flood")?["gate"]["mode"] == "auto")
    })?;
    client.ikectl("up home")?;
    ensure!(count("cookie_sa_init")? == 1, "{}", gateway.ikectl("gate")?);
    ensure!(gateway.ikectl("flood level 4").is_err());
    Ok(())
}

fn level(lab: &mut Lab) -> Result<()> {
    let (client_ns, gateway_ns) = two_sites()?;
    let mut gateway = Site::prepare(lab, &gateway_ns, NATIVE, &gateway_connection())?;
    let own = Setting { node: 2, ..NATIVE };
    let mut client = Site::prepare(lab, &client_ns, own, &client_connection())?;
    gateway.start(lab)?;
    client.start(lab)?;
    let capture = Capture::start(&client_ns)?;
    client.ikectl("up home")?;
    let request = first_message(&capture.stop()?)?;
    client.ikectl("down home")?;
    let flood = gateway.ikectl("flood")?;
    ensure!(flood["gate"]["level"] == "calm", "{flood}");

    let (sent, received) = thread::scope(|scope| -> Result<_> {
        let flood = scope.spawn(|| client_ns.within(|| send(&request)));
        let start = Instant::now();
        let raised = loop {
            let flood = gateway.ikectl("flood")?;
            if flood["gate"]["level"] == "attack" {
                break flood;
            }
            ensure!(start.elapsed() < RAISED_WITHIN, "{flood}");
            thread::sleep(Duration::from_millis(100));
        };
        let took = start.elapsed();
        let call = Instant::now();
        let up = client.ikectl("up home")?;
        ensure!(up["resumed"] == false, "{up}");
        println!(
            "      attack after {:.1} s: {}; a login meanwhile took {:.0} ms",
            took.as_secs_f64(),
            raised["gate"]["why"],
            call.elapsed().as_secs_f64() * 1e3
        );
        ensure!(!flood.is_finished(), "the flood was over before");
        flood
            .join()
            .map_err(|_| anyhow::anyhow!("the flood panicked"))??
    })?;
    let [passed, cookies] = [
        gateway.gate_count("sa_init")?,
        gateway.gate_count("cookie_sa_init")?,
    ];
    println!(
        "      {} sent, {passed} passed before, {cookies} answered with COOKIE; {} octets out, {} in",
        sent.0, received.1, sent.1
    );
    ensure!(cookies > u64::from(sent.0) / 2, "{cookies} cookies");
    ensure!(received.1 <= sent.1, "{received:?} for {sent:?}");
    ensure!(received.0 > 0, "no answer reached the sender");
    Ok(())
}

/// The UDP payload of the client's first IKE_SA_INIT.
fn first_message(frames: &[Frame]) -> Result<Vec<u8>> {
    let first = frames.iter().filter(|frame| frame.sent).find(|frame| {
        matches!(
            Packet::parse(&frame.octets).map(|packet| packet.content),
            Some(Content::Ike {
                exchange: IKE_SA_INIT,
                response: false,
                ..
            })
        )
    });
    let frame = first.context("no IKE_SA_INIT was captured")?;
    Ok(frame.octets.get(HEADERS..).context("a cut frame")?.to_vec())
}

/// Messages and octets.
type Traffic = (u32, u64);

/// Sends the request under a new SPIi each time, from one address that receives what comes back.
fn send(request: &[u8]) -> Result<(Traffic, Traffic)> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect("192.0.2.1:500")?;
    socket.set_nonblocking(true)?;
    let (mut sent, mut received) = ((0, 0), (0, 0));
    let mut chance = Chance::fresh();
    let mut message = request.to_vec();
    let mut buffer = [0; 2048];
    let start = Instant::now();
    while start.elapsed() < FLOOD_FOR {
        let due = start.elapsed().as_millis() as u32 * PER_SECOND / 1000;
        while sent.0 < due {
            chance.fill(&mut message[..SPI]);
            message[0] |= 1;
            // A full queue loses one; there are others.
            if let Ok(octets) = socket.send(&message) {
                sent.1 += octets as u64;
            }
            sent.0 += 1;
            while let Ok(octets) = socket.recv(&mut buffer) {
                received.0 += 1;
                received.1 += octets as u64;
            }
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok((sent, received))
}

const SPI: usize = 8;
/// Ethernet, IPv4, UDP.
const HEADERS: usize = 14 + 20 + 8;
