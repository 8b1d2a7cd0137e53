//! CREATE_CHILD_SA for Child SAs: another one on an IKE SA that stands (RFC 7296, 1.3.1), or new keys for
//! one (1.3.3 and 2.8), with a key exchange of their own where both sides like, before the kernel's
//! lifetime ends them. The new states come first and receive at once; we send on them when the peer is
//! known to have its own; the old ones go last, so that no packet is lost. If both sides begin at once,
//! both answer as usual, and the lowest of the four nonces says which of the two new Child SAs is
//! redundant (2.8.1).

use std::sync::Arc;

use super::{
    NONCE_LEN,
    child::{self, ChildError, Exchanging, Keying, Terms},
    choice::{Asking, Choice, Misfit, choose},
    init::{emit_ke, parse_ke},
    mode, nonce, notify_data,
    retry::Refusal,
};
use crate::{
    crypto::{Group, Secret},
    endpoint::{Context, Endpoint},
    failure::{Cause, Failure, Standing},
    io::{Env, Path},
    kernel::{ChildInstall, Owner},
    peer::Child,
    sa::{
        children::{ChildRekeying, Origin, PendingChild},
        ike_sa::{ChildSa, IkeSa, Live, Purpose, State},
        proposal::{OwnExchange, first_group, may_exchange_in, offer_esp},
    },
    view::Closed,
    wire::{
        header::Exchange,
        notify::{Notify, NotifyKind},
        payload::{Chain, ChainWriter, PayloadKind},
        sa::PROTOCOL_ESP,
        ts::TrafficSelector,
    },
};

impl Live {
    /// The Child SA of the terms on this IKE SA, which is reached on this path.
    fn agreed(
        &self,
        owner: Owner,
        terms: &Terms,
        keying: &Keying<'_>,
        path: Path,
        env: &mut dyn Env,
    ) -> (ChildSa, ChildInstall) {
        let ends = self.ends(self.tunnel_path(path));
        let (mut child, install) =
            child::agreed(&self.connection, owner, terms, keying, &ends, env);
        child.fresh_keys |= self.origin.fresh_keys;
        (child, install)
    }
}

impl Endpoint {
    /// Asks the peer for a new Child SA in the place of the one with this inbound SPI; with the group it
    /// has asked for, if it has.
    pub(crate) fn begin_child_rekey(
        &mut self,
        mut sa: IkeSa,
        spi_in: u32,
        group: Option<Group>,
        cx: &mut Context<'_>,
    ) {
        let State::Up(live) = &mut sa.state else {
            return self.check_in(sa);
        };
        let present = live.children.iter().find(|child| child.spi_in == spi_in);
        let Some(owner) = present.map(|child| child.owner.clone()) else {
            return self.check_in(sa);
        };
        let idle = live.may_ask(&owner);
        let again = if idle {
            Refusal::Final
        } else {
            Refusal::NotYet
        };
        let at = cx.now.boot + again.wait(cx.env);
        let present = live
            .children
            .iter_mut()
            .find(|child| child.spi_in == spi_in);
        let Some(old) = present.map(|old| {
            old.rekey_at = Some(at);
            &*old
        }) else {
            return self.check_in(sa);
        };
        let (name, selectors) = (
            Arc::clone(&old.name),
            (old.local_ts.clone(), old.remote_ts.clone()),
        );
        match live.child_terms(&name).filter(|_| idle) {
            Some(mut terms) => {
                (terms.local_ts, terms.remote_ts) = selectors;
                self.ask_for_child(sa, owner, &terms, (Some(spi_in), group), cx);
            }
            None => self.check_in(sa),
        }
    }

    /// Asks the peer for a Child SA that there is none of; likewise.
    pub(crate) fn begin_child(
        &mut self,
        mut sa: IkeSa,
        name: &Arc<str>,
        group: Option<Group>,
        cx: &mut Context<'_>,
    ) {
        let State::Up(live) = &mut sa.state else {
            return self.check_in(sa);
        };
        let owner = child::owner(&live.connection, name, &live.peer, &live.leased.addresses);
        let idle = live.may_ask(&owner);
        let again = if idle {
            Refusal::Final
        } else {
            Refusal::NotYet
        };
        live.want_child(name, cx.now.boot + again.wait(cx.env));
        let wanted = live.wanted.iter().any(|wanted| wanted.name == *name);
        match live.child_terms(name).filter(|_| idle && wanted) {
            Some(terms) => self.ask_for_child(sa, owner, &terms, (None, group), cx),
            None => self.check_in(sa),
        }
    }

    fn ask_for_child(
        &mut self,
        mut sa: IkeSa,
        owner: Owner,
        terms: &Child,
        (old, wanted): (Option<u32>, Option<Group>),
        cx: &mut Context<'_>,
    ) {
        let spi_in = self.new_esp_spi(cx.env);
        let State::Up(live) = &mut sa.state else {
            return self.check_in(sa);
        };
        let groups = [wanted.unwrap_or(live.suite.group)];
        let own = OwnExchange::Among(&groups);
        let group = wanted.or_else(|| first_group(&terms.proposals, own));
        let key_share = group.and_then(|group| cx.env.new_key_share(group));
        if key_share.is_none() && group.is_some() {
            return self.check_in(sa);
        }
        let mut ni = vec![0; NONCE_LEN];
        cx.env.random(&mut ni);
        let mut chain = ChainWriter::new();
        if let Some(old) = old {
            // The SPI by which the sender of the notification is reached (RFC 7296, 1.3.3).
            let spi = old.to_be_bytes();
            chain.payload(PayloadKind::NOTIFY, |out| {
                Notify::emit_about(PROTOCOL_ESP, &spi, NotifyKind::REKEY_SA, out);
            });
        }
        mode::ask(&mut chain, terms, &sa.path, live.nat);
        chain.payload(PayloadKind::SA, |out| {
            offer_esp(&terms.proposals, own, spi_in, out);
        });
        chain.octets(PayloadKind::NONCE, &ni);
        if let Some(key_share) = &key_share {
            chain.payload(PayloadKind::KE, |out| emit_ke(key_share.as_ref(), out));
        }
        chain.payload(PayloadKind::TS_I, |out| {
            TrafficSelector::emit_all(&terms.local_ts, out);
        });
        chain.payload(PayloadKind::TS_R, |out| {
            TrafficSelector::emit_all(&terms.remote_ts, out);
        });
        let rekeying = Box::new(ChildRekeying {
            name: Arc::clone(&terms.name),
            owner,
            ni,
            key_share,
            spi_in,
            old,
            rival: None,
            ends: false,
            again: wanted.is_some(),
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
        let old = match live.replaced_by(request) {
            Ok(old) => old.map(|old| (Arc::clone(&old.name), old.owner.clone())),
            Err(NotifyKind::CHILD_SA_NOT_FOUND) => {
                about_rekey(request, answer);
                return None;
            }
            Err(kind) => return refuse(kind),
        };
        let ke = request.one(PayloadKind::KE).and_then(parse_ke);
        let groups = live.groups();
        let exchanging = Exchanging {
            own: OwnExchange::Among(&groups),
            ke_group: ke.and_then(|(number, _)| Group::from_number(number)),
        };
        let choice = match old {
            Some((name, owner)) => match live.child_terms(&name) {
                Some(config) => child::negotiate(&config, request, exchanging)
                    .map(|terms| Choice { terms, owner })
                    .map_err(Misfit::from),
                None => Err(Misfit::of(NotifyKind::NO_ADDITIONAL_SAS)),
            },
            None => {
                let asking = Asking {
                    connection: &live.connection,
                    peer: &live.peer,
                    leased: &live.leased.addresses,
                    live: Some(live),
                };
                choose(&asking, request, exchanging)
            }
        };
        let choice = choice.and_then(|choice| {
            let free = live.may_answer(&choice.owner).map_err(Misfit::of);
            free.map(|()| choice)
        });
        let Choice { terms, owner } = match choice {
            Ok(choice) => choice,
            Err(Misfit { notify, error }) => {
                if let (Some(error), Some(child)) = (error, live.connection.children.first()) {
                    self.failed(Standing::Proven, cx.now.boot, || {
                        let cause = Cause::of_child(error, child, Some(request));
                        Failure::of_live(live, path, Exchange::CreateChildSa, cause).sent(notify)
                    });
                }
                return refuse(notify);
            }
        };
        if let Some(group) = terms
            .group()
            .filter(|group| exchanging.ke_group != Some(*group))
        {
            answer.notify(
                NotifyKind::INVALID_KE_PAYLOAD,
                &group.number().to_be_bytes(),
            );
            return None;
        }
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
        let (child, install) = live.agreed(owner, &terms, &keying, path, cx.env);
        child::emit_answer(answer, &child);
        if let Some((Purpose::ChildRekey(ours), _)) = &mut live.outstanding
            && ours.owner == child.owner
        {
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
            name,
            owner,
            ni,
            key_share,
            spi_in,
            old,
            rival,
            ends,
            again,
        } = rekeying;
        let config = live.child_terms(&name);
        let groups = live.groups();
        let own = OwnExchange::Among(&groups);
        let used = key_share.as_ref().map(|share| share.group());
        if let Some(group) = other_group(chain).filter(|_| !again && rival.is_none() && !ends) {
            let ours = |config: &Child| may_exchange_in(&config.proposals, own, group);
            if used != Some(group) && config.as_ref().is_some_and(ours) {
                return match old {
                    Some(old) => self.begin_child_rekey(sa, old, Some(group), cx),
                    None => self.begin_child(sa, &name, Some(group), cx),
                };
            }
        }
        let exchanging = Exchanging {
            own,
            ke_group: used,
        };
        let terms = config.ok_or(ChildError::Syntax);
        let terms = terms.and_then(|terms| child::confirm(&terms, chain, exchanging));
        // No other group than that of the value it was sent.
        let terms = terms.and_then(|terms| match terms.group() {
            Some(group) if used != Some(group) => Err(ChildError::NoProposal),
            _ => Ok(terms),
        });
        let nr = nonce(chain, live.suite.prf.output_len());
        let (Ok(terms), Some(nr)) = (terms, nr) else {
            return self.child_refused(sa, (&name, old, ends), rival.is_some(), chain, cx);
        };
        let mut shared: Option<Secret> = None;
        if terms.group().is_some() {
            let ke = chain.one(PayloadKind::KE).and_then(parse_ke);
            shared = ke
                .zip(key_share)
                .and_then(|((_, peer_public), share)| share.agree(peer_public).ok());
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
        let (child, install) = live.agreed(owner, &terms, &keying, path, cx.env);
        live.put_off = None;
        // "Lowest" is octet by octet, and a nonce that ends first is lower (RFC 7296, 2.8.1).
        let redundant = rival.is_some_and(|theirs| ni.as_slice().min(nr) < theirs.as_slice());
        let origin = Origin::Ours { redundant, ends };
        live.pending.push_back(PendingChild { child, origin });
        self.add(sa, install);
    }

    /// Initiator: the peer does not want to, or cannot.
    fn child_refused(
        &mut self,
        mut sa: IkeSa,
        (name, old, ends): (&Arc<str>, Option<u32>, bool),
        collided: bool,
        chain: &Chain<'_>,
        cx: &mut Context<'_>,
    ) {
        let State::Up(live) = &mut sa.state else {
            return self.check_in(sa);
        };
        if collided {
            // Its own request was first, and was answered: that Child SA takes over (RFC 7296, 2.8.1).
            return self.check_in(sa);
        }
        let refusal = Refusal::of(chain);
        let at = cx.now.boot + refusal.wait(cx.env);
        match old {
            None if ends => {}
            None => {
                live.want_child(name, at);
                if refusal != Refusal::Temporary {
                    self.child_failed(live, name, super::judge::reason_in(chain));
                }
                if refusal == Refusal::NoMore {
                    self.no_more(live, sa.path, cx);
                }
            }
            Some(old) if refusal == Refusal::NotFound => {
                if let Some(gone) = live.take_child(old) {
                    // The peer has lost it: one from scratch (RFC 7296, 2.25).
                    self.kernel(gone.removal());
                    live.want_child(name, at);
                }
            }
            Some(old) => {
                let mut children = live.children.iter_mut();
                if let Some(child) = children.find(|child| child.spi_in == old) {
                    child.rekey_at = Some(at);
                }
                if refusal == Refusal::NoMore {
                    return self.renew(sa, cx);
                }
            }
        }
        if live.is_out_of_sync(refusal, cx.now.boot) {
            return self.begin_delete(sa, Closed::Protocol, cx);
        }
        self.check_in(sa);
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

/// The group that the peer wants instead of ours (RFC 7296, 1.3).
fn other_group(chain: &Chain<'_>) -> Option<Group> {
    let data = notify_data(chain, NotifyKind::INVALID_KE_PAYLOAD)?;
    Group::from_number(u16::from_be_bytes(data.try_into().ok()?))
}
