//! What the level of defence follows: it must not be led by what it does itself.

use super::state::{INDEX, resume};
use super::*;
use crate::maps::ALLOWS;

/// The reason for a message at each level, whatever else there is to know.
fn reasons(message: &Message) -> Vec<Reason> {
    reasons_if(message, |_| {})
}

/// The same if this is known too.
fn reasons_if(message: &Message, learn: impl Fn(&mut Told)) -> Vec<Reason> {
    let mut all = Vec::new();
    let octets = message.octets();
    let flags = Told::default().flags | ALLOWS;
    for level in Level::ALL {
        for (within, cookie_keys, replies, flags) in [
            (true, true, u64::MAX, flags),
            (false, true, u64::MAX, flags),
            (false, true, u64::MAX, flags & !CHECK_LOCAL),
            (false, true, u64::MAX, flags & !TICKET_KEYS_SET),
            (false, true, 0, flags),
            (false, false, 0, flags),
        ] {
            for source in [[198, 51, 100, 7], [203, 0, 113, 200]] {
                let mut told = Told {
                    flags,
                    level,
                    cookie_keys,
                    replies: Cell::new(replies),
                    within: [within; Meter::COUNT],
                    ..Told::default()
                };
                learn(&mut told);
                let around = Around {
                    source: Address::V4(source),
                    ..Around::default()
                };
                let frame = around.ike(&octets);
                let bare = super::super::classify(&Bare(&frame[14..]), &told);
                let verdicts = [classify(&frame, &told), bare.verdict];
                all.extend(verdicts.map(Verdict::reason));
            }
        }
    }
    all
}

#[test]
fn what_has_proved_nothing_counts_at_every_level() {
    let mut deep = Message::first(IKE_SESSION_RESUME);
    for _ in 0..MAX_WALK {
        deep = deep.with(43, &[1, 2, 3]);
    }
    deep = deep.notify(TICKET_OPAQUE, &ticket(KEY_ID, 1, &TAG_KEY, 192));
    let unproven = [
        Message::sa_init(),
        Message::sa_init().cookie(&[7; COOKIE_LEN]),
        Message::first(IKE_SA_INIT).with(33, &[0; 80]),
        deep,
    ];
    let mut seen = Vec::new();
    for message in unproven {
        let reasons = reasons(&message);
        let left_out: Vec<_> = reasons.iter().filter(|one| !one.is_unproven()).collect();
        assert!(left_out.is_empty(), "{left_out:?} of {message:?}");
        seen.extend(reasons);
    }
    for reason in [
        Reason::SaInit,
        Reason::CookieSaInit,
        Reason::CookieNeeded,
        Reason::NoNonce,
        Reason::TicketNotFound,
        Reason::TicketTooDeep,
        Reason::Allowed,
    ] {
        assert!(seen.contains(&reason), "{reason:?} did not come about");
    }
}

#[test]
fn a_ticket_counts_at_no_level_whatever_it_is_worth() {
    let forged = Message::resume(&ticket(KEY_ID, INDEX, &SPI_KEY, 256));
    let unknown = Message::resume(&ticket(KEY_ID + 1, INDEX, &TAG_KEY, 256));
    let mut no_nonce = genuine();
    no_nonce.payloads.retain(|(kind, _)| *kind != NONCE);
    let over = |told: &mut Told| told.wall_minus_boot = Some(u64::MAX / 2);
    let used = |told: &mut Told| told.set(board::used_bit(USED_SLOT, INDEX).expect("a bit"));
    let mut seen = Vec::new();
    for reasons in [
        reasons(&genuine()),
        reasons(&genuine().cookie(&[7; COOKIE_LEN])),
        reasons(&resume(1, ticket::NO_COOKIE, INDEX)),
        reasons(&no_nonce),
        reasons_if(&genuine(), over),
        reasons_if(&genuine(), used),
        reasons(&forged),
        reasons(&unknown),
    ] {
        let counted: Vec<_> = reasons.iter().filter(|one| one.is_unproven()).collect();
        assert!(counted.is_empty(), "{counted:?}");
        seen.extend(reasons);
    }
    for reason in [
        Reason::ResumeProven,
        Reason::ResumeUnchecked,
        Reason::LeftToDaemon,
        Reason::CookieResume,
        Reason::ResumeCookieNeeded,
        Reason::NackNoCookie,
        Reason::NackExpired,
        Reason::Expired,
        Reason::NackUsed,
        Reason::Used,
        Reason::NackTagWrong,
        Reason::TagWrong,
        Reason::NackUnknownKeyId,
        Reason::UnknownKeyId,
    ] {
        assert!(seen.contains(&reason), "{reason:?} did not come about");
    }
}
