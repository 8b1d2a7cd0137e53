//! What workers are made of: what all of them share or have alike, and what each has for itself.

use std::{collections::BTreeMap, sync::Arc};

use gate_abi::sip::SipKey;
use ike::{
    Settings,
    crypto::Secret,
    defence::{openings::Openings, rules::Rules},
    io::StoreId,
    peer::Connection,
    sa::presence::Presence,
};
use tokio::sync::mpsc;

use super::{
    dispatch::{HandedOn, HandsOn},
    operator::Question,
    posted::Notices,
    stores::SessionDesk,
};
use crate::{
    config::{PrivateKey, RedirectConfig},
    keeper::{SpiKeys, WorkerStart},
    leases::Leases,
    tickets::Epochs,
};

/// What all workers of an engine are made of.
pub(super) struct Common {
    pub(super) workers: u8,
    /// Of all workers together.
    pub(super) settings: Settings,
    pub(super) connections: Vec<Arc<Connection>>,
    pub(super) private_keys: Arc<BTreeMap<Arc<str>, PrivateKey>>,
    /// Connections that are to be up.
    pub(super) start_up: Vec<Arc<str>>,
    /// Connections that packets bring up.
    pub(super) start_trap: Vec<Arc<str>>,
    pub(super) spi_keys: SpiKeys,
    pub(super) qcd: Secret,
    pub(super) boot_id: [u8; 16],
    pub(super) epochs: Epochs,
    pub(super) openings: Arc<Openings>,
    pub(super) presence: Arc<Presence>,
    /// What first messages are spread by where the kernel does not do it.
    pub(super) spread: SipKey,
    pub(super) notices: Option<Arc<Notices>>,
    /// Networks that are judged beforehand, gate or none.
    pub(super) rules: Arc<Rules>,
    pub(super) leases: Leases,
    pub(super) redirect: RedirectConfig,
}

/// What one worker has for itself.
pub(super) struct Part {
    pub(super) number: u8,
    pub(super) start: WorkerStart,
    pub(super) sessions: SessionDesk,
    /// What became of changes to the references.
    pub(super) stored: mpsc::UnboundedReceiver<(StoreId, bool)>,
    pub(super) questions: mpsc::Receiver<Question>,
    pub(super) handed_on: mpsc::Receiver<HandedOn>,
    pub(super) hands_on: HandsOn,
}
