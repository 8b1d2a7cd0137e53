//! The payloads of a first message: where its ticket, its nonce and its cookie are.

use core::ops::RangeInclusive;

use super::{Frame, Reason, Span, Verdict};
use crate::cookie::COOKIE_LEN;
use crate::ike::{
    COOKIE, GENERIC_HEADER_LEN, HEADER_LEN, MIN_NONCE, NOTIFY_HEADER_LEN, PAYLOAD_NONCE,
    PAYLOAD_NONE, PAYLOAD_NOTIFY, TICKET_OPAQUE,
};
use crate::ticket;

/// Payloads looked at in search of the ticket, which RFC 5723 puts second or third.
pub const MAX_WALK: usize = 12;

/// Lengths of a notification that holds a ticket.
const TICKET_NOTIFY: RangeInclusive<usize> =
    NOTIFY_HEADER_LEN + ticket::MIN_TICKET..=NOTIFY_HEADER_LEN + ticket::MAX_TICKET;

/// What the walk met. Zero for what it did not: no payload begins with the frame.
pub(super) struct Payloads {
    /// Where the ticket begins.
    pub ticket: usize,
    /// Where the nonce begins; it has 16 octets at least.
    pub nonce: usize,
    /// Where the cookie begins, if it has the length of ours.
    pub cookie: usize,
    /// Whether the walk came to the end of the message.
    pub whole: bool,
}

/// Walks the payloads. The walk goes on behind the ticket, because a second one or a chain that does
/// not end with the message gives the whole away.
#[inline(always)]
pub(super) fn walk<F: Frame + ?Sized>(
    frame: &F,
    message: Span,
    first: u8,
) -> Result<Payloads, Verdict> {
    const SHAPE: Verdict = Verdict::Drop(Reason::PayloadShape);
    let end = message.at + message.len;
    let mut at = message.at + HEADER_LEN;
    let mut kind = first;
    // Settled from the start, or the verifier would follow every order of payloads by itself.
    let mut ticket = frame.settle(0);
    let mut nonce = frame.settle(0);
    let mut cookie = frame.settle(0);
    let mut cookies = frame.settle(0);
    for _ in 0..MAX_WALK {
        if kind == PAYLOAD_NONE {
            break;
        }
        // In one read with what a notification has next; only the last payload is too short for that.
        let head = match frame.often_header::<NOTIFY_HEADER_LEN>(at) {
            Some(head) => u64::from_le_bytes(head),
            None if kind == PAYLOAD_NOTIFY => return Err(SHAPE),
            None => {
                let head = frame.load::<GENERIC_HEADER_LEN>(at).ok_or(SHAPE)?;
                frame.forget(u64::from(u32::from_le_bytes(head)))
            }
        };
        let len = usize::from(((head >> 16) as u16).swap_bytes());
        if len < GENERIC_HEADER_LEN || at + len > end {
            return Err(SHAPE);
        }
        if kind == PAYLOAD_NONCE {
            if len < GENERIC_HEADER_LEN + MIN_NONCE {
                return Err(SHAPE);
            }
            nonce = frame.bound(at + GENERIC_HEADER_LEN);
        }
        if kind == PAYLOAD_NOTIFY {
            if len < NOTIFY_HEADER_LEN {
                return Err(SHAPE);
            }
            let has_spi = (head >> 40) as u8 != 0;
            match ((head >> 48) as u16).swap_bytes() {
                TICKET_OPAQUE => {
                    if ticket != 0 {
                        return Err(Verdict::Drop(Reason::TwoTickets));
                    }
                    if has_spi {
                        return Err(SHAPE);
                    }
                    if !TICKET_NOTIFY.contains(&len) {
                        return Err(Verdict::Drop(Reason::TicketLength));
                    }
                    ticket = frame.bound(at + NOTIFY_HEADER_LEN);
                }
                COOKIE => {
                    if cookies != 0 {
                        return Err(Verdict::Drop(Reason::TwoCookies));
                    }
                    cookies = frame.settle(1);
                    if len == NOTIFY_HEADER_LEN + COOKIE_LEN && !has_spi {
                        cookie = frame.bound(at + NOTIFY_HEADER_LEN);
                    }
                }
                _ => {}
            }
        }
        kind = head as u8;
        at = frame.bound(at + len);
    }
    let whole = kind == PAYLOAD_NONE;
    if whole && at != end {
        return Err(SHAPE);
    }
    Ok(Payloads {
        ticket,
        nonce,
        cookie,
        whole,
    })
}
