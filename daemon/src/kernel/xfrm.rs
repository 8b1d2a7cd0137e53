//! The real data plane: what every owner has in the kernel, and the order in which it changes.
//!
//! New states come first, then the policies that lead to them, and only when all of these stand do
//! the old states go. What failed half-way is undone backwards.

mod relocate;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    path::Path,
    time::Duration,
};

use ike::{
    kernel::{Carriage, ChildInstall, KernelFailed, KernelOp, Offload, Owner},
    wire::ts::TrafficSelector,
};
use netlink_sys::protocols::NETLINK_XFRM;
use nix::errno::Errno;
use tracing::{info, warn};

use super::{
    Dataplane, DataplaneError, Orphan, Usage,
    draining::Draining,
    failed,
    inner::Inner,
    journal::{Journal, MAX_OWNER, REQIDS},
    netlink::{Netlink, Refusal},
    policy::{Content, Direction, Policy, PolicyKey, slots},
    tunnel::{HeldState, Step, policies, states},
    wire::{
        HASH_THRESHOLDS, Request, XFRM_MSG_GETPOLICY, XFRM_MSG_GETSA, parse_policy, parse_spd,
        parse_state,
    },
};

/// IPsec in the kernel, over netlink.
pub struct Xfrm {
    netlink: Netlink,
    inner: Inner,
    journal: Journal,
    held: BTreeMap<u32, Held>,
    slots: HashMap<PolicyKey, Slot>,
    /// Policies of our reqid range whose owner the journal does not name any more.
    abandoned: HashSet<PolicyKey>,
    draining: Draining,
}

/// What one owner has.
#[derive(Debug, Default)]
struct Held {
    states: Vec<HeldState>,
    /// The slots in which it wants at least a block.
    keys: HashSet<PolicyKey>,
    /// Whether the present engine has asked for the blocks.
    blocks_wanted: bool,
    /// Set while nobody answers for the states; they go at this time since boot.
    orphaned_until: Option<Duration>,
}

/// A policy slot and all owners who want at least a block in it.
#[derive(Debug)]
struct Slot {
    reqid: u32,
    content: Content,
    blockers: BTreeSet<u32>,
}

impl Xfrm {
    /// Opens the sockets and adopts what an earlier run left. `folder` holds the journal; nothing may
    /// be orphaned beyond `deadline`. Addresses that are leased to us go on `interface`.
    pub fn open(
        folder: &Path,
        deadline: Duration,
        interface: &str,
    ) -> Result<Self, DataplaneError> {
        let mut xfrm = Self {
            netlink: Netlink::open(NETLINK_XFRM)?,
            inner: Inner::open(interface)?,
            journal: Journal::open(folder.join("reqids"))?,
            held: BTreeMap::new(),
            slots: HashMap::new(),
            abandoned: HashSet::new(),
            draining: Draining::default(),
        };
        xfrm.tune_spd()?;
        xfrm.adopt()?;
        xfrm.orphan_all(deadline);
        Ok(xfrm)
    }

    /// Lets the kernel find policies by the remote prefix. All IPsec users of the namespace share the
    /// setting, and changing it re-inserts their policies, so only an empty database is touched.
    fn tune_spd(&mut self) -> Result<(), DataplaneError> {
        let Some(info) = self.netlink.query(Request::query_spd(), parse_spd)? else {
            return Ok(());
        };
        if info.thresholds == HASH_THRESHOLDS {
            return Ok(());
        }
        if info.policies > 0 {
            info!(
                policies = info.policies,
                "policy hash thresholds left alone: the kernel holds policies already"
            );
            return Ok(());
        }
        for result in self.netlink.transact(&mut [Request::set_thresholds()])? {
            if let Err(refusal) = result {
                warn!("policies will not be hashed: {}", refusal.text);
            }
        }
        Ok(())
    }

    fn adopt(&mut self) -> Result<(), DataplaneError> {
        let dump = Request::dump("listing policies", XFRM_MSG_GETPOLICY);
        let policies = self.netlink.dump(dump, parse_policy)?;
        let dump = Request::dump("listing SAs", XFRM_MSG_GETSA);
        let states = self.netlink.dump(dump, parse_state)?;
        let mut outwards = HashSet::new();
        let mut strangers = BTreeSet::new();
        for policy in policies {
            if self.journal.owner(policy.reqid).is_none() {
                strangers.insert(policy.reqid);
                continue;
            }
            self.held
                .entry(policy.reqid)
                .or_default()
                .keys
                .insert(policy.key);
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
        for state in states {
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
        let unknown = strangers.range(REQIDS).count();
        if unknown > 0 {
            warn!(
                unknown,
                "reqids of our range that the journal does not know: left alone until a login needs them"
            );
        }
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
        self.journal.retain(&owners)
    }

    fn assign(&mut self, owner: &Owner) -> Result<u32, KernelFailed> {
        if owner.0.is_empty() || owner.0.len() > MAX_OWNER || owner.0.contains(char::is_control) {
            return Err(failed(
                "the owner's name is empty, too long or not printable",
            ));
        }
        let held = &self.held;
        self.journal
            .assign(owner, |reqid| held.contains_key(&reqid))
            .map_err(|error| failed(&error.to_string()))
    }

    fn install(&mut self, child: &ChildInstall) -> Result<(), KernelFailed> {
        let reqid = self.assign(&child.owner)?;
        let device = self.device(child)?;
        let (states, mut steps) = states(child, reqid, device)?;
        let ChildInstall {
            path,
            outbound,
            carriage,
            local_ts,
            remote_ts,
            ..
        } = child;
        let policies = policies(reqid, path, outbound.spi, carriage, local_ts, remote_ts)?;
        steps.extend(policies.iter().map(|policy| self.step(policy)));
        let fresh = self.inner.install(reqid, child)?;
        if let Err(error) = self.all_or_nothing(steps) {
            if fresh {
                self.inner.release(reqid);
            }
            return Err(error);
        }
        let held = self.held.entry(reqid).or_default();
        let old = std::mem::replace(&mut held.states, states.into());
        // From here on the new Child SA stands, whatever becomes of the old one's remains.
        let mut requests = self.lead_now(reqid, policies);
        requests.extend(self.draining.replaced(reqid, old));
        self.clean_up(requests);
        Ok(())
    }

    /// The interface whose network card is to help.
    fn device(&mut self, child: &ChildInstall) -> Result<u32, KernelFailed> {
        match child.carriage.offload {
            Offload::None => Ok(0),
            Offload::Crypto | Offload::Packet => self.inner.interface_to(child.addresses().1),
        }
    }

    fn add(&mut self, child: &ChildInstall) -> Result<(), KernelFailed> {
        let reqid = self.assign(&child.owner)?;
        let device = self.device(child)?;
        let (states, steps) = states(child, reqid, device)?;
        self.all_or_nothing(steps)?;
        self.held.entry(reqid).or_default().states.extend(states);
        Ok(())
    }

    fn lead(
        &mut self,
        owner: &Owner,
        path: &ike::io::Path,
        outbound: u32,
        carriage: &Carriage,
        (local_ts, remote_ts): (&[TrafficSelector], &[TrafficSelector]),
    ) -> Result<(), KernelFailed> {
        let reqid = self.assign(owner)?;
        let policies = policies(reqid, path, outbound, carriage, local_ts, remote_ts)?;
        let steps = policies.iter().map(|policy| self.step(policy)).collect();
        self.all_or_nothing(steps)?;
        let requests = self.lead_now(reqid, policies);
        self.clean_up(requests);
        Ok(())
    }

    /// Notes policies that stand now. Returns what blocks the owner's flows that they leave out.
    fn lead_now(&mut self, reqid: u32, policies: Vec<Policy>) -> Vec<Request> {
        let kept: HashSet<PolicyKey> = policies.iter().map(|policy| policy.key).collect();
        for policy in policies {
            let slot = self.slots.entry(policy.key).or_insert_with(|| Slot {
                reqid,
                content: policy.content,
                blockers: BTreeSet::new(),
            });
            (slot.reqid, slot.content) = (reqid, policy.content);
            slot.blockers.insert(reqid);
        }
        let held = self.held.entry(reqid).or_default();
        held.orphaned_until = None;
        held.blocks_wanted = true;
        held.keys.extend(&kept);
        self.block_slots(reqid, |key| !kept.contains(key))
    }

    /// What fills a slot, and what brings it back to what it holds now.
    fn step(&self, policy: &Policy) -> Step {
        let key = policy.key;
        if let Some(slot) = self.slots.get(&key) {
            let before = Policy {
                key,
                reqid: slot.reqid,
                content: slot.content,
            };
            (Request::put_policy(policy), Request::put_policy(&before))
        } else if self.abandoned.contains(&key) {
            (Request::put_policy(policy), Request::delete_policy(&key))
        } else {
            (Request::add_policy(policy), Request::delete_policy(&key))
        }
    }

    /// Carries out the first halves; if one fails, the second halves of those that did not, backwards.
    fn all_or_nothing(&mut self, steps: Vec<Step>) -> Result<(), KernelFailed> {
        let (mut forth, back): (Vec<_>, Vec<_>) = steps.into_iter().unzip();
        if forth.is_empty() {
            return Ok(());
        }
        let results = self
            .netlink
            .transact(&mut forth)
            .map_err(|error| failed(&DataplaneError::Netlink(error).to_string()))?;
        let Some(refusal) = results.iter().find_map(|result| result.as_ref().err()) else {
            return Ok(());
        };
        let text = refusal.text.clone();
        let done = results.iter().map(Result::is_ok);
        let mut undo: Vec<Request> = back
            .into_iter()
            .zip(done)
            .filter_map(|(back, done)| done.then_some(back))
            .collect();
        undo.reverse();
        self.clean_up(undo);
        Err(KernelFailed { text })
    }

    /// Requests whose failure changes nothing for the caller. What is gone already was meant to go:
    /// the kernel drops states by itself when their lifetime ends.
    fn clean_up(&mut self, mut requests: Vec<Request>) {
        if requests.is_empty() {
            return;
        }
        let gone = |refusal: &Refusal| matches!(refusal.errno, Errno::ESRCH | Errno::ENOENT);
        match self.netlink.transact(&mut requests) {
            Ok(results) => {
                for refusal in results.iter().filter_map(|result| result.as_ref().err()) {
                    if !gone(refusal) {
                        warn!("{}", refusal.text);
                    }
                }
            }
            Err(error) => warn!("xfrm netlink socket: {error}"),
        }
    }

    /// Turns the owner's IPsec policies that `which` names into block policies.
    fn block_slots(&mut self, reqid: u32, which: impl Fn(&PolicyKey) -> bool) -> Vec<Request> {
        let Some(held) = self.held.get(&reqid) else {
            return Vec::new();
        };
        let mut requests = Vec::new();
        for key in held.keys.iter().filter(|key| which(key)) {
            if let Some(slot) = self.slots.get_mut(key)
                && slot.reqid == reqid
                && slot.content != Content::Block
            {
                slot.content = Content::Block;
                requests.push(Request::put_policy(&Policy {
                    key: *key,
                    reqid,
                    content: Content::Block,
                }));
            }
        }
        requests
    }

    fn remove(&mut self, owner: &Owner, inbound: u32, outbound: u32) {
        let Some(reqid) = self.journal.reqid(owner) else {
            return;
        };
        let Some(held) = self.held.get_mut(&reqid) else {
            return;
        };
        let (going, staying) = held
            .states
            .iter()
            .partition(|state| state.id.spi == if state.inbound { inbound } else { outbound });
        held.states = staying;
        let going: Vec<HeldState> = going;
        // An old SA's removal may come after its successor's install: then the policies stay.
        let last = held.states.is_empty();
        let mut requests = if last {
            self.block_slots(reqid, |_| true)
        } else {
            Vec::new()
        };
        requests.extend(going.iter().map(|state| Request::delete_state(state.id)));
        self.clean_up(requests);
    }

    fn block(
        &mut self,
        owner: &Owner,
        carriage: &Carriage,
        (local, remote): (&[TrafficSelector], &[TrafficSelector]),
    ) -> Result<(), KernelFailed> {
        let keys = slots(local, remote, carriage).map_err(|text| failed(&text))?;
        let reqid = self.assign(owner)?;
        let free: Vec<Policy> = keys
            .iter()
            .filter(|key| !self.slots.contains_key(key))
            .map(|key| Policy {
                key: *key,
                reqid,
                content: Content::Block,
            })
            .collect();
        let steps = free.iter().map(|policy| self.step(policy)).collect();
        self.all_or_nothing(steps)?;
        for key in &keys {
            let slot = self.slots.entry(*key).or_insert_with(|| Slot {
                reqid,
                content: Content::Block,
                blockers: BTreeSet::new(),
            });
            slot.blockers.insert(reqid);
        }
        let held = self.held.entry(reqid).or_default();
        held.keys.extend(keys);
        held.blocks_wanted = true;
        // Whoever asks for a block answers for it; states are answered for by an install.
        if held.states.is_empty() {
            held.orphaned_until = None;
        }
        Ok(())
    }

    /// Takes everything of one owner away, but no block that another owner wants too.
    fn release(&mut self, reqid: u32) -> Vec<Request> {
        self.inner.release(reqid);
        let mut requests = self.draining.of(reqid);
        let Some(held) = self.held.remove(&reqid) else {
            return requests;
        };
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
                    (slot.reqid, slot.content) = (*heir, Content::Block);
                    requests.push(Request::put_policy(&Policy {
                        key,
                        reqid: *heir,
                        content: Content::Block,
                    }));
                }
                Some(_) => {}
            }
        }
        requests.extend(
            held.states
                .iter()
                .map(|state| Request::delete_state(state.id)),
        );
        requests
    }
}

impl Dataplane for Xfrm {
    fn apply(&mut self, op: &KernelOp) -> Result<(), KernelFailed> {
        match op {
            KernelOp::Install(child) => self.install(child),
            KernelOp::Add(child) => self.add(child),
            KernelOp::Lead {
                owner,
                path,
                outbound,
                carriage,
                local_ts,
                remote_ts,
            } => self.lead(owner, path, *outbound, carriage, (local_ts, remote_ts)),
            KernelOp::Move {
                owner,
                path,
                udp_encap,
            } => self.relocate(owner, path, *udp_encap),
            KernelOp::Remove {
                owner,
                inbound,
                outbound,
            } => {
                self.remove(owner, *inbound, *outbound);
                Ok(())
            }
            KernelOp::Block {
                owner,
                carriage,
                local_ts,
                remote_ts,
            } => self.block(owner, carriage, (local_ts, remote_ts)),
            KernelOp::Release { owner } => {
                if let Some(reqid) = self.journal.reqid(owner) {
                    let requests = self.release(reqid);
                    self.clean_up(requests);
                }
                Ok(())
            }
        }
    }

    fn usage(&mut self, owner: &Owner) -> Option<Usage> {
        let held = self.held.get(&self.journal.reqid(owner)?)?;
        let mut usage = Usage::default();
        for state in &held.states {
            let record = self
                .netlink
                .query(Request::query_state(state.id), parse_state)
                .ok()??;
            let (bytes, packets) = if state.inbound {
                (&mut usage.in_bytes, &mut usage.in_packets)
            } else {
                (&mut usage.out_bytes, &mut usage.out_packets)
            };
            *bytes += record.bytes;
            *packets += record.packets;
        }
        (!held.states.is_empty()).then_some(usage)
    }

    fn orphan_all(&mut self, deadline: Duration) {
        for held in self.held.values_mut() {
            // A second crash does not give the orphans of the first one more time.
            held.orphaned_until = Some(held.orphaned_until.unwrap_or(deadline).min(deadline));
            held.blocks_wanted = false;
        }
    }

    fn orphans(&self) -> Vec<Orphan> {
        let orphaned = self
            .held
            .iter()
            .filter(|(_, held)| held.orphaned_until.is_some());
        orphaned
            .filter_map(|(reqid, held)| {
                let remote_ts = held
                    .keys
                    .iter()
                    .filter(|key| key.direction == Direction::Out)
                    .map(|key| {
                        let network = key.selector.destination;
                        TrafficSelector::network(network.address, network.prefix)
                    })
                    .collect();
                Some(Orphan {
                    owner: self.journal.owner(*reqid)?.clone(),
                    spis: held.states.iter().map(|state| state.id.spi).collect(),
                    remote_ts,
                    leased: self.inner.addresses(*reqid),
                })
            })
            .collect()
    }

    fn expire_orphans(&mut self, now: Duration) -> usize {
        let late: Vec<u32> = self
            .held
            .iter()
            .filter(|(_, held)| held.orphaned_until.is_some_and(|deadline| deadline <= now))
            .map(|(reqid, _)| *reqid)
            .collect();
        for reqid in &late {
            let requests = match self.held.get_mut(reqid) {
                Some(held) if held.blocks_wanted => {
                    held.orphaned_until = None;
                    let states = std::mem::take(&mut held.states);
                    let mut requests = self.block_slots(*reqid, |_| true);
                    requests.extend(states.iter().map(|state| Request::delete_state(state.id)));
                    requests
                }
                _ => self.release(*reqid),
            };
            self.clean_up(requests);
        }
        late.len()
    }

    fn drain(&mut self, now: Duration) {
        let requests = self.draining.over(now);
        self.clean_up(requests);
    }

    fn clear(&mut self) {
        for reqid in self.held.keys().copied().collect::<Vec<_>>() {
            let requests = self.release(reqid);
            self.clean_up(requests);
        }
        self.inner.clear();
    }
}
