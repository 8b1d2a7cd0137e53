//! Going to another gateway (RFC 5685). Rekindle's machine has two addresses, and sends whoever calls the
//! one to the other. Where Rekindle is the client, the other gateway is Rekindle on a third machine.

use anyhow::{Result, ensure};
use ike::wire::notify::NotifyKind;

use super::{
    super::{
        PATIENCE,
        bout::Bout,
        terms::{Foreign, GATEWAY_TWO, PLAIN, Role, Terms},
    },
    Case, Lack, USUAL,
};
use crate::{datagram::Datagram, until::until};

const SWAN_GATEWAY: Lack = Lack {
    foreign: Some(Foreign::Strongswan),
    role: Some(Role::Initiator),
    why: "strongSwan: sends clients on by a plugin of one's own alone",
};
const CLIENTS_ONLY: &[Lack] = &[SWAN_GATEWAY];

/// What each client needs in order to follow.
const FOLLOWING: Terms = Terms {
    libre: "accept-redirect=yes",
    two_gateways: true,
    ..PLAIN
};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "redirected before anything is kept",
        terms: Terms {
            settings: "[redirect]\nto = \"192.0.2.3\"\n",
            ..FOLLOWING
        },
        plot: |bout| sent_on(bout, true),
        lacks: CLIENTS_ONLY,
    },
    Case {
        name: "redirected after the proof",
        terms: Terms {
            ours: "redirect_to = \"192.0.2.3\"",
            libre: "accept-redirect=yes\nsend-redirect=yes\nredirect-to=192.0.2.3",
            ..FOLLOWING
        },
        plot: |bout| sent_on(bout, false),
        lacks: &[
            SWAN_GATEWAY,
            Lack {
                foreign: Some(Foreign::Strongswan),
                role: Some(Role::Responder),
                why: "strongSwan: follows before the proof, and on an SA that stands",
            },
        ],
    },
    Case {
        name: "redirected while the SA stands",
        terms: FOLLOWING,
        plot: in_session,
        lacks: CLIENTS_ONLY,
    },
    Case {
        name: "redirection ignored",
        terms: Terms {
            settings: "[redirect]\nto = \"192.0.2.3\"\n",
            swan_daemon: "follow_redirects = no",
            libre: "accept-redirect=no\nsend-redirect=yes\nredirect-to=192.0.2.3",
            ours: "redirect = \"ignore\"",
            ..PLAIN
        },
        lacks: CLIENTS_ONLY,
        ..USUAL
    },
];

/// Whether the one SA is at the second gateway.
fn is_there(bout: &Bout<'_>) -> Result<bool> {
    let sa = bout.sa()?;
    let gateway = match bout.role {
        Role::Initiator => &sa["remote"],
        Role::Responder => &sa["local"],
    };
    Ok(gateway["addr"] == GATEWAY_TWO)
}

/// Waits until the client is there, and has left nothing behind.
fn arrives(bout: &Bout<'_>) -> Result<()> {
    until("the client is at the other address", PATIENCE, || {
        Ok(is_there(bout).unwrap_or(false))
    })?;
    if let Some(other) = &bout.other {
        bout.ground.client_has_moved();
        until("the first gateway has no SA", PATIENCE, || {
            bout.peer.is_idle()
        })?;
        let sa = other.established()?;
        ensure!(sa["remote"]["id"] == "client.example", "{sa}");
    }
    until("there is one Child SA at each end", PATIENCE, || {
        let counted = bout.ground.counted()?;
        Ok(counted.iter().all(|states| states.len() == 2))
    })
}

fn sent_on(bout: &mut Bout<'_>, in_clear: bool) -> Result<()> {
    let watch = bout.ground.watch()?;
    if in_clear && bout.role == Role::Initiator {
        bout.peer.redirect_callers(GATEWAY_TWO)?;
    }
    bout.call()?;
    arrives(bout)?;
    let traffic = watch.stop()?;
    let redirected = |one: &Datagram| one.notifies(NotifyKind::REDIRECT);
    ensure!(
        traffic.gateway.iter().any(redirected) == in_clear,
        "REDIRECT in clear, or not"
    );
    let from = |one: &Datagram| one.notifies(NotifyKind::REDIRECTED_FROM);
    ensure!(
        traffic.client.iter().any(from),
        "no word of who has sent it"
    );
    // Nothing has gone over the states yet.
    bout.ground.ping(&bout.terms)?;
    bout.carries()?;
    bout.goodbye()
}

fn in_session(bout: &mut Bout<'_>) -> Result<()> {
    bout.come_up()?;
    match bout.role {
        Role::Initiator => bout.peer.redirect_clients(GATEWAY_TWO)?,
        Role::Responder => {
            let order = format!("redirect {GATEWAY_TWO} --all");
            let told = bout.rekindle.ikectl(&order)?;
            ensure!(told["told"] == 1 && told["unable"] == 0, "{told}");
        }
    }
    arrives(bout)?;
    // Nothing has gone over the new states yet.
    bout.ground.ping(&bout.terms)?;
    bout.carries()?;
    bout.goodbye()
}
