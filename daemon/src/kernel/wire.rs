//! xfrm messages octet by octet: what we send, and the few fields we read from dumps.
//!
//! Layouts are those of the kernel's `linux/xfrm.h` on 64-bit machines; every length is checked by a
//! test. Requests can hold keys, so they are wiped when dropped and never grow after their first
//! allocation.

mod state;

use std::net::{IpAddr, SocketAddr};

use ike::kernel::{Mark, Mode, Volume};
use zeroize::Zeroizing;

pub(super) use self::state::{
    State, XFRM_STATE_ESN, XFRMA_ENCAP, XFRMA_MTIMER_THRESH, XFRMA_OFFLOAD_DEV,
    XFRMA_REPLAY_ESN_VAL,
};
use super::policy::{
    Content, Direction, Network, PRIORITY_PASS, Policy, PolicyKey, PortMask, Selector,
};

/// Length of a netlink message header.
pub(super) const HEADER: usize = 16;
/// Length of `xfrm_userpolicy_info`, which per-socket policies take too.
pub(crate) const POLICY_INFO: usize = 168;
pub(super) const STATE_INFO: usize = 224;
pub(super) const SELECTOR: usize = 56;
pub(super) const STATE_ID: usize = 24;
const TEMPLATE: usize = 64;
/// `xfrm_user_acquire`: id, source, the packet's selector, the policy, three sets of algorithms, a number.
const ACQUIRE: usize = STATE_ID + 16 + SELECTOR + POLICY_INFO + 16;
/// `xfrm_user_expire`: a state and a flag, filled up.
const EXPIRE: usize = STATE_INFO + 8;
/// `xfrm_user_mapping`: the state, its reqid, the addresses before and now, the ports before and now.
const MAPPING: usize = STATE_ID + 4 + 16 + 16 + 2 + 2;
const TEMPLATE_REQID: usize = 44;
const ATTRIBUTE: usize = 4;
/// Room for the longest request of ours: an SA with every attribute and the widest replay window, 1148
/// octets, and 140 more in a copy, for the kernel tells a MAC in two forms. What a buffer grows out of
/// would not be wiped.
pub(super) const REQUEST_ROOM: usize = 1296;

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

const XFRMA_TMPL: u16 = 5;
const XFRMA_MARK: u16 = 21;
const XFRMA_IF_ID: u16 = 31;
const XFRMA_SPD_INFO: u16 = 1;
const XFRMA_SPD_IPV4_HTHRESH: u16 = 3;
const XFRMA_SPD_IPV6_HTHRESH: u16 = 4;

pub(super) const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const IPPROTO_ESP: u8 = 50;
const XFRM_MODE_TRANSPORT: u8 = 0;
const XFRM_MODE_TUNNEL: u8 = 1;
const XFRM_POLICY_ALLOW: u8 = 0;
const XFRM_POLICY_BLOCK: u8 = 1;

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
    /// The kernel finds it only for who names its mark.
    pub(super) mark: Mark,
}

/// What we read of a state in a dump.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct StateRecord {
    pub(super) id: StateId,
    pub(super) source: IpAddr,
    pub(super) reqid: u32,
    pub(super) bytes: u64,
    pub(super) packets: u64,
    /// It has carried so much that new keys are due.
    pub(super) worn: bool,
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
        request.mark(id.mark);
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
            Content::Ipsec { .. } | Content::Pass => XFRM_POLICY_ALLOW,
        };
        request.selector(&policy.key.selector);
        request.policy_tail(policy.priority(), policy.key.direction, action);
        if let Content::Ipsec {
            source,
            destination,
            spi,
            mode,
        } = policy.content
        {
            let mut template = Self {
                what,
                octets: Zeroizing::new(Vec::with_capacity(TEMPLATE)),
            };
            template.state_id(destination, spi);
            template.u16(family(destination));
            template.u16(0);
            template.address(source);
            template.u32(policy.reqid);
            template.octets.extend_from_slice(&[code(mode), 0, 0, 0]);
            // Any algorithm: the states are ours, chosen by reqid.
            template.octets.extend_from_slice(&[0xff; 12]);
            request.attribute(XFRMA_TMPL, |octets| {
                octets.extend_from_slice(&template.octets);
            });
        }
        request.whose(&policy.key);
        request.finish()
    }

    pub(super) fn delete_policy(key: &PolicyKey) -> Self {
        let mut request = Self::new("deleting a policy", XFRM_MSG_DELPOLICY, 0);
        request.selector(&key.selector);
        request.zeros(4);
        request
            .octets
            .extend_from_slice(&[key.direction.code(), 0, 0, 0]);
        request.whose(key);
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

    /// What, beside direction and selector, makes a policy another one.
    fn whose(&mut self, key: &PolicyKey) {
        self.mark(key.mark);
        self.if_id(key.if_id);
    }

    fn mark(&mut self, mark: Mark) {
        if mark.mask != 0 {
            self.attribute(XFRMA_MARK, |octets| {
                octets.extend_from_slice(&mark.value.to_ne_bytes());
                octets.extend_from_slice(&mark.mask.to_ne_bytes());
            });
        }
    }

    fn if_id(&mut self, if_id: u32) {
        if if_id != 0 {
            self.attribute(XFRMA_IF_ID, |octets| {
                octets.extend_from_slice(&if_id.to_ne_bytes());
            });
        }
    }

    fn state_id(&mut self, destination: IpAddr, spi: u32) {
        self.address(destination);
        self.octets.extend_from_slice(&spi.to_be_bytes());
        self.octets.extend_from_slice(&[IPPROTO_ESP, 0, 0, 0]);
    }

    /// `xfrm_lifetime_cfg`: zero octets or packets would mean "used up", and the most is any number.
    fn lifetime(&mut self, hard_seconds: u64, [bytes, packets]: [Volume; 2]) {
        let limit = |number| if number == 0 { u64::MAX } else { number };
        for value in [
            limit(bytes.rekey),
            limit(bytes.life),
            limit(packets.rekey),
            limit(packets.life),
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
        self.lifetime(0, [Volume::default(); 2]);
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
    let (bytes, packets) = (u64_at(fixed, 160)?, u64_at(fixed, 168)?);
    Some(StateRecord {
        id: StateId {
            destination: address_at(fixed, SELECTOR, family)?,
            spi: u32::from_be_bytes(*fixed.get(SELECTOR + 16..)?.first_chunk()?),
            mark: mark_of(body.get(STATE_INFO..)?),
        },
        source: address_at(fixed, SELECTOR + STATE_ID, family)?,
        reqid: u32_at(fixed, 208)?,
        bytes,
        packets,
        worn: bytes >= u64_at(fixed, 96)? || packets >= u64_at(fixed, 112)?,
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
    let if_id = attributes(body.get(POLICY_INFO..)?)
        .find(|(kind, _)| *kind == XFRMA_IF_ID)
        .and_then(|(_, value)| u32_at(value, 0));
    let key = PolicyKey {
        direction: Direction::from_code(fixed[160])?,
        selector,
        if_id: if_id.unwrap_or(0),
        mark: mark_of(body.get(POLICY_INFO..)?),
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
        (XFRM_POLICY_ALLOW, None) => (u32_at(fixed, 152)? == PRIORITY_PASS).then_some(Policy {
            key,
            reqid: 0,
            content: Content::Pass,
        }),
        (XFRM_POLICY_ALLOW, Some(template)) => {
            let outer = u16_at(template, STATE_ID)?;
            Some(Policy {
                key,
                reqid: u32_at(template, TEMPLATE_REQID)?,
                content: Content::Ipsec {
                    source: address_at(template, 28, outer)?,
                    destination: address_at(template, 0, outer)?,
                    spi: u32::from_be_bytes(*template.get(16..)?.first_chunk()?),
                    mode: match *template.get(48)? {
                        XFRM_MODE_TRANSPORT => Mode::Transport,
                        XFRM_MODE_TUNNEL => Mode::Tunnel,
                        _ => return None,
                    },
                },
            })
        }
        _ => None,
    }
}

const fn code(mode: Mode) -> u8 {
    match mode {
        Mode::Transport => XFRM_MODE_TRANSPORT,
        Mode::Tunnel => XFRM_MODE_TUNNEL,
    }
}

fn mark_of(rest: &[u8]) -> Mark {
    let mark = attributes(rest).find(|(kind, _)| *kind == XFRMA_MARK);
    let mark = mark.and_then(|(_, value)| {
        let (value, mask) = (u32_at(value, 0)?, u32_at(value, 4)?);
        Some(Mark { value, mask })
    });
    mark.unwrap_or_default()
}

/// Reads of an XFRM_MSG_ACQUIRE whose flow it is: the reqid of the policy's template.
pub(super) fn parse_acquire(body: &[u8]) -> Option<u32> {
    let templates = attributes(body.get(ACQUIRE..)?).find(|(kind, _)| *kind == XFRMA_TMPL);
    u32_at(templates?.1, TEMPLATE_REQID)
}

/// Reads of an XFRM_MSG_EXPIRE which state it is about, and whether that is gone.
pub(super) fn parse_expire(body: &[u8]) -> Option<(StateRecord, bool)> {
    // Attributes come after the flag.
    let mut state = parse_state(body.get(..STATE_INFO)?)?;
    let hard = *body.get(STATE_INFO)? != 0;
    state.id.mark = mark_of(body.get(EXPIRE..)?);
    Some((state, hard))
}

/// What an XFRM_MSG_MAPPING says: an authenticated packet in UDP has come to a state from elsewhere.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Mapping {
    pub(super) reqid: u32,
    pub(super) spi: u32,
    /// Our end.
    pub(super) destination: IpAddr,
    /// Where it has come from.
    pub(super) source: SocketAddr,
}

/// Reads an XFRM_MSG_MAPPING. It does not name the state's mark.
pub(super) fn parse_mapping(body: &[u8]) -> Option<Mapping> {
    let fixed: &[u8; MAPPING] = body.first_chunk()?;
    let family = u16_at(fixed, 20)?;
    let source = address_at(fixed, STATE_ID + 4 + 16, family)?;
    let port = u16::from_be_bytes(*fixed.last_chunk()?);
    Some(Mapping {
        reqid: u32_at(fixed, STATE_ID)?,
        spi: u32::from_be_bytes(*fixed.get(16..)?.first_chunk()?),
        destination: address_at(fixed, 0, family)?,
        source: SocketAddr::new(source, port),
    })
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
