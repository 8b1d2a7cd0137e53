//! Address families, NAT and the networks that an SA is for.

use anyhow::{Result, ensure};

use super::{
    super::{
        bout::Bout,
        terms::{Auth, Foreign, Inner, Key, Outer, PLAIN, Terms},
    },
    Case, Lack, USUAL,
};

const ONE_NETWORK: &[Lack] = &[Lack {
    foreign: Some(Foreign::Libreswan),
    role: None,
    why: "libreswan: one network at each end of a Child SA",
}];

pub(super) const CASES: &[Case] = &[
    families("IPv6 in IPv4", Outer::V4, Inner::V6),
    families("IPv4 in IPv6", Outer::V6, Inner::V4),
    families("IPv6 in IPv6", Outer::V6, Inner::V6),
    Case {
        lacks: ONE_NETWORK,
        ..families("IPv4 and IPv6 in IPv4", Outer::V4, Inner::Both)
    },
    Case {
        lacks: ONE_NETWORK,
        ..families("IPv4 and IPv6 in IPv6", Outer::V6, Inner::Both)
    },
    Case {
        name: "client behind NAT",
        terms: Terms {
            outer: Outer::Nat,
            ..PLAIN
        },
        plot: behind_nat,
        ..USUAL
    },
    Case {
        name: "client behind NAT, with certificates",
        terms: Terms {
            outer: Outer::Nat,
            auth: Auth::Certificate {
                key: Key::P256,
                intermediate: false,
            },
            ..PLAIN
        },
        plot: behind_nat,
        ..USUAL
    },
    Case {
        name: "narrowing to the peer's smaller network",
        terms: Terms {
            their_office: Some("10.1.0.0/25"),
            libre: "narrowing=yes",
            ..PLAIN
        },
        plot: |bout| narrowed(bout, "10.1.0.0/25"),
        ..USUAL
    },
    Case {
        name: "narrowing to Rekindle's smaller network",
        terms: Terms {
            their_office: Some("10.1.0.0/16"),
            libre: "narrowing=yes",
            ..PLAIN
        },
        plot: |bout| narrowed(bout, "10.1.0.0/24"),
        ..USUAL
    },
];

const fn families(name: &'static str, outer: Outer, inner: Inner) -> Case {
    Case {
        name,
        terms: Terms {
            outer,
            inner,
            ..PLAIN
        },
        ..USUAL
    }
}

fn behind_nat(bout: &mut Bout<'_>) -> Result<()> {
    bout.come_up()?;
    let sa = bout.sa()?;
    ensure!(sa["children"][0]["encap"] == "udp", "{sa}");
    bout.goodbye()
}

fn narrowed(bout: &mut Bout<'_>, office: &str) -> Result<()> {
    bout.come_up()?;
    for namespace in [&bout.ground.client, &bout.ground.gateway] {
        let policies = namespace.ip("xfrm policy")?;
        ensure!(
            policies.contains(&format!("dst {office}")),
            "{}: {policies}",
            namespace.name()
        );
    }
    bout.goodbye()
}
