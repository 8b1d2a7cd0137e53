//! A client that is now here, now there: it takes the address that the routing table says.

use std::net::IpAddr;

use ike::{Context, Settings, peer::Connection};

use crate::{
    bed::{CLIENT, GATEWAY, OTHER_GATEWAY, Pair},
    sides::{client_side, gateway_side},
};

/// Other places for a client to be.
pub(crate) const PLACES: [&str; 3] = [CLIENT, "203.0.113.20", "203.0.113.30"];

pub(crate) fn roaming_client() -> Vec<Connection> {
    let mut side = client_side();
    side[0].local_addr = None;
    side
}

/// One that does not know MOBIKE.
pub(crate) fn plain_client() -> Vec<Connection> {
    let mut side = roaming_client();
    side[0].mobike = false;
    side
}

pub(crate) fn two_addresses() -> Vec<Connection> {
    let mut side = gateway_side();
    let address = |text: &str| text.parse::<IpAddr>().expect("address");
    side[0].local_addr = Some(address(GATEWAY));
    side[0].more_addrs = vec![address(GATEWAY), address(OTHER_GATEWAY)];
    side
}

impl Pair {
    /// A pair whose client can go elsewhere, connected if all is well.
    pub(crate) fn roaming(seed: u64) -> Self {
        Self::roaming_with(seed, roaming_client, gateway_side)
    }

    pub(crate) fn roaming_with(
        seed: u64,
        client: fn() -> Vec<Connection>,
        gateway: fn() -> Vec<Connection>,
    ) -> Self {
        let mut pair = Self::with(seed, client, gateway, Settings::default());
        let at = pair.client_at;
        pair.client.endpoint.set_local_address("home", at);
        pair
    }

    /// The client has another address, and its old one is nobody's.
    pub(crate) fn relocate(&mut self, to: &str) {
        let to = to.parse().expect("address");
        self.gone.insert(self.client_at);
        self.gone.remove(&to);
        self.client_at = to;
        self.notice();
    }

    /// The routing table is asked where the client is.
    pub(crate) fn notice(&mut self) {
        let node = &mut self.client;
        let (env, ledger, leases) = (&mut node.env, &mut node.ledger, &mut node.leases);
        let now = self.now;
        let cx = &mut Context {
            now,
            env,
            ledger,
            leases,
        };
        node.endpoint.relocate("home", self.client_at, cx);
        self.drain();
    }

    /// Both kernels send where the other one is, in the same way.
    pub(crate) fn paths_agree(&self) -> bool {
        let (c, g) = (self.client.child(), self.gateway.child());
        let meets = if self.nat.is_some() {
            true
        } else {
            c.path.local == g.path.remote && c.path.remote == g.path.local
        };
        meets && c.udp_encap == g.udp_encap && c.path.local.ip() == self.client_at
    }
}
