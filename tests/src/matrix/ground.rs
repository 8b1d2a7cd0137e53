//! Two machines with a network behind each, what is between them, and a third where a case needs it.

use std::cell::Cell;

use anyhow::{Context as _, Result, ensure};

use super::terms::{
    BRANCH, BRANCH6, CLIENT, CLIENT6, GATEWAY, GATEWAY_TWO, GATEWAY6, HIDDEN, Inner, OFFICE,
    OFFICE6, Outer, Role, Terms,
};
use crate::{
    capture::{Capture, Tally},
    datagram::{self, Datagram},
    netns::{Namespace, connect},
    ping::ping,
};

/// The machines of one case. Every packet that no policy stops finds its way in clear, so that
/// clear text would be seen.
pub(super) struct Ground {
    pub(super) client: Namespace,
    pub(super) gateway: Namespace,
    /// Another gateway of the same network.
    pub(super) other: Option<Namespace>,
    /// Whether the client has gone over to that one.
    moved: Cell<bool>,
    /// Hides the client.
    router: Option<Namespace>,
}

/// Captures on each machine, the client's first.
pub(super) struct Watch(Vec<Capture>);

/// What has gone over the wire.
pub(super) struct Traffic {
    pub(super) tally: Tally,
    /// IKE messages of the client and of all gateways, over IPv4. Retransmissions count once.
    pub(super) client: Vec<Datagram>,
    pub(super) gateway: Vec<Datagram>,
}

impl Ground {
    pub(super) fn lay(terms: &Terms, role: Role) -> Result<Self> {
        let (client, gateway) = (Namespace::new("client")?, Namespace::new("gateway")?);
        let router = match terms.outer {
            Outer::V4 | Outer::V6 => {
                connect(
                    (
                        &client,
                        "eth0",
                        &[&format!("{CLIENT}/24"), &format!("{CLIENT6}/64")],
                    ),
                    (
                        &gateway,
                        "eth0",
                        &[&format!("{GATEWAY}/24"), &format!("{GATEWAY6}/64")],
                    ),
                )?;
                None
            }
            Outer::Nat => Some(router(&client, &gateway)?),
        };
        // Rekindle sends on from one of its addresses, others from all they have.
        let other = match role {
            Role::Initiator if terms.two_gateways => Some(second_gateway(&client)?),
            Role::Responder if terms.two_gateways => {
                gateway.ip(&format!("address add {GATEWAY_TWO}/24 dev eth0"))?;
                None
            }
            _ => None,
        };
        let (to_office, to_branch) = match terms.outer {
            Outer::Nat => ("10.0.0.1", "192.0.2.2"),
            Outer::V4 | Outer::V6 => (GATEWAY, CLIENT),
        };
        if terms.inner == Inner::Leased {
            client.ip(&format!("route add 10.1.0.0/24 via {to_office}"))?;
        } else {
            inside(&client, BRANCH, "10.1.0.0/24", to_office)?;
        }
        inside(&gateway, OFFICE, "10.2.0.0/24", to_branch)?;
        if terms.outer != Outer::Nat {
            inside(&client, BRANCH6, "2001:db8:1::/64", GATEWAY6)?;
            inside(&gateway, OFFICE6, "2001:db8:2::/64", CLIENT6)?;
        }
        Ok(Self {
            client,
            gateway,
            other,
            moved: Cell::new(false),
            router,
        })
    }

    pub(super) fn watch(&self) -> Result<Watch> {
        let captures = self.machines().map(Capture::start);
        Ok(Watch(captures.collect::<Result<_>>()?))
    }

    /// From now on the client's tunnel ends at the third machine.
    pub(super) fn client_has_moved(&self) {
        self.moved.set(true);
    }

    /// Where the client's tunnel ends.
    fn far_end(&self) -> &Namespace {
        let other = self.other.as_ref().filter(|_| self.moved.get());
        other.unwrap_or(&self.gateway)
    }

    fn machines(&self) -> impl Iterator<Item = &Namespace> {
        [&self.client, &self.gateway].into_iter().chain(&self.other)
    }

    /// Pings through the tunnel from both ends, in each family; how many packets that makes, there and
    /// back.
    pub(super) fn ping(&self, terms: &Terms) -> Result<u64> {
        let mut packets = 0;
        for [branch, office] in terms.inside() {
            for (from, to) in [(&self.client, office), (self.far_end(), branch)] {
                let reply = ping(from, to, PINGS, super::PATIENCE)?;
                ensure!(reply.all(), "from {} to {to}: {reply:?}", from.name());
                packets += 2 * u64::from(PINGS);
            }
        }
        Ok(packets)
    }

    /// The client's interface gets another address in the place of this one.
    pub(super) fn readdress(&self, from: &str, to: &str) -> Result<()> {
        // Or the second address would go with the first.
        self.client.set("ipv4/conf/all/promote_secondaries", "1")?;
        self.client.ip(&format!("address add {to}/24 dev eth0"))?;
        self.client.ip(&format!("address del {from}/24 dev eth0"))?;
        Ok(())
    }

    /// The router forgets behind which port the client is, and gives it another one.
    pub(super) fn rebind(&self) -> Result<()> {
        let router = self.router.as_ref().context("a router")?;
        router.remasquerade("eth1", "20000-20999")
    }

    /// Whether nothing goes as ESP. In clear it may: no policy stands in a refused peer's kernel.
    pub(super) fn has_no_esp(&self) -> Result<()> {
        let watch = self.watch()?;
        // A block policy answers a local sender with EPERM, at which ping gives up without a summary.
        let _ = ping(&self.client, OFFICE, 1, super::BRIEFLY);
        let tally = watch.stop()?.tally;
        ensure!(
            tally.esp + tally.esp_in_udp == 0,
            "ESP without an SA: {tally:?}"
        );
        ensure!(self.is_bare()?, "states without an SA");
        Ok(())
    }

    /// Octets that each of the kernel's ESP states has counted, at both ends.
    pub(super) fn counted(&self) -> Result<[Vec<u64>; 2]> {
        Ok([counted(&self.client)?, counted(self.far_end())?])
    }

    /// Whether no kernel has an ESP state.
    pub(super) fn is_bare(&self) -> Result<bool> {
        for machine in self.machines() {
            if !counted(machine)?.is_empty() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Behind a cable of its own.
fn second_gateway(client: &Namespace) -> Result<Namespace> {
    let other = Namespace::new("other")?;
    connect(
        (client, "eth1", &[]),
        (&other, "eth0", &[&format!("{GATEWAY_TWO}/24")]),
    )?;
    client.ip(&format!("route add {GATEWAY_TWO} dev eth1 src {CLIENT}"))?;
    inside(&other, OFFICE, "10.2.0.0/24", CLIENT)?;
    Ok(other)
}

fn router(client: &Namespace, gateway: &Namespace) -> Result<Namespace> {
    let router = Namespace::new("router")?;
    connect(
        (client, "eth0", &[&format!("{HIDDEN}/24")]),
        (&router, "eth0", &["10.0.0.1/24"]),
    )?;
    connect(
        (&router, "eth1", &["192.0.2.2/24"]),
        (gateway, "eth0", &[&format!("{GATEWAY}/24")]),
    )?;
    client.ip("route add default via 10.0.0.1")?;
    router.masquerade("eth1")?;
    Ok(router)
}

fn inside(namespace: &Namespace, own: &str, other: &str, via: &str) -> Result<()> {
    namespace.ip(&format!("address add {own} dev lo"))?;
    namespace.ip(&format!("route add {other} via {via} src {own}"))?;
    Ok(())
}

/// `ip -s xfrm state` has for each state `lifetime current:` and below it `N(bytes), M(packets)`.
fn counted(namespace: &Namespace) -> Result<Vec<u64>> {
    let text = format!("\n{}", namespace.ip("-s xfrm state")?);
    let mut counts = Vec::new();
    for state in text
        .split("\nsrc ")
        .filter(|state| state.contains("proto esp"))
    {
        let current = state.split("lifetime current:").nth(1);
        let octets = current.and_then(|rest| rest.trim_start().split("(bytes)").next());
        let octets = octets.context("a count of octets")?.trim();
        counts.push(octets.parse().with_context(|| octets.to_owned())?);
    }
    Ok(counts)
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
        let gateways = sent.split_off(1.min(sent.len()));
        Ok(Traffic {
            tally,
            client: sent.pop().unwrap_or_default(),
            gateway: gateways.into_iter().flatten().collect(),
        })
    }
}

/// For each direction and family.
const PINGS: u32 = 2;
