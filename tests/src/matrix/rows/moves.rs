//! Clients that come to be at another address (RFC 4555), and take their SAs along; and those whose NAT has
//! another mapping for them, which only their ESP shows (RFC 7296, 2.23).

use anyhow::{Result, ensure};

use super::{
    super::{
        BRIEFLY, PATIENCE,
        bout::Bout,
        terms::{BRANCH, CLIENT, ELSEWHERE, Foreign, NAME, OFFICE, Outer, PLAIN, Role, Terms},
    },
    Case, Lack,
};
use crate::{ping::ping, until::until};

const ROAMING: Terms = Terms {
    roams: true,
    ..PLAIN
};

const ONLY_WITH_POOLS: &[Lack] = &[Lack {
    foreign: Some(Foreign::Libreswan),
    role: None,
    why: "libreswan: moves only clients with leased addresses, and only by XFRM_MSG_MIGRATE, which the lab's \
          kernel does not have",
}];

pub(super) const CASES: &[Case] = &[
    Case {
        name: "MOBIKE: the client moves to another address",
        terms: ROAMING,
        plot: |bout| moves(bout, 1),
        lacks: ONLY_WITH_POOLS,
    },
    Case {
        name: "MOBIKE: the client moves and comes back",
        terms: ROAMING,
        plot: |bout| moves(bout, 2),
        lacks: ONLY_WITH_POOLS,
    },
    Case {
        name: "MOBIKE: new keys after a move",
        terms: ROAMING,
        plot: rekeyed_elsewhere,
        lacks: ONLY_WITH_POOLS,
    },
    Case {
        name: "the client's NAT has another mapping for its ESP",
        terms: Terms {
            outer: Outer::Nat,
            ours: "mobike = false\ndpd_delay = \"0s\"\n",
            ..PLAIN
        },
        plot: rebound,
        lacks: &[Lack {
            foreign: Some(Foreign::Libreswan),
            role: Some(Role::Initiator),
            why: "libreswan: a gateway that follows a new mapping by IKE only",
        }],
    },
];

fn moves(bout: &mut Bout<'_>, times: usize) -> Result<()> {
    bout.come_up()?;
    let before = bout.spis()?;
    for (from, to) in [(CLIENT, ELSEWHERE), (ELSEWHERE, CLIENT)]
        .into_iter()
        .take(times)
    {
        bout.ground.readdress(from, to)?;
        arrived(bout, from, to)?;
        bout.carries()?;
    }
    ensure!(
        bout.spis()? == before,
        "the SAs are the same: {}",
        bout.sa()?
    );
    bout.goodbye()
}

fn rekeyed_elsewhere(bout: &mut Bout<'_>) -> Result<()> {
    bout.come_up()?;
    bout.ground.readdress(CLIENT, ELSEWHERE)?;
    arrived(bout, CLIENT, ELSEWHERE)?;
    let [ike, child] = bout.spis()?;
    match bout.role {
        Role::Initiator => drop(bout.rekindle.ikectl(&format!("rekey {NAME}"))?),
        Role::Responder => bout.peer.rekey_child()?,
    }
    until("new keys", PATIENCE, || {
        Ok(bout
            .spis()
            .is_ok_and(|[now, and]| now != ike || and != child))
    })?;
    bout.carries()?;
    bout.goodbye()
}

fn rebound(bout: &mut Bout<'_>) -> Result<()> {
    bout.come_up()?;
    let before = bout.spis()?;
    bout.ground.rebind()?;
    let unheard = ping(&bout.ground.gateway, BRANCH, 1, BRIEFLY)?;
    ensure!(unheard.received == 0, "the old mapping stands");
    let watch = bout.ground.watch()?;
    until(
        "ESP shows the gateway where its client is",
        PATIENCE,
        || Ok(ping(&bout.ground.client, OFFICE, 1, BRIEFLY)?.all()),
    )?;
    let traffic = watch.stop()?;
    let messages = traffic.client.len() + traffic.gateway.len();
    ensure!(messages == 0, "IKE helped: {messages} messages");
    bout.carries()?;
    ensure!(bout.spis()? == before, "the SAs are the same");
    // IKE finds its way as well, by whoever begins.
    drop(bout.rekindle.ikectl(&format!("rekey {NAME}"))?);
    until("new keys", PATIENCE, || {
        Ok(bout.spis().is_ok_and(|[ike, _]| ike != before[0]))
    })?;
    bout.carries()?;
    bout.goodbye()
}

/// Both kernels have the SA at the new address, and none at the old one.
fn arrived(bout: &Bout<'_>, from: &str, to: &str) -> Result<()> {
    until("both kernels know the new address", PATIENCE, || {
        let mut all = true;
        for namespace in [&bout.ground.client, &bout.ground.gateway] {
            let states = namespace.ip("xfrm state")?;
            let has = |address: &str| {
                states.contains(&format!("src {address} "))
                    && states.contains(&format!("dst {address}\n"))
            };
            all &= has(to) && !states.contains(&format!("src {from} "));
        }
        Ok(all)
    })
}
