//! Why a frame passed, was answered or was dropped. A reason's number is its place in the counters.

use crate::defence::Budget;

/// What the gate does with a frame, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on to the kernel's own stack.
    Pass(Reason),
    /// It goes back to where it came from, as an answer.
    Reply(Reason),
    /// It ends here.
    Drop(Reason),
}

impl Verdict {
    /// The reason alone.
    #[inline(always)]
    #[must_use]
    pub const fn reason(self) -> Reason {
        match self {
            Self::Pass(reason) | Self::Reply(reason) | Self::Drop(reason) => reason,
        }
    }
}

macro_rules! reasons {
    ($($(#[$doc:meta])+ $reason:ident = $name:literal,)+) => {
        /// Why. Every reason belongs to one verdict alone.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum Reason {
            $($(#[$doc])+ $reason,)+
        }

        impl Reason {
            /// All of them, in the order of the counters.
            pub const ALL: &[Self] = &[$(Self::$reason,)+];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The name an operator sees.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$reason => $name,)+
                }
            }

            /// The one verdict this is a reason for: those to pass come first, those to drop last.
            #[must_use]
            pub const fn verdict(self) -> Verdict {
                if (self as u32) < Self::CookieSaInit as u32 {
                    Verdict::Pass(self)
                } else if (self as u32) < Self::Keepalive as u32 {
                    Verdict::Reply(self)
                } else {
                    Verdict::Drop(self)
                }
            }
        }
    };
}

reasons! {
    /// Pass: nothing of ours: another protocol, another port, or not readable as IP.
    NotIke = "not_ike",
    /// Pass: our ports, but not an address of ours.
    NotLocal = "not_local",
    /// Pass: ESP, bare or in UDP, which the kernel's xfrm owns.
    Esp = "esp",
    /// Pass: a UDP fragment towards us.
    Fragment = "fragment",
    /// Pass: IPv4 options or IPv6 extension headers towards us.
    Options = "options",
    /// Pass: an SPI of ours, with the right check.
    OwnSpi = "own_spi",
    /// Pass: an SPI of ours that is not live: the peer may learn that from us.
    OwnSpiDead = "own_spi_dead",
    /// Pass: an SPI that would have to be ours; the check is off, or there is no key yet.
    OwnSpiUnchecked = "own_spi_unchecked",
    /// Pass: an SPI that is not ours, while we masquerade the IKE of others.
    Masqueraded = "masqueraded",
    /// Pass: IKE_SA_INIT.
    SaInit = "sa_init",
    /// Pass: IKE_SA_INIT with a good cookie, where one was needed.
    SaInitWithCookie = "sa_init_with_cookie",
    /// Pass: the repetition of a first message that was taken without a cookie.
    Repetition = "repetition",
    /// Pass: IKE_SESSION_RESUME with a ticket of ours.
    ResumeProven = "resume_proven",
    /// Pass: the same with a good cookie, where one was needed.
    ResumeWithCookie = "resume_with_cookie",
    /// Pass: IKE_SESSION_RESUME while no ticket key is set.
    ResumeUnchecked = "resume_unchecked",
    /// Pass: IKE_SESSION_RESUME without a ticket among its first payloads.
    TicketNotFound = "ticket_not_found",
    /// Pass: IKE_SA_INIT from a network that is allowed, which would have needed a cookie.
    Allowed = "allowed",
    /// Pass: IKE_SESSION_RESUME to be answered, on a device of layer 3, where the gate cannot send.
    LeftToDaemon = "left_to_daemon",
    /// Pass: the daemon has been silent for so long that the gate judges no more.
    GateAsleep = "gate_asleep",
    /// Reply: COOKIE to IKE_SA_INIT.
    CookieSaInit = "cookie_sa_init",
    /// Reply: COOKIE to IKE_SESSION_RESUME with a ticket of ours.
    CookieResume = "cookie_resume",
    /// Reply: TICKET_NACK to a ticket of an epoch whose key is gone or never was.
    NackUnknownKeyId = "nack_unknown_key_id",
    /// Reply: TICKET_NACK to a forged ticket.
    NackTagWrong = "nack_tag_wrong",
    /// Reply: TICKET_NACK to a genuine ticket whose time is over.
    NackExpired = "nack_expired",
    /// Reply: TICKET_NACK to a genuine ticket that has opened a session before.
    NackUsed = "nack_used",
    /// Reply: TICKET_NACK to a genuine ticket whose client cannot answer the COOKIE that is needed.
    NackNoCookie = "nack_no_cookie",
    /// Drop: a NAT keepalive, which has done its work on the way here.
    Keepalive = "keepalive",
    /// Drop: a datagram shorter than its own headers say, or too short for IKE.
    Truncated = "truncated",
    /// Drop: not IKE version 2.
    Version = "version",
    /// Drop: the length in the IKE header is not that of the datagram.
    Length = "length",
    /// Drop: an initiator's SPI of zero.
    ZeroSpi = "zero_spi",
    /// Drop: no responder's SPI, and yet not a first message.
    NotFirst = "not_first",
    /// Drop: an SPI that would have to be ours and fails its check.
    ForeignSpi = "foreign_spi",
    /// Drop: an SPI of ours that is not live, beyond what is told so.
    DeadSpi = "dead_spi",
    /// Drop: a UDP fragment towards us, beyond what the level allows.
    FragmentOver = "fragment_over",
    /// Drop: options or extension headers towards us, beyond what the level allows.
    OptionsOver = "options_over",
    /// Drop: a payload chain that does not fit the message.
    PayloadShape = "payload_shape",
    /// Drop: a resumption whose payloads end without a ticket.
    NoTicket = "no_ticket",
    /// Drop: two tickets in one message.
    TwoTickets = "two_tickets",
    /// Drop: two cookies in one message.
    TwoCookies = "two_cookies",
    /// Drop: a ticket longer or shorter than any of ours.
    TicketLength = "ticket_length",
    /// Drop: an envelope of a kind, version or flag that we never issued.
    EnvelopeShape = "envelope_shape",
    /// Drop: a ticket of an epoch whose key is gone or never was, beyond what is answered.
    UnknownKeyId = "unknown_key_id",
    /// Drop: a forged ticket, beyond what is answered.
    TagWrong = "tag_wrong",
    /// Drop: a genuine ticket whose time is over, beyond what is answered.
    Expired = "expired",
    /// Drop: a genuine ticket that has opened a session before, beyond what is answered.
    Used = "used",
    /// Drop: IKE_SESSION_RESUME with a ticket of ours that would need a cookie, beyond what is
    /// answered, or without a nonce to bind it to.
    ResumeCookieNeeded = "resume_cookie_needed",
    /// Drop: IKE_SA_INIT that would need a cookie, beyond what is answered.
    CookieNeeded = "cookie_needed",
    /// Drop: a good cookie that was shown too often.
    CookieOverused = "cookie_overused",
    /// Drop: one ticket from one network, with good cookies and too often.
    TicketOverused = "ticket_overused",
    /// Drop: good cookies of one network in too great a number.
    NetworkOverused = "network_overused",
    /// Drop: IKE_SA_INIT that would need a cookie, without a nonce to bind it to.
    NoNonce = "no_nonce",
    /// Drop: a cookie would be needed, and the ticket to bind it to is not among the first payloads.
    TicketTooDeep = "ticket_too_deep",
    /// Drop: a first message while the daemon is silent.
    DaemonSilent = "daemon_silent",
    /// Drop: from a network that is denied.
    Denied = "denied",
}

impl Reason {
    /// The budget that a reply for this reason comes out of.
    #[inline(always)]
    #[must_use]
    pub const fn budget(self) -> Budget {
        match self {
            Self::NackUnknownKeyId => Budget::UnknownKeyId,
            Self::NackTagWrong => Budget::TagWrong,
            Self::NackExpired | Self::NackUsed | Self::NackNoCookie => Budget::Expired,
            _ => Budget::Cookie,
        }
    }

    /// What a reply is counted as that was not sent.
    #[inline(always)]
    #[must_use]
    pub const fn unanswered(self) -> Self {
        match self {
            Self::NackUnknownKeyId => Self::UnknownKeyId,
            Self::NackTagWrong => Self::TagWrong,
            Self::NackExpired => Self::Expired,
            Self::NackUsed => Self::Used,
            Self::CookieResume | Self::NackNoCookie => Self::ResumeCookieNeeded,
            _ => Self::CookieNeeded,
        }
    }

    /// Whether it is of a first message that has proved nothing, whatever became of that: the level
    /// of defence follows how many they are. What is one at a lower level is one at a higher, or
    /// the level would end while they still come; what is none stays none, or those who come back
    /// by their tickets would hold the level up.
    #[must_use]
    pub const fn is_unproven(self) -> bool {
        match self {
            Self::SaInit
            | Self::CookieSaInit
            | Self::CookieNeeded
            | Self::NoNonce
            | Self::TicketNotFound
            | Self::TicketTooDeep
            | Self::Allowed => true,
            // No first messages.
            Self::NotIke
            | Self::NotLocal
            | Self::Esp
            | Self::Fragment
            | Self::FragmentOver
            | Self::Options
            | Self::OptionsOver
            | Self::Keepalive
            | Self::NotFirst
            | Self::OwnSpi
            | Self::OwnSpiDead
            | Self::OwnSpiUnchecked
            | Self::DeadSpi
            | Self::ForeignSpi
            | Self::Masqueraded
            // With a ticket of ours or a good cookie; what is repeated was counted when it first
            // came.
            | Self::ResumeProven
            | Self::ResumeWithCookie
            | Self::CookieResume
            | Self::NackExpired
            | Self::Expired
            | Self::NackUsed
            | Self::Used
            | Self::NackNoCookie
            | Self::ResumeCookieNeeded
            | Self::TicketOverused
            | Self::SaInitWithCookie
            | Self::CookieOverused
            | Self::NetworkOverused
            | Self::Repetition
            // With a ticket that the daemon is to judge, or to answer in the gate's place.
            | Self::ResumeUnchecked
            | Self::LeftToDaemon
            // Turned away at every level alike.
            | Self::Truncated
            | Self::Version
            | Self::Length
            | Self::ZeroSpi
            | Self::PayloadShape
            | Self::NoTicket
            | Self::TwoTickets
            | Self::TwoCookies
            | Self::TicketLength
            | Self::EnvelopeShape
            | Self::NackUnknownKeyId
            | Self::UnknownKeyId
            | Self::NackTagWrong
            | Self::TagWrong
            | Self::Denied
            // Nobody is there to choose a level.
            | Self::DaemonSilent
            | Self::GateAsleep => false,
        }
    }
}
