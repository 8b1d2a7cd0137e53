//! What both sides agree on for a Child SA (RFC 7296, 1.2, 2.9 and 2.17), and the way of the one that
//! IKE_AUTH makes into the kernel.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

use super::{mode, share_of};
use crate::{
    crypto::{Group, Secret, keymat::child_keys},
    endpoint::{Context, Endpoint},
    failure::{Cause, Failure, Standing},
    io::{Env, Event, Path},
    kernel::{Carriage, ChildInstall, EspKey, KernelFailed, KernelOp, Mode, Owner, flows},
    peer::{Child, Connection, Unique},
    sa::{
        children::rekey_share,
        ike_sa::{ChildSa, IkeSa, Installing, State},
        nat::Nat,
        proposal::{EspChoice, IkeSuite, OwnExchange, answer_esp, choose_esp, offer_esp},
    },
    view::Closed,
    wire::{
        header::Exchange,
        id::Identity,
        notify::NotifyKind,
        payload::{Chain, ChainWriter, PayloadKind},
        ts::TrafficSelector,
    },
};

/// What both sides agreed on, from our point of view.
#[derive(Debug)]
pub(super) struct Terms {
    /// Which child of the connection it is.
    pub name: Arc<str>,
    choice: EspChoice,
    /// Both want transport mode.
    transport: bool,
    pub local_ts: Vec<TrafficSelector>,
    pub remote_ts: Vec<TrafficSelector>,
    carriage: Carriage,
    lifetime: Duration,
}

impl Terms {
    /// The group of the Child SA's own key exchange, if one was agreed.
    pub(super) const fn group(&self) -> Option<Group> {
        self.choice.group
    }

    /// Whether some traffic of it is the other's, to the same end.
    pub(super) fn repeats(&self, other: &ChildSa) -> bool {
        let shared = |ours: &[TrafficSelector], theirs: &[TrafficSelector]| {
            ours.iter().any(|ts| theirs.contains(ts))
        };
        shared(&self.local_ts, &other.local_ts) && shared(&self.remote_ts, &other.remote_ts)
    }
}

/// Why there are no terms.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum ChildError {
    NoProposal,
    NoSelectors,
    Syntax,
}

impl ChildError {
    /// What the peer is told.
    pub(super) const fn notify(self) -> NotifyKind {
        match self {
            Self::NoProposal => NotifyKind::NO_PROPOSAL_CHOSEN,
            Self::NoSelectors => NotifyKind::TS_UNACCEPTABLE,
            Self::Syntax => NotifyKind::INVALID_SYNTAX,
        }
    }
}

/// What there may be of a key exchange of the Child SA's own, and the group of the KE payload at hand.
#[derive(Clone, Copy)]
pub(super) struct Exchanging<'a> {
    pub own: OwnExchange<'a>,
    pub ke_group: Option<Group>,
}

impl Exchanging<'_> {
    /// As in IKE_AUTH.
    pub(super) const NEVER: Self = Self {
        own: OwnExchange::Never,
        ke_group: None,
    };
}

/// Everything the keys of a Child SA come from.
pub(super) struct Keying<'a> {
    pub suite: IkeSuite,
    pub sk_d: &'a Secret,
    /// Secret of a key exchange of the Child SA's own.
    pub shared: Option<&'a Secret>,
    pub ni: &'a [u8],
    pub nr: &'a [u8],
    pub initiator: bool,
    pub spi_in: u32,
}

/// Packets after which a Child SA without extended sequence numbers gets new keys at the latest: its numbers
/// end at 2^32 (RFC 4303, 3.3.3).
const PACKETS_WITHOUT_ESN: u64 = 3 << 30;

/// Where a Child SA begins and ends.
pub(crate) struct Ends<'a> {
    pub path: Path,
    pub nat: Nat,
    /// Whether we hold the peer's tickets.
    pub client: bool,
    /// Client: inner addresses that are leased to us.
    pub leased: &'a [IpAddr],
}

/// Initiator: SA, TSi, TSr.
pub(super) fn emit_offer(chain: &mut ChainWriter, child: &Child, spi: u32) {
    chain.payload(PayloadKind::SA, |out| {
        offer_esp(&child.proposals, OwnExchange::Never, spi, out);
    });
    chain.payload(PayloadKind::TS_I, |out| {
        TrafficSelector::emit_all(&child.local_ts, out);
    });
    chain.payload(PayloadKind::TS_R, |out| {
        TrafficSelector::emit_all(&child.remote_ts, out);
    });
}

/// Responder: SA, TSi, TSr as agreed.
pub(super) fn emit_answer(chain: &mut ChainWriter, child: &ChildSa) {
    if child.carriage.mode == Mode::Transport {
        chain.notify(NotifyKind::USE_TRANSPORT_MODE, &[]);
    }
    let choice = EspChoice {
        number: child.number,
        cipher: child.cipher,
        esn: child.esn,
        group: child.group,
        spi: 0,
    };
    chain.payload(PayloadKind::SA, |out| {
        answer_esp(&choice, child.spi_in, out);
    });
    chain.payload(PayloadKind::TS_I, |out| {
        TrafficSelector::emit_all(&child.remote_ts, out);
    });
    chain.payload(PayloadKind::TS_R, |out| {
        TrafficSelector::emit_all(&child.local_ts, out);
    });
}

/// Responder: holds an offer against the configuration.
pub(super) fn negotiate(
    child: &Child,
    chain: &Chain<'_>,
    exchanging: Exchanging<'_>,
) -> Result<Terms, ChildError> {
    terms(
        child,
        chain,
        exchanging,
        (PayloadKind::TS_R, PayloadKind::TS_I),
    )
}

/// Initiator: holds the answer against what was offered.
pub(super) fn confirm(
    child: &Child,
    chain: &Chain<'_>,
    exchanging: Exchanging<'_>,
) -> Result<Terms, ChildError> {
    terms(
        child,
        chain,
        exchanging,
        (PayloadKind::TS_I, PayloadKind::TS_R),
    )
}

fn terms(
    child: &Child,
    chain: &Chain<'_>,
    exchanging: Exchanging<'_>,
    (ours, theirs): (PayloadKind, PayloadKind),
) -> Result<Terms, ChildError> {
    let sa = chain.one(PayloadKind::SA).ok_or(ChildError::Syntax)?;
    let Exchanging { own, ke_group } = exchanging;
    let choice = choose_esp(sa, &child.proposals, own, ke_group).map_err(|_| ChildError::Syntax)?;
    let choice = choice
        .filter(|choice| choice.spi > 255)
        .ok_or(ChildError::NoProposal)?;
    let narrowed = |kind, configured: &[TrafficSelector]| {
        let body = chain.one(kind).ok_or(ChildError::Syntax)?;
        let asked = TrafficSelector::parse_all(body).map_err(|_| ChildError::Syntax)?;
        // The peer's first selector may be the packet that it has in hand (RFC 7296, 2.9).
        let mut both: Vec<_> = asked
            .iter()
            .flat_map(|theirs| configured.iter().filter_map(|ours| ours.narrow(theirs)))
            .take(TrafficSelector::MAX)
            .collect();
        let mut seen = BTreeSet::new();
        both.retain(|ts| seen.insert(*ts));
        if both.is_empty() {
            Err(ChildError::NoSelectors)
        } else {
            Ok(both)
        }
    };
    let mut local_ts = narrowed(ours, &child.local_ts)?;
    let mut remote_ts = narrowed(theirs, &child.remote_ts)?;
    while flows::count(&local_ts, &remote_ts) > flows::MAX_FLOWS {
        let longer = if local_ts.len() > remote_ts.len() {
            &mut local_ts
        } else {
            &mut remote_ts
        };
        longer.pop();
        if longer.is_empty() {
            return Err(ChildError::NoSelectors);
        }
    }
    local_ts.sort_unstable();
    remote_ts.sort_unstable();
    Ok(Terms {
        name: Arc::clone(&child.name),
        choice,
        transport: mode::wanted_by_both(child, chain),
        local_ts,
        remote_ts,
        carriage: child.carriage,
        lifetime: child.lifetime,
    })
}

/// Whose kernel state a Child SA is. A connection with one possible peer has one owner for each child,
/// whoever that peer is.
pub(crate) fn owner(
    connection: &Connection,
    child: &str,
    peer: &Identity,
    leased: &[IpAddr],
) -> Owner {
    let whole = whole(connection, child);
    let owner = match &connection.remote.id {
        Some(_) => whole,
        None => Owner(Arc::from(format!("{}/{peer}", whole.0))),
    };
    // Who is there more than once is told apart by what it has inside.
    match (connection.unique, leased.first()) {
        (Unique::Never, Some(inside)) => Owner(Arc::from(format!("{}@{inside}", owner.0))),
        _ => owner,
    }
}

/// What an IKE SA without Child SAs is known by; no child's name is empty.
pub(crate) fn bare(connection: &Connection, peer: &Identity, leased: &[IpAddr]) -> Owner {
    owner(connection, "", peer, leased)
}

/// Who owns what belongs to a child of a connection and to no one peer of it.
pub(crate) fn whole(connection: &Connection, child: &str) -> Owner {
    Owner(Arc::from(format!("{}/{child}", connection.name)))
}

/// The block policy of a child, whoever the connection's peers are, and on the inside our `leased`
/// addresses, if we are the client. `None` if nothing is known to be on one of the sides; or if the
/// connection may have many peers and would claim every address for them: their gateway has other
/// traffic too.
pub(crate) fn block(
    connection: &Connection,
    child: &Child,
    leased: &[IpAddr],
) -> Option<(Owner, KernelOp)> {
    let Child {
        name,
        local_ts,
        mut remote_ts,
        remote_dynamic,
        carriage,
        ..
    } = child.with(leased);
    if remote_dynamic {
        let pools = connection.pools.iter();
        remote_ts.extend(pools.flat_map(|pool| &pool.networks).copied());
    }
    if local_ts.is_empty() || remote_ts.is_empty() {
        return None;
    }
    if connection.remote.id.is_none() && remote_ts.iter().any(|ts| ts.prefix().1 == 0) {
        return None;
    }
    let owner = whole(connection, &name);
    let block = KernelOp::Block {
        owner: owner.clone(),
        carriage,
        peer: connection.remote_addr,
        local_ts,
        remote_ts,
    };
    Some((owner, block))
}

// RFC 5723: T13, X10, note 5
/// The Child SA of the terms, and what the kernel has to be told.
pub(super) fn agreed(
    connection: &Connection,
    owner: Owner,
    terms: &Terms,
    keying: &Keying<'_>,
    ends: &Ends<'_>,
    env: &mut dyn Env,
) -> (ChildSa, ChildInstall) {
    let Terms {
        name,
        choice,
        transport,
        local_ts,
        remote_ts,
        carriage,
        lifetime,
    } = terms;
    let Ends {
        path,
        nat,
        client,
        leased,
    } = *ends;
    let mut carriage = *carriage;
    if !(*transport && mode::possible(local_ts, remote_ts, &path, nat)) {
        carriage.mode = Mode::Tunnel;
    }
    if !choice.esn {
        carriage.packets.rekey = match carriage.packets.rekey {
            0 => PACKETS_WITHOUT_ESN,
            fewer => fewer.min(PACKETS_WITHOUT_ESN),
        };
    }
    for volume in [&mut carriage.bytes, &mut carriage.packets] {
        volume.rekey = share_of(volume.rekey, rekey_share(client), env);
    }
    let each = choice.cipher.key_octets();
    let shared = keying.shared.map_or(&[][..], Secret::expose);
    let nonces = (keying.ni, keying.nr);
    let (i2r, r2i) = child_keys(keying.suite.prf, keying.sk_d, shared, nonces, each);
    let (outbound, inbound) = if keying.initiator {
        (i2r, r2i)
    } else {
        (r2i, i2r)
    };
    let config = connection.child(name);
    let ours = config.is_some_and(|config| config.local_dynamic);
    let child = ChildSa {
        name: Arc::clone(name),
        owner: owner.clone(),
        path,
        number: choice.number,
        spi_in: keying.spi_in,
        spi_out: choice.spi,
        carriage,
        cipher: choice.cipher,
        esn: choice.esn,
        group: choice.group,
        fresh_keys: keying.shared.is_some(),
        local_ts: local_ts.clone(),
        remote_ts: remote_ts.clone(),
        answered: None,
        rekey_at: None,
        end: Duration::MAX,
    };
    let install = ChildInstall {
        owner,
        path,
        udp_encap: nat.found(),
        carriage,
        cipher: choice.cipher,
        inbound: EspKey {
            spi: keying.spi_in,
            key: inbound,
        },
        outbound: EspKey {
            spi: choice.spi,
            key: outbound,
        },
        esn: choice.esn,
        local_ts: local_ts.clone(),
        remote_ts: remote_ts.clone(),
        leased: if ours { leased.to_vec() } else { Vec::new() },
        hard_lifetime: *lifetime,
    };
    (child, install)
}

impl Endpoint {
    /// Asks the kernel for the Child SA of IKE_AUTH, if there is to be one.
    pub(super) fn install_first(
        &mut self,
        sa: IkeSa,
        install: Option<ChildInstall>,
        cx: &mut Context<'_>,
    ) {
        match install {
            Some(install) => self.install(sa, install),
            None => self.installed(sa, Ok(()), cx),
        }
    }

    /// Asks the kernel for a Child SA, beside that of another SA or in the place of what there is.
    pub(crate) fn install(&mut self, mut sa: IkeSa, install: ChildInstall) {
        let old = match &mut sa.state {
            State::Installing(live, _) => {
                live.beside_of = self.predecessor(live, sa.path.remote.ip());
                live.beside_of
            }
            _ => self.stands_with_heir(&install.owner),
        };
        let install = Box::new(install);
        let op = match old {
            Some(_) => KernelOp::Add(install),
            None => KernelOp::Install(install),
        };
        self.kernel_for(sa.id, op);
        self.check_in(sa);
    }

    /// The kernel has answered: the SA is up, or it never was.
    pub(crate) fn installed(
        &mut self,
        mut sa: IkeSa,
        result: Result<(), KernelFailed>,
        cx: &mut Context<'_>,
    ) {
        if matches!(sa.state, State::Up(_)) {
            return self.child_installed(sa, result, cx);
        }
        let State::Installing(mut live, waiting) = std::mem::replace(&mut sa.state, State::Gone)
        else {
            return self.stray(sa);
        };
        let connection = Arc::clone(&live.connection);
        if let Err(failed) = &result {
            let text = failed.text.clone();
            self.failed(Standing::Proven, cx.now.boot, || {
                Failure::of_sa(&sa, Exchange::IkeAuth, Cause::kernel(&text))
                    .proven(live.peer.clone(), &connection)
            });
            self.event(Event::KernelFailed {
                connection: Arc::clone(&connection.name),
                text,
            });
        }
        match *waiting {
            Installing::Responder {
                works,
                fails,
                request,
            } => {
                let header = sa.header(Exchange::IkeAuth, true, 1);
                if result.is_err() {
                    let request_header = sa.header(Exchange::IkeAuth, false, 1);
                    let live = *live;
                    return self.last_word(
                        sa,
                        live.protection,
                        &request_header,
                        &request,
                        fails,
                        cx,
                    );
                }
                let response = live.protection.seal(&header, works);
                self.send_all(sa.path, &response);
                live.window.answered(response);
            }
            // The kernel has not been asked yet.
            Installing::Storing(_) => return self.stray(sa),
            Installing::Initiator { ticket } => {
                if result.is_err() {
                    self.goodbye(&sa, live.protection);
                    return self.attempt_failed(sa, &connection, Closed::Kernel, cx);
                }
                self.take_ticket(&mut live, ticket, sa.path, cx);
                self.attempt_succeeded(&connection, sa.id);
            }
        }
        let event = Event::Established {
            sa: sa.id,
            connection: Arc::clone(&connection.name),
            peer: live.peer.clone(),
            resumed: live.origin.resumed,
            initiator: sa.initiator,
            took: cx.now.boot.saturating_sub(sa.started),
        };
        for mut child in std::mem::take(&mut live.children) {
            child.fresh_keys = live.origin.fresh_keys;
            live.plan_child_rekey(&mut child, cx);
            live.children.push(child);
        }
        live.plan_rekey(cx);
        live.plan_reauth(cx);
        if sa.initiator {
            self.want_children(&mut live, cx);
        }
        let beside_of = live.beside_of.take();
        let mut owners = vec![bare(&connection, &live.peer, &live.leased.addresses)];
        owners.extend(live.children.iter().map(|child| child.owner.clone()));
        let id = sa.id;
        sa.state = State::Up(live);
        self.check_in(sa);
        self.event(event);
        if let Some(old) = beside_of {
            return self.stands_beside(id, old, cx);
        }
        for owner in owners {
            self.replace_others(&owner, id, cx);
        }
    }

    /// Another worker's Child SA has taken the place of the one with this inbound SPI: its SA goes without
    /// a word on the wire, and what the kernel has of the owner is the other's now.
    pub fn taken_over(&mut self, owner: &Owner, inbound: u32, cx: &mut Context<'_>) {
        for id in self.table.of_owner(owner) {
            let Some(mut sa) = self.table.check_out(id) else {
                continue;
            };
            if sa.child_spis().any(|spi| spi == inbound) {
                if let State::Up(live) = &mut sa.state {
                    live.children.retain(|child| child.owner != *owner);
                }
                self.close(sa, Closed::Replaced, cx);
            } else {
                self.check_in(sa);
            }
        }
    }

    /// Drops older SAs of the same owner without a word on the wire (RFC 5723, 4.3.4): their kernel
    /// states went when the new ones came.
    pub(super) fn replace_others(&mut self, owner: &Owner, newest: u64, cx: &mut Context<'_>) {
        for id in self.table.of_owner(owner) {
            if id == newest {
                continue;
            }
            if let Some(sa) = self.table.check_out(id) {
                self.close(sa, Closed::Replaced, cx);
            }
        }
    }
}
