//! Challenges and refusals: when there is one, and that its octets are what a client can read.

use super::*;
use crate::reply::FrameMut;

const CLIENT_V6: Address = Address::V6([0x20, 1, 0xd, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]);

fn attack() -> Told {
    Told {
        level: Level::Attack,
        replies: Cell::new(1),
        ..Told::default()
    }
}

fn forged() -> Message {
    Message::resume(&ticket(KEY_ID, 5, &SPI_KEY, 256))
}

fn unknown() -> Message {
    Message::resume(&ticket(KEY_ID + 1, 5, &TAG_KEY, 256))
}

fn clients() -> Vec<Around> {
    let mut all = Vec::new();
    for port in [PORT_IKE, PORT_NAT_T] {
        for vlans in [&[][..], &[0x8100], &[0x88a8, 0x8100]] {
            let v4 = Around {
                vlans: vlans.to_vec(),
                port,
                ..Around::default()
            };
            let v6 = Around {
                source: CLIENT_V6,
                destination: LOCAL_V6,
                ..v4.clone()
            };
            all.extend([v4, v6].iter().flat_map(with_pppoe));
        }
    }
    all
}

/// The frame that goes back, if one does.
fn replied(frame: &[u8], told: &Told) -> (Verdict, Option<Vec<u8>>) {
    let judgement = super::super::classify(frame, told);
    let mut frame = frame.to_vec();
    let wanted = matches!(judgement.verdict, Verdict::Reply(_));
    let sent = wanted.then(|| {
        assert!(judgement.reply.write(&mut frame));
        frame
    });
    (judgement.verdict, sent)
}

fn sum(octets: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in octets.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Checks everything up to the UDP payload against the request, and returns it without the marker.
fn payload_of(reply: &[u8], request: &[u8], around: &Around) -> Vec<u8> {
    assert!(reply.len() <= request.len());
    assert_eq!(
        (&reply[..6], &reply[6..12]),
        (&request[6..12], &request[..6])
    );
    let tagged = 14 + 4 * around.vlans.len();
    let ip_at = if around.pppoe {
        let [l0, l1] = [reply[tagged + 4], reply[tagged + 5]];
        assert_eq!(
            usize::from(l0) << 8 | usize::from(l1),
            reply.len() - tagged - 6
        );
        assert_eq!(
            reply[tagged + 6..tagged + 8],
            request[tagged + 6..tagged + 8]
        );
        assert_eq!(reply[12..tagged + 4], request[12..tagged + 4]);
        tagged + 8
    } else {
        assert_eq!(reply[12..tagged], request[12..tagged]);
        tagged
    };
    let (ip, asked) = (&reply[ip_at..], &request[ip_at..]);
    let (addresses, asked_addresses, udp, asked_udp) = if ip[0] == 0x45 {
        assert_eq!(usize::from(ip[2]) << 8 | usize::from(ip[3]), ip.len());
        assert_eq!((ip[6], ip[7], ip[8], ip[9]), (0x40, 0, 64, 17));
        assert_eq!(sum(&ip[..20]), 0xffff);
        (&ip[12..20], &asked[12..20], &ip[20..], &asked[20..])
    } else {
        assert_eq!(ip[..4], [0x60, 0, 0, 0]);
        assert_eq!(usize::from(ip[4]) << 8 | usize::from(ip[5]), ip.len() - 40);
        assert_eq!((ip[6], ip[7]), (17, 64));
        (&ip[8..40], &asked[8..40], &ip[40..], &asked[40..])
    };
    let half = addresses.len() / 2;
    assert_eq!(addresses[..half], asked_addresses[half..]);
    assert_eq!(addresses[half..], asked_addresses[..half]);
    assert_eq!((&udp[..2], &udp[2..4]), (&asked_udp[2..4], &asked_udp[..2]));
    assert_eq!(usize::from(udp[4]) << 8 | usize::from(udp[5]), udp.len());
    let mut covered = addresses.to_vec();
    covered.extend([0, 17, udp[4], udp[5]]);
    covered.extend(udp);
    assert_eq!(sum(&covered), 0xffff, "UDP checksum");
    assert_ne!(udp[6..8], [0, 0]);
    let marker = if around.port == PORT_NAT_T { 4 } else { 0 };
    assert!(udp[8..8 + marker].iter().all(|octet| *octet == 0));
    udp[8 + marker..].to_vec()
}

fn header(exchange: u8, len: u8) -> Vec<u8> {
    let mut header = 0x1122_3344_5566_7788_u64.to_be_bytes().to_vec();
    header.extend([0; 8]);
    header.extend([PAYLOAD_NOTIFY, 0x20, exchange, FLAG_RESPONSE]);
    header.extend([0, 0, 0, 0, 0, 0, 0, len]);
    header
}

#[test]
fn a_cookie_goes_back_and_opens_the_gate_for_its_message_alone() {
    for around in clients() {
        for (message, exchange) in [
            (genuine(), IKE_SESSION_RESUME),
            (Message::sa_init(), IKE_SA_INIT),
        ] {
            let request = around.ike(&message.octets());
            let (verdict, reply) = replied(&request, &attack());
            let asked = [Reason::CookieSaInit, Reason::CookieResume];
            assert_eq!(
                verdict,
                Verdict::Reply(asked[usize::from(exchange == IKE_SESSION_RESUME)])
            );
            let payload = payload_of(&reply.unwrap(), &request, &around);
            let mut expected = header(exchange, 52);
            expected.extend([0, 0, 0, 24, 0, 0]);
            expected.extend(COOKIE.to_be_bytes());
            assert_eq!(payload[..36], expected);
            let cookie = &payload[36..];
            assert_eq!(cookie.len(), COOKIE_LEN);

            let again = |message: &Message, around: &Around| {
                let repeated = message.clone().cookie(cookie).octets();
                classify(&around.ike(&repeated), &attack())
            };
            let passed = [Reason::SaInitWithCookie, Reason::ResumeWithCookie];
            assert_eq!(
                again(&message, &around),
                Verdict::Pass(passed[usize::from(exchange == IKE_SESSION_RESUME)])
            );
            let other = Message {
                spi_i: 9,
                ..message.clone()
            };
            assert!(matches!(again(&other, &around), Verdict::Reply(_)));
            let mut elsewhere = around.clone();
            elsewhere.source = match around.source {
                Address::V4(_) => Address::V4([198, 51, 100, 7]),
                Address::V6(mut octets) => {
                    octets[15] ^= 1;
                    Address::V6(octets)
                }
            };
            assert!(matches!(again(&message, &elsewhere), Verdict::Reply(_)));
        }
        // One ticket each: what one cookie opens for this one it does not for that.
        let request = around.ike(&genuine().octets());
        let reply = replied(&request, &attack()).1.unwrap();
        let cookie = payload_of(&reply, &request, &around)[36..].to_vec();
        let other = Message::resume(&ticket(KEY_ID, 6, &TAG_KEY, 256)).cookie(&cookie);
        let verdict = classify(&around.ike(&other.octets()), &attack());
        assert_eq!(verdict, Verdict::Reply(Reason::CookieResume));
    }
}

#[test]
fn a_refusal_goes_back_within_its_budget_and_no_further() {
    let expired = Told {
        replies: Cell::new(1),
        wall_minus_boot: Some(u64::from(EXPIRY_MINUTES) * 60 * SECOND - NOW),
        ..Told::default()
    };
    let fresh = || Told {
        replies: Cell::new(1),
        ..Told::default()
    };
    let mut no_cookie = genuine();
    let envelope = ticket::Envelope {
        kind: ticket::Kind::ByValue,
        key_id: KEY_ID,
        node: 1,
        flags: ticket::NO_COOKIE,
        nonce: [1; 12],
        index: 3,
        expiry_minutes: EXPIRY_MINUTES,
    };
    let sealed = envelope.seal(&TAG_KEY, &MASK_KEY);
    no_cookie.payloads[1].1[4..4 + 32].copy_from_slice(&sealed);
    for around in clients() {
        let cases = [
            (forged(), fresh(), Reason::NackTagWrong, Reason::TagWrong),
            (
                unknown(),
                fresh(),
                Reason::NackUnknownKeyId,
                Reason::UnknownKeyId,
            ),
            (
                genuine(),
                expired.clone_with(1),
                Reason::NackExpired,
                Reason::Expired,
            ),
            (
                no_cookie.clone(),
                attack(),
                Reason::NackNoCookie,
                Reason::ResumeCookieNeeded,
            ),
        ];
        for (message, told, replies, drops) in cases {
            let request = around.ike(&message.octets());
            let (verdict, reply) = replied(&request, &told);
            assert_eq!(verdict, Verdict::Reply(replies));
            let payload = payload_of(&reply.unwrap(), &request, &around);
            let mut expected = header(IKE_SESSION_RESUME, 36);
            expected.extend([0, 0, 0, 8, 0, 0]);
            expected.extend(TICKET_NACK.to_be_bytes());
            assert_eq!(payload, expected);
            assert_eq!(replied(&request, &told).0, Verdict::Drop(drops));
        }
    }
    let before = expired.clone_with(1);
    let before = Told {
        wall_minus_boot: before.wall_minus_boot.map(|offset| offset - 1),
        ..before
    };
    let request = Around::default().ike(&genuine().octets());
    assert_eq!(
        classify(&request, &before),
        Verdict::Pass(Reason::ResumeProven)
    );
    let unsound = Told {
        wall_minus_boot: None,
        ..expired.clone_with(1)
    };
    assert_eq!(
        classify(&request, &unsound),
        Verdict::Pass(Reason::ResumeProven)
    );
}

impl Told {
    fn clone_with(&self, replies: u64) -> Self {
        Self {
            replies: Cell::new(replies),
            board: self.board.clone(),
            ..*self
        }
    }
}

#[test]
fn what_is_no_single_host_elsewhere_is_never_answered() {
    let v4 = |octets| Address::V4(octets);
    let v6 = |first: u8, last: u8| {
        let mut octets = [0; 16];
        (octets[0], octets[15]) = (first, last);
        Address::V6(octets)
    };
    let sources = [
        v4([0, 1, 2, 3]),
        v4([127, 0, 0, 1]),
        v4([224, 0, 0, 1]),
        v4([240, 0, 0, 1]),
        v4([255; 4]),
        BROADCAST,
        LOCAL_V4,
        v6(0, 0),
        v6(0, 1),
        v6(0xff, 2),
        Address::V6([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 198, 51, 100, 1]),
        LOCAL_V6,
    ];
    for source in sources {
        let destination = match source {
            Address::V4(_) => LOCAL_V4,
            Address::V6(_) => LOCAL_V6,
        };
        let around = Around {
            source,
            destination,
            ..Around::default()
        };
        for (message, told, reason) in [
            (Message::sa_init(), attack(), Reason::CookieNeeded),
            (forged(), attack(), Reason::TagWrong),
        ] {
            let verdict = classify(&around.ike(&message.octets()), &told);
            assert_eq!(verdict, Verdict::Drop(reason), "{source:?}");
        }
    }
    let frame = Around::default().ike(&forged().octets());
    for (at, octet) in [(0, 0xff), (6, 0x33)] {
        let mut group = frame.clone();
        group[at] = octet;
        assert_eq!(classify(&group, &attack()), Verdict::Drop(Reason::TagWrong));
    }
    let mut from_zero = frame.clone();
    from_zero[34..36].fill(0);
    assert_eq!(
        classify(&from_zero, &attack()),
        Verdict::Drop(Reason::TagWrong)
    );
    let anywhere = Told {
        flags: TICKET_KEYS_SET,
        ..attack()
    };
    assert_eq!(classify(&frame, &anywhere), Verdict::Drop(Reason::TagWrong));
}

#[test]
fn a_request_shorter_than_its_answer_gets_none() {
    let short = Message::first(IKE_SA_INIT).with(NONCE, &[1; 16]);
    assert_eq!(short.octets().len(), 48);
    let frame = Around::default().ike(&short.octets());
    assert_eq!(
        classify(&frame, &attack()),
        Verdict::Drop(Reason::CookieNeeded)
    );
    let enough = Message::first(IKE_SA_INIT).with(NONCE, &[1; 20]);
    let frame = Around::default().ike(&enough.octets());
    assert_eq!(
        classify(&frame, &attack()),
        Verdict::Reply(Reason::CookieSaInit)
    );
}

#[test]
fn responses_and_messages_of_an_sa_are_never_answered() {
    let ours = OurSpi::compose(1, 2, 3, &SPI_KEY).0;
    for spi_r in [0, 9, ours] {
        for flags in [FLAG_RESPONSE, FLAG_RESPONSE | FLAG_INITIATOR] {
            for message in [Message::sa_init(), genuine(), forged()] {
                let message = Message {
                    spi_r,
                    flags,
                    ..message
                };
                let verdict = message_verdict_at(&message, &attack());
                assert!(!matches!(verdict, Verdict::Reply(_)), "{verdict:?}");
            }
        }
    }
}

fn message_verdict_at(message: &Message, told: &Told) -> Verdict {
    classify(&Around::default().ike(&message.octets()), told)
}

#[test]
fn each_level_asks_for_what_it_says() {
    use Reason::{CookieResume, CookieSaInit, ResumeProven, SaInit};
    let told = |level, within| Told {
        level,
        within: [within; Meter::COUNT],
        replies: Cell::new(1),
        ..Told::default()
    };
    let at = |message: &Message, told: &Told| message_verdict_at(message, told);
    let (init, resume) = (Message::sa_init(), genuine());
    for within in [true, false] {
        assert_eq!(at(&init, &told(Level::Calm, within)), Verdict::Pass(SaInit));
        assert_eq!(
            at(&init, &told(Level::Attack, within)),
            Verdict::Reply(CookieSaInit)
        );
        assert_eq!(
            at(&resume, &told(Level::Attack, within)),
            Verdict::Reply(CookieResume)
        );
    }
    assert_eq!(
        at(&init, &told(Level::Guarded, true)),
        Verdict::Pass(SaInit)
    );
    // A ticket that is shown again and again needs one at any level.
    for level in [Level::Calm, Level::Guarded] {
        let cold = at(&resume, &told(level, true));
        assert_eq!(cold, Verdict::Pass(ResumeProven));
        let hot = at(&resume, &told(level, false));
        assert_eq!(hot, Verdict::Reply(CookieResume));
    }
    assert_eq!(
        at(&init, &told(Level::Guarded, false)),
        Verdict::Reply(CookieSaInit)
    );
    // A daemon that is not heard of for a second cannot say how bad it is.
    let alone = Told {
        silence: ALONE_AFTER + 1,
        ..told(Level::Calm, true)
    };
    assert_eq!(at(&init, &alone), Verdict::Reply(CookieSaInit));
    let off = Told {
        flags: CHECK_LOCAL | TICKET_KEYS_SET,
        ..told(Level::Attack, false)
    };
    assert_eq!(at(&init, &off), Verdict::Pass(SaInit));
    let keyless = Told {
        cookie_keys: false,
        ..told(Level::Attack, false)
    };
    assert_eq!(at(&init, &keyless), Verdict::Pass(SaInit));
}

#[test]
fn a_good_cookie_does_not_open_for_ever() {
    let input = CookieInput {
        spi_i: 0x1122_3344_5566_7788_u64.to_be_bytes(),
        source: Around::default().source.mapped(),
        nonce_head: [0x6e; 16],
        ticket_tag: 0,
        exchange: IKE_SA_INIT,
        destination_digest: cookie::destination_digest(LOCAL_V4.mapped()),
    };
    let epoch = cookie::epoch_of_interval(cookie::interval_at(NOW / SECOND));
    let aged = |age: u16| {
        let time = (NOW / SECOND) as u16 - age;
        let cookie = cookie::make(epoch, 2, time, [0; 4], &input, &COOKIE_KEY);
        Message::sa_init().cookie(&cookie)
    };
    let at = |message: &Message, within| {
        let told = Told { within, ..attack() };
        message_verdict_at(message, &told)
    };
    let all = [true; Meter::COUNT];
    let without = |meter: Meter| {
        let mut within = all;
        within[meter as usize] = false;
        within
    };
    assert_eq!(at(&aged(30), all), Verdict::Pass(Reason::SaInitWithCookie));
    assert_eq!(at(&aged(31), all), Verdict::Reply(Reason::CookieSaInit));
    let overused = Verdict::Drop(Reason::CookieOverused);
    assert_eq!(at(&aged(0), without(Meter::Cookie)), overused);
    let crowded = Verdict::Drop(Reason::NetworkOverused);
    assert_eq!(at(&aged(0), without(Meter::ProvenNetwork)), crowded);
    // RFC 7296, 2.6: a cookie that is none of ours counts as none.
    let foreign = Message::sa_init().cookie(&[7; 16]);
    assert_eq!(at(&foreign, all), Verdict::Reply(Reason::CookieSaInit));
    let long = Message::sa_init().cookie(&[7; 64]);
    assert_eq!(at(&long, all), Verdict::Reply(Reason::CookieSaInit));
}

#[test]
fn what_a_cookie_cannot_be_bound_to_is_dropped_where_one_is_needed() {
    let no_nonce = Message::first(IKE_SA_INIT).with(33, &[0; 80]);
    assert_eq!(
        message_verdict_at(&no_nonce, &attack()),
        Verdict::Drop(Reason::NoNonce)
    );
    let mut no_nonce = genuine();
    no_nonce.payloads.retain(|(kind, _)| *kind != NONCE);
    assert_eq!(
        message_verdict_at(&no_nonce, &attack()),
        Verdict::Drop(Reason::ResumeCookieNeeded)
    );
    let short_nonce = Message::sa_init().with(NONCE, &[0; 15]);
    assert_eq!(
        message_verdict_at(&short_nonce, &attack()),
        Verdict::Drop(Reason::PayloadShape)
    );
    let mut deep = Message::first(IKE_SESSION_RESUME);
    for _ in 0..MAX_WALK {
        deep = deep.with(43, &[1, 2, 3]);
    }
    let deep = deep.notify(TICKET_OPAQUE, &ticket(KEY_ID, 1, &TAG_KEY, 192));
    assert_eq!(
        message_verdict_at(&deep, &attack()),
        Verdict::Drop(Reason::TicketTooDeep)
    );
}

#[test]
fn a_write_beyond_the_frame_fails() {
    let mut frame = std::vec![0u8; 10];
    assert!(frame.store(6, [1]) && !frame.store(7, [1]));
    assert!(!frame.cut(11) && frame.cut(10));
}
