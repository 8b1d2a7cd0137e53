//! The book of leases in memory: which address is whose, which are in use, and who gets the next one.
//! Keeping it over a restart is the caller's affair.

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
    sync::Arc,
    time::Duration,
};

use super::{Granted, LeaseBook, LeaseId, LeaseRequest, NoLease, Pool};
use crate::{io::Stamp, peer::Unique, wire::id::Identity};

/// Leases of all pools together, in use or not. Beyond it the oldest that is not in use changes hands,
/// however large the pool.
pub const MAX_LEASES: usize = 1 << 18;
/// Below the seconds in [`LeaseRecord::since`], so that no two are equal.
const SINCE_SHIFT: u32 = 16;

/// Whose a lease is. The same peer has one of its own in every connection.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Holder {
    connection: Arc<str>,
    peer: Identity,
}

/// A lease as it is kept over a restart.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LeaseRecord {
    /// The address.
    pub address: IpAddr,
    /// The connection it was leased in.
    pub connection: Arc<str>,
    /// Who has it.
    pub peer: Identity,
    /// When it was last taken or given back: Unix seconds times 65,536, and a count that tells apart
    /// what happened in the same second.
    pub since: u64,
}

/// A pool as an operator sees it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PoolView {
    /// Its name.
    pub name: Arc<str>,
    /// Its ranges.
    pub ranges: Vec<RangeInclusive<IpAddr>>,
    /// Addresses in it.
    pub size: u128,
    /// Leases, in use or not.
    pub leases: u64,
    /// Leases in use.
    pub online: u64,
}

/// A lease as an operator sees it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LeaseView {
    /// Its pool.
    pub pool: Arc<str>,
    /// The lease.
    pub record: LeaseRecord,
    /// Whether an SA has it now.
    pub online: bool,
}

#[derive(Debug)]
struct Entry {
    holder: Arc<Holder>,
    since: u64,
    /// SAs that hold it.
    uses: u32,
}

#[derive(Debug)]
struct PoolState {
    pool: Arc<Pool>,
    /// Leases that nobody uses, the one unused for longest first.
    idle: BTreeSet<(u64, IpAddr)>,
    /// For each range, how many of its first addresses are somebody's.
    marks: Vec<u128>,
    leases: u64,
}

/// All leases of all pools.
#[derive(Debug, Default)]
pub struct Book {
    pools: HashMap<Arc<str>, PoolState>,
    leases: HashMap<IpAddr, Entry>,
    holders: HashMap<Arc<Holder>, Vec<IpAddr>>,
    /// What every SA holds.
    held: HashMap<LeaseId, Vec<IpAddr>>,
    /// Addresses in use by nobody we know, until then on the boot clock.
    spoken_for: HashMap<IpAddr, Duration>,
    last_id: u64,
    last_since: u64,
}

impl Book {
    /// An empty book of these pools. A pool may be named by several connections.
    #[must_use]
    pub fn new(pools: impl IntoIterator<Item = Arc<Pool>>) -> Self {
        let state = |pool: Arc<Pool>| PoolState {
            idle: BTreeSet::new(),
            marks: vec![0; pool.ranges.len()],
            leases: 0,
            pool,
        };
        Self {
            pools: pools
                .into_iter()
                .map(|pool| (Arc::clone(&pool.name), state(pool)))
                .collect(),
            ..Self::default()
        }
    }

    /// Takes a lease of an earlier run in; `false` if its address is in no pool any more, or there are
    /// too many.
    pub fn restore(&mut self, record: LeaseRecord) -> bool {
        let LeaseRecord {
            address,
            connection,
            peer,
            since,
        } = record;
        let known = self.leases.contains_key(&address) || self.leases.len() >= MAX_LEASES;
        if known || self.pool_of(address).is_none() {
            return false;
        }
        self.last_since = self.last_since.max(since);
        let holder = Arc::new(Holder { connection, peer });
        self.enter(address, holder, since);
        if let Some(pool) = self.pool_of(address) {
            pool.idle.insert((since, address));
        }
        true
    }

    /// Nobody gets this address before then but who has it already: an earlier run has left an SA with
    /// it in the kernel.
    pub fn speak_for(&mut self, address: IpAddr, until: Duration) {
        if self.spoken_for.len() < MAX_LEASES && self.pool_of(address).is_some() {
            self.spoken_for.insert(address, until);
        }
    }

    /// Leases addresses, and says which of the leases are new.
    pub fn lease(
        &mut self,
        request: &LeaseRequest<'_>,
    ) -> Result<(Granted, Vec<LeaseRecord>), NoLease> {
        let holder = Arc::new(Holder {
            connection: Arc::clone(&request.connection.name),
            peer: request.peer.clone(),
        });
        let (mut addresses, mut new) = (Vec::new(), Vec::new());
        for wanted in request.wanted {
            let Some(address) = self.choose(&holder, *wanted, request) else {
                continue;
            };
            let since = self.since(request.now);
            let known = self.leases.get(&address);
            if known.is_none_or(|entry| entry.holder != holder) {
                self.strike_out(address);
                self.enter(address, Arc::clone(&holder), since);
                new.push(LeaseRecord {
                    address,
                    connection: Arc::clone(&holder.connection),
                    peer: holder.peer.clone(),
                    since,
                });
            }
            self.begin_use(address);
            addresses.push(address);
        }
        if addresses.is_empty() {
            let mut wanted = request.wanted.iter();
            return Err(match request.connection.leases_per_identity {
                most if wanted.any(|wanted| self.has_enough(&holder, *wanted, request)) => {
                    NoLease::Enough(most)
                }
                _ => NoLease::Exhausted,
            });
        }
        self.last_id += 1;
        let id = LeaseId(self.last_id);
        self.held.insert(id, addresses.clone());
        let granted = Granted {
            id,
            addresses,
            stored: None,
        };
        Ok((granted, new))
    }

    /// An SA has let its addresses go. Returns the leases that nobody uses now.
    pub fn end(&mut self, id: LeaseId, now: Stamp) -> Vec<LeaseRecord> {
        let mut idle = Vec::new();
        for address in self.held.remove(&id).unwrap_or_default() {
            let since = self.since(now);
            let Some(entry) = self.leases.get_mut(&address) else {
                continue;
            };
            entry.uses = entry.uses.saturating_sub(1);
            if entry.uses > 0 {
                continue;
            }
            entry.since = since;
            idle.push(LeaseRecord {
                address,
                connection: Arc::clone(&entry.holder.connection),
                peer: entry.holder.peer.clone(),
                since,
            });
            if let Some(pool) = self.pool_of(address) {
                pool.idle.insert((since, address));
            }
        }
        idle
    }

    /// Every pool, by name.
    #[must_use]
    pub fn pools(&self) -> Vec<PoolView> {
        let view = |state: &PoolState| PoolView {
            name: Arc::clone(&state.pool.name),
            ranges: state.pool.ranges.clone(),
            size: state.pool.ranges.iter().map(size).sum(),
            leases: state.leases,
            online: state.leases.saturating_sub(state.idle.len() as u64),
        };
        let mut views: Vec<_> = self.pools.values().map(view).collect();
        views.sort_by(|a, b| a.name.cmp(&b.name));
        views
    }

    /// Every lease, by address.
    #[must_use]
    pub fn leases(&self) -> Vec<LeaseView> {
        let view = |(address, entry): (&IpAddr, &Entry)| {
            let pool = self.pools.values().find(|state| state.has(*address))?;
            Some(LeaseView {
                pool: Arc::clone(&pool.pool.name),
                record: LeaseRecord {
                    address: *address,
                    connection: Arc::clone(&entry.holder.connection),
                    peer: entry.holder.peer.clone(),
                    since: entry.since,
                },
                online: entry.uses > 0,
            })
        };
        let mut views: Vec<_> = self.leases.iter().filter_map(view).collect();
        views.sort_by_key(|view| view.record.address);
        views
    }

    // RFC 5723: N32, T14
    /// What the peer had before; else what it asks for, if that never was anybody's; else an address
    /// that never was; else the one that nobody has used for longest.
    fn choose(
        &self,
        holder: &Arc<Holder>,
        wanted: IpAddr,
        request: &LeaseRequest<'_>,
    ) -> Option<IpAddr> {
        let pools = || {
            let names = request.connection.pools.iter();
            names.filter_map(|pool| self.pools.get(&pool.name))
        };
        let of_family = |address: &IpAddr| address.is_ipv4() == wanted.is_ipv4();
        let in_pools = |address: IpAddr| pools().any(|pool| pool.has(address));
        let free = |address: &IpAddr| {
            let until = self.spoken_for.get(address);
            until.is_none_or(|until| *until <= request.now.boot)
        };
        let mine = self.holders.get(holder).into_iter().flatten();
        let mut mine = mine.filter(|a| of_family(a) && in_pools(**a));
        let own = match request.connection.unique {
            Unique::Replace | Unique::Keep => mine.next(),
            // It may be there more than once. What an SA has goes only to whoever knows it: this is the
            // same client then, come back.
            Unique::Never => {
                let in_use = |a: &IpAddr| self.leases.get(a).is_some_and(|entry| entry.uses > 0);
                let known = mine.clone().find(|a| **a == wanted);
                known.or_else(|| mine.find(|a| !in_use(a)))
            }
        };
        if let Some(address) = own {
            return Some(*address);
        }
        if self.has_enough(holder, wanted, request) {
            return None;
        }
        let room = self.leases.len() < MAX_LEASES;
        if room && in_pools(wanted) && !self.leases.contains_key(&wanted) {
            // It says so itself: then it may be what is spoken for.
            return Some(wanted);
        }
        let taken = |address: &IpAddr| self.leases.contains_key(address) || !free(address);
        let fresh = pools()
            .filter(|_| room)
            .find_map(|pool| pool.fresh(wanted.is_ipv4(), &taken));
        fresh.or_else(|| {
            let may = |(_, address): &&(u64, IpAddr)| of_family(address) && free(address);
            let oldest = pools().filter_map(|pool| pool.idle.iter().find(may));
            oldest.min().map(|(_, address)| *address)
        })
    }

    /// Whether an identity that may be there more than once has as many addresses of this family in use as
    /// one may.
    fn has_enough(&self, holder: &Arc<Holder>, wanted: IpAddr, request: &LeaseRequest<'_>) -> bool {
        let counts = |address: &&IpAddr| {
            let in_use = self.leases.get(*address).is_some_and(|one| one.uses > 0);
            in_use && address.is_ipv4() == wanted.is_ipv4()
        };
        let mine = self.holders.get(holder).into_iter().flatten();
        let most = usize::from(request.connection.leases_per_identity);
        request.connection.unique == Unique::Never && mine.filter(counts).count() >= most
    }

    fn enter(&mut self, address: IpAddr, holder: Arc<Holder>, since: u64) {
        let entry = Entry {
            holder: Arc::clone(&holder),
            since,
            uses: 0,
        };
        self.leases.insert(address, entry);
        self.holders.entry(holder).or_default().push(address);
        let Self { pools, leases, .. } = self;
        if let Some(pool) = pools.values_mut().find(|pool| pool.has(address)) {
            pool.leases += 1;
            pool.pass(|address| leases.contains_key(&address));
        }
    }

    /// Ends whatever lease there is of an address.
    fn strike_out(&mut self, address: IpAddr) {
        self.spoken_for.remove(&address);
        let Some(entry) = self.leases.remove(&address) else {
            return;
        };
        if let Some(addresses) = self.holders.get_mut(&entry.holder) {
            addresses.retain(|other| *other != address);
            if addresses.is_empty() {
                self.holders.remove(&entry.holder);
            }
        }
        if let Some(pool) = self.pool_of(address) {
            pool.leases = pool.leases.saturating_sub(1);
            pool.idle.remove(&(entry.since, address));
        }
    }

    fn begin_use(&mut self, address: IpAddr) {
        let Some(entry) = self.leases.get_mut(&address) else {
            return;
        };
        entry.uses = entry.uses.saturating_add(1);
        let idle = (entry.since, address);
        if let Some(pool) = self.pool_of(address) {
            pool.idle.remove(&idle);
        }
    }

    fn pool_of(&mut self, address: IpAddr) -> Option<&mut PoolState> {
        self.pools.values_mut().find(|pool| pool.has(address))
    }

    /// Later than everything before it, also after the wall clock was set back.
    fn since(&mut self, now: Stamp) -> u64 {
        let now = now.wall.saturating_mul(1 << SINCE_SHIFT);
        self.last_since = now.max(self.last_since.saturating_add(1));
        self.last_since
    }
}

impl LeaseRecord {
    /// When it was last taken or given back, Unix seconds.
    #[must_use]
    pub const fn since_wall(&self) -> u64 {
        self.since >> SINCE_SHIFT
    }
}

impl PoolState {
    fn has(&self, address: IpAddr) -> bool {
        self.pool
            .ranges
            .iter()
            .any(|range| range.contains(&address))
    }

    /// An address that never was anybody's.
    fn fresh(&self, v4: bool, taken: &impl Fn(&IpAddr) -> bool) -> Option<IpAddr> {
        let ranges = self.pool.ranges.iter().zip(&self.marks);
        ranges
            .filter(|(range, _)| range.start().is_ipv4() == v4)
            .flat_map(|(range, mark)| (*mark..size(range)).map(|offset| nth(range, offset)))
            .find(|address| !taken(address))
    }

    /// Moves the marks on over what is somebody's. Those are never looked at again: a lease changes
    /// hands, but does not end.
    fn pass(&mut self, leased: impl Fn(IpAddr) -> bool) {
        for (range, mark) in self.pool.ranges.iter().zip(&mut self.marks) {
            while *mark < size(range) && leased(nth(range, *mark)) {
                *mark += 1;
            }
        }
    }
}

impl LeaseBook for Book {
    fn grant(&mut self, request: &LeaseRequest<'_>) -> Result<Granted, NoLease> {
        self.lease(request).map(|(granted, _)| granted)
    }
}

/// Addresses in a range.
fn size(range: &RangeInclusive<IpAddr>) -> u128 {
    let last = number(*range.end()).saturating_sub(number(*range.start()));
    last.saturating_add(1)
}

fn nth(range: &RangeInclusive<IpAddr>, offset: u128) -> IpAddr {
    let number = number(*range.start()).saturating_add(offset);
    match range.start() {
        IpAddr::V4(_) => Ipv4Addr::from(number as u32).into(),
        IpAddr::V6(_) => Ipv6Addr::from(number).into(),
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

#[cfg(test)]
mod tests;
