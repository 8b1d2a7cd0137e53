//! Where a gateway is that a client has been sent to (RFC 5685), and from which address of ours it is
//! reached: the one is asked of the resolver, the other of the routing table.

use std::{
    net::{IpAddr, ToSocketAddrs as _},
    sync::Arc,
    thread,
};

use ike::wire::redirect::GatewayId;
use tokio::sync::{Semaphore, mpsc};
use tracing::{debug, warn};

use super::ways::source_address;

/// Names that are looked up at a time. A resolver may take half a minute to say that it does not know.
const MAX_SEARCHES: usize = 16;
/// Addresses of a name that are looked at.
const MAX_ADDRESSES: usize = 16;
/// Any port will do to ask the routing table.
const PORT: u16 = 500;

/// A search that has ended.
#[derive(Debug)]
pub(super) struct Located {
    pub(super) connection: Arc<str>,
    pub(super) gateway: GatewayId,
    /// The gateway's address and ours.
    pub(super) found: Option<(IpAddr, IpAddr)>,
}

/// Looks for gateways.
#[derive(Debug)]
pub(super) struct Locator {
    tell: mpsc::UnboundedSender<Located>,
    searches: Arc<Semaphore>,
}

impl Locator {
    /// With where the outcomes come from: one for each search, and the core has one search under way for
    /// each connection.
    pub(super) fn new() -> (Self, mpsc::UnboundedReceiver<Located>) {
        let (tell, located) = mpsc::unbounded_channel();
        let searches = Arc::new(Semaphore::new(MAX_SEARCHES));
        (Self { tell, searches }, located)
    }

    /// Begins to look for a gateway that can be called from `local`, or from any address of ours.
    pub(super) fn find(&self, connection: Arc<str>, gateway: GatewayId, local: Option<IpAddr>) {
        let named = gateway.clone();
        let done = move |found| Located {
            connection: Arc::clone(&connection),
            gateway: named.clone(),
            found,
        };
        // Fails if the worker is ending.
        let tell = |located| drop(self.tell.send(located));
        let name = match &gateway {
            GatewayId::Address(address) => return tell(done(way_to([*address], local))),
            GatewayId::Name(name) => Arc::clone(name),
        };
        let Ok(place) = Arc::clone(&self.searches).try_acquire_owned() else {
            warn!("{name}: not looked up: {MAX_SEARCHES} other names are");
            return tell(done(None));
        };
        let (later, sender) = (done.clone(), self.tell.clone());
        // Not one of the runtime's threads: those would keep the engine from ending.
        let searcher = thread::Builder::new().name("resolver".into());
        let started = searcher.spawn(move || {
            let found = match (&*name, PORT).to_socket_addrs() {
                Ok(addresses) => {
                    let addresses = addresses.take(MAX_ADDRESSES);
                    way_to(addresses.map(|address| address.ip()), local)
                }
                Err(error) => {
                    warn!("{name}: {error}");
                    None
                }
            };
            let _ended = sender.send(later(found));
            drop(place);
        });
        if let Err(error) = started {
            warn!("no thread to look a name up: {error}");
            tell(done(None));
        }
    }
}

/// The first address that can be called, and the address of ours to call it from.
fn way_to(
    addresses: impl IntoIterator<Item = IpAddr>,
    local: Option<IpAddr>,
) -> Option<(IpAddr, IpAddr)> {
    addresses.into_iter().find_map(|address| match local {
        Some(local) => (local.is_ipv4() == address.is_ipv4()).then_some((address, local)),
        None => match source_address((address, PORT).into()) {
            Ok(local) => Some((address, local)),
            Err(error) => {
                debug!("{address}: {error}");
                None
            }
        },
    })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[tokio::test]
    async fn an_address_needs_no_resolver_and_a_name_does() {
        let (locator, mut located) = Locator::new();
        let mut find = async |gateway, local| {
            locator.find("rw".into(), gateway, local);
            located.recv().await.expect("an outcome").found
        };
        let named = || GatewayId::Name("localhost".into());
        assert_eq!(
            find(GatewayId::Address(HERE), None).await,
            Some((HERE, HERE))
        );
        let own = IpAddr::from([192, 0, 2, 1]);
        assert_eq!(find(named(), Some(own)).await, Some((HERE, own)));
        // No way leads from one family to the other.
        let own = IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]);
        assert_eq!(find(GatewayId::Address(HERE), Some(own)).await, None);
    }

    #[tokio::test]
    async fn so_many_names_are_looked_up_at_a_time_and_no_more() {
        let (locator, mut located) = Locator::new();
        let _busy = locator.searches.acquire_many(MAX_SEARCHES as u32).await;
        locator.find("rw".into(), GatewayId::Name("localhost".into()), None);
        assert_eq!(located.recv().await.expect("an outcome").found, None);
    }
}
