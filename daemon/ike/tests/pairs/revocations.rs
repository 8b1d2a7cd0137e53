//! Certificates that their authority has taken back, between two cores: what a list ends, what it leaves
//! alone, and that a ticket is no way around it.

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use crate::{
    bed::Pair,
    certificates::{anchors, certified, shows},
    env::Signer,
    pki::{Authority, PKI},
    sides::{client_side, gateway_side},
    why::{failures, told},
};
use ike::{
    Settings,
    crypto::TrustAnchors,
    io::Event,
    peer::{Connection, Proof},
    ticket::Refused,
    trust::{NotAList, RevocationList, RevocationPolicy},
};

const SOON: Duration = Duration::from_secs(5);
/// The bed's clock stands in January 2027.
const LAST_YEAR: i32 = 2026;
const NEXT_YEAR: i32 = 2028;

fn list(authority: &Authority, gone: &[&[u8]], years: (i32, i32)) -> Arc<RevocationList> {
    let der = authority.list(gone, years);
    Arc::new(RevocationList::parse(&der).expect("a list"))
}

static CLIENT_GONE: LazyLock<Arc<RevocationList>> = LazyLock::new(|| {
    list(
        &PKI.authority,
        &[&PKI.client.certificate],
        (LAST_YEAR, NEXT_YEAR),
    )
});

fn asks(
    side: Vec<Connection>,
    lists: &[Arc<RevocationList>],
    policy: RevocationPolicy,
) -> Vec<Connection> {
    let mut side = side;
    let mut anchors: TrustAnchors = anchors(&PKI.authority);
    anchors.revocations.replace(lists.to_vec());
    anchors.revocations.policy = policy;
    side[0].remote.proof = Proof::Certificate(anchors);
    side
}

fn client() -> Vec<Connection> {
    let side = shows(client_side(), vec![PKI.client.certificate.clone()]);
    asks(side, &[], RevocationPolicy::Relaxed)
}

fn gateway_with(lists: &[Arc<RevocationList>], policy: RevocationPolicy) -> Vec<Connection> {
    let side = shows(gateway_side(), vec![PKI.gateway.certificate.clone()]);
    asks(side, lists, policy)
}

fn relaxed(lists: &[Arc<RevocationList>]) -> Vec<Connection> {
    gateway_with(lists, RevocationPolicy::Relaxed)
}

fn strict(lists: &[Arc<RevocationList>]) -> Vec<Connection> {
    gateway_with(lists, RevocationPolicy::Strict)
}

fn called(seed: u64, client: fn() -> Vec<Connection>, gateway: fn() -> Vec<Connection>) -> Pair {
    let mut pair = Pair::with(seed, client, gateway, Settings::default());
    let [home, rw] = [&PKI.client, &PKI.gateway].map(|holder| Signer::Ecdsa(holder.signer()));
    pair.client.env.keys.insert("home", home);
    pair.gateway.env.keys.insert("rw", rw);
    pair.up();
    pair.run(SOON);
    pair
}

/// Refused by the gateway, for a reason that its operator reads.
fn refused(seed: u64, gateway: fn() -> Vec<Connection>, why: &str) {
    let pair = called(seed, client, gateway);
    let text = told(&pair.gateway);
    assert!(text.contains(why), "{text}");
    assert!(text.contains("(sent AUTHENTICATION_FAILED)"), "{text}");
    assert!(pair.gateway.kernel.installed.is_empty() && pair.client.kernel.installed.is_empty());
}

fn taken(seed: u64, gateway: fn() -> Vec<Connection>) {
    let pair = called(seed, client, gateway);
    assert!(pair.keys_agree(), "{:?}", pair.gateway.events);
}

#[test]
fn a_certificate_on_the_list_is_refused() {
    refused(
        1,
        || relaxed(&[Arc::clone(&CLIENT_GONE)]),
        "the certificate of 'CN=client.example' was revoked by 'CN=Test Authority'",
    );
    refused(2, || strict(&[Arc::clone(&CLIENT_GONE)]), "was revoked by");
}

#[test]
fn a_client_refuses_a_gateway_on_its_list() {
    fn careful_client() -> Vec<Connection> {
        let gone = list(
            &PKI.authority,
            &[&PKI.gateway.certificate],
            (LAST_YEAR, NEXT_YEAR),
        );
        let side = shows(client_side(), vec![PKI.client.certificate.clone()]);
        asks(side, &[gone], RevocationPolicy::Relaxed)
    }
    let pair = called(3, careful_client, || relaxed(&[]));
    let text = told(&pair.client);
    assert!(text.contains("'CN=gw.example' was revoked by"), "{text}");
    assert!(pair.gateway.established().is_empty(), "it was told");
}

#[test]
fn others_on_the_list_are_no_matter() {
    fn others() -> Vec<Arc<RevocationList>> {
        vec![list(
            &PKI.authority,
            &[&PKI.gateway.certificate],
            (LAST_YEAR, NEXT_YEAR),
        )]
    }
    taken(4, || relaxed(&others()));
    taken(5, || strict(&others()));
}

#[test]
fn without_a_list_it_depends_on_the_policy() {
    fn of_another() -> Vec<Arc<RevocationList>> {
        vec![list(
            &PKI.intermediate,
            &[&PKI.client.certificate],
            (LAST_YEAR, NEXT_YEAR),
        )]
    }
    taken(6, || relaxed(&[]));
    refused(
        7,
        || strict(&[]),
        "no list says whether the certificate of 'CN=client.example'",
    );
    taken(8, || relaxed(&of_another()));
    refused(9, || strict(&of_another()), "no list says");
}

#[test]
fn an_outdated_list_still_names_whom_it_names() {
    fn old(gone: &[&[u8]]) -> Vec<Arc<RevocationList>> {
        vec![list(&PKI.authority, gone, (2025, LAST_YEAR))]
    }
    taken(10, || relaxed(&old(&[])));
    let pair = called(10, client, || relaxed(&old(&[])));
    let outdated = pair.gateway.endpoint.outdated_lists(pair.now);
    assert_eq!(
        outdated.into_iter().collect::<Vec<_>>(),
        ["CN=Test Authority"]
    );
    refused(
        11,
        || relaxed(&old(&[&PKI.client.certificate])),
        "was revoked by",
    );
    refused(
        12,
        || strict(&old(&[])),
        "the revocation list of 'CN=Test Authority' is outdated",
    );
}

#[test]
fn a_list_counts_from_its_first_day_on_and_the_newest_counts() {
    fn put_back() -> Vec<Arc<RevocationList>> {
        let newer = list(&PKI.authority, &[], (2027, 2029));
        vec![Arc::clone(&CLIENT_GONE), newer]
    }
    fn future() -> Vec<Arc<RevocationList>> {
        vec![list(
            &PKI.authority,
            &[&PKI.client.certificate],
            (NEXT_YEAR, 2029),
        )]
    }
    taken(13, || relaxed(&future()));
    refused(14, || strict(&future()), "no list says");
    taken(15, || relaxed(&put_back()));
}

#[test]
fn a_list_that_the_authority_did_not_sign_vouches_for_nobody() {
    // The same name, another key.
    fn forged() -> Vec<Arc<RevocationList>> {
        vec![list(&PKI.stranger, &[], (LAST_YEAR, NEXT_YEAR))]
    }
    refused(
        16,
        || relaxed(&forged()),
        "the revocation list of 'CN=Test Authority' is not by it",
    );
    refused(17, || strict(&forged()), "is not by it");
}

#[test]
fn a_revoked_intermediate_ends_what_it_has_signed() {
    fn roots_alone() -> Vec<Arc<RevocationList>> {
        vec![list(&PKI.authority, &[], (LAST_YEAR, NEXT_YEAR))]
    }
    fn below() -> Vec<Connection> {
        let leaf = PKI.intermediate.certify(&PKI.client);
        let chain = vec![leaf, PKI.intermediate.der.clone()];
        asks(shows(client_side(), chain), &[], RevocationPolicy::Relaxed)
    }
    fn gone() -> Vec<Arc<RevocationList>> {
        vec![list(
            &PKI.authority,
            &[&PKI.intermediate.der],
            (LAST_YEAR, NEXT_YEAR),
        )]
    }
    let pair = called(18, below, || relaxed(&[]));
    assert!(pair.keys_agree());
    let pair = called(19, below, || relaxed(&gone()));
    let text = told(&pair.gateway);
    assert!(text.contains("revoked"), "{text}");
    // Strictly, each authority on the path needs a list.
    let pair = called(20, below, || strict(&roots_alone()));
    let text = told(&pair.gateway);
    assert!(text.contains("no list says"), "{text}");
}

#[test]
fn lists_that_are_not_whole_are_refused_as_such() {
    let years = (LAST_YEAR, NEXT_YEAR);
    let good = PKI.authority.list(&[&PKI.client.certificate], years);
    let one = RevocationList::parse(&good).expect("a list");
    assert_eq!((one.len(), one.next_update()), (1, 1_830_297_600));
    let spoiled = |what: &[u8], by: &[u8], der: &[u8]| {
        let at = der.windows(what.len()).position(|window| window == what);
        let mut der = der.to_vec();
        let at = at.expect("is there");
        der[at..at + by.len()].copy_from_slice(by);
        RevocationList::parse(&der).err()
    };
    // cRLNumber becomes deltaCRLIndicator.
    assert_eq!(
        spoiled(&[0x55, 0x1d, 20], &[0x55, 0x1d, 27], &good),
        Some(NotAList::Delta)
    );
    let partial = PKI.authority.partial_list(years);
    // onlyContainsUserCerts becomes indirectCRL.
    assert_eq!(
        spoiled(&[0x81, 1, 0xff], &[0x84, 1, 0xff], &partial),
        Some(NotAList::Indirect)
    );
    for cut in [0, 1, good.len() / 2, good.len() - 1] {
        assert_eq!(
            RevocationList::parse(&good[..cut]).err(),
            Some(NotAList::Malformed)
        );
    }
    assert_eq!(
        RevocationList::parse(&PKI.authority.der).err(),
        Some(NotAList::Malformed)
    );
}

/// From now on these lists count at the gateway, and no others.
fn reload(pair: &Pair, lists: &[Arc<RevocationList>]) {
    let config = pair.gateway.endpoint.config_of("rw").expect("a connection");
    match &config.remote.proof {
        Proof::Certificate(anchors) => anchors.revocations.replace(lists.to_vec()),
        other => panic!("{other:?}"),
    }
}

/// Neither the client's ticket nor the full login that follows is taken.
fn does_not_come_back(pair: &mut Pair) {
    pair.client.events.clear();
    pair.gateway.events.clear();
    pair.up();
    pair.run(SOON);
    let why = |event: &Event| match event {
        Event::TicketRefused { why, .. } => Some(*why),
        _ => None,
    };
    let whys: Vec<_> = pair.gateway.events.iter().filter_map(why).collect();
    assert_eq!(
        whys.first(),
        Some(&Refused::Revoked),
        "{:?}",
        pair.gateway.events
    );
    let all = failures(&pair.gateway);
    assert!(
        all.iter()
            .any(|one| one.to_string().contains("was revoked by")),
        "{all:?}"
    );
    assert!(pair.client.established().is_empty() && pair.client.kernel.installed.is_empty());
}

// RFC 5723: A21
#[test]
fn a_ticket_of_a_certificate_revoked_since_does_not_resume() {
    let mut pair = certified(21);
    pair.up();
    pair.run(SOON);
    assert!(pair.keys_agree());
    pair.suspend();
    // The operator has put the list there and started the gateway again.
    pair.gateway.connections = || relaxed(&[Arc::clone(&CLIENT_GONE)]);
    pair.gateway.restart(pair.now);
    does_not_come_back(&mut pair);
    // What the kernel had of the old SA dies at its hard lifetime.
    assert!(pair.gateway.established().is_empty());
}

// RFC 5723: A21
#[test]
fn a_list_that_comes_while_the_gateway_runs_ends_resumptions_and_logins_and_no_sa() {
    let mut pair = certified(23);
    pair.up();
    pair.run(SOON);
    reload(&pair, &[Arc::clone(&CLIENT_GONE)]);
    pair.run(SOON);
    assert!(pair.keys_agree(), "what is up stays");
    pair.suspend();
    does_not_come_back(&mut pair);
    // A login without a ticket fares no better, until the certificate is off the list.
    pair.client.events.clear();
    pair.up();
    pair.run(SOON);
    assert!(pair.client.established().is_empty());
    reload(&pair, &[]);
    pair.up();
    pair.run(SOON);
    assert!(pair.keys_agree());
}

// RFC 5723: A21
#[test]
fn a_ticket_of_another_certificate_does() {
    let mut pair = certified(22);
    pair.up();
    pair.run(SOON);
    pair.suspend();
    pair.gateway.connections = || {
        relaxed(&[list(
            &PKI.authority,
            &[&PKI.gateway.certificate],
            (LAST_YEAR, NEXT_YEAR),
        )])
    };
    pair.gateway.restart(pair.now);
    pair.client.events.clear();
    pair.up();
    pair.run(SOON);
    let resumed = |event: &Event| matches!(event, Event::Established { resumed: true, .. });
    assert!(
        pair.client.events.iter().any(resumed),
        "{:?}",
        pair.gateway.events
    );
}
