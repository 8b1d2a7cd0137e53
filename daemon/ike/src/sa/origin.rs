//! Where an IKE SA's authentication came from: a full exchange, or a ticket and the one before it.

use crate::{
    io::{Past, Stamp},
    ticket::state::{AuthMethod, CertificateFacts},
};

/// Where the SA's authentication came from.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub resumed: bool,
    pub resume_count: u16,
    pub full_auth: Past,
    pub auth: AuthMethod,
    pub certificate: Option<CertificateFacts>,
    /// Whether a key exchange of its own is behind the present keys; not so after a resumption, until
    /// the next rekey.
    pub fresh_keys: bool,
    /// When the ticket was issued (gateway) or came (client) that opened it, Unix seconds.
    pub ticket_issued: Option<u64>,
}

impl Origin {
    /// A full authentication, now.
    pub(crate) fn full(
        now: Stamp,
        auth: AuthMethod,
        certificate: Option<CertificateFacts>,
    ) -> Self {
        Self {
            resumed: false,
            resume_count: 0,
            full_auth: now.into(),
            auth,
            certificate,
            fresh_keys: true,
            ticket_issued: None,
        }
    }
}
