//! What a first message may meet before it is answered.

use std::{net::UdpSocket, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use ike::wire::notify::NotifyKind;

use super::{
    super::{
        bout::Bout,
        ground::Traffic,
        terms::{Foreign, GATEWAY, PLAIN, Role, Terms},
    },
    Case, USUAL,
};
use crate::datagram::Datagram;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "cookie",
        terms: Terms {
            settings: "[flood]\nmode = \"attack\"\n",
            swan_daemon: "cookie_threshold = 1",
            libre_daemon: "--force-busy",
            ..PLAIN
        },
        plot: cookie,
        ..USUAL
    },
    Case {
        name: "INVALID_KE_PAYLOAD",
        terms: Terms {
            ike: "aes256gcm16-prfsha256-x25519-ecp256",
            gateway_ike: Some("aes256gcm16-prfsha256-ecp256"),
            ..PLAIN
        },
        plot: other_group,
        ..USUAL
    },
];

fn other_group(bout: &mut Bout<'_>) -> Result<()> {
    let traffic = bout.come_up()?;
    let told = |one: &Datagram| one.notifies(NotifyKind::INVALID_KE_PAYLOAD);
    ensure!(traffic.gateway.iter().any(told), "no word of the group");
    bout.goodbye()
}

fn cookie(bout: &mut Bout<'_>) -> Result<()> {
    if (bout.foreign, bout.role) == (Foreign::Strongswan, Role::Initiator) {
        // One half-open SA of a stranger, and everybody needs a cookie.
        let first = bout.come_up()?;
        bout.goodbye()?;
        stranger(bout, &first)?;
    }
    let traffic = bout.come_up()?;
    let has_cookie = |one: &Datagram| one.notifies(NotifyKind::COOKIE);
    ensure!(
        traffic.gateway.iter().any(has_cookie),
        "no cookie asked for"
    );
    ensure!(traffic.client.iter().any(has_cookie), "no cookie brought");
    if bout.foreign == Foreign::Libreswan || bout.role == Role::Responder {
        return bout.goodbye();
    }
    // The stranger's half-open SA stays a while.
    bout.rekindle
        .ikectl(&format!("down {}", super::super::terms::NAME))
        .map(drop)
}

/// Sends the recorded first message again, under another SPI.
fn stranger(bout: &Bout<'_>, recorded: &Traffic) -> Result<()> {
    let mut message = recorded
        .client
        .first()
        .context("a first message")?
        .message
        .clone();
    let spi = message.first_chunk_mut::<8>().context("a header")?;
    *spi = [0x5a; 8];
    let socket = bout
        .ground
        .client
        .within(|| UdpSocket::bind(("0.0.0.0", 0)))??;
    socket.send_to(&message, (GATEWAY, 500))?;
    thread::sleep(Duration::from_millis(500));
    Ok(())
}
