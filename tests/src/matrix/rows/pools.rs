//! Inner addresses from a pool.

use anyhow::{Result, ensure};

use super::{
    super::{
        bout::Bout,
        terms::{BRANCH, Foreign, Inner, Outer, PLAIN, Role, Terms},
    },
    Case, Lack, USUAL,
};

const LEASED: Terms = Terms {
    inner: Inner::Leased,
    ..PLAIN
};

/// A name server in the gateway's network, and what it is to be asked for.
const SPLIT_DNS: [&str; 2] = ["10.1.0.53", "corp.example"];

pub(super) const CASES: &[Case] = &[
    Case {
        name: "address pool",
        terms: LEASED,
        plot: leased,
        ..USUAL
    },
    Case {
        name: "address pool, through NAT",
        terms: Terms {
            outer: Outer::Nat,
            ..LEASED
        },
        plot: leased,
        ..USUAL
    },
    Case {
        name: "address pool, the same address again",
        terms: LEASED,
        plot: the_same_again,
        ..USUAL
    },
    Case {
        name: "address pool, split DNS",
        terms: Terms {
            split_dns: Some(&SPLIT_DNS),
            ..LEASED
        },
        plot: with_names,
        lacks: &[Lack {
            foreign: Some(Foreign::Strongswan),
            role: Some(Role::Responder),
            why: "strongSwan: asks for no domains",
        }],
    },
];

fn leased(bout: &mut Bout<'_>) -> Result<()> {
    comes_up(bout)?;
    bout.goodbye()
}

/// The client's side is its leased address and nothing else.
fn comes_up(bout: &Bout<'_>) -> Result<()> {
    if bout.role == Role::Responder && bout.foreign == Foreign::Libreswan {
        // What its script would do, which does not run here.
        bout.ground
            .client
            .ip(&format!("address replace {BRANCH} dev lo"))?;
        bout.ground
            .client
            .ip(&format!("route change 10.1.0.0/24 dev eth0 src {BRANCH}"))?;
    }
    bout.come_up()?;
    let sa = bout.sa()?;
    let (whose, side) = match bout.role {
        Role::Initiator => ("local", "local_ts"),
        Role::Responder => ("remote", "remote_ts"),
    };
    ensure!(sa[whose]["vips"][0] == BRANCH, "{sa}");
    ensure!(sa["children"][0][side][0] == format!("{BRANCH}/32"), "{sa}");
    Ok(())
}

/// The client hears of the name server, and what to ask it for.
fn with_names(bout: &mut Bout<'_>) -> Result<()> {
    comes_up(bout)?;
    match bout.role {
        Role::Initiator => {
            let sa = bout.sa()?;
            let told = [&sa["dns"][0], &sa["domains"][0]];
            ensure!(told == SPLIT_DNS, "{sa}");
        }
        Role::Responder => {
            let log = bout.peer.log()?;
            ensure!(SPLIT_DNS.iter().all(|name| log.contains(name)), "{log}");
        }
    }
    bout.goodbye()
}

/// The gateway knows the client by its identity.
fn the_same_again(bout: &mut Bout<'_>) -> Result<()> {
    for _ in 0..2 {
        comes_up(bout)?;
        bout.goodbye()?;
    }
    Ok(())
}
