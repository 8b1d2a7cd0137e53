//! A configured connection within an endpoint, and why a command for one is refused.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use crate::{exchange::Detours, look_up::LookUp, peer::Connection, ticket::SessionRecord};

/// Why a command was not carried out.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CommandRefused {
    /// No connection has this name.
    #[error("no such connection")]
    NoConnection,
    /// The connection has no child of this name.
    #[error("the connection has no such child")]
    NoChild,
    /// Its peer's address is not configured.
    #[error("the connection has no remote address, so it can only answer")]
    CannotInitiate,
    /// No address of ours leads to its peer at the moment.
    #[error("there is no route to its peer")]
    NoRoute,
    /// Nothing to suspend.
    #[error("the connection is not up")]
    NotUp,
    /// Suspending would lose the session.
    #[error("the gateway has issued no ticket")]
    NoTicket,
    /// It is up or on its way already.
    #[error("the connection is up already")]
    UpAlready,
    /// A table is full.
    #[error("too many IKE SAs")]
    Full,
}

/// A connection and what this run knows of it beyond its configuration.
#[derive(Debug)]
pub(crate) struct Slot {
    pub config: Arc<Connection>,
    /// Client: the session that can be resumed.
    pub record: Option<SessionRecord>,
    /// Client: the inner addresses it has, or had last.
    pub leased: Vec<IpAddr>,
    /// Child SAs that the operator has brought up, beside those that come by themselves.
    pub asked: BTreeSet<Arc<str>>,
    /// Put to sleep by the operator.
    pub suspended: bool,
    /// Has been up by our own doing and is to come back when lost.
    pub wanted: bool,
    pub retries: u32,
    /// Where the routing table says a first message leaves from.
    pub dial_from: Option<IpAddr>,
    /// Where its peer is, if that has to be looked up.
    pub look_up: LookUp,
    /// Client: other gateways it has been sent to.
    pub detours: Detours,
}

impl Slot {
    pub(super) fn new(config: Arc<Connection>) -> Self {
        Self {
            config,
            record: None,
            leased: Vec::new(),
            asked: BTreeSet::new(),
            suspended: false,
            wanted: false,
            retries: 0,
            dial_from: None,
            look_up: LookUp::default(),
            detours: Detours::default(),
        }
    }
}
