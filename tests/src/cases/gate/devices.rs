//! Devices of layer 3, whose frames begin with the IP header: the gate for them is another program.

use std::{net::UdpSocket, time::Duration};

use anyhow::{Context, Result, ensure};
use gate_abi::maps::PROGRAM_L3;
use nix::sys::socket::{setsockopt, sockopt};
use rekindled::gate::{Attached, Gate};

use super::{RECEIVE_BUFFER, corpus, counted, link, options, tell};
use crate::{
    netns::{Namespace, connect},
    suite::{Case, Lab},
};

/// Whichever device of layer 3 this kernel has; nobody sends through it here.
pub(super) fn attached(lab: &mut Lab) -> Result<()> {
    let site = Namespace::new("inside")?;
    site.ip("tuntap add dev tun0 mode tun")
        .or_else(|_| site.ip("link add tun0 type ipip local 192.0.2.1 remote 192.0.2.2"))?;
    let options = options(lab, "tun", &["tun0"])?;
    let mut gate = site.within(|| Gate::attach(&options))??;
    let on = gate.attachments().first().context("no attachment")?.clone();
    ensure!(on.mode == Attached::Generic, "{on:?}");
    ensure!(on.reason.contains("begin with IP"), "{on:?}");
    let pin = options.pin_dir.join("links/tun0");
    let (own, program) = link(&pin)?;
    is_for_layer_3(&gate, program)?;
    // A daemon that comes after finds the link and swaps in the same program.
    drop(gate);
    gate = site.within(|| Gate::attach(&options))??;
    let (again, swapped) = link(&pin)?;
    ensure!(again == own && swapped != program, "not swapped");
    is_for_layer_3(&gate, swapped)?;
    gate.detach().map_err(Into::into)
}

/// By its size, which no other program of the gate has. Its name would say it too, but not every
/// kernel's programs have names.
fn is_for_layer_3(gate: &Gate, program: u32) -> Result<()> {
    let mut all = aya::programs::loaded_programs().filter_map(Result::ok);
    let info = all
        .find(|info| info.id() == program)
        .context("no program")?;
    let verified = &gate.loaded().verified;
    let of_that_size: Vec<_> = verified
        .iter()
        .filter(|one| Some(one.size.bpf) == info.size_translated())
        .map(|one| one.program)
        .collect();
    ensure!(of_that_size == [PROGRAM_L3], "{of_that_size:?}");
    Ok(())
}

/// On kernels with IPIP.
pub(crate) const TUNNEL: Case = Case {
    name: "what_comes_through_a_tunnel_is_judged_and_answers_are_left_to_the_daemon",
    run: tunnel,
};

/// Datagrams through a tunnel: what is forged is dropped or left to the daemon, which answers.
fn tunnel(lab: &mut Lab) -> Result<()> {
    let (outside, inside) = (Namespace::new("outside")?, Namespace::new("inside")?);
    connect(
        (&outside, "wan", &["198.51.100.1/24"]),
        (&inside, "wan", &["198.51.100.2/24"]),
    )?;
    for (site, own, other, inner) in [(&outside, 1, 2, 1), (&inside, 2, 1, 2)] {
        site.ip(&format!(
            "link add tunnel type ipip local 198.51.100.{own} remote 198.51.100.{other}"
        ))?;
        site.ip(&format!("address add 192.0.2.{inner}/24 dev tunnel"))?;
        site.ip("link set tunnel up")?;
    }
    let socket = inside.within(|| UdpSocket::bind("192.0.2.2:500"))??;
    socket.set_read_timeout(Some(Duration::from_millis(300)))?;
    setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)?;
    let options = options(lab, "tunnel", &["tunnel"])?;
    let mut gate = inside.within(|| Gate::attach(&options))??;
    tell(&mut gate)?;
    let on = gate.attachments().first().context("no attachment")?.clone();
    ensure!(on.mode == Attached::Generic, "{on:?}");
    let sender = outside.within(|| UdpSocket::bind("192.0.2.1:0"))??;
    let mut buffer = [0; 2048];
    // Until the neighbour below the tunnel is known, a queue holds what is sent, and not for all of it.
    sender.send_to(&corpus::genuine(SENT).octets(), "192.0.2.2:500")?;
    socket.recv(&mut buffer).context("the first datagram")?;
    for index in 0..SENT {
        for message in [corpus::forged(index), corpus::genuine(index)] {
            sender.send_to(&message.octets(), "192.0.2.2:500")?;
        }
    }
    let mut arrived = 0;
    while socket.recv(&mut buffer).is_ok() {
        arrived += 1;
    }
    let count = counted(&gate)?;
    ensure!(count["resume_proven"] == u64::from(SENT) + 1, "{count:?}");
    let left = count["left_to_daemon"];
    ensure!(left > 0 && count["nack_tag_wrong"] == 0, "{count:?}");
    ensure!(left + count["tag_wrong"] == u64::from(SENT), "{count:?}");
    ensure!(
        arrived == u64::from(SENT) + left,
        "{arrived} arrived: {count:?}"
    );
    gate.detach()?;
    Ok(())
}

/// More than the budget of one CPU in a second.
const SENT: u32 = 200;
