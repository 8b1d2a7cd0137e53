//! Frames for both sides of the kernel line: made whole, cut at every length, and mutated from a
//! seed, so that a failure can be repeated.

use gate_abi::classify::Knowledge;
use gate_abi::frames::{Address, Around, Message, NONCE, ticket};
use gate_abi::ike::{FLAG_RESPONSE, IKE_SESSION_RESUME, PORT_IKE, PORT_NAT_T, TICKET_OPAQUE};
use gate_abi::maps::{CHECK_LOCAL, CHECK_OWN_SPI, TICKET_KEYS_SET};
use gate_abi::sip::SipKey;
use gate_abi::spi::OurSpi;

/// The key id that is live.
pub(super) const KEY_ID: u8 = 201;
/// Its `k_tag`.
pub(super) const TAG_KEY: [u8; 16] = *b"the tag key here";
/// The one live `k_spi`.
pub(super) const SPI_KEY: [u8; 16] = *b"the spi key here";
/// Our addresses.
pub(super) const LOCAL: [&str; 2] = ["192.0.2.2", "2001:db8::2"];

const LOCAL_V4: Address = Address::V4([192, 0, 2, 2]);
const LOCAL_V6: Address = Address::V6([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
const PEER_V6: Address = Address::V6([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
const MUTATIONS: usize = 12_000;

/// What the gate in the kernel is told too.
pub(super) struct Told;

impl Knowledge for Told {
    fn flags(&self) -> u64 {
        CHECK_LOCAL | CHECK_OWN_SPI | TICKET_KEYS_SET
    }
    fn ticket_key(&self, key_id: u8) -> Option<SipKey> {
        (key_id == KEY_ID).then_some(SipKey::from_octets(TAG_KEY))
    }
    fn spi_key(&self, slot: u32) -> Option<SipKey> {
        (slot == 0).then_some(SipKey::from_octets(SPI_KEY))
    }
    fn is_local(&self, address: &[u8; 16]) -> bool {
        [LOCAL_V4.mapped(), LOCAL_V6.mapped()].contains(address)
    }
    fn silence(&self) -> u64 {
        0
    }
}

/// A resumption with a ticket of ours.
pub(super) fn genuine(index: u32) -> Message {
    Message::resume(&ticket(KEY_ID, index, &SipKey::from_octets(TAG_KEY), 256))
}

/// The same with a live key id and a wrong tag.
pub(super) fn forged(index: u32) -> Message {
    Message::resume(&ticket(KEY_ID, index, &SipKey::from_octets(SPI_KEY), 256))
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
                source: PEER_V6,
                destination: LOCAL_V6,
                ..v4.clone()
            };
            let elsewhere = Around {
                source: LOCAL_V6,
                destination: PEER_V6,
                ..v4.clone()
            };
            all.extend([v4, v6, elsewhere]);
        }
    }
    all
}

fn messages() -> Vec<Message> {
    let spi_key = SipKey::from_octets(SPI_KEY);
    let ours = OurSpi::compose(3, 1, 0xfeed_f00d, &spi_key).0;
    let sized = |len| Message::resume(&ticket(KEY_ID, 7, &SipKey::from_octets(TAG_KEY), len));
    let mut all: Vec<_> = [47, 48, 64, 192, 256, 352, 640, 1036, 1037]
        .map(sized)
        .into();
    for ours in [ours, ours ^ 1, ours ^ 1 << 20] {
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
        all.push(
            far.clone()
                .notify(TICKET_OPAQUE, &ticket(KEY_ID, before, &spi_key, 192)),
        );
        far = far.with(43, &[7; 5]);
    }
    let good = genuine(9);
    all.extend([
        Message::sa_init(),
        Message::sa_init().cookie(&[3; 16]),
        forged(2),
        Message::resume(&ticket(KEY_ID + 1, 1, &SipKey::from_octets(TAG_KEY), 256)),
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
