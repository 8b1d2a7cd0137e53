//! Tests named after the rows of `docs/compliance.md`: `t_` for items of the state table and the notes
//! below it, `c_` for conduct. What other tests of the bed show already is marked there.

mod ask;
mod burn;
mod keys;
mod lease;
mod lifecycle;
mod mobike;
mod present;
mod spoof;
mod state;
mod unsupported;

use std::time::Duration;

use ike::{
    io::Event,
    wire::{notify::NotifyKind, payload::PayloadKind},
};

use crate::{
    bed::{InFlight, Pair},
    tap::Payloads,
};

const SOON: Duration = Duration::from_secs(1);
const RESUME: u8 = 38;

/// A pair that has logged in.
fn up(seed: u64) -> Pair {
    let mut pair = Pair::new(seed);
    pair.up();
    pair.run(SOON);
    assert!(pair.keys_agree());
    pair
}

/// A pair whose client sleeps on its ticket.
fn asleep(seed: u64) -> Pair {
    let mut pair = up(seed);
    pair.suspend();
    forget(&mut pair);
    pair
}

/// Forgets what has been said so far.
fn forget(pair: &mut Pair) {
    pair.sent.clear();
    pair.client.events.clear();
    pair.gateway.events.clear();
}

/// Comes back, and returns the request on its way without letting it arrive.
fn request(pair: &mut Pair) -> InFlight {
    pair.up();
    let request = pair.flying.remove(0);
    assert_eq!(exchange(&request), RESUME);
    request
}

fn deliver(pair: &mut Pair, flight: &InFlight) {
    pair.deliver(flight.from, flight.to, &flight.message);
}

fn exchange(flight: &InFlight) -> u8 {
    flight.message[18]
}

fn is_response(flight: &InFlight) -> bool {
    flight.message[19] & 0x20 != 0
}

/// Both sides say that a ticket opened an SA.
fn resumed(pair: &Pair) -> bool {
    let hit = |e: &Event| matches!(e, Event::Established { resumed: true, .. });
    pair.client.events.iter().any(hit) && pair.gateway.events.iter().any(hit)
}

/// Why the gateway refused a ticket last.
fn refusal(pair: &Pair) -> Option<&'static str> {
    let why = |event: &Event| match event {
        Event::TicketRefused { why, .. } => Some(why.word()),
        _ => None,
    };
    pair.gateway.events.iter().rev().find_map(why)
}

/// A notification about the IKE SA.
pub(crate) fn notify(kind: u16, data: &[u8]) -> (PayloadKind, Vec<u8>) {
    let mut body = vec![0, 0];
    body.extend_from_slice(&kind.to_be_bytes());
    body.extend_from_slice(data);
    (PayloadKind::NOTIFY, body)
}

/// The types of all notifications in a message.
pub(crate) fn kinds(payloads: &Payloads) -> Vec<NotifyKind> {
    payloads
        .iter()
        .filter(|(kind, _)| *kind == PayloadKind::NOTIFY)
        .map(|(_, body)| NotifyKind(u16::from_be_bytes([body[2], body[3]])))
        .collect()
}

/// The data of the first notification of a kind.
fn data_of(payloads: &Payloads, wanted: NotifyKind) -> Option<&[u8]> {
    let is_it = |(kind, body): &&(PayloadKind, Vec<u8>)| {
        *kind == PayloadKind::NOTIFY && body[2..4] == wanted.0.to_be_bytes()
    };
    payloads.iter().find(is_it).map(|(_, body)| &body[4..])
}
