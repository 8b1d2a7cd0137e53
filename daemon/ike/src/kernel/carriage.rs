//! How the kernel carries a Child SA. The mode both sides have agreed on; all the rest is this host's own
//! affair, which the peer never learns.

/// What of a packet ESP protects (RFC 4303, 3.1).
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Mode {
    /// All of it, in a packet between the two peers.
    #[default]
    Tunnel,
    /// What follows its IP header; only between the two peers themselves.
    Transport,
}

impl Mode {
    /// Lower-case word for configuration and JSON.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Tunnel => "tunnel",
            Self::Transport => "transport",
        }
    }
}

/// A firewall mark and the bits of it that count; mask 0 is none.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Mark {
    /// Value.
    pub value: u32,
    /// Bits that count.
    pub mask: u32,
}

/// One for each direction.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Ways<T> {
    /// Of what the peer sends.
    pub inbound: T,
    /// Of what we send.
    pub outbound: T,
}

/// Which of the two headers' service classes goes into the other one (RFC 4301, 5.1.2).
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum CopyDscp {
    /// The inner one into the outer one.
    #[default]
    Out,
    /// The outer one into the inner one.
    In,
    /// Both.
    Both,
    /// Neither.
    Neither,
}

/// What a network card may do of it.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Offload {
    /// Nothing.
    #[default]
    None,
    /// The cipher, if it can; else the kernel does it.
    Crypto,
    /// The whole packet; refused if it cannot.
    Packet,
}

/// Octets or packets that a state may carry; 0 for any number.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Volume {
    /// The kernel says when so much is reached: new keys are due.
    pub rekey: u64,
    /// The kernel ends the state when so much is reached.
    pub life: u64,
}

/// Packets by which the replay window is wide at least and at most, and unless said otherwise.
pub const REPLAY_WINDOW: (u32, u32, u32) = (32, 4096, 128);

/// How one Child SA's states and policies are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Carriage {
    /// What ESP protects.
    pub mode: Mode,
    /// The xfrm interface whose packets it is for; 0 for none.
    pub if_id: Ways<u32>,
    /// Which packets it is for, by their firewall mark.
    pub mark: Ways<Mark>,
    /// What a packet is marked with once it is decrypted or encrypted.
    pub set_mark: Ways<Mark>,
    /// Whether the outer header takes over "do not fragment" (RFC 4301, 8.1).
    pub copy_df: bool,
    /// Whether congestion marks go from header to header (RFC 6040).
    pub copy_ecn: bool,
    /// Service classes.
    pub copy_dscp: CopyDscp,
    /// Packets by which an old one may come late.
    pub replay_window: u32,
    /// Largest segment, in octets, that TCP of this host offers to whom routes of ours lead; 0 for what the
    /// kernel takes.
    pub mss: u16,
    /// Whether this host's own packets to the peer's networks leave from an address of its own in those that
    /// the tunnel is for, if it has one.
    pub source_route: bool,
    /// What a network card may do.
    pub offload: Offload,
    /// Octets of each state, without the outer headers.
    pub bytes: Volume,
    /// Packets of each state.
    pub packets: Volume,
}

impl Default for Carriage {
    fn default() -> Self {
        let (_, _, replay_window) = REPLAY_WINDOW;
        Self {
            mode: Mode::Tunnel,
            if_id: Ways::default(),
            mark: Ways::default(),
            set_mark: Ways::default(),
            copy_df: true,
            copy_ecn: true,
            copy_dscp: CopyDscp::Out,
            replay_window,
            mss: 0,
            source_route: true,
            offload: Offload::None,
            bytes: Volume::default(),
            packets: Volume::default(),
        }
    }
}
