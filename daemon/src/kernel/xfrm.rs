//! The real data plane: what every owner has in the kernel, and the order in which it changes.
//!
//! New states come first, then the policies that lead to them, and only when all of these stand do
//! the old states go. What failed half-way is undone backwards.

mod relocate;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    os::fd::BorrowedFd,
    path::Path,
    sync::Arc,
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
    Dataplane, DataplaneError, Happened, Orphan, Usage,
    carried::Carried,
    draining::{Draining, Going},
    events::Events,
    failed,
    inner::{Flow, Inner},
    journal::{Journal, MAX_OWNER, MAX_OWNERS},
    link::XfrmInterface,
    neighbours::Neighbours,
    netlink::{Netlink, Refusal},
    outage::Outage,
    policy::{Content, Direction, Policy, PolicyKey},
    rest::Trap,
    sources::Sources,
    tunnel::{HeldState, Step, policies, states},
    wire::{HASH_THRESHOLDS, Request, XFRM_MSG_GETSA, parse_spd, parse_state},
};

/// IPsec in the kernel, over netlink.
pub struct Xfrm {
    pub(super) netlink: Netlink,
    pub(super) inner: Inner,
    pub(super) sources: Sources,
    pub(super) journal: Journal,
    pub(super) held: BTreeMap<u32, Held>,
    pub(super) slots: HashMap<PolicyKey, Slot>,
    /// Policies of our reqid range whose owner the journal does not name any more. Whoever needs the slot
    /// takes it.
    pub(super) abandoned: HashMap<PolicyKey, Policy>,
    pub(super) draining: Draining,
    pub(super) carried: Carried,
    pub(super) neighbours: Neighbours,
    events: Events,
    outage: Outage,
}

/// What one owner has.
#[derive(Debug, Default)]
pub(super) struct Held {
    pub(super) states: Vec<HeldState>,
    /// What it wants in which slots, a block at least. Where owners share a slot, one has its way.
    pub(super) wanted: HashMap<PolicyKey, Content>,
    /// Its packets are to bring the connection up.
    pub(super) trap: Option<Trap>,
    /// Whether the present engine has asked for the blocks.
    pub(super) blocks_wanted: bool,
    /// Set while nobody answers for the states; they go at this time since boot.
    pub(super) orphaned_until: Option<Duration>,
    /// When one of its packets was last reported, since boot.
    pub(super) reported: Option<Duration>,
    /// When one of its peer's packets was last reported to come from elsewhere, since boot.
    pub(super) mapped: Option<Duration>,
}

/// A policy slot and all owners who want at least a block in it.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) reqid: u32,
    pub(super) content: Content,
    pub(super) blockers: BTreeSet<u32>,
}

impl Xfrm {
    /// Opens the sockets and adopts what an earlier run left. `folder` holds the journal; nothing may
    /// be orphaned beyond `deadline`. Addresses that are leased to us go on `interface`; of xfrm
    /// interfaces there are those of `interfaces` from now on, and no others of ours.
    pub fn open(
        folder: &Path,
        deadline: Duration,
        interface: &str,
        interfaces: &[XfrmInterface],
    ) -> Result<Self, DataplaneError> {
        let mut xfrm = Self {
            netlink: Netlink::open(NETLINK_XFRM)?,
            inner: Inner::open(interface, interfaces)?,
            sources: Sources::open()?,
            journal: Journal::open(folder.join("reqids"))?,
            held: BTreeMap::new(),
            slots: HashMap::new(),
            abandoned: HashMap::new(),
            draining: Draining::default(),
            carried: Carried::default(),
            neighbours: Neighbours::default(),
            events: Events::open()?,
            outage: Outage::open()?,
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

    pub(super) fn assign(&mut self, owner: &Owner) -> Result<u32, KernelFailed> {
        if owner.0.is_empty() || owner.0.len() > MAX_OWNER || owner.0.contains(char::is_control) {
            return Err(failed(
                "the owner's name is empty, too long or not printable",
            ));
        }
        if let Some(reqid) = self.journal.reqid(owner) {
            return Ok(reqid);
        }
        let held = &self.held;
        let reqid = self
            .journal
            .assign(owner, |reqid| held.contains_key(&reqid))
            .map_err(|error| failed(&error.to_string()))?;
        // The number may have been another owner's, long ago, whose account nobody has asked for.
        self.carried.forget(reqid);
        if self.carried.len() > MAX_OWNERS {
            let journal = &self.journal;
            self.carried.retain(|reqid| journal.owner(reqid).is_some());
        }
        Ok(reqid)
    }

    fn install(&mut self, child: &ChildInstall) -> Result<(), KernelFailed> {
        let reqid = self.assign(&child.owner)?;
        let device = self.device(child)?;
        let (states, mut steps) = states(child, reqid, (device, self.inner.has_links()))?;
        let ChildInstall {
            path,
            outbound,
            carriage,
            local_ts,
            remote_ts,
            ..
        } = child;
        let policies = policies(reqid, path, outbound.spi, carriage, local_ts, remote_ts)?;
        self.spare_neighbours(policies.iter().map(|policy| &policy.key))?;
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
        let requests = self.lead_now(reqid, policies);
        let going = self.draining.replaced(reqid, old);
        self.retire(requests, &going);
        let peer = child.addresses().1;
        self.sources
            .lead(reqid, &Flow::waiting(carriage, peer, local_ts, remote_ts));
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
        let (states, steps) = states(child, reqid, (device, self.inner.has_links()))?;
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
        self.spare_neighbours(policies.iter().map(|policy| &policy.key))?;
        let steps = policies.iter().map(|policy| self.step(policy)).collect();
        self.all_or_nothing(steps)?;
        let requests = self.lead_now(reqid, policies);
        self.clean_up(requests);
        let peer = path.remote.ip();
        self.sources
            .lead(reqid, &Flow::waiting(carriage, peer, local_ts, remote_ts));
        Ok(())
    }

    /// Notes policies that stand now. Returns what blocks the owner's flows that they leave out.
    fn lead_now(&mut self, reqid: u32, policies: Vec<Policy>) -> Vec<Request> {
        let kept: HashSet<PolicyKey> = policies.iter().map(|policy| policy.key).collect();
        for policy in &policies {
            self.take(policy);
        }
        let held = self.held.entry(reqid).or_default();
        held.orphaned_until = None;
        held.blocks_wanted = true;
        let wanted = policies.iter().map(|policy| (policy.key, policy.content));
        held.wanted.extend(wanted);
        self.block_slots(reqid, |key| !kept.contains(key))
    }

    /// What fills a slot, and what brings it back to what it holds now.
    pub(super) fn step(&self, policy: &Policy) -> Step {
        let key = policy.key;
        let ours = self.slots.get(&key).map(|slot| Policy {
            key,
            reqid: slot.reqid,
            content: slot.content,
        });
        match ours.or_else(|| self.abandoned.get(&key).copied()) {
            Some(before) => (Request::put_policy(policy), Request::put_policy(&before)),
            None => (Request::add_policy(policy), Request::delete_policy(&key)),
        }
    }

    /// What stands in the slot is the owner's now.
    pub(super) fn take(&mut self, policy: &Policy) {
        self.abandoned.remove(&policy.key);
        let slot = self.slots.entry(policy.key).or_insert_with(|| Slot {
            reqid: policy.reqid,
            content: policy.content,
            blockers: BTreeSet::new(),
        });
        (slot.reqid, slot.content) = (policy.reqid, policy.content);
        slot.blockers.insert(policy.reqid);
    }

    /// Carries out the first halves; if one fails, the second halves of those that did not, backwards.
    pub(super) fn all_or_nothing(&mut self, steps: Vec<Step>) -> Result<(), KernelFailed> {
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
    pub(super) fn clean_up(&mut self, requests: Vec<Request>) {
        self.retire(requests, &[]);
    }

    /// The same, and behind them the end of states, whose counts are read in the same breath.
    pub(super) fn retire(&mut self, mut requests: Vec<Request>, going: &[Going]) {
        let before = requests.len();
        for Going { state, .. } in going {
            requests.push(Request::query_state(state.id));
            requests.push(Request::delete_state(state.id));
        }
        if requests.is_empty() {
            return;
        }
        let (carried, journal) = (&mut self.carried, &self.journal);
        let read = |at: usize, body: &[u8]| {
            let place = at.checked_sub(before).map(|place| place / 2);
            let of = place.and_then(|place| going.get(place));
            if let (Some(of), Some(record)) = (of, parse_state(body)) {
                let counts = (record.bytes, record.packets);
                let connection = journal.owner(of.reqid).map(Owner::connection);
                carried.add((of.reqid, connection), of.state.inbound, counts);
            }
        };
        let gone = |refusal: &Refusal| matches!(refusal.errno, Errno::ESRCH | Errno::ENOENT);
        match self.netlink.transact_reading(&mut requests, read) {
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
        if held.states.is_empty() {
            let requests = self.block_slots(reqid, |_| true);
            self.retire(requests, &all(reqid, going));
        } else {
            // The peer's DELETE may overtake the last packets that it has sent by the old one, for IKE
            // leaves its daemon while the kernel still follows.
            let going = self.draining.replaced(reqid, going);
            self.retire(Vec::new(), &going);
        }
    }

    /// What states have carried so far.
    fn counts_of(&mut self, states: &[HeldState]) -> Usage {
        let mut usage = Usage::default();
        for state in states {
            let asked = Request::query_state(state.id);
            // One that the kernel has ended by itself is about to be heard of.
            if let Some(record) = self.netlink.query(asked, parse_state).ok().flatten() {
                usage.add(state.inbound, (record.bytes, record.packets));
            }
        }
        usage
    }

    fn drained_of(&self, reqid: u32) -> Vec<HeldState> {
        self.draining.waiting(reqid).copied().collect()
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
                peer,
                local_ts,
                remote_ts,
            } => self.block(owner, carriage, *peer, (local_ts, remote_ts)),
            KernelOp::Trap {
                owner,
                carriage,
                ends,
                local_ts,
                remote_ts,
            } => self.trap(owner, carriage, *ends, (local_ts, remote_ts)),
            KernelOp::Release { owner } => {
                if let Some(reqid) = self.journal.reqid(owner) {
                    self.release(reqid);
                }
                Ok(())
            }
        }
    }

    fn usage(&mut self, owner: &Owner) -> Option<Usage> {
        let reqid = self.journal.reqid(owner)?;
        let held = self.held.get(&reqid)?;
        let mut states = held.states.clone();
        if states.is_empty() {
            return None;
        }
        states.extend(self.drained_of(reqid));
        let present = self.counts_of(&states);
        Some(self.carried.since_account(reqid, present))
    }

    fn account(&mut self, owner: &Owner) -> Usage {
        let Some(reqid) = self.journal.reqid(owner) else {
            return Usage::default();
        };
        let drained = self.drained_of(reqid);
        let present = self.counts_of(&drained);
        let held = self.held.get(&reqid);
        let goes_on = !drained.is_empty() || held.is_some_and(|held| !held.states.is_empty());
        self.carried.account(reqid, present, goes_on)
    }

    fn traffic(&mut self) -> Option<BTreeMap<Arc<str>, Usage>> {
        let dump = Request::dump("listing SAs", XFRM_MSG_GETSA);
        let states = self.netlink.dump(dump, parse_state);
        let states = states.inspect_err(|error| warn!("{error}")).ok()?;
        let held = self.held.values().flat_map(|held| &held.states);
        let ours: HashMap<_, _> = held
            .chain(self.draining.all())
            .map(|state| (state.id, state.inbound))
            .collect();
        let mut present: BTreeMap<Arc<str>, Usage> = BTreeMap::new();
        for state in states {
            let owner = self.journal.owner(state.reqid);
            if let (Some(inbound), Some(owner)) = (ours.get(&state.id), owner) {
                let total = present.entry(owner.connection().into()).or_default();
                total.add(*inbound, (state.bytes, state.packets));
            }
        }
        Some(self.carried.totals(present).clone())
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
                    .wanted
                    .keys()
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
            match self.held.get_mut(reqid) {
                Some(held) if held.blocks_wanted => {
                    held.orphaned_until = None;
                    let states = std::mem::take(&mut held.states);
                    let requests = self.block_slots(*reqid, |_| true);
                    self.retire(requests, &all(*reqid, states));
                }
                _ => self.release(*reqid),
            }
        }
        late.len()
    }

    fn events(&self) -> Option<BorrowedFd<'_>> {
        Some(self.events.as_fd())
    }

    fn happened(&mut self, now: Duration) -> Vec<Happened> {
        let heard = self.events.read();
        heard
            .into_iter()
            .flat_map(|heard| self.heard(heard, now))
            .collect()
    }

    fn drain(&mut self, now: Duration) {
        let going = self.draining.over(now);
        self.retire(Vec::new(), &going);
    }

    fn mend(&mut self, now: Duration) {
        if self.outage.is_over(now) {
            self.inner.put_back();
            self.sources.put_back();
        }
    }

    fn clear(&mut self) {
        for reqid in self.held.keys().copied().collect::<Vec<_>>() {
            self.release(reqid);
        }
        // An earlier run may have left it.
        let requests = self.forget_neighbours();
        self.clean_up(requests);
        self.inner.clear();
        self.sources.clear();
    }
}

fn all(reqid: u32, states: Vec<HeldState>) -> Vec<Going> {
    let states = states.into_iter();
    states.map(|state| Going { reqid, state }).collect()
}
