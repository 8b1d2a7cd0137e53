//! Policies as the kernel keys them, and how traffic selectors become such keys.
//!
//! The kernel holds at most one policy per direction and selector, whatever its priority: a block
//! policy and an IPsec policy for the same flow are two contents of one slot, and UPDPOLICY swaps one
//! for the other without a moment in between.

use std::net::IpAddr;

use ike::wire::ts::TrafficSelector;

/// Pairs of selectors in one Child SA; each becomes three policies.
pub(super) const MAX_PAIRS: usize = 64;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
/// Numerically below every reqid of ours, and so ahead of every block policy.
const PRIORITY_WIDEST: u32 = 0x2_0000;

/// Where in the stack a policy is asked.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum Direction {
    /// Towards a socket of this host.
    In,
    /// Leaving this host.
    Out,
    /// Passing through.
    Forward,
}

impl Direction {
    pub(super) const fn code(self) -> u8 {
        match self {
            Self::In => 0,
            Self::Out => 1,
            Self::Forward => 2,
        }
    }

    pub(super) const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::In),
            1 => Some(Self::Out),
            2 => Some(Self::Forward),
            _ => None,
        }
    }
}

/// A network as the kernel writes it.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct Network {
    pub(super) address: IpAddr,
    pub(super) prefix: u8,
}

/// A port with the bits that count; mask 0 is any port.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub(super) struct PortMask {
    pub(super) port: u16,
    pub(super) mask: u16,
}

/// One flow, in the direction its packets travel.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct Selector {
    pub(super) source: Network,
    pub(super) destination: Network,
    pub(super) protocol: u8,
    pub(super) source_port: PortMask,
    pub(super) destination_port: PortMask,
}

/// The slot a policy sits in.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct PolicyKey {
    pub(super) direction: Direction,
    pub(super) selector: Selector,
}

/// What a policy does with its flow.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Content {
    /// Drop it.
    Block,
    /// Only through a tunnel between these addresses.
    Ipsec {
        source: IpAddr,
        destination: IpAddr,
        /// Of the outbound state, so that the switch from one SA to the next is this policy's update
        /// and not the kernel's choice among states; 0 for inbound, where old and new must do.
        spi: u32,
    },
}

/// A slot with its content.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Policy {
    pub(super) key: PolicyKey,
    pub(super) reqid: u32,
    pub(super) content: Content,
}

impl Policy {
    /// Narrower flows first; block policies carry their owner's reqid as priority, which puts them
    /// behind every IPsec policy and tells us whose they are (they have no template to say so).
    pub(super) fn priority(&self) -> u32 {
        if self.content == Content::Block {
            return self.reqid;
        }
        let Selector {
            source,
            destination,
            protocol,
            source_port,
            destination_port,
        } = self.key.selector;
        let bits = (u32::from(source.prefix) + u32::from(destination.prefix)) << 8;
        let ports = (source_port.mask | destination_port.mask).count_ones();
        PRIORITY_WIDEST - bits - (u32::from(protocol != 0) << 7) - ports
    }
}

/// All slots that these selectors need: out, in and forward for each pair of one family.
pub(super) fn slots(
    local: &[TrafficSelector],
    remote: &[TrafficSelector],
) -> Result<Vec<PolicyKey>, String> {
    let mut keys = Vec::new();
    for (ours, theirs) in local
        .iter()
        .flat_map(|ours| remote.iter().map(move |theirs| (ours, theirs)))
        .filter(|(ours, theirs)| ours.start.is_ipv4() == theirs.start.is_ipv4())
    {
        if keys.len() == 3 * MAX_PAIRS {
            return Err(format!("more than {MAX_PAIRS} pairs of traffic selectors"));
        }
        let outwards = selector(ours, theirs)?;
        let inwards = selector(theirs, ours)?;
        keys.extend(
            [
                (Direction::Out, outwards),
                (Direction::In, inwards),
                (Direction::Forward, inwards),
            ]
            .map(|(direction, selector)| PolicyKey {
                direction,
                selector,
            }),
        );
    }
    if keys.is_empty() {
        return Err("no pair of traffic selectors of one address family".into());
    }
    Ok(keys)
}

fn selector(from: &TrafficSelector, to: &TrafficSelector) -> Result<Selector, String> {
    let protocol = match (from.protocol, to.protocol) {
        (0, protocol) | (protocol, 0) => protocol,
        (a, b) if a == b => a,
        _ => return Err(format!("selectors {from} and {to} name two protocols")),
    };
    Ok(Selector {
        source: network(from)?,
        destination: network(to)?,
        protocol,
        source_port: ports(from)?,
        destination_port: ports(to)?,
    })
}

/// A range that is no prefix is refused: a policy wider than what was agreed would let the peer send
/// from addresses that are not its own.
fn network(ts: &TrafficSelector) -> Result<Network, String> {
    let (address, prefix) = ts.prefix();
    let whole = TrafficSelector::network(address, prefix);
    if (whole.start, whole.end) == (ts.start, ts.end) {
        Ok(Network { address, prefix })
    } else {
        Err(format!("{} to {} is not one network", ts.start, ts.end))
    }
}

fn ports(ts: &TrafficSelector) -> Result<PortMask, String> {
    let (start, end) = (ts.start_port, ts.end_port);
    if (start, end) == (0, u16::MAX) {
        return Ok(PortMask::default());
    }
    // RFC 7296, 3.13.1 packs ICMP type and code into the port; the kernel spreads them over two.
    if matches!(ts.protocol, ICMP | ICMPV6) {
        return Err(format!("{ts}: ICMP types cannot be selected"));
    }
    let differing = start ^ end;
    let aligned = differing & differing.wrapping_add(1) == 0
        && start & differing == 0
        && end & differing == differing;
    if aligned {
        Ok(PortMask {
            port: start,
            mask: !differing,
        })
    } else {
        Err(format!("{ts}: the kernel cannot select this port range"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ts(text: &str) -> TrafficSelector {
        TrafficSelector::from_text(text).expect("valid network")
    }

    #[test]
    fn families_do_not_mix_and_each_pair_has_three_slots() {
        let local = [ts("10.1.0.0/16"), ts("2001:db8:1::/48")];
        let remote = [ts("10.2.0.1/32"), ts("2001:db8:2::/48")];
        assert_eq!(slots(&local, &remote).expect("two pairs").len(), 6);
        assert!(slots(&local[..1], &remote[1..]).is_err());
    }

    #[test]
    fn what_the_kernel_cannot_say_is_refused() {
        let any = ts("0.0.0.0/0");
        let mut odd = ts("10.0.0.0/24");
        odd.end = "10.0.0.9".parse().expect("address");
        assert!(slots(&[odd], &[any]).is_err());
        let ports = |start_port, end_port| TrafficSelector {
            start_port,
            end_port,
            protocol: 17,
            ..any
        };
        assert!(slots(&[ports(1000, 1010)], &[any]).is_err());
        let keys = slots(&[ports(1024, 2047)], &[any]).expect("one block of ports");
        assert_eq!(
            keys[0].selector.source_port,
            PortMask {
                port: 1024,
                mask: 0xfc00
            }
        );
        assert_eq!(
            keys[1].selector.destination_port,
            keys[0].selector.source_port
        );
        let many = vec![any; 9];
        assert!(slots(&many, &many).is_err());
    }

    #[test]
    fn blocks_come_after_every_ipsec_policy() {
        let key = slots(&[ts("0.0.0.0/0")], &[ts("0.0.0.0/0")]).expect("slots")[0];
        let peer = "192.0.2.1".parse().expect("address");
        let wide = Policy {
            key,
            reqid: 0x5200_0000,
            content: Content::Ipsec {
                source: peer,
                destination: peer,
                spi: 1,
            },
        };
        let narrow = Policy {
            key: slots(&[ts("::1/128")], &[ts("::2/128")]).expect("slots")[0],
            ..wide
        };
        let block = Policy {
            content: Content::Block,
            ..narrow
        };
        assert!(narrow.priority() < wide.priority() && wide.priority() < block.priority());
    }
}
