//! Which peers are up, where a connection keeps the login of an identity against later ones: all workers of a
//! gateway know of each other's.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::kernel::Owner;

/// The established IKE SAs of each peer by their numbers, which no two workers have in common, and where
/// the peer is. Bounded by the tables of the workers.
#[derive(Debug, Default)]
pub struct Presence(Mutex<HashMap<Owner, Vec<(u64, SocketAddr)>>>);

impl Presence {
    /// A worker that panicked has left no entry half made.
    fn all(&self) -> MutexGuard<'_, HashMap<Owner, Vec<(u64, SocketAddr)>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An SA of the peer is up, or has moved.
    pub(crate) fn enter(&self, peer: Owner, sa: u64, at: SocketAddr) {
        let mut all = self.all();
        let of_peer = all.entry(peer).or_default();
        of_peer.retain(|(other, _)| *other != sa);
        of_peer.push((sa, at));
    }

    /// An SA of the peer has ended.
    pub(crate) fn leave(&self, peer: &Owner, sa: u64) {
        let mut all = self.all();
        if let Some(of_peer) = all.get_mut(peer) {
            of_peer.retain(|(other, _)| *other != sa);
            if of_peer.is_empty() {
                all.remove(peer);
            }
        }
    }

    /// Where a peer is up that is not here.
    pub(crate) fn elsewhere(&self, peer: &Owner, here: SocketAddr) -> Option<SocketAddr> {
        let all = self.all();
        let mut places = all.get(peer)?.iter().map(|(_, at)| *at);
        let first = places.next()?;
        // From the same socket it authenticates anew, and means to replace what it has.
        let is_here = first == here || places.any(|at| at == here);
        (!is_here).then_some(first)
    }
}
