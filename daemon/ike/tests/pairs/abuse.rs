//! Peers that have proved who they are and then ask for too much (attacks 13, 25 and 34), and whoever answers
//! in a peer's name (attack 24): bounded work, the right word on the wire, a line for the operator, and a
//! tunnel that stands.

use std::{sync::atomic::Ordering, time::Duration};

use ike::{
    counters::Counter,
    io::Command,
    wire::{
        header::{Exchange, Header},
        notify::NotifyKind,
        payload::PayloadKind,
    },
};

use crate::{
    bed::{InFlight, Pair},
    tap::{CRITICAL, Payloads, Tap, clear, reclear},
    why::failures,
};

const SOON: Duration = Duration::from_secs(1);

/// A client that is up, and what it takes to speak in its name.
struct Abuser {
    pair: Pair,
    tap: Tap,
    last: InFlight,
    message_id: u32,
}

impl Abuser {
    fn new(seed: u64) -> Self {
        let mut pair = Pair::new(seed);
        pair.up();
        pair.run(SOON);
        assert!(pair.keys_agree());
        let tap = Tap::on(&pair);
        let last = pair.sent[2].clone();
        pair.gateway.events.clear();
        Self {
            pair,
            tap,
            last,
            message_id: 1,
        }
    }

    /// The next request, as the client itself would send it.
    fn header(&mut self, exchange: Exchange) -> Header {
        self.message_id += 1;
        let (header, _) = Header::parse(&self.last.message).expect("a header");
        Header {
            next: PayloadKind::NONE,
            exchange,
            message_id: self.message_id,
            ..header
        }
    }

    /// What the gateway answers at once; nothing if it does not.
    fn ask(&mut self, exchange: Exchange, payloads: Payloads) -> Option<Payloads> {
        let header = self.header(exchange);
        let message = self.tap.forge(&header, payloads);
        self.send(&message)
    }

    fn send(&mut self, message: &[u8]) -> Option<Payloads> {
        let before = self.pair.sent.len();
        let (from, to) = (self.last.from, self.last.to);
        self.pair.deliver(from, to, message);
        // The client would take them for its own.
        self.pair.flying.clear();
        let answer = self.pair.sent.get(before)?;
        Some(self.tap.read(&answer.message))
    }

    fn wait(&mut self, span: Duration) {
        let then = self.pair.now.boot + span;
        self.pair.advance_to(then);
    }

    fn told(&self) -> Vec<String> {
        let all = failures(&self.pair.gateway);
        all.iter().map(ToString::to_string).collect()
    }

    /// The gateway still serves whoever behaves, and holds no more than it did.
    fn stands(mut self) {
        assert_eq!(self.pair.gateway.established().len(), 1);
        assert_eq!(self.pair.gateway.kernel.inbound().len(), 1);
        assert_eq!(self.pair.gateway.endpoint.half_open(), 0);
        self.wait(Duration::from_secs(20));
        let alive = self.ask(Exchange::Informational, Vec::new());
        assert_eq!(alive, Some(Vec::new()), "{:?}", self.told());
    }
}

fn notify(kind: NotifyKind) -> (PayloadKind, Vec<u8>) {
    let [high, low] = kind.0.to_be_bytes();
    (PayloadKind::NOTIFY, vec![0, 0, high, low])
}

fn says(answer: &Payloads, kind: NotifyKind) -> bool {
    let is_it = |octets: &[u8]| octets.get(2..4) == Some(&kind.0.to_be_bytes());
    let mut notifies = answer
        .iter()
        .filter(|(found, _)| *found == PayloadKind::NOTIFY);
    notifies.any(|(_, octets)| is_it(octets))
}

#[test]
fn tickets_are_given_a_few_at_once_and_then_one_a_minute() {
    let mut abuser = Abuser::new(1);
    let mut issued = 0;
    for _ in 0..200 {
        let answer = abuser.ask(
            Exchange::Informational,
            vec![notify(NotifyKind::TICKET_REQUEST)],
        );
        let answer = answer.expect("an answer");
        let ticket = says(&answer, NotifyKind::TICKET_LT_OPAQUE);
        assert!(
            ticket || says(&answer, NotifyKind::TICKET_ACK),
            "{answer:?}"
        );
        issued += u32::from(ticket);
    }
    assert_eq!(issued, 8);
    let told = abuser.told();
    assert!(!told.is_empty() && told.len() <= 100, "{}", told.len());
    assert!(
        told[0].contains("asks for tickets faster than one peer may (sent TICKET_ACK)"),
        "{}",
        told[0]
    );
    abuser.wait(Duration::from_mins(1));
    let mut answers = (0..5).filter_map(|_| {
        abuser.ask(
            Exchange::Informational,
            vec![notify(NotifyKind::TICKET_REQUEST)],
        )
    });
    let again = answers
        .by_ref()
        .filter(|answer| says(answer, NotifyKind::TICKET_LT_OPAQUE));
    assert_eq!(again.count(), 1);
    abuser.stands();
}

#[test]
fn a_storm_of_rekeys_makes_a_bounded_number_of_keys() {
    let mut abuser = Abuser::new(2);
    let before = abuser.pair.gateway.env.agreed.load(Ordering::Relaxed);
    let first = clear(&abuser.pair.sent[0].message);
    let of = |kind| {
        let found = first.iter().find(|(found, _)| *found == kind);
        found.expect("in a first message").1.clone()
    };
    // An SA payload for IKE with no SPI of a new SA: everything is looked at, and nothing can come of it.
    let request = vec![
        (PayloadKind::SA, of(PayloadKind::SA)),
        (PayloadKind::NONCE, of(PayloadKind::NONCE)),
        (PayloadKind::KE, of(PayloadKind::KE)),
    ];
    let (mut refused, mut put_off) = (0, 0);
    for _ in 0..200 {
        let answer = abuser.ask(Exchange::CreateChildSa, request.clone());
        let answer = answer.expect("an answer");
        put_off += u32::from(says(&answer, NotifyKind::TEMPORARY_FAILURE));
        refused += u32::from(says(&answer, NotifyKind::INVALID_SYNTAX));
    }
    assert_eq!((refused, put_off), (32, 168));
    let made = abuser.pair.gateway.env.agreed.load(Ordering::Relaxed) - before;
    assert_eq!(made, 0, "key exchanges");
    let told = abuser.told();
    assert!(told.len() <= 100);
    assert!(
        told.iter().any(|line| line.contains(
            "rw client.example: CREATE_CHILD_SA: the peer asks for new keys or Child SAs faster than \
             one peer may (sent TEMPORARY_FAILURE)"
        )),
        "{told:?}"
    );
    abuser.stands();
}

#[test]
fn rekeys_without_end_are_put_off_though_each_is_right() {
    let mut pair = Pair::established(7);
    let before = pair.gateway.env.agreed.load(Ordering::Relaxed);
    for _ in 0..100 {
        // Refused while the one before is under way.
        let _under_way = pair.command(&Command::Rekey("home".into()));
        pair.run(Duration::from_millis(50));
    }
    let made = pair.gateway.env.agreed.load(Ordering::Relaxed) - before;
    assert!((30..=36).contains(&made), "{made} key exchanges");
    let told = failures(&pair.gateway);
    assert!(
        told.iter()
            .any(|one| one.to_string().contains("faster than one peer may")),
        "{told:?}"
    );
    pair.run(Duration::from_mins(1));
    assert!(pair.keys_agree(), "{:?}", pair.client.events);
}

#[test]
fn child_sas_beyond_the_first_are_refused_and_leave_nothing() {
    let mut abuser = Abuser::new(3);
    let ops = abuser.pair.gateway.kernel.ops;
    let login = abuser.tap.read(&abuser.last.message);
    let of = |kind| {
        let found = login.iter().find(|(found, _)| *found == kind);
        (kind, found.expect("in IKE_AUTH").1.clone())
    };
    let kinds = [PayloadKind::SA, PayloadKind::TS_I, PayloadKind::TS_R];
    let mut request: Payloads = kinds.map(of).to_vec();
    request.insert(1, (PayloadKind::NONCE, vec![7; 32]));
    for _ in 0..200 {
        let answer = abuser.ask(Exchange::CreateChildSa, request.clone());
        let answer = answer.expect("an answer");
        assert!(says(&answer, NotifyKind::NO_ADDITIONAL_SAS), "{answer:?}");
    }
    assert_eq!(abuser.pair.gateway.kernel.ops, ops);
    abuser.stands();
}

#[test]
fn a_flood_of_requests_is_answered_at_the_gateways_pace() {
    let mut abuser = Abuser::new(4);
    let mut answered = 0;
    let sent = abuser.pair.sent.len();
    for _ in 0..10_000 {
        let junk = vec![(PayloadKind::VENDOR_ID, vec![9; 400])];
        match abuser.ask(Exchange::Informational, junk) {
            Some(_) => answered += 1,
            // One that was not answered has to come again.
            None => abuser.message_id -= 1,
        }
    }
    assert_eq!(answered, 256);
    assert_eq!(abuser.pair.sent.len() - sent, 256);
    let counters = abuser.pair.gateway.endpoint.counters();
    assert_eq!(counters.count(Counter::TooFast), 10_000 - 256);
    assert!(abuser.told().len() <= 100);
    // Patience is all it takes.
    abuser.wait(SOON);
    assert!(abuser.ask(Exchange::Informational, Vec::new()).is_some());
    abuser.stands();
}

#[test]
fn a_message_in_too_many_octets_is_seen_and_ends_no_tunnel() {
    let mut abuser = Abuser::new(5);
    let header = abuser.header(Exchange::Informational);
    let huge = vec![(PayloadKind::VENDOR_ID, vec![7; 17 << 10])];
    for fragment in abuser.tap.forge_fragments(&header, huge, 1200) {
        assert_eq!(abuser.send(&fragment), None);
    }
    abuser.message_id -= 1;
    let counters = abuser.pair.gateway.endpoint.counters();
    assert_eq!(counters.count(Counter::FragmentsTooLong), 1);
    let told = abuser.told();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0]
            .contains("client.example: INFORMATIONAL: the peer sent a message of more fragments"),
        "{}",
        told[0]
    );
    abuser.stands();
}

#[test]
fn a_sniffed_message_costs_one_opening_each_time_and_changes_nothing() {
    let mut abuser = Abuser::new(6);
    let header = abuser.header(Exchange::Informational);
    abuser.message_id -= 1;
    let good = abuser.tap.forge(&header, Vec::new());
    for at in 0..500_usize {
        let mut bad = good.clone();
        let end = bad.len();
        bad[end - 1 - at % 16] ^= 1 + (at / 16) as u8;
        assert_eq!(abuser.send(&bad), None);
    }
    let counters = abuser.pair.gateway.endpoint.counters();
    assert_eq!(counters.count(Counter::BadIntegrity), 500);
    // None of it is told as the peer's, or took any of what the peer may ask for.
    assert_eq!(abuser.told(), [""; 0]);
    assert_eq!(counters.count(Counter::TooFast), 0);
    abuser.stands();
}

/// What somebody on the way answers to the client's first message, before the gateway does.
fn answer_in_clear(pair: &mut Pair, kind: NotifyKind) {
    let request = pair.sent[0].clone();
    let mut head = request.message[..28].to_vec();
    (head[16], head[19]) = (0, 0x20);
    head[24..].copy_from_slice(&28_u32.to_be_bytes());
    let [high, low] = kind.0.to_be_bytes();
    let message = reclear(&head, vec![(PayloadKind::NOTIFY, vec![0, 0, high, low])]);
    pair.deliver(request.to, request.from, &message);
}

#[test]
fn a_refusal_that_is_contradicted_is_told_as_forged_once_and_ends_nothing() {
    for (seed, kind) in (0..).zip([
        NotifyKind::NO_PROPOSAL_CHOSEN,
        NotifyKind::AUTHENTICATION_FAILED,
        NotifyKind::INVALID_SYNTAX,
    ]) {
        let mut pair = Pair::new(seed);
        pair.up();
        for _ in 0..50 {
            answer_in_clear(&mut pair, kind);
        }
        pair.run(SOON);
        assert!(pair.keys_agree(), "{:?}", pair.client.events);
        let told = crate::why::told(&pair.client);
        let name = NotifyKind::KNOWN.iter().find(|(known, _)| *known == kind);
        let name = name.expect("one of ours").1;
        assert_eq!(
            told,
            format!(
                "198.51.100.1:500 home: IKE_SA_INIT: our IKE_SA_INIT was refused in clear with {name} and \
                 then answered: one of the two is forged (received {name}); nothing: the attempt went on; \
                 somebody on the way answers in the peer's name, or several do under its address"
            )
        );
        assert_eq!(failures(&pair.client).len(), 1);
        assert!(failures(&pair.gateway).is_empty());
    }
}

#[test]
fn a_forged_nack_is_told_and_the_ticket_opens_its_sa() {
    let mut pair = Pair::established(9);
    pair.suspend();
    pair.client.events.clear();
    pair.sent.clear();
    pair.up();
    for kind in [NotifyKind::TICKET_NACK, NotifyKind::INVALID_SYNTAX] {
        answer_in_clear(&mut pair, kind);
    }
    pair.run(SOON);
    assert!(pair.keys_agree() && pair.client.established()[0].resumed);
    let told = crate::why::told(&pair.client);
    assert!(
        told.contains(
            "our IKE_SESSION_RESUME was refused in clear with TICKET_NACK and then answered"
        ),
        "{told}"
    );
    // Without anybody in between there is nothing to tell.
    pair.suspend();
    pair.client.events.clear();
    pair.up();
    pair.run(SOON);
    assert!(failures(&pair.client).is_empty());
}

#[test]
fn what_is_critical_and_unknown_is_named_and_the_tunnel_stands() {
    let mut abuser = Abuser::new(9);
    for exchange in [Exchange::Informational, Exchange::CreateChildSa] {
        let answer = abuser.ask(exchange, vec![(CRITICAL, vec![7])]);
        let [(kind, octets)] = &answer.expect("an answer")[..] else {
            panic!("one notification");
        };
        // UNSUPPORTED_CRITICAL_PAYLOAD, and the type of what it is about.
        assert_eq!(
            (*kind, &octets[..]),
            (PayloadKind::NOTIFY, &[0, 0, 0, 1, CRITICAL.0][..])
        );
    }
    abuser.stands();
}
