//! Frames for both sides of the kernel line: made whole, cut at every length, and mutated from a
//! seed, so that a failure can be repeated.

use gate_abi::classify::Knowledge;
use gate_abi::cookie::{self, CookieInput};
use gate_abi::defence::{Budget, Level, Meter};
use gate_abi::frames::{self, Address, Around, EXPIRY_MINUTES, MASK_KEY, Message, NONCE};
use gate_abi::ike::{
    FLAG_RESPONSE, IKE_SA_INIT, IKE_SESSION_RESUME, PORT_IKE, PORT_NAT_T, TICKET_OPAQUE,
};
use gate_abi::maps::{
    ALLOWS, CHECK_LIVE_SPI, CHECK_LOCAL, CHECK_OWN_SPI, COOKIES, DENIES, OUR_ADDRESS,
    TICKET_KEYS_SET, TicketKeySlot, TicketKeys,
};
use gate_abi::networks::{Prefix, Rule};
use gate_abi::sip::SipKey;
use gate_abi::spi::OurSpi;
use gate_abi::ticket::{self, ENVELOPE_LEN, Envelope, Kind, NO_COOKIE};
use rekindled::gate::{Board, boot_clock};

/// The key id that is live.
pub(super) const KEY_ID: u8 = 201;
/// Its `k_tag`.
pub(super) const TAG_KEY: [u8; 16] = *b"the tag key here";
/// What the gate may know of that epoch.
pub(super) const TICKET_KEYS: TicketKeys = TicketKeys {
    tag: SipKey::from_octets(TAG_KEY),
    mask: MASK_KEY,
    used_slot: Some(USED_SLOT),
};
const USED_SLOT: u32 = 1;
/// A ticket that has been used.
const USED_INDEX: u32 = 6;
/// The one live `k_spi`.
pub(super) const SPI_KEY: [u8; 16] = *b"the spi key here";
/// Our addresses.
pub(super) const LOCAL: [&str; 2] = ["192.0.2.2", "2001:db8::2"];

const LOCAL_V4: Address = Address::V4([192, 0, 2, 2]);
const LOCAL_V6: Address = Address::V6([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
const PEER_V6: Address = Address::V6([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
/// In the denied network, which is the wider one.
const ALLOWED_V4: Address = Address::V4([203, 0, 113, 128]);
const ALLOWED_V6: Address =
    Address::V6([0x20, 1, 0xd, 0xb8, 0xb, 0xad, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0]);
const DENIED_V4: Address = Address::V4([203, 0, 113, 0]);
const DENIED_V6: Address =
    Address::V6([0x20, 1, 0xd, 0xb8, 0xb, 0xad, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
const MUTATIONS: usize = 12_000;

/// What the gate in the kernel is told too.
pub(super) struct Told<'a> {
    pub board: &'a Board,
    pub level: Level,
    /// Whether any reply is left, and any meter takes a charge.
    pub replies: bool,
    pub within: bool,
}

impl Knowledge for Told<'_> {
    fn flags(&self) -> u64 {
        CHECK_LOCAL | CHECK_OWN_SPI | CHECK_LIVE_SPI | TICKET_KEYS_SET | COOKIES | DENIES | ALLOWS
    }
    fn level(&self) -> Level {
        self.level
    }
    fn ticket_keys(&self, key_id: u8) -> Option<&TicketKeySlot> {
        static LIVE: TicketKeySlot = TicketKeySlot::live(&TICKET_KEYS);
        (key_id == KEY_ID).then_some(&LIVE)
    }
    fn spi_key(&self, slot: u32) -> Option<SipKey> {
        (slot == 0).then_some(SipKey::from_octets(SPI_KEY))
    }
    fn cookie_key(&self, epoch: u8) -> Option<SipKey> {
        let live = cookie_keys();
        live.iter()
            .find(|(known, _)| *known == epoch)
            .map(|(_, key)| *key)
    }
    fn address(&self, address: &[u8; 16]) -> u64 {
        if [LOCAL_V4.mapped(), LOCAL_V6.mapped()].contains(address) {
            OUR_ADDRESS
        } else {
            0
        }
    }
    fn rule(&self, address: &[u8; 16]) -> Option<Rule> {
        let rules = rules().into_iter();
        let mut found = rules.filter(|(network, _)| network.has(address));
        found.next().map(|(_, rule)| rule)
    }
    fn now(&self) -> u64 {
        boot_clock().as_nanos() as u64
    }
    fn last_beat(&self) -> u64 {
        self.now()
    }
    fn wall_minus_boot(&self) -> Option<u64> {
        Some(0)
    }
    fn node(&self) -> u8 {
        1
    }
    fn board(&self, word: u32) -> u64 {
        self.board.word(word)
    }
    fn set_board(&self, _: u32, _: u64) {
        // The kernel judges after us, on the same board, and changes it.
    }
    fn meter_key(&self) -> SipKey {
        self.board.key()
    }
    fn spend(&self, _: Budget, _: u64) -> bool {
        self.replies
    }
    fn charge(&self, _: Meter, _: u64, _: u64) -> bool {
        self.within
    }
}

/// Networks that are judged beforehand, the narrower ones first.
pub(super) fn rules() -> Vec<(Prefix, Rule)> {
    [
        (ALLOWED_V4, 96 + 25, Rule::Allow),
        (ALLOWED_V6, 64, Rule::Allow),
        (DENIED_V4, 96 + 24, Rule::Deny),
        (DENIED_V6, 48, Rule::Deny),
    ]
    .into_iter()
    .filter_map(|(address, bits, rule)| Some((Prefix::new(address.mapped(), bits)?, rule)))
    .collect()
}

/// `k_cookie` of the present interval and of those beside it.
pub(crate) fn cookie_keys() -> [(u8, SipKey); 3] {
    let interval = cookie::interval_at(boot_clock().as_secs());
    [interval.wrapping_sub(1), interval, interval + 1].map(|one| {
        let key = SipKey {
            k0: one,
            k1: 0x0c00_c1e5,
        };
        (cookie::epoch_of_interval(one), key)
    })
}

/// First messages with a cookie that is good for half a minute.
pub(super) fn with_cookies() -> Vec<Vec<u8>> {
    let seconds = boot_clock().as_secs();
    let [_, (epoch, key), _] = cookie_keys();
    let mut frames = Vec::new();
    let mut spi_i = 0;
    for around in everywhere().iter().filter(|around| around.port != 53) {
        for (message, ticket_tag) in [(Message::sa_init(), 0), (genuine(77), tag_of(&genuine(77)))]
        {
            // A cookie is good for a few messages only, and knows neither port nor VLAN.
            spi_i += 1;
            let message = Message { spi_i, ..message };
            let input = CookieInput {
                spi_i: message.spi_i.to_be_bytes(),
                source: around.source.mapped(),
                nonce_head: [0x6e; 16],
                ticket_tag,
                exchange: message.exchange,
                destination_digest: cookie::destination_digest(around.destination.mapped()),
            };
            let good = cookie::make(epoch, 2, seconds as u16, [0; 4], &input, &key);
            let old = cookie::make(
                epoch,
                2,
                (seconds as u16).wrapping_sub(60),
                [0; 4],
                &input,
                &key,
            );
            for cookie in [good, old] {
                frames.push(around.ike(&message.clone().cookie(&cookie).octets()));
            }
        }
    }
    frames
}

/// The tag in the ticket of a resumption.
fn tag_of(resume: &Message) -> u64 {
    let ticket = resume.payloads.last().and_then(|(_, body)| body.get(4..));
    let envelope = ticket.and_then(|ticket| ticket.first_chunk());
    envelope.map_or(0, ticket::tag_of)
}

/// A resumption with a ticket of ours.
pub(crate) fn genuine(index: u32) -> Message {
    Message::resume(&frames::ticket(
        KEY_ID,
        index,
        &SipKey::from_octets(TAG_KEY),
        256,
    ))
}

/// The same with a live key id and a wrong tag.
pub(crate) fn forged(index: u32) -> Message {
    Message::resume(&frames::ticket(
        KEY_ID,
        index,
        &SipKey::from_octets(SPI_KEY),
        256,
    ))
}

/// The one live SPI.
fn live_spi() -> OurSpi {
    OurSpi::compose(3, 1, 0xfeed_f00e, &SipKey::from_octets(SPI_KEY))
}

/// Puts on the board what some of the frames meet there.
pub(super) fn post(board: &Board) {
    board.set_live(live_spi(), true);
    board.set_used(USED_SLOT, USED_INDEX);
    for around in [Around::default(), v6()] {
        let first = CookieInput {
            spi_i: Message::sa_init().spi_i.to_be_bytes(),
            source: around.source.mapped(),
            nonce_head: [0x6e; 16],
            ticket_tag: 0,
            exchange: 0,
            destination_digest: 0,
        };
        board.admit(&first, boot_clock().as_secs());
    }
}

fn v6() -> Around {
    Around {
        source: PEER_V6,
        destination: LOCAL_V6,
        ..Around::default()
    }
}

/// Everything.
pub(super) fn frames() -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for around in everywhere() {
        frames.extend(
            messages()
                .iter()
                .map(|message| around.ike(&message.octets())),
        );
        frames.extend(not_ike(&around));
        let whole = around.ike(&genuine(1).octets());
        frames.extend((0..whole.len()).map(|len| whole[..len].to_vec()));
    }
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let whole = frames.len();
    for _ in 0..MUTATIONS {
        let mut frame = frames[dice.below(whole)].clone();
        for _ in 0..=dice.below(3) {
            if !frame.is_empty() {
                let at = dice.below(frame.len());
                frame[at] = dice.below(256) as u8;
            }
        }
        frames.push(frame);
    }
    frames
}

fn everywhere() -> Vec<Around> {
    let mut all = Vec::new();
    for port in [PORT_IKE, PORT_NAT_T, 53] {
        for vlans in [
            &[][..],
            &[0x8100],
            &[0x88a8, 0x8100],
            &[0x8100, 0x8100, 0x8100],
        ] {
            let v4 = Around {
                vlans: vlans.to_vec(),
                port,
                ..Around::default()
            };
            let v6 = Around {
                vlans: v4.vlans.clone(),
                port,
                ..v6()
            };
            let elsewhere = Around {
                source: LOCAL_V6,
                destination: PEER_V6,
                ..v4.clone()
            };
            let pppoe = [&v4, &v6].map(|around| Around {
                pppoe: true,
                ..around.clone()
            });
            let ruled = [
                (&v4, DENIED_V4),
                (&v4, ALLOWED_V4),
                (&v6, DENIED_V6),
                (&v6, ALLOWED_V6),
            ]
            .map(|(around, source)| Around {
                source,
                ..around.clone()
            });
            all.extend([v4, v6, elsewhere]);
            all.extend(ruled);
            all.extend(pppoe);
        }
    }
    all
}

fn messages() -> Vec<Message> {
    let spi_key = SipKey::from_octets(SPI_KEY);
    let ours = OurSpi::compose(3, 1, 0xfeed_f00d, &spi_key).0;
    let live = live_spi().0;
    let sized = |len| {
        Message::resume(&frames::ticket(
            KEY_ID,
            7,
            &SipKey::from_octets(TAG_KEY),
            len,
        ))
    };
    let mut all: Vec<_> = [47, 48, 64, 192, 256, 352, 640, 1036, 1037]
        .map(sized)
        .into();
    for ours in [live, ours, ours ^ 1, ours ^ 1 << 20] {
        let request = Message {
            exchange: 35,
            message_id: 1,
            ..Message::sa_init()
        };
        all.push(Message {
            spi_r: ours,
            ..request.clone()
        });
        all.push(Message {
            spi_i: ours,
            flags: FLAG_RESPONSE,
            ..request.clone()
        });
        all.push(Message {
            spi_i: ours,
            spi_r: 5,
            flags: 0,
            ..request
        });
    }
    let mut far = Message::first(IKE_SESSION_RESUME);
    for before in 0..14 {
        all.push(far.clone().notify(
            TICKET_OPAQUE,
            &frames::ticket(KEY_ID, before, &spi_key, 192),
        ));
        far = far.with(43, &[7; 5]);
    }
    all.push(genuine(USED_INDEX));
    let good = genuine(9);
    let marked = |flags, expiry_minutes| {
        let envelope = Envelope {
            kind: Kind::ByValue,
            key_id: KEY_ID,
            node: 1,
            flags,
            nonce: [5; 12],
            index: 8,
            expiry_minutes,
        };
        let mut ticket = envelope.seal(&TICKET_KEYS.tag, &MASK_KEY).to_vec();
        ticket.resize(ENVELOPE_LEN + 160, 7);
        Message::resume(&ticket)
    };
    all.extend([
        marked(0, 0),
        marked(NO_COOKIE, EXPIRY_MINUTES),
        Message::first(IKE_SA_INIT).with(33, &[0; 80]),
        Message::first(IKE_SA_INIT).with(NONCE, &[1; 16]),
        Message::sa_init().with(NONCE, &[1; 15]),
        Message::sa_init(),
        Message::sa_init().cookie(&[3; 16]),
        forged(2),
        Message::resume(&frames::ticket(
            KEY_ID + 1,
            1,
            &SipKey::from_octets(TAG_KEY),
            256,
        )),
        good.clone().cookie(&[3; 16]),
        good.clone().cookie(&[3; 16]).cookie(&[4; 16]),
        good.clone().notify(TICKET_OPAQUE, &[0x11; 64]),
        Message::first(IKE_SESSION_RESUME).with(NONCE, &[1; 32]),
        Message::first(IKE_SESSION_RESUME),
        Message {
            version: 0x10,
            ..good.clone()
        },
        Message {
            spi_i: 0,
            ..good.clone()
        },
        Message {
            message_id: 4,
            ..good.clone()
        },
        Message {
            flags: good.flags | FLAG_RESPONSE,
            ..good
        },
    ]);
    all
}

fn not_ike(around: &Around) -> Vec<Vec<u8>> {
    let mut fragment = around.datagram(&[1; 64]);
    let flags = 14 + 4 * around.vlans.len() + 6;
    fragment[flags] ^= 0x20;
    let mut padded = around.datagram(&[0xff]);
    padded.resize(padded.len().max(60), 0);
    vec![
        around.datagram(&[]),
        around.datagram(&[0xff]),
        around.datagram(&[9; 8]),
        around.datagram(&[9; 120]),
        around.datagram(&[0; 12]),
        around.packet(50, &[9; 64]),
        around.packet(6, &[0; 20]),
        around.packet(44, &[0; 64]),
        around.packet(44, &[17; 64]),
        around.packet(44, &[44; 64]),
        around.packet(44, &[50; 64]),
        around.packet(44, &[6; 64]),
        around.packet(44, &[]),
        around.packet(60, &[0; 64]),
        fragment,
        padded,
    ]
}

/// Marsaglia's xorshift: the same frames in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 20) as usize % bound
    }
}
