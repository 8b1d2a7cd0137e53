//! First messages: IKE_SA_INIT and IKE_SESSION_RESUME. Who brings a ticket of ours is believed that
//! much; who has to show that he receives what is sent to his address is sent a cookie; whose ticket
//! is of no use is told so, within a budget.

use super::locate::{IPV4_LEN, Located, UDP_LEN};
use super::walk::{Payloads, walk};
use super::{
    ALONE_AFTER, ASLEEP_AFTER, Frame, Header, Judgement, Knowledge, Reason, SILENT_AFTER, Verdict,
    is_set, silence, unless_asleep,
};
use crate::board::{self, Admission};
use crate::cookie::{self, COOKIE_LEN, CookieInput};
use crate::defence::{Level, Meter, SECOND, network_of};
use crate::ike::IKE_SESSION_RESUME;
use crate::maps::{CHECK_LOCAL, COOKIES, TICKET_KEYS_SET};
use crate::reply::{COOKIE_REPLY_LEN, NACK_LEN, Reply};
use crate::sip::siphash24_words;
use crate::ticket;

/// What a message has proved by its ticket, if it has one.
pub(super) struct Proof {
    pub verdict: Verdict,
    /// The tag it claims, for the cookie; 0 without a ticket.
    ticket_tag: u64,
    /// Its client cannot answer COOKIE.
    no_cookie: bool,
}

#[inline(always)]
pub(super) fn judge<F: Frame + ?Sized, K: Knowledge>(
    frame: &F,
    located: &Located,
    header: &Header,
    known: &K,
) -> Judgement {
    let payloads = match walk(frame, located.message, header.next_payload) {
        Ok(payloads) => payloads,
        Err(verdict) => return unless_asleep(verdict, known).into(),
    };
    let now = known.roughly_now();
    let silence = silence(now, known);
    if silence > ASLEEP_AFTER {
        return Verdict::Pass(Reason::GateAsleep).into();
    }
    if silence > SILENT_AFTER {
        return Verdict::Drop(Reason::DaemonSilent).into();
    }
    let resume = header.exchange == IKE_SESSION_RESUME;
    let proof = if resume {
        prove(frame, &payloads, now, known)
    } else {
        Proof {
            verdict: Verdict::Pass(Reason::SaInit),
            ticket_tag: 0,
            no_cookie: false,
        }
    };
    let level = if silence > ALONE_AFTER {
        Level::Attack
    } else {
        known.level()
    };
    let proven = match proof.verdict {
        Verdict::Pass(reason) if known.flags() & COOKIES != 0 => reason,
        verdict => return answer(frame, located, header, verdict, &NOTHING, now, known),
    };
    let attack = level == Level::Attack;
    // A ticket of ours is worth more than an address, as long as it is not shown again and again.
    let taken = !attack
        && match proven {
            Reason::ResumeProven => known.charge(Meter::Ticket, proof.ticket_tag, now),
            Reason::SaInit => level == Level::Calm,
            _ => true,
        };
    if taken {
        return proof.verdict.into();
    }
    let Some((source, destination)) = addresses(frame, located) else {
        return Verdict::Drop(Reason::Truncated).into();
    };
    // A cookie that another CPU has just made must not look as if it were from the future.
    let now = known.now();
    let network = network_of(source);
    if !resume && !attack && known.charge(Meter::SoftNetwork, hash(network, known), now) {
        return proof.verdict.into();
    }
    // Nobody could ever satisfy us without a key.
    if known.cookie_key(epoch_at(now / SECOND)).is_none() {
        return proof.verdict.into();
    }
    if matches!(proven, Reason::TicketNotFound) {
        return Verdict::Drop(Reason::TicketTooDeep).into();
    }
    // From here on all are alike: with a ticket or without, of either family.
    let located = Located {
        ip_len: frame.settle(located.ip_len),
        ..*located
    };
    let challenge = Challenge {
        frame,
        source: forget(frame, source),
        destination: forget(frame, destination),
        ticket_tag: frame.forget(proof.ticket_tag),
        no_cookie: frame.forget(u64::from(proof.no_cookie)) != 0,
        resume: frame.forget(u64::from(resume)) != 0,
        exchange: frame.settle(usize::from(header.exchange)) as u8,
        spi_i: header.spi_i.0,
        now,
    };
    let (verdict, input) = challenge.judge(&payloads, known);
    answer(frame, &located, header, verdict, &input, now, known)
}

/// Turns away a ticket that this gateway did not seal, or that is over. The sealed body is for the
/// daemon.
#[inline(always)]
pub(super) fn prove<F: Frame + ?Sized, K: Knowledge>(
    frame: &F,
    payloads: &Payloads,
    now: u64,
    known: &K,
) -> Proof {
    let only = |verdict| Proof {
        verdict,
        ticket_tag: 0,
        no_cookie: false,
    };
    if payloads.ticket == 0 {
        return only(if payloads.whole {
            Verdict::Drop(Reason::NoTicket)
        } else {
            Verdict::Pass(Reason::TicketNotFound)
        });
    }
    let Some(envelope) = frame.load::<{ ticket::ENVELOPE_LEN }>(payloads.ticket) else {
        return only(Verdict::Drop(Reason::Truncated));
    };
    if ticket::shape(&envelope).is_err() {
        return only(Verdict::Drop(Reason::EnvelopeShape));
    }
    let proof = |verdict| Proof {
        verdict,
        ticket_tag: ticket::tag_of(&envelope),
        no_cookie: ticket::is_no_cookie(&envelope),
    };
    let Some(keys) = known.ticket_keys(ticket::key_id_of(&envelope)) else {
        return if known.flags() & TICKET_KEYS_SET == 0 {
            proof(Verdict::Pass(Reason::ResumeUnchecked))
        } else {
            only(Verdict::Reply(Reason::NackUnknownKeyId))
        };
    };
    if !ticket::tag_is_right(&envelope, &keys.tag) {
        return only(Verdict::Reply(Reason::NackTagWrong));
    }
    let hidden = ticket::hidden_of(&envelope, &keys.mask);
    if let Some(offset) = known.wall_minus_boot() {
        let minutes = hidden.expiry_minutes;
        if minutes < MAX_MINUTES && u64::from(minutes) * MINUTE <= now.wrapping_add(offset) {
            return only(Verdict::Reply(Reason::NackExpired));
        }
    }
    // What another node's tickets have opened, only that node knows.
    if let Some(slot) = keys.used_slot
        && ticket::node_of(&envelope) == known.node()
        && let Some(bit) = board::used_bit(slot, hidden.index)
        && is_set(bit, known)
    {
        return only(Verdict::Reply(Reason::NackUsed));
    }
    proof(Verdict::Pass(Reason::ResumeProven))
}

/// A message that would pass, and has to show a cookie first.
struct Challenge<'a, F: ?Sized> {
    frame: &'a F,
    source: [u8; 16],
    destination: [u8; 16],
    ticket_tag: u64,
    no_cookie: bool,
    resume: bool,
    exchange: u8,
    spi_i: u64,
    now: u64,
}

impl<F: Frame + ?Sized> Challenge<'_, F> {
    #[inline(always)]
    fn judge<K: Knowledge>(&self, payloads: &Payloads, known: &K) -> (Verdict, CookieInput) {
        let nonce_head = self.frame.copy::<16>(payloads.nonce);
        let (Some(nonce_head), true) = (nonce_head, payloads.nonce != 0) else {
            return (Verdict::Drop(Reason::NoNonce), NOTHING);
        };
        let input = CookieInput {
            spi_i: self.spi_i.to_be_bytes(),
            source: self.source,
            nonce_head,
            ticket_tag: self.ticket_tag,
            exchange: self.exchange,
            destination_digest: cookie::destination_digest(self.destination),
        };
        if let Some(tag) = good_cookie(self.frame, payloads, &input, self.now, known) {
            return (self.within_meters(tag, known), NOTHING);
        }
        // Its answer may be lost, and the level have risen since: who has no cookie because none
        // was asked for is not asked now.
        if self.is_repetition(&input, known) {
            return (Verdict::Pass(Reason::Repetition), NOTHING);
        }
        if self.no_cookie {
            return (Verdict::Reply(Reason::NackNoCookie), NOTHING);
        }
        let asked = if self.resume {
            Reason::CookieResume
        } else {
            Reason::CookieSaInit
        };
        (Verdict::Reply(asked), input)
    }

    /// Whether the daemon has taken this message before; takes one of its passes.
    #[inline(always)]
    fn is_repetition<K: Knowledge>(&self, input: &CookieInput, known: &K) -> bool {
        let hash = board::admission_hash(&known.meter_key(), input);
        let word = Admission::word(hash);
        let Some(left) = Admission(known.board(word)).pass(hash, self.now / SECOND) else {
            return false;
        };
        known.set_board(word, left.0);
        true
    }

    #[inline(always)]
    fn within_meters<K: Knowledge>(&self, tag: u64, known: &K) -> Verdict {
        if !known.charge(Meter::Cookie, tag, self.now) {
            return Verdict::Drop(Reason::CookieOverused);
        }
        let network = network_of(self.source);
        if !known.charge(Meter::ProvenNetwork, hash(network, known), self.now) {
            return Verdict::Drop(Reason::NetworkOverused);
        }
        // By network, or whoever has seen the ticket could use up its owner's share.
        let about = self.ticket_tag ^ network.rotate_left(32);
        if self.resume && !known.charge(Meter::TicketNetwork, hash(about, known), self.now) {
            return Verdict::Drop(Reason::TicketOverused);
        }
        Verdict::Pass(if self.resume {
            Reason::ResumeWithCookie
        } else {
            Reason::SaInitWithCookie
        })
    }
}

/// The tag of the message's cookie, if that is good: a wrong one counts as none.
#[inline(always)]
pub(super) fn good_cookie<F: Frame + ?Sized, K: Knowledge>(
    frame: &F,
    payloads: &Payloads,
    input: &CookieInput,
    now: u64,
    known: &K,
) -> Option<u64> {
    if payloads.cookie == 0 {
        return None;
    }
    let cookie = frame.copy::<COOKIE_LEN>(payloads.cookie)?;
    let key = known.cookie_key(cookie::epoch_of(&cookie))?;
    let good = cookie::is_young(&cookie, now / SECOND) && cookie::check(&cookie, input, &key);
    good.then(|| cookie::tag_of_cookie(&cookie))
}

#[inline(always)]
fn hash<K: Knowledge>(about: u64, known: &K) -> u64 {
    siphash24_words(&known.meter_key(), &[about])
}

#[inline(always)]
fn forget<F: Frame + ?Sized>(frame: &F, octets: [u8; 16]) -> [u8; 16] {
    let whole = u128::from_le_bytes(octets);
    let low = frame.forget(whole as u64);
    let high = frame.forget((whole >> 64) as u64);
    (u128::from(low) | u128::from(high) << 64).to_le_bytes()
}

/// Completes a reply, or drops the message if there is to be none: the budget is spent, the request
/// is shorter, or what it came from is no address to answer.
#[inline(always)]
fn answer<F: Frame + ?Sized, K: Knowledge>(
    frame: &F,
    located: &Located,
    header: &Header,
    verdict: Verdict,
    input: &CookieInput,
    now: u64,
    known: &K,
) -> Judgement {
    let Verdict::Reply(reason) = verdict else {
        return verdict.into();
    };
    let with_cookie = matches!(reason, Reason::CookieSaInit | Reason::CookieResume);
    let unanswered = Verdict::Drop(reason.unanswered());
    let len = if with_cookie {
        COOKIE_REPLY_LEN
    } else {
        NACK_LEN
    };
    // The budget comes first: in a flood it is what turns most of them away.
    if !known.spend(reason.budget(), now)
        || located.message.len < len
        || !may_be_answered(frame, located, known)
    {
        return unanswered.into();
    }
    let mut octets = [0; COOKIE_LEN];
    if with_cookie {
        let seconds = now / SECOND;
        let epoch = epoch_at(seconds);
        let Some(key) = known.cookie_key(epoch) else {
            return unanswered.into();
        };
        let level = known.level() as u8;
        octets = cookie::make(epoch, level, seconds as u16, [0; 4], input, &key);
    }
    Judgement {
        verdict,
        reply: Reply {
            ip: located.ip,
            ip_len: located.ip_len,
            message: located.message.at,
            exchange: header.exchange,
            with_cookie,
            cookie: octets,
        },
    }
}

/// Whether the sender can be one host elsewhere, and we the one it meant.
#[inline(always)]
fn may_be_answered<F: Frame + ?Sized, K: Knowledge>(
    frame: &F,
    located: &Located,
    known: &K,
) -> bool {
    // Without a list of our addresses this may be a packet that only passes through.
    if known.flags() & CHECK_LOCAL == 0 {
        return false;
    }
    let Some([m0, _, _, _, _, _, n0, ..]) = frame.copy::<12>(0) else {
        return false;
    };
    let udp = frame.copy::<UDP_LEN>(located.ip + located.ip_len);
    let (Some((source, _)), Some([p0, p1, ..])) = (addresses(frame, located), udp) else {
        return false;
    };
    // To or from a group of stations; from port 0.
    if (m0 | n0) & 1 != 0 || p0 | p1 == 0 {
        return false;
    }
    is_unicast(&source, located.ip_len == IPV4_LEN) && known.address(&source) == 0
}

#[inline(always)]
const fn is_unicast(address: &[u8; 16], v4: bool) -> bool {
    let [h0, h1, h2, h3, h4, h5, h6, h7, .., a, _, _, _] = *address;
    if v4 {
        // This network, loopback, and from multicast up to broadcast.
        return a != 0 && a != 127 && a < 224;
    }
    // Unspecified, loopback, IPv4 in any form; multicast.
    u64::from_be_bytes([h0, h1, h2, h3, h4, h5, h6, h7]) != 0 && h0 != 0xff
}

/// Source and destination, IPv4 mapped into IPv6.
#[inline(always)]
fn addresses<F: Frame + ?Sized>(frame: &F, located: &Located) -> Option<([u8; 16], [u8; 16])> {
    if located.ip_len == IPV4_LEN {
        let [s0, s1, s2, s3, d0, d1, d2, d3] = frame.copy::<8>(located.ip + 12)?;
        return Some((mapped([s0, s1, s2, s3]), mapped([d0, d1, d2, d3])));
    }
    let source = frame.copy::<16>(located.ip + 8)?;
    let destination = frame.copy::<16>(located.ip + 24)?;
    Some((source, destination))
}

#[inline(always)]
const fn mapped([a0, a1, a2, a3]: [u8; 4]) -> [u8; 16] {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a0, a1, a2, a3]
}

#[inline(always)]
const fn epoch_at(seconds: u64) -> u8 {
    cookie::epoch_of_interval(cookie::interval_at(seconds))
}

const MINUTE: u64 = 60 * SECOND;
/// Beyond the year 2480; a product with [`MINUTE`] fits 64 bits below it.
const MAX_MINUTES: u32 = 1 << 28;
/// Of a message that is not asked for a cookie.
const NOTHING: CookieInput = CookieInput {
    spi_i: [0; 8],
    source: [0; 16],
    nonce_head: [0; 16],
    ticket_tag: 0,
    exchange: 0,
    destination_digest: 0,
};
