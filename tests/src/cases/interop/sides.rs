//! A client and a gateway, each with a network behind it; either may be Rekindle, the other is
//! strongSwan.

use std::{rc::Rc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use ike::wire::header::Exchange;

use super::super::tunnel::{REAL, two_sites};
use crate::{
    capture::{Capture, Tally},
    datagram::{self, Datagram},
    netns::{Namespace, connect},
    peer::Strongswan,
    ping::ping,
    pki::{Authority, CA, KeyKind, OWN},
    site::{Setting, Site},
    suite::Lab,
    until::until,
};

/// Which end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Calls.
    Client,
    /// Is called.
    Gateway,
}

/// How both ends prove who they are.
#[derive(Clone, Copy, Debug)]
pub(super) enum Auth {
    /// One key for both.
    Psk,
    /// ECDSA on P-256 under one authority.
    Certificate,
}

/// The two machines, and what is the same whoever runs on them.
pub(super) struct Sides {
    client: Namespace,
    gateway: Namespace,
    /// Between them, hiding the client.
    router: Option<Namespace>,
    auth: Auth,
    /// Rekindle's key and issuer, then strongSwan's; the same unless that is to be a stranger.
    psks: [&'static str; 2],
    authorities: [Rc<Authority>; 2],
}

/// What has gone over the wire.
pub(super) struct Traffic {
    pub(super) tally: Tally,
    /// What the client sent of IKE, then what the gateway sent. Retransmissions, bit for bit the same
    /// as they are, count once: a busy machine sees some.
    pub(super) client: Vec<Datagram>,
    pub(super) gateway: Vec<Datagram>,
}

/// Captures at both ends.
pub(super) struct Watch([Capture; 2]);

impl Sides {
    pub(super) fn on_one_cable(auth: Auth) -> Result<Self> {
        let (client, gateway) = two_sites()?;
        Self::new(client, gateway, None, auth)
    }

    /// With the client behind a router that masquerades.
    pub(super) fn behind_nat(auth: Auth) -> Result<Self> {
        let (client, gateway) = (Namespace::new("client")?, Namespace::new("gateway")?);
        let router = Namespace::new("router")?;
        connect(
            (&client, "eth0", &[&format!("{HIDDEN}/24")]),
            (&router, "eth0", &["10.0.0.1/24"]),
        )?;
        connect(
            (&router, "eth1", &["192.0.2.2/24"]),
            (&gateway, "eth0", &[&format!("{GATEWAY}/24")]),
        )?;
        client.ip("route add default via 10.0.0.1")?;
        for (namespace, own, other, via) in [
            (&client, BRANCH, "10.1.0.0/24", "10.0.0.1"),
            (&gateway, OFFICE, "10.2.0.0/24", "192.0.2.2"),
        ] {
            namespace.ip(&format!("address add {own}/32 dev lo"))?;
            namespace.ip(&format!("route add {other} via {via} src {own}"))?;
        }
        router.masquerade("eth1")?;
        Self::new(client, gateway, Some(router), auth)
    }

    fn new(
        client: Namespace,
        gateway: Namespace,
        router: Option<Namespace>,
        auth: Auth,
    ) -> Result<Self> {
        let authority = Rc::new(Authority::new()?);
        Ok(Self {
            client,
            gateway,
            router,
            auth,
            psks: [PSK; 2],
            authorities: [Rc::clone(&authority), authority],
        })
    }

    /// Gives strongSwan another key, and a certificate of another authority. It trusts Rekindle's.
    pub(super) fn with_a_stranger(mut self) -> Result<Self> {
        self.psks[1] = "not the same horse";
        self.authorities[1] = Rc::new(Authority::new()?);
        Ok(self)
    }

    pub(super) fn namespace(&self, role: Role) -> &Namespace {
        match role {
            Role::Client => &self.client,
            Role::Gateway => &self.gateway,
        }
    }

    /// Starts Rekindle in a role; `settings` go into its one connection, [`NAME`].
    pub(super) fn rekindle(&self, lab: &Lab, role: Role, settings: &str) -> Result<Site<'_>> {
        let mut site = self.prepare_rekindle(lab, role, settings)?;
        site.start(lab)?;
        Ok(site)
    }

    /// The same without gate and lanes: whatever is sent is for the engine.
    pub(super) fn rekindle_alone(&self, lab: &Lab, role: Role) -> Result<Site<'_>> {
        let mut site = self.prepare_rekindle(lab, role, "")?;
        site.without_objects()?;
        site.start(lab)?;
        Ok(site)
    }

    fn prepare_rekindle(&self, lab: &Lab, role: Role, settings: &str) -> Result<Site<'_>> {
        let (own, other) = ends(role);
        let addresses = match role {
            Role::Client => format!(
                "local_addrs = \"{}\"\nremote_addrs = \"{GATEWAY}\"\n",
                self.client_address()
            ),
            Role::Gateway => String::new(),
        };
        let (how, local, remote) = match self.auth {
            Auth::Psk => ("psk", String::new(), String::new()),
            Auth::Certificate => (
                "pubkey",
                format!(", cert = \"{OWN}\", key = \"{OWN}\""),
                format!(", cacerts = [\"{CA}\"]"),
            ),
        };
        let psk = match self.auth {
            Auth::Psk => format!("psk = \"{}\"\n", self.psks[0]),
            Auth::Certificate => String::new(),
        };
        let text = format!(
            "[connections.{NAME}]\n{addresses}{psk}{settings}\n\
             local = {{ auth = \"{how}\", id = \"{}\"{local} }}\n\
             remote = {{ auth = \"{how}\", id = \"{}\"{remote} }}\n\
             [connections.{NAME}.children.net]\n\
             local_ts = [\"{}\"]\nremote_ts = [\"{}\"]\n",
            own.id, other.id, own.network, other.network
        );
        let setting = Setting {
            node: role as u8,
            ..REAL
        };
        let site = Site::prepare(lab, self.namespace(role), setting, &text)?;
        self.authorities[0].equip(site.folder(), KeyKind::P256, own.id)?;
        self.authorities[0].be_trusted_in(site.folder())?;
        Ok(site)
    }

    /// Starts strongSwan in a role, with `options` for the daemon and `settings` for its one
    /// connection, [`NAME`], whose child is `net`.
    pub(super) fn strongswan(
        &self,
        lab: &Lab,
        role: Role,
        options: &str,
        settings: &str,
    ) -> Result<Strongswan<'_>> {
        let (own, other) = ends(role);
        let swan = Strongswan::start(lab, self.namespace(role), options)?;
        self.authorities[1].equip(swan.folder(), KeyKind::P256, own.id)?;
        self.authorities[0].be_trusted_in(swan.folder())?;
        let (local, remote) = match role {
            Role::Client => (self.client_address(), GATEWAY),
            Role::Gateway => (GATEWAY, "%any"),
        };
        let (how, certs, cacerts) = match self.auth {
            Auth::Psk => ("psk", String::new(), String::new()),
            Auth::Certificate => (
                "pubkey",
                format!("certs = {OWN}"),
                format!("cacerts = {CA}"),
            ),
        };
        swan.load(&format!(
            "connections {{ {NAME} {{
                version = 2\n local_addrs = {local}\n remote_addrs = {remote}\n {settings}
                local {{ auth = {how}\n id = {}\n {certs} }}
                remote {{ auth = {how}\n id = {}\n {cacerts} }}
                children {{ net {{
                    local_ts = {}\n remote_ts = {}
                    esp_proposals = aes128gcm16\n mode = tunnel }} }}
            }} }}
            secrets {{ ike-peer {{ id = {}\n secret = \"{}\" }} }}\n",
            own.id, other.id, own.network, other.network, other.id, self.psks[1]
        ))?;
        Ok(swan)
    }

    pub(super) fn watch(&self) -> Result<Watch> {
        Ok(Watch([
            Capture::start(&self.client)?,
            Capture::start(&self.gateway)?,
        ]))
    }

    /// Pings from network to network, from both ends.
    pub(super) fn ping(&self) -> Result<()> {
        for (from, to) in [(&self.client, OFFICE), (&self.gateway, BRANCH)] {
            let reply = ping(from, to, PINGS, PATIENCE)?;
            ensure!(reply.all(), "from {} to {to}: {reply:?}", from.name());
        }
        Ok(())
    }

    /// Whether both kernels hold the two ESP states that Rekindle tells of.
    pub(super) fn has_states(&self, site: &Site<'_>) -> Result<()> {
        let sa = site.established()?;
        for namespace in [&self.client, &self.gateway] {
            let states = namespace.ip("xfrm state")?;
            for key in ["spi_in", "spi_out"] {
                let spi = sa["children"][0][key].as_str().context("a Child SA")?;
                ensure!(
                    states.contains(&format!("spi 0x{spi}")),
                    "{key} {spi} is not in {}:\n{states}",
                    namespace.name()
                );
            }
        }
        Ok(())
    }

    /// Waits until neither kernel has an ESP state and neither daemon an SA.
    pub(super) fn is_clean(&self, site: &Site<'_>, swan: &Strongswan<'_>) -> Result<()> {
        until("all SAs are gone at both ends", PATIENCE, || {
            let states = self.client.ip("xfrm state")? + &self.gateway.ip("xfrm state")?;
            let ours = site.ikectl("sa")?;
            let theirs = swan.swanctl("--list-sas")?;
            Ok(!states.contains("proto esp")
                && ours.as_array().is_some_and(Vec::is_empty)
                && theirs.trim().is_empty())
        })
    }

    fn client_address(&self) -> &'static str {
        if self.router.is_some() {
            HIDDEN
        } else {
            CLIENT
        }
    }
}

impl Watch {
    pub(super) fn stop(self) -> Result<Traffic> {
        let mut tally = Tally::default();
        let mut sent = Vec::new();
        for capture in self.0 {
            let frames = capture.stop()?;
            tally.add_sent(&frames);
            let mut messages: Vec<Datagram> = Vec::new();
            for one in datagram::sent(&frames) {
                if messages.iter().all(|seen| seen.message != one.message) {
                    messages.push(one);
                }
            }
            sent.push(messages);
        }
        let gateway = sent.pop().unwrap_or_default();
        let client = sent.pop().unwrap_or_default();
        Ok(Traffic {
            tally,
            client,
            gateway,
        })
    }
}

impl Traffic {
    /// Whether all of `rounds` rounds of pings went as plain ESP, and nothing in clear.
    pub(super) fn is_esp(&self, rounds: u64) -> Result<()> {
        let Tally {
            esp,
            esp_in_udp,
            clear,
            ..
        } = self.tally;
        let right = (rounds * PACKETS, 0, 0);
        ensure!((esp, esp_in_udp, clear) == right, "{:?}", self.tally);
        Ok(())
    }

    /// The same in UDP.
    pub(super) fn is_esp_in_udp(&self, rounds: u64) -> Result<()> {
        let Tally {
            esp,
            esp_in_udp,
            clear,
            ..
        } = self.tally;
        let right = (0, rounds * PACKETS, 0);
        ensure!((esp, esp_in_udp, clear) == right, "{:?}", self.tally);
        Ok(())
    }

    /// How many requests and responses of a kind an end has sent.
    pub(super) fn count(&self, role: Role, exchange: Exchange) -> [usize; 2] {
        let sent = match role {
            Role::Client => &self.client,
            Role::Gateway => &self.gateway,
        };
        let count = |response| {
            let wanted = Some((exchange, response));
            sent.iter().filter(|one| one.kind() == wanted).count()
        };
        [count(false), count(true)]
    }
}

struct End {
    id: &'static str,
    network: &'static str,
}

/// The end of a role, and the other.
const fn ends(role: Role) -> (End, End) {
    let client = End {
        id: "client.example",
        network: "10.2.0.0/24",
    };
    let gateway = End {
        id: "gw.example",
        network: "10.1.0.0/24",
    };
    match role {
        Role::Client => (client, gateway),
        Role::Gateway => (gateway, client),
    }
}

/// The connection's name at both ends.
pub(super) const NAME: &str = "lab";
/// Where the gateway is called.
pub(super) const GATEWAY: &str = "192.0.2.1";
/// The client's address on one cable.
const CLIENT: &str = "192.0.2.10";
/// The client's address behind NAT.
const HIDDEN: &str = "10.0.0.2";
const BRANCH: &str = "10.2.0.1";
const OFFICE: &str = "10.1.0.1";
const PSK: &str = "correct horse battery";
const PINGS: u32 = 2;
/// ESP packets of one round of pings: there and back, from both ends.
const PACKETS: u64 = 4 * PINGS as u64;
const PATIENCE: Duration = Duration::from_secs(15);
