//! Peers that ask for too much: proposals without end, networks that overlap. What is proven is
//! answered with the right notification, and no answer is longer for it.

use std::{net::IpAddr, time::Duration};

use ike::wire::{notify::NotifyKind, payload::PayloadKind, ts::TrafficSelector};

use crate::{
    bed::Pair,
    tap::{CRITICAL, Payloads, auth_messages, body, clear, meddle, reclear},
};

const SOON: Duration = Duration::from_secs(1);
const AT_ONCE: Duration = Duration::from_millis(100);
const ESP: u8 = 3;

/// A proposal with `count` transforms, all but the last of them ciphers that nobody has.
fn proposal(last: bool, number: u8, count: u8, wanted: &[&[u8]]) -> Vec<u8> {
    let mut transforms = Vec::new();
    for index in 0..count - wanted.len() as u8 {
        transforms.extend([3, 0, 0, 8, 1, 0, 0xf0, index]);
    }
    for (index, wanted) in wanted.iter().enumerate() {
        let more = if index + 1 == wanted.len() { 0 } else { 3 };
        transforms.extend([more, 0, 0, wanted.len() as u8 + 4]);
        transforms.extend_from_slice(wanted);
    }
    let length = (transforms.len() + 12) as u16;
    let more = if last { 0 } else { 2 };
    let mut out = vec![more, 0];
    out.extend(length.to_be_bytes());
    out.extend([number, ESP, 4, count, 0, 0, 1, number]);
    out.extend(transforms);
    out
}

fn set(payloads: &mut Payloads, kind: PayloadKind, octets: Vec<u8>) {
    let found = payloads.iter_mut().find(|(found, _)| *found == kind);
    found.expect("a payload of the kind").1 = octets;
}

/// What the gateway says to an IKE_AUTH that is right in all but this.
fn answered(seed: u64, edit: impl FnOnce(&mut Payloads)) -> (Pair, Payloads) {
    let mut pair = Pair::new(seed);
    pair.up();
    meddle(&mut pair, false, edit);
    pair.run(SOON);
    let answer = auth_messages(&pair).pop().expect("an answer");
    (pair, answer)
}

fn notified(answer: &Payloads, kind: NotifyKind) -> bool {
    let is_it = |octets: &Vec<u8>| octets.get(2..4) == Some(&kind.0.to_be_bytes());
    answer
        .iter()
        .any(|(found, octets)| *found == PayloadKind::NOTIFY && is_it(octets))
}

#[test]
fn of_1_000_transforms_none_is_taken_and_the_answer_says_so() {
    let many: Vec<u8> = (1..=11)
        .flat_map(|number| proposal(number == 11, number, 96, &[]))
        .collect();
    let (pair, answer) = answered(1, |payloads| set(payloads, PayloadKind::SA, many));
    assert!(
        notified(&answer, NotifyKind::NO_PROPOSAL_CHOSEN),
        "{answer:?}"
    );
    assert!(pair.gateway.established().is_empty() && pair.gateway.kernel.installed.is_empty());
    let told = crate::why::told(&pair.gateway);
    assert!(
        told.contains("no ESP proposal in common") && told.len() < 900,
        "{told}"
    );
}

#[test]
fn the_one_right_proposal_among_1_000_transforms_is_found() {
    // AES-GCM-16 of 256 bits, and no ESN.
    let right: [&[u8]; 2] = [&[1, 0, 0, 20, 0x80, 14, 1, 0], &[5, 0, 0, 0]];
    let many: Vec<u8> = (1..=11)
        .flat_map(|number| {
            proposal(
                number == 11,
                number,
                96,
                if number == 11 { &right } else { &[] },
            )
        })
        .collect();
    let (_, answer) = answered(2, |payloads| set(payloads, PayloadKind::SA, many));
    let chosen = body(&answer, PayloadKind::SA);
    assert_eq!(
        (chosen[4], chosen[7]),
        (11, 2),
        "number and transforms: {chosen:?}"
    );
}

#[test]
fn more_transforms_or_proposals_than_are_read_are_a_syntax_error() {
    let wide = proposal(true, 1, 200, &[]);
    let long: Vec<u8> = (1..=60)
        .flat_map(|number| proposal(number == 60, number, 17, &[]))
        .collect();
    for (seed, octets) in [(3, wide), (4, long)] {
        let (pair, answer) = answered(seed, |payloads| set(payloads, PayloadKind::SA, octets));
        assert!(notified(&answer, NotifyKind::INVALID_SYNTAX), "{answer:?}");
        assert!(pair.gateway.established().is_empty());
    }
}

#[test]
fn a_first_message_with_1_000_transforms_leaves_no_half_open_sa() {
    let mut pair = Pair::new(5);
    pair.up();
    let mut first = pair.flying.remove(0);
    let mut payloads = clear(&first.message);
    let many = (1..=11).flat_map(|number| proposal(number == 11, number, 96, &[]));
    set(&mut payloads, PayloadKind::SA, many.collect());
    first.message = reclear(&first.message, payloads);
    pair.flying.push(first);
    // Before the client sends its own again.
    pair.run(AT_ONCE);
    assert_eq!(pair.gateway.endpoint.sas(pair.now).len(), 0);
    let answer = clear(&pair.sent.last().expect("an answer").message);
    assert!(
        notified(&answer, NotifyKind::NO_PROPOSAL_CHOSEN),
        "{answer:?}"
    );
}

#[test]
fn a_first_message_with_more_than_is_read_is_answered_too() {
    let mut pair = Pair::new(7);
    pair.up();
    let mut first = pair.flying.remove(0);
    let mut payloads = clear(&first.message);
    set(&mut payloads, PayloadKind::SA, proposal(true, 1, 200, &[]));
    first.message = reclear(&first.message, payloads);
    pair.flying.push(first);
    pair.run(AT_ONCE);
    assert_eq!(pair.gateway.endpoint.sas(pair.now).len(), 0);
    let answer = clear(&pair.sent.last().expect("an answer").message);
    assert!(
        notified(&answer, NotifyKind::NO_PROPOSAL_CHOSEN),
        "{answer:?}"
    );
    let told = crate::why::told(&pair.gateway);
    assert!(
        told.contains("the peer offers more than 96 transforms"),
        "{told}"
    );
}

#[test]
fn networks_that_overlap_are_cut_to_what_is_ours_and_named_once() {
    // The client's 10.2.0.0/16 in the bed; each of these holds the next.
    let nested: Vec<_> = (8..24)
        .map(|prefix| TrafficSelector::network(IpAddr::from([10, 2, 0, 0]), prefix))
        .collect();
    let mut octets = Vec::new();
    TrafficSelector::emit_all(&nested, &mut octets);
    let (pair, _) = answered(6, |payloads| set(payloads, PayloadKind::TS_I, octets));
    let agreed = &pair.gateway.child().remote_ts;
    let mut once = agreed.clone();
    once.dedup();
    assert_eq!(&once, agreed);
    assert!(agreed.len() <= TrafficSelector::MAX, "{agreed:?}");
}

#[test]
fn a_range_of_addresses_is_taken_as_it_is() {
    let range = TrafficSelector::from_text("10.2.0.5-10.2.0.20").expect("a range");
    let mut octets = Vec::new();
    TrafficSelector::emit_all(&[range], &mut octets);
    let (pair, _) = answered(8, |payloads| set(payloads, PayloadKind::TS_I, octets));
    assert_eq!(pair.gateway.child().remote_ts, [range]);
}

#[test]
fn more_selectors_than_are_kept_are_narrowed_to_those() {
    let mut octets = vec![40, 0, 0, 0];
    for last in 1..=40 {
        let mut one = Vec::new();
        let host = TrafficSelector::network(IpAddr::from([10, 2, 0, last]), 32);
        TrafficSelector::emit_all(&[host], &mut one);
        octets.extend_from_slice(&one[4..]);
    }
    let (pair, _) = answered(9, |payloads| set(payloads, PayloadKind::TS_I, octets));
    assert_eq!(pair.gateway.child().remote_ts.len(), TrafficSelector::MAX);
}

#[test]
fn more_flows_than_a_kernel_is_to_hold_are_narrowed_with_the_first_kept() {
    // Each is made up of 6 networks.
    let ranges: Vec<_> = (0..16)
        .map(|part| format!("10.2.0.{}-10.2.0.{}", 16 * part + 1, 16 * part + 14))
        .map(|range| TrafficSelector::from_text(&range).expect("a range"))
        .collect();
    let mut octets = Vec::new();
    TrafficSelector::emit_all(&ranges, &mut octets);
    let (pair, _) = answered(10, |payloads| set(payloads, PayloadKind::TS_I, octets));
    assert_eq!(pair.gateway.child().remote_ts, ranges[..10]);
}

#[test]
fn a_login_with_something_critical_and_unknown_is_told_what_it_was() {
    let (pair, answer) = answered(11, |payloads| payloads.push((CRITICAL, vec![])));
    let [(PayloadKind::NOTIFY, octets)] = &answer[..] else {
        panic!("{answer:?}");
    };
    assert_eq!(octets[..], [0, 0, 0, 1, CRITICAL.0]);
    assert!(pair.gateway.established().is_empty());

    let mut pair = Pair::new(12);
    pair.up();
    let mut first = pair.flying.remove(0);
    let mut payloads = clear(&first.message);
    payloads.push((CRITICAL, vec![]));
    first.message = reclear(&first.message, payloads);
    pair.flying.push(first);
    pair.run(AT_ONCE);
    let answer = clear(&pair.sent.last().expect("an answer").message);
    assert_eq!(
        answer,
        [(PayloadKind::NOTIFY, vec![0, 0, 0, 1, CRITICAL.0])]
    );
    assert!(pair.gateway.endpoint.sas(pair.now).is_empty());
}
