//! What a half-open resumption costs the gateway in memory, as the allocator counts it: whoever
//! presents a genuine ticket, be it a replayed one, gets so many octets until IKE_AUTH comes.

#[expect(dead_code, reason = "shared with the pairs, which use all of it")]
#[path = "pairs/bed.rs"]
mod bed;
#[expect(dead_code, reason = "shared with the pairs, which use all of it")]
#[path = "pairs/env.rs"]
mod env;
#[expect(dead_code, reason = "shared with the pairs, which use all of it")]
#[path = "pairs/model.rs"]
mod model;
#[path = "pairs/sides.rs"]
mod sides;

use std::{
    alloc::System,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use ike::{
    Settings,
    crypto::Secret,
    io::TicketRoot,
    ticket::{Keyring, TicketName, seal::Label},
};
use stats_alloc::{Region, StatsAlloc};

use crate::{
    bed::{Pair, WALL},
    sides::{client_side, gateway_side},
};

#[global_allocator]
static COUNTED: &StatsAlloc<System> = &stats_alloc::INSTRUMENTED_SYSTEM;

const HALF_OPEN: u32 = 10_000;
/// Octets for each, tables and all: 8 MB for as many as a gateway allows unless it is told otherwise.
const BOUND: usize = 1024;
const SEED: u64 = 9;

#[test]
fn a_half_open_resumption_fits_in_a_kilobyte() {
    let many = HALF_OPEN as usize;
    let settings = Settings {
        max_half_open: many,
        max_sas: many * 2,
        cookie_from: many,
        cookie_from_network: HALF_OPEN,
        ..Settings::default()
    };
    let mut pair = Pair::with(SEED, client_side, gateway_side, settings);
    pair.up();
    pair.run(Duration::from_secs(1));
    pair.suspend();
    pair.up();
    let request = pair.flying.remove(0);
    let requests = with_other_tickets(&pair, &request.message);
    pair.sent = Vec::with_capacity(many);
    pair.flying.clear();

    let before = Region::new(COUNTED);
    for (number, message) in (1..).zip(&requests) {
        let from = SocketAddr::from((Ipv4Addr::from_bits(0x0a00_0000 | number), 500));
        pair.deliver(from, request.to, message);
        pair.sent.clear();
        pair.flying.clear();
    }
    let change = before.change();
    assert_eq!(pair.gateway.endpoint.half_open(), many);
    let each = (change.bytes_allocated - change.bytes_deallocated) / many;
    println!("{each} octets for each of {many}");
    assert!(each <= BOUND, "{each} octets for each of {many}");
}

/// The request as it would be with each of many tickets.
fn with_other_tickets(pair: &Pair, request: &[u8]) -> Vec<Vec<u8>> {
    let mut ring = Keyring::new(1);
    let (key_id, root) = &pair.gateway.roots[0];
    ring.add(&TicketRoot {
        key_id: *key_id,
        root: Secret::from(root.as_slice()),
    });
    // Header, nonce and the head of the notification stand before it.
    let (head, rest) = request.split_at(28 + 36 + 8);
    let length = usize::from(u16::from_be_bytes([head[66], head[67]])) - 8;
    let (ticket, rest) = rest.split_at(length);
    let opened = ring
        .open(ticket, pair.now.wall, |_| None)
        .expect("a ticket");
    (1..=HALF_OPEN)
        .map(|index| {
            let label = Label {
                name: TicketName {
                    key_id: *key_id,
                    index: 1000 + index,
                },
                expiry: WALL + 3600,
                no_cookie: false,
            };
            let ticket = ring.seal(label, [7; 12], &opened.state).expect("fits");
            let mut head = head.to_vec();
            head[..4].copy_from_slice(&index.to_be_bytes());
            [head.as_slice(), &ticket, rest].concat()
        })
        .collect()
}
