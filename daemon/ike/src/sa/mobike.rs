//! What MOBIKE (RFC 4555) keeps of an IKE SA whose two sides have both said that they know it. The side
//! that has begun the first of a chain of IKE SAs decides about addresses, the other one follows.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::nat::Nat;
use crate::wire::{
    notify::{Notify, NotifyKind},
    payload::{Chain, ChainWriter},
};

/// Addresses of the peer that are kept besides the one in use.
pub(crate) const MAX_ADDITIONAL: usize = 16;

/// Addresses and their moves.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mobike {
    /// Where the peer says that it can be reached too (RFC 4555, 3.4).
    pub additional: Vec<IpAddr>,
    /// Initiator: where it was called, which the configuration need not say.
    pub called: Option<IpAddr>,
    /// Initiator: the responder is to be told of the addresses when the window allows (3.5).
    pub update_pending: bool,
    /// Initiator: what the responder has said of where it sees us (3.8).
    pub seen_as: Vec<u8>,
    /// Responder: the peer has to show that it is at the IKE SA's address before traffic goes there (3.7);
    /// and who will be behind a NAT then.
    pub unchecked: Option<Nat>,
}

impl Mobike {
    // RFC 5723: T17, T18
    /// What an IKE_AUTH message of the peer says, if it says that it knows MOBIKE.
    pub(crate) fn said_in(chain: &Chain<'_>) -> Option<Self> {
        let mut notifies = chain.notifies();
        notifies
            .any(|notify| notify.kind == NotifyKind::MOBIKE_SUPPORTED)
            .then(|| Self {
                additional: addresses_in(chain).unwrap_or_default(),
                ..Self::default()
            })
    }

    /// What a new IKE SA in the place of this one begins with. Its SPIs are in what the peer says of
    /// addresses, so that is to be said again.
    pub(crate) fn successor(&self) -> Self {
        Self {
            seen_as: Vec::new(),
            ..self.clone()
        }
    }

    /// Says that we know MOBIKE, and where else we are.
    pub(crate) fn announce(chain: &mut ChainWriter, used: IpAddr, ours: &[IpAddr]) {
        chain.notify(NotifyKind::MOBIKE_SUPPORTED, &[]);
        for address in ours.iter().filter(|address| **address != used) {
            match address {
                IpAddr::V4(v4) => chain.notify(NotifyKind::ADDITIONAL_IP4_ADDRESS, &v4.octets()),
                IpAddr::V6(v6) => chain.notify(NotifyKind::ADDITIONAL_IP6_ADDRESS, &v6.octets()),
            };
        }
    }
}

/// The whole list of addresses that a message brings; `None` if it is not about them (RFC 4555, 3.6).
pub(crate) fn addresses_in(chain: &Chain<'_>) -> Option<Vec<IpAddr>> {
    let about = |notify: &Notify<'_>| {
        matches!(
            notify.kind,
            NotifyKind::ADDITIONAL_IP4_ADDRESS
                | NotifyKind::ADDITIONAL_IP6_ADDRESS
                | NotifyKind::NO_ADDITIONAL_ADDRESSES
        )
    };
    chain.notifies().any(|notify| about(&notify)).then(|| {
        let addresses = chain.notifies().filter_map(|notify| address_of(&notify));
        addresses.take(MAX_ADDITIONAL).collect()
    })
}

fn address_of(notify: &Notify<'_>) -> Option<IpAddr> {
    match notify.kind {
        NotifyKind::ADDITIONAL_IP4_ADDRESS => {
            let octets: [u8; 4] = notify.data.try_into().ok()?;
            Some(Ipv4Addr::from(octets).into())
        }
        NotifyKind::ADDITIONAL_IP6_ADDRESS => {
            let octets: [u8; 16] = notify.data.try_into().ok()?;
            Some(Ipv6Addr::from(octets).into())
        }
        _ => None,
    }
}
