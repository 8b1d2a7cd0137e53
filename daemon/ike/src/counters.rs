//! Counts of what came in and was not acted on, one for each reason, so that noise and attacks can be
//! told apart without a log line for each packet.

use crate::wire::encrypted::OpenError;

macro_rules! counters {
    ($($(#[doc = $doc:literal])* $variant:ident => $word:literal,)*) => {
        /// A reason to do nothing with a message, or to refuse it.
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        pub enum Counter {
            $($(#[doc = $doc])* $variant,)*
        }

        impl Counter {
            /// All reasons, in the order they are shown.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Lower-case word for JSON and metrics.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }
        }
    };
}

counters! {
    /// No IKEv2 header, or one that contradicts itself.
    BadHeader => "bad_header",
    /// A payload chain that does not add up, or lacks what its exchange needs.
    BadPayloads => "bad_payloads",
    /// No SA has this SPI.
    UnknownSpi => "unknown_spi",
    /// Fits no state of its SA: a late repetition, or noise.
    Stray => "stray",
    /// Did not open under the SA's keys.
    BadIntegrity => "bad_integrity",
    /// A fragment of no message that is waited for, seen before, or of one that is too long.
    FragmentRefused => "fragment_refused",
    /// Made a message in fragments longer than any may be.
    FragmentsTooLong => "fragments_too_long",
    /// A request of an authenticated peer beyond what it may ask at a time; not answered, so that it comes
    /// again.
    TooFast => "too_fast",
    /// A request seen before, answered again from memory.
    Repeated => "repeated",
    /// Answered with COOKIE.
    CookieSent => "cookie_sent",
    /// Came with a cookie that is not ours, or too old.
    CookieWrong => "cookie_wrong",
    /// No slot left.
    Full => "full",
    /// Answered with NO_PROPOSAL_CHOSEN.
    NoProposal => "no_proposal",
    /// Answered with INVALID_KE_PAYLOAD.
    OtherGroup => "other_group",
    /// Was sent to another gateway (RFC 5685).
    Redirected => "redirected",
    /// Brought a ticket that is not honoured; answered with TICKET_NACK, within what a second allows.
    TicketRefused => "ticket_refused",
    /// Showed a ticket that was shown too often of late; asked for a cookie, or not answered at all.
    TicketHot => "ticket_hot",
    /// Half-open, and gave way to another when no slot was left.
    HalfOpenEvicted => "half_open_evicted",
    /// Half-open for too long.
    HalfOpenTimeout => "half_open_timeout",
    /// Answered with a token that proves the loss of an SA (RFC 6290).
    TokenSent => "token_sent",
    /// Answered with AUTHENTICATION_FAILED.
    AuthFailed => "auth_failed",
}

impl Counter {
    /// Why a protected message was not opened.
    pub(crate) const fn of(error: OpenError) -> Self {
        match error {
            OpenError::Shape(_) | OpenError::Corrupt => Self::BadIntegrity,
            OpenError::Unfit => Self::FragmentRefused,
            OpenError::TooLong => Self::FragmentsTooLong,
        }
    }
}

/// The counts.
#[derive(Clone, Debug, Default)]
pub struct Counters([u64; Counter::ALL.len()]);

impl Counters {
    pub(crate) fn add(&mut self, counter: Counter) {
        if let Some(count) = self.0.get_mut(counter as usize) {
            *count += 1;
        }
    }

    /// How often it happened since the start.
    #[must_use]
    pub fn count(&self, counter: Counter) -> u64 {
        self.0.get(counter as usize).copied().unwrap_or(0)
    }

    /// The sum of all counts.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}
