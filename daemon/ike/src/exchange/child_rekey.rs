//! Rekeying the Child SA by CREATE_CHILD_SA (RFC 7296, 1.3.3 and 2.8): new keys for ESP, with a key
//! exchange of their own where both sides like, before the kernel's lifetime ends them. The new states
//! come first and receive at once; we send on them when the peer is known to have its own; the old ones
//! go last, so that no packet is lost. If both sides begin at once, both answer as usual, and the lowest
//! of the four nonces says which of the two new Child SAs is redundant (2.8.1).

use std::{sync::Arc, time::Duration};

use super::{
    NONCE_LEN,
    child::{self, Keying},
    init::{emit_ke, parse_ke},
    nonce,
    retry::Refusal,
};
use crate::{
    crypto::{Group, Secret},
    endpoint::{Context, Endpoint},
    failure::{Cause, Failure, Standing},
    io::{Event, Path},
    kernel::{ChildInstall, KernelFailed, KernelOp},
    sa::{
        children::{Beside, ChildRekeying, Fate, Origin, PendingChild},
        ike_sa::{ChildSa, IkeSa, Live, Purpose, State},
        proposal::offer_esp,
    },
    view::Closed,
    wire::{
        delete::Delete,
        header::{Exchange, Header},
        notify::{Notify, NotifyKind},
        payload::{Chain, ChainWriter, PayloadKind},
        sa::PROTOCOL_ESP,
        ts::TrafficSelector,
    },
};

/// Whoever is to delete a Child SA has not done it by then: we do.
const PATIENCE: Duration = Duration::from_secs(30);

impl Endpoint {
    /// Asks the peer for a new Child SA in the place of the present one, or for one if there is none.
    pub(crate) fn begin_child_rekey(&mut self, mut sa: IkeSa, cx: &mut Context<'_>) {
        let spi_in = self.new_esp_spi(cx.env);
        let State::Up(live) = &mut sa.state else {
            return self.check_in(sa);
        };
        let idle = live.outstanding.is_none() && live.is_settled();
        let again = if idle {
            Refusal::Final
        } else {
            Refusal::NotYet
        };
        live.child_rekey_at = Some(cx.now.boot + again.wait(cx.env));
        let group = live.suite.group;
        if !idle {
            return self.check_in(sa);
        }
        let Some(key_share) = cx.env.new_key_share(group) else {
            return self.check_in(sa);
        };
        let mut ni = vec![0; NONCE_LEN];
        cx.env.random(&mut ni);
        let config = live.child_terms();
        let mut chain = ChainWriter::new();
        let mut selectors = (&config.local_ts, &config.remote_ts);
        if let Some(old) = &live.child {
            // The SPI by which the sender of the notification is reached (RFC 7296, 1.3.3).
            let spi = old.spi_in.to_be_bytes();
            chain.payload(PayloadKind::NOTIFY, |out| {
                Notify::emit_about(PROTOCOL_ESP, &spi, NotifyKind::REKEY_SA, out);
            });
            selectors = (&old.local_ts, &old.remote_ts);
        }
        // Without a key exchange rather than not at all, if the peer likes none.
        let groups = [Some(group), None];
        chain.payload(PayloadKind::SA, |out| {
            offer_esp(&config.ciphers, &groups, spi_in, out);
        });
        chain.octets(PayloadKind::NONCE, &ni);
        chain.payload(PayloadKind::KE, |out| emit_ke(key_share.as_ref(), out));
        chain.payload(PayloadKind::TS_I, |out| {
            TrafficSelector::emit_all(selectors.0, out);
        });
        chain.payload(PayloadKind::TS_R, |out| {
            TrafficSelector::emit_all(selectors.1, out);
        });
        let rekeying = Box::new(ChildRekeying {
            ni,
            key_share,
            spi_in,
            old: live.child.as_ref().map(|old| old.spi_in),
            rival: None,
        });
        self.send_request(sa, Purpose::ChildRekey(rekeying), chain, cx);
    }

    /// Responder: agrees to a new Child SA, or says why not. `Some` if the kernel is to be asked first;
    /// the answer then waits for it.
    pub(crate) fn answer_child_rekey(
        &mut self,
        live: &mut Live,
        path: Path,
        request: &Chain<'_>,
        answer: &mut ChainWriter,
        cx: &mut Context<'_>,
    ) -> Option<(ChildSa, ChildInstall)> {
        let mut refuse = |kind| {
            answer.notify(kind, &[]);
            None
        };
        if let Err(kind) = live.may_answer(request) {
            if kind == NotifyKind::CHILD_SA_NOT_FOUND {
                about_rekey(request, answer);
                return None;
            }
            return refuse(kind);
        }
        let ke = request.one(PayloadKind::KE).and_then(parse_ke);
        let ours = |group: &Group| {
            let suites = &live.connection.ike_suites;
            suites.iter().any(|suite| suite.group == *group)
        };
        let group = ke
            .and_then(|(number, _)| Group::from_number(number))
            .filter(ours);
        let groups: &[Option<Group>] = if group.is_some() {
            &[group, None]
        } else {
            &[None]
        };
        let wanted = live.child_terms();
        let terms = match child::negotiate(&wanted, request, groups) {
            Ok(terms) => terms,
            Err(error) => {
                let kind = error.notify();
                self.failed(Standing::Proven, cx.now.boot, || {
                    let cause = Cause::of_child(error, &wanted, Some(request));
                    Failure::of_live(live, path, Exchange::CreateChildSa, cause).sent(kind)
                });
                return refuse(kind);
            }
        };
        let Some(ni) = nonce(request, live.suite.prf.output_len()) else {
            return refuse(NotifyKind::INVALID_SYNTAX);
        };
        let mut nr = vec![0; NONCE_LEN];
        cx.env.random(&mut nr);
        let mut shared = None;
        if let (Some(group), Some((_, peer_public))) = (terms.group(), ke) {
            let key_share = cx.env.new_key_share(group)?;
            let mut public = Vec::new();
            emit_ke(key_share.as_ref(), &mut public);
            shared = key_share.agree(peer_public).ok();
            if shared.is_none() {
                return refuse(NotifyKind::INVALID_SYNTAX);
            }
            answer.octets(PayloadKind::KE, &public);
        }
        answer.octets(PayloadKind::NONCE, &nr);
        let keying = Keying {
            suite: live.suite,
            sk_d: &live.sk_d,
            shared: shared.as_ref(),
            ni,
            nr: &nr,
            initiator: false,
            spi_in: self.new_esp_spi(cx.env),
        };
        let (connection, peer) = (&live.connection, &live.peer);
        let path = live.tunnel_path(path);
        let (child, install) = child::agreed(connection, peer, &terms, &keying, path, live.nat);
        child::emit_answer(answer, Some(&child));
        if let Some((Purpose::ChildRekey(ours), _)) = &mut live.outstanding {
            // Both at once: which of the two stays, our peer's answer will tell.
            ours.rival = Some(ni.min(&nr).to_vec());
        }
        Some((child, install))
    }

    /// Initiator: takes the peer's terms and asks the kernel.
    pub(crate) fn child_rekey_response(
        &mut self,
        mut sa: IkeSa,
        rekeying: ChildRekeying,
        chain: &Chain<'_>,
        cx: &mut Context<'_>,
    ) {
        let path = sa.path;
        let State::Up(live) = &mut sa.state else {
            return self.check_in(sa);
        };
        let ChildRekeying {
            ni,
            key_share,
            spi_in,
            old,
            rival,
        } = rekeying;
        let groups = [Some(key_share.group()), None];
        let terms = child::confirm(&live.child_terms(), chain, &groups);
        let nr = nonce(chain, live.suite.prf.output_len());
        let (Ok(terms), Some(nr)) = (terms, nr) else {
            return self.child_rekey_refused(sa, old, rival.is_some(), chain, cx);
        };
        let mut shared: Option<Secret> = None;
        if terms.group().is_some() {
            let ke = chain.one(PayloadKind::KE).and_then(parse_ke);
            shared = ke.and_then(|(_, peer_public)| key_share.agree(peer_public).ok());
            if shared.is_none() {
                return self.check_in(sa);
            }
        }
        let keying = Keying {
            suite: live.suite,
            sk_d: &live.sk_d,
            shared: shared.as_ref(),
            ni: &ni,
            nr,
            initiator: true,
            spi_in,
        };
        let (connection, peer) = (&live.connection, &live.peer);
        let path = live.tunnel_path(path);
        let (child, install) = child::agreed(connection, peer, &terms, &keying, path, live.nat);
        live.temporary_since = None;
        // "Lowest" is octet by octet, and a nonce that ends first is lower (RFC 7296, 2.8.1).
        let redundant = rival.is_some_and(|theirs| ni.as_slice().min(nr) < theirs.as_slice());
        let origin = Origin::Ours { redundant };
        live.pending.push_back(PendingChild { child, origin });
        self.add(sa, install);
    }

    /// Initiator: the peer does not want to, or cannot.
    fn child_rekey_refused(
        &mut self,
        mut sa: IkeSa,
        old: Option<u32>,
        collided: bool,
        chain: &Chain<'_>,
        cx: &mut Context<'_>,
    ) {
        let State::Up(live) = &mut sa.state else {
            return self.check_in(sa);
        };
        if collided {
            // Its own rekey was first, and was answered: that Child SA takes over (RFC 7296, 2.8.1).
            return self.check_in(sa);
        }
        let refusal = Refusal::of(chain);
        if refusal == Refusal::NotFound
            && let Some(gone) = live.child.take_if(|child| Some(child.spi_in) == old)
        {
            // The peer has lost it: one from scratch (RFC 7296, 2.25).
            self.kernel(gone.removal());
        }
        live.child_rekey_at = Some(cx.now.boot + refusal.wait(cx.env));
        if live.is_out_of_sync(refusal, cx.now.boot) {
            return self.begin_delete(sa, Closed::Protocol, cx);
        }
        self.check_in(sa);
    }

    /// Asks the kernel for a Child SA that stands beside the one that carries the traffic; if there is
    /// none, it is the one at once.
    pub(crate) fn add(&mut self, sa: IkeSa, mut install: ChildInstall) {
        let State::Up(live) = &sa.state else {
            return self.check_in(sa);
        };
        if live.child.is_none() {
            return self.install(sa, install);
        }
        if live.client {
            install.leased.clone_from(&live.leased.addresses);
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
        let Some(PendingChild { child, origin }) = live.pending.pop_front() else {
            return self.check_in(sa);
        };
        let works = result.is_ok();
        if let Err(KernelFailed { text }) = result {
            let connection = Arc::clone(&live.connection.name);
            self.event(Event::KernelFailed { connection, text });
        }
        match origin {
            Origin::Theirs { message_id, answer } => {
                let mut chain = answer;
                if works {
                    self.stands(live, child, cx);
                } else {
                    chain = ChainWriter::new();
                    chain.notify(NotifyKind::TEMPORARY_FAILURE, &[]);
                    if let Some((Purpose::ChildRekey(ours), _)) = &mut live.outstanding {
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
            // The peer has states that we have not: only a new SA brings the two together.
            Origin::Ours { .. } if !works => self.begin_delete(sa, Closed::Kernel, cx),
            Origin::Ours { redundant } => {
                let by = cx.now.boot + PATIENCE;
                let goes = if redundant {
                    Some(child)
                } else {
                    for beside in &mut live.beside {
                        beside.fate = Fate::Goes { by };
                    }
                    self.take_over(live, child, cx)
                };
                let spi = goes.as_ref().map(|child| child.spi_in);
                live.beside.extend(goes.map(|child| Beside {
                    child,
                    fate: Fate::Goes { by },
                }));
                match spi {
                    Some(spi) => self.delete_beside(sa, spi, cx),
                    None => self.check_in(sa),
                }
            }
        }
    }

    /// Responder: the new Child SA receives. We send on it when the peer has deleted the old one.
    fn stands(&mut self, live: &mut Live, child: ChildSa, cx: &mut Context<'_>) {
        if live.child.is_none() {
            self.take_over(live, child, cx);
            return;
        }
        let by = cx.now.boot + PATIENCE;
        let fate = Fate::Next { by };
        live.beside.push(Beside { child, fate });
    }

    /// From now on we send on this Child SA. Returns the one before.
    fn take_over(
        &mut self,
        live: &mut Live,
        child: ChildSa,
        cx: &mut Context<'_>,
    ) -> Option<ChildSa> {
        self.kernel(KernelOp::Lead {
            owner: child.owner.clone(),
            path: child.path,
            outbound: child.spi_out,
            local_ts: child.local_ts.clone(),
            remote_ts: child.remote_ts.clone(),
        });
        let old = live.child.replace(child);
        live.plan_child_rekey(cx);
        let connection = Arc::clone(&live.connection.name);
        self.event(Event::ChildRekeyed { connection });
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
        self.send_request(sa, Purpose::DeleteChild(spi_in), chain, cx);
    }

    /// The peer has let a Child SA go, at our request.
    pub(crate) fn child_deleted(&mut self, live: &mut Live, spi_in: u32) {
        let gone = |beside: &mut Beside| beside.child.spi_in == spi_in;
        for beside in live.beside.extract_if(.., gone) {
            self.kernel(beside.child.removal());
        }
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
            if let Some(old) = live.child.take_if(|child| child.spi_out == *spi) {
                ours.push(old.spi_in);
                let is_next = |beside: &Beside| matches!(beside.fate, Fate::Next { .. });
                if let Some(at) = live.beside.iter().position(is_next) {
                    // The end of its rekey.
                    let next = live.beside.remove(at);
                    self.take_over(live, next.child, cx);
                }
                self.kernel(old.removal());
            } else if let Some(at) = live
                .beside
                .iter()
                .position(|beside| beside.child.spi_out == *spi)
            {
                let gone = live.beside.remove(at);
                let spi_in = gone.child.spi_in;
                let asked = matches!(live.outstanding, Some((Purpose::DeleteChild(spi), _)) if spi == spi_in);
                if !asked {
                    ours.push(spi_in);
                }
                self.kernel(gone.child.removal());
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
        let goes = match fate {
            Fate::Next { .. } => self.take_over(live, child, cx),
            Fate::Goes { .. } => Some(child),
        };
        let Some(goes) = goes else {
            return self.check_in(sa);
        };
        let spi = goes.spi_in;
        let by = now + PATIENCE;
        live.beside.push(Beside {
            child: goes,
            fate: Fate::Goes { by },
        });
        self.delete_beside(sa, spi, cx);
    }
}

/// CHILD_SA_NOT_FOUND names the SPI that REKEY_SA named (RFC 7296, 2.25).
fn about_rekey(request: &Chain<'_>, answer: &mut ChainWriter) {
    let about = request
        .notifies()
        .find(|notify| notify.kind == NotifyKind::REKEY_SA);
    if let Some(about) = about {
        answer.payload(PayloadKind::NOTIFY, |out| {
            let kind = NotifyKind::CHILD_SA_NOT_FOUND;
            Notify::emit_about(about.protocol, about.spi, kind, out);
        });
    }
}
