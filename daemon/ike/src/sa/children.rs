//! The Child SAs of an IKE SA, those that stand beside them while they are replaced (RFC 7296, 2.8), and
//! those that are still to be made. Each lives on its own; what belongs together has one owner.

use std::{sync::Arc, time::Duration};

use super::ike_sa::{Live, Purpose, Rekeying};
use crate::{
    crypto::{Group, KeyShare},
    endpoint::Context,
    exchange::{Heir, Refusal, chance_between},
    io::Path,
    kernel::{Carriage, EspCipher, KernelOp, Owner},
    peer::Connection,
    wire::{
        notify::NotifyKind,
        payload::{Chain, ChainWriter},
        sa::PROTOCOL_ESP,
        ts::TrafficSelector,
    },
};

/// Once a resumed IKE SA has keys of its own, its Child SA gets some within this time.
const AFTER_IKE_REKEY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// A peer that has not gone on by then has had our answer all the same.
const HEARD: Duration = Duration::from_secs(30);

/// A peer that puts us off for so long has lost track (RFC 7296, 2.25: "several minutes").
const OUT_OF_SYNC: Duration = Duration::from_mins(5);

/// One that has not for so long has been in step since: more than a pause and all repetitions of a request.
const IN_STEP: Duration = Duration::from_mins(2);

/// One pair of ESP states and what was agreed for it.
#[derive(Debug)]
pub(crate) struct ChildSa {
    /// Which child of the connection it is.
    pub name: Arc<str>,
    pub owner: Owner,
    /// Outer addresses of its states.
    pub path: Path,
    /// Number of the chosen proposal.
    pub number: u8,
    pub spi_in: u32,
    pub spi_out: u32,
    pub carriage: Carriage,
    pub cipher: EspCipher,
    pub esn: bool,
    /// Group of a key exchange of its own.
    pub group: Option<Group>,
    /// Whether a key exchange that no ticket can open is behind its keys.
    pub fresh_keys: bool,
    pub local_ts: Vec<TrafficSelector>,
    pub remote_ts: Vec<TrafficSelector>,
    /// Message ID of the peer's request that it was the answer to, and when that left; of the last one
    /// before an IKE SA that has inherited it. `None` if we have asked for it.
    pub answered: Option<(u32, Duration)>,
    /// When to ask for new keys.
    pub rekey_at: Option<Duration>,
    /// When the kernel ends it.
    pub end: Duration,
}

/// Our half of a Child SA's making that is under way.
#[derive(Debug)]
pub(crate) struct ChildRekeying {
    /// Which child of the connection it is to be.
    pub name: Arc<str>,
    pub owner: Owner,
    pub ni: Vec<u8>,
    /// Our half of a key exchange of its own, where one is proposed.
    pub key_share: Option<Box<dyn KeyShare>>,
    pub spi_in: u32,
    /// Our inbound SPI of the Child SA that is to be replaced; `None` for one from scratch.
    pub old: Option<u32>,
    /// The peer has begun with the same one: the lower nonce of its exchange.
    pub rival: Option<Vec<u8>>,
    /// The operator has taken it down meanwhile.
    pub ends: bool,
    /// The peer has asked for another group already.
    pub again: bool,
}

/// A Child SA that we are to ask for, and when.
#[derive(Debug)]
pub(crate) struct WantedChild {
    /// Which child of the connection.
    pub name: Arc<str>,
    pub at: Duration,
}

/// A new Child SA that waits for the kernel.
#[derive(Debug)]
pub(crate) struct PendingChild {
    pub child: ChildSa,
    pub origin: Origin,
}

/// Who has begun.
#[derive(Debug)]
pub(crate) enum Origin {
    /// We have.
    Ours {
        /// The peer's own stays instead.
        redundant: bool,
        /// The operator has taken it down meanwhile.
        ends: bool,
    },
    /// The peer has, and its answer waits.
    Theirs {
        message_id: u32,
        answer: ChainWriter,
    },
}

/// A Child SA in the kernel that we do not send on. Of an owner there are two at most: what a rekey of the
/// peer has made, and what one of ours has replaced or made in vain.
#[derive(Debug)]
pub(crate) struct Beside {
    pub child: ChildSa,
    pub fate: Fate,
}

/// What becomes of it, and when at the latest.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fate {
    /// It takes over when the peer deletes the present one.
    Next { by: Duration },
    /// Whoever made it, or replaced it, deletes it.
    Goes { by: Duration },
    /// We delete it on the operator's word, and its flow is free again.
    Ends { by: Duration },
}

impl Fate {
    pub(crate) const fn by(self) -> Duration {
        match self {
            Self::Next { by } | Self::Goes { by } | Self::Ends { by } => by,
        }
    }

    /// The same, at another time.
    pub(crate) const fn put_off(self, by: Duration) -> Self {
        match self {
            Self::Next { .. } => Self::Next { by },
            Self::Goes { .. } => Self::Goes { by },
            Self::Ends { .. } => Self::Ends { by },
        }
    }
}

/// Percent of what is configured after which new keys are due, at least and at most: somewhat before, and
/// before the peer's if that has the same; whoever holds the tickets begins, the other where it does not.
pub(crate) const fn rekey_share(client: bool) -> (u32, u32) {
    if client { (80, 90) } else { (90, 100) }
}

impl ChildSa {
    /// What makes it the one that its owner's policies lead to.
    pub(crate) fn leads(&self) -> KernelOp {
        KernelOp::Lead {
            owner: self.owner.clone(),
            path: self.path,
            outbound: self.spi_out,
            carriage: self.carriage,
            local_ts: self.local_ts.clone(),
            remote_ts: self.remote_ts.clone(),
        }
    }

    /// What takes its states from the kernel.
    pub(crate) fn removal(self) -> KernelOp {
        KernelOp::Remove {
            owner: self.owner,
            inbound: self.spi_in,
            outbound: self.spi_out,
        }
    }
}

impl Live {
    /// Whether no Child SA is on its way in or out, and this IKE SA is to stay, as far as is known.
    pub(crate) fn is_settled(&self) -> bool {
        self.pending.is_empty()
            && self.beside.is_empty()
            && self.moved_until.is_none()
            && self.heir.is_none()
    }

    /// Whether a Child SA of this owner is on its way in or out.
    pub(crate) fn is_in_flux(&self, owner: &Owner) -> bool {
        let mut pending = self.pending.iter().map(|pending| &pending.child);
        let mut beside = self.beside.iter().map(|beside| &beside.child);
        pending.any(|child| child.owner == *owner) || beside.any(|child| child.owner == *owner)
    }

    /// The Child SA of an owner that carries its traffic.
    pub(crate) fn child_of(&self, owner: &Owner) -> Option<&ChildSa> {
        self.children.iter().find(|child| child.owner == *owner)
    }

    /// Takes out the Child SA with this inbound SPI, if it carries traffic.
    pub(crate) fn take_child(&mut self, spi_in: u32) -> Option<ChildSa> {
        let mut found = self.children.extract_if(.., |child| child.spi_in == spi_in);
        found.next()
    }

    /// Lets every Child SA of a name go, on the operator's word. `false` if there is none.
    pub(crate) fn end_called(&mut self, name: &str, now: Duration) -> bool {
        self.wanted.retain(|wanted| *wanted.name != *name);
        let fate = Fate::Ends { by: now };
        let present = self.children.extract_if(.., |child| *child.name == *name);
        self.beside
            .extend(present.map(|child| Beside { child, fate }));
        let mut found = false;
        for beside in &mut self.beside {
            if *beside.child.name == *name {
                beside.fate = fate;
                found = true;
            }
        }
        if let Some((Purpose::ChildRekey(ours), _)) = &mut self.outstanding
            && *ours.name == *name
        {
            ours.ends = true;
            found = true;
        }
        found
    }

    /// Whether the peer may not have the answer yet to which this Child SA is due: it has asked for
    /// nothing since.
    pub(crate) fn may_be_unheard(&self, child: &ChildSa, now: Duration) -> bool {
        let since = |id| self.window.expected.wrapping_sub(id);
        child
            .answered
            .is_some_and(|(id, at)| since(id) <= 1 && now < at + HEARD)
    }

    /// Lets a Child SA go that carries traffic: the peer is told as soon as it can be.
    pub(crate) fn end_child(&mut self, spi_in: u32, fate: Fate) {
        if let Some(child) = self.take_child(spi_in) {
            self.beside.push(Beside { child, fate });
        }
    }

    /// Every Child SA of this name, wherever it stands.
    pub(crate) fn called<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a ChildSa> {
        let pending = self.pending.iter().map(|pending| &pending.child);
        let beside = self.beside.iter().map(|beside| &beside.child);
        let all = self.children.iter().chain(pending).chain(beside);
        all.filter(move |child| *child.name == *name)
    }

    /// Whether there is room for another one.
    pub(crate) fn has_room(&self) -> bool {
        self.children.len() + self.pending.len() < Connection::MAX_CHILDREN
    }

    /// We are to ask for a Child SA, unless it is there.
    pub(crate) fn want_child(&mut self, name: &Arc<str>, at: Duration) {
        self.wanted.retain(|wanted| wanted.name != *name);
        let pending = self.pending.iter().map(|pending| &pending.child);
        let mut there = self.children.iter().chain(pending);
        if !there.any(|child| child.name == *name) {
            let name = Arc::clone(name);
            self.wanted.push(WantedChild { name, at });
        }
    }

    /// Likewise, but not earlier than is planned.
    pub(crate) fn want_too(&mut self, name: &Arc<str>, at: Duration) {
        if !self.wanted.iter().any(|wanted| wanted.name == *name) {
            self.want_child(name, at);
        }
    }

    /// The Child SA that the peer wants to replace, `None` if it wants another one; or what to tell it
    /// (RFC 7296, 2.25.1 and 2.25.2).
    pub(crate) fn replaced_by(&self, request: &Chain<'_>) -> Result<Option<&ChildSa>, NotifyKind> {
        let deleting = matches!(
            self.outstanding,
            Some((Purpose::Rekey(_) | Purpose::Delete(_), _))
        );
        let elsewhere = matches!(self.heir, Some(Heir::Elsewhere));
        if self.moved_until.is_some() || deleting || elsewhere {
            // The Child SAs are with another IKE SA, or will yet come to this one or go with it.
            return Err(NotifyKind::TEMPORARY_FAILURE);
        }
        let mut about = request
            .notifies()
            .filter(|notify| notify.kind == NotifyKind::REKEY_SA);
        let Some(named) = about.next() else {
            return Ok(None);
        };
        let is = |child: &ChildSa| {
            named.protocol == PROTOCOL_ESP && *named.spi == child.spi_out.to_be_bytes()
        };
        if self.beside.iter().any(|beside| is(&beside.child)) {
            // On its way out, by our own rekey.
            return Err(NotifyKind::TEMPORARY_FAILURE);
        }
        let child = self.children.iter().find(|child| is(child));
        let asking = matches!(self.outstanding, Some((Purpose::ChildRekey(_), _)));
        child.map(Some).ok_or(if asking {
            // It may be the one that the answer we wait for will make.
            NotifyKind::TEMPORARY_FAILURE
        } else {
            NotifyKind::CHILD_SA_NOT_FOUND
        })
    }

    /// Whether the peer may be asked for a Child SA of this owner now.
    pub(crate) fn may_ask(&self, owner: &Owner) -> bool {
        let free = self.outstanding.is_none() && self.moved_until.is_none();
        free && !self.is_in_flux(owner)
    }

    /// Whether the peer may have a Child SA of this owner now: only one of ours under way with the same
    /// aim is answered as usual.
    pub(crate) fn may_answer(&self, owner: &Owner) -> Result<(), NotifyKind> {
        let busy = match &self.outstanding {
            Some((Purpose::ChildRekey(ours), _)) if ours.owner == *owner => {
                let present = self.child_of(owner).map(|child| child.spi_in);
                ours.rival.is_some() || ours.old != present
            }
            _ => false,
        };
        if busy || self.is_in_flux(owner) {
            return Err(NotifyKind::TEMPORARY_FAILURE);
        }
        Ok(())
    }

    /// By chance somewhat before `rekey_time`.
    pub(crate) fn rekey_after(&self, time: Duration, cx: &mut Context<'_>) -> Option<Duration> {
        let (least, most) = rekey_share(self.client);
        let share = chance_between((time * least / 100, time * most / 100), cx.env);
        (!time.is_zero()).then(|| cx.now.boot + share)
    }

    /// The Child SA with this SPI, ours or the peer's, is to have new keys at once. Returns our SPI of it if
    /// it carries traffic.
    pub(crate) fn worn(&mut self, owner: &Owner, spi: u32, now: Duration) -> Option<u32> {
        let is_it = |child: &&mut ChildSa| {
            child.owner == *owner && [child.spi_in, child.spi_out].contains(&spi)
        };
        if let Some(child) = self.children.iter_mut().find(is_it) {
            child.rekey_at = Some(now);
            return Some(child.spi_in);
        }
        let pending = self.pending.iter_mut().map(|pending| &mut pending.child);
        let beside = self.beside.iter_mut().map(|beside| &mut beside.child);
        if let Some(next) = pending.chain(beside).find(is_it) {
            next.rekey_at = Some(now);
        }
        None
    }

    /// When the IKE SA asks for new keys, unless it is to do so earlier.
    pub(crate) fn plan_rekey(&mut self, cx: &mut Context<'_>) {
        let planned = self.rekey_after(self.connection.rekey, cx);
        self.rekey_at = self.rekey_at.into_iter().chain(planned).min();
    }

    /// When a Child SA asks for new keys, and when the kernel ends it.
    pub(crate) fn plan_child_rekey(&self, child: &mut ChildSa, cx: &mut Context<'_>) {
        if let Some(config) = self.connection.child(&child.name) {
            // What has carried as much as it may while another one was leading is due already.
            let planned = self.rekey_after(config.rekey, cx);
            child.rekey_at = child.rekey_at.into_iter().chain(planned).min();
            child.end = cx.now.boot + config.lifetime;
        }
    }

    /// The IKE SA has keys of its own now; Child SAs may still have those of a ticket.
    pub(crate) fn hurry_child_rekey(&mut self, cx: &mut Context<'_>) {
        let stale = |child: &&mut ChildSa| self.client && !child.fresh_keys;
        for child in self.children.iter_mut().filter(stale) {
            child.rekey_at = Some(cx.now.boot + chance_between(AFTER_IKE_REKEY, cx.env));
        }
    }

    /// Whether the peer has put us off too often to be in step with us (RFC 7296, 2.25).
    pub(crate) fn is_out_of_sync(&mut self, refusal: Refusal, now: Duration) -> bool {
        if refusal != Refusal::Temporary {
            self.put_off = None;
            return false;
        }
        let (since, last) = self.put_off.unwrap_or((now, now));
        let since = if now < last + IN_STEP { since } else { now };
        self.put_off = Some((since, now));
        now >= since + OUT_OF_SYNC
    }

    /// Takes the Child SAs of an IKE SA that this one replaces, with their times, and those to be made.
    pub(crate) fn inherit(&mut self, old: &mut Self, cx: &mut Context<'_>) {
        self.children = std::mem::take(&mut old.children);
        self.wanted = std::mem::take(&mut old.wanted);
        // What was to be deleted meanwhile is so on the new one.
        self.beside = std::mem::take(&mut old.beside);
        // While the peer's own rekey is undecided, it may look for them on the old one.
        let answered = Some((self.window.expected.wrapping_sub(1), cx.now.boot));
        let beside = self.beside.iter_mut().map(|beside| &mut beside.child);
        for child in self.children.iter_mut().chain(beside) {
            child.answered = answered;
        }
        if let (Some(mobike), Some(old)) = (&mut self.mobike, &mut old.mobike) {
            mobike.update_pending |= old.update_pending;
            mobike.unchecked = old.unchecked.take();
        }
        self.delete_next = old.delete_next.take();
        self.hurry_child_rekey(cx);
    }

    /// Everything of its Child SAs in the kernel but those that carry traffic.
    pub(crate) fn other_removals(&mut self) -> Vec<KernelOp> {
        let pending = self.pending.drain(..).map(|pending| pending.child);
        let beside = self.beside.drain(..).map(|beside| beside.child);
        pending.chain(beside).map(ChildSa::removal).collect()
    }

    /// When something is to be done for a Child SA.
    pub(crate) fn children_at(&self) -> Option<Duration> {
        let present = self.children.iter();
        let times = present.flat_map(|child| child.rekey_at.into_iter().chain([child.end]));
        let wanted = self.wanted.iter().map(|wanted| wanted.at);
        times.chain(wanted).chain(self.tidy_at()).min()
    }

    /// When a Child SA beside another should have gone.
    pub(crate) fn tidy_at(&self) -> Option<Duration> {
        self.beside.iter().map(|beside| beside.fate.by()).min()
    }

    /// Whether the peer's request with this message ID waits for the kernel.
    pub(crate) fn answers_later(&self, message_id: u32) -> bool {
        self.pending.iter().any(|pending| {
            matches!(pending.origin, Origin::Theirs { message_id: waiting, .. } if waiting == message_id)
        })
    }

    /// The rekey of the IKE SA that we have begun.
    pub(crate) fn rekeying(&mut self) -> Option<&mut Rekeying> {
        match &mut self.outstanding {
            Some((Purpose::Rekey(ours), _)) => Some(ours),
            _ => None,
        }
    }
}
