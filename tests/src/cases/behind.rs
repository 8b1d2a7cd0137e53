//! Machines without a clock of their own. What has been noted of the time lies days ahead of this kernel's
//! clock, which to the daemons is the same as a clock that has started days behind.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, ensure};

use super::tunnel::{client_connection, gateway_connection, two_sites};
use crate::{
    site::{Setting, Site},
    suite::{Case, Lab},
};

/// On any kernel.
pub const REBOOTS: Case = Case {
    name: "clients_resume_after_both_ends_have_started_anew_with_a_clock_that_is_behind",
    run: reboots,
};

const AHEAD: Duration = Duration::from_hours(72);
/// Where `client_connection` takes another setting.
const PLACE: &str = "dpd_delay = \"30s\"\n";

fn reboots(lab: &mut Lab) -> Result<()> {
    let (client_ns, gateway_ns) = two_sites()?;
    let setting = |node| Setting {
        gate: "auto",
        dataplane: "none",
        node,
    };
    let asleep = client_connection().replace(PLACE, &format!("{PLACE}suspend = \"disk\"\n"));
    let mut client = Site::prepare(lab, &client_ns, setting(2), &asleep)?;
    let mut gateway = Site::prepare(lab, &gateway_ns, setting(1), &gateway_connection())?;

    for site in [&mut gateway, &mut client] {
        note(site, SystemTime::now() + AHEAD)?;
        site.reboot()?;
        site.start(lab)?;
        let status = site.ikectl("status")?;
        let attention = status["attention"].to_string();
        ensure!(attention.contains("the clock shows"), "{attention}");
    }
    let up = client.ikectl("up home")?;
    ensure!(up["resumed"] == false, "{up}");
    client.ikectl("suspend home")?;
    for _ in 0..2 {
        for site in [&mut gateway, &mut client] {
            site.kill()?;
            site.reboot()?;
            site.start(lab)?;
        }
        let up = client.ikectl("up home")?;
        ensure!(up["resumed"] == true, "{up}");
        client.ikectl("suspend home")?;
    }
    let left = fs::metadata(noted(&gateway))?.modified()?;
    let ahead = left.duration_since(SystemTime::now() + AHEAD - Duration::from_mins(1));
    ensure!(ahead.is_ok(), "what was noted last is of {left:?}");

    // To those who have noted nothing the ticket is of the future.
    for site in [&mut gateway, &mut client] {
        site.kill()?;
        fs::remove_file(noted(site))?;
        site.reboot()?;
        site.start(lab)?;
        let status = site.ikectl("status")?;
        let attention = status["attention"].to_string();
        ensure!(!attention.contains("the clock shows"), "{attention}");
    }
    let up = client.ikectl("up home")?;
    ensure!(up["resumed"] == false, "{up}");
    client.stop()?;
    gateway.stop()
}

/// As if a daemon had noted this time before the machine went down.
fn note(site: &Site<'_>, time: SystemTime) -> Result<()> {
    let path = noted(site);
    fs::create_dir_all(path.parent().context("a folder")?)?;
    let mut file = OpenOptions::new().create_new(true).write(true).open(path)?;
    file.write_all(&[0x5a; 16])?;
    Ok(file.set_modified(time)?)
}

fn noted(site: &Site<'_>) -> PathBuf {
    site.folder().join("state/clock")
}
