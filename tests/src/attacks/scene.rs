//! Where an attack takes place: a gateway, a client on one cable, an attacker on another, and what the
//! attacker knows: first messages that the client has sent.
//!
//! Whatever has no route leads to the attacker, so that answers to forged sources are seen there.

use std::{
    net::{Ipv4Addr, UdpSocket},
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
    /// Where the attacker's own address is answered to; nobody reads it, and without it the kernel
    /// would send ICMP errors.
    _ear: UdpSocket,
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
            };
            ends.push(namespace.within(|| Gate::attach(&options))??);
        }
        client.ip(&format!("route add local {CLIENT_NET} dev lo"))?;
        gateway.ip(&format!("route add {CLIENT_NET} via {CLIENTS}"))?;
        gateway.ip(&format!("route add default via {ATTACKER}"))?;
        let ear = attacker.within(|| UdpSocket::bind((ATTACKER, SOURCE_PORT)))??;
        Ok(Self {
            client,
            gateway,
            attacker,
            _ear: ear,
            ends,
        })
    }

    /// A gateway on it that defends itself as the mode says.
    pub(super) fn gateway<'a>(&'a self, lab: &Lab, mode: Mode) -> Result<Site<'a>> {
        let setting = Setting {
            gate: if mode == Mode::Gate { "native" } else { "off" },
            dataplane: "none",
            node: 1,
        };
        let flood = if mode == Mode::Off { "off" } else { "auto" };
        let connection = gateway_connection(LIVENESS);
        let configuration = format!("[flood]\nmode = \"{flood}\"\n{connection}");
        let mut gateway = Site::prepare(lab, &self.gateway, setting, &configuration)?;
        // As it is delivered.
        gateway.log_at("info");
        gateway.start(lab)?;
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

/// What an attack works with.
pub(super) struct Scene<'a> {
    pub(super) ground: &'a Ground,
    pub(super) gateway: &'a Site<'a>,
    wrapping: Wrapping,
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
        let wrapping = Wrapping {
            around: Around {
                source: Address::V4(ATTACKER.octets()),
                destination: Address::V4(TARGET.octets()),
                port: PORT_IKE,
                ..Around::default()
            },
            stations: [
                station(&ground.gateway, "eth1")?,
                station(&ground.attacker, CABLE)?,
            ],
        };
        Ok(Self {
            ground,
            gateway,
            wrapping,
            login: Recorded::find(&frames, Exchange::IkeSaInit)?,
            resume: Recorded::find(&frames, Exchange::IkeSessionResume)?,
            stolen,
        })
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
        mut make: impl FnMut(&mut Wrapping, &mut Chance) -> Vec<u8> + Send,
    ) -> Result<u64> {
        let (mut wrapping, mut chance) = (self.wrapping.clone(), Chance::fresh());
        let count = per_second * LASTS.as_secs() as u32;
        let sent = flood::send(
            &self.ground.attacker,
            CABLE,
            count,
            Pace { per_second },
            |frame| *frame = make(&mut wrapping, &mut chance),
        )?;
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
