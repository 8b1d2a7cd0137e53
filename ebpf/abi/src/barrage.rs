//! What a benchmark tells the program that sends copies of a frame as fast as it can, or at a pace.

/// Array of one [`Barrage`].
pub const BARRAGE: &str = "BARRAGE";
/// Program: makes a live frame a fresh copy, and sends it.
pub const GENERATE: &str = "generate";
/// Octets of the longest frame; a power of two.
pub const MAX_FRAME: usize = 512;
/// Places where copies differ.
pub const FRESH: usize = 4;
/// Words of a frame, and one more for what is written across its end.
const FRAME_WORDS: usize = MAX_FRAME / 8 + 1;

/// A frame, how its copies differ, and how fast they leave.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Barrage {
    /// Octets of the frame.
    pub octets: u64,
    /// The IPv4 source of the frame.
    pub source: u64,
    /// Which bits of it differ from copy to copy.
    pub source_mask: u64,
    /// What the IPv4 header's 16-bit words add up to without source and checksum.
    pub header_sum: u64,
    /// Where eight octets differ from copy to copy; 0 is nowhere.
    pub fresh: [u64; FRESH],
    /// The state of chance.
    pub chance: u64,
    /// Nanoseconds from one copy to the next; 0 is as fast as it goes.
    pub gap: u64,
    /// When the next is due, on the boot clock.
    pub due: u64,
    /// Copies so far.
    pub made: u64,
    /// Not 0: copies are made, and none is sent.
    pub kept: u64,
    /// The frame, and zeros.
    pub frame: [u64; FRAME_WORDS],
}

impl Barrage {
    /// How many words it has.
    pub const WORDS: usize = size_of::<Self>() / 8;

    /// Copies of an IPv4 frame without VLAN tags and IP options; `None` if it is too long for that, or
    /// too short. Its UDP checksum has to be zero, which means that there is none.
    #[must_use]
    pub fn of(frame: &[u8], fresh: [usize; FRESH], source_mask: u32) -> Option<Self> {
        let mut octets = [0; FRAME_WORDS * 8];
        octets
            .get_mut(..MAX_FRAME)?
            .get_mut(..frame.len())?
            .copy_from_slice(frame);
        let header = frame.get(IP..IP + IP_LEN)?;
        let (words, _) = header.as_chunks::<2>();
        let told = words
            .iter()
            .enumerate()
            .filter(|(at, _)| !SUMMED_LATER.contains(at));
        let header_sum = told
            .map(|(_, word)| u64::from(u16::from_be_bytes(*word)))
            .sum();
        let source = header.get(12..)?.first_chunk::<4>()?;
        let (chunks, _) = octets.as_chunks::<8>();
        let mut words = [0; FRAME_WORDS];
        for (word, chunk) in words.iter_mut().zip(chunks) {
            *word = u64::from_ne_bytes(*chunk);
        }
        Some(Self {
            octets: frame.len() as u64,
            source: u64::from(u32::from_be_bytes(*source)),
            source_mask: u64::from(source_mask),
            header_sum,
            fresh: fresh.map(|at| at as u64),
            chance: 0,
            gap: 0,
            due: 0,
            made: 0,
            kept: 0,
            frame: words,
        })
    }

    /// The value as it is written to the map.
    #[must_use]
    pub fn words(&self) -> [u64; Self::WORDS] {
        let mut words = [0; Self::WORDS];
        let head = [self.octets, self.source, self.source_mask, self.header_sum];
        let rest = [self.chance, self.gap, self.due, self.made, self.kept];
        let all = head
            .iter()
            .chain(&self.fresh)
            .chain(&rest)
            .chain(&self.frame);
        for (word, value) in words.iter_mut().zip(all) {
            *word = *value;
        }
        words
    }

    /// Which of the words counts the copies.
    pub const MADE: usize = core::mem::offset_of!(Self, made) / 8;
}

const IP: usize = 14;
const IP_LEN: usize = 20;
/// Among the 16-bit words of the IPv4 header: checksum, and source.
const SUMMED_LATER: [usize; 3] = [5, 6, 7];
