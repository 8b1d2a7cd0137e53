//! Which lane a datagram belongs to.

use super::*;
use crate::lane::{Lane, Place};
use crate::spi::OurSpi;

const SOURCE: [u8; 16] = *b"where it is from";
const DESTINATION: [u8; 16] = *b"and where it was";

struct Received(Vec<u8>);

impl Frame for Received {
    fn octets(&self) -> usize {
        self.0.octets()
    }
    fn load<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.0.load(at)
    }
    fn words<const N: usize>(&self, at: usize) -> Option<[u32; N]> {
        self.0.words(at)
    }
}

impl Datagram for Received {
    fn addresses(&self) -> Option<([u8; 16], [u8; 16])> {
        Some((SOURCE, DESTINATION))
    }
}

/// The same on both ports.
fn place(message: &[u8], known: &Told) -> Place {
    let [bare, marked] = [&[][..], &[0; 4]].map(|marker| {
        let received = Received([&[0xee; 8], marker, message].concat());
        steer(&received, !marker.is_empty(), known)
    });
    assert_eq!(bare, marked);
    bare
}

fn place_of(message: &Message) -> Place {
    place(&message.octets(), &Told::default())
}

fn forged() -> Message {
    Message::resume(&ticket(KEY_ID, 5, &SPI_KEY, 256))
}

/// With the cookie that the gate or the daemon would ask for.
fn with_cookie(message: &Message, exchange: u8, ticket_tag: u64) -> Message {
    let seconds = NOW / SECOND;
    let input = CookieInput {
        spi_i: message.spi_i.to_be_bytes(),
        source: SOURCE,
        nonce_head: [0x6e; 16],
        ticket_tag,
        exchange,
        destination_digest: cookie::destination_digest(DESTINATION),
    };
    let epoch = cookie::epoch_of_interval(cookie::interval_at(seconds));
    let cookie = cookie::make(epoch, 0, seconds as u16, [0; 4], &input, &COOKIE_KEY);
    message.clone().cookie(&cookie)
}

const UNPROVEN: Place = Place::Lane(Lane::Unproven, None);

#[test]
fn an_spi_of_ours_comes_first_and_names_its_worker() {
    let ours = OurSpi::compose(1, 3, 77, &SPI_KEY).0;
    let expected = Place::Lane(Lane::Existing, Some(3));
    let message = Message {
        spi_r: ours,
        exchange: 35,
        message_id: 1,
        ..Message::sa_init()
    };
    assert_eq!(place_of(&message), expected);
    let response = Message {
        spi_i: ours,
        spi_r: 9,
        flags: FLAG_RESPONSE,
        ..Message::sa_init()
    };
    assert_eq!(place_of(&response), expected);
    let made_up = Message {
        spi_r: ours ^ 1,
        ..message.clone()
    };
    assert_eq!(place_of(&made_up), Place::Sink);
    let posted = Told {
        flags: Told::default().flags | CHECK_LIVE_SPI,
        ..Told::default()
    };
    let dead = Place::Lane(Lane::Unproven, Some(3));
    assert_eq!(place(&message.octets(), &posted), dead);
    posted.set(board::live_bit(OurSpi(ours)));
    assert_eq!(place(&message.octets(), &posted), expected);
    let no_key = Told {
        spi_key: None,
        ..Told::default()
    };
    assert_eq!(place(&message.octets(), &no_key), UNPROVEN);
}

#[test]
fn who_sends_too_much_for_one_sa_waits_among_the_unproven() {
    let ours = OurSpi::compose(1, 3, 77, &SPI_KEY).0;
    let message = Message {
        spi_r: ours,
        exchange: 37,
        message_id: 9,
        ..Message::sa_init()
    };
    // One source, or all of them together.
    for meter in [Meter::OwnSpi, Meter::OwnSpiAlone] {
        let mut within = [true; Meter::COUNT];
        within[meter as usize] = false;
        let over = Told {
            within,
            ..Told::default()
        };
        let expected = Place::Lane(Lane::Unproven, Some(3));
        assert_eq!(place(&message.octets(), &over), expected);
        // First messages have meters of their own.
        let resume = Place::Lane(Lane::Resume, None);
        assert_eq!(place(&genuine().octets(), &over), resume);
    }
}

#[test]
fn a_ticket_of_ours_comes_before_a_first_message_without() {
    let resume = Place::Lane(Lane::Resume, None);
    assert_eq!(place_of(&genuine()), resume);
    // Whatever the level: who waits for a cookie is not to wait in line with a flood.
    let attack = Told {
        level: Level::Attack,
        ..Told::default()
    };
    assert_eq!(place(&genuine().octets(), &attack), resume);
    for message in [Message::sa_init(), forged()] {
        assert_eq!(place_of(&message), UNPROVEN);
    }
    let over = Told {
        wall_minus_boot: Some(u64::from(EXPIRY_MINUTES) * 60 * SECOND),
        ..Told::default()
    };
    assert_eq!(place(&genuine().octets(), &over), UNPROVEN);
    let no_keys = Told {
        ticket_keys: false,
        flags: 0,
        ..Told::default()
    };
    assert_eq!(place(&genuine().octets(), &no_keys), UNPROVEN);
}

#[test]
fn a_good_cookie_comes_before_none_whoever_forged_the_ticket() {
    let proven = Place::Lane(Lane::CookieProven, None);
    let init = with_cookie(&Message::sa_init(), IKE_SA_INIT, 0);
    assert_eq!(place_of(&init), proven);
    let moved = Message {
        spi_i: 5,
        ..init.clone()
    };
    assert_eq!(place_of(&moved), UNPROVEN);
    let octets = ticket(KEY_ID, 5, &SPI_KEY, 256);
    let envelope = octets.first_chunk().expect("an envelope");
    let tag = ticket::tag_of(envelope);
    let refused = with_cookie(&forged(), IKE_SESSION_RESUME, tag);
    assert_eq!(place_of(&refused), proven);
    let of_another = with_cookie(&forged(), IKE_SESSION_RESUME, tag ^ 1);
    assert_eq!(place_of(&of_another), UNPROVEN);
    let stale = Told {
        cookie_keys: false,
        ..Told::default()
    };
    assert_eq!(place(&init.octets(), &stale), UNPROVEN);
}

#[test]
fn what_no_engine_could_use_goes_where_nobody_reads() {
    let init = Message::sa_init();
    let mut longer = init.octets();
    longer.push(0);
    let cut = &init.octets()[..27];
    for octets in [&longer[..], cut, &[]] {
        assert_eq!(place(octets, &Told::default()), Place::Sink);
    }
    let bad = [
        Message {
            version: 0x10,
            ..init.clone()
        },
        Message {
            spi_i: 0,
            ..init.clone()
        },
        Message {
            message_id: 1,
            ..init.clone()
        },
        Message {
            flags: FLAG_INITIATOR | FLAG_RESPONSE,
            ..init
        },
        Message::first(IKE_SESSION_RESUME).with(NONCE, &[1; 32]),
    ];
    for message in bad {
        assert_eq!(place_of(&message), Place::Sink);
    }
    for payload in [
        &b"\xff"[..],
        b"\x01\x02\x03\x04 and the rest of ESP",
        b"",
        b"\0\0",
    ] {
        let received = Received([&[0xee; 8], payload].concat());
        assert_eq!(steer(&received, true, &Told::default()), Place::Sink);
    }
    assert_eq!(
        steer(&Received(Vec::new()), false, &Told::default()),
        Place::Sink
    );
}

#[test]
fn a_lane_says_nothing_about_a_level_or_a_silent_daemon() {
    for silence in [0, SILENT_AFTER + 1, ASLEEP_AFTER + 1] {
        let told = Told {
            silence,
            level: Level::Attack,
            within: [false; Meter::COUNT],
            ..Told::default()
        };
        let message = Message::sa_init();
        assert_eq!(place(&message.octets(), &told), UNPROVEN);
    }
}
