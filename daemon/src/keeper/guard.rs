//! The keeper's hold on the gate: it loads it, keeps its keys and our addresses current, and lets it
//! know that somebody is at home. A gate that fails costs speed, so nothing here stops the daemon.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use ike::{io::TicketRoot, ticket::Keyring};
use nix::{ifaddrs::getifaddrs, net::if_::InterfaceFlags};
use tracing::{info, warn};

use super::protocol::{GateAttachment, GateStatus};
use crate::{
    gate::{Gate, GateOptions},
    tickets::{Node, Ring},
};

/// Addresses come and go; the gate may take so long to learn of it.
const REFRESH: Duration = Duration::from_secs(5);

/// A gate, or the reason for having none.
pub(super) struct Guard {
    gate: Option<Gate>,
    trouble: Option<String>,
    /// Where we listen; empty for every address of this host.
    listen: Vec<IpAddr>,
    addresses: BTreeSet<IpAddr>,
    refreshed: Option<Duration>,
}

impl Guard {
    /// Attaches the gate as far as it goes. Without interfaces in the options it goes wherever one of
    /// our addresses is.
    pub(super) fn attach(options: Option<GateOptions>, listen: &[IpAddr]) -> Self {
        let wildcard = listen.iter().any(IpAddr::is_unspecified);
        let mut guard = Self {
            gate: None,
            trouble: None,
            listen: if wildcard {
                Vec::new()
            } else {
                listen.to_vec()
            },
            addresses: BTreeSet::new(),
            refreshed: None,
        };
        let Some(mut options) = options else {
            guard.trouble = Some("switched off in the configuration".into());
            return guard;
        };
        if options.interfaces.is_empty() {
            options.interfaces = guard.interfaces();
        }
        match Gate::attach(&options) {
            Ok(gate) => {
                for attachment in gate.attachments() {
                    info!(
                        interface = attachment.interface,
                        mode = attachment.mode.name(),
                        reason = attachment.reason,
                        "gate"
                    );
                }
                guard.gate = Some(gate);
            }
            Err(error) => guard.complain(&error.to_string()),
        }
        guard
    }

    /// Gives the gate the tag keys of every live epoch and both SPI keys.
    pub(super) fn set_keys(&mut self, ring: &Ring, node: &Node) {
        let Some(gate) = &mut self.gate else {
            return;
        };
        let mut keyring = Keyring::new(node.id());
        for (key_id, root, _) in ring.epochs() {
            keyring.add(&TicketRoot { key_id, root });
        }
        let keys: Vec<(u8, [u8; 16])> = keyring
            .tag_keys()
            .map(|(key_id, key)| {
                let octets = u128::from(key.k1) << 64 | u128::from(key.k0);
                (key_id, octets.to_le_bytes())
            })
            .collect();
        let set = gate
            .set_ticket_keys(&keys)
            .and_then(|()| gate.set_spi_keys(node.spi_keys()));
        if let Err(error) = set {
            self.complain(&error.to_string());
        }
    }

    /// To be called several times a second.
    pub(super) fn tick(&mut self, now: Duration) {
        if self.gate.is_none() {
            return;
        }
        if self
            .refreshed
            .is_none_or(|at| now.saturating_sub(at) >= REFRESH)
        {
            self.refreshed = Some(now);
            self.refresh_addresses();
        }
        let beat = self.gate.as_mut().map(|gate| gate.heartbeat(now));
        if let Some(Err(error)) = beat {
            self.complain(&error.to_string());
        }
    }

    /// For an operator.
    pub(super) fn status(&self) -> GateStatus {
        let mut status = GateStatus {
            trouble: self.trouble.clone(),
            ..GateStatus::default()
        };
        let Some(gate) = &self.gate else {
            return status;
        };
        status.attachments = gate
            .attachments()
            .iter()
            .map(|attachment| GateAttachment {
                interface: attachment.interface.clone(),
                mode: attachment.mode.name().into(),
                reason: attachment.reason.clone(),
            })
            .collect();
        match gate.counters() {
            Ok(counters) => {
                status.counters = counters
                    .into_iter()
                    .map(|(name, packets, octets)| (name.into(), packets, octets))
                    .collect();
            }
            Err(error) => status.trouble = Some(error.to_string()),
        }
        status
    }

    /// Takes the gate down; without this it stays, and goes on filtering, after the process has gone.
    pub(super) fn detach(&mut self) {
        if let Some(gate) = self.gate.take()
            && let Err(error) = gate.detach()
        {
            self.complain(&error.to_string());
        }
    }

    fn refresh_addresses(&mut self) {
        let present: BTreeSet<IpAddr> = if self.listen.is_empty() {
            local_addresses()
                .into_iter()
                .map(|(_, address)| address)
                .collect()
        } else {
            self.listen.iter().copied().collect()
        };
        // Without any address the gate would judge packets that only pass through.
        if present.is_empty() || present == self.addresses {
            return;
        }
        let list: Vec<IpAddr> = present.iter().copied().collect();
        match self
            .gate
            .as_mut()
            .map(|gate| gate.set_local_addresses(&list))
        {
            Some(Err(error)) => self.complain(&error.to_string()),
            _ => self.addresses = present,
        }
    }

    fn interfaces(&self) -> Vec<String> {
        let ours = |address: &IpAddr| self.listen.is_empty() || self.listen.contains(address);
        let names: BTreeSet<String> = local_addresses()
            .into_iter()
            .filter(|(_, address)| ours(address))
            .map(|(name, _)| name)
            .collect();
        names.into_iter().collect()
    }

    /// Once for each trouble: the heartbeat would repeat it five times a second.
    fn complain(&mut self, text: &str) {
        if self.trouble.as_deref() != Some(text) {
            warn!("gate: {text}");
            self.trouble = Some(text.into());
        }
    }
}

/// Addresses of this host with their interfaces, loopback left out.
fn local_addresses() -> Vec<(String, IpAddr)> {
    let Ok(all) = getifaddrs() else {
        return Vec::new();
    };
    all.filter(|entry| {
        entry.flags.contains(InterfaceFlags::IFF_UP)
            && !entry.flags.contains(InterfaceFlags::IFF_LOOPBACK)
    })
    .filter_map(|entry| {
        let storage = entry.address?;
        let address = match storage.as_sockaddr_in() {
            Some(v4) => IpAddr::V4(v4.ip()),
            None => IpAddr::V6(storage.as_sockaddr_in6()?.ip()),
        };
        Some((entry.interface_name, address))
    })
    .collect()
}
