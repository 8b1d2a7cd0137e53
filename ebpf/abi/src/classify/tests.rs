use core::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::vec::Vec;

use super::*;
use crate::cookie::{self, COOKIE_LEN, CookieInput};
use crate::frames::{Address, Around, EXPIRY_MINUTES, MASK_KEY, Message, NONCE, ticket};
use crate::ike::{
    COOKIE, PAYLOAD_NOTIFY, PORT_IKE, PORT_NAT_T, PROTOCOL_ESP, TICKET_NACK, TICKET_OPAQUE,
};
use crate::maps::{
    ALLOWS, CHECK_LOCAL, COOKIES, DENIES, NEVER_ANSWERED, OUR_ADDRESS, TICKET_KEYS_SET, TicketKeys,
};
use crate::networks::{Prefix, Rule};
use crate::ticket;

mod bare;
mod elsewhere;
mod lanes;
mod levels;
mod replies;
mod state;

/// On the boot clock.
const NOW: u64 = 1000 * SECOND;
const COOKIE_KEY: SipKey = SipKey { k0: 31, k1: 32 };
const BROADCAST: Address = Address::V4([192, 0, 2, 255]);
const TAG_KEY: SipKey = SipKey { k0: 11, k1: 12 };
const SPI_KEY: SipKey = SipKey { k0: 21, k1: 22 };
const LOCAL_V4: Address = Address::V4([192, 0, 2, 2]);
const LOCAL_V6: Address = Address::V6([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
const KEY_ID: u8 = 40;
const USED_SLOT: u32 = 2;
/// 203.0.113.128/25 is allowed in 203.0.113.0/24, which is denied as 2001:db8:bad::/48 is; the narrower one
/// comes first.
const RULES: [(Prefix, Rule); 3] = {
    let mut v4 = LOCAL_V4.mapped();
    (v4[12], v4[13], v4[14], v4[15]) = (203, 0, 113, 0);
    let mut half = v4;
    half[15] = 128;
    let mut v6 = [0; 16];
    (v6[0], v6[1], v6[2], v6[3]) = (0x20, 1, 0xd, 0xb8);
    (v6[4], v6[5]) = (0xb, 0xad);
    match (
        Prefix::new(half, 121),
        Prefix::new(v4, 120),
        Prefix::new(v6, 48),
    ) {
        (Some(half), Some(v4), Some(v6)) => {
            [(half, Rule::Allow), (v4, Rule::Deny), (v6, Rule::Deny)]
        }
        _ => panic!("these are networks"),
    }
};
const METER_KEY: SipKey = SipKey { k0: 41, k1: 42 };

struct Told {
    flags: u64,
    spi_key: Option<SipKey>,
    ticket_keys: bool,
    silence: i64,
    level: Level,
    cookie_keys: bool,
    /// Replies left of any budget.
    replies: Cell<u64>,
    /// Charges that each meter takes.
    within: [bool; Meter::COUNT],
    wall_minus_boot: Option<u64>,
    /// Words of the board that are not 0.
    board: RefCell<BTreeMap<u32, u64>>,
}

impl Default for Told {
    fn default() -> Self {
        Self {
            flags: CHECK_OWN_SPI | CHECK_LOCAL | TICKET_KEYS_SET | COOKIES,
            spi_key: Some(SPI_KEY),
            ticket_keys: true,
            silence: 0,
            level: Level::Calm,
            cookie_keys: true,
            replies: Cell::new(0),
            within: [true; Meter::COUNT],
            wall_minus_boot: Some(0),
            board: RefCell::default(),
        }
    }
}

impl Told {
    fn set(&self, bit: Bit) {
        *self.board.borrow_mut().entry(bit.word).or_default() |= bit.mask;
    }
}

impl Knowledge for Told {
    fn flags(&self) -> u64 {
        self.flags
    }
    fn level(&self) -> Level {
        self.level
    }
    fn ticket_keys(&self, key_id: u8) -> Option<&TicketKeySlot> {
        static LIVE: TicketKeySlot = TicketKeySlot::live(&TicketKeys {
            tag: TAG_KEY,
            mask: MASK_KEY,
            used_slot: Some(USED_SLOT),
        });
        (self.ticket_keys && key_id == KEY_ID).then_some(&LIVE)
    }
    fn spi_key(&self, slot: u32) -> Option<SipKey> {
        self.spi_key.filter(|_| slot == 1)
    }
    fn cookie_key(&self, epoch: u8) -> Option<SipKey> {
        let live = cookie::epoch_of_interval(cookie::interval_at(NOW / SECOND));
        (self.cookie_keys && epoch == live).then_some(COOKIE_KEY)
    }
    fn address(&self, address: &[u8; 16]) -> u64 {
        if *address == LOCAL_V4.mapped() || *address == LOCAL_V6.mapped() {
            OUR_ADDRESS
        } else if *address == BROADCAST.mapped() {
            NEVER_ANSWERED
        } else {
            0
        }
    }
    fn rule(&self, address: &[u8; 16]) -> Option<Rule> {
        let found = RULES.iter().find(|(network, _)| network.has(address));
        found.map(|(_, rule)| *rule)
    }
    fn now(&self) -> u64 {
        NOW
    }
    fn last_beat(&self) -> u64 {
        NOW.wrapping_add_signed(-self.silence)
    }
    fn wall_minus_boot(&self) -> Option<u64> {
        self.wall_minus_boot
    }
    fn node(&self) -> u8 {
        1
    }
    fn board(&self, word: u32) -> u64 {
        self.board.borrow().get(&word).copied().unwrap_or_default()
    }
    fn set_board(&self, word: u32, value: u64) {
        self.board.borrow_mut().insert(word, value);
    }
    fn meter_key(&self) -> SipKey {
        METER_KEY
    }
    fn spend(&self, _: Budget, now: u64) -> bool {
        assert_eq!(now, NOW);
        let left = self.replies.get();
        self.replies.set(left.saturating_sub(1));
        left > 0
    }
    fn charge(&self, meter: Meter, _: u64, now: u64) -> bool {
        assert_eq!(now, NOW);
        self.within[meter as usize]
    }
}

fn classify(frame: &[u8], known: &Told) -> Verdict {
    super::classify(frame, known).verdict
}

fn verdict(frame: &[u8]) -> Verdict {
    classify(frame, &Told::default())
}

fn message_verdict(message: &Message) -> Verdict {
    verdict(&Around::default().ike(&message.octets()))
}

fn everywhere() -> Vec<Around> {
    let mut all = Vec::new();
    for port in [PORT_IKE, PORT_NAT_T] {
        for vlans in [&[][..], &[0x8100], &[0x88a8, 0x8100]] {
            let v4 = Around {
                vlans: vlans.to_vec(),
                port,
                ..Around::default()
            };
            let v6 = Around {
                source: LOCAL_V6,
                destination: LOCAL_V6,
                ..v4.clone()
            };
            all.extend([v4, v6].iter().flat_map(with_pppoe));
        }
    }
    all
}

/// The same, and by a PPPoE session.
fn with_pppoe(around: &Around) -> [Around; 2] {
    let pppoe = Around {
        pppoe: true,
        ..around.clone()
    };
    [around.clone(), pppoe]
}

fn genuine() -> Message {
    Message::resume(&ticket(KEY_ID, 5, &TAG_KEY, 256))
}

#[test]
fn a_genuine_resumption_passes_wherever_it_comes_from() {
    for around in everywhere() {
        let frame = around.ike(&genuine().octets());
        assert_eq!(
            verdict(&frame),
            Verdict::Pass(Reason::ResumeProven),
            "{around:?}"
        );
        let cookie = around.ike(&genuine().cookie(&[7; 16]).octets());
        assert_eq!(
            verdict(&cookie),
            Verdict::Pass(Reason::ResumeProven),
            "{around:?}"
        );
    }
}

#[test]
fn no_bit_of_the_envelope_can_be_changed() {
    let good = ticket(KEY_ID, 5, &TAG_KEY, 192);
    for bit in 0..8 * ticket::ENVELOPE_LEN {
        let mut forged = good.clone();
        forged[bit / 8] ^= 1 << (bit % 8);
        let reason = match message_verdict(&Message::resume(&forged)) {
            Verdict::Drop(reason) => reason,
            other => panic!("bit {bit}: {other:?}"),
        };
        let expected = match bit / 8 {
            0 => Reason::EnvelopeShape,
            1 => Reason::UnknownKeyId,
            3 if bit > 24 => Reason::EnvelopeShape,
            _ => Reason::TagWrong,
        };
        assert_eq!(reason, expected, "bit {bit}");
    }
}

#[test]
fn no_truncation_passes_for_the_whole() {
    for around in everywhere() {
        let frame = around.ike(&genuine().octets());
        for len in 0..frame.len() {
            let verdict = verdict(&frame[..len]);
            assert!(
                matches!(
                    verdict,
                    Verdict::Pass(Reason::NotIke) | Verdict::Drop(Reason::Truncated)
                ),
                "{len} of {around:?}: {verdict:?}"
            );
        }
    }
}

#[test]
fn a_shorter_message_with_right_lengths_finds_no_ticket() {
    let whole = genuine().octets();
    for len in 0..whole.len() {
        let mut cut = whole[..len].to_vec();
        if let Some(field) = cut.get_mut(24..28) {
            field.copy_from_slice(&(len as u32).to_be_bytes());
        }
        let verdict = verdict(&Around::default().ike(&cut));
        assert!(
            matches!(
                verdict,
                Verdict::Drop(Reason::Truncated | Reason::PayloadShape)
            ),
            "{len}: {verdict:?}"
        );
    }
}

#[test]
fn random_octets_behind_a_good_head_never_panic() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let base = Around::default().ike(&genuine().octets());
    for _ in 0..20_000 {
        let mut frame = base.clone();
        for _ in 0..=state % 4 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let at = (state >> 8) as usize % frame.len();
            frame[at] = state as u8;
        }
        frame.truncate(frame.len() - (state >> 40) as usize % 3);
        let _ = verdict(&frame);
    }
}

#[test]
fn each_header_fault_has_its_reason() {
    let first = genuine();
    let cases = [
        (
            Message {
                version: 0x10,
                ..first.clone()
            },
            Reason::Version,
        ),
        (
            Message {
                spi_i: 0,
                ..first.clone()
            },
            Reason::ZeroSpi,
        ),
        (
            Message {
                message_id: 1,
                ..first.clone()
            },
            Reason::NotFirst,
        ),
        (
            Message {
                flags: FLAG_INITIATOR | FLAG_RESPONSE,
                ..first.clone()
            },
            Reason::NotFirst,
        ),
        (
            Message {
                exchange: 35,
                ..first.clone()
            },
            Reason::NotFirst,
        ),
        (
            Message {
                flags: 0,
                ..first.clone()
            },
            Reason::ForeignSpi,
        ),
        (
            Message {
                spi_r: 9,
                ..first.clone()
            },
            Reason::ForeignSpi,
        ),
        (
            Message {
                payloads: Vec::new(),
                ..first.clone()
            },
            Reason::NoTicket,
        ),
        (Message::first(IKE_SA_INIT), Reason::PayloadShape),
    ];
    for (message, reason) in cases {
        assert_eq!(
            message_verdict(&message),
            Verdict::Drop(reason),
            "{message:?}"
        );
    }
    let mut long = first.octets();
    long.push(0);
    assert_eq!(
        verdict(&Around::default().ike(&long)),
        Verdict::Drop(Reason::Length)
    );
}

#[test]
fn each_ticket_fault_has_its_reason() {
    let good = ticket(KEY_ID, 5, &TAG_KEY, 256);
    let cases = [
        (genuine().notify(TICKET_OPAQUE, &good), Reason::TwoTickets),
        (genuine().cookie(&[1]).cookie(&[2]), Reason::TwoCookies),
        (Message::resume(&good[..47]), Reason::TicketLength),
        (Message::resume(&[0x11; 1037]), Reason::TicketLength),
        (
            Message::resume(&ticket(KEY_ID + 1, 5, &TAG_KEY, 256)),
            Reason::UnknownKeyId,
        ),
        (
            Message::resume(&ticket(KEY_ID, 5, &SPI_KEY, 256)),
            Reason::TagWrong,
        ),
        (
            Message::first(IKE_SESSION_RESUME).with(NONCE, &[0; 16]),
            Reason::NoTicket,
        ),
        (
            Message::first(IKE_SESSION_RESUME).with(PAYLOAD_NOTIFY, &[0, 0]),
            Reason::PayloadShape,
        ),
    ];
    for (message, reason) in cases {
        assert_eq!(
            message_verdict(&message),
            Verdict::Drop(reason),
            "{message:?}"
        );
    }
}

#[test]
fn a_ticket_behind_twelve_payloads_is_left_to_the_daemon() {
    let mut behind = Message::first(IKE_SESSION_RESUME);
    for _ in 0..MAX_WALK {
        behind = behind.with(43, &[1, 2, 3]);
    }
    let last_seen = {
        let mut fewer = behind.clone();
        fewer.payloads.pop();
        fewer.notify(TICKET_OPAQUE, &ticket(KEY_ID, 1, &TAG_KEY, 192))
    };
    behind = behind.notify(TICKET_OPAQUE, &ticket(KEY_ID, 1, &TAG_KEY, 192));
    assert_eq!(
        message_verdict(&behind),
        Verdict::Pass(Reason::TicketNotFound)
    );
    assert_eq!(
        message_verdict(&last_seen),
        Verdict::Pass(Reason::ResumeProven)
    );
}

#[test]
fn our_own_spi_opens_the_gate_in_either_role() {
    let ours = OurSpi::compose(1, 2, 3, &SPI_KEY).0;
    let as_responder = Message {
        spi_r: ours,
        exchange: 35,
        message_id: 1,
        ..Message::sa_init()
    };
    let as_initiator = Message {
        spi_i: ours,
        flags: FLAG_RESPONSE,
        ..Message::sa_init()
    };
    let asked = Message {
        spi_i: ours,
        spi_r: 77,
        flags: 0,
        exchange: 37,
        ..Message::sa_init()
    };
    for message in [as_responder, as_initiator, asked] {
        assert_eq!(message_verdict(&message), Verdict::Pass(Reason::OwnSpi));
        let wrong = Message {
            spi_i: message.spi_i ^ 1,
            spi_r: message.spi_r ^ 1,
            ..message
        };
        assert_eq!(message_verdict(&wrong), Verdict::Drop(Reason::ForeignSpi));
        let frame = Around::default().ike(&wrong.octets());
        let off = Told {
            flags: CHECK_LOCAL,
            ..Told::default()
        };
        assert_eq!(
            classify(&frame, &off),
            Verdict::Pass(Reason::OwnSpiUnchecked)
        );
        let keyless = Told {
            spi_key: None,
            ..Told::default()
        };
        assert_eq!(
            classify(&frame, &keyless),
            Verdict::Pass(Reason::OwnSpiUnchecked)
        );
    }
}

#[test]
fn every_reason_has_its_own_name() {
    let mut names: Vec<_> = Reason::ALL.iter().map(|reason| reason.name()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), Reason::COUNT);
    for (place, reason) in Reason::ALL.iter().enumerate() {
        assert_eq!(*reason as usize, place);
    }
}
