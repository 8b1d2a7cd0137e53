//! Where each item of an IKE SA's state came from: RFC 5723's state table (section 5), and the items
//! that have come into the world since, as one table that the operator's output is made from. Rows are
//! numbered as in the compliance report; what this daemon does not have has no row.

use std::{sync::Arc, time::Duration};

use crate::{
    endpoint::Endpoint,
    io::Stamp,
    peer::Redirection,
    sa::{
        ike_sa::{ChildSa, IkeSa, Live, State},
        nat::Inside,
    },
    ticket::state::AuthMethod,
    view::hex,
    wire::{id::Identity, ts::TrafficSelector},
};

/// Where an item can come from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Source {
    /// Our configuration.
    Config,
    /// The exchanges that made this SA.
    Exchange,
    /// The ticket; at the client, the record it keeps beside the ticket.
    Ticket,
    /// Set back when the SA began.
    Fresh,
}

impl Source {
    /// Lower-case word for JSON and tables.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Exchange => "exchange",
            Self::Ticket => "ticket",
            Self::Fresh => "fresh",
        }
    }
}

/// The sources of an item at both ends; more than one if each has a say.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ends {
    /// Whoever presents tickets.
    pub client: &'static [Source],
    /// Whoever issues them.
    pub gateway: &'static [Source],
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Its number, as in the compliance report.
    pub row: &'static str,
    /// The item, in lower case with underscores.
    pub item: &'static str,
    /// After a full login.
    pub full: Ends,
    /// After a resumption.
    pub resumed: Ends,
    /// After a rekey of a resumed SA. The rekey of any other leaves the sources as they are.
    pub rekeyed: Ends,
    value: fn(&IkeSa, &Live, Stamp) -> String,
}

/// An item of one SA.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Item {
    /// Number of its row.
    pub row: &'static str,
    /// The item.
    pub item: &'static str,
    /// Its value; never a secret.
    pub value: String,
    /// Where that came from.
    pub from: &'static [Source],
}

/// Every item of one SA.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SaOrigin {
    /// Our number of the SA.
    pub id: u64,
    /// The connection's name.
    pub connection: Arc<str>,
    /// Since the ticket was issued that opened it; as client, since it came.
    pub ticket_age: Option<Duration>,
    /// In the order of [`ROWS`].
    pub items: Vec<Item>,
}

const CONFIG: &[Source] = &[Source::Config];
const EXCHANGE: &[Source] = &[Source::Exchange];
const TICKET: &[Source] = &[Source::Ticket];
const FRESH: &[Source] = &[Source::Fresh];

const fn ends(client: &'static [Source], gateway: &'static [Source]) -> Ends {
    Ends { client, gateway }
}

const fn both(sources: &'static [Source]) -> Ends {
    ends(sources, sources)
}

/// An item of which every login, full or resumed, makes a new one in the same way.
const fn anew(
    row: &'static str,
    item: &'static str,
    from: &'static [Source],
    value: fn(&IkeSa, &Live, Stamp) -> String,
) -> Row {
    Row {
        row,
        item,
        full: both(from),
        resumed: both(from),
        rekeyed: both(from),
        value,
    }
}

/// An item that a resumption inherits.
const fn inherited(
    row: &'static str,
    item: &'static str,
    full: Ends,
    value: fn(&IkeSa, &Live, Stamp) -> String,
) -> Row {
    Row {
        row,
        item,
        full,
        resumed: both(TICKET),
        rekeyed: both(TICKET),
        value,
    }
}

/// The table.
pub const ROWS: &[Row] = &[
    inherited(
        "T1",
        "initiator_id",
        ends(CONFIG, EXCHANGE),
        |_, live, _| {
            let ours = &live.connection.local.id;
            text_of(if live.client { ours } else { &live.peer })
        },
    ),
    inherited(
        "T2",
        "responder_id",
        ends(EXCHANGE, CONFIG),
        |_, live, _| {
            let ours = &live.connection.local.id;
            text_of(if live.client { &live.peer } else { ours })
        },
    ),
    inherited("T3", "peer_auth", both(EXCHANGE), |_, live, _| {
        let method = match live.origin.auth {
            AuthMethod::PreShared => "pre-shared key",
            AuthMethod::Certificate => "certificate",
            AuthMethod::PublicKey => "public key",
        };
        method.to_owned()
    }),
    inherited("T4", "peer_certificate", both(EXCHANGE), |_, live, _| {
        let facts = live.origin.certificate.as_ref();
        facts.map_or_else(none, |facts| format!("sha256 {}", hex(&facts.fingerprint)))
    }),
    anew("T5", "addresses", EXCHANGE, |sa, _, _| {
        format!("{} - {}", sa.path.local, sa.path.remote)
    }),
    anew("T6", "nat", EXCHANGE, |_, live, _| {
        let at = match (live.nat.local, live.nat.remote) {
            (Inside::No, false) => return none(),
            (Inside::AsIf, false) => "none, as if before us",
            (Inside::Yes, false) => "before us",
            (Inside::No | Inside::AsIf, true) => "before the peer",
            (Inside::Yes, true) => "before both",
        };
        at.to_owned()
    }),
    anew("T7", "spis", EXCHANGE, |sa, _, _| {
        format!("{}_i {}_r", hex(&sa.spi_i), hex(&sa.spi_r))
    }),
    anew("T8", "initiator", EXCHANGE, |sa, _, _| {
        let who = if sa.initiator { "us" } else { "the peer" };
        who.to_owned()
    }),
    anew("T9", "message_ids", FRESH, |_, live, _| {
        let window = &live.window;
        format!(
            "next of ours {}, next of the peer's {}",
            window.next_request, window.expected
        )
    }),
    Row {
        row: "T10",
        item: "ike_algorithms",
        full: both(EXCHANGE),
        resumed: both(TICKET),
        rekeyed: both(EXCHANGE),
        value: |_, live, _| live.suite.to_string(),
    },
    Row {
        row: "T11",
        item: "ike_keys",
        full: both(EXCHANGE),
        resumed: both(&[Source::Ticket, Source::Exchange]),
        rekeyed: both(EXCHANGE),
        value: |_, live, _| {
            let how = if live.origin.fresh_keys {
                "from a key exchange"
            } else {
                "from the old SK_d and new nonces, until the rekey"
            };
            how.to_owned()
        },
    },
    // SET_WINDOW_SIZE is neither sent nor heeded (RFC 7296, 2.3), so there is nothing to count.
    anew("T12", "window_size", FRESH, |_, _, _| "1".to_owned()),
    anew("T13", "child_sa", EXCHANGE, |_, live, _| {
        let children: Vec<_> = live.children.iter().map(child).collect();
        if children.is_empty() {
            return none();
        }
        children.join("; ")
    }),
    anew("T17", "mobike", EXCHANGE, |_, live, _| {
        let known = if live.mobike.is_some() { "yes" } else { "no" };
        known.to_owned()
    }),
    anew("T18", "mobike_addresses", EXCHANGE, |_, live, _| {
        let said = live.mobike.iter().flat_map(|mobike| &mobike.additional);
        let said: Vec<_> = said.map(ToString::to_string).collect();
        if said.is_empty() {
            none()
        } else {
            said.join(" ")
        }
    }),
    Row {
        row: "T19",
        item: "authentication_ends",
        full: ends(&[Source::Config, Source::Exchange], CONFIG),
        resumed: ends(
            &[Source::Ticket, Source::Config, Source::Exchange],
            &[Source::Ticket, Source::Config],
        ),
        rekeyed: both(&[Source::Ticket, Source::Config]),
        value: |_, live, now| format!("in {} s", live.end.saturating_sub(now.boot).as_secs()),
    },
    Row {
        row: "T20",
        item: "redirection",
        full: ends(CONFIG, EXCHANGE),
        resumed: ends(CONFIG, EXCHANGE),
        rekeyed: ends(CONFIG, EXCHANGE),
        value: |_, live, _| {
            let ours = live.connection.redirect == Redirection::Follow;
            let follows = if live.client { ours } else { live.follows };
            if follows { "followed" } else { "not followed" }.to_owned()
        },
    },
    anew("X1", "fragmentation", EXCHANGE, |_, live, _| {
        let agreed = live.protection.takes_fragments();
        if agreed { "agreed" } else { "not agreed" }.to_owned()
    }),
    anew("X6", "crash_token", EXCHANGE, |_, live, _| {
        if live.token.is_empty() {
            none()
        } else {
            format!("{} octets", live.token.len())
        }
    }),
    inherited(
        "X11",
        "full_authentication",
        both(EXCHANGE),
        |_, live, now| {
            let age = live.origin.full_auth.age(now);
            format!("{} s ago", age.as_secs())
        },
    ),
    inherited("X11", "resumptions", both(FRESH), |_, live, _| {
        live.origin.resume_count.to_string()
    }),
    inherited("X11", "connection", ends(CONFIG, EXCHANGE), |_, live, _| {
        live.connection.name.to_string()
    }),
];

impl Row {
    fn ends(&self, live: &Live) -> Ends {
        match (live.origin.resumed, live.origin.fresh_keys) {
            (false, _) => self.full,
            (true, false) => self.resumed,
            (true, true) => self.rekeyed,
        }
    }
}

impl Endpoint {
    /// Where the state of an established SA came from; `None` if no established SA has this number.
    #[must_use]
    pub fn sa_origin(&self, id: u64, now: Stamp) -> Option<SaOrigin> {
        let sa = self.table.get(id)?;
        let State::Up(live) = &sa.state else {
            return None;
        };
        let item = |row: &Row| {
            let ends = row.ends(live);
            Item {
                row: row.row,
                item: row.item,
                value: (row.value)(sa, live, now),
                from: if live.client {
                    ends.client
                } else {
                    ends.gateway
                },
            }
        };
        let issued = live.origin.ticket_issued;
        Some(SaOrigin {
            id,
            connection: Arc::clone(&live.connection.name),
            ticket_age: issued.map(|at| Duration::from_secs(now.wall.saturating_sub(at))),
            items: ROWS.iter().map(item).collect(),
        })
    }
}

fn none() -> String {
    "none".to_owned()
}

fn text_of(id: &Identity) -> String {
    id.to_string()
}

fn child(child: &ChildSa) -> String {
    let list = |selectors: &[TrafficSelector]| {
        let texts: Vec<_> = selectors.iter().map(ToString::to_string).collect();
        texts.join(" ")
    };
    format!(
        "{} {:08x} in {:08x} out, {} - {}",
        child.cipher.name(),
        child.spi_in,
        child.spi_out,
        list(&child.local_ts),
        list(&child.remote_ts),
    )
}
