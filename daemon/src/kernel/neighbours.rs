//! Neighbour discovery (RFC 4861, 4) passes whatever policies there are: between two hosts on one link a
//! policy for all of their traffic would catch it too, and nothing could be sent to the other, IKE neither.
//! It is let through while there is a policy of ours about IPv6.

use std::net::Ipv6Addr;

use ike::{
    kernel::{Carriage, KernelFailed},
    wire::ts::{ICMPV6, TrafficSelector},
};
use nix::errno::Errno;

use super::{
    failed,
    policy::{Content, Direction, Policy, PolicyKey, slots},
    wire::Request,
    xfrm::Xfrm,
};

/// From router solicitations to redirects; a selector's ports are type and code.
const TYPES: (u16, u16) = (133 << 8, 137 << 8 | 0xff);

/// What lets neighbour discovery pass.
#[derive(Debug, Default)]
pub(super) struct Neighbours {
    /// Whether there is all that it takes.
    spared: bool,
    /// What of it is ours; another program may have the rest.
    pub(super) keys: Vec<PolicyKey>,
}

impl Xfrm {
    /// Lets neighbour discovery pass, if policies in these slots could catch it.
    pub(super) fn spare_neighbours<'a>(
        &mut self,
        mut keys: impl Iterator<Item = &'a PolicyKey>,
    ) -> Result<(), KernelFailed> {
        if self.neighbours.spared || !keys.any(is_ipv6) {
            return Ok(());
        }
        let (start_port, end_port) = TYPES;
        let any = TrafficSelector::network(Ipv6Addr::UNSPECIFIED.into(), 0);
        let discovery = TrafficSelector {
            protocol: ICMPV6,
            start_port,
            end_port,
            ..any
        };
        let mut keys =
            slots(&[discovery], &[any], &Carriage::default()).map_err(|text| failed(&text))?;
        keys.retain(|key| {
            key.direction != Direction::Forward && !self.neighbours.keys.contains(key)
        });
        let pass = |key: &PolicyKey| {
            Request::add_policy(&Policy {
                key: *key,
                reqid: 0,
                content: Content::Pass,
            })
        };
        let mut requests: Vec<_> = keys.iter().map(pass).collect();
        let results = self.netlink.transact(&mut requests);
        let results = results.map_err(|error| failed(&error.to_string()))?;
        for (key, result) in keys.into_iter().zip(results) {
            match result {
                Ok(()) => self.neighbours.keys.push(key),
                // Whoever has put it there has done so for the same reason.
                Err(refusal) if refusal.errno == Errno::EEXIST => {}
                Err(refusal) => return Err(KernelFailed { text: refusal.text }),
            }
        }
        self.neighbours.spared = true;
        Ok(())
    }

    /// What takes it away again, if nothing is left that could catch neighbour discovery.
    pub(super) fn forget_neighbours(&mut self) -> Vec<Request> {
        if self.neighbours.keys.is_empty() || self.slots.keys().any(is_ipv6) {
            return Vec::new();
        }
        let Neighbours { keys, .. } = std::mem::take(&mut self.neighbours);
        keys.iter().map(Request::delete_policy).collect()
    }
}

fn is_ipv6(key: &PolicyKey) -> bool {
    key.selector.destination.address.is_ipv6()
}
