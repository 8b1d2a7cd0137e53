//! xfrm messages octet by octet: what we send, and the few fields we read from dumps.
//!
//! Layouts are those of the kernel's `linux/xfrm.h` on 64-bit machines; every length is checked by a
//! test. Requests can hold keys, so they are wiped when dropped and never grow after their first
//! allocation.

use std::{net::IpAddr, time::Duration};

use ike::{crypto::Secret, kernel::EspCipher};
use zeroize::Zeroizing;

use super::policy::{Content, Direction, Network, Policy, PolicyKey, PortMask, Selector};

/// Length of a netlink message header.
pub(super) const HEADER: usize = 16;
/// Length of `xfrm_userpolicy_info`, which per-socket policies take too.
pub(crate) const POLICY_INFO: usize = 168;
pub(super) const STATE_INFO: usize = 224;
pub(super) const SELECTOR: usize = 56;
pub(super) const STATE_ID: usize = 24;
const TEMPLATE: usize = 64;
const ATTRIBUTE: usize = 4;
/// Room for the longest request of ours: an SA with every attribute, 432 octets.
pub(super) const REQUEST_ROOM: usize = 512;

pub(super) const NLM_F_REQUEST: u16 = 1;
pub(super) const NLM_F_ACK: u16 = 4;
pub(super) const NLM_F_DUMP: u16 = 0x300;
pub(super) const NLM_F_EXCL: u16 = 0x200;
pub(super) const NLM_F_CREATE: u16 = 0x400;

pub(super) const XFRM_MSG_NEWSA: u16 = 0x10;
pub(super) const XFRM_MSG_DELSA: u16 = 0x11;
pub(super) const XFRM_MSG_GETSA: u16 = 0x12;
pub(super) const XFRM_MSG_NEWPOLICY: u16 = 0x13;
pub(super) const XFRM_MSG_DELPOLICY: u16 = 0x14;
pub(super) const XFRM_MSG_GETPOLICY: u16 = 0x15;
pub(super) const XFRM_MSG_UPDPOLICY: u16 = 0x19;
pub(super) const XFRM_MSG_NEWSPDINFO: u16 = 0x24;
pub(super) const XFRM_MSG_GETSPDINFO: u16 = 0x25;

pub(super) const XFRMA_ENCAP: u16 = 4;
const XFRMA_TMPL: u16 = 5;
const XFRMA_ALG_AEAD: u16 = 18;
pub(super) const XFRMA_REPLAY_ESN_VAL: u16 = 23;
const XFRMA_SPD_INFO: u16 = 1;
const XFRMA_SPD_IPV4_HTHRESH: u16 = 3;
const XFRMA_SPD_IPV6_HTHRESH: u16 = 4;

pub(super) const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const IPPROTO_ESP: u8 = 50;
const XFRM_MODE_TUNNEL: u8 = 1;
const XFRM_STATE_AF_UNSPEC: u8 = 32;
pub(super) const XFRM_STATE_ESN: u8 = 128;
const XFRM_POLICY_ALLOW: u8 = 0;
const XFRM_POLICY_BLOCK: u8 = 1;
const UDP_ENCAP_ESPINUDP: u16 = 2;
const ICV_BITS: u32 = 128;
const REPLAY_WINDOW: u32 = 128;
const ALGORITHM_NAME: usize = 64;

/// Bits of the local and the remote prefix from which policies are hashed. Ours are a network of any
/// width against a client's address, so only the remote side can be told apart.
pub(super) const HASH_THRESHOLDS: [[u8; 2]; 2] = [[0, 32], [0, 128]];

/// One netlink message, and what to call it when the kernel refuses it.
pub(super) struct Request {
    pub(super) what: &'static str,
    pub(super) octets: Zeroizing<Vec<u8>>,
}

/// The name of a state for DELSA and GETSA.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct StateId {
    pub(super) destination: IpAddr,
    pub(super) spi: u32,
}

/// One direction of a Child SA.
pub(super) struct State<'a> {
    pub(super) source: IpAddr,
    pub(super) id: StateId,
    pub(super) reqid: u32,
    pub(super) cipher: EspCipher,
    pub(super) key: &'a Secret,
    /// Source and destination port of ESP in UDP.
    pub(super) encap: Option<(u16, u16)>,
    pub(super) esn: bool,
    pub(super) hard_lifetime: Duration,
}

/// What we read of a state in a dump.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct StateRecord {
    pub(super) id: StateId,
    pub(super) source: IpAddr,
    pub(super) reqid: u32,
    pub(super) bytes: u64,
    pub(super) packets: u64,
}

/// What we read of the policy database as a whole.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct SpdInfo {
    pub(super) policies: u32,
    pub(super) thresholds: [[u8; 2]; 2],
}

impl Request {
    pub(super) fn new(what: &'static str, kind: u16, flags: u16) -> Self {
        let mut octets = Zeroizing::new(Vec::with_capacity(REQUEST_ROOM));
        octets.extend_from_slice(&[0; 4]);
        octets.extend_from_slice(&kind.to_ne_bytes());
        octets.extend_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        octets.extend_from_slice(&[0; 8]);
        Self { what, octets }
    }

    /// An SA in tunnel mode. Inbound and outbound are written alike, with a replay window and
    /// without SA_DIR: the form that kernels before and after 6.10 take.
    pub(super) fn new_state(what: &'static str, state: &State<'_>) -> Self {
        let mut request = Self::new(what, XFRM_MSG_NEWSA, NLM_F_CREATE | NLM_F_EXCL);
        // Left empty, the selector lets both families through; the policies are the selectors.
        request.zeros(SELECTOR);
        request.state_id(state.id);
        request.address(state.source);
        request.lifetime(state.hard_lifetime.as_secs().max(1));
        request.zeros(32 + 12 + 4);
        request.u32(state.reqid);
        request.u16(family(state.id.destination));
        request.octets.push(XFRM_MODE_TUNNEL);
        request.octets.push(0);
        let esn = if state.esn { XFRM_STATE_ESN } else { 0 };
        request.octets.push(XFRM_STATE_AF_UNSPEC | esn);
        request.zeros(7);

        let name = match state.cipher {
            EspCipher::AesGcm128 | EspCipher::AesGcm256 => "rfc4106(gcm(aes))",
            EspCipher::ChaCha20Poly1305 => "rfc7539esp(chacha20,poly1305)",
        };
        let key = state.key.expose();
        request.attribute(XFRMA_ALG_AEAD, |octets| {
            octets.extend_from_slice(name.as_bytes());
            octets.resize(octets.len() + ALGORITHM_NAME - name.len(), 0);
            octets.extend_from_slice(&(key.len() as u32 * 8).to_ne_bytes());
            octets.extend_from_slice(&ICV_BITS.to_ne_bytes());
            octets.extend_from_slice(key);
        });
        request.attribute(XFRMA_REPLAY_ESN_VAL, |octets| {
            let words = REPLAY_WINDOW / 32;
            for value in [words, 0, 0, 0, 0, REPLAY_WINDOW] {
                octets.extend_from_slice(&value.to_ne_bytes());
            }
            octets.resize(octets.len() + 4 * words as usize, 0);
        });
        if let Some(ports) = state.encap {
            request.attribute(XFRMA_ENCAP, |octets| encapsulation(ports, octets));
        }
        request.finish()
    }

    pub(super) fn delete_state(id: StateId) -> Self {
        Self::about_state("deleting an SA", XFRM_MSG_DELSA, id)
    }

    pub(super) fn query_state(id: StateId) -> Self {
        Self::about_state("reading an SA", XFRM_MSG_GETSA, id)
    }

    fn about_state(what: &'static str, kind: u16, id: StateId) -> Self {
        let mut request = Self::new(what, kind, 0);
        request.address(id.destination);
        request.octets.extend_from_slice(&id.spi.to_be_bytes());
        request.u16(family(id.destination));
        request.octets.extend_from_slice(&[IPPROTO_ESP, 0]);
        request.finish()
    }

    /// Puts a policy into a slot that is ours, whether or not the kernel still has it.
    pub(super) fn put_policy(policy: &Policy) -> Self {
        Self::policy("putting a policy", XFRM_MSG_UPDPOLICY, policy)
    }

    /// Puts a policy into a slot that should be empty. If another program holds it the kernel answers
    /// EEXIST, where an update would have replaced what is not ours.
    pub(super) fn add_policy(policy: &Policy) -> Self {
        Self::policy(
            "adding a policy where nobody else has one",
            XFRM_MSG_NEWPOLICY,
            policy,
        )
    }

    fn policy(what: &'static str, kind: u16, policy: &Policy) -> Self {
        let mut request = Self::new(what, kind, 0);
        let action = match policy.content {
            Content::Block => XFRM_POLICY_BLOCK,
            Content::Ipsec { .. } => XFRM_POLICY_ALLOW,
        };
        request.selector(&policy.key.selector);
        request.policy_tail(policy.priority(), policy.key.direction, action);
        if let Content::Ipsec {
            source,
            destination,
            spi,
        } = policy.content
        {
            let mut template = Self {
                what,
                octets: Zeroizing::new(Vec::with_capacity(TEMPLATE)),
            };
            template.state_id(StateId { destination, spi });
            template.u16(family(destination));
            template.u16(0);
            template.address(source);
            template.u32(policy.reqid);
            template
                .octets
                .extend_from_slice(&[XFRM_MODE_TUNNEL, 0, 0, 0]);
            // Any algorithm: the states are ours, chosen by reqid.
            template.octets.extend_from_slice(&[0xff; 12]);
            request.attribute(XFRMA_TMPL, |octets| {
                octets.extend_from_slice(&template.octets);
            });
        }
        request.finish()
    }

    pub(super) fn delete_policy(key: &PolicyKey) -> Self {
        let mut request = Self::new("deleting a policy", XFRM_MSG_DELPOLICY, 0);
        request.selector(&key.selector);
        request.zeros(4);
        request
            .octets
            .extend_from_slice(&[key.direction.code(), 0, 0, 0]);
        request.finish()
    }

    pub(super) fn dump(what: &'static str, kind: u16) -> Self {
        Self::new(what, kind, NLM_F_DUMP).finish()
    }

    pub(super) fn query_spd() -> Self {
        let mut request = Self::new("reading SPD parameters", XFRM_MSG_GETSPDINFO, 0);
        request.u32(0);
        request.finish()
    }

    pub(super) fn set_thresholds() -> Self {
        let mut request = Self::new("setting SPD hash thresholds", XFRM_MSG_NEWSPDINFO, 0);
        request.u32(0);
        let kinds = [XFRMA_SPD_IPV4_HTHRESH, XFRMA_SPD_IPV6_HTHRESH];
        for (kind, bits) in kinds.into_iter().zip(HASH_THRESHOLDS) {
            request.attribute(kind, |octets| octets.extend_from_slice(&bits));
        }
        request.finish()
    }

    /// Fills in what only the sender knows.
    pub(super) fn stamp(&mut self, sequence: u32, more_flags: u16) {
        if let Some(flags) = self.octets.get_mut(6..8) {
            let old = u16::from_ne_bytes([flags[0], flags[1]]);
            flags.copy_from_slice(&(old | more_flags).to_ne_bytes());
        }
        if let Some(field) = self.octets.get_mut(8..12) {
            field.copy_from_slice(&sequence.to_ne_bytes());
        }
    }

    pub(super) fn finish(mut self) -> Self {
        let length = self.octets.len() as u32;
        if let Some(field) = self.octets.get_mut(..4) {
            field.copy_from_slice(&length.to_ne_bytes());
        }
        self
    }

    fn zeros(&mut self, count: usize) {
        let length = self.octets.len() + count;
        self.octets.resize(length, 0);
    }

    fn u16(&mut self, value: u16) {
        self.octets.extend_from_slice(&value.to_ne_bytes());
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.octets.extend_from_slice(&value.to_ne_bytes());
    }

    fn address(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(v4) => {
                self.octets.extend_from_slice(&v4.octets());
                self.zeros(12);
            }
            IpAddr::V6(v6) => self.octets.extend_from_slice(&v6.octets()),
        }
    }

    fn state_id(&mut self, id: StateId) {
        self.address(id.destination);
        self.octets.extend_from_slice(&id.spi.to_be_bytes());
        self.octets.extend_from_slice(&[IPPROTO_ESP, 0, 0, 0]);
    }

    /// `xfrm_lifetime_cfg`: zero octets or packets would mean "used up", so those are infinite.
    fn lifetime(&mut self, hard_seconds: u64) {
        for value in [
            u64::MAX,
            u64::MAX,
            u64::MAX,
            u64::MAX,
            0,
            hard_seconds,
            0,
            0,
        ] {
            self.octets.extend_from_slice(&value.to_ne_bytes());
        }
    }

    fn selector(&mut self, selector: &Selector) {
        self.address(selector.destination.address);
        self.address(selector.source.address);
        for PortMask { port, mask } in [selector.destination_port, selector.source_port] {
            self.octets.extend_from_slice(&port.to_be_bytes());
            self.octets.extend_from_slice(&mask.to_be_bytes());
        }
        self.u16(family(selector.destination.address));
        self.octets.extend_from_slice(&[
            selector.destination.prefix,
            selector.source.prefix,
            selector.protocol,
        ]);
        self.zeros(3 + 4 + 4);
    }

    fn policy_tail(&mut self, priority: u32, direction: Direction, action: u8) {
        self.lifetime(0);
        self.zeros(32);
        self.u32(priority);
        self.u32(0);
        self.octets
            .extend_from_slice(&[direction.code(), action, 0, 0]);
        self.zeros(4);
    }

    pub(super) fn attribute(&mut self, kind: u16, body: impl FnOnce(&mut Vec<u8>)) {
        let start = self.octets.len();
        self.u16(0);
        self.u16(kind);
        body(&mut self.octets);
        let length = self.octets.len() - start;
        if let Some(field) = self.octets.get_mut(start..start + 2) {
            field.copy_from_slice(&(length as u16).to_ne_bytes());
        }
        self.zeros(length.next_multiple_of(4) - length);
    }
}

/// `xfrm_encap_tmpl`: ESP in UDP between these ports.
pub(super) fn encapsulation((source, destination): (u16, u16), octets: &mut Vec<u8>) {
    octets.extend_from_slice(&UDP_ENCAP_ESPINUDP.to_ne_bytes());
    octets.extend_from_slice(&source.to_be_bytes());
    octets.extend_from_slice(&destination.to_be_bytes());
    octets.resize(octets.len() + 2 + 16, 0);
}

/// A policy that lets a socket's own packets of one family pass without IPsec, for the
/// `IP_XFRM_POLICY` socket option.
#[must_use]
pub(crate) fn socket_bypass(ipv6: bool, outwards: bool) -> [u8; POLICY_INFO] {
    let mut info = [0; POLICY_INFO];
    let family = if ipv6 { AF_INET6 } else { AF_INET };
    let direction = if outwards {
        Direction::Out
    } else {
        Direction::In
    };
    info[40..42].copy_from_slice(&family.to_ne_bytes());
    info[SELECTOR..SELECTOR + 32].fill(0xff);
    info[160] = direction.code();
    info[161] = XFRM_POLICY_ALLOW;
    info
}

pub(super) const fn family(address: IpAddr) -> u16 {
    match address {
        IpAddr::V4(_) => AF_INET,
        IpAddr::V6(_) => AF_INET6,
    }
}

/// Reads a state of a dump; `None` for anything that is not ESP or is cut short.
pub(super) fn parse_state(body: &[u8]) -> Option<StateRecord> {
    let fixed: &[u8; STATE_INFO] = body.first_chunk()?;
    let family = u16_at(fixed, 212)?;
    if *fixed.get(SELECTOR + 20)? != IPPROTO_ESP {
        return None;
    }
    Some(StateRecord {
        id: StateId {
            destination: address_at(fixed, SELECTOR, family)?,
            spi: u32::from_be_bytes(*fixed.get(SELECTOR + 16..)?.first_chunk()?),
        },
        source: address_at(fixed, SELECTOR + STATE_ID, family)?,
        reqid: u32_at(fixed, 208)?,
        bytes: u64_at(fixed, 160)?,
        packets: u64_at(fixed, 168)?,
    })
}

/// Reads a policy of a dump; `None` for shapes that we never make.
pub(super) fn parse_policy(body: &[u8]) -> Option<Policy> {
    let fixed: &[u8; POLICY_INFO] = body.first_chunk()?;
    let family = u16_at(fixed, 40)?;
    let selector = Selector {
        destination: Network {
            address: address_at(fixed, 0, family)?,
            prefix: fixed[42],
        },
        source: Network {
            address: address_at(fixed, 16, family)?,
            prefix: fixed[43],
        },
        protocol: fixed[44],
        destination_port: port_at(fixed, 32)?,
        source_port: port_at(fixed, 36)?,
    };
    let key = PolicyKey {
        direction: Direction::from_code(fixed[160])?,
        selector,
    };
    let template = attributes(body.get(POLICY_INFO..)?)
        .find(|(kind, _)| *kind == XFRMA_TMPL)
        .map(|(_, body)| body);
    match (fixed[161], template) {
        (XFRM_POLICY_BLOCK, None) => Some(Policy {
            key,
            reqid: u32_at(fixed, 152)?,
            content: Content::Block,
        }),
        (XFRM_POLICY_ALLOW, Some(template)) => {
            let outer = u16_at(template, STATE_ID)?;
            Some(Policy {
                key,
                reqid: u32_at(template, 44)?,
                content: Content::Ipsec {
                    source: address_at(template, 28, outer)?,
                    destination: address_at(template, 0, outer)?,
                    spi: u32::from_be_bytes(*template.get(16..)?.first_chunk()?),
                },
            })
        }
        _ => None,
    }
}

/// Reads the answer to [`Request::query_spd`].
pub(super) fn parse_spd(body: &[u8]) -> Option<SpdInfo> {
    let mut info = SpdInfo {
        policies: 0,
        thresholds: [[32, 32], [128, 128]],
    };
    for (kind, value) in attributes(body.get(4..)?) {
        match kind {
            XFRMA_SPD_INFO => {
                // in, out, forward; the three counts after them are of per-socket policies.
                info.policies = (0..3).filter_map(|n| u32_at(value, 4 * n)).sum();
            }
            XFRMA_SPD_IPV4_HTHRESH => info.thresholds[0] = *value.first_chunk()?,
            XFRMA_SPD_IPV6_HTHRESH => info.thresholds[1] = *value.first_chunk()?,
            _ => {}
        }
    }
    Some(info)
}

/// Netlink attributes; ends at the first that does not fit.
pub(super) fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(rest, 0)?);
        let kind = u16_at(rest, 2)? & 0x3fff;
        let body = rest.get(ATTRIBUTE..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

pub(super) fn u16_at(octets: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*octets.get(at..)?.first_chunk()?))
}

pub(super) fn u32_at(octets: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*octets.get(at..)?.first_chunk()?))
}

fn u64_at(octets: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(*octets.get(at..)?.first_chunk()?))
}

fn port_at(octets: &[u8], at: usize) -> Option<PortMask> {
    let [p0, p1, m0, m1]: [u8; 4] = *octets.get(at..)?.first_chunk()?;
    Some(PortMask {
        port: u16::from_be_bytes([p0, p1]),
        mask: u16::from_be_bytes([m0, m1]),
    })
}

pub(super) fn address_at(octets: &[u8], at: usize, family: u16) -> Option<IpAddr> {
    let octets = octets.get(at..)?;
    match family {
        AF_INET => Some(IpAddr::from(*octets.first_chunk::<4>()?)),
        AF_INET6 => Some(IpAddr::from(*octets.first_chunk::<16>()?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
