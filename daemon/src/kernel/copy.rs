//! A state as the kernel has it, keys and counters included, to be put in once more between other
//! addresses. The kernel is asked, for nobody else keeps the keys of a Child SA.

use std::net::IpAddr;

use zeroize::Zeroizing;

use super::wire::{
    NLM_F_CREATE, NLM_F_EXCL, REQUEST_ROOM, Request, SELECTOR, STATE_ID, STATE_INFO,
    XFRM_MSG_NEWSA, XFRM_STATE_ESN, XFRMA_ENCAP, XFRMA_MTIMER_THRESH, XFRMA_OFFLOAD_DEV,
    XFRMA_REPLAY_ESN_VAL, address_at, attributes, family, u16_at, u32_at,
};

const XFRMA_LTIME_VAL: u16 = 9;
const XFRMA_LASTUSED: u16 = 26;
const SOURCE: usize = SELECTOR + STATE_ID;
/// Octets, packets, and the time that the hard lifetime counts from.
const COUNTERS: std::ops::Range<usize> = 160..192;
const FAMILY: usize = 212;
const FLAGS: usize = 216;
/// In `xfrm_replay_state_esn`: the last number sent, its lower and its upper half.
const OSEQ: usize = 4;
const OSEQ_HIGH: usize = 12;
/// A state goes on sending between the moment it is read and the moment the other one takes over. So many
/// numbers are left out, so that none is sent twice: the receiver would drop the second as a replay.
const LEFT_OUT: u64 = 1 << 14;

/// The ends of a state.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Ends {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    /// Source and destination port of ESP in UDP.
    pub(super) encap: Option<(u16, u16)>,
}

/// All of a state that NEWSA takes.
pub(super) struct StateCopy {
    ends: Ends,
    fixed: [u8; STATE_INFO],
    replay: Vec<u8>,
    /// Key and all else, in the order in which the kernel tells it.
    rest: Zeroizing<Vec<u8>>,
}

impl StateCopy {
    /// Reads the answer to [`Request::query_state`]; `None` if it is cut short.
    pub(super) fn parse(body: &[u8]) -> Option<Self> {
        let fixed: &[u8; STATE_INFO] = body.first_chunk()?;
        let of = u16_at(fixed, FAMILY)?;
        let mut ends = Ends {
            source: address_at(fixed, SOURCE, of)?,
            destination: address_at(fixed, SELECTOR, of)?,
            encap: None,
        };
        let mut replay = Vec::new();
        let mut rest = Zeroizing::new(Vec::with_capacity(REQUEST_ROOM));
        for (kind, value) in attributes(body.get(STATE_INFO..)?) {
            match kind {
                XFRMA_ENCAP => ends.encap = Some((port_at(value, 2)?, port_at(value, 4)?)),
                XFRMA_REPLAY_ESN_VAL => replay = value.to_vec(),
                // What the kernel only tells, what is bound to an interface, and what goes with the ports.
                XFRMA_LASTUSED | XFRMA_OFFLOAD_DEV | XFRMA_MTIMER_THRESH => {}
                _ => {
                    let length = 4 + value.len();
                    if rest.len() + length.next_multiple_of(4) > REQUEST_ROOM {
                        return None;
                    }
                    rest.extend_from_slice(&(length as u16).to_ne_bytes());
                    rest.extend_from_slice(&kind.to_ne_bytes());
                    rest.extend_from_slice(value);
                    let padded = rest.len().next_multiple_of(4);
                    rest.resize(padded, 0);
                }
            }
        }
        Some(Self {
            ends,
            fixed: *fixed,
            replay,
            rest,
        })
    }

    pub(super) const fn ends(&self) -> Ends {
        self.ends
    }

    /// Puts it in as it was.
    pub(super) fn as_it_was(&self) -> Request {
        self.between(self.ends, false)
    }

    /// Puts it in between other ends. One that sends leaves out some numbers.
    pub(super) fn between(&self, ends: Ends, sends: bool) -> Request {
        let mut request = Request::new("moving an SA", XFRM_MSG_NEWSA, NLM_F_CREATE | NLM_F_EXCL);
        let mut fixed = self.fixed;
        fixed[SELECTOR..SELECTOR + 16].copy_from_slice(&sixteen(ends.destination));
        fixed[SOURCE..SOURCE + 16].copy_from_slice(&sixteen(ends.source));
        fixed[FAMILY..FAMILY + 2].copy_from_slice(&family(ends.destination).to_ne_bytes());
        request.octets.extend_from_slice(&fixed);
        request.octets.extend_from_slice(&self.rest);
        let mut replay = self.replay.clone();
        if sends {
            skip(&mut replay, fixed[FLAGS] & XFRM_STATE_ESN != 0);
        }
        if !replay.is_empty() {
            request.attribute(XFRMA_REPLAY_ESN_VAL, |octets| {
                octets.extend_from_slice(&replay);
            });
        }
        request.attribute(XFRMA_LTIME_VAL, |octets| {
            octets.extend_from_slice(&fixed[COUNTERS]);
        });
        if let Some(ports) = ends.encap {
            request.encapsulation(ports);
        }
        request.finish()
    }
}

/// Moves the last number sent on. A number of 32 bits ends where it ends: then the state is used up.
fn skip(replay: &mut [u8], extended: bool) {
    let (Some(low), Some(high)) = (u32_at(replay, OSEQ), u32_at(replay, OSEQ_HIGH)) else {
        return;
    };
    let number = if extended {
        (u64::from(high) << 32 | u64::from(low)).saturating_add(LEFT_OUT)
    } else {
        (u64::from(low) + LEFT_OUT).min(u64::from(u32::MAX))
    };
    let halves = [(OSEQ, number as u32), (OSEQ_HIGH, (number >> 32) as u32)];
    for (at, half) in halves {
        if let Some(field) = replay.get_mut(at..at + 4) {
            field.copy_from_slice(&half.to_ne_bytes());
        }
    }
}

fn sixteen(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => {
            let mut octets = [0; 16];
            octets[..4].copy_from_slice(&v4.octets());
            octets
        }
        IpAddr::V6(v6) => v6.octets(),
    }
}

fn port_at(octets: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*octets.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ike::{
        crypto::Secret,
        kernel::{Carriage, EspCipher, Mark},
    };

    use super::{
        super::wire::{HEADER, State, StateId},
        *,
    };

    fn state(esn: bool) -> Request {
        let key = Secret::new(vec![7; 36]);
        Request::new_state(
            "adding",
            &State {
                inbound: false,
                source: [192, 0, 2, 1].into(),
                id: StateId {
                    destination: [198, 51, 100, 1].into(),
                    spi: 0x1001,
                    mark: Mark::default(),
                },
                reqid: 0x5200_0001,
                cipher: EspCipher::AesGcm256,
                key: &key,
                encap: None,
                esn,
                hard_lifetime: Duration::from_hours(1),
                carriage: &Carriage::default(),
                around: false,
                device: 0,
            },
        )
    }

    #[test]
    fn a_copy_has_all_of_the_state_but_its_ends() {
        for esn in [false, true] {
            let original = state(esn);
            let body = &original.octets[HEADER..];
            let copy = StateCopy::parse(body).expect("a state");
            let ends = Ends {
                source: [203, 0, 113, 9].into(),
                destination: [198, 51, 100, 1].into(),
                encap: Some((4500, 12345)),
            };
            let moved = copy.between(ends, true);
            assert!(moved.octets.len() <= REQUEST_ROOM);
            let again = StateCopy::parse(&moved.octets[HEADER..]).expect("a state");
            assert_eq!(again.ends(), ends);
            assert!(again.rest.starts_with(&copy.rest), "the key");
            assert_eq!(u32_at(&again.replay, OSEQ), Some(LEFT_OUT as u32));
            let back = again.between(copy.ends(), false);
            let back = StateCopy::parse(&back.octets[HEADER..]).expect("a state");
            assert_eq!((back.ends(), back.fixed), (copy.ends(), copy.fixed));
            for end in 0..body.len() {
                let _ = StateCopy::parse(&body[..end]);
            }
        }
    }

    #[test]
    fn numbers_are_left_out_and_never_begin_anew() {
        let number = |low: u32, high: u32, extended| {
            let mut replay = [4, low, 0, high, 0, 128].map(u32::to_ne_bytes).concat();
            skip(&mut replay, extended);
            (u32_at(&replay, OSEQ), u32_at(&replay, OSEQ_HIGH))
        };
        assert_eq!(number(5, 0, false), (Some(5 + (1 << 14)), Some(0)));
        assert_eq!(number(u32::MAX - 1, 0, false), (Some(u32::MAX), Some(0)));
        let (low, high) = number(u32::MAX - 1, 3, true);
        assert_eq!((low, high), (Some((1 << 14) - 2), Some(4)));
    }
}
