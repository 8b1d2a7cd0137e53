//! SPIs as the endpoint hands them out, in numbers that whole exchanges are too slow for.

use std::collections::HashSet;

use super::*;
use crate::{
    crypto::{Group, KeyShare, SignError, SignatureScheme},
    wire::header::Spi,
};

/// Counts upwards in place of chance.
struct Counting(u64);

impl Env for Counting {
    fn random(&mut self, out: &mut [u8]) {
        for octets in out.chunks_mut(8) {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            octets.copy_from_slice(&self.0.to_be_bytes()[..octets.len()]);
        }
    }

    fn new_key_share(&mut self, _: Group) -> Option<Box<dyn KeyShare>> {
        None
    }

    fn sign(&mut self, _: &str, _: SignatureScheme, _: &[u8]) -> Result<Vec<u8>, SignError> {
        Err(SignError)
    }
}

fn endpoint() -> Endpoint {
    let keys = NodeKeys {
        spi: [SipKey { k0: 1, k1: 2 }, SipKey { k0: 3, k1: 4 }],
        cookies: CookieSecrets::new(&Secret::new(vec![5; 32]), [6; 16]),
        qcd: Secret::new(vec![5; 32]),
    };
    let now = Stamp {
        boot: Duration::from_secs(1),
        wall: 1_800_000_000,
    };
    Endpoint::new(
        Settings::default(),
        Vec::new(),
        keys,
        &[],
        now,
        &mut Counting(0),
    )
}

fn lingering(id: u64, spi: Spi) -> IkeSa {
    let ends = "192.0.2.1:500".parse().expect("an address");
    IkeSa {
        id,
        spi_i: spi,
        spi_r: [9; 8],
        initiator: true,
        path: Path {
            local: ends,
            remote: ends,
        },
        started: Duration::ZERO,
        state: State::Gone,
    }
}

/// A client takes one for each resumption, and a gateway for each that it accepts.
// RFC 5723: N31, L1, T7
#[test]
fn t_spis_fresh_in_a_hundred_thousand_resumptions() {
    const RESUMPTIONS: usize = 100_000;
    let mut endpoint = endpoint();
    let mut seen = HashSet::with_capacity(RESUMPTIONS);
    for resumption in 0..RESUMPTIONS {
        let spi = endpoint.new_spi();
        assert!(spi != [0; 8] && seen.insert(spi), "{resumption}: {spi:?}");
    }
}

// RFC 5723: N31, T7
#[test]
fn an_spi_in_use_is_passed_over_when_the_counter_comes_round() {
    let mut endpoint = endpoint();
    let first: Vec<Spi> = (0..100).map(|_| endpoint.new_spi()).collect();
    for (id, spi) in first.iter().enumerate().filter(|(id, _)| id % 2 == 0) {
        endpoint.check_in(lingering(id as u64, *spi));
    }
    endpoint.spi_count = 0;
    for (_, free) in first.iter().enumerate().filter(|(id, _)| id % 2 == 1) {
        assert_eq!(endpoint.new_spi(), *free);
    }
    assert!(!first.contains(&endpoint.new_spi()));
}
