//! Networks from which nobody is heard: those of the configuration, for good, and those that an operator
//! has denied for a while. Only the keeper changes the list; the gate and every engine are told.

use std::time::Duration;

use gate_abi::denied::Prefix;

use super::protocol::{Denial, GateRefused};

/// Networks that operators can deny beside those of the configuration. The engine goes through all of them
/// for each datagram.
const MAX_FOR_A_WHILE: usize = 192;

/// The list.
#[derive(Debug, Default)]
pub(super) struct Denials {
    configured: Vec<Prefix>,
    /// Each with the time since boot at which it is heard again.
    for_a_while: Vec<(Prefix, Duration)>,
}

impl Denials {
    pub(super) fn new(configured: &[Prefix]) -> Self {
        Self {
            configured: configured.to_vec(),
            for_a_while: Vec::new(),
        }
    }

    /// Denies a network until then, also if it is denied already until another time.
    pub(super) fn deny(&mut self, network: Prefix, until: Duration) -> Result<(), GateRefused> {
        if self.configured.contains(&network) {
            return Err(GateRefused::Configured);
        }
        let room = self.for_a_while.len() < MAX_FOR_A_WHILE;
        let known = self.for_a_while.iter_mut().find(|(one, _)| *one == network);
        match known {
            Some((_, before)) => *before = until,
            None if room => self.for_a_while.push((network, until)),
            None => return Err(GateRefused::Full(MAX_FOR_A_WHILE)),
        }
        Ok(())
    }

    /// Hears a network again that an operator has denied.
    pub(super) fn undeny(&mut self, network: Prefix) -> Result<(), GateRefused> {
        if self.configured.contains(&network) {
            return Err(GateRefused::Configured);
        }
        let before = self.for_a_while.len();
        self.for_a_while.retain(|(one, _)| *one != network);
        if self.for_a_while.len() == before {
            return Err(GateRefused::NotDenied);
        }
        Ok(())
    }

    /// Hears those again whose time has come; whether there were any.
    pub(super) fn expire(&mut self, now: Duration) -> bool {
        let before = self.for_a_while.len();
        self.for_a_while.retain(|(_, until)| *until > now);
        self.for_a_while.len() < before
    }

    /// All of them, those of the configuration first.
    pub(super) fn all(&self, now: Duration) -> Vec<Denial> {
        let configured = self.configured.iter().map(|network| (*network, None));
        let for_a_while = self.for_a_while.iter();
        let for_a_while =
            for_a_while.map(|(network, until)| (*network, Some(until.saturating_sub(now))));
        configured
            .chain(for_a_while)
            .map(|(network, left)| Denial { network, left })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::network_from_text;

    fn network(text: &str) -> Prefix {
        network_from_text(text).expect(text)
    }

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn a_network_is_denied_until_its_time_has_come() {
        let mut list = Denials::new(&[network("203.0.113.0/24")]);
        let other = network("2001:db8::/32");
        assert_eq!(list.deny(other, seconds(10)), Ok(()));
        assert!(!list.expire(seconds(9)));
        let left: Vec<_> = list.all(seconds(9)).iter().map(|one| one.left).collect();
        assert_eq!(left, [None, Some(seconds(1))]);
        // Once more moves the time.
        assert_eq!(list.deny(other, seconds(20)), Ok(()));
        assert!(!list.expire(seconds(10)));
        assert!(list.expire(seconds(20)));
        assert_eq!(list.all(seconds(20)).len(), 1);
    }

    #[test]
    fn only_what_an_operator_has_denied_can_be_taken_back() {
        let configured = network("203.0.113.0/24");
        let mut list = Denials::new(&[configured]);
        assert_eq!(list.undeny(configured), Err(GateRefused::Configured));
        assert_eq!(
            list.deny(configured, seconds(1)),
            Err(GateRefused::Configured)
        );
        let other = network("198.51.100.7");
        assert_eq!(list.undeny(other), Err(GateRefused::NotDenied));
        assert_eq!(list.deny(other, seconds(1)), Ok(()));
        assert_eq!(list.undeny(other), Ok(()));
        assert_eq!(list.all(seconds(0)).len(), 1);
    }

    #[test]
    fn there_is_a_bound() {
        let mut list = Denials::default();
        let at = |number: usize| network(&format!("10.0.{}.{}", number / 256, number % 256));
        for number in 0..MAX_FOR_A_WHILE {
            assert_eq!(list.deny(at(number), seconds(1)), Ok(()));
        }
        let more = list.deny(at(MAX_FOR_A_WHILE), seconds(1));
        assert_eq!(more, Err(GateRefused::Full(MAX_FOR_A_WHILE)));
        assert_eq!(list.deny(at(0), seconds(2)), Ok(()), "is there already");
    }
}
