//! A configured connection within an endpoint, and why a command for one is refused.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

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
    /// Packets of its flows are to bring it up.
    pub trapped: bool,
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
    fn new(config: Arc<Connection>) -> Self {
        Self {
            config,
            record: None,
            leased: Vec::new(),
            asked: BTreeSet::new(),
            trapped: false,
            suspended: false,
            wanted: false,
            retries: 0,
            dial_from: None,
            look_up: LookUp::default(),
            detours: Detours::default(),
        }
    }
}

/// All of them. A place is a slot's for as long as it is configured.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    places: Vec<Option<Slot>>,
    by_name: HashMap<Arc<str>, usize>,
    /// Places in the order of the configuration, which is that in which a peer's connection is looked for.
    order: Vec<usize>,
    /// Places of slots that are gone.
    free: Vec<usize>,
}

impl Slots {
    pub(crate) fn new(connections: impl Iterator<Item = Arc<Connection>>) -> Self {
        let mut slots = Self::default();
        for connection in connections {
            let at = slots.insert(connection);
            slots.order.push(at);
        }
        slots
    }

    pub(crate) fn get(&self, at: usize) -> Option<&Slot> {
        self.places.get(at)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, at: usize) -> Option<&mut Slot> {
        self.places.get_mut(at)?.as_mut()
    }

    pub(crate) fn of(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// Each with its place.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (usize, &Slot)> {
        let order = self.order.iter();
        order.filter_map(|at| Some((*at, self.get(*at)?)))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.entries().map(|(_, slot)| slot)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Slot> {
        self.places.iter_mut().flatten()
    }

    /// Takes a connection in, which has no slot yet. [`Slots::arrange`] is to follow.
    pub(crate) fn insert(&mut self, connection: Arc<Connection>) -> usize {
        let at = self.free.pop().unwrap_or(self.places.len());
        self.by_name.insert(Arc::clone(&connection.name), at);
        let slot = Some(Slot::new(connection));
        match self.places.get_mut(at) {
            Some(place) => *place = slot,
            None => self.places.push(slot),
        }
        at
    }

    pub(crate) fn remove(&mut self, at: usize) {
        if let Some(slot) = self.places.get_mut(at).and_then(Option::take) {
            self.by_name.remove(&slot.config.name);
            self.free.push(at);
        }
    }

    /// Puts them in the order of the configuration.
    pub(crate) fn arrange(&mut self, connections: &[Arc<Connection>]) {
        let at = |one: &Arc<Connection>| self.of(&one.name);
        self.order = connections.iter().filter_map(at).collect();
    }
}
