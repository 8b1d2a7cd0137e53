//! A new login beside the SA that stands, before its authentication ends (RFC 7296, 2.8.3; RFC 4478).

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{
    super::{
        PATIENCE,
        bout::Bout,
        terms::{Foreign, PLAIN, Role, Terms},
    },
    Case, Lack,
};
use crate::until::until;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "authenticated anew by Rekindle",
        terms: Terms {
            ours: "reauth_time = \"60s\"",
            ..PLAIN
        },
        plot: anew,
        lacks: &[Lack {
            foreign: None,
            role: Some(Role::Responder),
            why: "the original initiator alone can",
        }],
    },
    Case {
        name: "authenticated anew by the peer",
        terms: Terms {
            ours: "reauth_time = \"60s\"",
            swan: "reauth_time = 20s\nover_time = 10s\nrand_time = 0s",
            swan_daemon: "make_before_break = yes",
            ..PLAIN
        },
        plot: anew,
        lacks: &[
            Lack {
                foreign: None,
                role: Some(Role::Initiator),
                why: "the original initiator alone can",
            },
            Lack {
                foreign: Some(Foreign::Libreswan),
                role: None,
                why: "libreswan: heeds no AUTH_LIFETIME, and its case is kept from new keys",
            },
        ],
    },
];

/// Whether there is another IKE SA with another Child SA, and the first has gone.
fn anew(bout: &mut Bout<'_>) -> Result<()> {
    bout.come_up()?;
    let [ike, child] = bout.spis()?;
    until("the client logs in anew", LIFETIME, || {
        Ok(bout.spis().is_ok_and(|[now, _]| now != ike))
    })?;
    until("the old states are gone at both ends", PATIENCE, || {
        let counted = bout.ground.counted()?;
        Ok(counted.iter().all(|states| states.len() == 2))
    })?;
    let [_, now] = bout.spis()?;
    ensure!(now != child, "the Child SA is another: {}", bout.sa()?);
    bout.ground.ping(&bout.terms)?;
    bout.carries()?;
    bout.goodbye()
}

/// Of the authentication.
const LIFETIME: Duration = Duration::from_mins(1);
