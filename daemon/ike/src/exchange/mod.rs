//! One file for each exchange, both roles in it, in the order of the wire: the request's sender
//! first, then its receiver, then the response's receiver. IKE_AUTH has a file for each side.

mod auth;
mod child;
mod child_life;
mod child_rekey;
mod choice;
mod configuration;
mod first;
mod half_open;
mod informational;
mod init;
mod judge;
mod mapping;
mod mobike;
mod mode;
mod proof;
mod qcd;
mod reauth;
mod redirect;
mod rekey;
mod resume;
mod retry;
mod stored;
mod ticket;

use auth::share_of;
pub(crate) use auth::{Opening, chance_between};
pub(crate) use child::{ChildError, Ends, bare, block, owner, whole};
pub(crate) use configuration::any;
pub(crate) use qcd::TOKENS_PER_SECOND;
pub(crate) use reauth::Heir;
pub use redirect::Told;
pub(crate) use redirect::{Detour, Detours, Diversion};
pub(crate) use rekey::AFTER_RESUMPTION;
pub(crate) use resume::{BLIND_REFUSALS_PER_SECOND, REFUSALS_PER_SECOND};
pub(crate) use retry::Refusal;
pub(crate) use stored::Storing;
pub(crate) use ticket::TicketAnswer;

use crate::wire::{
    notify::NotifyKind,
    payload::{Chain, PayloadKind},
};

/// Octets of the nonces we send: as many as the longest PRF key needs half of (RFC 7296, 2.10).
const NONCE_LEN: usize = 32;

/// COOKIE and INVALID_KE_PAYLOAD rounds an initiator goes along with.
const MAX_ROUNDS: u8 = 3;

/// The nonce of a first message, if it has a length RFC 7296, 3.9 allows and is at least half as
/// long as the PRF's key (2.10).
fn nonce<'a>(chain: &Chain<'a>, prf_octets: usize) -> Option<&'a [u8]> {
    chain
        .one(PayloadKind::NONCE)
        .filter(|nonce| (16..=256).contains(&nonce.len()) && nonce.len() >= prf_octets / 2)
}

/// The data of the first notification of a kind.
fn notify_data<'a>(chain: &Chain<'a>, kind: NotifyKind) -> Option<&'a [u8]> {
    chain
        .notifies()
        .find(|notify| notify.kind == kind)
        .map(|notify| notify.data)
}
