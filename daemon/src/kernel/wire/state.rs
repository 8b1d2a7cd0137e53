//! The longest message: a state with everything that says how it is carried.

use std::{net::IpAddr, time::Duration};

use ike::{
    crypto::{Integrity, Secret},
    kernel::{Carriage, CopyDscp, EspCipher, Mark, Mode, Offload},
};

use super::super::route::OUTER_MARK;
use super::{NLM_F_CREATE, NLM_F_EXCL, Request, SELECTOR, StateId, XFRM_MSG_NEWSA, code, family};

const XFRMA_ALG_CRYPT: u16 = 2;
pub(in super::super) const XFRMA_ENCAP: u16 = 4;
const XFRMA_ALG_AEAD: u16 = 18;
const XFRMA_ALG_AUTH_TRUNC: u16 = 20;
pub(in super::super) const XFRMA_REPLAY_ESN_VAL: u16 = 23;
const XFRMA_SA_EXTRA_FLAGS: u16 = 24;
pub(in super::super) const XFRMA_OFFLOAD_DEV: u16 = 28;
const XFRMA_SET_MARK: u16 = 29;
const XFRMA_SET_MARK_MASK: u16 = 30;
pub(in super::super) const XFRMA_MTIMER_THRESH: u16 = 32;

const XFRM_STATE_NOECN: u8 = 1;
const XFRM_STATE_DECAP_DSCP: u8 = 2;
const XFRM_STATE_NOPMTUDISC: u8 = 4;
const XFRM_STATE_AF_UNSPEC: u8 = 32;
pub(in super::super) const XFRM_STATE_ESN: u8 = 128;
const XFRM_SA_XFLAG_DONT_ENCAP_DSCP: u32 = 1;
const XFRM_OFFLOAD_IPV6: u8 = 1;
const XFRM_OFFLOAD_INBOUND: u8 = 2;
const XFRM_OFFLOAD_PACKET: u8 = 4;
const UDP_ENCAP_ESPINUDP: u16 = 2;
/// Seconds between two reports of one state's new mapping. A kernel before 5.17 does not know of it, and
/// reports each packet.
const MAPPING_EVERY: u32 = 1;
const ICV_BITS: u32 = 128;
const ALGORITHM_NAME: usize = 64;

/// One direction of a Child SA.
#[derive(Clone, Copy)]
pub(in super::super) struct State<'a> {
    pub(in super::super) inbound: bool,
    pub(in super::super) source: IpAddr,
    pub(in super::super) id: StateId,
    pub(in super::super) reqid: u32,
    pub(in super::super) cipher: EspCipher,
    pub(in super::super) key: &'a Secret,
    /// Source and destination port of ESP in UDP.
    pub(in super::super) encap: Option<(u16, u16)>,
    pub(in super::super) esn: bool,
    pub(in super::super) hard_lifetime: Duration,
    pub(in super::super) carriage: &'a Carriage,
    /// Whether what leaves is to keep clear of our own routes, where the carriage says nothing of its mark.
    pub(in super::super) around: bool,
    /// The interface that leads to the peer, if its network card may help.
    pub(in super::super) device: u32,
}

impl State<'_> {
    fn flags(&self) -> u8 {
        let Carriage {
            copy_df,
            copy_ecn,
            copy_dscp,
            mode,
            ..
        } = *self.carriage;
        let decap = matches!(copy_dscp, CopyDscp::In | CopyDscp::Both) && self.inbound;
        let bits = [
            (self.esn, XFRM_STATE_ESN),
            // Left empty, the selector lets both families through; the policies are the selectors. What
            // is in transport mode has one family.
            (mode == Mode::Tunnel, XFRM_STATE_AF_UNSPEC),
            (!copy_df, XFRM_STATE_NOPMTUDISC),
            (!copy_ecn, XFRM_STATE_NOECN),
            (decap, XFRM_STATE_DECAP_DSCP),
        ];
        let set = bits.into_iter().filter(|(set, _)| *set);
        set.fold(0, |flags, (_, bit)| flags | bit)
    }
}

impl Request {
    /// An SA. Inbound and outbound are written alike, with a replay window and without SA_DIR: the form
    /// that kernels before and after 6.10 take.
    pub(in super::super) fn new_state(what: &'static str, state: &State<'_>) -> Self {
        let carriage = state.carriage;
        let mut request = Self::new(what, XFRM_MSG_NEWSA, NLM_F_CREATE | NLM_F_EXCL);
        request.zeros(SELECTOR);
        request.state_id(state.id.destination, state.id.spi);
        request.address(state.source);
        request.lifetime(
            state.hard_lifetime.as_secs().max(1),
            [carriage.bytes, carriage.packets],
        );
        request.zeros(32 + 12 + 4);
        request.u32(state.reqid);
        request.u16(family(state.id.destination));
        request.octets.push(code(carriage.mode));
        request.octets.push(0);
        request.octets.push(state.flags());
        request.zeros(7);

        request.algorithms(state.cipher, state.key.expose());
        request.attribute(XFRMA_REPLAY_ESN_VAL, |octets| {
            let words = carriage.replay_window.div_ceil(32);
            for value in [words, 0, 0, 0, 0, carriage.replay_window] {
                octets.extend_from_slice(&value.to_ne_bytes());
            }
            octets.resize(octets.len() + 4 * words as usize, 0);
        });
        if let Some(ports) = state.encap {
            request.encapsulation(ports);
        }
        request.carriage(state);
        request.finish()
    }

    /// What encrypts and authenticates: one algorithm, or a cipher whose key comes first and a MAC.
    fn algorithms(&mut self, cipher: EspCipher, key: &[u8]) {
        let bits = |octets: &[u8]| octets.len() as u32 * 8;
        let name = match cipher {
            EspCipher::AesGcm128 | EspCipher::AesGcm256 => "rfc4106(gcm(aes))",
            EspCipher::ChaCha20Poly1305 => "rfc7539esp(chacha20,poly1305)",
            EspCipher::AesCbc128(_) | EspCipher::AesCbc256(_) => "cbc(aes)",
        };
        let Some(integrity) = cipher.integrity() else {
            return self.algorithm(XFRMA_ALG_AEAD, name, &[bits(key), ICV_BITS], key);
        };
        let (key, mac_key) = key.split_at_checked(cipher.key_len()).unwrap_or_default();
        self.algorithm(XFRMA_ALG_CRYPT, name, &[bits(key)], key);
        let name = match integrity {
            Integrity::HmacSha256 => "hmac(sha256)",
            Integrity::HmacSha384 => "hmac(sha384)",
            Integrity::HmacSha512 => "hmac(sha512)",
        };
        // Without the truncation some kernels cut SHA-256 to 96 bits, as a draft of RFC 4868 had it.
        let tag_bits = integrity.tag_len() as u32 * 8;
        let lengths = [bits(mac_key), tag_bits];
        self.algorithm(XFRMA_ALG_AUTH_TRUNC, name, &lengths, mac_key);
    }

    /// `xfrm_algo` and its kin: name, lengths in bits, key.
    fn algorithm(&mut self, kind: u16, name: &str, lengths: &[u32], key: &[u8]) {
        self.attribute(kind, |octets| {
            octets.extend_from_slice(name.as_bytes());
            octets.resize(octets.len() + ALGORITHM_NAME - name.len(), 0);
            for length in lengths {
                octets.extend_from_slice(&length.to_ne_bytes());
            }
            octets.extend_from_slice(key);
        });
    }

    /// What is left out where it says nothing: old kernels do not know all of it.
    fn carriage(&mut self, state: &State<'_>) {
        let Carriage {
            if_id,
            set_mark,
            copy_dscp,
            offload,
            ..
        } = *state.carriage;
        self.mark(state.id.mark);
        let (set_mark, if_id) = if state.inbound {
            (set_mark.inbound, if_id.inbound)
        } else {
            (set_mark.outbound, if_id.outbound)
        };
        let outer = Mark {
            value: OUTER_MARK,
            mask: u32::MAX,
        };
        let around = state.around && !state.inbound;
        let set_mark = match set_mark.mask {
            0 if around => outer,
            _ => set_mark,
        };
        if set_mark.mask != 0 {
            self.word(XFRMA_SET_MARK, set_mark.value);
            self.word(XFRMA_SET_MARK_MASK, set_mark.mask);
        }
        self.if_id(if_id);
        if matches!(copy_dscp, CopyDscp::In | CopyDscp::Neither) && !state.inbound {
            self.word(XFRMA_SA_EXTRA_FLAGS, XFRM_SA_XFLAG_DONT_ENCAP_DSCP);
        }
        if offload != Offload::None {
            let bits = [
                (state.source.is_ipv6(), XFRM_OFFLOAD_IPV6),
                (state.inbound, XFRM_OFFLOAD_INBOUND),
                (offload == Offload::Packet, XFRM_OFFLOAD_PACKET),
            ];
            let set = bits.into_iter().filter(|(set, _)| *set);
            let flags = set.fold(0, |flags, (_, bit)| flags | bit);
            self.attribute(XFRMA_OFFLOAD_DEV, |octets| {
                octets.extend_from_slice(&state.device.to_ne_bytes());
                octets.extend_from_slice(&[flags, 0, 0, 0]);
            });
        }
    }

    /// ESP in UDP between these ports, source first: `xfrm_encap_tmpl`. A peer that comes from elsewhere is
    /// reported.
    pub(in super::super) fn encapsulation(&mut self, (source, destination): (u16, u16)) {
        self.attribute(XFRMA_ENCAP, |octets| {
            octets.extend_from_slice(&UDP_ENCAP_ESPINUDP.to_ne_bytes());
            octets.extend_from_slice(&source.to_be_bytes());
            octets.extend_from_slice(&destination.to_be_bytes());
            octets.resize(octets.len() + 2 + 16, 0);
        });
        self.word(XFRMA_MTIMER_THRESH, MAPPING_EVERY);
    }

    fn word(&mut self, kind: u16, value: u32) {
        self.attribute(kind, |octets| {
            octets.extend_from_slice(&value.to_ne_bytes());
        });
    }
}
