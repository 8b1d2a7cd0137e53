//! What is this frame to us? One classifier for both sides of the kernel line: the XDP program
//! runs it over a packet, the daemon over octets.
//!
//! The order is shape (`locate`, `walk`), then keyed proof, then state (`first`): what has proved
//! nothing touches one counter and its own cell of a meter. Whatever is not certainly ours passes
//! untouched.

mod first;
mod locate;
mod reason;
mod steer;
#[cfg(test)]
mod tests;
mod walk;

use crate::board::{self, Bit};
use crate::cookie::{self, Begun, COOKIE_LEN, CookieInput};
use crate::defence::{Budget, Level, Meter, SECOND};
use crate::ike::{
    FLAG_INITIATOR, FLAG_RESPONSE, HEADER_LEN, IKE_SA_INIT, IKE_SESSION_RESUME, MAJOR_VERSION,
    PAYLOAD_NONE,
};
use crate::maps::{CHECK_LIVE_SPI, CHECK_OWN_SPI, MASQUERADES, SPI_KEYS_ENTRIES, TicketKeySlot};
use crate::networks::Rule;
use crate::reply::Reply;
use crate::sip::SipKey;
use crate::spi::OurSpi;

pub use self::locate::MAX_VLANS;
pub use self::reason::{Reason, Verdict};
pub use self::steer::{Datagram, steer};
pub use self::walk::MAX_WALK;

/// Nanoseconds of silence after which the gate defends itself as best it can: nobody is there to say
/// how bad it is.
pub const ALONE_AFTER: i64 = SECOND.cast_signed();
/// Nanoseconds of silence after which first messages are dropped: nobody would answer them.
pub const SILENT_AFTER: i64 = 10 * SECOND.cast_signed();
/// Nanoseconds of silence after which everything passes, so that a gate left behind blinds nobody.
pub const ASLEEP_AFTER: i64 = 15 * 60 * SECOND.cast_signed();

/// Octets that may be shorter than they claim to be.
pub trait Frame {
    /// Whether they begin with the IP header: on devices of layer 3 nothing stands before it.
    const BARE: bool = false;

    /// How many octets there are.
    fn octets(&self) -> usize;
    /// The `N` octets at `at`, if there are so many.
    fn load<const N: usize>(&self, at: usize) -> Option<[u8; N]>;

    /// The `N` words at `at`, little-endian, if there are so many octets. What is read octet by octet, the
    /// compiler puts together in ways of its own.
    fn words<const N: usize>(&self, at: usize) -> Option<[u32; N]>;

    /// The same for a header that begins a multiple of four octets from where the IP header does: the one
    /// place whose alignment a verifier can know.
    #[inline(always)]
    fn header<const N: usize>(&self, at: usize) -> Option<[u32; N]> {
        self.words(at)
    }

    /// Octets that mostly, but not always, begin like that.
    #[inline(always)]
    fn often_header<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.load(at)
    }

    /// Octets that few packets need. In the kernel it is a call, which costs more time, and
    /// leaves the verifier fewer paths to follow.
    #[inline(always)]
    fn copy<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.load(at)
    }

    /// Octets that packets need which are answered. In the kernel they are read where they lie if that is one
    /// read, else by a call as well.
    #[inline(always)]
    fn fetch<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.copy(at)
    }

    /// Returns `at`. In the kernel it also makes the verifier forget how `at` came about, so that
    /// paths that differ in it alone meet again and are not followed one by one to the end.
    #[inline(always)]
    fn settle(&self, at: usize) -> usize {
        at
    }

    /// The same for a place that no path knows for certain: bounds are all that the verifier has to forget,
    /// which costs less.
    #[inline(always)]
    fn bound(&self, at: usize) -> usize {
        at
    }

    /// Returns `word`. In the kernel it also makes the verifier forget what it knew of it, to the
    /// same end.
    #[inline(always)]
    fn forget(&self, word: u64) -> u64 {
        word
    }
}

/// What the daemon has told whoever classifies, and what he has counted himself.
pub trait Knowledge {
    /// The flags of [`crate::maps::Config`].
    fn flags(&self) -> u64;
    /// The level of defence.
    fn level(&self) -> Level;
    /// The keys of a key id, where they lie: of most packets no more than one is asked for.
    fn ticket_keys(&self, key_id: u8) -> Option<&TicketKeySlot>;
    /// `k_spi`, by slot.
    fn spi_key(&self, slot: u32) -> Option<SipKey>;
    /// `k_cookie`, by epoch.
    fn cookie_key(&self, epoch: u8) -> Option<SipKey>;
    /// What an address, IPv4 mapped into IPv6, is to us: [`crate::maps::OUR_ADDRESS`],
    /// [`crate::maps::NEVER_ANSWERED`].
    fn address(&self, address: &[u8; 16]) -> u64;
    /// The same of where a packet comes from, which is seldom where the last one did.
    fn sender(&self, address: &[u8; 16]) -> u64 {
        self.address(address)
    }
    /// How an operator wants those at an address to be treated. Asked only if there are such rules, by the
    /// flags.
    fn rule(&self, address: &[u8; 16]) -> Option<Rule>;
    /// The boot clock, in nanoseconds.
    fn now(&self) -> u64;
    /// The same, or as it was a few milliseconds ago: for what has proved nothing, and is to cost as
    /// little as can be.
    fn roughly_now(&self) -> u64 {
        self.now()
    }
    /// The same in seconds; to be asked behind [`Knowledge::roughly_now`].
    fn seconds(&self) -> u64 {
        self.roughly_now() / SECOND
    }
    /// Whether there is a key for the cookies of that moment.
    fn makes_cookies(&self) -> bool {
        self.cookie_key(cookie::epoch_at(self.seconds())).is_some()
    }
    /// What the cookies of that moment begin with at an address; `None` without a key.
    #[inline(always)]
    fn begin(&self, destination_digest: u64) -> Option<Begun> {
        let seconds = self.seconds();
        let epoch = cookie::epoch_at(seconds);
        let head = cookie::head_of(epoch, self.level() as u8, seconds as u16, [0; 4]);
        Some(Begun::new(
            head,
            destination_digest,
            &self.cookie_key(epoch)?,
        ))
    }
    /// The cookie that is made for a message at that moment.
    fn cookie_for(&self, input: &CookieInput) -> Option<[u8; COOKIE_LEN]> {
        Some(self.begin(input.destination_digest)?.make(input))
    }
    /// When the daemon last said that it lives, on the same clock.
    fn last_beat(&self) -> u64;
    /// Nanoseconds from the boot clock to the wall's; `None` while that is not sound.
    fn wall_minus_boot(&self) -> Option<u64>;
    /// The node in our SPIs and tickets.
    fn node(&self) -> u8;
    /// A word of the [`board`]; 0 without one.
    fn board(&self, word: u32) -> u64;
    /// Changes a word of the board.
    fn set_board(&self, word: u32, value: u64);
    /// Of everything whose place among others nobody is to foresee.
    fn meter_key(&self) -> SipKey;
    /// Takes one of a budget, if there is one left.
    fn spend(&self, budget: Budget, now: u64) -> bool;
    /// Charges one event to a meter: whether it is within its limit. The hash of what it is about
    /// is one that nobody can foresee.
    fn charge(&self, meter: Meter, hash: u64, now: u64) -> bool;
}

/// A frame of a device of layer 3, such as a tunnel.
#[derive(Clone, Copy, Debug)]
pub struct Bare<'a, F: ?Sized>(pub &'a F);

impl<F: Frame + ?Sized> Frame for Bare<'_, F> {
    const BARE: bool = true;

    #[inline(always)]
    fn octets(&self) -> usize {
        self.0.octets()
    }

    #[inline(always)]
    fn load<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.0.load(at)
    }

    #[inline(always)]
    fn words<const N: usize>(&self, at: usize) -> Option<[u32; N]> {
        self.0.words(at)
    }

    #[inline(always)]
    fn copy<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.0.copy(at)
    }

    #[inline(always)]
    fn settle(&self, at: usize) -> usize {
        self.0.settle(at)
    }

    #[inline(always)]
    fn bound(&self, at: usize) -> usize {
        self.0.bound(at)
    }

    #[inline(always)]
    fn forget(&self, word: u64) -> u64 {
        self.0.forget(word)
    }
}

impl Frame for [u8] {
    fn octets(&self) -> usize {
        self.len()
    }

    fn load<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.get(at..)?.first_chunk().copied()
    }

    fn words<const N: usize>(&self, at: usize) -> Option<[u32; N]> {
        let (words, _) = self.get(at..)?.as_chunks();
        let words: &[_; N] = words.first_chunk()?;
        Some(words.map(u32::from_le_bytes))
    }
}

/// A verdict, and the answer that belongs to [`Verdict::Reply`].
#[derive(Clone, Copy, Debug)]
pub struct Judgement {
    /// What becomes of the frame.
    pub verdict: Verdict,
    /// What to turn it into, if that is a reply.
    pub reply: Reply,
}

impl From<Verdict> for Judgement {
    #[inline(always)]
    fn from(verdict: Verdict) -> Self {
        Self {
            verdict,
            reply: Reply::NONE,
        }
    }
}

/// Judges a frame from its Ethernet header on, or from its IP header on if it is [`Bare`].
#[inline(always)]
pub fn classify<F: Frame + ?Sized, K: Knowledge>(frame: &F, known: &K) -> Judgement {
    let located = match locate::locate(frame, known) {
        Ok(located) => located,
        Err(verdict) => return unless_asleep(verdict, known).into(),
    };
    let located = locate::Located {
        ip: located.ip,
        ip_len: frame.settle(located.ip_len),
        message: Span {
            at: frame.bound(located.message.at),
            len: frame.bound(located.message.len),
        },
    };
    match open(frame, located.message) {
        // The two exchanges go the same way from here on.
        Ok(Opening::First(header)) => {
            let header = Header {
                facts: frame.forget(header.facts),
                ..header
            };
            first::judge(frame, &located, &header, known)
        }
        Ok(Opening::Ours(spi)) => unless_asleep(own_spi(spi, known), known).into(),
        Err(verdict) => unless_asleep(verdict, known).into(),
    }
}

/// A stretch of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Where it begins.
    pub at: usize,
    /// How many octets it has.
    pub len: usize,
}

/// What a message claims to be by its header.
enum Opening {
    /// A first message.
    First(Header),
    /// One of an SA of ours, under this SPI.
    Ours(OurSpi),
}

/// Reads a header whose shape is right.
#[inline(always)]
fn open<F: Frame + ?Sized>(frame: &F, message: Span) -> Result<Opening, Verdict> {
    let Some([i0, i1, r0, r1, kind, message_id, length]) = frame.header(message.at) else {
        return Err(Verdict::Drop(Reason::Truncated));
    };
    let header = Header {
        spi_i: OurSpi(doubled(i0, i1).swap_bytes()),
        facts: doubled(kind, message_id),
    };
    // All at once: what it is instead is found out where that is asked.
    let is_first = message.len >= HEADER_LEN
        && length.swap_bytes() as usize == message.len
        && header.facts & FIRST_MASK == FIRST
        && i0 | i1 != 0
        && r0 | r1 == 0;
    if !is_first {
        return otherwise(&header, doubled(r0, r1), length.swap_bytes(), message);
    }
    match header.exchange() {
        IKE_SA_INIT if header.next_payload() != PAYLOAD_NONE => Ok(Opening::First(header)),
        IKE_SA_INIT => Err(Verdict::Drop(Reason::PayloadShape)),
        IKE_SESSION_RESUME => Ok(Opening::First(header)),
        _ => Err(Verdict::Drop(Reason::NotFirst)),
    }
}

/// Of a header that is not a first message's: whose it is, or what is wrong with it.
#[inline(always)]
fn otherwise(header: &Header, spi_r: u64, length: u32, message: Span) -> Result<Opening, Verdict> {
    Err(Verdict::Drop(if message.len < HEADER_LEN {
        Reason::Truncated
    } else if header.version() >> 4 != MAJOR_VERSION {
        Reason::Version
    } else if length as usize != message.len {
        Reason::Length
    } else if header.spi_i.0 == 0 {
        Reason::ZeroSpi
    } else if header.flags() & FLAG_INITIATOR == 0 {
        return Ok(Opening::Ours(header.spi_i));
    } else if spi_r != 0 {
        return Ok(Opening::Ours(OurSpi(spi_r.swap_bytes())));
    } else {
        Reason::NotFirst
    }))
}

/// The gate outlives its daemon, but not for ever. The clock is read only where it can matter.
#[inline(always)]
fn unless_asleep<K: Knowledge>(verdict: Verdict, known: &K) -> Verdict {
    if matches!(verdict, Verdict::Pass(_)) {
        return verdict;
    }
    if silence(known.roughly_now(), known) > ASLEEP_AFTER {
        return Verdict::Pass(Reason::GateAsleep);
    }
    verdict
}

/// Nanoseconds since the daemon was last heard of. A beat from another CPU may be a little ahead of the
/// clock read here, so they may be fewer than none.
#[inline(always)]
fn silence<K: Knowledge>(now: u64, known: &K) -> i64 {
    now.wrapping_sub(known.last_beat()).cast_signed()
}

/// Of a packet for an SA of ours: whether there is one.
#[inline(always)]
fn own_spi<K: Knowledge>(spi: OurSpi, known: &K) -> Verdict {
    let flags = known.flags();
    if flags & CHECK_OWN_SPI == 0 {
        return Verdict::Pass(Reason::OwnSpiUnchecked);
    }
    match check_is_right(spi, known) {
        Some(true) if may_be_live(spi, known) => Verdict::Pass(Reason::OwnSpi),
        Some(true) => within(Budget::DeadSpi, Reason::OwnSpiDead, Reason::DeadSpi, known),
        Some(false) if flags & MASQUERADES == 0 => Verdict::Drop(Reason::ForeignSpi),
        Some(false) => within(
            Budget::ForeignSpi,
            Reason::Masqueraded,
            Reason::ForeignSpi,
            known,
        ),
        None => Verdict::Pass(Reason::OwnSpiUnchecked),
    }
}

/// Whether an SPI has the check of one of our keys; `None` while there is none.
#[inline(always)]
fn check_is_right<K: Knowledge>(spi: OurSpi, known: &K) -> Option<bool> {
    let mut any_key = None;
    for slot in 0..SPI_KEYS_ENTRIES as u32 {
        let Some(key) = known.spi_key(slot) else {
            continue;
        };
        if spi.check_is_right(&key) {
            return Some(true);
        }
        any_key = Some(false);
    }
    any_key
}

/// Whether an SPI of ours belongs to an SA, as far as the board can tell.
#[inline(always)]
fn may_be_live<K: Knowledge>(spi: OurSpi, known: &K) -> bool {
    known.flags() & CHECK_LIVE_SPI == 0 || is_set(board::live_bit(spi), known)
}

/// Passes what a budget has room for.
#[inline(always)]
fn within<K: Knowledge>(budget: Budget, pass: Reason, over: Reason, known: &K) -> Verdict {
    if known.spend(budget, known.roughly_now()) {
        Verdict::Pass(pass)
    } else {
        Verdict::Drop(over)
    }
}

#[inline(always)]
fn is_set<K: Knowledge>(bit: Bit, known: &K) -> bool {
    known.board(bit.word) & bit.mask != 0
}

/// A double word from its two words, all little-endian.
#[inline(always)]
const fn doubled(low: u32, high: u32) -> u64 {
    low as u64 | (high as u64) << 32
}

/// What of [`Header::facts`] all first messages have alike: version, flags, and message ID 0 (RFC 7296,
/// 2.2), retries with a cookie too. A response is none of them: it is never answered.
const FIRST_MASK: u64 = u64::from_le_bytes([
    0,
    0xf0,
    0,
    FLAG_INITIATOR | FLAG_RESPONSE,
    0xff,
    0xff,
    0xff,
    0xff,
]);
const FIRST: u64 = u64::from_le_bytes([0, MAJOR_VERSION << 4, 0, FLAG_INITIATOR, 0, 0, 0, 0]);

/// What of an IKE header is asked for more than once.
struct Header {
    spi_i: OurSpi,
    /// The four octets behind the SPIs and the message ID, as one little-endian word: taken apart, the
    /// compiler would read them one by one.
    facts: u64,
}

impl Header {
    #[inline(always)]
    const fn next_payload(&self) -> u8 {
        self.facts as u8
    }

    #[inline(always)]
    const fn version(&self) -> u8 {
        (self.facts >> 8) as u8
    }

    #[inline(always)]
    const fn exchange(&self) -> u8 {
        (self.facts >> 16) as u8
    }

    #[inline(always)]
    const fn flags(&self) -> u8 {
        (self.facts >> 24) as u8
    }
}
