//! What is wrong with a certificate of ours, before any peer says so.

use ike::{
    peer::LocalAuth,
    trust::{Flaw, OwnChain},
};
use rcgen::date_time_ymd;

use crate::{
    certificates::shows,
    pki::{self, PKI},
    sides::gateway_side,
};

const DAY: u64 = 24 * 3600;

fn unix(year: i32) -> u64 {
    let time = date_time_ymd(year, 1, 1).unix_timestamp();
    u64::try_from(time).expect("after 1970")
}

fn showing(certificates: Vec<Vec<u8>>) -> LocalAuth {
    shows(gateway_side(), certificates).remove(0).local
}

fn told(certificates: Vec<Vec<u8>>, wall: u64) -> Vec<String> {
    let own = OwnChain::of(&showing(certificates)).expect("certificates");
    own.flaws(wall).iter().map(Flaw::to_string).collect()
}

#[test]
fn an_end_is_told_of_two_weeks_before() {
    let ordinary = || vec![PKI.gateway.certificate.clone()];
    let nothing: [&str; 0] = [];
    assert_eq!(told(ordinary(), unix(2027)), nothing);
    assert_eq!(told(ordinary(), unix(2030) - 14 * DAY), nothing);
    let soon = ["our certificate 'CN=gw.example' expires on 2030-01-01T00:00:00Z"];
    assert_eq!(told(ordinary(), unix(2030) - 14 * DAY + 1), soon);
    assert_eq!(told(ordinary(), unix(2030)), soon, "the last second counts");
    let over = ["our certificate 'CN=gw.example' expired on 2030-01-01T00:00:00Z"];
    assert_eq!(told(ordinary(), unix(2030) + 1), over);
    let early = ["our certificate 'CN=gw.example' is not valid before 2026-01-01T00:00:00Z"];
    assert_eq!(told(ordinary(), unix(2026) - 1), early);
    assert_eq!(told(ordinary(), unix(2026)), nothing);
}

#[test]
fn what_is_renewed_often_is_told_of_in_its_last_tenth() {
    let brief = PKI.authority.certify_with(&PKI.gateway, |params| {
        params.not_after = date_time_ymd(2026, 1, 11);
    });
    let begun = unix(2026);
    assert!(told(vec![brief.clone()], begun + 9 * DAY).is_empty());
    assert_eq!(told(vec![brief], begun + 9 * DAY + 1).len(), 1);
}

#[test]
fn an_authority_that_goes_with_it_counts_too() {
    let brief = PKI.authority.below_with("Brief", pki::expired);
    let chain = vec![brief.certify(&PKI.gateway), brief.der.clone()];
    let over = ["our certificate 'CN=Brief' expired on 2026-06-01T00:00:00Z"];
    assert_eq!(told(chain, unix(2027)), over);
}

#[test]
fn what_peers_refuse_at_any_time_is_told() {
    let special = |edit: fn(&mut _)| vec![PKI.authority.certify_with(&PKI.gateway, edit)];
    for (certificates, told_of) in [
        (
            special(pki::of_somebody_else),
            Flaw::OtherName {
                id: "gw.example".to_owned(),
            },
        ),
        (special(pki::for_encryption), Flaw::KeyUsage),
        (vec![b"\x30\x01\x00".to_vec()], Flaw::Malformed { place: 1 }),
        (
            vec![PKI.gateway.certificate.clone(), Vec::new()],
            Flaw::Malformed { place: 2 },
        ),
    ] {
        let own = OwnChain::of(&showing(certificates)).expect("certificates");
        assert_eq!(own.flaws(unix(2027)), [told_of]);
    }
    let key = &gateway_side()[0].local;
    assert_eq!(OwnChain::of(key), None, "a pre-shared key names nobody");
}
