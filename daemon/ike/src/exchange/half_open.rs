//! Half-open SAs: they take a slot each before anything is proved, and with fragments some more, so
//! there is a bound on both and a rule who gives way.

use crate::{
    counters::Counter,
    endpoint::{Context, Endpoint},
    io::Output,
    sa::{
        ike_sa::{IkeSa, State},
        table::FirstKey,
    },
    view::Closed,
};

/// Half-open SAs that are compared when one has to give way.
const CANDIDATES: usize = 64;
/// SAs that are looked at to find them.
const MAX_LOOKED_AT: usize = 1024;

impl Endpoint {
    /// Keeps a half-open SA and sends its first answer.
    /// If there is no slot left, another gives way.
    pub(crate) fn keep_half_open(
        &mut self,
        sa: IkeSa,
        ni: &[u8],
        key: FirstKey,
        response: Vec<u8>,
        cx: &mut Context<'_>,
    ) {
        if self.budget.is_full()
            && let Some(other) = self
                .gives_way(|_| true)
                .and_then(|id| self.table.check_out(id))
        {
            self.counters.add(Counter::HalfOpenEvicted);
            self.close(other, Closed::Limit, cx);
        }
        if let Some(nonce_head) = ni.first_chunk() {
            self.output(Output::Admitted {
                spi_i: sa.spi_i,
                source: sa.path.remote.ip(),
                nonce_head: *nonce_head,
            });
        }
        self.budget.take(sa.path.remote.ip());
        self.table.remember_first(key, sa.id);
        self.send(sa.path, response);
        self.check_in(sa);
    }

    /// A half-open SA has kept a fragment: if all of them hold too much now, one that holds some gives way.
    pub(crate) fn bound_fragments(&mut self, cx: &mut Context<'_>) {
        if self.table.half_open_octets() <= self.settings.max_half_open_octets {
            return;
        }
        let other = self.gives_way(|sa| sa.half_open_octets() > 0);
        if let Some(other) = other.and_then(|id| self.table.check_out(id)) {
            self.counters.add(Counter::HalfOpenEvicted);
            self.close(other, Closed::Limit, cx);
        }
    }

    /// Of the half-open SAs of a kind that end soonest, the one in the network with most of them: many hosts of
    /// one attacker crowd out each other. To look at a few is as good as to look at all, since each
    /// eviction looks at other few.
    fn gives_way(&self, which: impl Fn(&IkeSa) -> bool) -> Option<u64> {
        let half_open = |sa: &&IkeSa| matches!(sa.state, State::HalfOpen(_));
        self.table
            .soonest()
            .take(MAX_LOOKED_AT)
            .filter(|sa| half_open(sa) && which(sa))
            .take(CANDIDATES)
            // Of those that are alike, the oldest: it has had the longest to prove itself.
            .min_by_key(|sa| u32::MAX - self.budget.of_network(sa.path.remote.ip()))
            .map(|sa| sa.id)
    }
}
