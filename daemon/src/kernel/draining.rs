//! Inbound states of a Child SA that another one has replaced. For a moment they still take what the peer
//! sent before it knew, or a resumption under load would lose a round trip of packets. Nothing is ever
//! sent by them, and their owner's policies let in what any state of its own has decrypted.

use std::{collections::VecDeque, time::Duration};

use super::tunnel::HeldState;

/// Long enough for our answer to reach the peer, and for what it has sent meanwhile to reach us.
const DRAIN: Duration = Duration::from_secs(1);
/// States that wait; of more than that the oldest go early.
const MAX_DRAINING: usize = 16_384;

/// A state that is to be deleted now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Going {
    pub(super) reqid: u32,
    pub(super) state: HeldState,
}

/// All that wait, oldest first.
#[derive(Debug, Default)]
pub(super) struct Draining(VecDeque<Waiting>);

#[derive(Debug)]
struct Waiting {
    reqid: u32,
    state: HeldState,
    /// Time since boot; set at the next tick.
    until: Option<Duration>,
}

impl Draining {
    /// Takes the states that an owner had before. Returns those that need not wait.
    pub(super) fn replaced(&mut self, reqid: u32, states: Vec<HeldState>) -> Vec<Going> {
        let (inbound, outbound): (Vec<_>, Vec<_>) =
            states.into_iter().partition(|state| state.inbound);
        let waiting = inbound.into_iter().map(|state| Waiting {
            reqid,
            state,
            until: None,
        });
        self.0.extend(waiting);
        let beyond = self.0.len().saturating_sub(MAX_DRAINING);
        let early = self.0.drain(..beyond).map(Waiting::going);
        let going = outbound.into_iter().map(|state| Going { reqid, state });
        going.chain(early).collect()
    }

    /// Those whose time is over.
    pub(super) fn over(&mut self, now: Duration) -> Vec<Going> {
        for waiting in &mut self.0 {
            waiting.until.get_or_insert(now + DRAIN);
        }
        // The oldest are in front.
        let late = |waiting: &Waiting| waiting.until.is_some_and(|until| until <= now);
        let count = self.0.iter().take_while(|waiting| late(waiting)).count();
        self.0.drain(..count).map(Waiting::going).collect()
    }

    /// All of one owner's that wait.
    pub(super) fn waiting(&self, reqid: u32) -> impl Iterator<Item = &HeldState> {
        let own = self.0.iter().filter(move |waiting| waiting.reqid == reqid);
        own.map(|waiting| &waiting.state)
    }

    /// All that wait.
    pub(super) fn all(&self) -> impl Iterator<Item = &HeldState> {
        self.0.iter().map(|waiting| &waiting.state)
    }

    /// Takes all of one owner's.
    pub(super) fn of(&mut self, reqid: u32) -> Vec<Going> {
        let mut going = Vec::new();
        self.0.retain(|waiting| {
            if waiting.reqid == reqid {
                going.push(Going {
                    reqid,
                    state: waiting.state,
                });
            }
            waiting.reqid != reqid
        });
        going
    }
}

impl Waiting {
    fn going(self) -> Going {
        let Self { reqid, state, .. } = self;
        Going { reqid, state }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::wire::StateId, *};

    fn state(spi: u32, inbound: bool) -> HeldState {
        let id = StateId {
            destination: [192, 0, 2, 1].into(),
            spi,
            mark: ike::kernel::Mark::default(),
        };
        HeldState { id, inbound }
    }

    #[test]
    fn what_sends_goes_at_once_and_what_receives_a_moment_later() {
        let mut draining = Draining::default();
        let at_once = draining.replaced(1, vec![state(256, true), state(257, false)]);
        assert_eq!(at_once.len(), 1);
        let start = Duration::from_secs(9);
        assert!(draining.over(start).is_empty());
        draining.replaced(2, vec![state(258, true)]);
        assert!(draining.over(start + DRAIN / 2).is_empty());
        assert_eq!(draining.over(start + DRAIN).len(), 1);
        assert_eq!((draining.of(1).len(), draining.of(2).len()), (0, 1));
        assert!(draining.over(start + 9 * DRAIN).is_empty());
    }

    #[test]
    fn no_more_wait_than_there_is_room_for() {
        let mut draining = Draining::default();
        for spi in 0..MAX_DRAINING as u32 {
            assert!(draining.replaced(spi, vec![state(spi, true)]).is_empty());
        }
        assert_eq!(draining.replaced(0, vec![state(9, true)]).len(), 1);
    }
}
