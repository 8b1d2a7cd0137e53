//! Two workers of one gateway: a session that was the one's is resumed with the other. They share what
//! the gateway has one of, tickets and kernel, and nothing else.

use std::time::Duration;

use ike::{
    Context, Settings,
    io::{Event, Input, Output},
    kernel::KernelOp,
    lease::NoLeases,
    ticket::Refused,
    view::Closed,
};

use crate::bed::{Node, Pair};
use crate::sides::{client_side, gateway_side};

const SOON: Duration = Duration::from_secs(1);
const SEED: u64 = 90;

/// A client that is up with the first worker, and the second one.
fn up() -> (Pair, Node) {
    let settings = |worker| Settings::default().part_of(worker, 2);
    let mut pair = Pair::with(SEED, client_side, gateway_side, settings(0));
    let second = Node::new(2 * SEED + 1, gateway_side, settings(1));
    pair.up();
    pair.run(SOON);
    assert!(pair.keys_agree());
    (pair, second)
}

/// From now on the other worker gets what is sent to the gateway.
fn change(pair: &mut Pair, other: &mut Node) {
    std::mem::swap(&mut pair.gateway, other);
    std::mem::swap(&mut pair.gateway.kernel, &mut other.kernel);
    std::mem::swap(&mut pair.gateway.ledger, &mut other.ledger);
}

/// The client sleeps and comes back by the other worker; what the old one has is still as it was.
fn moved() -> (Pair, Node) {
    let (mut pair, mut second) = up();
    pair.suspend();
    change(&mut pair, &mut second);
    pair.up();
    pair.run(SOON);
    assert!(pair.keys_agree() && pair.client.established()[0].resumed);
    let (_, spi_r) = pair.gateway.established()[0].spis;
    assert_eq!(spi_r[1], 1, "the second worker's");
    (pair, second)
}

fn outputs(node: &mut Node) -> Vec<Output> {
    std::iter::from_fn(|| node.endpoint.poll_output()).collect()
}

#[test]
fn a_resumption_on_another_worker_takes_the_session_over() {
    let (pair, mut old) = moved();
    let view = old.established().remove(0);
    let child = view.children.into_iter().next().expect("a Child SA");
    let new = pair.gateway.child();
    assert_ne!(new.inbound.spi, child.spi_in);
    let (owner, now) = (new.owner.clone(), pair.now);
    let (env, ledger) = (&mut old.env, &mut old.ledger);
    let cx = &mut Context {
        now,
        env,
        ledger,
        leases: &mut NoLeases,
    };
    old.endpoint.taken_over(&owner, new.inbound.spi, cx);
    assert_eq!(old.established().len(), 1, "not the one that was taken");

    let (env, ledger) = (&mut old.env, &mut old.ledger);
    let cx = &mut Context {
        now,
        env,
        ledger,
        leases: &mut NoLeases,
    };
    old.endpoint.taken_over(&owner, child.spi_in, cx);
    assert!(old.established().is_empty());
    let outputs = outputs(&mut old);
    let silent = |output: &Output| match output {
        Output::OwnSpi { spi, live } => !live && *spi == view.spis.1,
        Output::Event(event) => {
            matches!(event, Event::Closed { reason, .. } if *reason == Closed::Replaced)
        }
        _ => false,
    };
    assert!(
        outputs.len() == 2 && outputs.iter().all(silent),
        "{outputs:?}"
    );
}

#[test]
fn an_old_owner_that_hears_nothing_of_it_takes_only_its_own_away() {
    let (mut pair, mut old) = moved();
    let old_spi = old.established()[0].children[0].spi_in;
    let new_spi = pair.gateway.child().inbound.spi;
    let mut removed = Vec::new();
    // Its liveness checks go to a client that has forgotten them.
    for _ in 0..600 {
        pair.advance_to(pair.now.boot + SOON);
        let (now, env, ledger) = (pair.now, &mut old.env, &mut old.ledger);
        let cx = &mut Context {
            now,
            env,
            ledger,
            leases: &mut NoLeases,
        };
        old.endpoint.handle(Input::Deadline, cx);
        for output in outputs(&mut old) {
            match output {
                Output::Kernel {
                    what: KernelOp::Remove { inbound, .. },
                    ..
                } => removed.push(inbound),
                Output::Kernel { what, .. } => panic!("{what:?}"),
                _ => {}
            }
        }
    }
    assert!(old.established().is_empty());
    assert_eq!(removed, [old_spi]);
    assert_eq!(pair.gateway.child().inbound.spi, new_spi);
}

#[test]
fn a_ticket_that_one_worker_has_honoured_is_used_for_all() {
    let (mut pair, mut second) = up();
    pair.suspend();
    let asleep = pair.sent.len();
    pair.up();
    pair.run(SOON);
    let first = pair.sent[asleep..]
        .iter()
        .find(|sent| sent.message[18] == 38);
    let resume = first.expect("a ticket was presented").clone();
    change(&mut pair, &mut second);
    let sent = pair.sent.len();
    pair.deliver(resume.from, resume.to, &resume.message);
    let refused = |event: &Event| {
        matches!(
            event,
            Event::TicketRefused {
                why: Refused::Used,
                ..
            }
        )
    };
    assert!(
        pair.gateway.events.iter().any(refused),
        "{:?}",
        pair.gateway.events
    );
    assert_eq!(pair.sent.len(), sent + 1, "TICKET_NACK");
}
