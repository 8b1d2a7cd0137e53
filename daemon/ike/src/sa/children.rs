//! The Child SA of an IKE SA, and those that stand beside it while it is replaced (RFC 7296, 2.8).

use std::time::Duration;

use super::ike_sa::{ChildSa, Live, Purpose, Rekeying};
use crate::{
    crypto::KeyShare,
    endpoint::Context,
    exchange::{Refusal, chance_between},
    kernel::KernelOp,
    wire::{
        notify::NotifyKind,
        payload::{Chain, ChainWriter},
        sa::PROTOCOL_ESP,
    },
};

/// Once a resumed IKE SA has keys of its own, its Child SA gets some within this time.
const AFTER_IKE_REKEY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// A peer that puts us off for so long has lost track (RFC 7296, 2.25: "several minutes").
const OUT_OF_SYNC: Duration = Duration::from_mins(5);

/// Our half of a Child SA's making that is under way.
#[derive(Debug)]
pub(crate) struct ChildRekeying {
    pub ni: Vec<u8>,
    pub key_share: Box<dyn KeyShare>,
    pub spi_in: u32,
    /// Our inbound SPI of the Child SA that is to be replaced.
    pub old: Option<u32>,
    /// The peer has begun to replace the same one: the lower nonce of its exchange.
    pub rival: Option<Vec<u8>>,
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
    },
    /// The peer has, and its answer waits.
    Theirs {
        message_id: u32,
        answer: ChainWriter,
    },
}

/// A Child SA in the kernel that we do not send on. There are two at most: what a rekey of the peer has
/// made, and what one of ours has replaced or made in vain.
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
}

impl Fate {
    pub(crate) const fn by(self) -> Duration {
        match self {
            Self::Next { by } | Self::Goes { by } => by,
        }
    }
}

impl ChildSa {
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
    /// Whether no Child SA is on its way in or out, and this IKE SA is to stay.
    pub(crate) fn is_settled(&self) -> bool {
        self.pending.is_empty() && self.beside.is_empty() && self.moved_until.is_none()
    }

    /// Whether the peer may have a new Child SA now, or what to tell it (RFC 7296, 2.25.1 and 2.25.2).
    pub(crate) fn may_answer(&self, request: &Chain<'_>) -> Result<(), NotifyKind> {
        if self.moved_until.is_some() {
            // The Child SA is with another IKE SA, or will yet come to this one.
            return Err(NotifyKind::TEMPORARY_FAILURE);
        }
        let mut about = request
            .notifies()
            .filter(|notify| notify.kind == NotifyKind::REKEY_SA);
        let named = about.next().map(|about| (about.protocol, about.spi));
        let is = |child: &ChildSa| named == Some((PROTOCOL_ESP, &child.spi_out.to_be_bytes()[..]));
        let present = self.child.as_ref();
        if self.beside.iter().any(|beside| is(&beside.child)) {
            // On its way out, by our own rekey.
            return Err(NotifyKind::TEMPORARY_FAILURE);
        }
        match (named, present) {
            // One Child SA on each IKE SA in this release.
            (None, Some(_)) => return Err(NotifyKind::NO_ADDITIONAL_SAS),
            (None, None) => {}
            (Some(_), _) if present.is_some_and(is) => {}
            (Some(_), _) => return Err(NotifyKind::CHILD_SA_NOT_FOUND),
        }
        let busy = match &self.outstanding {
            None
            | Some((
                Purpose::Liveness | Purpose::Ticket | Purpose::Update(_) | Purpose::Check { .. },
                _,
            )) => false,
            Some((Purpose::ChildRekey(ours), _)) => {
                ours.rival.is_some() || ours.old != present.map(|child| child.spi_in)
            }
            Some((Purpose::Rekey(_) | Purpose::Delete(_) | Purpose::DeleteChild(_), _)) => true,
        };
        if busy || !self.is_settled() {
            return Err(NotifyKind::TEMPORARY_FAILURE);
        }
        Ok(())
    }

    /// By chance somewhat before `rekey_time`, and before the peer's if that has the same one: whoever
    /// holds the tickets begins, the other where it does not.
    pub(crate) fn rekey_after(&self, time: Duration, cx: &mut Context<'_>) -> Option<Duration> {
        let (least, most) = if self.client { (80, 90) } else { (90, 100) };
        let share = chance_between((time * least / 100, time * most / 100), cx.env);
        (!time.is_zero()).then(|| cx.now.boot + share)
    }

    /// When the IKE SA asks for new keys, unless it is to do so earlier.
    pub(crate) fn plan_rekey(&mut self, cx: &mut Context<'_>) {
        let planned = self.rekey_after(self.connection.rekey, cx);
        self.rekey_at = self.rekey_at.into_iter().chain(planned).min();
    }

    /// When the Child SA asks for new keys, and when the kernel ends it.
    pub(crate) fn plan_child_rekey(&mut self, cx: &mut Context<'_>) {
        self.child_rekey_at = self.rekey_after(self.connection.child.rekey, cx);
        self.child_end = Some(cx.now.boot + self.connection.child.lifetime);
    }

    /// The IKE SA has keys of its own now; the Child SA may still have those of a ticket.
    pub(crate) fn hurry_child_rekey(&mut self, cx: &mut Context<'_>) {
        if self.client && self.child.as_ref().is_some_and(|child| !child.fresh_keys) {
            self.child_rekey_at = Some(cx.now.boot + chance_between(AFTER_IKE_REKEY, cx.env));
        }
    }

    /// Whether the peer has put us off too often to be in step with us (RFC 7296, 2.25).
    pub(crate) fn is_out_of_sync(&mut self, refusal: Refusal, now: Duration) -> bool {
        if refusal != Refusal::Temporary {
            self.temporary_since = None;
            return false;
        }
        now >= *self.temporary_since.get_or_insert(now) + OUT_OF_SYNC
    }

    /// Takes the Child SA of an IKE SA that this one replaces, and its times.
    pub(crate) fn inherit(&mut self, old: &mut Self, cx: &mut Context<'_>) {
        self.child = old.child.take();
        self.child_rekey_at = old.child_rekey_at.take();
        self.child_end = old.child_end.take();
        if let (Some(mobike), Some(old)) = (&mut self.mobike, &mut old.mobike) {
            mobike.update_pending |= old.update_pending;
            mobike.unchecked = old.unchecked.take();
        }
        self.hurry_child_rekey(cx);
    }

    /// Everything of its Child SAs in the kernel but the one that carries the traffic.
    pub(crate) fn other_removals(&mut self) -> Vec<KernelOp> {
        let pending = self.pending.drain(..).map(|pending| pending.child);
        let beside = self.beside.drain(..).map(|beside| beside.child);
        pending.chain(beside).map(ChildSa::removal).collect()
    }

    /// When a Child SA beside the one should have gone.
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
