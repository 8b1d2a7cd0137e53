//! What becomes of a Child SA that both sides have agreed on: into the kernel, in the place of the one
//! before it, and out by DELETE (RFC 7296, 1.4.1, 2.8 and 2.25.1). One Child SA's end is no other's.

use std::{sync::Arc, time::Duration};

use super::{child::whole, retry::Refusal};
use crate::{
    endpoint::{Context, Endpoint},
    io::Event,
    kernel::{ChildInstall, KernelFailed, KernelOp, Owner},
    peer::Start,
    sa::{
        children::{Beside, Fate, Origin, PendingChild},
        ike_sa::{ChildSa, IkeSa, Live, Purpose, State},
    },
    view::Closed,
    wire::{
        delete::Delete,
        header::{Exchange, Header},
        notify::NotifyKind,
        payload::{Chain, ChainWriter, PayloadKind},
    },
};

/// Whoever is to delete a Child SA has not done it by then: we do.
const PATIENCE: Duration = Duration::from_secs(30);

/// A DELETE that has overtaken our answer comes again after this time.
const AGAIN: Duration = Duration::from_secs(1);

impl Endpoint {
    /// Asks the kernel for a Child SA that stands beside the one that carries its owner's traffic; if
    /// there is none, it is the one at once.
    pub(crate) fn add(&mut self, sa: IkeSa, install: ChildInstall) {
        let State::Up(live) = &sa.state else {
            return self.check_in(sa);
        };
        let same = |child: &&ChildSa| child.owner == install.owner;
        let pending = live.pending.iter().map(|pending| &pending.child);
        let beside = live.beside.iter().map(|beside| &beside.child);
        let all = live.children.iter().chain(pending).chain(beside);
        // It is pending itself.
        if all.filter(same).count() == 1 {
            return self.install(sa, install);
        }
        self.kernel_for(sa.id, KernelOp::Add(Box::new(install)));
        self.check_in(sa);
    }

    /// The kernel has taken the new Child SA, or has not: then the old one stays.
    pub(crate) fn child_installed(
        &mut self,
        mut sa: IkeSa,
        result: Result<(), KernelFailed>,
        cx: &mut Context<'_>,
    ) {
        let header = sa.header(Exchange::CreateChildSa, true, 0);
        let State::Up(live) = &mut sa.state else {
            return self.check_in(sa);
        };
        let Some(PendingChild { mut child, origin }) = live.pending.pop_front() else {
            return self.check_in(sa);
        };
        let works = result.is_ok();
        if let Err(KernelFailed { text }) = result {
            let connection = Arc::clone(&live.connection.name);
            self.event(Event::KernelFailed { connection, text });
        }
        let (id, owner) = (sa.id, child.owner.clone());
        let is_new = works && live.child_of(&owner).is_none();
        let old_sa = self.stands_with_heir(&owner);
        let by = cx.now.boot + PATIENCE;
        match origin {
            Origin::Theirs { message_id, answer } => {
                let mut chain = answer;
                if works {
                    child.answered = Some((message_id, cx.now.boot));
                    self.stands(live, child, cx);
                } else {
                    chain = ChainWriter::new();
                    chain.notify(NotifyKind::TEMPORARY_FAILURE, &[]);
                    if let Some((Purpose::ChildRekey(ours), _)) = &mut live.outstanding
                        && ours.owner == owner
                    {
                        ours.rival = None;
                    }
                }
                let header = Header {
                    message_id,
                    ..header
                };
                let response = live.protection.seal(&header, chain);
                self.send_all(sa.path, &response);
                live.window.answered(response);
                self.check_in(sa);
            }
            Origin::Ours { .. } if !works => {
                // The peer has states that we have not.
                if live.child_of(&owner).is_none() {
                    self.child_failed(live, &child.name, Closed::Kernel);
                    live.want_child(&child.name, cx.now.boot + Refusal::Final.wait(cx.env));
                }
                let spi = child.spi_in;
                let fate = Fate::Goes { by };
                live.beside.push(Beside { child, fate });
                self.delete_beside(sa, spi, cx);
            }
            Origin::Ours { redundant, ends } => {
                let goes = if redundant || ends {
                    Some(child)
                } else {
                    for beside in &mut live.beside {
                        if beside.child.owner == owner {
                            beside.fate = Fate::Goes { by };
                        }
                    }
                    self.take_over(live, child, cx)
                };
                let spi = goes.as_ref().map(|child| child.spi_in);
                let fate = if ends {
                    Fate::Ends { by }
                } else {
                    Fate::Goes { by }
                };
                live.beside.extend(goes.map(|child| Beside { child, fate }));
                match spi {
                    Some(spi) => self.delete_beside(sa, spi, cx),
                    None => self.check_in(sa),
                }
            }
        }
        if is_new {
            match old_sa {
                Some(old) => self.stands_beside(id, old, cx),
                None => self.replace_others(&owner, id, cx),
            }
        }
    }

    /// Responder: the new Child SA receives. We send on it when the peer has deleted the old one.
    fn stands(&mut self, live: &mut Live, child: ChildSa, cx: &mut Context<'_>) {
        if live.child_of(&child.owner).is_none() {
            self.take_over(live, child, cx);
            return;
        }
        let by = cx.now.boot + PATIENCE;
        let fate = Fate::Next { by };
        live.beside.push(Beside { child, fate });
    }

    /// From now on we send on this Child SA, unless another IKE SA has yet to hand the traffic over. Returns
    /// the one before.
    fn take_over(
        &mut self,
        live: &mut Live,
        mut child: ChildSa,
        cx: &mut Context<'_>,
    ) -> Option<ChildSa> {
        let is_first = live.child_of(&child.owner).is_none();
        if !is_first || self.stands_with_heir(&child.owner).is_none() {
            self.kernel(child.leads());
        }
        live.plan_child_rekey(&mut child, cx);
        live.wanted.retain(|wanted| wanted.name != child.name);
        let (connection, name) = (Arc::clone(&live.connection.name), Arc::clone(&child.name));
        let present = live
            .children
            .iter_mut()
            .find(|old| old.owner == child.owner);
        let old = match present {
            Some(present) => Some(std::mem::replace(present, child)),
            None => {
                live.children.push(child);
                None
            }
        };
        self.event(if old.is_some() {
            Event::ChildRekeyed {
                connection,
                child: name,
            }
        } else {
            Event::ChildUp {
                connection,
                child: name,
            }
        });
        old
    }

    /// Asks the peer to delete a Child SA that nobody sends on any more.
    fn delete_beside(&mut self, sa: IkeSa, spi_in: u32, cx: &Context<'_>) {
        let State::Up(live) = &sa.state else {
            return self.check_in(sa);
        };
        if live.outstanding.is_some() {
            // It goes with the IKE SA, or at its time.
            return self.check_in(sa);
        }
        let mut chain = ChainWriter::new();
        let deleted = Delete::Esp(vec![spi_in]);
        chain.payload(PayloadKind::DELETE, |out| deleted.emit(out));
        let mut beside = live.beside.iter().map(|beside| &beside.child);
        let unheard = beside
            .find(|child| child.spi_in == spi_in)
            .is_some_and(|child| live.may_be_unheard(child, cx.now.boot));
        self.send_request(sa, Purpose::DeleteChild { spi_in, unheard }, chain, cx);
    }

    /// The peer has let a Child SA go, at our request. One that names none of its own in return has had
    /// none yet if the DELETE has overtaken the answer that it is to learn of it from.
    pub(crate) fn child_deleted(
        &mut self,
        live: &mut Live,
        (spi_in, unheard): (u32, bool),
        answer: &Chain<'_>,
        cx: &Context<'_>,
    ) {
        let gone = |beside: &Beside| beside.child.spi_in == spi_in;
        let Some(at) = live.beside.iter().position(gone) else {
            return;
        };
        let mut beside = live.beside.remove(at);
        let named = answer
            .all(PayloadKind::DELETE)
            .filter_map(|delete| Delete::parse(delete).ok())
            .any(|delete| matches!(delete, Delete::Esp(spis) if spis.contains(&beside.child.spi_out)));
        if !named && unheard {
            beside.fate = beside.fate.put_off(cx.now.boot + AGAIN);
            live.beside.push(beside);
        } else {
            self.beside_gone(live, beside);
        }
    }

    fn beside_gone(&mut self, live: &Live, Beside { child, fate }: Beside) {
        let (owner, name) = (child.owner.clone(), Arc::clone(&child.name));
        self.kernel(child.removal());
        let last = live.child_of(&owner).is_none() && !live.is_in_flux(&owner);
        if last && matches!(fate, Fate::Ends { .. }) {
            let whole = whole(&live.connection, &name);
            if whole != owner && live.client {
                self.kernel(KernelOp::Release { owner: whole });
            }
            self.kernel(KernelOp::Release { owner });
            self.child_closed(live, name, Closed::Down);
        }
    }

    fn child_closed(&mut self, live: &Live, child: Arc<str>, reason: Closed) {
        let connection = Arc::clone(&live.connection.name);
        self.event(Event::ChildClosed {
            connection,
            child,
            reason,
        });
    }

    /// A Child SA that we have asked for is not to be had now.
    pub(super) fn child_failed(&mut self, live: &Live, child: &Arc<str>, reason: Closed) {
        let (connection, child) = (Arc::clone(&live.connection.name), Arc::clone(child));
        self.event(Event::ChildFailed {
            connection,
            child,
            reason,
        });
    }

    /// The peer deletes Child SAs and keeps the IKE SA (RFC 7296, 1.4.1 and 2.25.1).
    pub(crate) fn delete_children(
        &mut self,
        live: &mut Live,
        spis: &[u32],
        answer: &mut ChainWriter,
        cx: &mut Context<'_>,
    ) {
        let mut ours = Vec::new();
        for spi in spis {
            let present = live.children.iter().find(|child| child.spi_out == *spi);
            if let Some((spi_in, owner)) = present.map(|child| (child.spi_in, child.owner.clone()))
            {
                ours.push(spi_in);
                let is_next = |beside: &Beside| {
                    beside.child.owner == owner && matches!(beside.fate, Fate::Next { .. })
                };
                let gone = if let Some(at) = live.beside.iter().position(is_next) {
                    // The end of its rekey.
                    let next = live.beside.remove(at);
                    self.take_over(live, next.child, cx)
                } else {
                    let gone = live.take_child(spi_in);
                    if let Some(gone) = &gone {
                        self.child_closed(live, Arc::clone(&gone.name), Closed::PeerDeleted);
                    }
                    gone
                };
                if let Some(gone) = gone {
                    self.kernel(gone.removal());
                }
            } else if let Some(at) = live
                .beside
                .iter()
                .position(|beside| beside.child.spi_out == *spi)
            {
                let gone = live.beside.remove(at);
                let spi_in = gone.child.spi_in;
                let asked = matches!(
                    live.outstanding,
                    Some((Purpose::DeleteChild { spi_in: asked, .. }, _)) if asked == spi_in
                );
                if !asked {
                    ours.push(spi_in);
                }
                self.beside_gone(live, gone);
            }
        }
        if !ours.is_empty() {
            let deleted = Delete::Esp(ours);
            answer.payload(PayloadKind::DELETE, |out| deleted.emit(out));
        }
    }

    /// Somebody should have deleted a Child SA by now.
    pub(crate) fn tidy_children(&mut self, mut sa: IkeSa, cx: &mut Context<'_>) {
        let now = cx.now.boot;
        let State::Up(live) = &mut sa.state else {
            return self.check_in(sa);
        };
        let late = |beside: &Beside| beside.fate.by() <= now;
        let Some(at) = live.beside.iter().position(late) else {
            return self.check_in(sa);
        };
        let Beside { child, fate } = live.beside.remove(at);
        let by = now + PATIENCE;
        let (goes, fate) = match fate {
            Fate::Next { .. } => (self.take_over(live, child, cx), Fate::Goes { by }),
            Fate::Goes { .. } => (Some(child), Fate::Goes { by }),
            Fate::Ends { .. } => (Some(child), Fate::Ends { by }),
        };
        let Some(child) = goes else {
            return self.check_in(sa);
        };
        let spi = child.spi_in;
        live.beside.push(Beside { child, fate });
        self.delete_beside(sa, spi, cx);
    }

    /// The kernel says that a state has carried so much that new keys are due, or that it is gone. Both
    /// states of a Child SA have a say, and each may repeat itself: what is under way already goes on.
    pub(crate) fn expired(&mut self, owner: &Owner, spi: u32, hard: bool, cx: &mut Context<'_>) {
        for id in self.table.of_owner(owner) {
            let Some(mut sa) = self.table.check_out(id) else {
                continue;
            };
            let spi_in = match &mut sa.state {
                State::Up(live) => live.worn(owner, spi, cx.now.boot),
                _ => None,
            };
            match spi_in.filter(|_| hard) {
                Some(spi_in) => self.child_expired(sa, spi_in, cx),
                None => self.check_in(sa),
            }
        }
    }

    /// A Child SA has come to the end of its life without new keys. The last one takes the IKE SA along;
    /// of several a client makes another.
    pub(crate) fn child_expired(&mut self, mut sa: IkeSa, spi_in: u32, cx: &mut Context<'_>) {
        let now = cx.now.boot;
        let State::Up(live) = &mut sa.state else {
            return self.check_in(sa);
        };
        if live.children.len() == 1 {
            return self.begin_delete(sa, Closed::Expired, cx);
        }
        let child = live.children.iter().find(|child| child.spi_in == spi_in);
        let name = child.map(|child| Arc::clone(&child.name));
        live.end_child(spi_in, Fate::Goes { by: now });
        if let Some(name) = name {
            let config = live.connection.child(&name);
            if live.client && config.is_some_and(|config| config.start == Start::Up) {
                live.want_child(&name, now + Refusal::NotFound.wait(cx.env));
            }
            self.child_closed(live, name, Closed::Expired);
        }
        self.tidy_children(sa, cx);
    }
}
