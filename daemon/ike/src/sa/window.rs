//! Message IDs and retransmission (RFC 7296, 2.1 to 2.3), with a window of one in each direction.

use std::time::Duration;

/// How long to wait after each sending of a request before the next; after the last one the peer is
/// taken for dead. RFC 7296, 2.4 leaves the figures to us; these add up to a bit over half a minute.
pub const RETRANSMIT_AFTER: [Duration; 7] = [
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
    Duration::from_secs(8),
    Duration::from_secs(8),
];

/// One IKE message as datagrams: itself, or its fragments in their order (RFC 7383).
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Datagrams(Vec<Vec<u8>>);

impl From<Vec<u8>> for Datagrams {
    fn from(message: Vec<u8>) -> Self {
        Self(vec![message])
    }
}

impl From<Vec<Vec<u8>>> for Datagrams {
    fn from(fragments: Vec<Vec<u8>>) -> Self {
        Self(fragments)
    }
}

impl Datagrams {
    /// No message at all.
    #[must_use]
    pub const fn none() -> Self {
        Self(Vec::new())
    }

    /// Whether there is no message.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The datagrams, in order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().map(Vec::as_slice)
    }

    /// The message, which is in one piece: it was sent in clear.
    #[must_use]
    pub fn into_message(self) -> Vec<u8> {
        self.0.into_iter().next().unwrap_or_default()
    }
}

/// A request on its way. Retransmissions are bitwise identical (RFC 7296, 2.1).
#[derive(Debug)]
pub struct Outstanding {
    /// It as it is sent.
    pub message: Datagrams,
    sent: usize,
    next: Duration,
}

/// What a due [`Outstanding`] asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Due {
    /// Nothing yet.
    Wait,
    /// Send it again.
    Resend,
    /// Give up.
    Dead,
}

impl Outstanding {
    /// A request that has just been sent for the first time.
    #[must_use]
    pub fn new(message: Datagrams, now: Duration) -> Self {
        let [first, ..] = RETRANSMIT_AFTER;
        Self {
            message,
            sent: 1,
            next: now + first,
        }
    }

    /// How often it has been sent.
    #[must_use]
    pub const fn sent(&self) -> usize {
        self.sent
    }

    /// Begins anew, for the way to the peer is another one: to be sent now.
    pub fn start_over(&mut self, now: Duration) -> Datagrams {
        *self = Self::new(std::mem::take(&mut self.message), now);
        self.message.clone()
    }

    /// When to call [`Self::due`].
    #[must_use]
    pub const fn deadline(&self) -> Duration {
        self.next
    }

    /// Whether it is time, and for what.
    pub fn due(&mut self, now: Duration) -> Due {
        if now < self.next {
            return Due::Wait;
        }
        let Some(wait) = RETRANSMIT_AFTER.get(self.sent) else {
            return Due::Dead;
        };
        self.sent += 1;
        self.next = now + *wait;
        Due::Resend
    }
}

/// Message IDs of an established IKE SA.
#[derive(Debug)]
pub struct Window {
    /// ID of our next request.
    pub next_request: u32,
    /// ID of the peer's next request.
    pub expected: u32,
    /// Our answer to the peer's last request, for its retransmission.
    pub last_response: Datagrams,
}

/// What a request's message ID says about it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Arrival {
    /// The one we wait for.
    New,
    /// The one we answered last: the answer was lost.
    Repeated,
    /// Outside the window.
    Stray,
}

impl Window {
    /// Classifies a request's message ID.
    #[must_use]
    pub const fn arrival(&self, message_id: u32) -> Arrival {
        if message_id == self.expected {
            Arrival::New
        } else if message_id.wrapping_add(1) == self.expected && !self.last_response.is_empty() {
            Arrival::Repeated
        } else {
            Arrival::Stray
        }
    }

    /// Remembers the answer to the expected request and waits for the next one.
    pub fn answered(&mut self, response: Datagrams) {
        self.expected = self.expected.wrapping_add(1);
        self.last_response = response;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_repeated_six_times_and_then_given_up() {
        let mut outstanding = Outstanding::new(vec![1].into(), Duration::ZERO);
        let mut resent = 0;
        loop {
            let at = outstanding.deadline();
            assert_eq!(
                outstanding.due(at.saturating_sub(Duration::from_millis(1))),
                Due::Wait
            );
            match outstanding.due(at) {
                Due::Resend => resent += 1,
                Due::Dead => break,
                Due::Wait => unreachable!("due at its own deadline"),
            }
        }
        assert_eq!(resent, RETRANSMIT_AFTER.len() - 1);
    }

    #[test]
    fn only_the_expected_and_the_last_request_are_in_the_window() {
        let mut window = Window {
            next_request: 0,
            expected: 2,
            last_response: Datagrams::none(),
        };
        assert_eq!(window.arrival(1), Arrival::Stray, "no answer kept yet");
        window.answered(vec![1].into());
        assert_eq!(window.arrival(3), Arrival::New);
        assert_eq!(window.arrival(2), Arrival::Repeated);
        assert_eq!(window.arrival(4), Arrival::Stray);
        assert_eq!(window.arrival(1), Arrival::Stray);
    }
}
