//! What both ends of a case agree on, in Rekindle's own words. Each daemon's dialect is made from it.

/// Which part Rekindle plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Rekindle calls, from the client's side.
    Initiator,
    /// Rekindle is called, as gateway.
    Responder,
}

impl Role {
    /// Both, in the order of the table.
    pub(super) const ALL: [Self; 2] = [Self::Initiator, Self::Responder];

    /// As in JSON.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Initiator => "initiator",
            Self::Responder => "responder",
        }
    }
}

/// The daemon at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foreign {
    /// strongSwan's charon.
    Strongswan,
    /// libreswan's pluto.
    Libreswan,
}

impl Foreign {
    /// Both, in the order of the table.
    pub(super) const ALL: [Self; 2] = [Self::Libreswan, Self::Strongswan];

    /// As in JSON.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Strongswan => "strongswan",
            Self::Libreswan => "libreswan",
        }
    }
}

/// How both ends prove who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Auth {
    /// One key for both.
    Psk,
    /// A certificate each, under one authority.
    Certificate {
        /// The key that signs IKE_AUTH.
        key: Key,
        /// Whether another authority stands between the certificates and the one that is trusted.
        intermediate: bool,
    },
    /// A key each, which the other end knows by itself.
    Bare(Key),
}

/// Kinds of keys in certificates, with the form of the foreign daemon's signature where there is a
/// choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    P256,
    P384,
    Ed25519,
    /// RSASSA-PSS.
    RsaPss,
    /// RSASSA-PKCS1-v1_5.
    RsaPkcs1,
    /// RSASSA-PKCS1-v1_5 from Rekindle, RSASSA-PSS from the other.
    RsaOurPkcs1,
}

/// How the two machines are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outer {
    /// One cable, IPv4.
    V4,
    /// One cable, IPv6.
    V6,
    /// IPv4, the client behind a router that masquerades.
    Nat,
}

/// The networks that the tunnel is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inner {
    /// One IPv4 network at each end.
    V4,
    /// One IPv6 network at each end.
    V6,
    /// One of each.
    Both,
    /// IPv4: the gateway's network, and an address that the client gets from the gateway's pool.
    Leased,
    /// Nothing behind the two machines, which protect what they have to say to each other.
    Hosts,
}

/// Whether the foreign daemon is who it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stranger {
    /// It is.
    No,
    /// It has another pre-shared key.
    OtherKey,
    /// Its certificate is of another authority.
    OtherAuthority,
    /// Its certificate names somebody else.
    OtherName,
}

/// Everything that is fixed before the daemons start.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a row of its own")]
pub(super) struct Terms {
    pub(super) auth: Auth,
    /// Identities of client and gateway, as Rekindle writes them.
    pub(super) ids: [&'static str; 2],
    /// IKE proposal as swanctl writes it; empty for what each daemon does by itself.
    pub(super) ike: &'static str,
    /// The gateway's, where it is another.
    pub(super) gateway_ike: Option<&'static str>,
    /// ESP proposal, likewise.
    pub(super) esp: &'static str,
    pub(super) outer: Outer,
    pub(super) inner: Inner,
    /// The name server inside that the gateway names with the addresses it leases, and the domain to ask
    /// it for.
    pub(super) split_dns: Option<&'static [&'static str; 2]>,
    pub(super) stranger: Stranger,
    /// Further lines of Rekindle's configuration, before its connections.
    pub(super) settings: &'static str,
    /// Further lines of Rekindle's connection, and of its child.
    pub(super) ours: &'static str,
    pub(super) our_child: &'static str,
    /// Further lines of strongSwan's connection, of its child, or of its daemon's section.
    pub(super) swan: &'static str,
    pub(super) swan_child: &'static str,
    pub(super) swan_daemon: &'static str,
    /// Further lines of libreswan's connection, or options of its command line.
    pub(super) libre: &'static str,
    pub(super) libre_daemon: &'static str,
    /// One side wants ESP in UDP without a NAT.
    pub(super) encap: bool,
    /// The client has no fixed address, and both know MOBIKE.
    pub(super) roams: bool,
    /// The network has another gateway: the second address of Rekindle's machine, or, where Rekindle is the
    /// client, Rekindle on a third machine.
    pub(super) two_gateways: bool,
    /// Whether each network has a Child SA of its own, `six` for the second one.
    pub(super) apart: bool,
    /// What of the traffic of client and gateway is meant, `udp/5000`, if not all.
    pub(super) parts: Option<&'static [&'static str; 2]>,
    /// What the foreign daemon thinks the gateway's network is, where the two ends differ.
    pub(super) their_office: Option<&'static str>,
}

/// A pre-shared key and one cable.
pub(super) const PLAIN: Terms = Terms {
    auth: Auth::Psk,
    ids: ["client.example", "gw.example"],
    ike: "",
    gateway_ike: None,
    esp: "",
    outer: Outer::V4,
    inner: Inner::V4,
    split_dns: None,
    stranger: Stranger::No,
    settings: "",
    ours: "",
    our_child: "",
    swan: "",
    swan_child: "",
    swan_daemon: "",
    libre: "",
    libre_daemon: "",
    encap: false,
    roams: false,
    two_gateways: false,
    apart: false,
    parts: None,
    their_office: None,
};

/// One end as both configurations need it.
#[derive(Clone, Debug)]
pub(super) struct End {
    pub(super) id: &'static str,
    pub(super) ike: &'static str,
    pub(super) address: &'static str,
    /// None where its own leased address is all.
    pub(super) networks: Vec<&'static str>,
    /// Protocol and port.
    pub(super) part: Option<&'static str>,
}

impl End {
    /// The networks as Rekindle and strongSwan write them.
    pub(super) fn selectors(&self) -> Vec<String> {
        let networks = self.networks.iter();
        let selector = |network: &&str| match self.part {
            Some(part) => format!("{network}[{part}]"),
            None => (*network).to_owned(),
        };
        networks.map(selector).collect()
    }
}

impl Terms {
    /// Client and gateway.
    pub(super) fn ends(&self) -> [End; 2] {
        let [client, gateway] = match self.outer {
            Outer::V4 => [CLIENT, GATEWAY],
            Outer::V6 => [CLIENT6, GATEWAY6],
            Outer::Nat => [HIDDEN, GATEWAY],
        };
        let networks = |host, v4, v6| match (self.inner, self.outer) {
            (Inner::V4 | Inner::Leased, _) => vec![v4],
            (Inner::V6, _) => vec![v6],
            (Inner::Both, _) => vec![v4, v6],
            (Inner::Hosts, Outer::V6) if host == CLIENT6 => vec!["2001:db8::10/128"],
            (Inner::Hosts, Outer::V6) => vec!["2001:db8::1/128"],
            (Inner::Hosts, _) if host == GATEWAY => vec!["192.0.2.1/32"],
            (Inner::Hosts, _) => vec!["192.0.2.10/32"],
        };
        let of_client = match self.inner {
            Inner::Leased => Vec::new(),
            _ => networks(client, "10.2.0.0/24", "2001:db8:2::/64"),
        };
        [
            End {
                id: self.ids[0],
                ike: self.ike,
                address: client,
                networks: of_client,
                part: self.parts.map(|[client, _]| *client),
            },
            End {
                id: self.ids[1],
                ike: self.gateway_ike.unwrap_or(self.ike),
                address: gateway,
                networks: networks(gateway, "10.1.0.0/24", "2001:db8:1::/64"),
                part: self.parts.map(|[_, gateway]| *gateway),
            },
        ]
    }

    /// Addresses inside to ping: in the client's network, then in the gateway's.
    pub(super) fn inside(&self) -> Vec<[&'static str; 2]> {
        let (v4, v6) = ([BRANCH, OFFICE], [BRANCH6, OFFICE6]);
        match self.inner {
            Inner::V4 | Inner::Leased => vec![v4],
            Inner::V6 => vec![v6],
            Inner::Both => vec![v4, v6],
            Inner::Hosts => match self.outer {
                Outer::V6 => vec![[CLIENT6, GATEWAY6]],
                Outer::V4 | Outer::Nat => vec![[CLIENT, GATEWAY]],
            },
        }
    }
}

/// The connection's name at both ends.
pub(super) const NAME: &str = "lab";
/// The second Child SA's, where each network has its own; libreswan's connection for it.
pub(super) const SECOND: &str = "six";
/// The right key, and a wrong one.
pub(super) const PSKS: [&str; 2] = ["correct horse battery", "not the same horse"];

pub(super) const GATEWAY: &str = "192.0.2.1";
/// The second gateway's address.
pub(super) const GATEWAY_TWO: &str = "192.0.2.3";
pub(super) const CLIENT: &str = "192.0.2.10";
/// Where a client that roams goes.
pub(super) const ELSEWHERE: &str = "192.0.2.20";
pub(super) const GATEWAY6: &str = "2001:db8::1";
pub(super) const CLIENT6: &str = "2001:db8::10";
/// The client's address behind NAT.
pub(super) const HIDDEN: &str = "10.0.0.2";
/// In the client's network; where addresses are leased, the first one.
pub(super) const BRANCH: &str = "10.2.0.1";
/// The gateway's pool, where there is one.
pub(super) const POOL: &str = "10.2.0.0/24";
/// A few of them, for those that count in ranges.
pub(super) const RANGE: &str = "10.2.0.1-10.2.0.9";
pub(super) const OFFICE: &str = "10.1.0.1";
pub(super) const BRANCH6: &str = "2001:db8:2::1";
pub(super) const OFFICE6: &str = "2001:db8:1::1";
