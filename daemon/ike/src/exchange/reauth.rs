//! Authenticating anew before the old authentication ends (RFC 7296, 2.8.3; RFC 4478): a whole new
//! IKE SA with its Child SAs comes up beside the old one, and the old one goes when the new one carries
//! all the traffic. A client that goes to another gateway does the same (RFC 5685, 5).
//!
//! The Child SAs change hands one by one, in the order in which the client makes them. The gateway cannot
//! know when the client has its answer. Both of the two Child SAs receive from the beginning; it sends on
//! the new one when the client has deleted the old SA, or after a moment. A client
//! that says it has no other SA with us, or comes with a ticket, has lost the old one: then the new one
//! takes its place at once.
//!
//! A client whose peer makes nothing new on the old SA gets its new keys this way too (RFC 7296, 1.3 and 4).

use std::{net::IpAddr, sync::Arc, time::Duration};

use super::{Detour, chance_between, judge::auth_lifetime};
use crate::{
    endpoint::{Context, Endpoint},
    failure::{Cause, Failure, Standing},
    io::Path,
    kernel::Owner,
    sa::{
        children::{Beside, Fate},
        ike_sa::{ChildSa, IkeSa, Live, State},
    },
    view::Closed,
    wire::{header::Exchange, notify::NotifyKind, payload::Chain},
};

/// What we send so long after our answer comes to the client so long after it, whatever the way: it has its
/// new states by then. And a client that has lost the old one waits no longer for its traffic.
const LEADS_AFTER: Duration = Duration::from_millis(100);
/// For what is under way on the old SA after that.
const STAYS_FOR: Duration = Duration::from_secs(3);
/// How long a client waits for the answer to its DELETE of the old SA.
const GOES_WITHIN: Duration = Duration::from_secs(30);
/// A login that fails is tried again while there is time, but not more often than this.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// What stands beside an IKE SA to take its place.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Heir {
    /// It receives, and takes over by then what it can.
    Waits(Duration),
    /// It carries the traffic, all or what the old SA has no Child SA for any more.
    Leads,
    /// It is to be had at another gateway.
    Elsewhere,
}

impl Live {
    /// Client: plans to authenticate anew before the gateway or our own settings end this SA; by chance
    /// somewhat earlier than need be, and clients of one gateway do not come in step.
    pub(super) fn plan_reauth(&mut self, cx: &mut Context<'_>) {
        let now = cx.now.boot;
        let left = self.auth_until.saturating_sub(now);
        let bounds = (left / 100 * 80, left / 100 * 90);
        let planned = self.client && self.auth_until != Duration::MAX;
        self.reauth_at = planned.then(|| now + chance_between(bounds, cx.env));
    }

    /// Client: the gateway may say how long our authentication counts from now on (RFC 4478, 3).
    pub(super) fn take_auth_lifetime(&mut self, request: &Chain<'_>, cx: &mut Context<'_>) {
        let Some(lifetime) = auth_lifetime(request).filter(|_| self.client) else {
            return;
        };
        let own = self.connection.reauth;
        let own = own.map_or(Duration::MAX, |after| self.origin.full_auth.after(after));
        self.auth_until = own.min(cx.now.boot.saturating_add(lifetime));
        let whole = self.established + self.connection.ike_lifetime;
        self.end = whole.min(self.auth_until);
        self.plan_reauth(cx);
    }
}

impl Endpoint {
    /// Client: time to log in again, at the gateway that it has its SA with.
    pub(super) fn begin_reauth(&mut self, mut sa: IkeSa, cx: &mut Context<'_>) {
        let now = cx.now.boot;
        let Path { local, remote } = sa.path;
        let State::Up(live) = &mut sa.state else {
            return self.check_in(sa);
        };
        // A Child SA that gets no new keys may end before it.
        let ends = live.children.iter().map(|child| child.end);
        let end = ends.fold(live.end, Duration::min);
        let left = end.saturating_sub(now);
        live.reauth_at = Some(now + TRY_AGAIN.max(left / 4));
        let connection = Arc::clone(&live.connection);
        let has_heir = live.heir.is_some() && !self.ids_of(&connection).is_empty();
        self.check_in(sa);
        if has_heir || !self.table.attempts_at(&connection.name).is_empty() {
            return;
        }
        if let Some(slot) = self.slot_of(&connection.name) {
            let detour = Detour {
                local: local.ip(),
                gateway: remote.ip(),
                from: None,
            };
            // With a full table it is tried again; the old SA goes on until its end.
            let _full = self.start_full(slot, Some(detour), cx);
        }
    }

    /// The peer refuses new keys, for it makes nothing new on this IKE SA. A client has them with a new one,
    /// made beside it; a gateway waits for its client.
    pub(super) fn renew(&mut self, mut sa: IkeSa, cx: &mut Context<'_>) {
        let path = sa.path;
        let State::Up(live) = &mut sa.state else {
            return self.check_in(sa);
        };
        self.no_more(live, path, cx);
        if live.client {
            self.begin_reauth(sa, cx);
        } else {
            self.check_in(sa);
        }
    }

    /// Says that the peer makes nothing new on an IKE SA.
    pub(super) fn no_more(&mut self, live: &Live, path: Path, cx: &Context<'_>) {
        self.failed(Standing::Proven, cx.now.boot, || {
            let failure = Failure::of_live(live, path, Exchange::CreateChildSa, Cause::Refused);
            Failure {
                ours: true,
                ..failure.received(NotifyKind::NO_ADDITIONAL_SAS)
            }
        });
    }

    /// The SA that a new one between the same two sides is to stand beside; `None` if it is to take the
    /// place of whatever there is.
    /// A gateway takes a client for the same one only where it is.
    pub(super) fn predecessor(&self, new: &Live, peer_at: IpAddr) -> Option<u64> {
        if new.alone || new.origin.resumed {
            return None;
        }
        let owner = &new.children.first()?.owner;
        let [only] = self.table.of_owner(owner)[..] else {
            return None;
        };
        let sa = self.table.get(only)?;
        let State::Up(old) = &sa.state else {
            return None;
        };
        let fits = old.client == new.client
            && (old.client || sa.path.remote.ip() == peer_at)
            && old.leased.addresses == new.leased.addresses
            && old.child_of(owner).is_some()
            && old.is_settled();
        fits.then_some(only)
    }

    /// The SA that carries the traffic of this owner, and has another one beside it to take its place.
    pub(super) fn stands_with_heir(&self, owner: &Owner) -> Option<u64> {
        let [only] = self.table.of_owner(owner)[..] else {
            return None;
        };
        let State::Up(old) = &self.table.get(only)?.state else {
            return None;
        };
        let stands = old.child_of(owner).is_some() && !old.is_in_flux(owner);
        (stands && old.heir.is_some()).then_some(only)
    }

    /// A Child SA of a new SA is up beside that of the old one, in the kernel too.
    pub(super) fn stands_beside(&mut self, new: u64, old: u64, cx: &mut Context<'_>) {
        let Some(mut old) = self.table.check_out(old) else {
            return self.lead_all(new);
        };
        let State::Up(live) = &mut old.state else {
            self.check_in(old);
            return self.lead_all(new);
        };
        live.heir = Some(Heir::Waits(cx.now.boot + LEADS_AFTER));
        if !live.client {
            return self.check_in(old);
        }
        // The gateway has all of the new one, or it would not have answered.
        self.hand_over(live, GOES_WITHIN, cx);
        if live.children.is_empty() {
            return self.begin_delete(old, Closed::Rekeyed, cx);
        }
        let left: Vec<_> = live.children.iter().map(|child| &child.name).collect();
        if let Some(mut new) = self.table.check_out(new) {
            if let State::Up(live) = &mut new.state {
                for name in left {
                    live.want_too(name, cx.now.boot);
                }
            }
            self.check_in(new);
        }
        self.check_in(old);
    }

    /// The traffic of an SA goes to the one that stands beside it, as far as that has Child SAs for it. What
    /// the old ones received so far they receive for a while yet.
    pub(crate) fn hand_over(&mut self, live: &mut Live, stays: Duration, cx: &Context<'_>) {
        live.heir = match live.heir {
            Some(Heir::Waits(_)) => None,
            _ => return,
        };
        let by = cx.now.boot + stays;
        for child in std::mem::take(&mut live.children) {
            match self.other_of(&child.owner).map(ChildSa::leads) {
                Some(lead) => {
                    self.kernel(lead);
                    let fate = Fate::Goes { by };
                    live.beside.push(Beside { child, fate });
                    live.heir = Some(Heir::Leads);
                }
                None => live.children.push(child),
            }
        }
        if live.children.is_empty() {
            live.moved_until = Some(by);
        }
    }

    /// The Child SA of the same owner that another SA has.
    fn other_of(&self, owner: &Owner) -> Option<&ChildSa> {
        let others = self.table.of_owner(owner);
        let sa = self.table.get(*others.last()?)?;
        let (State::Up(live) | State::Installing(live, _)) = &sa.state else {
            return None;
        };
        live.child_of(owner)
    }

    /// There is nothing to hand over any more.
    fn lead_all(&mut self, id: u64) {
        let state = self.table.get(id).map(|sa| &sa.state);
        if let Some(State::Up(live)) = state {
            let leads: Vec<_> = live.children.iter().map(ChildSa::leads).collect();
            for lead in leads {
                self.kernel(lead);
            }
        }
    }

    /// Gateway: the client has not deleted its old SA. The new one takes over; and later the old one goes,
    /// with one word to a client that may have forgotten it.
    pub(super) fn heir_due(&mut self, mut sa: IkeSa, cx: &mut Context<'_>) {
        let State::Up(live) = &mut sa.state else {
            return self.check_in(sa);
        };
        if let Some(Heir::Waits(by)) = &mut live.heir {
            if live.pending.is_empty() {
                self.hand_over(live, STAYS_FOR, cx);
            } else {
                // What the kernel says comes first.
                *by = cx.now.boot + LEADS_AFTER;
            }
            return self.check_in(sa);
        }
        self.farewell(&mut sa);
        self.close(sa, Closed::Rekeyed, cx);
    }
}
