//! Transport mode (RFC 7296, 1.3.1): whoever wants it says so, and both sides have it if the other says so
//! too. It is for the two peers themselves and for nothing behind them; and not across a NAT, where the
//! addresses of RFC 7296, 2.23.1 would have to be guessed at both ends (`docs/decisions/0008`).

use std::net::IpAddr;

use crate::{
    io::Path,
    kernel::Mode,
    peer::Child,
    sa::nat::Nat,
    wire::{
        notify::NotifyKind,
        payload::{Chain, ChainWriter},
        ts::TrafficSelector,
    },
};

/// Initiator: asks for it, if the connection wants it and it can be between these selectors.
pub(super) fn ask(chain: &mut ChainWriter, child: &Child, path: &Path, nat: Nat) {
    let wanted = child.carriage.mode == Mode::Transport;
    if wanted && possible(&child.local_ts, &child.remote_ts, path, nat) {
        chain.notify(NotifyKind::USE_TRANSPORT_MODE, &[]);
    }
}

/// Whether the peer has asked for it, or agreed to it, and we want it too.
pub(super) fn wanted_by_both(child: &Child, chain: &Chain<'_>) -> bool {
    let says = |kind| chain.notifies().any(|notify| notify.kind == kind);
    child.carriage.mode == Mode::Transport && says(NotifyKind::USE_TRANSPORT_MODE)
}

/// Whether these selectors are the two peers, and nobody has rewritten their addresses.
pub(super) fn possible(
    local_ts: &[TrafficSelector],
    remote_ts: &[TrafficSelector],
    path: &Path,
    nat: Nat,
) -> bool {
    let only = |selectors: &[TrafficSelector], address: IpAddr| {
        let is = |ts: &TrafficSelector| (ts.start, ts.end) == (address, address);
        !selectors.is_empty() && selectors.iter().all(is)
    };
    !nat.found() && only(local_ts, path.local.ip()) && only(remote_ts, path.remote.ip())
}
