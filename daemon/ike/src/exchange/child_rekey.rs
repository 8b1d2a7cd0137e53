//! Rekeying the Child SA by CREATE_CHILD_SA (RFC 7296, 1.3.3 and 2.8): new keys for ESP, with a key
//! exchange of their own where both sides like, before the kernel's lifetime ends them. The answer
//! waits until the kernel has the new states, which then take the place of the old ones.

use std::{sync::Arc, time::Duration};

use super::{
    NONCE_LEN, chance_between,
    child::{self, ChildError, Keying},
    init::{emit_ke, parse_ke},
    nonce,
};
use crate::{
    crypto::{Group, Secret},
    endpoint::{Context, Endpoint},
    io::{Event, Path},
    kernel::{ChildInstall, KernelFailed, KernelOp},
    sa::{
        ike_sa::{ChildRekeying, ChildSa, IkeSa, Live, PendingChild, Purpose, State},
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

/// After a refusal the peer is asked again.
const ASK_AGAIN: Duration = Duration::from_mins(1);

/// Once a resumed IKE SA has keys of its own, its Child SA gets some within this time.
const AFTER_IKE_REKEY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

impl Endpoint {
    /// Asks the peer for a new Child SA in the place of the present one.
    pub(crate) fn begin_child_rekey(&mut self, mut sa: IkeSa, cx: &mut Context<'_>) {
        let spi_in = self.new_esp_spi(cx.env);
        let State::Up(live) = &mut sa.state else {
            return self.check_in(sa);
        };
        live.child_rekey_at = Some(cx.now.boot + ASK_AGAIN);
        let group = live.suite.group;
        let idle = live.outstanding.is_none() && live.pending.is_none();
        let Some(child) = live.child.as_ref().filter(|_| idle) else {
            return self.check_in(sa);
        };
        let Some(key_share) = cx.env.new_key_share(group) else {
            return self.check_in(sa);
        };
        let mut ni = vec![0; NONCE_LEN];
        cx.env.random(&mut ni);
        let config = &live.connection.child;
        let mut chain = ChainWriter::new();
        // The SPI by which the sender of the notification is reached (RFC 7296, 1.3.3).
        let old = child.spi_in.to_be_bytes();
        chain.payload(PayloadKind::NOTIFY, |out| {
            Notify::emit_about(PROTOCOL_ESP, &old, NotifyKind::REKEY_SA, out);
        });
        // Without a key exchange rather than not at all, if the peer likes none.
        let groups = [Some(group), None];
        chain.payload(PayloadKind::SA, |out| {
            offer_esp(&config.ciphers, &groups, spi_in, out);
        });
        chain.octets(PayloadKind::NONCE, &ni);
        chain.payload(PayloadKind::KE, |out| emit_ke(key_share.as_ref(), out));
        chain.payload(PayloadKind::TS_I, |out| {
            TrafficSelector::emit_all(&child.local_ts, out);
        });
        chain.payload(PayloadKind::TS_R, |out| {
            TrafficSelector::emit_all(&child.remote_ts, out);
        });
        let rekeying = Box::new(ChildRekeying {
            ni,
            key_share,
            spi_in,
        });
        self.send_request(sa, Purpose::ChildRekey(rekeying), chain, cx);
    }

    /// Responder: agrees to new keys for the Child SA, or says why not. `Some` if the kernel is to be
    /// asked first; the answer then waits for it.
    pub(crate) fn answer_child_rekey(
        &mut self,
        live: &Live,
        path: Path,
        request: &Chain<'_>,
        answer: &mut ChainWriter,
        cx: &mut Context<'_>,
    ) -> Option<(ChildSa, ChildInstall)> {
        let mut refuse = |kind| {
            answer.notify(kind, &[]);
            None
        };
        let mut about = request
            .notifies()
            .filter(|notify| notify.kind == NotifyKind::REKEY_SA);
        let Some(about) = about.next() else {
            // One Child SA on each IKE SA in this release.
            return refuse(NotifyKind::NO_ADDITIONAL_SAS);
        };
        let Some(old) = live.child.as_ref() else {
            return refuse(NotifyKind::CHILD_SA_NOT_FOUND);
        };
        if (about.protocol, about.spi) != (PROTOCOL_ESP, &old.spi_out.to_be_bytes()[..]) {
            return refuse(NotifyKind::CHILD_SA_NOT_FOUND);
        }
        if live.outstanding.is_some() || live.pending.is_some() || live.moved_until.is_some() {
            return refuse(NotifyKind::TEMPORARY_FAILURE);
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
        let terms = match child::negotiate(&live.connection.child, request, groups) {
            Ok(terms) => terms,
            Err(ChildError::NoProposal) => return refuse(NotifyKind::NO_PROPOSAL_CHOSEN),
            Err(ChildError::NoSelectors) => return refuse(NotifyKind::TS_UNACCEPTABLE),
            Err(ChildError::Syntax) => return refuse(NotifyKind::INVALID_SYNTAX),
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
        let (child, install) = child::agreed(connection, peer, &terms, &keying, path, live.nat);
        child::emit_answer(answer, Some(&child));
        Some((child, install))
    }

    /// Initiator: takes the peer's terms and asks the kernel.
    pub(crate) fn child_rekey_response(
        &mut self,
        mut sa: IkeSa,
        rekeying: ChildRekeying,
        chain: &Chain<'_>,
    ) {
        let path = sa.path;
        let State::Up(live) = &mut sa.state else {
            return self.check_in(sa);
        };
        let ChildRekeying {
            ni,
            key_share,
            spi_in,
        } = rekeying;
        let groups = [Some(key_share.group()), None];
        let terms = child::confirm(&live.connection.child, chain, &groups);
        let nr = nonce(chain, live.suite.prf.output_len());
        let (Ok(terms), Some(nr)) = (terms, nr) else {
            // Refused; `child_rekey_at` already says when to ask again.
            return self.check_in(sa);
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
        let (child, install) = child::agreed(connection, peer, &terms, &keying, path, live.nat);
        live.pending = Some(PendingChild {
            child,
            answer: None,
        });
        self.install(sa, install);
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
        let Some(PendingChild { child, answer }) = live.pending.take() else {
            return self.check_in(sa);
        };
        let connection = Arc::clone(&live.connection.name);
        let works = result.is_ok();
        let failed = result.err().map(|failed| failed.text);
        let old = works.then(|| live.child.replace(child)).flatten();
        if works {
            live.plan_child_rekey(cx);
        }
        if let Some((message_id, works_chain)) = answer {
            let mut chain = works_chain;
            if !works {
                chain = ChainWriter::new();
                chain.notify(NotifyKind::TEMPORARY_FAILURE, &[]);
            }
            let header = Header {
                message_id,
                ..header
            };
            let response = live.protection.seal(&header, chain);
            self.send_all(sa.path, &response);
            live.window.answered(response);
            self.check_in(sa);
        } else if let Some(old) = old {
            // We began, so the old one is ours to delete (RFC 7296, 2.8).
            let mut chain = ChainWriter::new();
            let old = Delete::Esp(vec![old.spi_in]);
            chain.payload(PayloadKind::DELETE, |out| old.emit(out));
            self.send_request(sa, Purpose::DeleteChild, chain, cx);
        } else {
            // The peer has let its old states go by now: only a new SA brings the two together.
            self.begin_delete(sa, Closed::Kernel, cx);
        }
        match failed {
            None => self.event(Event::ChildRekeyed { connection }),
            Some(text) => self.event(Event::KernelFailed { connection, text }),
        }
    }
}

impl Live {
    /// Well before the kernel ends the Child SA, and not at the same time on both sides.
    pub(crate) fn plan_child_rekey(&mut self, cx: &mut Context<'_>) {
        let life = self.connection.child.lifetime;
        let (least, most) = if self.client { (70, 80) } else { (85, 95) };
        let share = chance_between((life * least / 100, life * most / 100), cx.env);
        self.child_rekey_at = Some(cx.now.boot + share);
    }

    /// The IKE SA has keys of its own now; the Child SA may still have those of a ticket.
    pub(crate) fn hurry_child_rekey(&mut self, cx: &mut Context<'_>) {
        if self.client && self.child.as_ref().is_some_and(|child| !child.fresh_keys) {
            self.child_rekey_at = Some(cx.now.boot + chance_between(AFTER_IKE_REKEY, cx.env));
        }
    }

    /// Kernel state that has not become the SA's Child SA yet.
    pub(crate) fn pending_removal(&mut self) -> Option<KernelOp> {
        let child = self.pending.take()?.child;
        Some(KernelOp::Remove {
            owner: child.owner,
            inbound: child.spi_in,
            outbound: child.spi_out,
        })
    }
}
