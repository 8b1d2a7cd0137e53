//! MOBIKE (RFC 4555): an IKE SA and its Child SAs move to other addresses. Whoever has begun the first IKE
//! SA tells the other side where it is now; the other side lets it show that it is there, and only then
//! sends traffic to it. Without MOBIKE a client that has moved connects anew.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

use super::{Detour, notify_data};
use crate::{
    endpoint::{Context, Endpoint},
    failure::{Cause, Failure, Standing},
    io::{Event, Output, Path},
    kernel::{KernelOp, Owner},
    sa::{
        children::Beside,
        ike_sa::{IkeSa, Live, Purpose, State},
        mobike::addresses_in,
        nat::Nat,
    },
    view::Closed,
    wire::{
        header::{Exchange, Header},
        notify::NotifyKind,
        payload::{Chain, ChainWriter},
    },
};

/// Octets of our COOKIE2, which may have 8 to 64 (RFC 4555, 4.2.5).
const COOKIE2_LEN: usize = 16;

/// How long a Child SA may wait for its successor that the kernel has not moved.
const LEFT_BEHIND: Duration = Duration::from_secs(30);

/// A request that has been sent so often without an answer goes to other addresses of the peer, too.
const TRIES_OF_ONE_PATH: usize = 3;

impl Endpoint {
    /// Packets to the connection's peer leave from this address of ours from now on. What has been begun
    /// by us goes on from there.
    pub fn relocate(&mut self, connection: &str, local: IpAddr, cx: &mut Context<'_>) {
        let Some(at) = self.slot_of(connection) else {
            return;
        };
        let Some(config) = self.slots.get(at).map(|slot| Arc::clone(&slot.config)) else {
            return;
        };
        if config.local_addr.is_some() {
            return;
        }
        self.set_local_address(connection, local);
        self.retry_now(at, cx.now.boot);
        for id in self.ids_of(&config) {
            if let Some(sa) = self.table.check_out(id) {
                self.relocate_sa(sa, at, local, cx);
            }
        }
    }

    fn relocate_sa(&mut self, mut sa: IkeSa, slot: usize, local: IpAddr, cx: &mut Context<'_>) {
        let mut path = sa.path;
        path.local.set_ip(local);
        if path == sa.path || local.is_ipv4() != path.remote.is_ipv4() {
            return self.check_in(sa);
        }
        match &mut sa.state {
            State::InitSent(_) => {
                sa.path = path;
                self.send_init(sa, cx);
            }
            State::ResumeSent(_) => {
                sa.path = path;
                self.send_resume(sa, cx);
            }
            // It may have been answered, to where nobody is any more: from the beginning.
            State::AuthSent(sent) => {
                let (connection, record) = (Arc::clone(&sent.connection), sent.resumed.take());
                let resumes = record.is_some();
                self.forget(&sa);
                self.give_back(&connection, record);
                let is_up = |id: &u64| {
                    let sa = self.table.get(*id);
                    sa.is_some_and(|sa| matches!(sa.state, State::Up(_)))
                };
                let beside = self.ids_of(&connection).iter().any(is_up);
                let elsewhere = !resumes && connection.remote_addr != Some(path.remote.ip());
                let detour = Detour {
                    local,
                    gateway: path.remote.ip(),
                    from: None,
                };
                // Fails if the table is full, and then there is another try later.
                let _later = if beside || elsewhere {
                    self.start_full(slot, Some(detour), cx)
                } else {
                    self.begin(slot, cx)
                };
            }
            State::Installing(live, _) if live.client && live.mobike.is_none() => {
                self.forget(&sa);
                let _later = self.begin(slot, cx);
            }
            State::Installing(live, _) | State::Up(live) if live.client => {
                let Some(mobike) = &mut live.mobike else {
                    return self.close(sa, Closed::Moved, cx);
                };
                mobike.update_pending = true;
                sa.path = path;
                self.move_children(live, path);
                if let Some((_, out)) = &mut live.outstanding {
                    let message = out.start_over(cx.now.boot);
                    self.send_all(path, &message);
                }
                self.check_in(sa);
            }
            _ => self.check_in(sa),
        }
    }

    /// Whatever the kernel has of an SA goes between these addresses from now on.
    pub(crate) fn move_children(&mut self, live: &mut Live, path: Path) {
        let pending = live.pending.iter_mut().map(|pending| &mut pending.child);
        // What has been handed over is beside an SA that may have another peer; its owner is that one's.
        let stays = |_: &&mut Beside| live.heir.is_none();
        let beside = live.beside.iter_mut().filter(stays);
        let beside = beside.map(|beside| &mut beside.child);
        let mut owners = BTreeSet::new();
        for child in live.children.iter_mut().chain(pending).chain(beside) {
            child.path = path;
            owners.insert(child.owner.clone());
        }
        for owner in owners {
            let op = self.table.op_of_move(owner.clone(), path);
            let what = KernelOp::Move {
                owner,
                path,
                udp_encap: live.nat.found(),
            };
            self.output(Output::Kernel { op, what });
        }
    }

    /// The kernel has refused a move, and its states are where nobody is any more. New ones are made where
    /// their Child SA should be; one that has none in time ends as one whose time is over.
    pub(crate) fn not_moved(
        &mut self,
        (owner, path): &(Owner, Path),
        text: &str,
        cx: &mut Context<'_>,
    ) {
        let now = cx.now.boot;
        for id in self.table.of_owner(owner) {
            let Some(mut sa) = self.table.check_out(id) else {
                continue;
            };
            let mut failure = None;
            if let State::Installing(live, _) | State::Up(live) = &mut sa.state
                && live.left_behind(owner, *path, now)
            {
                let cause = Cause::unmoved(text);
                failure = Some(Failure::of_live(
                    live,
                    *path,
                    Exchange::Informational,
                    cause,
                ));
            }
            self.check_in(sa);
            if let Some(failure) = failure {
                self.failed(Standing::Proven, now, || failure);
            }
        }
    }

    /// Initiator: tells the responder of the addresses, or has the present path confirmed.
    pub(crate) fn send_update(&mut self, mut sa: IkeSa, cx: &Context<'_>) {
        let (path, spi_i, spi_r) = (sa.path, sa.spi_i, sa.spi_r);
        let mut encap = false;
        if let State::Up(live) = &mut sa.state {
            encap = live.connection.encap;
            if let Some(mobike) = &mut live.mobike {
                mobike.update_pending = false;
            }
            if live.children.iter().any(|child| child.path != path) {
                self.move_children(live, path);
            }
        }
        let mut chain = ChainWriter::new();
        chain.notify(NotifyKind::UPDATE_SA_ADDRESSES, &[]);
        Nat::announce(&mut chain, (spi_i, spi_r), &path, encap);
        self.send_request(sa, Purpose::Update(path), chain, cx);
    }

    /// Responder: has the peer show that it is where it says (RFC 4555, 3.7).
    pub(crate) fn send_check(&mut self, sa: IkeSa, cx: &mut Context<'_>) {
        let mut cookie = vec![0; COOKIE2_LEN];
        cx.env.random(&mut cookie);
        let mut chain = ChainWriter::new();
        chain.notify(NotifyKind::COOKIE2, &cookie);
        let path = sa.path;
        self.send_request(sa, Purpose::Check { cookie, path }, chain, cx);
    }

    /// Either side: what an INFORMATIONAL request says of addresses. `ike` are those of the IKE SA, `from`
    /// those that the request came by.
    pub(crate) fn answer_addresses(
        &mut self,
        live: &mut Live,
        (ike, from): (&mut Path, Path),
        header: &Header,
        request: &Chain<'_>,
        answer: &mut ChainWriter,
    ) {
        let Some(mobike) = &mut live.mobike else {
            return;
        };
        let cookie = notify_data(request, NotifyKind::COOKIE2);
        if let Some(cookie) = cookie.filter(|cookie| (8..=64).contains(&cookie.len())) {
            answer.notify(NotifyKind::COOKIE2, cookie);
        }
        let updates = notify_data(request, NotifyKind::UPDATE_SA_ADDRESSES).is_some();
        let addresses = addresses_in(request);
        if (updates || addresses.is_some()) && !no_nat_in_between(request, &from) {
            answer.notify(NotifyKind::UNEXPECTED_NAT_DETECTED, &[]);
            return;
        }
        let asked = Nat::is_asked(request);
        if asked {
            let spis = (header.spi_i, header.spi_r);
            Nat::announce(answer, spis, &from, live.connection.encap);
        }
        if let Some(addresses) = addresses {
            mobike.additional = addresses;
            let there = |address: IpAddr| {
                address == from.remote.ip() || mobike.additional.contains(&address)
            };
            if live.client && !there(ike.remote.ip()) {
                // It is not any more where we send to (RFC 4555, 3.5).
                ike.remote.set_ip(from.remote.ip());
                mobike.update_pending = true;
            }
        }
        if !updates || live.client {
            return;
        }
        if !live.connection.accepts(&from) {
            answer.notify(NotifyKind::UNACCEPTABLE_ADDRESSES, &[]);
            return;
        }
        let nat = if asked {
            Nat::detect(request, header, &from, live.connection.encap)
        } else {
            Nat::default()
        };
        *ike = from;
        let proven = live.children.first().map(|child| child.path.remote.ip());
        if proven.is_none_or(|proven| proven == from.remote.ip()) {
            mobike.unchecked = None;
            self.moved(live, from, nat);
        } else {
            mobike.unchecked = Some(nat);
        }
    }

    /// Initiator: the responder has answered UPDATE_SA_ADDRESSES, which was sent on `asked`.
    pub(crate) fn update_response(
        &mut self,
        mut sa: IkeSa,
        (asked, came): (Path, Path),
        header: &Header,
        chain: &Chain<'_>,
        cx: &mut Context<'_>,
    ) {
        let path = sa.path;
        let State::Up(live) = &mut sa.state else {
            return self.check_in(sa);
        };
        let Some(mobike) = &mut live.mobike else {
            return self.check_in(sa);
        };
        if path != asked || mobike.update_pending {
            // We have moved on meanwhile, and say so next (RFC 4555, 3.5).
            mobike.update_pending = true;
            return self.check_in(sa);
        }
        if chain.notifies().any(|notify| notify.kind.is_error()) {
            // Not to these addresses. A resumption asks the peer's policy anew.
            return self.close(sa, Closed::Moved, cx);
        }
        mobike.seen_as = seen_in(chain).to_vec();
        let nat = Nat::detect(chain, header, &came, live.connection.encap);
        self.moved(live, path, nat);
        self.check_in(sa);
    }

    /// Responder: the peer has returned a COOKIE2, or another one.
    pub(crate) fn check_response(
        &mut self,
        mut sa: IkeSa,
        (cookie, asked): (&[u8], Path),
        chain: &Chain<'_>,
        cx: &mut Context<'_>,
    ) {
        let path = sa.path;
        let State::Up(live) = &mut sa.state else {
            return self.check_in(sa);
        };
        if notify_data(chain, NotifyKind::COOKIE2) != Some(cookie) {
            // RFC 4555, 3.7.
            return self.close(sa, Closed::Protocol, cx);
        }
        // What went to several addresses does not show which one works; the next one will.
        let unchecked = live.mobike.as_mut().filter(|_| path == asked);
        if let Some(nat) = unchecked.and_then(|mobike| mobike.unchecked.take()) {
            self.moved(live, path, nat);
        }
        self.check_in(sa);
    }

    /// Both sides know: the traffic goes between these addresses.
    fn moved(&mut self, live: &mut Live, path: Path, nat: Nat) {
        let encapsulated = live.nat.found();
        live.nat = nat;
        let there = live.children.iter().all(|child| child.path == path);
        if !there || encapsulated != nat.found() {
            self.move_children(live, path);
        }
        let connection = Arc::clone(&live.connection.name);
        self.event(Event::Moved { connection, path });
    }
}

impl Live {
    /// Of this owner's Child SAs, those that should be between these addresses and are not: whether there
    /// are any. Each is to have a successor at once.
    fn left_behind(&mut self, owner: &Owner, path: Path, now: Duration) -> bool {
        let pending = self.pending.iter_mut().map(|pending| &mut pending.child);
        let stays = |_: &&mut Beside| self.heir.is_none();
        let beside = self.beside.iter_mut().filter(stays);
        let beside = beside.map(|beside| &mut beside.child);
        let mut any = false;
        for child in self.children.iter_mut().chain(pending).chain(beside) {
            if child.owner == *owner && child.path == path {
                child.rekey_at = Some(now);
                child.end = child.end.min(now + LEFT_BEHIND);
                any = true;
            }
        }
        any
    }

    /// Initiator: a request, for this purpose, was answered by this path, which need not be the one that
    /// it was sent on last; and a sign of life says where the responder sees us.
    pub(crate) fn path_answers(
        &mut self,
        ike: &mut Path,
        (came, purpose): (Path, Option<&Purpose>),
        chain: &Chain<'_>,
    ) {
        let known = self.is_peer_at(came.remote.ip());
        let behind_nat = self.nat.is_translated();
        let Some(mobike) = self.mobike.as_mut().filter(|_| self.client) else {
            return;
        };
        if known {
            ike.remote.set_ip(came.remote.ip());
        }
        let elsewhere = |path: &Path| path.remote != ike.remote;
        let moves = self.children.iter().any(|child| elsewhere(&child.path));
        let seen = seen_in(chain);
        let asked = behind_nat && matches!(purpose, Some(Purpose::Liveness)) && !seen.is_empty();
        // The NAT has another mapping for us, or it is the first look at it (RFC 4555, 3.8).
        mobike.update_pending |= moves || asked && *seen != *mobike.seen_as;
    }

    /// Whether the peer was called there, or has said that it can be reached there.
    fn is_peer_at(&self, address: IpAddr) -> bool {
        self.peer_addresses().any(|one| one == address)
    }

    fn peer_addresses(&self) -> impl Iterator<Item = IpAddr> {
        let mobike = self.mobike.as_ref();
        let said = mobike.into_iter().flat_map(|mobike| &mobike.additional);
        let called = mobike.and_then(|mobike| mobike.called);
        called.into_iter().chain(said.copied())
    }

    /// Initiator: where to send what the peer does not answer, after so many tries.
    pub(crate) fn other_path(&self, path: Path, tries: usize) -> Path {
        if !self.client || self.mobike.is_none() || tries <= TRIES_OF_ONE_PATH {
            return path;
        }
        let same_family = |one: &IpAddr| one.is_ipv4() == path.local.is_ipv4();
        let ways: Vec<_> = self.peer_addresses().filter(same_family).collect();
        let at = ways.iter().position(|one| *one == path.remote.ip());
        let next = ways.iter().cycle().nth(at.map_or(0, |at| at + 1));
        let mut other = path;
        other
            .remote
            .set_ip(next.map_or(path.remote.ip(), |next| *next));
        other
    }

    /// Between which addresses the tunnel of a new Child SA goes: those of the IKE SA (RFC 4555, 3.3), unless
    /// the peer has yet to show that it is there.
    pub(crate) fn tunnel_path(&self, ike: Path) -> Path {
        let unchecked = self
            .mobike
            .as_ref()
            .is_some_and(|mobike| mobike.unchecked.is_some());
        let present = self.children.first().filter(|_| unchecked);
        present.map_or(ike, |child| child.path)
    }

    /// Whether the peer has to be told of addresses, or asked about its own, as soon as may be.
    pub(crate) fn has_moved(&self) -> bool {
        let Some(mobike) = &self.mobike else {
            return false;
        };
        mobike.update_pending || mobike.unchecked.is_some() && self.moved_until.is_none()
    }
}

/// Where the sender of a message sees us, as a hash; empty if it does not say.
fn seen_in<'a>(chain: &Chain<'a>) -> &'a [u8] {
    notify_data(chain, NotifyKind::NAT_DETECTION_DESTINATION_IP).unwrap_or_default()
}

/// Whether a message that must not meet a NAT has met none (RFC 4555, 3.9 and 4.2.6).
pub(super) fn no_nat_in_between(request: &Chain<'_>, from: &Path) -> bool {
    let Some(claimed) = notify_data(request, NotifyKind::NO_NATS_ALLOWED) else {
        return true;
    };
    let mut ends = Vec::new();
    for end in [from.remote, from.local] {
        match end.ip() {
            IpAddr::V4(v4) => ends.extend_from_slice(&v4.octets()),
            IpAddr::V6(v6) => ends.extend_from_slice(&v6.octets()),
        }
    }
    for end in [from.remote, from.local] {
        ends.extend_from_slice(&end.port().to_be_bytes());
    }
    claimed == ends
}
