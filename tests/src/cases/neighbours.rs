//! Two hosts on one link, and a tunnel for everything between them over IPv6.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::tunnel::REAL;
use crate::{
    capture::{Capture, Tally},
    netns::{Namespace, connect},
    ping::ping,
    site::{Setting, Site},
    suite::{Case, Lab},
};

/// On a kernel with ESP.
pub const SPARED: Case = Case {
    name: "on_one_link_hosts_find_each_other_whatever_their_tunnel_is_for",
    run: spared,
};

const CLIENT: &str = "2001:db8::10";
const GATEWAY: &str = "2001:db8::1";
const PATIENCE: Duration = Duration::from_secs(5);
const PASSES: &str = "proto ipv6-icmp";

fn connection(name: &str, (own, id): (&str, &str), (other, peer): (&str, &str)) -> String {
    format!(
        "[connections.{name}]\nlocal_addrs = \"{own}\"\nremote_addrs = \"{other}\"\n\
         dpd_delay = \"30s\"\npsk = \"correct horse battery\"\n\
         local = {{ auth = \"psk\", id = \"{id}\" }}\n\
         remote = {{ auth = \"psk\", id = \"{peer}\" }}\n\
         [connections.{name}.children.net]\n\
         local_ts = [\"{own}/128\"]\nremote_ts = [\"{other}/128\"]\n"
    )
}

fn spared(lab: &mut Lab) -> Result<()> {
    let (client_ns, gateway_ns) = (Namespace::new("client")?, Namespace::new("gateway")?);
    connect((&client_ns, "eth0", &[]), (&gateway_ns, "eth0", &[]))?;
    for (namespace, address) in [(&client_ns, CLIENT), (&gateway_ns, GATEWAY)] {
        namespace.ip(&format!("address add {address}/64 dev eth0 nodad"))?;
    }
    let (client, gateway) = ((CLIENT, "client.example"), (GATEWAY, "gw.example"));
    let theirs = connection("rw", gateway, client);
    let mut gateway_site = Site::prepare(lab, &gateway_ns, REAL, &theirs)?;
    let own = Setting { node: 2, ..REAL };
    let ours = connection("home", client, gateway);
    let mut site = Site::prepare(lab, &client_ns, own, &ours)?;
    gateway_site.start(lab)?;
    site.start(lab)?;
    let captures = [Capture::start(&client_ns)?, Capture::start(&gateway_ns)?];
    let forget = || -> Result<()> {
        for namespace in [&client_ns, &gateway_ns] {
            namespace.ip("-6 neigh flush dev eth0")?;
        }
        Ok(())
    };

    site.ikectl("up home")?;
    for _ in 0..2 {
        forget()?;
        ensure!(
            ping(&client_ns, GATEWAY, 3, PATIENCE)?.all(),
            "in the tunnel"
        );
    }
    // Everything between them is blocked now, and IKE has to find the way.
    site.ikectl("suspend home")?;
    forget()?;
    let up = site.ikectl("up home")?;
    ensure!(up["resumed"] == true, "{up}");
    ensure!(ping(&client_ns, GATEWAY, 3, PATIENCE)?.all(), "resumed");
    // What lets it pass outlives a crash once, and goes with the last policy.
    let passes = || Ok::<_, anyhow::Error>(client_ns.ip("xfrm policy")?.matches(PASSES).count());
    let before = passes()?;
    ensure!(before > 0, "nothing lets neighbour discovery pass");
    site.kill()?;
    site.start(lab)?;
    forget()?;
    site.ikectl("up home")?;
    ensure!(passes()? == before, "{}", client_ns.ip("xfrm policy")?);
    site.ikectl("down home")?;
    ensure!(passes()? == 0, "{}", client_ns.ip("xfrm policy")?);

    let mut tally = Tally::default();
    for capture in captures {
        tally.add_sent(&capture.stop()?);
    }
    ensure!(tally.esp == 18, "{tally:?}");
    Ok(())
}
