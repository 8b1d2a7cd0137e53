//! What the level of defence follows: it must not be led by what it does itself.

use super::*;
use crate::maps::ALLOWS;

/// The reason for a message at each level, whatever else there is to know.
fn reasons(message: &Message) -> Vec<Reason> {
    let mut all = Vec::new();
    let octets = message.octets();
    for level in Level::ALL {
        for (within, cookie_keys, replies) in [
            (true, true, u64::MAX),
            (false, true, u64::MAX),
            (false, true, 0),
            (false, false, 0),
        ] {
            for source in [[198, 51, 100, 7], [203, 0, 113, 200]] {
                let told = Told {
                    flags: Told::default().flags | ALLOWS,
                    level,
                    cookie_keys,
                    replies: Cell::new(replies),
                    within: [within; Meter::COUNT],
                    ..Told::default()
                };
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
        Reason::LeftToDaemon,
    ] {
        assert!(seen.contains(&reason), "{reason:?} did not come about");
    }
}

#[test]
fn what_is_turned_away_at_every_level_asks_for_none() {
    let forged = Message::resume(&ticket(KEY_ID, 5, &SPI_KEY, 256));
    let unknown = Message::resume(&ticket(KEY_ID + 1, 5, &TAG_KEY, 256));
    for message in [forged, unknown] {
        let mut counted = reasons(&message);
        counted.retain(|reason| reason.is_unproven());
        // Where nothing can be answered, the daemon has to do it.
        counted.retain(|reason| *reason != Reason::LeftToDaemon);
        assert!(counted.is_empty(), "{counted:?}");
    }
}
