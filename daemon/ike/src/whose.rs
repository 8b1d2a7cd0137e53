//! Whom an operator means: a peer goes by its address, by its identity, or by the name of its connection.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use crate::wire::id::Identity;

/// Somebody, as an operator has named him.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Whose {
    text: Arc<str>,
    address: Option<IpAddr>,
    identity: Option<Identity>,
}

impl Whose {
    /// An address, with or without a port; an identity, as it is shown or configured; or a connection.
    #[must_use]
    pub fn from_text(text: &str) -> Self {
        let with_port = || Some(text.parse::<SocketAddr>().ok()?.ip());
        Self {
            text: text.into(),
            address: text.parse().ok().or_else(with_port),
            identity: Identity::from_text(text),
        }
    }

    /// Whether any of what is known of somebody is what was meant.
    #[must_use]
    pub fn is(&self, remote: IpAddr, connection: Option<&str>, peer: Option<&Identity>) -> bool {
        let there = self.address == Some(remote);
        let named = connection == Some(&*self.text);
        there || named || peer.is_some_and(|peer| self.is_peer(peer))
    }

    /// Whether this identity was meant.
    #[must_use]
    pub fn is_peer(&self, peer: &Identity) -> bool {
        let same = self.identity.as_ref().is_some_and(|meant| meant.is(peer));
        same || peer.to_string() == *self.text
    }
}
