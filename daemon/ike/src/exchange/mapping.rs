//! A peer behind a NAT that gives it another address or port (RFC 7296, 2.23): whatever new and
//! authenticated comes from there, IKE or ESP, shows where to send from now on. With MOBIKE the peer says it
//! itself (RFC 4555, 3.8).

use std::{net::SocketAddr, sync::Arc};

use crate::{
    endpoint::{Context, Endpoint},
    io::{Event, Path},
    kernel::Owner,
    sa::{
        children::ChildSa,
        ike_sa::{Live, State},
    },
};

impl Endpoint {
    /// The peer's authenticated ESP comes from `source`. While it does, the kernel repeats itself, so
    /// nothing is lost where this is not the time to follow.
    pub(crate) fn mapped(
        &mut self,
        owner: &Owner,
        spi: u32,
        source: SocketAddr,
        cx: &mut Context<'_>,
    ) {
        for id in self.table.of_owner(owner) {
            let Some(mut sa) = self.table.check_out(id) else {
                continue;
            };
            let path = Path {
                remote: source,
                ..sa.path
            };
            let possible = source.is_ipv4() == path.local.is_ipv4() && source.port() != 0;
            if let State::Up(live) = &mut sa.state
                && possible
                && live.follows_esp(owner, spi, source)
            {
                self.follow_nat((&mut sa.path, live), path, cx);
            }
            self.check_in(sa);
        }
    }

    /// Sends to where the peer's NAT has moved it, from now on. Somebody on the way who is faster than the
    /// peer can have its packets come from anywhere, but not make us follow each.
    pub(super) fn follow_nat(
        &mut self,
        (ike, live): (&mut Path, &mut Live),
        path: Path,
        cx: &Context<'_>,
    ) {
        if !live.pace.mappings.take(cx.now.boot) {
            return;
        }
        *ike = path;
        self.move_children(live, path);
        let connection = Arc::clone(&live.connection.name);
        self.event(Event::Moved { connection, path });
    }
}

impl Live {
    /// Whether new messages show where the peer is.
    pub(super) const fn follows_nat(&self) -> bool {
        self.mobike.is_none() && self.nat.remote
    }

    /// Whether a packet to this SPI of ours shows that the peer is elsewhere than we think. Without a replay
    /// window it may be an old one, and behind a NAT ourselves we would let anybody on the way break the
    /// SA with one (RFC 7296, 2.23).
    fn follows_esp(&self, owner: &Owner, spi: u32, source: SocketAddr) -> bool {
        let shows = |child: &ChildSa| {
            child.owner == *owner
                && child.spi_in == spi
                && child.carriage.replay_window > 0
                && child.path.remote != source
        };
        let pending = self.pending.iter().map(|pending| &pending.child);
        // What has been handed over is beside an SA that may have another peer.
        let beside = self.beside.iter().filter(|_| self.heir.is_none());
        let beside = beside.map(|beside| &beside.child);
        let mut children = self.children.iter().chain(pending).chain(beside);
        self.follows_nat() && !self.nat.is_translated() && children.any(shows)
    }
}
