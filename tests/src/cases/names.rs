//! A gateway that is known by name: looked up by the system's resolver at each attempt, here from a file of
//! hosts that only this client sees.

use anyhow::{Result, bail, ensure};

use super::tunnel::{client_connection, gateway_connection, two_sites};
use crate::{
    site::{Setting, Site},
    suite::{Case, Lab},
};

/// A name that leads nowhere at first and one that does, and what a changed file changes.
pub const LOOKED_UP: Case = Case {
    name: "a_gateway_is_looked_up_at_each_attempt_and_an_sa_that_is_up_stays",
    run: looked_up,
};

const NO_ESP: Setting<'static> = Setting {
    gate: "off",
    dataplane: "none",
    node: 1,
};
const GATEWAY: &str = "192.0.2.1";
/// On the same cable, and nobody's.
const NOBODY: &str = "192.0.2.99";

fn looked_up(lab: &mut Lab) -> Result<()> {
    let (client_ns, gateway_ns) = two_sites()?;
    let mut gateway = Site::prepare(lab, &gateway_ns, NO_ESP, &gateway_connection())?;
    let named = client_connection().replace(
        &format!("remote_addrs = \"{GATEWAY}\""),
        "remote_addrs = [\"old.example\", \"gw.example\"]",
    );
    let own = Setting { node: 2, ..NO_ESP };
    let mut client = Site::prepare(lab, &client_ns, own, &named)?;
    let hosts = |lines: &str| format!("127.0.0.1 localhost\n{lines}");
    client.write_hosts(&hosts(&format!(
        "{NOBODY} old.example\n2001:db8::1 gw.example\n{GATEWAY} gw.example\n"
    )))?;
    gateway.start(lab)?;
    client.start(lab)?;

    let up = client.ikectl("up home")?;
    ensure!(up["resumed"] == false, "{up}");
    let sa = client.established()?;
    ensure!(sa["remote"]["addr"] == GATEWAY, "{sa}");
    let silent = client.ikectl("why home")?;
    ensure!(
        silent[0]["reason"] == "no_answer" && silent[0]["addr"] == NOBODY,
        "{silent}"
    );

    client.write_hosts(&hosts("2001:db8::1 gw.example\n"))?;
    client.ikectl("rekey home")?;
    client.ikectl("suspend home")?;
    let Err(error) = client.ikectl("up home") else {
        bail!("up without an address");
    };
    ensure!(error.to_string().contains("unresolved"), "{error}");
    let all = client.ikectl("why home")?;
    let told = all.as_array().into_iter().flatten();
    let Some(told) = told.into_iter().find(|one| one["reason"] == "unresolved") else {
        bail!("{all}")
    };
    let verdict = told["verdict"].as_str().unwrap_or_default();
    for part in ["no way to old.example gw.example is known", "2001:db8::1: "] {
        ensure!(verdict.contains(part), "{told}");
    }

    client.write_hosts(&hosts(&format!("{GATEWAY} gw.example\n")))?;
    let up = client.ikectl("up home")?;
    ensure!(up["resumed"] == true, "{up}");
    Ok(())
}
