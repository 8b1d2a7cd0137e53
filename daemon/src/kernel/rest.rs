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
    xfrm::{Slot, Xfrm},
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

/// What belongs into a slot of an owner's while nothing is carried.
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

/// Whether this is traffic's way. Inbound, a policy that carries names no SPI either.
const fn carries(key: &PolicyKey, content: Content) -> bool {
    match content {
        Content::Block | Content::Pass => false,
        Content::Ipsec { spi, .. } => !matches!(key.direction, Direction::Out) || spi != 0,
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
        let rests =
            |key: &PolicyKey, slot: &Slot| slot.reqid == reqid && !carries(key, slot.content);
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
        for key in keys {
            let content = held.wanted.entry(key).or_insert(Content::Block);
            if !carries(&key, *content) {
                *content = rest(trap, &key);
            }
        }
        held.blocks_wanted = true;
        // Whoever asks for a block answers for it; states are answered for by an install.
        if held.states.is_empty() {
            held.orphaned_until = None;
        }
        Ok(())
    }

    /// Turns the owner's IPsec policies that `which` names into what blocks their flow, or waits for it;
    /// or into those of another owner who still has a way for it.
    pub(super) fn block_slots(
        &mut self,
        reqid: u32,
        which: impl Fn(&PolicyKey) -> bool,
    ) -> Vec<Request> {
        let Some(held) = self.held.get_mut(&reqid) else {
            return Vec::new();
        };
        let mut keys = Vec::new();
        for (key, content) in held.wanted.iter_mut().filter(|(key, _)| which(key)) {
            *content = rest(held.trap, key);
            keys.push(*key);
        }
        let requests = keys.into_iter().map(|key| self.refill(reqid, key));
        requests.flatten().collect()
    }

    /// Takes everything of one owner away, but nothing that another owner wants too.
    pub(super) fn release(&mut self, reqid: u32) {
        self.inner.release(reqid);
        self.sources.release(reqid);
        let mut going = self.draining.of(reqid);
        let held = self.held.remove(&reqid).unwrap_or_default();
        let mut requests = Vec::new();
        for key in held.wanted.into_keys() {
            if let Some(slot) = self.slots.get_mut(&key) {
                slot.blockers.remove(&reqid);
            }
            requests.extend(self.refill(reqid, key));
        }
        requests.extend(self.forget_neighbours());
        let states = held.states.into_iter();
        going.extend(states.map(|state| Going { reqid, state }));
        self.retire(requests, &going);
    }

    /// Fills a slot anew in which the owner's policy stands, after what it wants there has changed.
    fn refill(&mut self, reqid: u32, key: PolicyKey) -> Option<Request> {
        let slot = self.slots.get(&key).filter(|slot| slot.reqid == reqid)?;
        let policies = slot.blockers.iter().filter_map(|one| {
            let content = *self.held.get(one)?.wanted.get(&key)?;
            Some(Policy {
                key,
                reqid: *one,
                content,
            })
        });
        // Who has a way before who has none, and the owner before others.
        let first = |policy: &Policy| (!carries(&key, policy.content), policy.reqid != reqid);
        let Some(next) = policies.min_by_key(first) else {
            self.slots.remove(&key);
            return Some(Request::delete_policy(&key));
        };
        let slot = self.slots.get_mut(&key)?;
        if (slot.reqid, slot.content) == (next.reqid, next.content) {
            return None;
        }
        (slot.reqid, slot.content) = (next.reqid, next.content);
        Some(Request::put_policy(&next))
    }
}
