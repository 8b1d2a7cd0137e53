//! Floods of what is no first message: IP fragments, keepalives, requests for SAs that are not there,
//! and messages made to mislead a parser.

use anyhow::Result;
use gate_abi::{
    frames::Message,
    ike::{FLAG_INITIATOR, KEEPALIVE, PORT_IKE, PORT_NAT_T},
};

use super::{Attack, USUAL, scene::Scene, verdict::Metric};
use crate::{chance::Chance, mangle};

pub(super) fn attacks() -> Vec<Attack> {
    vec![
        Attack {
            number: 14,
            what: "first fragments of datagrams to port 500, from anywhere, 20,000 a second",
            metric: Metric::Reassembly(IPFRAG_HIGH_THRESH + LET_IN),
            play: fragments,
            ..USUAL
        },
        Attack {
            number: 15,
            what: "NAT keepalives, from anywhere, 40,000 a second",
            metric: Metric::ReachedDaemon,
            play: keepalives,
            ..USUAL
        },
        Attack {
            number: 16,
            what: "ESP in UDP with SPIs that nobody has, from anywhere, 1,000 a second (on a kernel with \
                   ESP; what the neighbours get is what their logins get)",
            metric: Metric::ReachedDaemon,
            esp: true,
            play: unknown_esp,
            ..USUAL
        },
        Attack {
            number: 18,
            what: "INFORMATIONAL with SPIs that nobody has, from anywhere, 40,000 a second",
            metric: Metric::UnknownSpiAnswers,
            play: unknown_spis,
            ..USUAL
        },
        Attack {
            number: 29,
            what: "first messages cut, stretched, looped and bent, behind up to three VLAN tags, \
                   20,000 a second",
            metric: Metric::Restarts,
            play: misleading,
            ..USUAL
        },
    ]
}

fn fragments(scene: &Scene<'_>) -> Result<u64> {
    scene.flood(FRAGMENTS_PER_SECOND, |wrapping, chance| {
        wrapping.forge_source(chance);
        let mut frame = wrapping.datagram(&[0; FRAGMENT]);
        let number = chance.number().to_be_bytes();
        let header = &mut frame[IP..IP + IPV4];
        header[4..6].copy_from_slice(&number[..2]);
        header[6..8].copy_from_slice(&MORE_FRAGMENTS.to_be_bytes());
        header[10..12].fill(0);
        let sum = internet_checksum(header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        frame
    })
}

fn keepalives(scene: &Scene<'_>) -> Result<u64> {
    scene.flood(PER_SECOND, |wrapping, chance| {
        wrapping.forge_source(chance);
        wrapping.around.port = PORT_NAT_T;
        wrapping.datagram(&[KEEPALIVE])
    })
}

fn unknown_esp(scene: &Scene<'_>) -> Result<u64> {
    scene.flood(ESP_PER_SECOND, |wrapping, chance| {
        wrapping.forge_source(chance);
        wrapping.around.port = PORT_NAT_T;
        let mut packet = [0; ESP];
        chance.fill(&mut packet);
        // Neither the marker of IKE nor one of the SPIs that are reserved.
        packet[0] |= 0x80;
        wrapping.datagram(&packet)
    })
}

fn unknown_spis(scene: &Scene<'_>) -> Result<u64> {
    scene.flood(PER_SECOND, |wrapping, chance| {
        wrapping.forge_source(chance);
        wrapping.ike(&unknown_spi(chance))
    })
}

/// A request that looks like one of an SA.
pub(super) fn unknown_spi(chance: &mut Chance) -> Vec<u8> {
    let mut sealed = [0; SEALED];
    chance.fill(&mut sealed);
    let message = Message {
        spi_i: chance.number() | 1,
        spi_r: chance.number() | 1,
        version: 0x20,
        exchange: INFORMATIONAL,
        flags: FLAG_INITIATOR,
        message_id: 2 + chance.below(8) as u32,
        payloads: Vec::new(),
    };
    message.with(ENCRYPTED, &sealed).octets()
}

fn misleading(scene: &Scene<'_>) -> Result<u64> {
    let mut seeds = Chance::fresh();
    let mut variants = Vec::new();
    for genuine in [&scene.login, &scene.resume] {
        let message = genuine.another(&mut seeds);
        variants.extend(mangle::variants(&message, &mut seeds));
    }
    variants.retain(|variant| variant.len() <= LONGEST);
    scene.flood(FRAGMENTS_PER_SECOND, |wrapping, chance| {
        wrapping.forge_source(chance);
        let tags = chance.below(4);
        wrapping.around.vlans = vec![VLAN; tags];
        wrapping.around.port = [PORT_IKE, PORT_NAT_T][chance.below(2)];
        let variant = &variants[chance.below(variants.len())];
        wrapping.ike(variant)
    })
}

/// RFC 1071, over a header of whole words.
fn internet_checksum(octets: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(pair[1]);
    let sum: u32 = octets.chunks_exact(2).map(word).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum & 0xffff) + (sum >> 16)) as u16
}

const PER_SECOND: u32 = 40_000;
const ESP_PER_SECOND: u32 = 1000;
/// SPI, sequence number, an IV, an inner packet and an ICV.
const ESP: usize = 8 + 8 + 84 + 16;
const FRAGMENTS_PER_SECOND: u32 = 20_000;
/// `net.ipv4.ipfrag_high_thresh`, as the kernel has it from the start.
const IPFRAG_HIGH_THRESH: u64 = 4 << 20;
/// The kernel looks at the threshold before it lets one in: each of a few CPUs may be a page and its
/// queue beyond it.
const LET_IN: u64 = 4 * 4096;
/// With the UDP header a multiple of eight, as all fragments but the last have to be.
const FRAGMENT: usize = 1400;
const MORE_FRAGMENTS: u16 = 0x2000;
/// Where the IP header begins, and how long it is.
const IP: usize = 14;
const IPV4: usize = 20;
const VLAN: u16 = 0x8100;
/// That fit an Ethernet frame behind all tags.
const LONGEST: usize = 1400;
const INFORMATIONAL: u8 = 37;
/// Payload type Encrypted and Authenticated.
const ENCRYPTED: u8 = 46;
/// An IV, a few octets and an ICV.
const SEALED: usize = 8 + 5 + 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_with_its_checksum_adds_up_to_nothing() {
        let mut header = [
            0x45, 0, 5, 0xa4, 1, 2, 0x20, 0, 64, 17, 0, 0, 10, 1, 2, 3, 9, 8, 7, 6,
        ];
        let sum = internet_checksum(&header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(internet_checksum(&header), 0);
        assert_eq!((FRAGMENT + 8) % 8, 0);
    }
}
