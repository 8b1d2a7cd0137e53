//! Going to another gateway (RFC 5685). A gateway that is to take nobody new says so before it keeps
//! anything of a client, after the client has proved itself, or on an SA that stands. A client that
//! follows changes nothing but the address it calls: the new gateway has to prove the identity that the
//! configuration names, whoever sent us there.

use std::{collections::VecDeque, net::IpAddr, sync::Arc, time::Duration};

use super::{Heir, notify_data, resume::REFUSALS_PER_SECOND};
use crate::{
    counters::Counter,
    defence::{allowance::Allowance, budget::Room, cookie::Bound},
    endpoint::{CommandRefused, Context, Endpoint},
    io::{Event, Output, Path},
    look_up::Way,
    peer::{Connection, Redirection},
    sa::ike_sa::{IkeSa, Live, Purpose, State},
    view::Closed,
    wire::{
        encrypted::Plain,
        header::{Exchange, Header},
        notify::NotifyKind,
        payload::{Chain, ChainWriter, PayloadKind},
        redirect::{GatewayId, Redirect, redirected_from},
    },
};

/// Redirections that a client follows for one connection within [`LOOP_DETECT_PERIOD`]: gateways may
/// send it in a circle (RFC 5685, 7: MAX_REDIRECTS).
const MAX_REDIRECTS: usize = 5;
/// RFC 5685, 7: REDIRECT_LOOP_DETECT_PERIOD.
const LOOP_DETECT_PERIOD: Duration = Duration::from_mins(5);
/// A gateway that nobody has found by then is not called any more.
const SEARCH_PATIENCE: Duration = Duration::from_secs(30);
/// How long a client that was sent on after its proof has to delete its SA.
const LEAVES_WITHIN: Duration = Duration::from_secs(30);
/// Octets of a header and of what stands around a notification's data.
const AROUND_DATA: usize = 28 + 8;

/// Gateway: where new clients are sent.
#[derive(Debug)]
pub(crate) struct Diversion {
    to: Option<GatewayId>,
    /// Answers to addresses that have proved nothing.
    blind: Allowance,
}

impl Diversion {
    /// Nobody is sent anywhere.
    pub(crate) fn new(workers: u32) -> Self {
        Self {
            to: None,
            blind: Allowance::new(REFUSALS_PER_SECOND.div_ceil(workers)),
        }
    }
}

/// Client: where a connection's attempt goes that does not go where the configuration says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Detour {
    pub local: IpAddr,
    pub gateway: IpAddr,
    /// The gateway that has sent us there.
    pub from: Option<IpAddr>,
}

/// Client: what became of redirections of a connection.
#[derive(Debug, Default)]
pub(crate) struct Detours {
    /// The gateway that is being looked for, who has named it, and until when that is of use.
    sought: Option<(GatewayId, IpAddr, Duration)>,
    /// When we were sent elsewhere of late, [`MAX_REDIRECTS`] times at most.
    recent: VecDeque<Duration>,
}

impl Detours {
    /// Whether a gateway is being looked for.
    pub(crate) fn is_searching(&self, now: Duration) -> bool {
        self.sought.as_ref().is_some_and(|(_, _, by)| now < *by)
    }

    /// Whatever is found is not wanted any more.
    pub(crate) fn give_up(&mut self) {
        self.sought = None;
    }

    /// Whether one more may be followed; if so, it is counted.
    fn take(&mut self, now: Duration) -> bool {
        self.recent.retain(|at| *at + LOOP_DETECT_PERIOD > now);
        let room = self.recent.len() < MAX_REDIRECTS;
        if room {
            self.recent.push_back(now);
        }
        room
    }
}

/// How many clients have been told to go elsewhere.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Told {
    /// Clients that are told.
    pub told: usize,
    /// Clients that have not said that they would follow, and stay.
    pub unable: usize,
}

// The gateway's side.

impl Endpoint {
    /// Gateway: sends every client that calls from now on to another gateway, if it follows; or none.
    pub fn divert(&mut self, to: Option<GatewayId>) {
        self.diversion.to = to;
    }

    // RFC 5723: T20
    /// Gateway: answers a first message with REDIRECT if nobody new is taken, and keeps nothing of it.
    /// `true` if all is said. Under load only an address that has answered COOKIE gets more than that.
    pub(super) fn sends_on(
        &mut self,
        path: Path,
        header: &Header,
        message: &[u8],
        chain: &Chain<'_>,
        bound: &Bound<'_>,
        cx: &mut Context<'_>,
    ) -> bool {
        let to = self.diversion.to.clone().filter(|to| {
            let is_it = |address| *to == GatewayId::Address(address);
            // Whoever was sent here by the gateway that we would name has nowhere else to go; and whoever
            // calls the very address, which may be another one of ours, is there (RFC 5685, 4).
            follows(chain) && !is_it(path.local.ip()) && !sender(chain).is_some_and(is_it)
        });
        let Some(to) = to else {
            return false;
        };
        let data = Redirect::data(&to, bound.ni);
        let shorter = AROUND_DATA + data.len() <= message.len();
        let calm =
            shorter && self.room(&path) == Room::Free && self.diversion.blind.take(cx.now.boot);
        if calm || self.admit(path, header, chain, bound, false, cx) {
            self.counters.add(Counter::Redirected);
            self.refuse_first(path, header, NotifyKind::REDIRECT, &data);
        }
        true
    }

    /// Gateway: the client is who it says, and is to go elsewhere: the answer has our proof and no Child
    /// SA (RFC 5685, 6). The IKE SA stands until the client deletes it.
    pub(super) fn send_on_proven(
        &mut self,
        mut sa: IkeSa,
        mut live: Box<Live>,
        mut answer: ChainWriter,
        to: &GatewayId,
        cx: &mut Context<'_>,
    ) {
        live.children.clear();
        live.heir = Some(Heir::Elsewhere);
        live.end = live.end.min(cx.now.boot + LEAVES_WITHIN);
        answer.notify(NotifyKind::REDIRECT, &Redirect::data(to, &[]));
        let header = sa.header(Exchange::IkeAuth, true, 1);
        let response = live.protection.seal(&header, answer);
        self.send_all(sa.path, &response);
        live.window.answered(response);
        self.counters.add(Counter::Redirected);
        self.end_lease(sa.id);
        sa.state = State::Up(live);
        self.check_in(sa);
    }

    /// Gateway: tells the clients of a connection, or all, to go elsewhere (RFC 5685, 5). Whoever is told
    /// has `patience` to do so.
    pub fn redirect(
        &mut self,
        connection: Option<&str>,
        to: &GatewayId,
        patience: Duration,
        cx: &mut Context<'_>,
    ) -> Result<Told, CommandRefused> {
        if let Some(name) = connection {
            self.slot_of(name).ok_or(CommandRefused::NoConnection)?;
        }
        let concerned = |sa: &&IkeSa| match &sa.state {
            State::Up(live) => {
                let named = connection.is_none_or(|name| *name == *live.connection.name);
                named && !live.client && live.heir.is_none()
            }
            _ => false,
        };
        let ids: Vec<u64> = self
            .table
            .iter()
            .filter(concerned)
            .map(|sa| sa.id)
            .collect();
        let mut done = Told::default();
        for id in ids {
            let Some(mut sa) = self.table.check_out(id) else {
                continue;
            };
            match &mut sa.state {
                State::Up(live) if live.follows => {
                    done.told += 1;
                    live.redirect_next = Some((to.clone(), patience));
                    self.redirect_now(sa, cx);
                }
                _ => {
                    done.unable += 1;
                    self.check_in(sa);
                }
            }
        }
        Ok(done)
    }

    /// Gateway: tells a client to go elsewhere; after what is under way, for the window is one.
    pub(super) fn redirect_now(&mut self, mut sa: IkeSa, cx: &Context<'_>) {
        let State::Up(live) = &mut sa.state else {
            return self.check_in(sa);
        };
        if live.outstanding.is_some() {
            return self.check_in(sa);
        }
        let Some((to, patience)) = live.redirect_next.take() else {
            return self.check_in(sa);
        };
        live.end = live.end.min(cx.now.boot + patience);
        let mut chain = ChainWriter::new();
        chain.notify(NotifyKind::REDIRECT, &Redirect::data(&to, &[]));
        self.counters.add(Counter::Redirected);
        self.send_request(sa, Purpose::Redirect, chain, cx);
    }
}

// The client's side.

// RFC 5723: T20, N17
/// Client: says that it goes where it is sent; on the way there, who has sent it.
pub(super) fn announce(chain: &mut ChainWriter, connection: &Connection, from: Option<IpAddr>) {
    match from {
        Some(from) => {
            let mut data = Vec::new();
            GatewayId::Address(from).emit(&mut data);
            chain.notify(NotifyKind::REDIRECTED_FROM, &data);
        }
        None if connection.redirect == Redirection::Follow => {
            chain.notify(NotifyKind::REDIRECT_SUPPORTED, &[]);
        }
        None => {}
    }
}

/// Whether whoever sent a first message goes where it is sent (RFC 5685, 3).
pub(super) fn follows(chain: &Chain<'_>) -> bool {
    notify_data(chain, NotifyKind::REDIRECT_SUPPORTED).is_some() || sender(chain).is_some()
}

fn sender(chain: &Chain<'_>) -> Option<IpAddr> {
    redirected_from(notify_data(chain, NotifyKind::REDIRECTED_FROM)?).ok()
}

/// Client: the gateway that an answer in clear names. Without the nonce of our request anybody could
/// have written it, who has not even seen that (RFC 5685, 3).
pub(super) fn named_in_clear(
    chain: &Chain<'_>,
    connection: &Connection,
    ni: &[u8],
) -> Option<GatewayId> {
    let redirect = Redirect::parse(notify_data(chain, NotifyKind::REDIRECT)?).ok()?;
    let fits = connection.redirect == Redirection::Follow && redirect.nonce == ni;
    fits.then_some(redirect.gateway)
}

/// Client: the gateway that a protected message names.
pub(super) fn named(chain: &Chain<'_>, connection: &Connection) -> Option<GatewayId> {
    let redirect = Redirect::parse(notify_data(chain, NotifyKind::REDIRECT)?).ok()?;
    let fits = connection.redirect == Redirection::Follow && redirect.nonce.is_empty();
    fits.then_some(redirect.gateway)
}

impl Endpoint {
    /// Client: has the named gateway looked for. Returns what this makes of the attempt that was answered
    /// so, or of the SA.
    pub(super) fn follow(
        &mut self,
        connection: &Connection,
        gateway: GatewayId,
        by: IpAddr,
        cx: &Context<'_>,
    ) -> Closed {
        let now = cx.now.boot;
        let Some(slot) = self.slot_mut(connection) else {
            return Closed::Redirected;
        };
        if slot.detours.is_searching(now) {
            return Closed::Redirected;
        }
        if !slot.detours.take(now) {
            return Closed::RedirectLoop;
        }
        slot.detours.sought = Some((gateway.clone(), by, now + SEARCH_PATIENCE));
        let name = Arc::clone(&connection.name);
        self.event(Event::Redirected {
            connection: Arc::clone(&name),
            gateway: gateway.clone(),
            by,
        });
        self.output(Output::LookUp {
            connection: name,
            elsewhere: Some(gateway),
        });
        Closed::Redirected
    }

    /// Client: the gateway that answered IKE_AUTH is who it should be, and has sent us elsewhere.
    pub(super) fn follow_proven(
        &mut self,
        connection: &Connection,
        plain: &Plain,
        by: IpAddr,
        cx: &Context<'_>,
    ) -> Closed {
        let chain = Chain::parse(plain.first, &plain.octets);
        let named = chain.ok().and_then(|chain| named(&chain, connection));
        named.map_or(Closed::Redirected, |to| self.follow(connection, to, by, cx))
    }

    /// Client: the gateway of an SA that stands wants us to go elsewhere. The SA stays until the new one
    /// is up, or its gateway deletes it.
    pub(super) fn follow_later(
        &mut self,
        live: &Live,
        by: IpAddr,
        request: &Chain<'_>,
        cx: &Context<'_>,
    ) {
        let connection = Arc::clone(&live.connection);
        if !live.client || !self.table.attempts_at(&connection.name).is_empty() {
            return;
        }
        if let Some(gateway) = named(request, &connection) {
            self.follow(&connection, gateway, by, cx);
        }
    }

    /// Client: the ways to the gateway, best first, or why there is none.
    pub(crate) fn located(
        &mut self,
        connection: &Arc<str>,
        gateway: &GatewayId,
        found: Result<Vec<Way>, String>,
        cx: &mut Context<'_>,
    ) {
        let Some(at) = self.slot_of(connection) else {
            return;
        };
        let Some(slot) = self.slots.get_mut(at) else {
            return;
        };
        let is_it = |sought: &mut (GatewayId, IpAddr, Duration)| sought.0 == *gateway;
        let Some((_, from, _)) = slot.detours.sought.take_if(is_it) else {
            return;
        };
        let config = Arc::clone(&slot.config);
        let usable = |(_, gateway): &Way| {
            // A name may lead anywhere.
            GatewayId::from_text(&gateway.to_string()).is_some()
        };
        let found = found.into_iter().flatten().find(usable);
        let detour = found.map(|(local, gateway)| Detour {
            local,
            gateway,
            from: Some(from),
        });
        let begun = detour.map(|detour| self.start_full(at, Some(detour), cx));
        if !matches!(begun, Some(Ok(()))) && !self.is_alive(&config) {
            self.attempt_over(&config, Closed::Redirected, false, cx);
        }
    }
}

/// Whether a client's IKE_AUTH is answered with REDIRECT: to where. Not to the address that it has called.
pub(super) fn destination(live: &Live, called: IpAddr) -> Option<GatewayId> {
    let to = live.connection.redirect_to.as_ref();
    let elsewhere = |to: &&GatewayId| live.follows && **to != GatewayId::Address(called);
    to.filter(elsewhere).cloned()
}

/// Whether the message names another gateway in the place of a Child SA (RFC 5685, 6).
pub(super) fn is_sent_on(chain: &Chain<'_>, connection: &Connection) -> bool {
    chain.one(PayloadKind::SA).is_none() && named(chain, connection).is_some()
}
