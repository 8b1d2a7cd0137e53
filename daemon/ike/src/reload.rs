//! Other connections than before, while everything runs. What has not changed notices nothing; what is gone
//! ends, with its SAs. Where settings have changed, what peers have set up stands until it ends, and their next
//! login goes by the new ones; what we have set up ourselves is set up again.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use crate::{
    endpoint::{Context, Endpoint},
    exchange::{block, owner, whole},
    kernel::{KernelOp, Owner},
    peer::{Child, Connection},
    sa::ike_sa::{IkeSa, State},
    view::Closed,
    wire::{
        delete::Delete,
        header::Exchange,
        payload::{ChainWriter, PayloadKind},
    },
};

/// What [`Endpoint::reload`] has found, by name.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Reloaded {
    /// Connections that there were not before.
    pub added: Vec<Arc<str>>,
    /// Those with other settings.
    pub changed: Vec<Arc<str>>,
    /// Those that are gone.
    pub removed: Vec<Arc<str>>,
}

impl Endpoint {
    /// Makes exactly these its connections, from now on. Those that were up by our own doing come back at the
    /// next [`crate::io::Input::Deadline`]. `frees` says whether flows of a connection that are none any more are
    /// to be freed here: by whoever calls its peer, and not while the peer's SA with another has them.
    pub fn reload(
        &mut self,
        connections: &[Arc<Connection>],
        frees: impl Fn(&str) -> bool,
        cx: &mut Context<'_>,
    ) -> Reloaded {
        let mut done = Reloaded::default();
        let names: HashSet<&str> = connections.iter().map(|one| &*one.name).collect();
        let gone = self.slots.entries();
        let gone: Vec<_> = gone
            .map(|(at, slot)| (at, Arc::clone(&slot.config.name)))
            .filter(|(_, name)| !names.contains(&**name))
            .collect();
        for (at, name) in gone {
            // Refused if nothing of it is up.
            let _not_up = self.down(at, cx);
            self.slots.remove(at);
            done.removed.push(name);
        }
        for connection in connections {
            let name = Arc::clone(&connection.name);
            let Some(at) = self.slots.of(&name) else {
                self.slots.insert(Arc::clone(connection));
                done.added.push(name);
                continue;
            };
            match self.slots.get_mut(at) {
                // Its lists of revoked certificates may be others all the same.
                Some(slot) if slot.config.is_like(connection) => {
                    slot.config = Arc::clone(connection);
                }
                _ => {
                    self.change(at, connection, frees(&name), cx);
                    done.changed.push(name);
                }
            }
        }
        self.slots.arrange(connections);
        done
    }

    /// Takes on other settings of a connection.
    fn change(&mut self, at: usize, new: &Arc<Connection>, frees: bool, cx: &mut Context<'_>) {
        let attempts = self.table.attempts_at(&new.name);
        let under_way = self.end_look_up(at) | self.retries.remove(&at).is_some();
        let under_way = under_way || !attempts.is_empty();
        for attempt in attempts {
            if let Some(sa) = self.table.check_out(attempt) {
                self.forget(&sa);
            }
        }
        self.sleepers.remove(&at);
        let Some(slot) = self.slots.get_mut(at) else {
            return;
        };
        let old = std::mem::replace(&mut slot.config, Arc::clone(new));
        let wanted = slot.wanted || under_way;
        slot.wanted = wanted && new.may_dial();
        slot.suspended = false;
        slot.retries = 0;
        slot.dial_from = None;
        slot.asked.retain(|child| new.child(child).is_some());
        slot.detours.give_up();
        if old.vips != new.vips {
            slot.leased.clear();
        }
        let asleep_with = slot.record.as_ref().map(|record| record.id_r.clone());
        let mut owners: Vec<(Owner, Arc<str>)> = Vec::new();
        for child in &old.children {
            let name = &child.name;
            owners.push((whole(&old, name), Arc::clone(name)));
            if let Some(peer) = &asleep_with {
                owners.push((owner(&old, name, peer, &[]), Arc::clone(name)));
            }
        }
        for sa in self.ids_of(&old) {
            let Some(sa) = self.table.check_out(sa) else {
                continue;
            };
            match &sa.state {
                State::Up(live) if live.client => {
                    let children = live.children.iter();
                    owners.extend(children.map(|one| (one.owner.clone(), Arc::clone(&one.name))));
                    self.dismiss(sa, cx);
                }
                _ => self.check_in(sa),
            }
        }
        // It came under other settings, also what was handed over just now.
        self.set_record(&old, None);
        // Nobody else has blocked them: a peer's own go with its SA.
        let freed = if frees && old.may_dial() {
            self.changed_flows((&old, new), owners)
        } else {
            BTreeSet::new()
        };
        let slot = self.slots.get(at);
        let (wanted, trapped) = slot.map_or((false, false), |slot| (slot.wanted, slot.trapped));
        // What old and new flows have in common is free at no time.
        let guards = if (wanted || trapped) && !freed.is_empty() {
            self.guard(new)
        } else {
            Vec::new()
        };
        for owner in freed {
            self.kernel(KernelOp::Release { owner });
        }
        if trapped {
            // Refused if it has nobody to call any more.
            let _none = self.trap(at);
        }
        if wanted {
            self.block_wanted(new);
            self.retries.insert(at, cx.now.boot);
        }
        for owner in guards {
            self.kernel(KernelOp::Release { owner });
        }
    }

    /// Blocks what is to be up in the name of nobody in particular, until that is released.
    fn guard(&mut self, connection: &Connection) -> Vec<Owner> {
        let leased = self
            .slot_of(&connection.name)
            .and_then(|at| self.slots.get(at))
            .map_or(Vec::new(), |slot| slot.leased.clone());
        let wanted: Vec<_> = self.wanted_children(connection).collect();
        let mut guards = Vec::new();
        for child in wanted {
            let Some((owner, mut block)) = block(connection, child, &leased) else {
                continue;
            };
            let guard = Owner(Arc::from(format!("{}!", owner.0)));
            if let KernelOp::Block { owner, .. } = &mut block {
                *owner = guard.clone();
            }
            self.kernel(block);
            guards.push(guard);
        }
        guards
    }

    /// Says DELETE once, if nothing else is unanswered, and waits for nothing: the peer may be gone, which may
    /// be why there are other settings.
    fn dismiss(&mut self, mut sa: IkeSa, cx: &mut Context<'_>) {
        let mut header = sa.header(Exchange::Informational, false, 0);
        let path = sa.path;
        if let State::Up(live) = &mut sa.state
            && live.outstanding.is_none()
        {
            header.message_id = live.window.next_request;
            let mut chain = ChainWriter::new();
            chain.payload(PayloadKind::DELETE, |out| Delete::IkeSa.emit(out));
            let message = live.protection.seal(&header, chain);
            self.send_all(path, &message);
        }
        self.close(sa, Closed::Reconfigured, cx);
    }

    /// Whose flows are none any more, but for those that another SA has. The others stay blocked.
    fn changed_flows(
        &self,
        (old, new): (&Connection, &Connection),
        owners: Vec<(Owner, Arc<str>)>,
    ) -> BTreeSet<Owner> {
        let flows = |child: &Child| {
            let Child {
                local_ts,
                local_dynamic,
                remote_ts,
                remote_dynamic,
                carriage,
                ..
            } = child.clone();
            (local_ts, local_dynamic, remote_ts, remote_dynamic, carriage)
        };
        let stays = |child: &str| {
            let flows = old.child(child).map(flows).zip(new.child(child).map(flows));
            old.vips == new.vips && flows.is_some_and(|(old, new)| old == new)
        };
        let freed = owners
            .into_iter()
            .filter(|(owner, child)| !stays(child) && self.table.of_owner(owner).is_empty());
        freed.map(|(owner, _)| owner).collect()
    }
}
