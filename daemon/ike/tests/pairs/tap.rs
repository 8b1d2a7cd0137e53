//! Reads and rewrites what two cores encrypt. The key exchange double gives its secret away to
//! whoever sees both public values, and a test knows the gateway's ticket keys.

use std::time::Duration;

use ike::{
    crypto::{
        Encryption, Prf, Secret,
        cipher::Cipher,
        keymat::{Exchanged, KeyMaterial},
        prf::prf,
    },
    io::TicketRoot,
    ticket::{Keyring, Opened, TicketState},
    wire::{
        encrypted, fragment,
        header::Header,
        notify::NotifyKind,
        payload::{Chain, ChainWriter, PayloadKind},
    },
};

use crate::{bed::Pair, env::shared_secret};

/// Octets in front of the public value in a KE payload.
const KE_HEADER: usize = 4;
const IKE_AUTH: u8 = 35;

/// The payloads of a message, in order.
pub(crate) type Payloads = Vec<(PayloadKind, Vec<u8>)>;

/// The keys of an exchange under way.
pub(crate) struct Tap {
    keys: KeyMaterial,
    from_initiator: Cipher,
    from_responder: Cipher,
}

impl Tap {
    /// On the exchange whose first two messages the pair has sent, of either kind. The suite is the
    /// first of the bed's.
    pub(crate) fn on(pair: &Pair) -> Self {
        let [request, response] = [0, 1].map(|i| clear(&pair.sent[i].message));
        let (header, _) = Header::parse(&pair.sent[1].message).expect("a header");
        let exchanged = Exchanged {
            ni: body(&request, PayloadKind::NONCE),
            nr: body(&response, PayloadKind::NONCE),
            spi_i: header.spi_i,
            spi_r: header.spi_r,
        };
        let (which, encryption) = (Prf::HmacSha256, Encryption::AesGcm256);
        let keys = if request.iter().any(|(kind, _)| *kind == PayloadKind::KE) {
            let [one, other] =
                [&request, &response].map(|side| &body(side, PayloadKind::KE)[KE_HEADER..]);
            let shared = shared_secret(one, other);
            KeyMaterial::from_exchange(which, encryption, &shared, &exchanged)
        } else {
            let state = ticket_of(pair).0;
            KeyMaterial::from_ticket(which, encryption, &state.sk_d, &exchanged)
        };
        let ciphers = keys.ciphers(encryption);
        let [from_initiator, from_responder] = ciphers.expect("the suite's lengths");
        Self {
            keys,
            from_initiator,
            from_responder,
        }
    }

    /// The payloads inside a protected message.
    pub(crate) fn read(&self, message: &[u8]) -> Payloads {
        let (header, _) = Header::parse(message).expect("a header");
        let plain = encrypted::open(&header, message, self.cipher(&header)).expect("our keys");
        listed(&Chain::parse(plain.first, &plain.octets).expect("well formed"))
    }

    fn rewrite(&self, message: &[u8], payloads: Payloads) -> Vec<u8> {
        let (header, _) = Header::parse(message).expect("a header");
        self.forge(&header, payloads)
    }

    /// A protected message of either side.
    pub(crate) fn forge(&self, header: &Header, payloads: Payloads) -> Vec<u8> {
        encrypted::seal(header, chain_of(payloads), 77, self.cipher(header))
    }

    /// The same in fragments, each a message of at most so many octets.
    pub(crate) fn forge_fragments(
        &self,
        header: &Header,
        payloads: Payloads,
        limit: usize,
    ) -> Vec<Vec<u8>> {
        fragment::seal(
            header,
            chain_of(payloads),
            limit,
            &mut 77,
            self.cipher(header),
        )
    }

    /// Makes the AUTH payload of a resumption fit the identity beside it (RFC 5723, 4.3.3).
    fn reprove(&self, pair: &Pair, response: bool, payloads: &mut Payloads) {
        let [request, answer] = [0, 1].map(|i| &pair.sent[i].message);
        let (sk_p, own, other, id) = if response {
            (&self.keys.sk_pr, answer, request, PayloadKind::ID_R)
        } else {
            (&self.keys.sk_pi, request, answer, PayloadKind::ID_I)
        };
        let mac = |octets: &[&[u8]]| prf(Prf::HmacSha256, sk_p.expose(), octets);
        let other = clear(other);
        let nonce = body(&other, PayloadKind::NONCE);
        let proof = mac(&[own, nonce, mac(&[body(payloads, id)]).expose()]);
        let auth = payloads
            .iter_mut()
            .find(|(kind, _)| *kind == PayloadKind::AUTH);
        let (_, auth) = auth.expect("proof");
        auth.truncate(4);
        auth.extend_from_slice(proof.expose());
    }

    fn cipher(&self, header: &Header) -> &Cipher {
        if header.from_initiator {
            &self.from_initiator
        } else {
            &self.from_responder
        }
    }
}

/// Lets time pass until the IKE_AUTH request or response is on its way, rewrites it, and lets a
/// second pass.
pub(crate) fn meddle(pair: &mut Pair, response: bool, edit: impl FnOnce(&mut Payloads)) {
    rewrite_auth(pair, response, |_, _, payloads| edit(payloads));
}

/// The same on a resumption, by somebody who has its keys: the proof holds whatever the identity.
pub(crate) fn impersonate(pair: &mut Pair, response: bool, edit: impl FnOnce(&mut Payloads)) {
    rewrite_auth(pair, response, |tap, pair, payloads| {
        edit(payloads);
        tap.reprove(pair, response, payloads);
    });
}

fn rewrite_auth(pair: &mut Pair, response: bool, edit: impl FnOnce(&Tap, &Pair, &mut Payloads)) {
    let at = (0..100).find_map(|_| {
        pair.run(Duration::from_millis(1));
        pair.flying.iter().position(|flight| {
            Header::parse(&flight.message).is_ok_and(|(header, _)| {
                header.exchange.number() == IKE_AUTH && header.response == response
            })
        })
    });
    let at = at.expect("an IKE_AUTH message flies");
    let tap = Tap::on(pair);
    let mut payloads = tap.read(&pair.flying[at].message);
    edit(&tap, pair, &mut payloads);
    pair.flying[at].message = tap.rewrite(&pair.flying[at].message, payloads);
    pair.run(Duration::from_secs(1));
}

/// The IKE_AUTH messages of the first SA, opened: request, then response.
pub(crate) fn auth_messages(pair: &Pair) -> Vec<Payloads> {
    let tap = Tap::on(pair);
    let messages = pair.sent.iter().map(|sent| &sent.message);
    messages
        .filter(|message| message[18] == IKE_AUTH && message[..8] == pair.sent[0].message[..8])
        .map(|message| tap.read(message))
        .collect()
}

/// The ticket a message in clear presents.
pub(crate) fn presented(message: &[u8]) -> Vec<u8> {
    let (header, octets) = Header::parse(message).expect("a header");
    let chain = Chain::parse(header.next, octets).expect("well formed");
    let mut notifies = chain.notifies();
    let ticket = notifies.find(|notify| notify.kind == NotifyKind::TICKET_OPAQUE);
    ticket.expect("a resumption").data.to_vec()
}

/// What is in the ticket of the first message sent, and the ticket's length.
pub(crate) fn ticket_of(pair: &Pair) -> (TicketState, usize) {
    let ticket = presented(&pair.sent[0].message);
    (opened(pair, &ticket).state, ticket.len())
}

/// A ticket under the gateway's newest key.
pub(crate) fn opened(pair: &Pair, ticket: &[u8]) -> Opened {
    let mut ring = Keyring::new(pair.gateway.settings.node);
    let (key_id, root) = pair.gateway.roots.last().expect("an epoch");
    ring.add(&TicketRoot {
        key_id: *key_id,
        root: Secret::from(root.as_slice()),
    });
    ring.open(ticket, pair.now.wall, |_| None)
        .expect("the gateway's")
}

/// A message in clear with other payloads behind its header.
pub(crate) fn reclear(message: &[u8], payloads: Payloads) -> Vec<u8> {
    let (header, _) = Header::parse(message).expect("a header");
    encrypted::clear(&header, chain_of(payloads))
}

/// Of private use, and critical where one of these is written.
pub(crate) const CRITICAL: PayloadKind = PayloadKind(200);

fn chain_of(payloads: Payloads) -> ChainWriter {
    let mut chain = ChainWriter::new();
    for (kind, body) in payloads {
        chain.payload(kind, |out| {
            if kind == CRITICAL {
                // The second octet of the four that have just been written.
                let flags = out.len() - 3;
                out[flags] = 0x80;
            }
            out.extend_from_slice(&body);
        });
    }
    chain
}

/// The payloads of a message in clear.
pub(crate) fn clear(message: &[u8]) -> Payloads {
    let (header, octets) = Header::parse(message).expect("a header");
    listed(&Chain::parse(header.next, octets).expect("well formed"))
}

/// The body of the first payload of a kind.
pub(crate) fn body(payloads: &Payloads, kind: PayloadKind) -> &[u8] {
    let found = payloads.iter().find(|(found, _)| *found == kind);
    &found.expect("a payload of the kind").1
}

fn listed(chain: &Chain<'_>) -> Payloads {
    chain
        .payloads()
        .map(|payload| (payload.kind, payload.body.to_vec()))
        .collect()
}
