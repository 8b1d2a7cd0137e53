//! Which lane a datagram belongs to. The same shape and the same proofs as everywhere, but hardly any
//! state: the question is not whether to serve it, only before whom. Nothing is believed for the type of its
//! exchange, or a flood of forged resumptions would wait in line with the genuine ones.

use super::first::{good_cookie, prove};
use super::walk::{Payloads, walk};
use super::{
    Frame, Header, Knowledge, Opening, Reason, Span, Verdict, check_is_right, may_be_live, open,
};
use crate::cookie::{self, CookieInput};
use crate::defence::{Meter, SECOND};
use crate::ike::{IKE_SESSION_RESUME, MARKER_LEN};
use crate::lane::{Lane, Place};
use crate::sip::siphash24_words;
use crate::spi::OurSpi;
use crate::ticket;

const UDP_LEN: usize = 8;

/// A datagram as its sockets get it, from its UDP header on.
pub trait Datagram: Frame {
    /// Where it comes from and where it went to, IPv4 mapped into IPv6.
    fn addresses(&self) -> Option<([u8; 16], [u8; 16])>;
}

/// Chooses the lane of a datagram; `marked` is whether IKE stands behind a marker on its port.
#[inline(always)]
pub fn steer<D: Datagram + ?Sized, K: Knowledge>(datagram: &D, marked: bool, known: &K) -> Place {
    const UNPROVEN: Place = Place::Lane(Lane::Unproven, None);
    let mut at = UDP_LEN;
    if marked {
        // ESP or a keepalive, both for the kernel.
        if datagram.load::<MARKER_LEN>(UDP_LEN) != Some([0; MARKER_LEN]) {
            return Place::Sink;
        }
        at += MARKER_LEN;
    }
    let Some(len) = datagram.octets().checked_sub(at) else {
        return Place::Sink;
    };
    let message = Span {
        at: datagram.settle(at),
        len: datagram.settle(len),
    };
    let header = match open(datagram, message) {
        Ok(Opening::First(header)) => header,
        Ok(Opening::Ours(spi)) => {
            return match check_is_right(spi, known) {
                Some(true) => {
                    // The peer of an SA that is gone waits among those who have proved nothing, and so
                    // does who sends more than a peer has to say.
                    let lane = if may_be_live(spi, known) && is_within(datagram, spi, known) {
                        Lane::Existing
                    } else {
                        Lane::Unproven
                    };
                    Place::Lane(lane, Some(spi.worker()))
                }
                Some(false) => Place::Sink,
                None => UNPROVEN,
            };
        }
        Err(_) => return Place::Sink,
    };
    let Ok(payloads) = walk(datagram, message, header.next_payload()) else {
        return Place::Sink;
    };
    let now = known.now();
    let mut ticket_tag = 0;
    if header.exchange() == IKE_SESSION_RESUME {
        match prove(datagram, &payloads, now, known).verdict {
            Verdict::Pass(Reason::ResumeProven) => return Place::Lane(Lane::Resume, None),
            Verdict::Drop(_) => return Place::Sink,
            // The cookie of a ticket that is not ours is bound to the tag that it claims.
            _ => ticket_tag = claimed_tag(datagram, &payloads),
        }
    }
    if payloads.cookie != 0 && has_good_cookie(datagram, &header, &payloads, ticket_tag, now, known)
    {
        return Place::Lane(Lane::CookieProven, None);
    }
    UNPROVEN
}

/// Whether this source may send one more message for this SA ahead of others. What one source sends
/// beyond its own share takes nothing of what all have together.
#[inline(always)]
fn is_within<D: Datagram + ?Sized, K: Knowledge>(datagram: &D, spi: OurSpi, known: &K) -> bool {
    let Some((source, _)) = datagram.addresses() else {
        return false;
    };
    let source = u128::from_le_bytes(source);
    let words = [spi.0, source as u64, (source >> 64) as u64];
    let (key, now) = (known.meter_key(), known.now());
    known.charge(Meter::OwnSpi, siphash24_words(&key, &words), now)
        && known.charge(Meter::OwnSpiAlone, siphash24_words(&key, &[spi.0]), now)
}

#[inline(always)]
fn claimed_tag<D: Datagram + ?Sized>(datagram: &D, payloads: &Payloads) -> u64 {
    if payloads.ticket == 0 {
        return 0;
    }
    datagram
        .load::<{ ticket::ENVELOPE_LEN }>(payloads.ticket)
        .map_or(0, |envelope| ticket::tag_of(&envelope))
}

#[inline(always)]
fn has_good_cookie<D: Datagram + ?Sized, K: Knowledge>(
    datagram: &D,
    header: &Header,
    payloads: &Payloads,
    ticket_tag: u64,
    now: u64,
    known: &K,
) -> bool {
    if payloads.nonce == 0 {
        return false;
    }
    let (Some(nonce_head), Some((source, destination))) =
        (datagram.copy::<16>(payloads.nonce), datagram.addresses())
    else {
        return false;
    };
    let input = CookieInput {
        spi_i: header.spi_i.0.to_be_bytes(),
        source,
        nonce_head,
        ticket_tag,
        exchange: header.exchange(),
        destination_digest: cookie::destination_digest(destination),
    };
    good_cookie(datagram, payloads, &input, now / SECOND, known).is_some()
}
