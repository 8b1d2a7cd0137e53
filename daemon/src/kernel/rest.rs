//! What stands in the slots of a flow that no Child SA carries: a block policy; or, where packets are to bring
//! the connection up, outwards one that leads to no state, at which the kernel drops the packet and reports it.

use std::net::IpAddr;

use ike::{
    kernel::{Carriage, KernelFailed, Mode, Owner},
    wire::ts::TrafficSelector,
};

use super::{
    draining::Going,
    failed,
    inner::Flow,
    policy::{Content, Direction, Policy, PolicyKey, slots},
    wire::Request,
    xfrm::{Held, Slot, Xfrm},
};

/// Between whom the Child SA would be that a packet asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Trap {
    source: IpAddr,
    destination: IpAddr,
    mode: Mode,
}

impl Trap {
    /// What an earlier run has left of one: outwards, and to no state.
    pub(super) fn of(policy: &Policy) -> Option<Self> {
        match (policy.key.direction, policy.content) {
            (
                Direction::Out,
                Content::Ipsec {
                    source,
                    destination,
                    spi: 0,
                    mode,
                },
            ) => Some(Self {
                source,
                destination,
                mode,
            }),
            _ => None,
        }
    }
}

impl Held {
    /// What belongs into a slot of this owner's while nothing is carried.
    fn rest(&self, key: &PolicyKey) -> Content {
        rest(self.trap, key)
    }
}

fn rest(trap: Option<Trap>, key: &PolicyKey) -> Content {
    match trap {
        Some(trap) if key.direction == Direction::Out => Content::Ipsec {
            source: trap.source,
            destination: trap.destination,
            spi: 0,
            mode: trap.mode,
        },
        _ => Content::Block,
    }
}

impl Xfrm {
    pub(super) fn block(
        &mut self,
        owner: &Owner,
        carriage: &Carriage,
        peer: Option<IpAddr>,
        (local, remote): (&[TrafficSelector], &[TrafficSelector]),
    ) -> Result<(), KernelFailed> {
        let keys = slots(local, remote, carriage).map_err(|text| failed(&text))?;
        let reqid = self.assign(owner)?;
        let trap = self.held.get(&reqid).and_then(|held| held.trap);
        self.rest_in(reqid, keys, trap)?;
        // One that may be anywhere must not be led to where packets for it are dropped.
        peer.map_or(Ok(()), |peer| {
            let flow = Flow::waiting(carriage, peer, local, remote);
            self.sources.lead(reqid, &flow);
            self.inner.lead(reqid, &flow)
        })
    }

    pub(super) fn trap(
        &mut self,
        owner: &Owner,
        carriage: &Carriage,
        (source, destination): (IpAddr, IpAddr),
        (local, remote): (&[TrafficSelector], &[TrafficSelector]),
    ) -> Result<(), KernelFailed> {
        let keys = slots(local, remote, carriage).map_err(|text| failed(&text))?;
        let reqid = self.assign(owner)?;
        let trap = Trap {
            source,
            destination,
            mode: carriage.mode,
        };
        self.rest_in(reqid, keys, Some(trap))?;
        let flow = Flow::waiting(carriage, destination, local, remote);
        self.sources.lead(reqid, &flow);
        self.inner.lead(reqid, &flow)
    }

    /// Lets an owner's flows rest in these slots, those that carry traffic excepted.
    fn rest_in(
        &mut self,
        reqid: u32,
        keys: Vec<PolicyKey>,
        trap: Option<Trap>,
    ) -> Result<(), KernelFailed> {
        self.spare_neighbours(keys.iter())?;
        // Inbound, a policy that carries traffic names no SPI either.
        let rests = |key: &PolicyKey, slot: &Slot| {
            let out = key.direction == Direction::Out;
            let carries = match slot.content {
                Content::Block | Content::Pass => false,
                Content::Ipsec { spi, .. } => !out || spi != 0,
            };
            slot.reqid == reqid && !carries
        };
        let policies: Vec<Policy> = keys
            .iter()
            .map(|key| Policy {
                key: *key,
                reqid,
                content: rest(trap, key),
            })
            .filter(|policy| match self.slots.get(&policy.key) {
                Some(slot) => rests(&policy.key, slot) && slot.content != policy.content,
                None => true,
            })
            .collect();
        let steps = policies.iter().map(|policy| self.step(policy)).collect();
        self.all_or_nothing(steps)?;
        for policy in &policies {
            self.take(policy);
        }
        for key in &keys {
            if let Some(slot) = self.slots.get_mut(key) {
                slot.blockers.insert(reqid);
            }
        }
        let held = self.held.entry(reqid).or_default();
        held.trap = trap;
        held.keys.extend(keys);
        held.blocks_wanted = true;
        // Whoever asks for a block answers for it; states are answered for by an install.
        if held.states.is_empty() {
            held.orphaned_until = None;
        }
        Ok(())
    }

    /// Turns the owner's IPsec policies that `which` names into what blocks their flow, or waits for it.
    pub(super) fn block_slots(
        &mut self,
        reqid: u32,
        which: impl Fn(&PolicyKey) -> bool,
    ) -> Vec<Request> {
        let Some(held) = self.held.get(&reqid) else {
            return Vec::new();
        };
        let mut requests = Vec::new();
        for key in held.keys.iter().filter(|key| which(key)) {
            if let Some(slot) = self.slots.get_mut(key)
                && slot.reqid == reqid
                && slot.content != held.rest(key)
            {
                slot.content = held.rest(key);
                requests.push(Request::put_policy(&Policy {
                    key: *key,
                    reqid,
                    content: slot.content,
                }));
            }
        }
        requests
    }

    /// Takes everything of one owner away, but no block that another owner wants too.
    pub(super) fn release(&mut self, reqid: u32) {
        self.inner.release(reqid);
        self.sources.release(reqid);
        let mut going = self.draining.of(reqid);
        let held = self.held.remove(&reqid).unwrap_or_default();
        let mut requests = Vec::new();
        for key in held.keys {
            let Some(slot) = self.slots.get_mut(&key) else {
                continue;
            };
            slot.blockers.remove(&reqid);
            match slot.blockers.first() {
                None => {
                    self.slots.remove(&key);
                    requests.push(Request::delete_policy(&key));
                }
                Some(heir) if slot.reqid == reqid => {
                    let trap = self.held.get(heir).and_then(|held| held.trap);
                    (slot.reqid, slot.content) = (*heir, rest(trap, &key));
                    requests.push(Request::put_policy(&Policy {
                        key,
                        reqid: slot.reqid,
                        content: slot.content,
                    }));
                }
                Some(_) => {}
            }
        }
        requests.extend(self.forget_neighbours());
        let states = held.states.into_iter();
        going.extend(states.map(|state| Going { reqid, state }));
        self.retire(requests, &going);
    }
}
