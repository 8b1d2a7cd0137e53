//! IKE that passes the gate is worked on by the CPU that is named for it, ESP by the one it came to.

use std::{
    net::UdpSocket,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use gate_abi::{
    frames::Message,
    ike::{PORT_IKE, PORT_NAT_T},
};
use nix::{
    getsockopt_impl, libc,
    sched::{CpuSet, sched_setaffinity},
    sys::socket::{GetSockOpt as _, sockopt::GetStruct},
    unistd::Pid,
};
use rekindled::gate::{Attached, Gate, GateOptions, Mode};

use super::{corpus, options, tell};
use crate::{
    netns::{Namespace, connect},
    suite::{Lab, Skip},
};

#[derive(Clone, Copy)]
struct IncomingCpu;
getsockopt_impl!(
    IncomingCpu,
    libc::SOL_SOCKET,
    libc::SO_INCOMING_CPU,
    i32,
    GetStruct<i32>
);

const OUTSIDE: &str = "192.0.2.1";
const INSIDE: &str = corpus::LOCAL[0];
const ARRIVES_WITHIN: Duration = Duration::from_secs(2);
/// Of each kind: the kernel may move the sender's soft interrupt once in a while.
const TRIES: usize = 20;

pub(super) fn named(lab: &mut Lab) -> Result<()> {
    if thread::available_parallelism()?.get() < 2 {
        return Err(Skip("needs two processors".to_owned()).into());
    }
    let (outside, inside) = (Namespace::new("outside")?, Namespace::new("inside")?);
    connect(
        (&outside, "outside", &["192.0.2.1/24"]),
        (&inside, "inside", &["192.0.2.2/24"]),
    )?;
    for (mode, attached) in [
        (Mode::Native, Attached::Native),
        (Mode::Generic, Attached::Generic),
    ] {
        let options = GateOptions {
            mode,
            ..options(lab, "cpus", &["inside"])?
        };
        let mut gate = inside.within(|| Gate::attach(&options))??;
        let attachment = gate.attachments().first().context("no attachment")?;
        ensure!(attachment.mode == attached, "{attachment:?}");
        tell(&mut gate)?;
        let outcome = worked_on(&mut gate, [&outside, &inside], attached);
        gate.detach()?;
        outcome?;
    }
    Ok(())
}

fn worked_on(gate: &mut Gate, [outside, inside]: [&Namespace; 2], mode: Attached) -> Result<()> {
    let resume = corpus::genuine(1).octets();
    let init = [&[0; 4], &Message::sa_init().octets()[..]].concat();
    let esp = vec![7; 64];
    for (here, there) in [(0, 1), (1, 0)] {
        let left_out = inside.within(|| gate.name_cpus(&[there]))??;
        let steered = mode == Attached::Native;
        ensure!(left_out.is_empty() == steered, "{left_out:?}");
        for (what, port, payload, moves) in [
            ("a resumption", PORT_IKE, &resume, steered),
            (
                "an IKE_SA_INIT behind the marker",
                PORT_NAT_T,
                &init,
                steered,
            ),
            ("ESP in UDP", PORT_NAT_T, &esp, false),
            ("none of ours", 5353, &resume, false),
        ] {
            let expected = if moves { there } else { here };
            let cpus = cpus(outside, inside, here, port, payload)?;
            let right = cpus.iter().filter(|cpu| **cpu == expected).count();
            println!(
                "      {}: {what} sent from CPU {here}, {there} is named: {right} of {} on CPU {expected}",
                mode.name(),
                cpus.len()
            );
            ensure!(right * 10 >= cpus.len() * 9, "{cpus:?}");
        }
    }
    Ok(())
}

/// On which CPUs a payload went up the stack that was sent from one, again and again.
fn cpus(
    outside: &Namespace,
    inside: &Namespace,
    from: u32,
    port: u16,
    payload: &[u8],
) -> Result<Vec<u32>> {
    let sender = outside.within(|| UdpSocket::bind((OUTSIDE, 0)))??;
    // The kernel notes the CPU for connected sockets alone.
    let receiver = inside.within(|| -> Result<_> {
        let socket = UdpSocket::bind((INSIDE, port))?;
        socket.connect(sender.local_addr()?)?;
        socket.set_read_timeout(Some(ARRIVES_WITHIN))?;
        Ok(socket)
    })??;
    outside.within(|| -> Result<Vec<u32>> {
        let mut only = CpuSet::new();
        only.set(from as usize)?;
        sched_setaffinity(Pid::from_raw(0), &only)?;
        let mut buffer = [0; 2048];
        let mut seen = Vec::new();
        let start = Instant::now();
        while seen.len() < TRIES && start.elapsed() < ARRIVES_WITHIN {
            sender.send_to(payload, (INSIDE, port))?;
            let octets = receiver.recv(&mut buffer)?;
            ensure!(buffer.get(..octets) == Some(payload), "other octets");
            let cpu = IncomingCpu.get(&receiver)?;
            seen.push(u32::try_from(cpu)?);
        }
        Ok(seen)
    })?
}
