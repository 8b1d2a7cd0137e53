//! Networks that an operator has judged beforehand: nobody is heard from them, or nobody there is asked
//! for a cookie. The gate goes by it, and the daemon where there is no gate. Of networks that lie in each
//! other the narrower one counts.

/// Networks that can be listed.
pub const MAX_NETWORKS: usize = 1024;
/// Longest-prefix-match trie of [`Rule`]s, whose keys are [`Prefix::key`]s.
pub const NETWORKS: &str = "NETWORKS";

/// How those in a network are treated. The number is the value in the trie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Rule {
    /// Nobody is heard.
    Deny = 1,
    /// First messages need no cookie, as many as may come with one ([`crate::defence::Meter::ProvenNetwork`]).
    Allow = 2,
}

impl Rule {
    /// What it makes of a network.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Deny => "denied",
            Self::Allow => "allowed",
        }
    }

    /// The rule of this number.
    #[inline(always)]
    #[must_use]
    pub const fn from_number(number: u32) -> Option<Self> {
        match number {
            1 => Some(Self::Deny),
            2 => Some(Self::Allow),
            _ => None,
        }
    }
}

/// A network of either family, IPv4 mapped into IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Prefix {
    address: [u8; 16],
    bits: u8,
}

impl Prefix {
    /// The network of so many leading bits at this address; `None` if the address has others too.
    #[must_use]
    pub const fn new(address: [u8; 16], bits: u8) -> Option<Self> {
        let below = match u128::MAX.checked_shr(bits as u32) {
            Some(below) => below,
            None if bits == 128 => 0,
            None => return None,
        };
        if u128::from_be_bytes(address) & below != 0 {
            return None;
        }
        Some(Self { address, bits })
    }

    /// Whether an address is in it.
    #[must_use]
    pub const fn has(&self, address: &[u8; 16]) -> bool {
        let differ = u128::from_be_bytes(*address) ^ u128::from_be_bytes(self.address);
        differ.leading_zeros() >= self.bits as u32
    }

    /// Its key in the trie: how many bits, and the address.
    #[must_use]
    pub const fn key(&self) -> (u32, [u8; 16]) {
        (self.bits as u32, self.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 203, 0, 113, 0];

    #[test]
    fn a_prefix_has_its_addresses_and_no_other() {
        let network = Prefix::new(V4, 96 + 24).expect("a network");
        let at = |third: u8, last: u8| {
            let mut address = V4;
            (address[14], address[15]) = (third, last);
            address
        };
        assert!(network.has(&at(113, 0)) && network.has(&at(113, 255)));
        assert!(!network.has(&at(112, 255)) && !network.has(&at(114, 0)));
        assert!(!network.has(&[0; 16]), "another family");
        let everything = Prefix::new([0; 16], 0).expect("a network");
        assert!(everything.has(&V4) && everything.has(&[0xff; 16]));
        let host = Prefix::new([0xff; 16], 128).expect("a host");
        assert!(host.has(&[0xff; 16]) && !host.has(&[0xfe; 16]));
    }

    #[test]
    fn an_address_with_bits_below_is_no_network() {
        assert_eq!(Prefix::new(V4, 96 + 23), None);
        assert_eq!(Prefix::new([0; 16], 129), None);
        assert_eq!(Prefix::new([0xff; 16], 127), None);
    }
}
