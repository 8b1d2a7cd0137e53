//! What one Child SA is in the kernel: two states, and the policies that lead to them.

use ike::{
    io::Path,
    kernel::{Carriage, ChildInstall, KernelFailed, Mode},
    wire::ts::TrafficSelector,
};

use super::{
    failed,
    policy::{Content, Direction, Policy, slots},
    wire::{Request, State, StateId},
};

/// A state that we have put into the kernel.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeldState {
    pub(super) id: StateId,
    pub(super) inbound: bool,
}

/// A change of the kernel, and what takes it back.
pub(super) type Step = (Request, Request);

/// The states of a Child SA, inbound first, and for each what adds it and what takes it back. `around` keeps
/// what leaves clear of our own routes.
pub(super) fn states(
    child: &ChildInstall,
    reqid: u32,
    (device, around): (u32, bool),
) -> Result<([HeldState; 2], Vec<Step>), KernelFailed> {
    let wanted = child.cipher.key_octets();
    if [&child.inbound, &child.outbound]
        .iter()
        .any(|key| key.key.len() != wanted)
    {
        return Err(failed("an ESP key has the wrong length for its cipher"));
    }
    let (ours, theirs) = child.addresses();
    if child.carriage.mode == Mode::Transport && child.udp_encap {
        return Err(failed("transport mode does not go through a NAT"));
    }
    if ours.is_ipv4() != theirs.is_ipv4() {
        return Err(failed(
            "the tunnel's ends are of different address families",
        ));
    }
    let (local_port, remote_port) = (child.path.local.port(), child.path.remote.port());
    let mark = child.carriage.mark;
    let held = |destination, spi, inbound| HeldState {
        id: StateId {
            destination,
            spi,
            mark: if inbound { mark.inbound } else { mark.outbound },
        },
        inbound,
    };
    let both = [
        held(ours, child.inbound.spi, true),
        held(theirs, child.outbound.spi, false),
    ];
    let step = |held: HeldState| {
        let (what, source, key, ports) = if held.inbound {
            let ports = (remote_port, local_port);
            ("adding the inbound SA", theirs, &child.inbound.key, ports)
        } else {
            let ports = (local_port, remote_port);
            ("adding the outbound SA", ours, &child.outbound.key, ports)
        };
        let state = State {
            inbound: held.inbound,
            source,
            id: held.id,
            reqid,
            cipher: child.cipher,
            key,
            encap: child.udp_encap.then_some(ports),
            esn: child.esn,
            hard_lifetime: child.hard_lifetime,
            carriage: &child.carriage,
            around,
            device,
        };
        (
            Request::new_state(what, &state),
            Request::delete_state(held.id),
        )
    };
    Ok((both, both.map(step).into()))
}

/// The policies that lead a flow to the state with this outbound SPI, and let in what comes by any state
/// of the same owner.
pub(super) fn policies(
    reqid: u32,
    path: &Path,
    outbound: u32,
    carriage: &Carriage,
    local_ts: &[TrafficSelector],
    remote_ts: &[TrafficSelector],
) -> Result<Vec<Policy>, KernelFailed> {
    let keys = slots(local_ts, remote_ts, carriage).map_err(|text| failed(&text))?;
    let (ours, theirs) = (path.local.ip(), path.remote.ip());
    let policy = |key: super::policy::PolicyKey| {
        let (source, destination, spi) = match key.direction {
            Direction::Out => (ours, theirs, outbound),
            Direction::In | Direction::Forward => (theirs, ours, 0),
        };
        Policy {
            key,
            reqid,
            content: Content::Ipsec {
                source,
                destination,
                spi,
                mode: carriage.mode,
            },
        }
    };
    Ok(keys.into_iter().map(policy).collect())
}
