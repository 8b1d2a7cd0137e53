//! What a core asks its surroundings for, made from a seed: chance, key exchanges, signatures, and a
//! ticket ledger in memory.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use ike::{
    crypto::{Group, KeyShare, KeyShareError, Secret, SignError, SignatureScheme},
    io::{Env, StoreId, TicketLedger},
    ticket::{Kept, Reference},
    wire::id::Identity,
};
use ring::{
    digest::{SHA256, digest},
    signature::{
        EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, RSA_PKCS1_SHA256, RSA_PSS_SHA256,
        RsaEncoding, RsaKeyPair,
    },
};

/// SplitMix64: small, seedable, good enough to shuffle datagrams.
#[derive(Clone, Debug)]
pub(crate) struct Rng(pub u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn percent(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// Seeded randomness, a key exchange double (both sides hash both public values), and real private
/// keys by connection for whoever has certificates. `ring` signs with randomness of its own.
#[derive(Debug)]
pub(crate) struct SeedEnv {
    pub(crate) rng: Rng,
    pub(crate) keys: BTreeMap<&'static str, Signer>,
    /// Shared secrets that were made.
    pub(crate) agreed: Arc<AtomicU32>,
}

struct Double {
    group: Group,
    public: Vec<u8>,
    agreed: Arc<AtomicU32>,
}

impl KeyShare for Double {
    fn group(&self) -> Group {
        self.group
    }

    fn public(&self) -> &[u8] {
        &self.public
    }

    fn agree(self: Box<Self>, peer: &[u8]) -> Result<Secret, KeyShareError> {
        if peer.len() != self.public.len() {
            return Err(KeyShareError);
        }
        self.agreed.fetch_add(1, Ordering::Relaxed);
        Ok(shared_secret(&self.public, peer))
    }
}

/// What the double agrees on. Whoever sees both public values can compute it, so that a test can
/// read and rewrite what is encrypted.
pub(crate) fn shared_secret(one: &[u8], other: &[u8]) -> Secret {
    let (a, b) = (one.min(other), one.max(other));
    Secret::from(digest(&SHA256, &[a, b].concat()).as_ref())
}

impl Env for SeedEnv {
    fn random(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            let word = self.rng.next().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }

    fn new_key_share(&mut self, group: Group) -> Option<Box<dyn KeyShare>> {
        let mut public = vec![0; group.public_len()];
        self.random(&mut public);
        let agreed = Arc::clone(&self.agreed);
        Some(Box::new(Double {
            group,
            public,
            agreed,
        }))
    }

    fn sign(
        &mut self,
        connection: &str,
        scheme: SignatureScheme,
        octets: &[u8],
    ) -> Result<Vec<u8>, SignError> {
        self.keys
            .get(connection)
            .ok_or(SignError)?
            .sign(scheme, octets)
    }
}

/// A private key of any kind.
#[derive(Debug)]
pub(crate) enum Signer {
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    Rsa(RsaKeyPair),
}

impl Signer {
    #[expect(
        clippy::disallowed_types,
        reason = "ring takes the salt of a signature from nowhere else"
    )]
    pub(crate) fn sign(
        &self,
        scheme: SignatureScheme,
        octets: &[u8],
    ) -> Result<Vec<u8>, SignError> {
        let padding: &dyn RsaEncoding = match (scheme, self) {
            (
                SignatureScheme::EcdsaP256Sha256 | SignatureScheme::EcdsaP384Sha384,
                Self::Ecdsa(key),
            ) => return Ok(sign(key, octets)),
            (SignatureScheme::Ed25519, Self::Ed25519(key)) => {
                return Ok(key.sign(octets).as_ref().to_vec());
            }
            (SignatureScheme::RsaPssSha256, _) => &RSA_PSS_SHA256,
            (SignatureScheme::RsaPkcs1Sha256, _) => &RSA_PKCS1_SHA256,
            _ => return Err(SignError),
        };
        let Self::Rsa(key) = self else {
            return Err(SignError);
        };
        let mut signature = vec![0; key.public().modulus_len()];
        key.sign(
            padding,
            &ring::rand::SystemRandom::new(),
            octets,
            &mut signature,
        )
        .map_err(|_| SignError)?;
        Ok(signature)
    }
}

/// A private key from PKCS#8.
#[expect(
    clippy::disallowed_types,
    reason = "ring blinds what it does with a private key by randomness of its own"
)]
pub(crate) fn key_pair(form: &'static EcdsaSigningAlgorithm, pkcs8: &[u8]) -> EcdsaKeyPair {
    EcdsaKeyPair::from_pkcs8(form, pkcs8, &ring::rand::SystemRandom::new()).expect("a P-256 key")
}

/// A signature in the form of the key.
#[expect(
    clippy::disallowed_types,
    reason = "ring takes the nonce of a signature from nowhere else"
)]
pub(crate) fn sign(key: &EcdsaKeyPair, octets: &[u8]) -> Vec<u8> {
    let signature = key.sign(&ring::rand::SystemRandom::new(), octets);
    signature.expect("signs").as_ref().to_vec()
}

/// A ledger in memory.
#[derive(Debug, Default)]
pub(crate) struct MemoryLedger {
    pub(crate) key_id: u8,
    pub(crate) next: u32,
    pub(crate) used: HashSet<(u8, u32)>,
    pub(crate) exhausted: bool,
    /// What is kept for tickets by reference: expiry, envelope, state.
    pub(crate) kept: HashMap<Reference, Record>,
    /// What the store was asked to do and has not done: a record to keep, or a reference to forget.
    pub(crate) asked: VecDeque<(StoreId, Reference, Option<Record>)>,
    pub(crate) store: Store,
    pub(crate) last_store_id: u64,
    /// Peers whose tickets are void, and until when those were issued.
    pub(crate) revoked: HashMap<Identity, u64>,
}

/// Expiry, envelope, state.
pub(crate) type Record = (u64, [u8; 32], Vec<u8>);

/// How the store behind tickets by reference behaves.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Store {
    #[default]
    Works,
    /// It has not come to it yet.
    Waits,
    /// Its disk has failed.
    Fails,
    /// Its queue is full.
    Full,
}

impl MemoryLedger {
    /// Does the next thing that it was asked, unless it waits.
    pub(crate) fn commit(&mut self) -> Option<(StoreId, bool)> {
        if self.store == Store::Waits {
            return None;
        }
        let (id, reference, record) = self.asked.pop_front()?;
        let done = self.store != Store::Fails;
        if done {
            match record {
                Some(record) => drop(self.kept.insert(reference, record)),
                None => drop(self.kept.remove(&reference)),
            }
        }
        Some((id, done))
    }

    fn ask(&mut self, reference: Reference, record: Option<Record>) -> Option<StoreId> {
        if self.store == Store::Full {
            return None;
        }
        self.last_store_id += 1;
        let id = StoreId(self.last_store_id);
        self.asked.push_back((id, reference, record));
        Some(id)
    }
}

impl TicketLedger for MemoryLedger {
    fn next_index(&mut self) -> Option<(u8, u32)> {
        self.next += 1;
        (!self.exhausted).then_some((self.key_id, self.next))
    }

    fn is_used(&self, key_id: u8, index: u32) -> bool {
        self.used.contains(&(key_id, index))
    }

    fn mark_used(&mut self, key_id: u8, index: u32) -> bool {
        self.used.insert((key_id, index))
    }

    fn revoked_until(&self, peer: &Identity) -> Option<u64> {
        self.revoked.get(peer).copied()
    }

    fn keep(&mut self, reference: Reference, expiry: u64, kept: Kept) -> bool {
        let state = kept.state.expose().to_vec();
        self.kept.insert(reference, (expiry, kept.envelope, state));
        true
    }

    fn begin_keep(&mut self, reference: Reference, expiry: u64, kept: Kept) -> Option<StoreId> {
        let state = kept.state.expose().to_vec();
        self.ask(reference, Some((expiry, kept.envelope, state)))
    }

    fn begin_consume(&mut self, reference: &Reference) -> Option<StoreId> {
        self.ask(*reference, None)
    }

    fn kept(&self, reference: &Reference) -> Option<Kept> {
        let (_, envelope, state) = self.kept.get(reference)?;
        Some(Kept {
            envelope: *envelope,
            state: Secret::from(state.as_slice()),
        })
    }

    fn release(&mut self, reference: &Reference) {
        self.kept.remove(reference);
    }
}
