//! What depends on more than the packet: used bits, live SPIs, admissions, budgets of what is let
//! through without proof.

use super::*;
use crate::board::{PASSES, live_bit, used_bit};
use crate::ike::FLAG_RESPONSE;
use crate::maps::{CHECK_LIVE_SPI, MASQUERADES};
use crate::ticket::{ENVELOPE_LEN, Envelope, Kind, NO_COOKIE};

/// The number of the ticket that [`genuine`] shows.
pub(super) const INDEX: u32 = 5;

fn at(message: &Message, told: &Told) -> Verdict {
    classify(&Around::default().ike(&message.octets()), told)
}

fn budget(replies: u64) -> Told {
    Told {
        replies: Cell::new(replies),
        ..Told::default()
    }
}

/// A resumption whose ticket says this of itself.
pub(super) fn resume(node: u8, flags: u8, index: u32) -> Message {
    let envelope = Envelope {
        kind: Kind::ByValue,
        key_id: KEY_ID,
        node,
        flags,
        nonce: [9; 12],
        index,
        expiry_minutes: EXPIRY_MINUTES,
    };
    let mut ticket = envelope.seal(&TAG_KEY, &MASK_KEY).to_vec();
    ticket.resize(ENVELOPE_LEN + 160, 7);
    Message::resume(&ticket)
}

#[test]
fn a_used_ticket_is_told_so_within_the_budget() {
    let told = budget(1);
    assert_eq!(at(&genuine(), &told), Verdict::Pass(Reason::ResumeProven));
    for index in [INDEX - 1, INDEX + 1, INDEX + 64] {
        told.set(used_bit(USED_SLOT, index).expect("a bit"));
    }
    told.set(used_bit(USED_SLOT - 1, INDEX).expect("a bit"));
    assert_eq!(at(&genuine(), &told), Verdict::Pass(Reason::ResumeProven));
    told.set(used_bit(USED_SLOT, INDEX).expect("a bit"));
    assert_eq!(at(&genuine(), &told), Verdict::Reply(Reason::NackUsed));
    assert_eq!(at(&genuine(), &told), Verdict::Drop(Reason::Used));
}

#[test]
fn what_another_node_has_issued_is_not_looked_up() {
    let told = Told::default();
    told.set(used_bit(USED_SLOT, 70).expect("a bit"));
    assert_eq!(at(&resume(1, 0, 70), &told), Verdict::Drop(Reason::Used));
    let elsewhere = at(&resume(2, 0, 70), &told);
    assert_eq!(elsewhere, Verdict::Pass(Reason::ResumeProven));
    let no_such_bit = at(&resume(1, 0, u32::MAX), &told);
    assert_eq!(no_such_bit, Verdict::Pass(Reason::ResumeProven));
}

#[test]
fn a_hot_ticket_whose_client_knows_no_cookie_is_refused() {
    let hot = Told {
        within: [false; Meter::COUNT],
        ..budget(1)
    };
    let message = resume(1, NO_COOKIE, INDEX);
    assert_eq!(at(&message, &hot), Verdict::Reply(Reason::NackNoCookie));
    assert_eq!(
        at(&message, &hot),
        Verdict::Drop(Reason::ResumeCookieNeeded)
    );
}

#[test]
fn a_proven_address_has_its_own_share_of_a_ticket() {
    let ticket = ticket(KEY_ID, INDEX, &TAG_KEY, 256);
    let message = Message::resume(&ticket);
    let envelope = ticket.first_chunk().expect("an envelope");
    let input = CookieInput {
        spi_i: message.spi_i.to_be_bytes(),
        source: Around::default().source.mapped(),
        nonce_head: [0x6e; 16],
        ticket_tag: ticket::tag_of(envelope),
        exchange: message.exchange,
        destination_digest: cookie::destination_digest(LOCAL_V4.mapped()),
    };
    let epoch = cookie::epoch_of_interval(cookie::interval_at(NOW / SECOND));
    let time = (NOW / SECOND) as u16;
    let shown = cookie::make(epoch, 0, time, [0; 4], &input, &COOKIE_KEY);
    let message = message.cookie(&shown);
    let mut within = [true; Meter::COUNT];
    within[Meter::Ticket as usize] = false;
    let mut hot = Told {
        within,
        ..Told::default()
    };
    assert_eq!(at(&message, &hot), Verdict::Pass(Reason::ResumeWithCookie));
    hot.within[Meter::TicketNetwork as usize] = false;
    assert_eq!(at(&message, &hot), Verdict::Drop(Reason::TicketOverused));
    // Its share of everything else comes first.
    hot.within[Meter::ProvenNetwork as usize] = false;
    assert_eq!(at(&message, &hot), Verdict::Drop(Reason::NetworkOverused));
}

#[test]
fn a_message_that_was_taken_without_cookie_may_be_repeated_when_the_level_has_risen() {
    for (message, needed) in [
        (Message::sa_init(), Reason::CookieNeeded),
        (genuine(), Reason::ResumeCookieNeeded),
    ] {
        let attack = Told {
            level: Level::Attack,
            ..Told::default()
        };
        let needed = Verdict::Drop(needed);
        assert_eq!(at(&message, &attack), needed);
        let admitted = CookieInput {
            spi_i: message.spi_i.to_be_bytes(),
            source: Around::default().source.mapped(),
            nonce_head: [0x6e; 16],
            ticket_tag: 0,
            exchange: 0,
            destination_digest: 0,
        };
        let hash = board::admission_hash(&METER_KEY, &admitted);
        let cell = board::Admission::new(hash, NOW / SECOND - 4);
        attack.set_board(board::Admission::word(&METER_KEY, &admitted), cell.0);
        for _ in 0..PASSES {
            assert_eq!(at(&message, &attack), Verdict::Pass(Reason::Repetition));
        }
        assert_eq!(at(&message, &attack), needed);
        let another = Message {
            spi_i: message.spi_i + 1,
            ..message
        };
        attack.set_board(board::Admission::word(&METER_KEY, &admitted), cell.0);
        assert_eq!(at(&another, &attack), needed);
    }
}

fn for_spi(spi: u64) -> Message {
    Message {
        spi_i: spi,
        spi_r: 77,
        flags: FLAG_RESPONSE,
        exchange: 37,
        message_id: 9,
        ..Message::sa_init()
    }
}

#[test]
fn a_dead_spi_of_ours_reaches_the_daemon_within_a_budget() {
    let ours = OurSpi::compose(1, 0, 0x1234_5678, &SPI_KEY);
    let other = OurSpi::compose(1, 0, 0x1234_5679, &SPI_KEY);
    let told = Told {
        flags: Told::default().flags | CHECK_LIVE_SPI,
        ..budget(1)
    };
    told.set(live_bit(ours));
    let live = Verdict::Pass(Reason::OwnSpi);
    assert_eq!(at(&for_spi(ours.0), &told), live);
    let dead = for_spi(other.0);
    assert_eq!(at(&dead, &told), Verdict::Pass(Reason::OwnSpiDead));
    assert_eq!(at(&dead, &told), Verdict::Drop(Reason::DeadSpi));
    assert_eq!(at(&for_spi(ours.0), &told), live, "none of the budget's");
    // Without an engine that keeps book, all may be live.
    assert_eq!(at(&dead, &Told::default()), live);
}

#[test]
fn who_masquerades_lets_a_few_foreign_spis_through() {
    let foreign = for_spi(0x0102_0304_0506_0708);
    let told = budget(1);
    assert_eq!(at(&foreign, &told), Verdict::Drop(Reason::ForeignSpi));
    let told = Told {
        flags: told.flags | MASQUERADES,
        ..told
    };
    assert_eq!(at(&foreign, &told), Verdict::Pass(Reason::Masqueraded));
    assert_eq!(at(&foreign, &told), Verdict::Drop(Reason::ForeignSpi));
}

#[test]
fn fragments_and_options_towards_us_come_out_of_a_budget() {
    let mut fragment = Around::default().ike(&genuine().octets());
    fragment[20] = 0x20;
    let mut options = Around::default().ike(&genuine().octets());
    options[14] = 0x46;
    let v6 = Around {
        source: LOCAL_V6,
        destination: LOCAL_V6,
        ..Around::default()
    };
    let frames = [
        (fragment.clone(), Reason::Fragment, Reason::FragmentOver),
        (options, Reason::Options, Reason::OptionsOver),
        (
            v6.packet(44, &[0; 64]),
            Reason::Fragment,
            Reason::FragmentOver,
        ),
        (v6.packet(0, &[0; 64]), Reason::Options, Reason::OptionsOver),
    ];
    for (frame, within, over) in frames {
        let told = budget(1);
        assert_eq!(classify(&frame, &told), Verdict::Pass(within));
        assert_eq!(classify(&frame, &told), Verdict::Drop(over));
        let asleep = Told {
            silence: ASLEEP_AFTER + 1,
            ..budget(0)
        };
        assert_eq!(classify(&frame, &asleep), Verdict::Pass(Reason::GateAsleep));
    }
    // Those of others are none of our business.
    fragment[33] = 99;
    assert_eq!(
        classify(&fragment, &budget(0)),
        Verdict::Pass(Reason::NotLocal)
    );
}

#[test]
fn a_fragment_of_ipv6_is_judged_by_what_it_is_one_of() {
    let v6 = Around {
        source: LOCAL_V6,
        destination: LOCAL_V6,
        ..Around::default()
    };
    let fragment = |of: u8| v6.packet(44, &[of, 0, 0, 1, 9, 9, 9, 9, 1, 2, 3, 4]);
    // UDP, destination options and another fragment header.
    for of in [17, 60, 44] {
        let verdict = classify(&fragment(of), &budget(0));
        assert_eq!(verdict, Verdict::Drop(Reason::FragmentOver), "{of}");
    }
    for (of, reason) in [
        (50, Reason::Esp),
        (6, Reason::NotIke),
        (58, Reason::NotIke),
        (59, Reason::NotIke),
    ] {
        let verdict = classify(&fragment(of), &budget(0));
        assert_eq!(verdict, Verdict::Pass(reason), "{of}");
    }
    let cut = v6.packet(44, &[]);
    assert_eq!(classify(&cut, &budget(0)), Verdict::Pass(Reason::NotIke));
}

#[test]
fn nobody_is_heard_from_a_network_that_is_denied() {
    let from = |source: Address| {
        let destination = match source {
            Address::V4(_) => LOCAL_V4,
            Address::V6(_) => LOCAL_V6,
        };
        Around {
            source,
            destination,
            ..Around::default()
        }
    };
    let v6 =
        |third: u8| Address::V6([0x20, 1, 0xd, 0xb8, 0xb, third, 7, 7, 0, 0, 0, 0, 0, 0, 0, 1]);
    let told = Told {
        flags: Told::default().flags | DENIES,
        ..Told::default()
    };
    for (source, denied) in [
        (Address::V4([203, 0, 113, 9]), true),
        (Address::V4([203, 0, 112, 9]), false),
        (v6(0xad), true),
        (v6(0xae), false),
    ] {
        let around = from(source);
        for message in [genuine(), Message::sa_init()] {
            let frame = around.ike(&message.octets());
            let judged = classify(&frame, &told);
            assert_eq!(
                judged == Verdict::Drop(Reason::Denied),
                denied,
                "{judged:?}"
            );
            // The list alone does nothing.
            let without = classify(&frame, &Told::default());
            assert!(matches!(without, Verdict::Pass(_)), "{without:?}");
        }
        // ESP is the kernel's, whoever sends it.
        let esp = Around {
            port: PORT_NAT_T,
            ..around
        };
        let judged = classify(&esp.datagram(&[1; 40]), &told);
        assert_eq!(judged, Verdict::Pass(Reason::Esp));
    }
}

#[test]
fn who_is_allowed_is_asked_for_no_cookie_as_often_as_who_has_one() {
    let source = Address::V4([203, 0, 113, 200]);
    let around = Around {
        source,
        ..Around::default()
    };
    let told = |level, flags| Told {
        flags: Told::default().flags | DENIES | flags,
        level,
        replies: Cell::new(1),
        ..Told::default()
    };
    let judged = |message: &Message, told: &Told| classify(&around.ike(&message.octets()), told);
    let allowed = Verdict::Pass(Reason::Allowed);
    for (message, welcome) in [
        (genuine(), Verdict::Pass(Reason::ResumeProven)),
        (Message::sa_init(), allowed),
    ] {
        // The narrower rule counts; and while nobody is asked, it is as for all.
        let calm = judged(&message, &told(Level::Calm, ALLOWS));
        assert!(matches!(calm, Verdict::Pass(reason) if reason != Reason::Allowed));
        assert_eq!(judged(&message, &told(Level::Attack, ALLOWS)), welcome);
        let asked = judged(&message, &told(Level::Attack, 0));
        assert!(matches!(asked, Verdict::Reply(_)), "{asked:?}");
        let mut many = told(Level::Attack, ALLOWS);
        many.within[Meter::ProvenNetwork as usize] = false;
        let asked = judged(&message, &many);
        assert!(matches!(asked, Verdict::Reply(_)), "{asked:?}");
    }
    // Its network's own share is not what it is about.
    let mut guarded = told(Level::Guarded, ALLOWS);
    guarded.within[Meter::SoftNetwork as usize] = false;
    assert_eq!(judged(&Message::sa_init(), &guarded), allowed);
    // A captured ticket is no better from there.
    for level in [Level::Calm, Level::Attack] {
        let mut hot = told(level, ALLOWS);
        hot.within[Meter::Ticket as usize] = false;
        let asked = judged(&genuine(), &hot);
        assert_eq!(asked, Verdict::Reply(Reason::CookieResume));
    }
    let forged = Message::resume(&ticket(KEY_ID, 5, &SPI_KEY, 256));
    let refused = judged(&forged, &told(Level::Attack, ALLOWS));
    assert!(
        matches!(refused, Verdict::Reply(Reason::NackTagWrong)),
        "{refused:?}"
    );
}
