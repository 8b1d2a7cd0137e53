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
    worker(0, 1)
}

fn worker(number: u8, of: u8) -> Endpoint {
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
        Settings::default().part_of(number, of),
        Vec::<Connection>::new(),
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

#[test]
fn what_workers_hand_out_at_once_is_never_the_same() {
    const EACH: usize = 2000;
    let (mut spis, mut esp_spis, mut numbers) = (HashSet::new(), HashSet::new(), HashSet::new());
    for number in 0..MAX_WORKERS {
        let mut worker = worker(number, MAX_WORKERS);
        // The same chance for all: only the number keeps them apart.
        let mut env = Counting(0);
        for _ in 0..EACH {
            let spi = worker.new_spi();
            assert_eq!(spi[1], number);
            assert!(spis.insert(spi));
            let esp_spi = worker.new_esp_spi(&mut env);
            assert!(esp_spi > 255 && esp_spis.insert(esp_spi), "{esp_spi:08x}");
            let id = worker.table.next_id();
            assert_eq!(Settings::worker_of(id, MAX_WORKERS), number);
            assert!(numbers.insert(id));
        }
    }
}

#[test]
fn a_worker_alone_numbers_its_sas_one_by_one() {
    let mut endpoint = endpoint();
    let numbers: Vec<_> = (0..3).map(|_| endpoint.table.next_id()).collect();
    assert_eq!(numbers, [1, 2, 3]);
    assert!(
        numbers
            .into_iter()
            .all(|id| Settings::worker_of(id, 1) == 0)
    );
}
