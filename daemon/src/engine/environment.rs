//! What the core asks of its surroundings in the middle of a step: randomness, key pairs and
//! signatures, all from `ring`.

use std::{collections::BTreeMap, sync::Arc};

use ike::{
    crypto::{Group, KeyShare, KeyShareError, Secret, SignError, SignatureScheme},
    io::Env,
};
use ring::{
    agreement::{self, EphemeralPrivateKey, UnparsedPublicKey, agree_ephemeral},
    error::Unspecified,
    rand::{SecureRandom, SystemRandom},
};
use tracing::error;
use zeroize::{Zeroize, Zeroizing};

use crate::config::PrivateKey;

/// `ring`'s randomness and the connections' private keys.
pub(super) struct Environment {
    random: SystemRandom,
    stock: Stock,
    keys: Arc<BTreeMap<Arc<str>, PrivateKey>>,
}

/// Octets of randomness asked for at once. A login takes some 80 in half a dozen small pieces, and
/// each would be a system call.
const STOCK: usize = 1024;

/// Randomness that is not used yet; what is handed out is wiped here.
struct Stock {
    octets: Zeroizing<[u8; STOCK]>,
    used: usize,
}

impl Stock {
    fn empty() -> Self {
        Self {
            octets: Zeroizing::new([0; STOCK]),
            used: STOCK,
        }
    }

    fn hand_out(&mut self, random: &SystemRandom, out: &mut [u8]) -> Result<(), Unspecified> {
        if out.len() > STOCK {
            return random.fill(out);
        }
        if out.len() > STOCK - self.used {
            random.fill(self.octets.as_mut_slice())?;
            self.used = 0;
        }
        let taken = &mut self.octets[self.used..][..out.len()];
        out.copy_from_slice(taken);
        taken.zeroize();
        self.used += out.len();
        Ok(())
    }
}

impl Environment {
    pub(super) fn new(keys: Arc<BTreeMap<Arc<str>, PrivateKey>>) -> Self {
        Self {
            random: SystemRandom::new(),
            stock: Stock::empty(),
            keys,
        }
    }

    /// These are the connections' private keys from now on.
    pub(super) fn set_private_keys(&mut self, keys: Arc<BTreeMap<Arc<str>, PrivateKey>>) {
        self.keys = keys;
    }
}

impl Env for Environment {
    fn random(&mut self, out: &mut [u8]) {
        if self.stock.hand_out(&self.random, out).is_err() {
            // A gateway that goes on with known nonces is worse than one that stops; the keeper
            // starts another engine.
            error!("the system gives no randomness");
            std::process::abort();
        }
    }

    fn new_key_share(&mut self, group: Group) -> Option<Box<dyn KeyShare>> {
        let algorithm = algorithm(group);
        let private = EphemeralPrivateKey::generate(algorithm, &self.random).ok()?;
        let public = private.compute_public_key().ok()?;
        let public = match group {
            Group::X25519 => public.as_ref(),
            // SEC 1 puts a 4 in front of x and y; IKE does not (RFC 5903, 7).
            Group::P256 | Group::P384 => public.as_ref().get(1..)?,
        };
        Some(Box::new(RingShare {
            group,
            public: public.to_vec(),
            private,
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

struct RingShare {
    group: Group,
    public: Vec<u8>,
    private: EphemeralPrivateKey,
}

impl KeyShare for RingShare {
    fn group(&self) -> Group {
        self.group
    }

    fn public(&self) -> &[u8] {
        &self.public
    }

    fn agree(self: Box<Self>, peer: &[u8]) -> Result<Secret, KeyShareError> {
        let uncompressed = match self.group {
            Group::X25519 => peer.to_vec(),
            Group::P256 | Group::P384 => [&[4], peer].concat(),
        };
        let peer = UnparsedPublicKey::new(algorithm(self.group), uncompressed);
        agree_ephemeral(self.private, &peer, |shared| Secret::from(shared))
            .map_err(|_| KeyShareError)
    }
}

const fn algorithm(group: Group) -> &'static agreement::Algorithm {
    match group {
        Group::X25519 => &agreement::X25519,
        Group::P256 => &agreement::ECDH_P256,
        Group::P384 => &agreement::ECDH_P384,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_shares_of_one_group_agree() {
        let mut environment = Environment::new(Arc::default());
        for group in [Group::X25519, Group::P256, Group::P384] {
            let mut share = || environment.new_key_share(group).expect("randomness");
            let (a, b) = (share(), share());
            assert_eq!(a.public().len(), group.public_len());
            let (public_a, public_b) = (a.public().to_vec(), b.public().to_vec());
            let (ab, ba) = (a.agree(&public_b), b.agree(&public_a));
            assert!(
                ab.is_ok_and(|secret| !secret.is_empty() && Ok(secret) == ba),
                "{group:?}"
            );
        }
    }

    #[test]
    fn no_randomness_is_given_twice_or_kept() {
        let mut environment = Environment::new(Arc::default());
        let mut seen = std::collections::BTreeSet::new();
        for length in (8..=64).cycle().take(1000) {
            let mut octets = vec![0; length];
            environment.random(&mut octets);
            assert!(seen.insert(octets[..8].to_vec()));
            let stock = &environment.stock;
            assert!(stock.octets[..stock.used].iter().all(|octet| *octet == 0));
        }
        let mut long = vec![0; 3 * STOCK];
        environment.random(&mut long);
        assert!(long.chunks(8).all(|octets| seen.insert(octets.to_vec())));
    }

    #[test]
    fn a_point_off_the_curve_is_refused() {
        let mut environment = Environment::new(Arc::default());
        for group in [Group::X25519, Group::P256, Group::P384] {
            let share = environment.new_key_share(group).expect("randomness");
            assert!(
                share.agree(&vec![0; group.public_len()]).is_err(),
                "{group:?}"
            );
            let share = environment.new_key_share(group).expect("randomness");
            assert!(share.agree(&[1; 5]).is_err(), "{group:?}");
        }
    }
}
