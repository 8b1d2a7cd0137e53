//! Networks that an operator has judged beforehand: nobody is heard from them, or nobody there is asked for
//! a cookie as long as there is room.

use std::net::IpAddr;

use gate_abi::networks::{Prefix, Rule};

use super::cookie::mapped;

/// The rules. Of networks that lie in each other the narrower one counts.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Rules(Vec<(Prefix, Rule)>);

impl Rules {
    /// These.
    #[must_use]
    pub fn new(mut rules: Vec<(Prefix, Rule)>) -> Self {
        rules.sort_by_key(|(network, _)| u32::MAX - network.key().0);
        Self(rules)
    }

    /// How those at an address are treated.
    #[must_use]
    pub fn of(&self, address: IpAddr) -> Option<Rule> {
        if self.0.is_empty() {
            return None;
        }
        let address = mapped(address);
        let found = self.0.iter().find(|(network, _)| network.has(&address));
        found.map(|(_, rule)| *rule)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_networks_that_lie_in_each_other_the_narrower_one_counts() {
        let network = |address: &str, bits| {
            let address = address.parse::<IpAddr>().expect("an address");
            Prefix::new(mapped(address), bits).expect("a network")
        };
        let rules = Rules::new(vec![
            (network("203.0.113.0", 120), Rule::Deny),
            (network("203.0.113.128", 121), Rule::Allow),
            (network("203.0.113.200", 128), Rule::Deny),
            (network("2001:db8::", 32), Rule::Allow),
        ]);
        for (address, rule) in [
            ("203.0.113.1", Some(Rule::Deny)),
            ("203.0.113.129", Some(Rule::Allow)),
            ("203.0.113.200", Some(Rule::Deny)),
            ("203.0.112.1", None),
            ("2001:db8:1::1", Some(Rule::Allow)),
            ("2001:db9::1", None),
        ] {
            let address = address.parse().expect("an address");
            assert_eq!(rules.of(address), rule, "{address}");
        }
        assert_eq!(Rules::default().of(IpAddr::from([0; 4])), None);
    }
}
