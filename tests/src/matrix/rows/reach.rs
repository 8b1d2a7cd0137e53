//! Address families, NAT and the networks that an SA is for.

use anyhow::{Result, ensure};
use ike::wire::{
    header::{Exchange, Header},
    payload::PayloadKind,
};

use super::{
    super::{
        bout::Bout,
        terms::{Auth, Foreign, Inner, Key, Outer, PLAIN, Role, Terms},
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
        name: "ESP in UDP without a NAT, as Rekindle wants it",
        terms: Terms {
            ours: "encap = true\n",
            encap: true,
            ..PLAIN
        },
        plot: behind_nat,
        ..USUAL
    },
    Case {
        name: "ESP in UDP without a NAT, as the peer wants it",
        terms: Terms {
            swan: "encap = yes",
            libre: "encapsulation=yes",
            encap: true,
            ..PLAIN
        },
        plot: behind_nat,
        ..USUAL
    },
    Case {
        name: "IKE fragmentation",
        terms: Terms {
            auth: Auth::Certificate {
                key: Key::RsaPss,
                intermediate: true,
            },
            ours: "fragment_size = 576\n",
            swan: "fragmentation = yes",
            swan_daemon: "fragment_size = 576",
            libre: "fragmentation=yes",
            ..PLAIN
        },
        plot: in_fragments,
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
    Case {
        name: "a range of addresses that is no network",
        terms: Terms {
            their_office: Some("10.1.0.1-10.1.0.6"),
            ..PLAIN
        },
        plot: ranged,
        lacks: &[Lack {
            foreign: Some(Foreign::Libreswan),
            role: None,
            why: "libreswan: leftsubnet and rightsubnet take networks only",
        }],
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

/// Both cut their IKE_AUTH, whose two certificates fit into no small datagram (RFC 7383).
fn in_fragments(bout: &mut Bout<'_>) -> Result<()> {
    let traffic = bout.come_up()?;
    for (who, sent) in [("client", &traffic.client), ("gateway", &traffic.gateway)] {
        let auth = sent
            .iter()
            .filter(|one| matches!(one.kind(), Some((Exchange::IkeAuth, _))));
        let mut pieces = 0;
        for one in auth {
            let (header, _) = Header::parse(&one.message)?;
            ensure!(header.next == PayloadKind::SKF, "{who}: {:?}", header.next);
            pieces += 1;
        }
        ensure!(pieces >= 2, "{who}: IKE_AUTH in {pieces} datagrams");
    }
    bout.goodbye()
}

/// Our kernel, which knows networks only, has those that make up the range.
fn ranged(bout: &mut Bout<'_>) -> Result<()> {
    bout.come_up()?;
    let ours = match bout.role {
        Role::Initiator => &bout.ground.client,
        Role::Responder => &bout.ground.gateway,
    };
    let policies = ours.ip("xfrm policy")?;
    for network in ["10.1.0.1/32", "10.1.0.2/31", "10.1.0.4/31", "10.1.0.6/32"] {
        ensure!(policies.contains(&format!(" {network} ")), "{policies}");
    }
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
