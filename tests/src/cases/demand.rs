//! Connections that packets bring up: what the kernel says unasked, and what becomes of it.

use std::{
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Result, ensure};
use ike::{
    kernel::{Carriage, KernelOp, Owner},
    wire::ts::TrafficSelector,
};
use rekindled::kernel::{Dataplane as _, Happened, Xfrm};

use super::tunnel::{OFFICE, REAL, client_connection, gateway_connection, two_sites};
use crate::{
    capture::{Capture, Tally},
    netns::{Namespace, connect},
    ping::{Reply, ping},
    site::{Setting, Site},
    suite::{Case, Lab},
    until::until,
};

/// On a kernel with ESP.
pub const WAKES: Case = Case {
    name: "the_first_packet_of_a_flow_brings_its_connection_up_or_resumes_it",
    run: wakes,
};

/// On a kernel with ESP.
pub const OVERRUN: Case = Case {
    name: "after_an_overrun_of_its_events_the_keeper_looks_at_what_there_is",
    run: overrun,
};

const PATIENCE: Duration = Duration::from_secs(15);
/// More than fit into the keeper's socket, each with an address of its own.
const FLOOD: u16 = 6000;
const FOREIGN: &str = "src 172.16.0.0/16 dst 172.17.0.0/16";

/// Pings until there is an answer: the packet that wakes the connection is lost.
fn until_answered(namespace: &Namespace) -> Result<()> {
    until("an answer from the office", PATIENCE, || {
        let reply = ping(namespace, OFFICE, 1, Duration::from_secs(1));
        Ok(reply.is_ok_and(Reply::all))
    })
}

fn wakes(lab: &mut Lab) -> Result<()> {
    let (client_ns, gateway_ns) = two_sites()?;
    client_ns.ip(&format!(
        "xfrm policy add dir out {FOREIGN} action block priority 7"
    ))?;
    let mut gateway = Site::prepare(lab, &gateway_ns, REAL, &gateway_connection())?;
    let own = Setting { node: 2, ..REAL };
    let connection = client_connection().replacen("psk =", "start = \"trap\"\npsk =", 1);
    let mut client = Site::prepare(lab, &client_ns, own, &connection)?;
    gateway.start(lab)?;
    client.start(lab)?;
    let captures = [Capture::start(&client_ns)?, Capture::start(&gateway_ns)?];
    ensure!(client.established().is_err(), "nobody has asked yet");

    until_answered(&client_ns)?;
    let sa = client.established()?;
    ensure!(sa["resumed"] == false, "{sa}");
    // Asleep, it is woken with its ticket.
    client.ikectl("suspend home")?;
    until_answered(&client_ns)?;
    let sa = client.established()?;
    ensure!(sa["resumed"] == true, "{sa}");
    // Deleted by its gateway, and lost with its processes: the next packet brings it up.
    gateway.ikectl("down rw")?;
    until("the client has heard", PATIENCE, || {
        Ok(client.established().is_err())
    })?;
    until_answered(&client_ns)?;
    // Its policies outlive its processes, and another run knows them.
    client.kill()?;
    client_ns.ip("xfrm state flush")?;
    client.start(lab)?;
    until_answered(&client_ns)?;

    let mut tally = Tally::default();
    for capture in captures {
        tally.add_sent(&capture.stop()?);
    }
    ensure!(tally.clear == 0 && tally.esp >= 8, "{tally:?}");
    client.stop()?;
    let left = client_ns.ip("xfrm policy")?;
    ensure!(
        left.contains("172.17.0.0/16") && !left.contains("10.1.0.0/24"),
        "{left}"
    );
    gateway.stop()
}

fn overrun(lab: &mut Lab) -> Result<()> {
    let (near, far) = (Namespace::new("near")?, Namespace::new("far")?);
    connect(
        (&near, "eth0", &["192.0.2.1/24"]),
        (&far, "eth0", &["192.0.2.2/24"]),
    )?;
    for network in ["10.9.0.0/16", "10.2.0.0/16"] {
        near.ip(&format!("route add {network} via 192.0.2.2"))?;
    }
    // Somebody else's, with a state of its own for each address.
    near.ip(
        "xfrm policy add dir out src 0.0.0.0/0 dst 10.9.0.0/16 priority 7 \
         tmpl proto esp reqid 99 mode transport",
    )?;
    let mut xfrm = near.within(|| Xfrm::open(lab.work(), Duration::from_hours(1), "lo", &[]))??;
    let owner = Owner("office/net".into());
    let read = |text| TrafficSelector::from_text(text).into_iter().collect();
    let trap = KernelOp::Trap {
        owner: owner.clone(),
        carriage: Carriage::default(),
        ends: ([0; 4].into(), [192, 0, 2, 2].into()),
        local_ts: read("192.0.2.1/32"),
        remote_ts: read("10.2.0.0/16"),
    };
    let applied = xfrm.apply(&trap);
    ensure!(applied.is_ok(), "{applied:?}");
    let socket = near.within(|| UdpSocket::bind("192.0.2.1:0"))??;
    let wanted = Happened::Wanted { owner };

    // Refused or not, the kernel has seen it.
    let send = |address: [u8; 4]| {
        let _refused = socket.send_to(b"wanted", SocketAddr::from((address, 9)));
    };
    send([10, 2, 0, 7]);
    let now = Duration::from_secs(100);
    ensure!(xfrm.happened(now) == [wanted.clone()], "the first packet");
    let busy = Owner("office/busy".into());
    let installed = xfrm.apply(&super::carriage::install(busy.clone()));
    ensure!(installed.is_ok(), "{installed:?}");
    // Of states that somebody takes away the kernel says nothing to us.
    near.ip("xfrm state flush")?;
    for number in 0..FLOOD {
        let [high, low] = number.to_be_bytes();
        send([10, 9, high, low]);
    }
    // As long as there is no room for its report, the kernel lets no packet wait.
    let mut heard = Vec::new();
    let mut rounds = 0;
    let later = now + Duration::from_secs(10);
    while !heard.contains(&wanted) && rounds < FLOOD {
        send([10, 2, 0, 8]);
        heard.extend(xfrm.happened(later));
        rounds += 1;
    }
    let gone = [0x1001, 0x2001].map(|spi| Happened::Expired {
        owner: busy.clone(),
        spi,
        hard: true,
    });
    let expected: Vec<_> = gone.into_iter().chain([wanted]).collect();
    ensure!(heard == expected, "{heard:?} after {rounds} rounds");
    let policies = near.ip("xfrm policy")?;
    // Three of the flow whose states are gone, two of the one that waits.
    ensure!(policies.matches("action block").count() == 5, "{policies}");
    Ok(())
}
