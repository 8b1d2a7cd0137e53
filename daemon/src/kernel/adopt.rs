//! What an earlier run left in the kernel, and what the kernel has done by itself.

use std::{
    collections::{BTreeSet, HashSet},
    time::Duration,
};

use ike::kernel::Owner;
use tracing::{debug, info, warn};

use super::{
    DataplaneError, Happened,
    events::Heard,
    journal::REQIDS,
    policy::{Content, Direction},
    rest::Trap,
    tunnel::HeldState,
    wire::{
        Mapping, Request, StateId, XFRM_MSG_GETPOLICY, XFRM_MSG_GETSA, parse_policy, parse_state,
    },
    xfrm::{Slot, Xfrm},
};

/// A packet that brings a connection up, or that comes from elsewhere, is reported no more often than this for one
/// owner, whatever the kernel says.
const REPORT_EVERY: Duration = Duration::from_secs(1);

impl Xfrm {
    pub(super) fn adopt(&mut self) -> Result<(), DataplaneError> {
        let dump = Request::dump("listing policies", XFRM_MSG_GETPOLICY);
        let policies = self.netlink.dump(dump, parse_policy)?;
        let dump = Request::dump("listing SAs", XFRM_MSG_GETSA);
        let states = self.netlink.dump(dump, parse_state)?;
        let mut outwards = HashSet::new();
        let mut strangers = BTreeSet::new();
        for policy in policies {
            if policy.content == Content::Pass {
                self.neighbours.keys.push(policy.key);
                continue;
            }
            if self.journal.owner(policy.reqid).is_none() {
                if REQIDS.contains(&policy.reqid) {
                    self.abandoned.insert(policy.key, policy);
                }
                strangers.insert(policy.reqid);
                continue;
            }
            let held = self.held.entry(policy.reqid).or_default();
            held.wanted.insert(policy.key, policy.content);
            if let Some(trap) = Trap::of(&policy) {
                held.trap = Some(trap);
            }
            if let (
                Direction::Out,
                Content::Ipsec {
                    source,
                    destination,
                    ..
                },
            ) = (policy.key.direction, policy.content)
            {
                outwards.insert((policy.reqid, source, destination));
            }
            let slot = Slot {
                reqid: policy.reqid,
                content: policy.content,
                blockers: BTreeSet::from([policy.reqid]),
            };
            self.slots.insert(policy.key, slot);
        }
        // Those without an SPI are the kernel's own, for flows that wait.
        for state in states.into_iter().filter(|state| state.id.spi != 0) {
            if self.journal.owner(state.reqid).is_none() {
                strangers.insert(state.reqid);
                continue;
            }
            let towards_peer = (state.reqid, state.source, state.id.destination);
            self.held
                .entry(state.reqid)
                .or_default()
                .states
                .push(HeldState {
                    id: state.id,
                    inbound: !outwards.contains(&towards_peer),
                });
        }
        strangers.retain(|reqid| REQIDS.contains(reqid));
        if !strangers.is_empty() {
            warn!(
                unknown = strangers.len(),
                "reqids of our range that the journal does not know: left alone until a login needs \
                 what they hold"
            );
        }
        self.journal.avoid(strangers);
        if !self.held.is_empty() {
            let states: usize = self.held.values().map(|held| held.states.len()).sum();
            info!(
                owners = self.held.len(),
                states,
                policies = self.slots.len(),
                "adopted what an earlier run left in the kernel"
            );
        }
        let owners: HashSet<u32> = self.held.keys().copied().collect();
        self.inner.retain(&owners);
        self.sources.retain(&owners);
        self.journal.retain(&owners)
    }

    /// What becomes of an event of the kernel's. What is somebody else's is left alone.
    pub(super) fn heard(&mut self, heard: Heard, now: Duration) -> Vec<Happened> {
        match heard {
            Heard::Wanted { reqid } => self.wanted(reqid, now).into_iter().collect(),
            Heard::Expired {
                reqid,
                id,
                hard,
                carried,
            } => {
                let expired = self.expired(reqid, id, hard);
                if expired.is_some() && hard {
                    let held = self.held.get(&reqid);
                    let mut states = held.iter().flat_map(|held| &held.states);
                    if let Some(state) = states.find(|state| state.id == id) {
                        let owner = self.journal.owner(reqid);
                        let of = (reqid, owner.map(Owner::connection));
                        self.carried.add(of, state.inbound, carried);
                    }
                    self.gone(reqid, &[id]);
                }
                expired.into_iter().collect()
            }
            Heard::Mapped(mapping) => self.mapped(mapping, now).into_iter().collect(),
            Heard::Overrun => self.catch_up(now),
        }
    }

    /// Each packet from there may say so, until the states are moved; what is dropped here is said again.
    fn mapped(&mut self, mapping: Mapping, now: Duration) -> Option<Happened> {
        let Mapping {
            reqid,
            spi,
            destination,
            source,
        } = mapping;
        let held = self.held.get_mut(&reqid)?;
        let is_it = |state: &&HeldState| {
            state.inbound && (state.id.spi, state.id.destination) == (spi, destination)
        };
        held.states.iter().find(is_it)?;
        if held.mapped.is_some_and(|at| now < at + REPORT_EVERY) {
            return None;
        }
        held.mapped = Some(now);
        let owner = self.journal.owner(reqid)?.clone();
        Some(Happened::Mapped { owner, spi, source })
    }

    fn wanted(&mut self, reqid: u32, now: Duration) -> Option<Happened> {
        let held = self
            .held
            .get_mut(&reqid)
            .filter(|held| held.trap.is_some())?;
        if held.reported.is_some_and(|at| now < at + REPORT_EVERY) {
            return None;
        }
        held.reported = Some(now);
        let owner = self.journal.owner(reqid)?.clone();
        Some(Happened::Wanted { owner })
    }

    fn expired(&self, reqid: u32, id: StateId, hard: bool) -> Option<Happened> {
        let mut states = self.held.get(&reqid)?.states.iter();
        states.find(|state| state.id == id)?;
        Some(Happened::Expired {
            owner: self.journal.owner(reqid)?.clone(),
            spi: id.spi,
            hard,
        })
    }

    /// The kernel has ended these states by itself. Without any, the flow waits or is blocked.
    fn gone(&mut self, reqid: u32, ids: &[StateId]) {
        let Some(held) = self.held.get_mut(&reqid) else {
            return;
        };
        held.states.retain(|state| !ids.contains(&state.id));
        debug!(reqid, states = ids.len(), "the kernel has ended states");
        if !held.states.iter().any(|state| !state.inbound) {
            let requests = self.block_slots(reqid, |_| true);
            self.clean_up(requests);
        }
    }

    /// Events have been lost (ENOBUFS): what the kernel has now says what they were about. That a peer sends
    /// from elsewhere is not in there; it is said again with one of its next packets.
    fn catch_up(&mut self, now: Duration) -> Vec<Happened> {
        warn!("the kernel's events came too fast; looking at what there is");
        let dump = Request::dump("listing SAs", XFRM_MSG_GETSA);
        let states = match self.netlink.dump(dump, parse_state) {
            Ok(states) => states,
            Err(error) => {
                warn!("{error}");
                return Vec::new();
            }
        };
        let there: HashSet<StateId> = states.iter().map(|state| state.id).collect();
        let missing = |(reqid, held): (&u32, &super::xfrm::Held)| {
            let ids = held.states.iter().map(|state| state.id);
            let ids: Vec<_> = ids.filter(|id| !there.contains(id)).collect();
            (!ids.is_empty()).then_some((*reqid, ids))
        };
        let missing: Vec<_> = self.held.iter().filter_map(missing).collect();
        let worn = states.iter().filter(|state| state.worn);
        let mut happened: Vec<_> = worn
            .filter_map(|state| self.expired(state.reqid, state.id, false))
            .collect();
        for (reqid, ids) in missing {
            happened.extend(ids.iter().filter_map(|id| self.expired(reqid, *id, true)));
            self.gone(reqid, &ids);
        }
        // The kernel keeps a state without an SPI for each flow that it has asked for.
        let asked: BTreeSet<u32> = states
            .iter()
            .filter(|state| state.id.spi == 0)
            .map(|state| state.reqid)
            .collect();
        let wanted = asked.into_iter();
        happened.extend(wanted.filter_map(|reqid| self.wanted(reqid, now)));
        happened
    }
}
