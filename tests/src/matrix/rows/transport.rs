//! Transport mode: between the two hosts and for nothing behind them.

use anyhow::{Result, ensure};

use super::{
    super::{
        bout::Bout,
        terms::{Inner, NAME, Outer, PLAIN, Terms},
    },
    Case, USUAL,
};

const HOSTS: Terms = Terms {
    inner: Inner::Hosts,
    our_child: "mode = \"transport\"\n",
    swan_child: "mode = transport",
    libre: "type=transport",
    ..PLAIN
};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "transport mode",
        terms: HOSTS,
        plot: |bout| comes_up_in(bout, "transport"),
        ..USUAL
    },
    Case {
        name: "transport mode, IPv6",
        terms: Terms {
            outer: Outer::V6,
            ..HOSTS
        },
        plot: |bout| comes_up_in(bout, "transport"),
        ..USUAL
    },
    Case {
        name: "transport mode, rekeyed by Rekindle",
        terms: HOSTS,
        plot: rekeyed,
        ..USUAL
    },
    Case {
        name: "transport mode that the peer does not want",
        terms: Terms {
            swan_child: "",
            libre: "",
            ..HOSTS
        },
        plot: |bout| comes_up_in(bout, "tunnel"),
        ..USUAL
    },
];

fn comes_up_in(bout: &mut Bout<'_>, mode: &str) -> Result<()> {
    bout.come_up()?;
    is_in(bout, mode)?;
    bout.goodbye()
}

/// Both daemons say so, in the kernel.
fn is_in(bout: &Bout<'_>, mode: &str) -> Result<()> {
    let sa = bout.sa()?;
    ensure!(sa["children"][0]["mode"] == mode, "{sa}");
    for namespace in [&bout.ground.client, &bout.ground.gateway] {
        let states = namespace.ip("xfrm state list")?;
        let esp = states.matches("proto esp").count();
        let right = states.matches(&format!(" mode {mode}")).count();
        ensure!(esp >= 2 && right == esp, "{}: {states}", namespace.name());
    }
    Ok(())
}

fn rekeyed(bout: &mut Bout<'_>) -> Result<()> {
    bout.come_up()?;
    let [_, before] = bout.spis()?;
    bout.rekindle.ikectl(&format!("rekey --child net {NAME}"))?;
    let [_, after] = bout.spis()?;
    ensure!(before != after, "the same Child SA");
    is_in(bout, "transport")?;
    bout.carries()?;
    bout.goodbye()
}
