//! Connections that packets bring up: the kernel is to report the first one of a flow.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use crate::{
    endpoint::{CommandRefused, Endpoint},
    exchange::{any, whole},
    kernel::KernelOp,
    peer::Child,
};

impl Endpoint {
    /// Client: leaves it to packets to bring the connection up, with each Child SA that comes with it. With
    /// inner addresses that are still to be leased, any packet towards the peer's networks does.
    pub(crate) fn trap(&mut self, at: usize) -> Result<(), CommandRefused> {
        let slot = self.slots.get(at).ok_or(CommandRefused::NoConnection)?;
        let connection = &slot.config;
        let remote = connection
            .remote_addr
            .ok_or(CommandRefused::CannotInitiate)?;
        let anywhere: IpAddr = match remote {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let ends = (connection.local_addr.unwrap_or(anywhere), remote);
        let inner = if slot.leased.is_empty() {
            any(&connection.vips)
        } else {
            slot.leased.clone()
        };
        let trap = |child: &Child| {
            let Child {
                name,
                local_ts,
                remote_ts,
                carriage,
                ..
            } = child.with(&inner);
            KernelOp::Trap {
                owner: whole(connection, &name),
                carriage,
                ends,
                local_ts,
                remote_ts,
            }
        };
        let traps: Vec<_> = self.wanted_children(connection).map(trap).collect();
        for trap in traps {
            self.kernel(trap);
        }
        if let Some(slot) = self.slots.get_mut(at) {
            slot.trapped = true;
        }
        Ok(())
    }

    /// Packets are to bring it up no more. What is up stays so.
    pub fn untrap(&mut self, connection: &str) {
        let slot = self.slot_of(connection);
        let Some(slot) = slot.and_then(|at| self.slots.get_mut(at)) else {
            return;
        };
        let config = Arc::clone(&slot.config);
        let idle = !slot.wanted && !slot.suspended;
        if std::mem::take(&mut slot.trapped) && idle && !self.is_alive(&config) {
            self.release_whole(&config);
        }
    }
}
