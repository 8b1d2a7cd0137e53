//! First messages: IKE_SA_INIT and IKE_SESSION_RESUME. Who brings a ticket of ours is believed that
//! much; who has to show that he receives what is sent to his address is sent a cookie; whose ticket
//! is of no use is told so, within a budget.

use core::hint::cold_path;

use super::locate::{IPV4_LEN, IPV6_LEN, Located, UDP_LEN, joined, mapped};
use super::walk::{Payloads, walk};
use super::{
    ALONE_AFTER, ASLEEP_AFTER, Frame, Header, Judgement, Knowledge, Reason, SILENT_AFTER, Verdict,
    is_set, silence, unless_asleep,
};
use crate::board::{self, Admission};
use crate::cookie::{self, COOKIE_LEN, CookieInput};
use crate::defence::{Level, Meter, SECOND, network_of};
use crate::ike::IKE_SESSION_RESUME;
use crate::maps::{ALLOWS, CHECK_LOCAL, COOKIES, TICKET_KEYS_SET};
use crate::networks::Rule;
use crate::reply::{COOKIE_REPLY_LEN, NACK_LEN, Reply, Stations};
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
    let payloads = match walk(frame, located.message, header.next_payload()) {
        Ok(payloads) => payloads,
        Err(verdict) => return unless_asleep(verdict, known).into(),
    };
    let now = known.roughly_now();
    let silence = silence(now, known);
    let alone = silence > ALONE_AFTER;
    if alone {
        cold_path();
        if silence > ASLEEP_AFTER {
            return Verdict::Pass(Reason::GateAsleep).into();
        }
        if silence > SILENT_AFTER {
            return Verdict::Drop(Reason::DaemonSilent).into();
        }
    }
    let resume = header.exchange() == IKE_SESSION_RESUME;
    let proof = if resume {
        prove(frame, &payloads, now, known)
    } else {
        Proof {
            verdict: Verdict::Pass(Reason::SaInit),
            ticket_tag: 0,
            no_cookie: false,
        }
    };
    let proven = match proof.verdict {
        Verdict::Pass(reason) if known.flags() & COOKIES != 0 => reason,
        verdict => {
            let answer = Answer {
                frame,
                located,
                exchange: header.exchange(),
                now,
            };
            return answer.complete(verdict, &NOTHING, || sides(frame, located), known);
        }
    };
    let level = if alone { Level::Attack } else { known.level() };
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
    cold_path();
    let Some(sides) = sides(frame, located) else {
        return Verdict::Drop(Reason::Truncated).into();
    };
    let network = network_of(sides.source);
    if !resume && !attack && known.charge(Meter::SoftNetwork, hash(network, known), now) {
        return proof.verdict.into();
    }
    if known.flags() & ALLOWS != 0 && is_welcome(&sides, &proof, attack, now, known) {
        // A resumption keeps the reason that says what its ticket has proved.
        let allowed = Verdict::Pass(Reason::Allowed);
        return if resume { proof.verdict } else { allowed }.into();
    }
    // Nobody could ever satisfy us without a key.
    if !known.makes_cookies() {
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
        source: forget(frame, sides.source),
        destination: forget(frame, sides.destination),
        ticket_tag: frame.forget(proof.ticket_tag),
        no_cookie: frame.forget(u64::from(proof.no_cookie)) != 0,
        resume: frame.forget(u64::from(resume)) != 0,
        exchange: frame.settle(usize::from(header.exchange())) as u8,
        spi_i: header.spi_i.0,
        now,
    };
    let (verdict, input) = challenge.judge(&payloads, known);
    let sides = Sides {
        source: challenge.source,
        ..sides
    };
    let answer = Answer {
        frame,
        located: &located,
        exchange: challenge.exchange,
        now,
    };
    answer.complete(verdict, &input, || Some(sides), known)
}

/// Whether it comes from a network that is allowed, within what a network may send that has shown a
/// cookie, and a ticket: no operator can say that one has not been seen by others.
#[inline(always)]
fn is_welcome<K: Knowledge>(
    sides: &Sides,
    proof: &Proof,
    attack: bool,
    now: u64,
    known: &K,
) -> bool {
    if known.rule(&sides.source) != Some(Rule::Allow) {
        return false;
    }
    let fresh = !matches!(proof.verdict, Verdict::Pass(Reason::ResumeProven))
        || attack && known.charge(Meter::Ticket, proof.ticket_tag, now);
    let network = hash(network_of(sides.source), known);
    fresh && known.charge(Meter::ProvenNetwork, network, now)
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
    let Some(envelope) = frame.often_header::<{ ticket::ENVELOPE_LEN }>(payloads.ticket) else {
        return only(Verdict::Drop(Reason::Truncated));
    };
    if !ticket::is_shaped(&envelope) {
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
    if let Some(slot) = keys.used_slot()
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
        let nonce_head = self.frame.fetch::<16>(payloads.nonce);
        let (Some(nonce_head), true) = (nonce_head, payloads.nonce != 0) else {
            let needed = if self.resume {
                Reason::ResumeCookieNeeded
            } else {
                Reason::NoNonce
            };
            return (Verdict::Drop(needed), NOTHING);
        };
        let input = CookieInput {
            spi_i: self.spi_i.to_be_bytes(),
            source: self.source,
            nonce_head,
            ticket_tag: self.ticket_tag,
            exchange: self.exchange,
            destination_digest: cookie::destination_digest(self.destination),
        };
        if let Some(tag) = good_cookie(self.frame, payloads, &input, known.seconds(), known) {
            return (self.within_meters(tag, known), NOTHING);
        }
        // Its answer may be lost, and the level have risen since: who has no cookie because none
        // was asked for is not asked now.
        if is_repetition(&input, known) {
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

/// Whether the daemon has taken this message before; takes one of its passes.
#[inline(always)]
fn is_repetition<K: Knowledge>(input: &CookieInput, known: &K) -> bool {
    let key = known.meter_key();
    let word = Admission::word(&key, input);
    let cell = Admission(known.board(word));
    let seconds = known.seconds();
    if !cell.is_open(seconds) {
        return false;
    }
    let Some(left) = cell.pass(board::admission_hash(&key, input), seconds) else {
        return false;
    };
    known.set_board(word, left.0);
    true
}

/// The tag of the message's cookie, if that is good: a wrong one counts as none.
#[inline(always)]
pub(super) fn good_cookie<F: Frame + ?Sized, K: Knowledge>(
    frame: &F,
    payloads: &Payloads,
    input: &CookieInput,
    seconds: u64,
    known: &K,
) -> Option<u64> {
    if payloads.cookie == 0 {
        return None;
    }
    let cookie = frame.copy::<COOKIE_LEN>(payloads.cookie)?;
    let key = known.cookie_key(cookie::epoch_of(&cookie))?;
    let good = cookie::is_young(&cookie, seconds) && cookie::check(&cookie, input, &key);
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

/// What is needed to answer a message, besides what to say.
struct Answer<'a, F: ?Sized> {
    frame: &'a F,
    located: &'a Located,
    exchange: u8,
    now: u64,
}

impl<F: Frame + ?Sized> Answer<'_, F> {
    /// Completes a reply, or drops the message if there is to be none: the budget is spent, the
    /// request is shorter, or what it came from is no address to answer.
    #[inline(always)]
    fn complete<K: Knowledge>(
        &self,
        verdict: Verdict,
        input: &CookieInput,
        sides: impl FnOnce() -> Option<Sides>,
        known: &K,
    ) -> Judgement {
        let Verdict::Reply(reason) = verdict else {
            return verdict.into();
        };
        // What is answered has a budget; what is dropped or passes has to be fast.
        cold_path();
        let with_cookie = matches!(reason, Reason::CookieSaInit | Reason::CookieResume);
        let unanswered = Verdict::Drop(reason.unanswered());
        let len = if with_cookie {
            COOKIE_REPLY_LEN
        } else {
            NACK_LEN
        };
        // The budget comes first: in a flood it is what turns most of them away.
        if !known.spend(reason.budget(), self.now) || self.located.message.len < len {
            return unanswered.into();
        }
        let Some(sides) = sides() else {
            return unanswered.into();
        };
        if !self.may_be_answered(&sides, known) {
            return unanswered.into();
        }
        // Nothing can be sent from here, so the daemon is to say it.
        if F::BARE {
            return Verdict::Pass(match reason {
                Reason::CookieSaInit => Reason::SaInit,
                _ => Reason::LeftToDaemon,
            })
            .into();
        }
        let Some(stations) = self.frame.words(self.frame.settle(0)).map(Stations) else {
            return unanswered.into();
        };
        if stations.is_any_a_group() {
            return unanswered.into();
        }
        let mut octets = [0; COOKIE_LEN];
        if with_cookie {
            let Some(made) = known.cookie_for(input) else {
                return unanswered.into();
            };
            octets = made;
        }
        Judgement {
            verdict,
            reply: Reply {
                stations,
                ip: self.located.ip,
                ip_len: self.located.ip_len,
                message: self.located.message.at,
                exchange: self.exchange,
                with_cookie,
                cookie: octets,
            },
        }
    }

    /// Whether the sender can be one host elsewhere, and we the one it meant.
    #[inline(always)]
    fn may_be_answered<K: Knowledge>(&self, sides: &Sides, known: &K) -> bool {
        // Without a list of our addresses this may be a packet that only passes through.
        if known.flags() & CHECK_LOCAL == 0 {
            return false;
        }
        if sides.port == 0 {
            return false;
        }
        is_unicast(sides.source, self.located.ip_len == IPV4_LEN)
            && known.sender(&sides.source) == 0
    }
}

/// By words: what takes octets apart is put together again octet by octet.
#[inline(always)]
const fn is_unicast(address: [u8; 16], v4: bool) -> bool {
    let whole = u128::from_be_bytes(address);
    if v4 {
        // This network, loopback, and from multicast up to broadcast.
        let first = whole as u32 >> 24;
        return first != 0 && first != 127 && first < 224;
    }
    // Unspecified, loopback, IPv4 in any form; multicast.
    let high = (whole >> 64) as u64;
    high != 0 && high >> 56 != 0xff
}

/// Where a message comes from and where it went to, IPv4 mapped into IPv6.
#[derive(Clone, Copy)]
struct Sides {
    source: [u8; 16],
    destination: [u8; 16],
    /// The port it comes from, in any order of octets.
    port: u16,
}

/// All in one copy: with an IKE header behind it, either family has so many octets.
#[inline(always)]
fn sides<F: Frame + ?Sized>(frame: &F, located: &Located) -> Option<Sides> {
    let head = frame.fetch::<{ IPV6_LEN + UDP_LEN }>(located.ip)?;
    let (words, _) = head.as_chunks::<8>();
    let word = |at: usize| words.get(at).map_or(0, |word| u64::from_le_bytes(*word));
    let (source, destination, ports) = if located.ip_len == IPV4_LEN {
        (mapped(word(1) >> 32), mapped(word(2)), word(2) >> 32)
    } else {
        (joined(word(1), word(2)), joined(word(3), word(4)), word(5))
    };
    Some(Sides {
        source,
        destination,
        port: ports as u16,
    })
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
