//! Policies as the kernel keys them, and how traffic selectors become such keys.
//!
//! The kernel holds at most one policy per direction and selector, whatever its priority: a block
//! policy and an IPsec policy for the same flow are two contents of one slot, and UPDPOLICY swaps one
//! for the other without a moment in between.

use std::net::IpAddr;

use ike::{
    kernel::{Carriage, Mark, Mode, flows, flows::MAX_FLOWS},
    wire::ts::TrafficSelector,
};

/// Ahead of every other policy of ours, and nobody else's: so they are known again.
pub(super) const PRIORITY_PASS: u32 = 0x5723;
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
    /// Only for packets of this xfrm interface; 0 for none.
    pub(super) if_id: u32,
    /// Only for packets with this mark.
    pub(super) mark: Mark,
}

/// What a policy does with its flow.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Content {
    /// Drop it.
    Block,
    /// Let it pass as it is.
    Pass,
    /// Only through ESP between these addresses.
    Ipsec {
        source: IpAddr,
        destination: IpAddr,
        /// Of the outbound state, so that the switch from one SA to the next is this policy's update
        /// and not the kernel's choice among states; 0 for inbound, where old and new must do.
        spi: u32,
        mode: Mode,
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
        match self.content {
            Content::Block => return self.reqid,
            Content::Pass => return PRIORITY_PASS,
            Content::Ipsec { .. } => {}
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
    carriage: &Carriage,
) -> Result<Vec<PolicyKey>, String> {
    let Carriage { if_id, mark, .. } = carriage;
    if flows::count(local, remote) > MAX_FLOWS {
        return Err(format!(
            "more than {MAX_FLOWS} flows, ranges taken apart into powers of two"
        ));
    }
    let mut keys = Vec::new();
    for (ours, theirs) in local
        .iter()
        .flat_map(|ours| remote.iter().map(move |theirs| (ours, theirs)))
        .filter(|(ours, theirs)| ours.start.is_ipv4() == theirs.start.is_ipv4())
    {
        for (outwards, inwards) in flows(ours, theirs).into_iter().zip(flows(theirs, ours)) {
            keys.extend(
                [
                    (Direction::Out, outwards),
                    (Direction::In, inwards),
                    (Direction::Forward, inwards),
                ]
                .map(|(direction, selector)| {
                    let (if_id, mark) = if direction == Direction::Out {
                        (if_id.outbound, mark.outbound)
                    } else {
                        (if_id.inbound, mark.inbound)
                    };
                    PolicyKey {
                        direction,
                        selector,
                        if_id,
                        mark,
                    }
                }),
            );
        }
    }
    if keys.is_empty() {
        return Err("no pair of traffic selectors of one address family and protocol".into());
    }
    Ok(keys)
}

/// What a pair of selectors is to the kernel.
fn flows(from: &TrafficSelector, to: &TrafficSelector) -> Vec<Selector> {
    // No packet is of two protocols.
    let Some(protocol) = flows::protocol_of(from, to) else {
        return Vec::new();
    };
    let blocks =
        |first, last| flows::ports(first, last).map(|(port, mask)| PortMask { port, mask });
    let ports: Vec<_> = if flows::has_types(protocol) {
        // The kernel looks for the type where other protocols have the source port, and for the code in
        // the other.
        let first = from.start_port.max(to.start_port);
        let last = from.end_port.min(to.end_port);
        let halves = |PortMask { port, mask }: PortMask| {
            let half = |port, mask| PortMask { port, mask };
            (half(port >> 8, mask >> 8), half(port & 0xff, mask & 0xff))
        };
        blocks(first, last).map(halves).collect()
    } else {
        let sources = blocks(from.start_port, from.end_port);
        let to = |source| blocks(to.start_port, to.end_port).map(move |to| (source, to));
        sources.flat_map(to).collect()
    };
    let network = |(address, prefix)| Network { address, prefix };
    let networks = flows::networks(from).flat_map(|source| {
        flows::networks(to).map(move |destination| (network(source), network(destination)))
    });
    let selector = |(source, destination), (source_port, destination_port)| Selector {
        source,
        destination,
        protocol,
        source_port,
        destination_port,
    };
    networks
        .flat_map(|between| ports.iter().map(move |ports| selector(between, *ports)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ts(text: &str) -> TrafficSelector {
        TrafficSelector::from_text(text).expect("valid network")
    }

    fn keys_of(
        local: &[TrafficSelector],
        remote: &[TrafficSelector],
    ) -> Result<Vec<PolicyKey>, String> {
        slots(local, remote, &Carriage::default())
    }

    #[test]
    fn families_do_not_mix_and_each_pair_has_three_keys() {
        let local = [ts("10.1.0.0/16"), ts("2001:db8:1::/48")];
        let remote = [ts("10.2.0.1/32"), ts("2001:db8:2::/48")];
        assert_eq!(keys_of(&local, &remote).expect("two pairs").len(), 6);
        assert!(keys_of(&local[..1], &remote[1..]).is_err());
    }

    #[test]
    fn what_the_kernel_cannot_say_is_refused() {
        let any = ts("0.0.0.0/0");
        let odd = ts("10.0.0.0-10.0.0.9");
        let keys = keys_of(&[odd], &[any]).expect("two networks");
        let sources: Vec<_> = keys.iter().map(|key| key.selector.source.prefix).collect();
        assert_eq!(sources, [29, 0, 0, 31, 0, 0]);
        let ports = |start_port, end_port| TrafficSelector {
            start_port,
            end_port,
            protocol: 17,
            ..any
        };
        let keys = keys_of(&[ports(1024, 2047)], &[any]).expect("one block of ports");
        assert_eq!(keys.len(), 3);
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
        assert!(keys_of(&many, &many).is_err());
        let ragged = ports(1, 65534);
        assert_eq!(keys_of(&[ragged], &[any]).expect("30 blocks").len(), 90);
        assert!(keys_of(&[ragged], &[ragged]).is_err());
    }

    fn takes(side: PortMask, port: u16) -> bool {
        (side.port ^ port) & side.mask == 0
    }

    #[test]
    fn every_port_of_a_range_is_in_one_block_and_no_other_is_in_any() {
        for (first, last) in [(0, 0), (1000, 1010), (1, 65534), (443, 443), (0, 65535)] {
            let all = flows::ports(first, last).map(|(port, mask)| PortMask { port, mask });
            let all: Vec<_> = all.collect();
            assert!(all.len() <= 30);
            for port in 0..=u16::MAX {
                let inside = (first..=last).contains(&port);
                let hits = all.iter().filter(|block| takes(**block, port)).count();
                assert_eq!(hits, usize::from(inside), "{port} of {first}-{last}");
            }
        }
    }

    #[test]
    fn both_directions_are_of_the_same_ports() {
        let keys = keys_of(
            &[ts("10.1.0.0/16[tcp/1000-1010]")],
            &[ts("10.2.0.0/16[tcp/80-82]")],
        );
        let keys = keys.expect("three blocks by two");
        let of = |direction: Direction| {
            let keys = keys.iter().filter(move |key| key.direction == direction);
            keys.map(|key| key.selector)
        };
        let turned = |selector: Selector| Selector {
            source: selector.destination,
            destination: selector.source,
            source_port: selector.destination_port,
            destination_port: selector.source_port,
            ..selector
        };
        assert_eq!(of(Direction::Out).count(), 6);
        for direction in [Direction::In, Direction::Forward] {
            assert_eq!(of(direction).count(), 6);
            assert!(of(Direction::Out).all(|out| of(direction).any(|one| one == turned(out))));
        }
    }

    #[test]
    fn a_type_of_icmp_is_where_the_kernel_looks_for_it_both_ways() {
        // Echo request, whatever its code.
        let keys = keys_of(&[ts("10.1.0.0/16[icmp/2048-2303]")], &[ts("10.2.0.0/16")]);
        for key in keys.expect("one block") {
            let kind = key.selector.source_port;
            assert_eq!(
                kind,
                PortMask {
                    port: 8,
                    mask: 0xff
                }
            );
            assert_eq!(key.selector.destination_port.mask, 0);
        }
    }

    #[test]
    fn pairs_of_two_protocols_are_of_no_packet() {
        let two = [ts("10.1.0.0/16[tcp/443]"), ts("10.1.0.0/16[udp/53]")];
        let keys = keys_of(&two, &[ts("10.2.0.0/16[tcp]"), ts("10.2.0.0/16[udp]")]);
        assert_eq!(keys.expect("two of four").len(), 6);
        assert!(keys_of(&two[..1], &[ts("10.2.0.0/16[udp]")]).is_err());
    }

    #[test]
    fn blocks_come_after_every_ipsec_policy() {
        let key = keys_of(&[ts("0.0.0.0/0")], &[ts("0.0.0.0/0")]).expect("slots")[0];
        let peer = "192.0.2.1".parse().expect("address");
        let wide = Policy {
            key,
            reqid: 0x5200_0000,
            content: Content::Ipsec {
                source: peer,
                destination: peer,
                spi: 1,
                mode: Mode::Tunnel,
            },
        };
        let narrow = Policy {
            key: keys_of(&[ts("::1/128")], &[ts("::2/128")]).expect("slots")[0],
            ..wide
        };
        let block = Policy {
            content: Content::Block,
            ..narrow
        };
        assert!(narrow.priority() < wide.priority() && wide.priority() < block.priority());
    }
}
