//! Who waits for which event of a worker's core: operators' commands that take their time.

use std::{collections::BTreeSet, sync::Arc};

use ike::{io::Event, view::Closed};
use tokio::sync::oneshot;

use crate::control::{ChildCommand, CommandError, RekeyDone, UpDone};

/// Commands that end with an event. Each belongs to a client of the control socket, whose number and
/// patience are bounded there.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    pub(super) up: Vec<Client<UpDone>>,
    pub(super) down: Vec<Client<()>>,
    pub(super) rekey: Vec<Client<RekeyDone>>,
    /// Whose IKE SA is up, and is to get its first Child SA by an exchange of its own (RFC 6023).
    first_child: Vec<(UpDone, Client<UpDone>)>,
    children: Vec<ChildClient>,
}

/// Who waits for what becomes of Child SAs.
#[derive(Debug)]
struct ChildClient {
    connection: Arc<str>,
    /// Those that nothing has been heard of yet.
    children: BTreeSet<Arc<str>>,
    what: ChildCommand,
    reply: oneshot::Sender<Result<(), CommandError>>,
}

/// What becomes of one.
#[derive(Clone, Copy, Debug)]
enum ChildEvent {
    Up,
    Rekeyed,
    Closed(Closed),
    Failed(Closed),
}

/// Who waits for a connection's next event of some kind.
pub(super) type Client<T> = (Arc<str>, oneshot::Sender<Result<T, CommandError>>);

impl Waiting {
    /// Answers whoever waited for this. An answer nobody waits for any more is dropped.
    pub(super) fn resolve(&mut self, event: &Event) {
        self.up.retain(|(_, reply)| !reply.is_closed());
        self.down.retain(|(_, reply)| !reply.is_closed());
        self.rekey.retain(|(_, reply)| !reply.is_closed());
        self.first_child
            .retain(|(_, (_, reply))| !reply.is_closed());
        self.children.retain(|client| !client.reply.is_closed());
        match event {
            Event::Established {
                sa,
                connection,
                resumed,
                took,
                ..
            } => {
                let done = UpDone {
                    sa: *sa,
                    resumed: *resumed,
                    took: Some(*took),
                };
                answer(&mut self.up, connection, &Ok(done));
            }
            Event::UpFailed { connection, reason } => {
                answer(&mut self.up, connection, &Err(CommandError::Ended(*reason)));
                self.child(connection, None, ChildEvent::Failed(*reason));
                self.first_child(connection, Some(*reason));
            }
            Event::KernelFailed { connection, text } => {
                answer(
                    &mut self.up,
                    connection,
                    &Err(CommandError::Kernel(text.clone())),
                );
            }
            // After a rekey the old SA ends, but not what anybody waits for.
            Event::Closed {
                connection, reason, ..
            } if *reason != Closed::Rekeyed => {
                answer(
                    &mut self.rekey,
                    connection,
                    &Err(CommandError::Ended(*reason)),
                );
                let ended = if matches!(reason, Closed::Down | Closed::PeerDeleted) {
                    ChildEvent::Closed(*reason)
                } else {
                    ChildEvent::Failed(*reason)
                };
                self.child(connection, None, ended);
                self.first_child(connection, Some(*reason));
                let outcome = match reason {
                    Closed::Down | Closed::PeerDeleted | Closed::Timeout => Ok(()),
                    other => Err(CommandError::Ended(*other)),
                };
                answer(&mut self.down, connection, &outcome);
            }
            Event::Rekeyed {
                old,
                sa,
                connection,
            } => {
                let done = RekeyDone { old: *old, sa: *sa };
                answer(&mut self.rekey, connection, &Ok(done));
            }
            Event::ChildRekeyed { connection, child } => {
                self.child(connection, Some(child), ChildEvent::Rekeyed);
            }
            Event::ChildUp { connection, child } => {
                self.child(connection, Some(child), ChildEvent::Up);
                self.first_child(connection, None);
            }
            Event::ChildClosed {
                connection,
                child,
                reason,
            } => self.child(connection, Some(child), ChildEvent::Closed(*reason)),
            Event::ChildFailed {
                connection,
                child,
                reason,
            } => {
                self.child(connection, Some(child), ChildEvent::Failed(*reason));
                self.first_child(connection, Some(*reason));
            }
            Event::Closed { .. }
            | Event::Overheard(_)
            | Event::Suspended { .. }
            | Event::Moved { .. }
            | Event::SessionEnded { .. }
            | Event::Redirected { .. }
            | Event::TicketIssued { .. }
            | Event::TicketReceived { .. }
            | Event::TicketRefused { .. }
            | Event::Failed(_) => {}
        }
    }

    /// Nobody brings the connection up any more.
    pub(super) fn given_up(&mut self, connection: &Arc<str>) {
        let ended = Err(CommandError::Ended(Closed::Down));
        answer(&mut self.up, connection, &ended);
    }

    /// The connection's IKE SA is up without a Child SA: whoever waits for it waits for that as well.
    pub(super) fn bare(&mut self, connection: &Arc<str>, done: UpDone) {
        let clients = self.up.extract_if(.., |(name, _)| name == connection);
        self.first_child
            .extend(clients.map(|client| (done, client)));
    }

    /// The first Child SA of an IKE SA that was made without one is there, or not to be had.
    fn first_child(&mut self, connection: &Arc<str>, ended: Option<Closed>) {
        let is_it = |(_, (name, _)): &mut (UpDone, Client<UpDone>)| name == connection;
        for (done, (_, reply)) in self.first_child.extract_if(.., is_it) {
            let outcome = ended.map_or(Ok(done), |reason| Err(CommandError::Ended(reason)));
            let _gone = reply.send(outcome);
        }
    }

    /// Somebody waits for what becomes of these Child SAs.
    pub(super) fn for_children(
        &mut self,
        connection: Arc<str>,
        children: BTreeSet<Arc<str>>,
        what: ChildCommand,
        reply: oneshot::Sender<Result<(), CommandError>>,
    ) {
        self.children.push(ChildClient {
            connection,
            children,
            what,
            reply,
        });
    }

    /// Something has become of a Child SA, or of each.
    fn child(&mut self, connection: &Arc<str>, child: Option<&Arc<str>>, event: ChildEvent) {
        let mut answers = Vec::new();
        for (at, client) in self.children.iter_mut().enumerate() {
            let named = child.is_none_or(|child| client.children.contains(child));
            if client.connection != *connection || !named {
                continue;
            }
            match (client.what, event) {
                (ChildCommand::Up, ChildEvent::Up)
                | (ChildCommand::Rekey, ChildEvent::Rekeyed | ChildEvent::Up)
                | (ChildCommand::Down, ChildEvent::Closed(_)) => {
                    match child {
                        Some(child) => drop(client.children.remove(child)),
                        None => client.children.clear(),
                    }
                    if client.children.is_empty() {
                        answers.push((at, Ok(())));
                    }
                }
                (_, ChildEvent::Closed(reason) | ChildEvent::Failed(reason)) => {
                    answers.push((at, Err(CommandError::Ended(reason))));
                }
                _ => {}
            }
        }
        // From the last on, so that the others keep their places.
        for (at, outcome) in answers.into_iter().rev() {
            let _gone = self.children.swap_remove(at).reply.send(outcome);
        }
    }
}

fn answer<T: Clone>(
    waiting: &mut Vec<Client<T>>,
    connection: &Arc<str>,
    outcome: &Result<T, CommandError>,
) {
    for (_, reply) in waiting.extract_if(.., |(name, _)| name == connection) {
        let _gone = reply.send(outcome.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closed(reason: Closed) -> Event {
        Event::Closed {
            sa: 1,
            connection: "rw".into(),
            reason,
            session: None,
        }
    }

    #[test]
    fn a_rekey_is_answered_by_its_event_and_a_down_not_by_the_old_sas_end() {
        let mut waiting = Waiting::default();
        let (reply, mut rekeyed) = oneshot::channel();
        waiting.rekey.push(("rw".into(), reply));
        let (reply, mut other) = oneshot::channel();
        waiting.rekey.push(("other".into(), reply));
        let (reply, mut down) = oneshot::channel();
        waiting.down.push(("rw".into(), reply));
        waiting.resolve(&Event::Rekeyed {
            old: 1,
            sa: 2,
            connection: "rw".into(),
        });
        assert_eq!(rekeyed.try_recv(), Ok(Ok(RekeyDone { old: 1, sa: 2 })));
        assert!(other.try_recv().is_err());
        waiting.resolve(&closed(Closed::Rekeyed));
        assert!(down.try_recv().is_err());
        waiting.resolve(&closed(Closed::Down));
        assert_eq!(down.try_recv(), Ok(Ok(())));
    }

    #[test]
    fn whoever_waits_for_what_is_given_up_is_told() {
        let mut waiting = Waiting::default();
        let (reply, mut up) = oneshot::channel();
        waiting.up.push(("rw".into(), reply));
        let (reply, mut other) = oneshot::channel();
        waiting.up.push(("other".into(), reply));
        waiting.given_up(&"rw".into());
        assert_eq!(up.try_recv(), Ok(Err(CommandError::Ended(Closed::Down))));
        assert!(other.try_recv().is_err());
    }

    #[test]
    fn a_rekey_of_a_child_sa_is_answered_by_its_own_event() {
        let mut waiting = Waiting::default();
        let (reply, mut done) = oneshot::channel();
        let both = BTreeSet::from(["net".into(), "web".into()]);
        waiting.for_children("rw".into(), both, ChildCommand::Rekey, reply);
        waiting.resolve(&Event::Rekeyed {
            old: 1,
            sa: 2,
            connection: "rw".into(),
        });
        assert!(done.try_recv().is_err());
        let rekeyed = |child: &str| Event::ChildRekeyed {
            connection: "rw".into(),
            child: child.into(),
        };
        waiting.resolve(&rekeyed("net"));
        waiting.resolve(&rekeyed("other"));
        assert!(done.try_recv().is_err(), "one is still to come");
        waiting.resolve(&rekeyed("web"));
        assert_eq!(done.try_recv(), Ok(Ok(())));
    }

    #[test]
    fn whoever_brings_up_what_is_made_without_a_child_sa_waits_for_the_first_one() {
        let done = UpDone {
            sa: 1,
            resumed: false,
            took: None,
        };
        let connection: Arc<str> = "rw".into();
        let child_up = |connection: &str| Event::ChildUp {
            connection: connection.into(),
            child: "net".into(),
        };
        let failed = Event::ChildFailed {
            connection: "rw".into(),
            child: "net".into(),
            reason: Closed::TsUnacceptable,
        };
        let refused = Err(CommandError::Ended(Closed::TsUnacceptable));
        let lost = Err(CommandError::Ended(Closed::Timeout));
        for (event, outcome) in [
            (child_up("rw"), Ok(done)),
            (failed, refused),
            (closed(Closed::Timeout), lost),
        ] {
            let mut waiting = Waiting::default();
            let (reply, mut up) = oneshot::channel();
            waiting.up.push((Arc::clone(&connection), reply));
            waiting.bare(&connection, done);
            waiting.resolve(&child_up("other"));
            assert!(waiting.up.is_empty() && up.try_recv().is_err());
            waiting.resolve(&event);
            assert_eq!(up.try_recv(), Ok(outcome));
        }
    }

    #[test]
    fn a_rekey_of_an_sa_that_ends_says_how_it_ended() {
        let mut waiting = Waiting::default();
        let (reply, mut rekeyed) = oneshot::channel();
        waiting.rekey.push(("rw".into(), reply));
        waiting.resolve(&closed(Closed::Crashed));
        let ended = Err(CommandError::Ended(Closed::Crashed));
        assert_eq!(rekeyed.try_recv(), Ok(ended));
    }

    #[test]
    fn whoever_brings_a_child_up_learns_why_it_is_not_to_be_had() {
        let mut waiting = Waiting::default();
        let mut ask = |what, child: &str| {
            let (reply, done) = oneshot::channel();
            waiting.for_children("rw".into(), BTreeSet::from([child.into()]), what, reply);
            done
        };
        let mut up = ask(ChildCommand::Up, "web");
        let mut other = ask(ChildCommand::Up, "net");
        let mut down = ask(ChildCommand::Down, "net");
        waiting.resolve(&Event::ChildFailed {
            connection: "rw".into(),
            child: "web".into(),
            reason: Closed::TsUnacceptable,
        });
        let refused = Err(CommandError::Ended(Closed::TsUnacceptable));
        assert_eq!(up.try_recv(), Ok(refused));
        assert!(other.try_recv().is_err());
        waiting.resolve(&Event::ChildUp {
            connection: "rw".into(),
            child: "net".into(),
        });
        assert_eq!(other.try_recv(), Ok(Ok(())));
        assert!(down.try_recv().is_err());
        waiting.resolve(&closed(Closed::Down));
        assert_eq!(down.try_recv(), Ok(Ok(())));
    }
}
