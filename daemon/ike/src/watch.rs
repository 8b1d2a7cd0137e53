//! Messages of watched peers in words, for an operator who looks on while a peer speaks with us. It takes
//! no part in the protocol: a message is read beside the step that handles it, and of what it holds only
//! kinds, names and lengths are told.

use std::{
    fmt::{self, Write as _},
    net::IpAddr,
    sync::Arc,
};

use crate::{
    Whose,
    counters::{Counter, Counters},
    endpoint::{Context, Endpoint},
    io::{Event, Output, Path},
    sa::{
        ike_sa::{IkeSa, Ripeness, State},
        protection::Protection,
    },
    wire::{
        delete::Delete,
        encrypted::Plain,
        fragment::Fragment,
        header::Header,
        id::Identity,
        notify::Notify,
        payload::{Chain, Payload, PayloadKind},
    },
};

/// Peers that can be watched at a time.
pub const MAX_WATCHED: usize = 16;

/// Whose messages are told.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Watched {
    /// Everybody's.
    Everybody,
    /// Somebody's. Before a peer has proved who it is, only its address is known.
    Somebody(Whose),
}

impl Watched {
    fn is(&self, remote: IpAddr, sa: Option<&IkeSa>) -> bool {
        let connection = || Some(&*sa?.connection()?.name);
        match self {
            Self::Everybody => true,
            Self::Somebody(whose) => whose.is(remote, connection(), sa.and_then(peer_of)),
        }
    }
}

/// A message as an operator sees it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Overheard {
    /// Our number of the IKE SA, if there is one.
    pub sa: Option<u64>,
    /// The connection's name, if it is known yet.
    pub connection: Option<Arc<str>>,
    /// Addresses.
    pub path: Path,
    /// Whether it came in.
    pub inbound: bool,
    /// What it is: exchange, message ID, length, payloads, and what was held against it.
    pub text: String,
}

impl fmt::Display for Overheard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let arrow = if self.inbound { "->" } else { "<-" };
        write!(f, "{} {arrow} {}", self.path.remote, self.text)
    }
}

impl Endpoint {
    /// Tells of the messages of these from now on, and of no others: at most [`MAX_WATCHED`] of them.
    pub fn watch(&mut self, mut watched: Vec<Watched>) {
        watched.truncate(MAX_WATCHED);
        self.watched = watched;
    }

    /// Takes a datagram in as if nobody looked on, and tells of it.
    pub(crate) fn overhear(&mut self, path: Path, message: &[u8], cx: &mut Context<'_>) {
        let before = self.words(&path, message, true);
        let counts = self.counters.clone();
        let at = self.queued();
        self.take(path, message, cx);
        // Keys that the message itself has led to are there only now.
        let words = match before {
            Some((words, true)) => Some(words),
            before => self
                .words(&path, message, true)
                .or(before)
                .map(|(words, _)| words),
        };
        if let Some(mut words) = words {
            for counter in new_counts(&counts, &self.counters) {
                let _infallible = write!(words.text, " [{}]", counter.word());
            }
            self.tell_at(at, Event::Overheard(Box::new(words)));
        }
    }

    /// What is to be told of a message before it leaves.
    pub(crate) fn about_to_leave(&self, output: Option<&Output>) -> Option<Event> {
        let Some(Output::Datagram { path, message }) = output else {
            return None;
        };
        let (words, _) = self.words(path, message, false)?;
        Some(Event::Overheard(Box::new(words)))
    }

    /// A message of somebody watched, and whether all of it could be read.
    fn words(&self, path: &Path, message: &[u8], inbound: bool) -> Option<(Overheard, bool)> {
        let parsed = Header::parse(message).ok();
        let sa = parsed.as_ref().and_then(|(header, _)| {
            let ours = if header.from_initiator == inbound {
                header.spi_r
            } else {
                header.spi_i
            };
            self.table.get(self.table.by_spi(ours)?)
        });
        let remote = path.remote.ip();
        if !self.watched.iter().any(|watched| watched.is(remote, sa)) {
            return None;
        }
        let (text, whole) = match &parsed {
            Some((header, payloads)) => {
                let protection = sa.and_then(protection_of);
                describe(header, message, payloads, protection, inbound)
            }
            None => (
                format!("{} octets that are no IKE message", message.len()),
                true,
            ),
        };
        let words = Overheard {
            sa: sa.map(|sa| sa.id),
            connection: sa
                .and_then(IkeSa::connection)
                .map(|connection| Arc::clone(&connection.name)),
            path: *path,
            inbound,
            text,
        };
        Some((words, whole))
    }
}

fn peer_of(sa: &IkeSa) -> Option<&Identity> {
    match &sa.state {
        State::Installing(live, _) | State::Up(live) => Some(&live.peer),
        _ => None,
    }
}

fn protection_of(sa: &IkeSa) -> Option<&Protection> {
    match &sa.state {
        State::AuthSent(sent) => Some(&sent.protection),
        State::HalfOpen(half_open) => match &half_open.ripeness {
            Ripeness::Ripe(ripe) => Some(&ripe.protection),
            _ => None,
        },
        State::Installing(live, _) | State::Up(live) => Some(&live.protection),
        State::InitSent(_) | State::ResumeSent(_) | State::Lingering(_) | State::Gone => None,
    }
}

fn new_counts(before: &Counters, after: &Counters) -> impl Iterator<Item = Counter> {
    let more = |counter: &Counter| after.count(*counter) > before.count(*counter);
    Counter::ALL.iter().copied().filter(more)
}

/// A message in words, and whether what is protected could be read too.
fn describe(
    header: &Header,
    message: &[u8],
    payloads: &[u8],
    protection: Option<&Protection>,
    inbound: bool,
) -> (String, bool) {
    let role = if header.response {
        "response"
    } else {
        "request"
    };
    let mut text = format!(
        "{} {role} {}, {} octets:",
        header.exchange.name(),
        header.message_id,
        message.len(),
    );
    if header.next == PayloadKind::SKF {
        match Fragment::parse(header, message) {
            Ok(Fragment { number, total, .. }) => {
                let _infallible = write!(text, " fragment {number} of {total}");
            }
            Err(error) => {
                let _infallible = write!(text, " a fragment that cannot be ({error})");
            }
        }
        return (text, true);
    }
    if header.next == PayloadKind::SK {
        let plain = protection.and_then(|both| both.read(header, message, inbound));
        return match plain {
            Some(Plain { first, octets }) => {
                list(&mut text, first, &octets);
                (text, true)
            }
            None => {
                text.push_str(" protected, not by keys that we have now");
                (text, false)
            }
        };
    }
    list(&mut text, header.next, payloads);
    (text, true)
}

/// The payloads of a chain, as both Swans abbreviate them.
fn list(text: &mut String, first: PayloadKind, octets: &[u8]) {
    match Chain::parse(first, octets) {
        Ok(chain) => {
            if chain.payloads().next().is_none() {
                text.push_str(" nothing");
            }
            for payload in chain.payloads() {
                text.push(' ');
                name(text, &payload);
            }
        }
        Err(error) => {
            let _infallible = write!(text, " payloads that do not add up ({error})");
        }
    }
}

fn name(text: &mut String, payload: &Payload<'_>) {
    let Payload { kind, body, .. } = payload;
    let _infallible = match *kind {
        PayloadKind::KE => match body {
            [high, low, ..] => write!(text, "KE({})", u16::from_be_bytes([*high, *low])),
            _ => write!(text, "KE"),
        },
        PayloadKind::NOTIFY => match Notify::parse(body) {
            Ok(Notify { kind, .. }) => match kind.name() {
                Some(name) => write!(text, "N({name})"),
                None => write!(text, "N({})", kind.0),
            },
            Err(_) => write!(text, "N"),
        },
        PayloadKind::DELETE => match Delete::parse(body) {
            Ok(Delete::IkeSa) => write!(text, "D(IKE)"),
            Ok(Delete::Esp(spis)) => write!(text, "D({} ESP)", spis.len()),
            Err(_) => write!(text, "D"),
        },
        PayloadKind::SA => write!(text, "SA"),
        PayloadKind::ID_I => write!(text, "IDi"),
        PayloadKind::ID_R => write!(text, "IDr"),
        PayloadKind::CERT => write!(text, "CERT"),
        PayloadKind::CERTREQ => write!(text, "CERTREQ"),
        PayloadKind::AUTH => write!(text, "AUTH"),
        PayloadKind::NONCE => write!(text, "No"),
        PayloadKind::VENDOR_ID => write!(text, "V"),
        PayloadKind::TS_I => write!(text, "TSi"),
        PayloadKind::TS_R => write!(text, "TSr"),
        PayloadKind::CP => write!(text, "CP"),
        PayloadKind::EAP => write!(text, "EAP"),
        PayloadKind(other) => write!(text, "payload {other}"),
    };
}
