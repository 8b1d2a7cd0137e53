//! NAT detection (RFC 7296, 2.23): each side sends hashes of the addresses it sees, and whoever finds
//! its own view missing knows of a NAT.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use crate::{
    io::Path,
    wire::{header::Header, header::Spi, notify::NotifyKind, payload::Chain, payload::ChainWriter},
};

/// Who sits behind a NAT.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Nat {
    /// Whether we do.
    pub local: Inside,
    /// The peer does.
    pub remote: bool,
    /// The peer has said what it sees: it knows how to go through one.
    pub traversal: bool,
}

/// Whether we sit behind a NAT.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Inside {
    /// No.
    #[default]
    No,
    /// Our address is not the one the peer sees.
    Yes,
    /// No, but it is to be as if we did ([`crate::peer::Connection::encap`]).
    AsIf,
}

impl Nat {
    /// Whether ESP goes into UDP.
    #[must_use]
    pub const fn found(self) -> bool {
        self.wants_keepalives() || self.remote
    }

    /// Whether the way to the peer has to be kept open by us.
    #[must_use]
    pub const fn wants_keepalives(self) -> bool {
        !matches!(self.local, Inside::No)
    }

    /// Whether our address is not the one the peer sees.
    #[must_use]
    pub const fn is_translated(self) -> bool {
        matches!(self.local, Inside::Yes)
    }

    /// Compares what the peer says with what we see. A peer that says nothing has no NAT, as far as
    /// we can know, and could not go through the one that is there by `encap`.
    #[must_use]
    pub fn detect(chain: &Chain<'_>, header: &Header, path: &Path, encap: bool) -> Self {
        let hash_of = |end| hash(header.spi_i, header.spi_r, end);
        let says = |kind| chain.notifies().any(|notify| notify.kind == kind);
        let confirms = |kind, end| {
            let expected = hash_of(end);
            chain
                .notifies()
                .any(|notify| notify.kind == kind && notify.data == expected)
        };
        let (source, destination) = (
            NotifyKind::NAT_DETECTION_SOURCE_IP,
            NotifyKind::NAT_DETECTION_DESTINATION_IP,
        );
        let traversal = says(source) && says(destination);
        Self {
            local: if says(destination) && !confirms(destination, path.local) {
                Inside::Yes
            } else if encap && traversal {
                Inside::AsIf
            } else {
                Inside::No
            },
            remote: says(source) && !confirms(source, path.remote),
            traversal,
        }
    }

    /// Whether a message says what its sender sees.
    pub(crate) fn is_asked(chain: &Chain<'_>) -> bool {
        let about_nat = |kind| {
            matches!(
                kind,
                NotifyKind::NAT_DETECTION_SOURCE_IP | NotifyKind::NAT_DETECTION_DESTINATION_IP
            )
        };
        chain.notifies().any(|notify| about_nat(notify.kind))
    }

    /// Appends our two notifications to a message; with `encap` as if we were behind a NAT: from an address
    /// that nobody has.
    pub fn announce(chain: &mut ChainWriter, (spi_i, spi_r): (Spi, Spi), path: &Path, encap: bool) {
        let source = match path.local.ip() {
            _ if !encap => path.local,
            IpAddr::V4(_) => SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0),
            IpAddr::V6(_) => SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0),
        };
        chain.notify(
            NotifyKind::NAT_DETECTION_SOURCE_IP,
            &hash(spi_i, spi_r, source),
        );
        chain.notify(
            NotifyKind::NAT_DETECTION_DESTINATION_IP,
            &hash(spi_i, spi_r, path.remote),
        );
    }
}

/// SHA-1 is what the RFC says; nothing rests on its strength here.
fn hash(spi_i: Spi, spi_r: Spi, end: SocketAddr) -> [u8; 20] {
    let mut input = [spi_i, spi_r].concat();
    match end {
        SocketAddr::V4(v4) => input.extend_from_slice(&v4.ip().octets()),
        SocketAddr::V6(v6) => input.extend_from_slice(&v6.ip().octets()),
    }
    input.extend_from_slice(&end.port().to_be_bytes());
    let mut out = [0; 20];
    out.copy_from_slice(digest(&SHA1_FOR_LEGACY_USE_ONLY, &input).as_ref());
    out
}
