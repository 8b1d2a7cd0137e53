//! What a benchmark tells the program that runs the gate over a frame again and again. The kernel's
//! test run does not make a frame anew, so one that is answered has to be laid down again each time.

/// Array of one [`Again`].
pub const AGAIN: &str = "AGAIN";
/// Program: drops everything. What it costs is the unit of the others.
pub const EMPTY_DROP: &str = "empty_drop";
/// Program: lays the frame down, and judges it as the gate does.
pub const GATE_AGAIN: &str = "gate_again";
/// Program: lays the frame down and sends it.
pub const ONLY_AGAIN: &str = "only_again";
/// Octets of the longest frame.
pub const MAX_FRAME: usize = 512;
/// Words of a frame.
const FRAME_WORDS: usize = MAX_FRAME / 8;

/// A frame, and what becomes of its source.
#[repr(C)]
pub struct Again {
    /// Octets of the frame.
    pub octets: u64,
    /// Which bits of the IPv4 source differ from frame to frame.
    pub source_mask: u64,
    /// Frames so far, which chooses the source.
    pub count: u64,
    /// The frame, and zeros.
    pub frame: [u64; FRAME_WORDS],
}

impl Again {
    /// How many words it has.
    pub const WORDS: usize = 3 + FRAME_WORDS;

    /// The value as it is written to the map; `None` if the frame is too long.
    #[must_use]
    pub fn words(frame: &[u8], source_mask: u32) -> Option<[u64; Self::WORDS]> {
        let mut octets = [0; MAX_FRAME];
        octets.get_mut(..frame.len())?.copy_from_slice(frame);
        let mut words = [0; Self::WORDS];
        let told = [frame.len() as u64, u64::from(source_mask), 0];
        let (chunks, _) = octets.as_chunks::<8>();
        let frame = chunks.iter().map(|chunk| u64::from_ne_bytes(*chunk));
        for (word, value) in words.iter_mut().zip(told.into_iter().chain(frame)) {
            *word = value;
        }
        Some(words)
    }
}

const _: () = assert!(size_of::<Again>() == size_of::<[u64; Again::WORDS]>());
