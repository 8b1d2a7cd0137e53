//! Where an attack takes place: a gateway, a client on one cable, an attacker on another, and what the
//! attacker knows: first messages that the client has sent.
//!
//! Whatever has no route leads to the attacker, so that answers to forged sources are seen there.

use std::{
    net::{Ipv4Addr, UdpSocket},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use gate_abi::{
    frames::{Address, Around},
    ike::PORT_IKE,
};
use ike::wire::header::Exchange;
use rekindled::gate::{self, Gate, GateOptions, PORTABLE_OBJECT};

use super::{
    client::Legitimate,
    recorded::{Recorded, STATION, Wrapping},
    verdict::Mode,
};
use crate::{
    capture::Capture,
    chance::Chance,
    flood::{self, Pace},
    netns::{Namespace, connect},
    site::{Setting, Site},
    storm::{CLIENT_NET, gateway_connection},
    suite::Lab,
};

/// Three namespaces and the cables between them.
pub(super) struct Ground {
    pub(super) client: Namespace,
    pub(super) gateway: Namespace,
    pub(super) attacker: Namespace,
    /// Where the attacker's own addresses are answered to; nobody reads them, and without them the
    /// kernel would send ICMP errors.
    _ears: [UdpSocket; 2],
    /// What the gate sends back arrives at a veth only if that has a program too: gates that nobody has
    /// told anything, which let all answers pass.
    ends: Vec<Gate>,
}

impl Ground {
    pub(super) fn lay(lab: &Lab) -> Result<Self> {
        let [client, gateway, attacker] = ["client", "gateway", "attacker"].map(Namespace::new);
        let (client, gateway, attacker) = (client?, gateway?, attacker?);
        connect(
            (&client, CABLE, &[&format!("{CLIENTS}/24")]),
            (&gateway, "eth0", &[&format!("{GATEWAY}/24")]),
        )?;
        connect(
            (&attacker, CABLE, &[&format!("{ATTACKER}/24")]),
            (&gateway, "eth1", &[&format!("{TARGET}/24")]),
        )?;
        let objects = lab.object(PORTABLE_OBJECT)?;
        let mut ends = Vec::new();
        for namespace in [&client, &attacker] {
            let options = GateOptions {
                object_dir: objects.parent().context("objects lie in a folder")?.into(),
                pin_dir: lab.bpf().join(format!("end-{}", namespace.name())),
                interfaces: vec![CABLE.into()],
                mode: gate::Mode::Native,
                masquerade: false,
                denied: Vec::new(),
            };
            ends.push(namespace.within(|| Gate::attach(&options))??);
        }
        client.ip(&format!("route add local {CLIENT_NET} dev lo"))?;
        gateway.ip(&format!("route add {CLIENT_NET} via {CLIENTS}"))?;
        gateway.ip(&format!("route add default via {ATTACKER}"))?;
        let ears = [
            attacker.within(|| UdpSocket::bind((ATTACKER, SOURCE_PORT)))??,
            client.within(|| UdpSocket::bind((NEIGHBOUR, SOURCE_PORT)))??,
        ];
        Ok(Self {
            client,
            gateway,
            attacker,
            _ears: ears,
            ends,
        })
    }

    /// A gateway on it that defends itself as the mode says, with this `[flood] mode`.
    pub(super) fn gateway<'a>(
        &'a self,
        lab: &Lab,
        mode: Mode,
        flood: &str,
        dataplane: &str,
    ) -> Result<Site<'a>> {
        let mut gateway = self.prepared(lab, mode, flood, dataplane)?;
        gateway.start(lab)?;
        Ok(gateway)
    }

    /// The same, not started yet.
    pub(super) fn prepared<'a>(
        &'a self,
        lab: &Lab,
        mode: Mode,
        flood: &str,
        dataplane: &str,
    ) -> Result<Site<'a>> {
        let setting = Setting {
            gate: if mode == Mode::Gate { "native" } else { "off" },
            dataplane,
            node: NODE,
        };
        let connection = gateway_connection(LIVENESS);
        let configuration = format!("[flood]\nmode = \"{flood}\"\n{connection}");
        let mut gateway = Site::prepare(lab, &self.gateway, setting, &configuration)?;
        // As it is delivered.
        gateway.log_at("info");
        Ok(gateway)
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        for end in self.ends.drain(..) {
            // Its interface goes with the namespace; what is left of its maps, with the lab.
            let _ = end.detach();
        }
    }
}

/// The way that an attack takes to the gateway.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cable {
    /// A way of its own.
    Attackers,
    /// The client's, which has one queue.
    Clients,
}

/// What an attack works with.
pub(super) struct Scene<'a> {
    pub(super) ground: &'a Ground,
    pub(super) gateway: &'a Site<'a>,
    /// From the attacker's own address to the gateway.
    pub(super) wrapping: Wrapping,
    /// From an address beside the client's.
    neighbour: Wrapping,
    /// Half-open SAs that the attacker has been given.
    opened: AtomicU64,
    /// The client's IKE_SA_INIT.
    pub(super) login: Recorded,
    /// A resumption by a ticket that has been used since.
    pub(super) resume: Recorded,
    /// A resumption by a ticket that is still good, if somebody has been robbed of one.
    pub(super) stolen: Option<Recorded>,
}

impl<'a> Scene<'a> {
    /// Records a client's messages. `robbed` has a ticket afterwards that the attacker has seen.
    pub(super) fn set(
        ground: &'a Ground,
        gateway: &'a Site<'a>,
        client: &mut Legitimate<'_>,
        robbed: Option<&mut Legitimate<'_>>,
    ) -> Result<Self> {
        let capture = Capture::start(&ground.client)?;
        client.cycle()?;
        let frames = capture.stop()?;
        let stolen = robbed.map(|robbed| rob(ground, robbed)).transpose()?;
        let wrapping = |from: Ipv4Addr, to: Ipv4Addr, stations| Wrapping {
            around: Around {
                source: Address::V4(from.octets()),
                destination: Address::V4(to.octets()),
                port: PORT_IKE,
                ..Around::default()
            },
            stations,
        };
        Ok(Self {
            ground,
            gateway,
            wrapping: wrapping(
                ATTACKER,
                TARGET,
                [
                    station(&ground.gateway, "eth1")?,
                    station(&ground.attacker, CABLE)?,
                ],
            ),
            neighbour: wrapping(
                NEIGHBOUR,
                GATEWAY,
                [
                    station(&ground.gateway, "eth0")?,
                    station(&ground.client, CABLE)?,
                ],
            ),
            opened: AtomicU64::new(0),
            login: Recorded::find(&frames, Exchange::IkeSaInit)?,
            resume: Recorded::find(&frames, Exchange::IkeSessionResume)?,
            stolen,
        })
    }

    /// The attacker has been given so many half-open SAs more.
    pub(super) fn let_in(&self, count: u64) {
        self.opened.fetch_add(count, Ordering::Relaxed);
    }

    /// Half-open SAs that the attacker has been given.
    pub(super) fn opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }

    /// The request with a good ticket.
    pub(super) fn stolen(&self) -> Result<&Recorded> {
        self.stolen.as_ref().context("nobody was robbed")
    }

    /// Sends at a pace for as long as an attack lasts, from the attacker's own address unless `make`
    /// says otherwise. Returns how many frames left.
    pub(super) fn flood(
        &self,
        per_second: u32,
        make: impl FnMut(&mut Wrapping, &mut Chance) -> Vec<u8> + Send,
    ) -> Result<u64> {
        self.flood_by(Cable::Attackers, per_second, make)
    }

    /// The same by another cable.
    pub(super) fn flood_by(
        &self,
        cable: Cable,
        per_second: u32,
        mut make: impl FnMut(&mut Wrapping, &mut Chance) -> Vec<u8> + Send,
    ) -> Result<u64> {
        let (namespace, mut wrapping) = match cable {
            Cable::Attackers => (&self.ground.attacker, self.wrapping.clone()),
            Cable::Clients => (&self.ground.client, self.neighbour.clone()),
        };
        let mut chance = Chance::fresh();
        let count = per_second * LASTS.as_secs() as u32;
        let sent = flood::send(namespace, CABLE, count, Pace { per_second }, |frame| {
            *frame = make(&mut wrapping, &mut chance);
        })?;
        Ok(sent.frames.into())
    }
}

/// Lets a client call while nobody hears it: its ticket has been on the wire and is still good. The
/// client goes on calling as soon as it is served again.
fn rob(ground: &Ground, robbed: &mut Legitimate<'_>) -> Result<Recorded> {
    robbed.begin()?;
    ensure!(robbed.attempt(false)?, "no login");
    robbed.sleep()?;
    let neighbour = format!("neigh replace {GATEWAY} lladdr {NOBODY} dev {CABLE} nud permanent");
    ground.client.ip(&neighbour)?;
    let capture = Capture::start(&ground.client)?;
    robbed.begin()?;
    let frames = capture.stop()?;
    ground
        .client
        .ip(&format!("neigh del {GATEWAY} dev {CABLE}"))?;
    Recorded::find(&frames, Exchange::IkeSessionResume)
}

/// The Ethernet address of an interface.
fn station(namespace: &Namespace, interface: &str) -> Result<[u8; STATION]> {
    let told = namespace.ip(&format!("-o link show dev {interface}"))?;
    let mut words = told.split_whitespace();
    let text = words.find(|word| *word == "link/ether").and(words.next());
    let octets: Option<Vec<u8>> = text.map(|text| {
        let parts = text.split(':');
        parts
            .filter_map(|part| u8::from_str_radix(part, 16).ok())
            .collect()
    });
    let octets = octets.and_then(|octets| octets.try_into().ok());
    octets.with_context(|| format!("{interface} has no address"))
}

/// How long an attack lasts: two samples of the gate's level, and twice as long at that level.
pub(super) const LASTS: Duration = Duration::from_secs(3);
/// The gateway as clients know it.
pub(super) const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const CLIENTS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
/// An attacker among the clients.
const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(10, 64, 200, 1);
/// The gateway's number.
pub(super) const NODE: u8 = 1;
/// The gateway where attackers meet it.
const TARGET: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const ATTACKER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);
/// The interface of both, each in its namespace.
pub(super) const CABLE: &str = "eth0";
/// That [`Around`] sends from.
const SOURCE_PORT: u16 = 4321;
/// A station that is not there.
const NOBODY: &str = "02:00:00:00:00:99";
/// Nothing is to ask for signs of life while figures are taken.
const LIVENESS: Duration = Duration::from_mins(10);
