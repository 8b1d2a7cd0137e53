//! Moves what an owner has to other addresses. The kernel finds a state by its destination: where that
//! changes, the new state stands beside the old one until the policies lead to it; where it does not,
//! one takes the place of the other within one send.

use ike::kernel::{KernelFailed, Owner};

use super::{
    super::{
        copy::{Ends, StateCopy},
        failed,
        policy::{Content, Direction, Policy},
        tunnel::HeldState,
        wire::{Request, StateId},
    },
    Xfrm,
};

impl Xfrm {
    pub(super) fn relocate(
        &mut self,
        owner: &Owner,
        path: &ike::io::Path,
        udp_encap: bool,
    ) -> Result<(), KernelFailed> {
        let Some(reqid) = self.journal.reqid(owner) else {
            return Ok(());
        };
        let (ours, theirs) = (path.local.ip(), path.remote.ip());
        if ours.is_ipv4() != theirs.is_ipv4() {
            return Err(failed(
                "the tunnel's ends are of different address families",
            ));
        }
        let (local, remote) = (path.local.port(), path.remote.port());
        let outwards = Ends {
            source: ours,
            destination: theirs,
            encap: udp_encap.then_some((local, remote)),
        };
        let inwards = Ends {
            source: theirs,
            destination: ours,
            encap: udp_encap.then_some((remote, local)),
        };
        let before: Vec<HeldState> = match self.held.get(&reqid) {
            Some(held) => held.states.clone(),
            None => return Ok(()),
        };
        let (mut states, mut steps, mut leaving) = (Vec::new(), Vec::new(), Vec::new());
        for old in before {
            let ends = if old.inbound { inwards } else { outwards };
            let asked = Request::query_state(old.id);
            let copy = self.netlink.query(asked, StateCopy::parse);
            let copy = copy.map_err(|error| failed(&error.to_string()))?;
            // The kernel may have ended it by itself.
            let Some(copy) = copy.filter(|copy| copy.ends() != ends) else {
                states.push(old);
                continue;
            };
            let new = StateId {
                destination: ends.destination,
                ..old.id
            };
            if new == old.id {
                steps.push((Request::delete_state(old.id), copy.as_it_was()));
            } else {
                leaving.push(Request::delete_state(old.id));
            }
            let moved = copy.between(ends, !old.inbound);
            steps.push((moved, Request::delete_state(new)));
            states.push(HeldState { id: new, ..old });
        }
        let policies = self.policies_between(reqid, outwards);
        let stands = |policy: &&Policy| {
            let slot = self.slots.get(&policy.key);
            slot.is_some_and(|slot| slot.reqid == reqid)
        };
        let standing = policies.iter().filter(stands);
        steps.extend(standing.map(|policy| self.step(policy)));
        self.all_or_nothing(steps)?;
        for policy in &policies {
            let slot = self.slots.get_mut(&policy.key);
            if let Some(slot) = slot.filter(|slot| slot.reqid == reqid) {
                slot.content = policy.content;
            }
        }
        if let Some(held) = self.held.get_mut(&reqid) {
            held.states = states;
            let moved = policies.iter().map(|policy| (policy.key, policy.content));
            held.wanted.extend(moved);
        }
        self.clean_up(leaving);
        self.sources.relocate(reqid, theirs);
        self.inner.relocate(reqid, theirs)
    }

    /// The owner's IPsec policies with these ends, as they are in the outbound direction; those too in whose
    /// slots another owner's stand.
    fn policies_between(&self, reqid: u32, outwards: Ends) -> Vec<Policy> {
        let Some(held) = self.held.get(&reqid) else {
            return Vec::new();
        };
        let moved = |(key, before): (&super::PolicyKey, &Content)| {
            let Content::Ipsec { spi, mode, .. } = *before else {
                return None;
            };
            let (source, destination) = match key.direction {
                Direction::Out => (outwards.source, outwards.destination),
                Direction::In | Direction::Forward => (outwards.destination, outwards.source),
            };
            let content = Content::Ipsec {
                source,
                destination,
                spi,
                mode,
            };
            (content != *before).then_some(Policy {
                key: *key,
                reqid,
                content,
            })
        };
        held.wanted.iter().filter_map(moved).collect()
    }
}
