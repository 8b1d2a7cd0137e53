//! The flows of a connection: which of its Child SAs we ask for, what operators say of single ones, and
//! that nothing of a flow leaves in clear from the first attempt until `down`, whatever becomes of its
//! Child SA.

use std::{net::IpAddr, sync::Arc};

use crate::{
    endpoint::{CommandRefused, Context, Endpoint},
    exchange::{block, whole},
    kernel::{KernelOp, Owner},
    peer::{Child, Connection, Start},
    sa::ike_sa::{ChildSa, Live, State},
};

impl Endpoint {
    /// Blocks the flows of connections that an earlier run has left kernel state of, until `down`.
    /// Beside each owner are the inner addresses it has there.
    pub fn keep_blocked(&mut self, owners: &[(Owner, Vec<IpAddr>)]) {
        let mut held = Vec::new();
        for slot in self.slots.iter_mut() {
            for child in &slot.config.children {
                let owner = whole(&slot.config, &child.name);
                let Some((_, leased)) = owners.iter().find(|(other, _)| *other == owner) else {
                    continue;
                };
                if slot.leased.is_empty() {
                    slot.leased.clone_from(leased);
                }
                held.extend(block(&slot.config, child, &slot.leased));
            }
        }
        for (_, block) in held {
            self.kernel(block);
        }
    }

    /// Blocks what is to be up, whether or not it is.
    pub(crate) fn block_wanted(&mut self, connection: &Connection) {
        let slot = self.slot_of(&connection.name);
        let slot = slot.and_then(|at| self.slots.get(at));
        let leased = slot.map_or(&[][..], |slot| &slot.leased);
        let wanted = self.wanted_children(connection);
        let blocks: Vec<_> = wanted
            .filter_map(|child| block(connection, child, leased))
            .collect();
        for (_, block) in blocks {
            self.kernel(block);
        }
    }

    /// Takes a lost Child SA from the kernel, while its flow stays blocked. What blocks it is the
    /// connection's, where it can be: peers that come and never come back must not fill the kernel.
    pub(crate) fn lost(&mut self, connection: &Connection, leased: &[IpAddr], child: ChildSa) {
        let config = connection.child(&child.name);
        match config.and_then(|config| block(connection, config, leased)) {
            // Leased addresses are the owner's, and stay with it.
            Some((whole, block)) if whole != child.owner && leased.is_empty() => {
                self.kernel(block);
                let owner = child.owner;
                self.kernel(KernelOp::Release { owner });
            }
            _ => self.kernel(child.removal()),
        }
    }

    /// Frees every flow of a connection, but for what its single peers have.
    pub(crate) fn release_whole(&mut self, connection: &Connection) {
        for child in &connection.children {
            let owner = whole(connection, &child.name);
            self.kernel(KernelOp::Release { owner });
        }
    }

    /// The Child SAs that come with a connection, in the order of the configuration: those that start
    /// with it or that the operator has brought up, or else the first.
    pub(crate) fn wanted_children<'a>(
        &self,
        connection: &'a Connection,
    ) -> impl Iterator<Item = &'a Child> + use<'a> {
        let slot = self.slot_of(&connection.name);
        let asked = slot
            .and_then(|at| self.slots.get(at))
            .map(|slot| &slot.asked);
        let comes = |child: &&Child| {
            child.start == Start::Up || asked.is_some_and(|asked| asked.contains(&child.name))
        };
        let mut wanted: Vec<_> = connection.children.iter().filter(comes).collect();
        if wanted.is_empty() {
            wanted.extend(connection.children.first());
        }
        wanted.into_iter()
    }

    /// The one that IKE_AUTH asks for.
    pub(crate) fn first_child<'a>(&self, connection: &'a Connection) -> Option<&'a Child> {
        self.wanted_children(connection).next()
    }

    /// Whether a connection is for more than this Child SA.
    pub(crate) fn wants_others(&self, connection: &Connection, child: &str) -> bool {
        let mut wanted = self.wanted_children(connection);
        wanted.any(|other| *other.name != *child)
    }

    /// An IKE SA asks for what it is for and has not, unless it is to do so anyway. `false` if it lacks
    /// nothing.
    pub(crate) fn want_children(&self, live: &mut Live, cx: &Context<'_>) -> bool {
        let connection = Arc::clone(&live.connection);
        for child in self.wanted_children(&connection) {
            live.want_too(&child.name, cx.now.boot);
        }
        !live.wanted.is_empty()
    }

    /// Whether an IKE SA that stands was made without a Child SA (RFC 6023), and is yet to get its first.
    #[must_use]
    pub fn is_bare(&self, sa: u64) -> bool {
        let state = self.table.get(sa).map(|sa| &sa.state);
        matches!(state, Some(State::Up(live))
            if live.connection.childless && live.children.is_empty() && !live.wanted.is_empty())
    }

    /// A connection is up already, but maybe not all of it.
    pub(crate) fn up_missing(
        &mut self,
        slot: usize,
        cx: &mut Context<'_>,
    ) -> Result<(), CommandRefused> {
        let mut sa = self.up_sa(slot).ok_or(CommandRefused::UpAlready)?;
        let lacks = match &mut sa.state {
            State::Up(live) => {
                for wanted in &mut live.wanted {
                    wanted.at = cx.now.boot;
                }
                self.want_children(live, cx)
            }
            _ => false,
        };
        self.live_due(sa, cx);
        if lacks {
            Ok(())
        } else {
            Err(CommandRefused::UpAlready)
        }
    }

    /// Brings a Child SA up on the operator's word, with its connection if that is not up.
    pub(crate) fn up_child(
        &mut self,
        at: usize,
        child: &Arc<str>,
        cx: &mut Context<'_>,
    ) -> Result<(), CommandRefused> {
        let slot = self.slots.get_mut(at).ok_or(CommandRefused::NoConnection)?;
        let connection = Arc::clone(&slot.config);
        if connection.child(child).is_none() {
            return Err(CommandRefused::NoChild);
        }
        slot.asked.insert(Arc::clone(child));
        let Some(mut sa) = self.up_sa(at) else {
            return match self.up(at, cx) {
                // Nor is there an SA of the peer's making.
                Err(CommandRefused::CannotInitiate) => Err(CommandRefused::NotUp),
                other => other,
            };
        };
        if connection.may_dial() {
            self.block_wanted(&connection);
        }
        let mut wanted = false;
        if let State::Up(live) = &mut sa.state {
            live.want_child(child, cx.now.boot);
            wanted = live.wanted.iter().any(|wanted| wanted.name == *child);
        }
        self.live_due(sa, cx);
        if wanted {
            Ok(())
        } else {
            Err(CommandRefused::UpAlready)
        }
    }

    /// Deletes a Child SA on the operator's word. Its flow is free again.
    pub(crate) fn down_child(
        &mut self,
        at: usize,
        child: &Arc<str>,
        cx: &mut Context<'_>,
    ) -> Result<(), CommandRefused> {
        let slot = self.slots.get_mut(at).ok_or(CommandRefused::NoConnection)?;
        if slot.config.child(child).is_none() {
            return Err(CommandRefused::NoChild);
        }
        slot.asked.remove(child);
        let mut sa = self.up_sa(at).ok_or(CommandRefused::NotUp)?;
        let mut found = false;
        if let State::Up(live) = &mut sa.state {
            found = live.end_called(child, cx.now.boot);
        }
        self.live_due(sa, cx);
        if found {
            Ok(())
        } else {
            Err(CommandRefused::NotUp)
        }
    }

    /// Asks the peer for new keys of a Child SA, or of each, on the operator's word.
    pub(crate) fn rekey_child(
        &mut self,
        slot: usize,
        child: Option<&str>,
        cx: &mut Context<'_>,
    ) -> Result<(), CommandRefused> {
        let mut sa = self.up_sa(slot).ok_or(CommandRefused::NotUp)?;
        let mut first = None;
        if let State::Up(live) = &mut sa.state {
            let meant = |one: &&mut ChildSa| child.is_none_or(|child| *one.name == *child);
            for one in live.children.iter_mut().filter(meant) {
                one.rekey_at = Some(cx.now.boot);
                first = first.or(Some(one.spi_in));
            }
        }
        let Some(first) = first else {
            self.check_in(sa);
            return Err(CommandRefused::NotUp);
        };
        self.begin_child_rekey(sa, first, None, cx);
        Ok(())
    }
}
