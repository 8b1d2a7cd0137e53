//! A gateway that is a router too: what is for one of its addresses is judged, wherever that is,
//! and what only passes through is not.

use std::{
    net::UdpSocket,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Result, anyhow, ensure};
use gate_abi::frames::Message;

use super::tunnel::gateway_connection;
use crate::{
    netns::{Namespace, connect},
    site::{Setting, Site},
    suite::{Case, Lab},
};

/// On any kernel.
pub const SERVICE: Case = Case {
    name: "ike_to_an_address_on_the_loopback_device_is_judged_too",
    run: service,
};
/// On any kernel.
pub const THROUGH: Case = Case {
    name: "ike_through_a_gateway_passes_while_its_daemon_starts",
    run: through,
};

/// A service of the gateway's, on its loopback device.
const ON_LOOPBACK: &str = "203.0.113.5:500";
/// On the cable.
const ON_CABLE: &str = "192.0.2.1:500";
/// Behind the gateway, which only passes it on.
const BEHIND: &str = "198.51.100.2:500";
const STEP: Duration = Duration::from_micros(200);
const SETTING: Setting<'static> = Setting {
    gate: "native",
    dataplane: "none",
    node: 1,
};

fn service(lab: &mut Lab) -> Result<()> {
    let [outside, gateway_ns] = sites()?;
    let mut gateway = Site::prepare(lab, &gateway_ns, SETTING, &gateway_connection())?;
    gateway.start(lab)?;
    let socket = outside.within(|| UdpSocket::bind("0.0.0.0:0"))??;
    for _ in 0..10 {
        socket.send_to(&foreign(), ON_LOOPBACK)?;
        socket.send_to(&foreign(), ON_CABLE)?;
    }
    let dropped = gateway.gate_count("foreign_spi")?;
    ensure!(dropped == 20, "{dropped} of 20 dropped");
    // Nothing comes to the service by its device.
    let stands = gateway.ikectl("gate")?["interfaces"].to_string();
    ensure!(
        stands.contains("eth0") && !stands.contains("\"lo\""),
        "{stands}"
    );
    gateway.stop()
}

/// Before the daemon starts, while it does, and while the next one does.
fn through(lab: &mut Lab) -> Result<()> {
    let [outside, gateway_ns] = sites()?;
    let far = Namespace::new("far")?;
    connect(
        (&gateway_ns, "eth1", &["198.51.100.1/24"]),
        (&far, "eth0", &["198.51.100.2/24"]),
    )?;
    gateway_ns.set("ipv4/ip_forward", "1")?;
    let mut gateway = Site::prepare(lab, &gateway_ns, SETTING, &gateway_connection())?;
    let socket = outside.within(|| UdpSocket::bind("0.0.0.0:0"))??;
    let done = AtomicBool::new(false);
    thread::scope(|scope| -> Result<()> {
        let passing = scope.spawn(|| -> Result<()> {
            while !done.load(Ordering::Relaxed) {
                socket.send_to(&foreign(), BEHIND)?;
                thread::sleep(STEP);
            }
            Ok(())
        });
        let started = gateway.start(lab);
        let killed = started.and_then(|()| gateway.kill());
        let again = killed.and_then(|()| gateway.start(lab));
        done.store(true, Ordering::Relaxed);
        passing
            .join()
            .map_err(|_| anyhow!("the sender panicked"))??;
        again
    })?;
    let [passed, dropped] = [
        gateway.gate_count("not_local")?,
        gateway.gate_count("foreign_spi")?,
    ];
    ensure!(
        passed > 0 && dropped == 0,
        "{passed} passed, {dropped} dropped"
    );
    gateway.stop()
}

/// Somebody outside, and a gateway with a service on its loopback device.
fn sites() -> Result<[Namespace; 2]> {
    let (outside, gateway) = (Namespace::new("outside")?, Namespace::new("gateway")?);
    connect(
        (&outside, "eth0", &["192.0.2.10/24"]),
        (&gateway, "eth0", &["192.0.2.1/24"]),
    )?;
    gateway.ip("address add 203.0.113.5/32 dev lo")?;
    outside.ip("route add default via 192.0.2.1")?;
    Ok([outside, gateway])
}

/// Of an SA of others: its SPIs have no check of ours.
fn foreign() -> Vec<u8> {
    let message = Message {
        spi_r: 9,
        exchange: 37,
        message_id: 1,
        ..Message::sa_init()
    };
    message.octets()
}
