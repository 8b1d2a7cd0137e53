//! What happens to SAs that stand: new keys, signs of life, deletion, a client that comes again.

use std::{thread, time::Duration};

use anyhow::{Result, ensure};
use ike::wire::header::Exchange;

use super::{
    super::{
        PATIENCE,
        bout::Bout,
        terms::{NAME, PLAIN, Role, Terms},
    },
    Case, USUAL,
};
use crate::{datagram::Datagram, until::until};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "IKE SA rekeyed by Rekindle",
        plot: we_rekey_ike,
        ..USUAL
    },
    Case {
        name: "IKE SA rekeyed by the peer",
        plot: they_rekey_ike,
        ..USUAL
    },
    Case {
        name: "Child SA rekeyed by Rekindle",
        terms: Terms {
            our_child: "life_time = \"60s\"",
            ..PLAIN
        },
        plot: we_rekey_child,
        ..USUAL
    },
    Case {
        name: "Child SA rekeyed by the peer",
        plot: they_rekey_child,
        ..USUAL
    },
    Case {
        name: "signs of life asked for by Rekindle",
        terms: Terms {
            ours: "dpd_delay = \"1s\"",
            ..PLAIN
        },
        plot: |bout| signs_of_life(bout, true),
        ..USUAL
    },
    Case {
        name: "signs of life asked for by the peer",
        terms: Terms {
            ours: "dpd_delay = 0",
            swan: "dpd_delay = 1s",
            libre: "dpddelay=1\ndpdtimeout=10\ndpdaction=clear",
            ..PLAIN
        },
        plot: |bout| signs_of_life(bout, false),
        ..USUAL
    },
    Case {
        name: "deleted by Rekindle",
        plot: |bout| {
            bout.come_up()?;
            bout.we_delete()
        },
        ..USUAL
    },
    Case {
        name: "deleted by the peer",
        plot: deleted_by_the_peer,
        ..USUAL
    },
    Case {
        name: "second login of a client that lost everything",
        terms: Terms {
            swan: "unique = replace",
            ..PLAIN
        },
        plot: second_login,
        ..USUAL
    },
];

fn we_rekey_ike(bout: &mut Bout<'_>) -> Result<()> {
    bout.come_up()?;
    let [ike, child] = bout.spis()?;
    bout.rekindle.ikectl(&format!("rekey {NAME}"))?;
    rekeyed(bout, &ike, &child)
}

fn they_rekey_ike(bout: &mut Bout<'_>) -> Result<()> {
    bout.come_up()?;
    let [ike, child] = bout.spis()?;
    bout.peer.rekey_ike()?;
    rekeyed(bout, &ike, &child)
}

/// Whether the IKE SA is another and the Child SA has moved over.
fn rekeyed(bout: &Bout<'_>, ike: &str, child: &str) -> Result<()> {
    until("the IKE SA has new keys", PATIENCE, || {
        Ok(bout.spis().is_ok_and(|[now, _]| now != ike))
    })?;
    let [_, now] = bout.spis()?;
    ensure!(now == child, "the Child SA has moved over: {}", bout.sa()?);
    bout.carries()?;
    bout.goodbye()
}

fn they_rekey_child(bout: &mut Bout<'_>) -> Result<()> {
    bout.come_up()?;
    let [ike, child] = bout.spis()?;
    bout.peer.rekey_child()?;
    child_rekeyed(bout, &ike, &child, PATIENCE)
}

fn we_rekey_child(bout: &mut Bout<'_>) -> Result<()> {
    bout.come_up()?;
    let [ike, child] = bout.spis()?;
    child_rekeyed(bout, &ike, &child, LIFETIME)
}

/// Whether the Child SA is another, the old one gone, and the IKE SA the same.
fn child_rekeyed(bout: &Bout<'_>, ike: &str, child: &str, within: Duration) -> Result<()> {
    until("the Child SA has new keys", within, || {
        Ok(bout.spis().is_ok_and(|[_, now]| now != child))
    })?;
    let [now, _] = bout.spis()?;
    ensure!(now == ike, "the IKE SA is the same: {}", bout.sa()?);
    until("the old states are gone at both ends", PATIENCE, || {
        let Bout { ground, .. } = bout;
        let states = ground.client.ip("xfrm state")? + &ground.gateway.ip("xfrm state")?;
        Ok(!states.contains(child))
    })?;
    bout.carries()?;
    bout.goodbye()
}

fn signs_of_life(bout: &mut Bout<'_>, we_ask: bool) -> Result<()> {
    bout.come_up()?;
    let watch = bout.ground.watch()?;
    thread::sleep(SILENCE);
    let traffic = watch.stop()?;
    let client_asks = we_ask == (bout.role == Role::Initiator);
    let (asking, answering) = if client_asks {
        (&traffic.client, &traffic.gateway)
    } else {
        (&traffic.gateway, &traffic.client)
    };
    let of = |sent: &[Datagram], response| {
        let wanted = Some((Exchange::Informational, response));
        sent.iter().filter(|one| one.kind() == wanted).count()
    };
    let (asked, answered) = (of(asking, false), of(answering, true));
    // The captures do not end at one moment, which may lie between a question and its answer.
    ensure!(
        asked > 0 && answered > 0 && asked.abs_diff(answered) <= 1,
        "asked {asked} times, answered {answered}"
    );
    bout.carries()?;
    bout.goodbye()
}

fn deleted_by_the_peer(bout: &mut Bout<'_>) -> Result<()> {
    bout.come_up()?;
    if bout.role == Role::Responder {
        return bout.they_delete();
    }
    let [first, _] = bout.spis()?;
    bout.peer.down()?;
    until("the deleted client calls again", PATIENCE, || {
        Ok(bout.spis().is_ok_and(|[now, _]| now != first))
    })?;
    bout.carries()?;
    bout.we_delete()
}

fn second_login(bout: &mut Bout<'_>) -> Result<()> {
    bout.come_up()?;
    bout.initiator_loses_all()?;
    bout.call()?;
    until("the gateway has let go of the first", PATIENCE, || {
        let states = bout.ground.gateway.ip("xfrm state")?;
        Ok(states.matches("proto esp").count() == 2)
    })?;
    bout.carries()?;
    if bout.role == Role::Responder {
        return bout.goodbye();
    }
    // A gateway may keep the first IKE SA, without its Child SA, until it asks for a sign of life.
    bout.rekindle.ikectl(&format!("down {NAME}"))?;
    until("no ESP state is left", PATIENCE, || bout.ground.is_bare())
}

/// Long enough for one question and its answer.
const SILENCE: Duration = Duration::from_millis(3500);
/// Of the Child SA, before which it is rekeyed.
const LIFETIME: Duration = Duration::from_mins(1);
